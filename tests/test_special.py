"""Bessel functions, special models, grids and skies against other people's code and against integrals."""

import functools

import galsim
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, special
from scipy.interpolate import RegularGridInterpolator
from scipy.spatial.transform import Rotation

import jaxphot as jp
from jaxphot.models import grids
from jaxphot.numerics import bessel_j1_over_x, bessel_xk1

# --- Bessel functions -----------------------------------------------------------------------------------------------

BESSEL_X = np.concatenate([np.geomspace(1e-8, 600, 3001), [2 - 1e-12, 2, 2 + 1e-12, 8 - 1e-12, 8, 8 + 1e-12]])


def value_and_slope(function):
    return jax.jit(jax.vmap(jax.value_and_grad(function)))


def test_xk1_is_scipys():
    value, slope = value_and_slope(bessel_xk1)(BESSEL_X)
    assert_allclose(value, BESSEL_X * special.k1(BESSEL_X), rtol=1e-14)
    assert_allclose(slope, -BESSEL_X * special.k0(BESSEL_X), rtol=1e-12)
    assert_allclose(bessel_xk1(-BESSEL_X[::100]), value[::100], rtol=1e-14)


def test_j1_over_x_is_scipys():
    value, slope = value_and_slope(bessel_j1_over_x)(BESSEL_X)
    envelope = np.maximum(BESSEL_X, 1) ** -1.5
    assert np.max(np.abs(value - special.j1(BESSEL_X) / BESSEL_X) / envelope) < 3e-15
    assert np.max(np.abs(slope + special.jv(2, BESSEL_X) / BESSEL_X) / envelope) < 3e-14


def test_bessel_limits():
    for function, at_zero in ((bessel_xk1, 1.0), (bessel_j1_over_x, 0.5)):
        for dtype in (np.float32, np.float64):
            value, slope = value_and_slope(function)(np.array([0, 1e-30, 1e6, 1e18], dtype))
            assert value.dtype == slope.dtype == dtype
            assert_allclose(value[:2], at_zero, rtol=4 * np.finfo(dtype).eps)
            assert_allclose(value[2:], 0, atol=1e-9)
            assert slope[0] == 0
            assert np.all(np.isfinite(slope))


def test_bessel_float32():
    x = np.geomspace(1e-6, 60, 500).astype(np.float32)
    assert_allclose(bessel_xk1(x), x * special.k1(x.astype(float)), rtol=1e-5)
    assert_allclose(bessel_j1_over_x(x), special.j1(x.astype(float)) / x, atol=3e-7)


# --- special models -------------------------------------------------------------------------------------------------


def test_edge_on_is_an_exponential_disk_seen_from_its_side():
    """The integral of exp(−√(R² + l²)/rs) along the line of sight is 2 rs · R/rs K1(R/rs)."""
    params = {"center": jnp.asarray([1.0, 2.0]), "PA": 0.4, "rs": 1.7, "hs": 0.3, "I0": 2.5}
    along, across = np.array([np.sin(0.4), np.cos(0.4)]), np.array([np.cos(0.4), -np.sin(0.4)])
    for R, z in ((0.0, 0.0), (1e-3, 0.1), (0.8, -0.2), (5.0, 0.0), (20.0, 1.0)):
        line, _ = integrate.quad(lambda s, R=R: np.exp(-np.hypot(R, s) / 1.7), 0, np.inf, epsabs=0, epsrel=1e-11)
        x, y = np.array([1.0, 2.0]) + R * along + z * across
        wanted = 2.5 * line / 1.7 / np.cosh(z / 0.3) ** 2
        assert_allclose(jp.models.edge_on(params, x, y), wanted, rtol=1e-8)


def test_isothermal_along_its_axes():
    params = {"center": jnp.zeros(2), "PA": 0.0, "rs": 1.7, "hs": 0.3, "I0": 2.5}
    assert_allclose(jp.models.isothermal(params, 0.0, 2.0), 2.5 * np.exp(-2 / 1.7), rtol=1e-13)
    assert_allclose(jp.models.isothermal(params, 0.4, 0.0), 2.5 / np.cosh(0.4 / 0.3) ** 2, rtol=1e-13)


def test_mge_is_a_sum_of_gaussians():
    x, y = np.meshgrid(np.linspace(-4, 4, 7), np.linspace(-3, 5, 6))
    qs, sigmas, fluxes, angles = [0.3, 1.0, 0.7], [0.5, 1.0, 2.0], [1.0, 5.0, -2.0], [0.2, 1.0, -0.6]

    def summed(angles):
        return sum(
            jp.models.gaussian({"center": jnp.asarray([0.2, 0.5]), "q": q, "PA": PA, "sigma": s, "flux": f}, x, y)
            for q, s, f, PA in zip(qs, sigmas, fluxes, angles, strict=True)
        )

    params = {"center": [0.2, 0.5], "qs": qs, "sigmas": sigmas, "fluxes": fluxes}
    params = {key: jnp.asarray(value) for key, value in params.items()}
    assert_allclose(jp.models.mge(3)({**params, "PA": jnp.asarray(0.2)}, x, y), summed([0.2] * 3), rtol=1e-12)
    own = jp.models.mge(3, own_PA=True)
    assert_allclose(own({**params, "PAs": jnp.asarray(angles)}, x, y), summed(angles), rtol=1e-12)


def test_gaussian_ellipsoid_is_a_projection():
    """Against the integral along the line of sight of the Gaussian turned by scipy's Euler angles."""
    sigma, angles = np.array([2.0, 1.1, 0.6]), (0.4, 1.1, -0.7)
    turn = Rotation.from_euler("ZXZ", angles).as_matrix()  # axes: North, East, to the observer
    inverse = np.linalg.inv(turn @ np.diag(sigma**2) @ turn.T)
    norm = 7.0 / ((2 * np.pi) ** 1.5 * np.prod(sigma))
    names = ("sigma_a", "sigma_b", "sigma_c", "alpha", "beta", "gamma")
    params = dict(zip(names, (*sigma, *angles), strict=True)) | {"center": jnp.asarray([0.5, -1.0]), "flux": 7.0}
    line = np.linspace(-20, 20, 2001)
    for x, y in ((0.5, -1.0), (1.7, 0.2), (-1.0, -2.5)):
        at = np.stack([np.full_like(line, y + 1.0), np.full_like(line, x - 0.5), line])
        density = norm * np.exp(-0.5 * np.einsum("ik,ij,jk->k", at, inverse, at))
        assert_allclose(jp.models.gaussian_ellipsoid(params, x, y), np.trapezoid(density, line), rtol=1e-10)


def test_flat_ellipsoid_in_single_precision():
    """A needle in the plane of the sky: its covariance's determinant would cancel if it were taken naively."""
    angles = {"alpha": 0.4, "beta": 0.0, "gamma": 0.5}
    sizes = {"sigma_a": 30.0, "sigma_b": 0.03, "sigma_c": 1.0}
    params = {"center": np.zeros(2), "flux": 1.0, **sizes, **angles}
    ends = [
        jp.models.gaussian_ellipsoid(
            {key: jnp.asarray(value, dtype) for key, value in params.items()},
            jnp.asarray(20 * np.sin(0.9), dtype),
            jnp.asarray(20 * np.cos(0.9), dtype),
        )
        for dtype in (np.float32, np.float64)
    ]
    assert_allclose(*ends, rtol=1e-4)


# --- grids ----------------------------------------------------------------------------------------------------------


def grid_case(shape, seed=3):
    values = np.random.default_rng(seed).normal(size=shape)
    return {"center": jnp.zeros(2), "PA": jnp.zeros(()), "scale": jnp.asarray(0.5), "values": jnp.asarray(values)}


def nodes_of(shape, scale):
    v, u = np.mgrid[: shape[0], : shape[1]].astype(float)
    return (u - (shape[1] - 1) / 2) * scale, (v - (shape[0] - 1) / 2) * scale


@pytest.mark.parametrize("kernel", [grids.linear, grids.cubic])
def test_pixelated_goes_through_its_nodes_and_ends(kernel):
    shape = (4, 5)
    params, model = grid_case(shape), jp.models.pixelated(shape, kernel)
    x, y = nodes_of(shape, 0.5)
    assert_allclose(model(params, x, y), params["values"], rtol=1e-12)  # i to the East, j to the North
    assert_allclose(model({**params, "PA": jnp.asarray(np.pi / 2)}, y, -x), params["values"], rtol=1e-10)
    outside = np.array([1.0 + 0.5 * kernel.reach + 1e-9, 1e3, 1e30, -1e30])
    assert np.all(np.asarray(model(params, outside, np.zeros(4))) == 0)
    edge = model(params, np.array([1.0, 1.2]), np.array([0.25, 0.25]))  # the last column, and on the way to zero
    assert_allclose(edge[0], params["values"][2, 4], rtol=1e-12)
    assert 0 < abs(float(edge[1])) < abs(float(edge[0]))


def test_bilinear_is_scipys():
    shape = (5, 4)
    params = grid_case(shape)
    x, y = nodes_of(shape, 0.5)
    scipys = RegularGridInterpolator((y[:, 0], x[0]), np.asarray(params["values"]))
    rng = np.random.default_rng(0)
    at = rng.uniform(-0.74, 0.74, 50), rng.uniform(-0.99, 0.99, 50)
    assert_allclose(jp.models.pixelated(shape)(params, *at), scipys(np.stack(at[::-1], -1)), rtol=1e-12)


def test_bicubic_is_exact_for_a_parabola_and_smooth():
    shape = (9, 9)
    x, y = nodes_of(shape, 0.5)
    model = jp.models.pixelated(shape, grids.cubic)
    params = {**grid_case(shape), "values": jnp.asarray(1 + 0.3 * x - y + 0.5 * x * y + 0.7 * x**2)}
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1.4, 1.4, (2, 40))
    assert_allclose(model(params, x, y), 1 + 0.3 * x - y + 0.5 * x * y + 0.7 * x**2, rtol=1e-11, atol=1e-12)
    slope = jax.jit(jax.grad(functools.partial(model, grid_case(shape))))
    for node in (0.5, 2.0, 2.5):  # also at the edge and beyond
        assert_allclose(slope(node - 1e-9, 0.2), slope(node + 1e-9, 0.2), atol=1e-6)


def test_basis_is_a_weighted_pixelated():
    shape = (3, 4)
    images = np.random.default_rng(2).normal(size=(2, *shape))
    place = {key: value for key, value in grid_case(shape).items() if key != "values"}
    x, y = np.linspace(-1.5, 1.5, 20), np.linspace(-1.0, 0.8, 20)
    weights = jnp.asarray([2.0, -0.5])
    got = jp.models.basis(2, shape)({**place, "weights": weights, "images": jnp.asarray(images)}, x, y)
    values = jnp.asarray(2 * images[0] - 0.5 * images[1])
    assert_allclose(got, jp.models.pixelated(shape)({**place, "values": values}, x, y), rtol=1e-12)


def test_zernikes_are_in_galsims_order():
    rng = np.random.default_rng(1)
    radius, angle = np.sqrt(rng.uniform(0, 1, 40)), rng.uniform(0, 2 * np.pi, 40)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    order = 12
    count = (order + 1) * (order + 2) // 2
    wanted = galsim.zernike.zernikeBasis(count, x, y)[1:]
    assert_allclose(grids.zernike_polynomials(order, x, y), wanted, rtol=1e-9, atol=1e-10)
    assert [grids.noll(j) for j in range(1, count + 1)] == [
        (n, m) for n, m in (galsim.zernike.noll_to_zern(j) for j in range(1, count + 1))
    ]


def test_zernikes_stay_orthonormal_at_high_order():
    order = 20
    nodes, weights = np.polynomial.legendre.leggauss(30)
    radius = np.sqrt((nodes + 1) / 2)[:, None]  # even in area
    angle = 2 * np.pi * np.arange(60)[None, :] / 60
    values = np.asarray(jnp.stack(grids.zernike_polynomials(
        order, radius * np.cos(angle), radius * np.sin(angle)
    )))  # fmt: skip
    products = np.einsum("aij,bij,i->ab", values, values, weights / 2) / 60
    assert_allclose(products, np.eye(len(values)), atol=1e-11)


def test_zernike_ends_at_its_border():
    weights = np.zeros(6)
    weights[0], weights[2] = 2.0, 0.5
    model = jp.models.zernike(2)
    params = {"center": jnp.asarray([1.0, 1.0]), "Rd": 3.0, "weights": jnp.asarray(weights)}
    value = model(params, np.array([1.0, 1.0, 1.0, 4.1, 1e9]), np.array([1.0, 3.9999, 4.0001, 1.0, 0.0]))
    assert_allclose(value, [2.0, 2 + 0.5 * 2 * 2.9999 / 3, 0, 0, 0], rtol=1e-12)
    assert_allclose(jp.total_flux(model, params), np.pi * 3.0**2 * 2.0, rtol=1e-13)


# --- skies ----------------------------------------------------------------------------------------------------------


def test_poly_sky_is_a_taylor_series():
    sky = jp.models.poly_sky(3, origin=(2.0, -1.0), scale=4.0)
    coefficients = jnp.asarray(np.random.default_rng(0).normal(size=10))
    params = {"coefficients": coefficients}
    derivatives = [
        ("", 0), ("x", 1), ("y", 2), ("xx", 3), ("xy", 4), ("yy", 5), ("xxx", 6), ("xxy", 7), ("xyy", 8), ("yyy", 9),
    ]  # fmt: skip
    for names, number in derivatives:
        function = functools.partial(sky, params)
        for name in names:
            function = jax.grad(function, argnums="xy".index(name))
        assert_allclose(function(2.0, -1.0) * 4.0 ** len(names), coefficients[number], rtol=1e-12)
    assert jp.models.poly_sky(0)({"coefficients": jnp.asarray([3.0])}, np.ones((2, 3)), np.ones((2, 3))).shape == (2, 3)
    plane = jp.models.plane_sky({"I0": 1.0, "delta": jnp.asarray([0.2, 0.3])}, 5.0, 7.0)
    assert_allclose(jp.models.poly_sky(1)({"coefficients": jnp.asarray([1.0, 0.2, 0.3])}, 5.0, 7.0), plane, rtol=1e-13)


def test_bilinear_sky_is_constant_beyond_its_nodes():
    sky = jp.models.bilinear_sky((3, 4), (10.0, 40.0, -5.0, 5.0))
    nodes = np.random.default_rng(0).normal(size=(3, 4))
    scipys = RegularGridInterpolator((np.linspace(-5, 5, 3), np.linspace(10, 40, 4)), nodes)
    x, y = np.random.default_rng(1).uniform([[-20], [-20]], [[80], [20]], (2, 60))
    wanted = scipys(np.stack([np.clip(y, -5, 5), np.clip(x, 10, 40)], -1))
    assert_allclose(sky({"nodes": jnp.asarray(nodes)}, x, y), wanted, rtol=1e-12)
    mirrored = jp.models.bilinear_sky((3, 4), (40.0, 10.0, -5.0, 5.0))
    assert_allclose(mirrored({"nodes": jnp.asarray(nodes[:, ::-1])}, x, y), wanted, rtol=1e-12)


def test_skies_are_fitted_exactly():
    """They are linear: one solve, whatever the start."""
    rng = np.random.default_rng(5)
    for sky, shape in (
        (jp.models.poly_sky(2, origin=(8.0, 7.0), scale=8.0), (6,)),
        (jp.models.bilinear_sky((2, 3), (1.0, 14.0, 2.0, 12.0)), (2, 3)),
    ):
        (name,) = jp.parameters(sky)
        truth = {"sky": {name: jnp.asarray(rng.normal(size=shape))}}
        model = jp.scene(sky=sky)
        image = jp.make_image(np.zeros((15, 17)), std=0.1)
        image = jp.make_image(np.asarray(jp.render(model, truth, image)), std=0.1)
        fit = jp.fit(model, {"sky": {name: jnp.zeros(shape)}}, image)
        assert jp.status_message(fit.status) == "converged"
        assert_allclose(fit.params["sky"][name], truth["sky"][name], atol=1e-8)


# --- starts and fits ------------------------------------------------------------------------------------------------

CENTER = [7.4, 8.3]
SAMPLING = jp.sampling.quad(2)
FITS = {
    "edge_on": (jp.models.edge_on, {"PA": 0.7, "rs": 2.0, "hs": 1.1, "I0": 30.0}, {}),
    "isothermal": (jp.models.isothermal, {"PA": 0.7, "rs": 2.0, "hs": 1.1, "I0": 30.0}, {}),
    "mge": (jp.models.mge(2), {"PA": 0.7, "qs": [0.5, 0.8], "sigmas": [1.2, 3.2], "fluxes": [400.0, 600.0]}, {}),
    "gaussian_ellipsoid": (
        jp.models.gaussian_ellipsoid,
        {"sigma_a": 2.6, "sigma_b": 1.6, "sigma_c": 1.3, "alpha": 0.4, "beta": 0.0, "gamma": 0.0, "flux": 900.0},
        {"sigma_c": 1.3, "beta": 0.0, "gamma": 0.0},
    ),
    "pixelated": (
        jp.models.pixelated((3, 4), grids.cubic),
        {"PA": 0.0, "scale": 2.5, "values": [[5.0, 9.0, 7.0, 3.0], [8.0, 30.0, 22.0, 9.0], [6.0, 15.0, 12.0, 4.0]]},
        {"center": CENTER, "PA": 0.0, "scale": 2.5},
    ),
    "basis": (
        jp.models.basis(2, (3, 3), grids.cubic),
        {"PA": 0.3, "scale": 2.5, "weights": [3.0, 1.0]},
        {
            "PA": 0.3,
            "scale": 2.5,
            "images": [[[1.0, 2, 1], [2, 6, 2], [1, 2, 1]], [[1.0, 1, 0], [1, 0, -1], [0, -1, -1]]],
        },
    ),
    "zernike": (
        jp.models.zernike(2),
        {"Rd": 5.0, "weights": [20.0, 3.0, -2.0, -5.0, 1.0, 2.0]},
        {"center": CENTER, "Rd": 5.0},
    ),
    "poly_sky": (jp.models.poly_sky(2, origin=(8.0, 8.0), scale=8.0), {"coefficients": [50.0, 3, -2, 1, 4, -3]}, {}),
    "bilinear_sky": (jp.models.bilinear_sky((2, 2), (2.0, 14.0, 2.0, 14.0)), {"nodes": [[50.0, 40], [60, 55]]}, {}),
}


@pytest.mark.parametrize("name", FITS)
def test_fit_from_initialize(name):
    """On simulated data with noise, every parameter comes out within 4 of its errors."""
    component, truth, held = FITS[name]
    center = {"center": CENTER} if "center" in jp.parameters(component) else {}
    truth = {key: jnp.asarray(value, float) for key, value in ({**center, **held} | truth).items()}
    model, std = jp.scene(source=component), 0.4
    blank = jp.make_image(np.zeros((17, 16)), std=std)
    drawn = np.asarray(jp.render(model, {"source": truth}, blank, SAMPLING))
    image = jp.make_image(drawn + std * np.random.default_rng(2).normal(size=drawn.shape), std=std)
    held = {"source": {key: jnp.asarray(value, float) for key, value in held.items()}}
    fit = jp.fit(model, jp.initialize(model, image, held), image, fixed=held, sampling=SAMPLING)
    assert jp.status_message(fit.status) == "converged"
    assert float(fit.chi2) / int(fit.dof) < 1.3
    for key, value in fit.params["source"].items():
        if key not in held["source"]:
            pull = (np.asarray(value) - np.asarray(truth[key])) / np.asarray(fit.stderr["source"][key])
            assert np.all(np.abs(pull) < 4), (key, pull)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: jp.models.mge(0), "n"),
        (lambda: jp.models.pixelated((3, 0)), "shape"),
        (lambda: jp.models.basis(1.5, (3, 3)), "n"),
        (lambda: jp.models.zernike(-1), "order"),
        (lambda: jp.models.poly_sky(True), "order"),
        (lambda: jp.models.poly_sky(2, scale=0.0), "scale"),
        (lambda: jp.models.bilinear_sky((0, 3), (0, 1, 0, 1)), "shape"),
        (lambda: jp.models.bilinear_sky((2, 3), (1, 1, 0, 1)), "extent"),
    ],
)
def test_factories_refuse(build, named):
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        build()


def test_factories_compare_by_value():
    assert jp.models.mge(3) == jp.models.mge(3) != jp.models.mge(3, own_PA=True)
    assert hash(jp.models.poly_sky(2)) == hash(jp.models.poly_sky(2))
    assert jp.models.pixelated((3, 3)) != jp.models.pixelated((3, 3), grids.cubic)
