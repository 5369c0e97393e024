"""Every model against the same questions, then what only some of them do."""

import functools
import math
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot.numerics import b_n

ELLIPSE = {"center": [0.3, -0.4], "q": 0.6, "PA": 0.7}


def sersic_flux(n, Re, Ie, q=1.0, **_):
    b = float(b_n(n))
    return 2 * np.pi * q * n * Re**2 * Ie * np.exp(b) * b ** (-2 * n) * math.gamma(2 * n)


def moffat_flux(n, Rd, I0, q=1.0, **_):
    return np.pi * q * Rd**2 * I0 / (n - 1)


# name: model, parameters, total flux (None: infinite)
MODELS = {
    "sersic": (jp.models.sersic, {"n": 2.3, "Re": 1.7, "Ie": 3.0}, sersic_flux),
    "sersic_low_n": (jp.models.sersic, {"n": 0.4, "Re": 1.7, "Ie": 3.0}, sersic_flux),
    "exponential": (jp.models.exponential, {"Re": 1.7, "Ie": -3.0}, lambda **p: sersic_flux(n=1.0, **p)),
    "gaussian": (jp.models.gaussian, {"sigma": 1.1, "flux": 5.0}, lambda flux, **_: flux),
    "moffat": (jp.models.moffat, {"n": 2.6, "Rd": 1.3, "I0": 2.0}, moffat_flux),
    "flat_sky": (jp.models.flat_sky, {"I0": 2.5}, None),
    "plane_sky": (jp.models.plane_sky, {"I0": 2.5, "delta": [0.2, -0.3]}, None),
}
EXTENDED = [name for name, (_, _, flux) in MODELS.items() if flux is not None]


def case(name, dtype=np.float64, **changes):
    model, own, _ = MODELS[name]
    shape = ELLIPSE if name in EXTENDED else {}
    values = {**shape, **own, **changes}
    return model, {key: jnp.asarray(value, dtype) for key, value in values.items()}


@functools.partial(jax.jit, static_argnums=0)
def everything(model, params, x, y):
    """Values, derivatives in parameters and positions, and the same values through vmap; compiled once a model."""
    value = model(params, x, y)
    in_params, in_x, in_y = jax.jacfwd(model, argnums=(0, 1, 2))(params, x, y)
    diagonals = [jnp.diagonal(matrix) for matrix in (in_x, in_y)]
    mapped = jax.vmap(model, in_axes=(None, 0, 0))(params, x, y)
    return value, in_params, diagonals, mapped


# a point near the centre, one on the major axis, one far out, and some between
X = np.array([0.45, 0.3 + 2 * np.sin(0.7), -6.0, 1.2, -0.5, 0.9, 2.4])
Y = np.array([-0.25, -0.4 + 2 * np.cos(0.7), 5.0, -1.9, 0.6, -0.4, 1.1])


@pytest.mark.parametrize("name", MODELS)
def test_jit_eager_vmap_and_loop_agree(name):
    model, params = case(name)
    value, _, _, mapped = everything(model, params, X, Y)
    assert value.shape == X.shape
    assert value.dtype == np.float64
    assert_allclose(value, model(params, jnp.asarray(X), jnp.asarray(Y)), rtol=1e-13)
    assert_allclose(value, [model(params, x, y) for x, y in zip(X, Y, strict=True)], rtol=1e-13)
    assert_allclose(value, mapped, rtol=1e-13)


def finite_difference(function, at, step):
    """Fourth-order central difference."""
    near = function(at + step) - function(at - step)
    far = function(at + 2 * step) - function(at - 2 * step)
    return (8 * near - far) / (12 * step)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_finite_differences(name):
    model, params = case(name)
    _, in_params, in_plane, _ = everything(model, params, X, Y)
    for key, value in params.items():
        for index in np.ndindex(value.shape):

            def along(t, key=key, index=index):
                return np.asarray(everything(model, {**params, key: params[key].at[index].set(t)}, X, Y)[0])

            reference = finite_difference(along, float(value[index]), 1e-3 * max(1, abs(float(value[index]))))
            assert np.max(np.abs(reference)) > 1e-4, key
            assert_allclose(
                in_params[key][(..., *index)], reference, rtol=1e-6, atol=1e-8 * np.max(np.abs(reference)), err_msg=key
            )
    if name != "flat_sky":
        shifts = (lambda t: (X + t, Y)), (lambda t: (X, Y + t))
        for gradient, shift in zip(in_plane, shifts, strict=True):
            reference = finite_difference(lambda t, s=shift: np.asarray(everything(model, params, *s(t))[0]), 0.0, 5e-4)
            assert np.max(np.abs(reference)) > 1e-4
            assert_allclose(gradient, reference, rtol=1e-6, atol=1e-8 * np.max(np.abs(reference)))


@pytest.mark.parametrize("q", [1.0, 0.35])
@pytest.mark.parametrize("name", EXTENDED)
def test_total_flux(name, q):
    """Integral in polar coordinates: trapezoids in angle and in log radius converge exponentially."""
    model, params = case(name, q=q)
    flux = MODELS[name][2](**{key: float(value) for key, value in params.items() if key not in ("center", "PA")})
    log_r, angle = np.linspace(np.log(1e-8), np.log(1e7), 1500), 2 * np.pi * np.arange(96) / 96
    r, angle = np.exp(log_r)[:, None], angle[None, :]
    x, y = 0.3 + r * np.cos(angle), -0.4 + r * np.sin(angle)
    brightness = np.asarray(everything_value(model, params, x, y))
    integral = np.sum(brightness * r**2) * (log_r[1] - log_r[0]) * (2 * np.pi / 96)
    assert abs(flux) > 1
    assert_allclose(integral, flux, rtol=1e-8)


@functools.partial(jax.jit, static_argnums=0)
def everything_value(model, params, x, y):
    return model(params, x, y)


EDGES = [
    {"q": 1.0},
    {"q": 0.01},
    {"PA": 0.0},
    {"PA": np.pi / 2},
    {"PA": np.pi},
    {"PA": -100.0},
    {"size": 1e-4},
    {"size": 1e5},
    {"n": "lowest"},
    {"n": "highest"},
    {"n": "highest", "size": 1e-3, "q": 0.01},
    {"n": "lowest", "size": 1e-3, "q": 0.01},
    {"amplitude": 0.0},
    {"amplitude": -2.0},
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_finite_at_every_edge(name, dtype):
    model, params = case(name, dtype)
    declared = jp.parameters(model)
    cx, cy = (float(v) for v in params.get("center", np.zeros(2)))
    x = np.array([cx, cx, cx + 1e-12, 1e3, -30.0, cx + 1e-3, 0.0], dtype)  # the first is r = 0
    y = np.array([cy, cy + 1e-6, cy, 1e3, 0.0, cy, 40.0], dtype)
    seen = 0
    for edge in [{}, *EDGES]:
        changes = {}
        for key, value in edge.items():
            names = {"size": ("Re", "Rd", "sigma"), "amplitude": ("Ie", "I0", "flux")}.get(key, (key,))
            present = next((n for n in names if n in params), None)
            if present is None:
                break
            bounds = declared[present].bounds
            value = {"lowest": bounds[0], "highest": bounds[1]}.get(value, value)
            changes[present] = jnp.asarray(value, dtype)
        else:
            value, in_params, in_plane, _ = everything(model, {**params, **changes}, x, y)
            for leaf in jax.tree.leaves((value, in_params, in_plane)):
                assert leaf.dtype == dtype
                assert np.all(np.isfinite(leaf)), (edge, in_params)
            seen += 1
    assert seen >= (len(EDGES) - 3 if name in EXTENDED else 3)


@pytest.mark.parametrize("name", EXTENDED)
def test_float32_values(name):
    model, params = case(name)
    single = {key: value.astype(np.float32) for key, value in params.items()}
    got = everything(model, single, X.astype(np.float32), Y.astype(np.float32))[0]
    assert_allclose(got, everything(model, params, X, Y)[0], rtol=3e-5, atol=np.finfo(np.float32).tiny)


def test_shapes_broadcast():
    model, params = case("sersic")
    assert model(params, X[None, :], Y[:, None]).shape == (7, 7)
    assert model(params, 0.3, -0.4).shape == ()
    assert jp.models.flat_sky({"I0": 1.0}, X[None, :], Y[:, None]).shape == (7, 7)


# --- profiles and metrics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0.1, 0.36, 0.5, 1.0, 2.7, 4.0, 12.0])
def test_sersic_holds_half_its_light_in_Re(n):
    """By quadrature in log r, where the integrand is smooth; beyond the last node there is nothing left."""
    profile = functools.partial(jp.profiles.sersic, n=n, Re=2.0, Ie=3.0)
    assert_allclose(profile(2.0), 3.0, rtol=1e-12)
    log_r = np.linspace(-60, np.log(2.0), 20001)
    inside = np.trapezoid(np.asarray(profile(np.exp(log_r))) * np.exp(2 * log_r), log_r)
    log_r = np.linspace(np.log(2.0), 35, 40001)
    outside = np.trapezoid(np.asarray(profile(np.exp(log_r))) * np.exp(2 * log_r), log_r)
    assert_allclose(inside, outside, rtol=2e-5)
    assert_allclose(2 * np.pi * (inside + outside), sersic_flux(n, 2.0, 3.0), rtol=2e-5)


def test_profiles_that_are_special_cases():
    r = np.linspace(0, 12, 50)
    assert_allclose(jp.profiles.exponential(r, Re=2.0, Ie=3.0), jp.profiles.sersic(r, n=1.0, Re=2.0, Ie=3.0), rtol=1e-8)
    sigma = 2.0 / np.sqrt(2 * np.log(2))  # half the light of a Gaussian is within σ √(2 ln 2)
    flux = sersic_flux(0.5, 2.0, 3.0)
    assert_allclose(
        jp.profiles.gaussian(r, sigma=sigma, flux=flux), jp.profiles.sersic(r, n=0.5, Re=2.0, Ie=3.0), rtol=1e-7
    )
    beta, Rd = 3.1, 1.4
    half = Rd * np.sqrt(2 ** (1 / beta) - 1)
    assert_allclose(jp.profiles.moffat(half, n=beta, Rd=Rd, I0=4.0), 2.0, rtol=1e-13)


def test_ellipse_points_north_through_east():
    """PA = 0 is North (+y); growing PA turns towards East (+x); R is measured along the major axis."""
    center = jnp.asarray([5.0, -2.0])
    for PA in (0.0, 0.3, np.pi / 2, 2.5):
        major, minor = np.array([np.sin(PA), np.cos(PA)]), np.array([np.cos(PA), -np.sin(PA)])
        for direction, radius in ((major, 3.0), (minor, 3.0 / 0.4)):
            x, y = np.asarray(center) + 3.0 * direction
            assert_allclose(jp.metrics.ellipse(x, y, center=center, q=0.4, PA=PA), radius, rtol=1e-14)
            assert_allclose(jp.metrics.ellipse(x, y, center=center, q=0.4, PA=PA + np.pi), radius, rtol=1e-13)


# --- a user's own ---------------------------------------------------------------------------------------------------


def king(r, *, Rc, I0):
    """A profile as a user would write it, without annotations."""
    return I0 / (1 + (r / Rc) ** 2)


def test_own_profile():
    model = jp.radial(king)
    assert list(jp.parameters(model)) == ["center", "q", "PA", "Rc", "I0"]
    assert jp.parameters(model)["Rc"] == jp.Parameter()
    params = {"center": jnp.asarray([1.0, 2.0]), "q": 0.5, "PA": 0.0, "Rc": 3.0, "I0": 8.0}
    assert_allclose(model(params, 1.0, 5.0), 4.0)
    assert_allclose(model(params, 2.5, 2.0), 4.0)


def test_own_profile_with_annotations():
    Years = Annotated[jax.Array, jp.Parameter("yr", (0.0, 5.0), description="age")]

    def aging(r, *, age: Years, flux):
        return flux * jnp.exp(-r / age)

    assert jp.parameters(jp.radial(aging))["age"] == jp.Parameter("yr", (0.0, 5.0), description="age")


def test_own_metric():
    def box(x, y, *, center, side):
        return jnp.maximum(jnp.abs(x - center[0]), jnp.abs(y - center[1])) / side

    model = jp.radial(king, box)
    assert list(jp.parameters(model)) == ["center", "side", "Rc", "I0"]
    params = {"center": jnp.zeros(2), "side": 2.0, "Rc": 1.0, "I0": 8.0}
    assert_allclose(model(params, jnp.asarray([2.0, 0.5]), jnp.asarray([1.0, -2.0])), 4.0)


def test_own_plain_function_is_a_model():
    def blob(params, x, y):
        return params["a"] * jnp.exp(-(x**2) - y**2 / params["inner"]["b"])

    model = jp.scene(blob=blob, sky=jp.models.flat_sky)
    assert jp.parameters(blob) == {}
    params = {"blob": {"a": 2.0, "inner": {"b": 3.0}}, "sky": {"I0": 1.0}}
    assert_allclose(model(params, 0.0, 0.0), 3.0)
    image = jp.make_image(np.zeros((4, 5)), std=1.0)
    assert_allclose(jp.render(model, params, image, jp.sampling.midpoint())[0, 0], 3.0)
    assert_allclose(jp.render(blob, params["blob"], image, jp.sampling.midpoint())[0, 0], 2.0)


def test_background_and_point_and_extended():
    glow = jp.background(lambda x, y, *, level: level + 0 * x)
    stray = jp.background(lambda params, x, y: params["level"] + 0 * x)
    pair = jp.point(lambda params: (params["where"], 2 * params["light"]))
    disk = jp.extended(lambda x, y, *, I0: I0 * jnp.exp(-jnp.abs(x + y)))
    assert (glow.kind, stray.kind, pair.kind, disk.kind) == ("background", "background", "point", "extended")
    assert list(jp.parameters(glow)) == ["level"]
    assert jp.parameters(stray) == {}
    assert_allclose(glow({"level": 3.0}, X, Y), 3.0)
    assert_allclose(stray({"level": 3.0}, X, Y), 3.0)
    assert_allclose(disk({"I0": 2.0}, 0.0, 0.0), 2.0)
    center, flux = pair.position_and_flux({"where": (1.0, 2.0), "light": 4.0})
    assert (center, flux) == ((1.0, 2.0), 8.0)
    with pytest.raises(TypeError, match="no brightness"):
        pair({"where": (1.0, 2.0), "light": 4.0}, 0.0, 0.0)


# --- scenes ---------------------------------------------------------------------------------------------------------


def test_scene_adds_up_and_nests():
    (disk, p_disk), (bulge, p_bulge), (sky, p_sky) = case("exponential"), case("sersic"), case("flat_sky")
    model = jp.scene(galaxy=jp.scene(disk=disk, bulge=bulge), sky=sky, star=jp.models.point_source)
    params = {
        "galaxy": {"disk": p_disk, "bulge": p_bulge},
        "sky": p_sky,
        "star": {"center": jnp.zeros(2), "flux": 1e9},  # has no brightness to add
    }
    wanted = disk(p_disk, X, Y) + bulge(p_bulge, X, Y) + sky(p_sky, X, Y)
    assert_allclose(model(params, X, Y), wanted, rtol=1e-13)
    declared = jp.parameters(model)
    assert list(declared) == ["galaxy", "sky", "star"]
    assert list(declared["galaxy"]["bulge"]) == ["center", "q", "PA", "n", "Re", "Ie"]
    assert declared["galaxy"]["bulge"] == jp.parameters(jp.models.sersic)
    assert declared["star"]["center"].shape == (2,)


def test_scene_of_point_sources_alone_is_dark():
    model = jp.scene(star=jp.models.point_source)
    assert_allclose(model({"star": {"center": jnp.zeros(2), "flux": 1.0}}, X, Y), 0.0)


def test_models_compare_by_value():
    def build():
        galaxy = jp.scene(disk=jp.radial(jp.profiles.exponential), halo=jp.radial(king, jp.metrics.ellipse))
        return jp.scene(galaxy=galaxy, sky=jp.background(jp.models.skies.flat_sky))

    assert build() == build()
    assert hash(build()) == hash(build())
    assert build() != jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
    assert jp.radial(jp.profiles.sersic) == jp.models.sersic
    assert jp.radial(jp.profiles.sersic) != jp.radial(jp.profiles.exponential)
    assert jp.scene(a=jp.models.sersic) != jp.scene(b=jp.models.sersic)
    assert jp.background(king) != jp.extended(king)
    # a function redefined is another function
    assert jp.extended(lambda params, x, y: x) != jp.extended(lambda params, x, y: x)
    assert jp.sampling.quad(3) == jp.sampling.quad(3) != jp.sampling.quad(4)
    assert jp.likelihood.student_t(4) == jp.likelihood.student_t(4.0) != jp.likelihood.student_t(5)
    assert hash(jp.sampling.quad(3)) == hash(jp.sampling.quad(3))
