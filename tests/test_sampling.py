"""Pixel integrals: rules on polynomials, and the adaptive one against integrals along pixel edges in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.polynomial.legendre import leggauss
from numpy.testing import assert_allclose
from scipy.special import erf

import jaxphot as jp
from jaxphot import edges, isophotes, plan, refine
from jaxphot.models import profiles
from jaxphot.models.modifiers import ray
from jaxphot.pointwise import brightness
from jaxphot.sampling import Cells

SIDE = 20
PLACES = [(9.13, 10.31, 1.0), (8.4999, 10.5001, 0.3), (9.0, 10.0, 0.8), (9.5, 10.2, 1.5), (8.87, 9.02, 2.2)]
PLACES += [(8.5, 10.5, 0.3), (9.5, 8.5, 0.0)]  # on a corner, where two of a cell's edges have no area
ADAPTIVE = jp.sampling.adaptive()


def cells_of(side=SIDE, transform=None, size=1.0, dtype=jnp.float64):
    transform = jp.make_linear(pixelscale=1.0, dtype=dtype) if transform is None else transform
    return Cells(transform, jnp.zeros(2, dtype), jnp.full(2, size, dtype), (side, side))


def sersic(n, q, Re, x=9.13, y=10.31, PA=1.0, dtype=jnp.float64):
    values = {"center": [x, y], "q": q, "PA": PA, "n": n, "Re": Re, "Ie": 1.0}
    return {name: jnp.asarray(value, dtype) for name, value in values.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def means(rule, model, params, cells):
    return rule(model, params, cells)


def adaptive(params):
    return means(ADAPTIVE, jp.models.sersic, params, cells_of())


def fine(params):
    return means(jp.sampling.adaptive(1e-6), jp.models.sersic, params, cells_of())


jacobian = jax.jit(jax.jacfwd(adaptive))


# --- an exact reference that shares no code with the rule -------------------------------------------------------------


def exact(params, side=SIDE):
    """Edges about the centre (160 × 60 nodes) for cells near it, 30 × 30 Gauss nodes elsewhere."""
    (x, y), q, PA, n, Re, Ie = (np.asarray(params[key], float) for key in ("center", "q", "PA", "n", "Re", "Ie"))
    b = float(jp.numerics.b_n(float(n)))

    def brightness(i, j):
        major = np.sin(PA) * (i - x) + np.cos(PA) * (j - y)
        minor = (np.cos(PA) * (i - x) - np.sin(PA) * (j - y)) / q
        return Ie * np.exp(-b * ((np.hypot(major, minor) / Re) ** (1 / n) - 1))

    def along_edges(i, j):
        k = max(float(n), 1.0)
        w, weight = leggauss(40)
        w, weight = (w + 1) / 2, weight / 2 * k * ((w + 1) / 2) ** (2 * k - 1)
        t, weight_t = leggauss(120)
        corners = [(i - 0.5, j - 0.5), (i + 0.5, j - 0.5), (i + 0.5, j + 0.5), (i - 0.5, j + 0.5)]
        frame = [
            (np.sin(PA) * (a - x) + np.cos(PA) * (c - y), (np.cos(PA) * (a - x) - np.sin(PA) * (c - y)) / q)
            for a, c in corners
        ]
        total = np.zeros(i.shape)
        for (ua, va), (ub, vb) in zip(frame, frame[1:] + frame[:1], strict=True):
            length = np.hypot(ub - ua, vb - va)
            du, dv = (ub - ua) / length, (vb - va) / length
            d = ua * dv - va * du
            near = np.maximum(abs(d), 1e-12)
            first, last = np.arcsinh((ua * du + va * dv) / near), np.arcsinh((ub * du + vb * dv) / near)
            R = near[:, None] * np.cosh(((first + last) / 2)[:, None] + ((last - first) / 2)[:, None] * t)
            h = (Ie * np.exp(-b * ((R[..., None] * w**k / Re) ** (1 / n) - 1)) * weight).sum(-1)
            total += q * d * (h * R * weight_t).sum(-1) * (last - first) / 2
        return abs(total)

    nodes, weights = leggauss(8)
    nodes, weights = np.concatenate([(nodes + 2 * k) / 6 for k in (-1, 0, 1)]), np.tile(weights / 6, 3)
    j, i = np.indices((side, side)).astype(float)
    image = np.zeros((side, side))
    for a, wa in zip(nodes, weights, strict=True):
        for c, wc in zip(nodes, weights, strict=True):
            image += wa * wc * brightness(i + a, j + c)
    major = np.sin(PA) * (i - x) + np.cos(PA) * (j - y)
    minor = np.cos(PA) * (i - x) - np.sin(PA) * (j - y)
    near = (np.hypot(q * major, minor) < 2) & (abs(major) < 12)
    if near.any():
        image[near] = along_edges(i[near], j[near])
    return image


def error_of(image, truth):
    """The largest, relative to the larger of the pixel and 1e-4 of the brightest; and of the total flux."""
    image = np.asarray(image, float)
    pixel = np.max(abs(image - truth) / np.maximum(truth, 1e-4 * truth.max()))
    return pixel, abs(image.sum() - truth.sum()) / truth.sum()


# --- fixed rules ------------------------------------------------------------------------------------------------------


def monomial(params, x, y):
    return x ** params["a"] * y ** params["b"] + 1e4


@pytest.mark.parametrize(
    ("rule", "degree"),
    [
        (jp.sampling.midpoint(), 1),
        (jp.sampling.simpsons(), 3),
        (jp.sampling.quad(1), 1),
        (jp.sampling.quad(2), 3),
        (jp.sampling.quad(5), 9),
        (jp.sampling.upsample(3), 1),
        (ADAPTIVE, 3),
    ],
)
def test_rules_are_exact_for_polynomials(rule, degree):
    """∫ xᵃ yᵇ over cells of side 0.8 about integers, up to the degree in each variable."""

    def mean_of_power(a, power, side=0.8):
        return ((a + side / 2) ** (power + 1) - (a - side / 2) ** (power + 1)) / (side * (power + 1))

    j, i = np.indices((6, 6)) - 2.0
    cells = cells_of(6, jp.make_linear(pixelscale=1.0, crpix=(2, 2)), 0.8)
    for a in range(degree + 2):
        powers = {"a": jnp.asarray(a), "b": jnp.asarray(degree // 2)}
        got = np.asarray(means(rule, monomial, powers, cells)) - 1e4
        truth = mean_of_power(i, a) * mean_of_power(j, degree // 2)
        close = np.allclose(got, truth, rtol=1e-9, atol=1e-9)
        if a <= degree:
            assert close, a
        elif rule is not ADAPTIVE:
            assert not close, a


@pytest.mark.parametrize("tol", [0.0, -1e-3, 1.0, True])
def test_tolerance_is_checked(tol):
    with pytest.raises(ValueError, match="tol"):
        jp.sampling.adaptive(tol)


# --- accuracy ---------------------------------------------------------------------------------------------------------

SOURCES = [
    (0.5, 1.0, 3.0),
    (0.5, 0.6, 0.5),
    (1.0, 0.6, 6.0),
    (1.0, 0.2, 0.5),
    (2.5, 0.6, 6.0),
    (2.5, 0.2, 0.3),
    (4.0, 0.6, 3.0),
    (4.0, 0.2, 6.0),
    (6.0, 1.0, 10.0),
    (8.0, 0.3, 0.5),
    (2.5, 0.05, 6.0),
    (8.0, 0.05, 3.0),
    (0.5, 0.05, 3.0),
    (1.0, 0.05, 0.5),
    (4.0, 0.05, 0.5),
]


@pytest.mark.parametrize(("n", "q", "Re"), SOURCES)
def test_adaptive_against_exact_pixels(n, q, Re):
    extreme = q < 0.2 or n > 6
    for place in [*PLACES, *random_places(8)]:
        params = sersic(n, q, Re, *place)
        pixel, flux = error_of(adaptive(params), exact(params))
        assert pixel < (3e-4 if extreme else 1e-4), place
        assert flux < (2e-5 if extreme else 5e-6), place


def exact_gaussian(params, panels=60):
    """Along rows by error functions, across them by 8 nodes in each of so many parts of a pixel."""
    (x, y), q, PA, Re = (np.asarray(params[key], float) for key in ("center", "q", "PA", "Re"))
    sin, cos, scale = np.sin(PA), np.cos(PA), np.log(2) / Re**2
    a, b, c = scale * (sin**2 + (cos / q) ** 2), scale * sin * cos * (1 - q**-2), scale * (cos**2 + (sin / q) ** 2)
    nodes, weights = leggauss(8)
    nodes, weights = ((nodes[None, :] + 1) / 2 + np.arange(panels)[:, None]).ravel() / panels, np.tile(weights, panels)
    v = np.arange(SIDE)[:, None] - 0.5 + nodes - y
    ends = np.sqrt(a) * (np.arange(SIDE + 1)[:, None, None] - 0.5 - x + b / a * v)
    rows = np.sqrt(np.pi / a) / 2 * np.diff(erf(ends), axis=0) * np.exp(-(c - b * b / a) * v * v)
    return 2 * (rows @ weights).T / (2 * panels)  # Ie = 1 is half the brightness of the centre


def random_places(count):
    """(x, y, PA), of which a third lie near a pixel's border, corner or centre, and a quarter along an axis."""
    draw = np.random.default_rng(7)
    place, PA = draw.uniform(8.5, 10.5, (count, 2)), draw.uniform(0, np.pi, count)
    place[::3] = np.round(2 * place[::3]) / 2 + draw.normal(0, 0.03, place[::3].shape)
    PA[::4] = np.pi / 2 * draw.integers(0, 2, PA[::4].shape) + draw.normal(0, 0.01, PA[::4].shape)
    return np.column_stack([place, PA])


@pytest.mark.parametrize(("q", "Re"), [(0.05, 0.3), (0.05, 0.5), (0.1, 0.3), (0.2, 0.5), (0.2, 2.0), (1.0, 0.1)])
def test_needles_and_points_smaller_than_a_pixel(q, Re):
    for x, y, PA in [*PLACES, *random_places(40)]:
        params = sersic(0.5, q, Re, x, y, PA)
        pixel, flux = error_of(adaptive(params), exact_gaussian(params))
        assert pixel < (3e-4 if q < 0.2 else 1e-4), (x, y, PA)
        assert flux < (1e-4 if q < 0.2 else 2e-5), (x, y, PA)


@pytest.mark.parametrize("place", [(-0.5, 9.0), (-3.2, 12.0), (19.5, 19.5), (-30.0, 40.0), (1e5, 0.0)])
def test_sources_at_and_beyond_the_edge(place):
    params = sersic(4.0, 0.4, 6.0, *place)
    assert error_of(adaptive(params), exact(params))[0] < 1e-4


def test_truth_without_psf(truth):
    cases, arrays = truth("sersic_nopsf")
    for name, case in cases.items():
        angle = np.deg2rad(90 - case["theta_deg"])
        params = sersic(case["n"], case["q"], case["Re_maj_pix"], case["x"], case["y"], angle)
        image = jp.make_image(np.zeros(case["shape"]), std=1.0)
        got = jp.render(jp.models.sersic, params | {"Ie": case["Ie_per_pixel2"]}, image)
        pixel, flux = error_of(got, arrays[name])
        assert pixel < 1e-4, name
        assert flux < 5e-6, name


def test_tolerance_controls_the_error():
    params = sersic(4.0, 0.4, 5.0)
    coarse = means(jp.sampling.adaptive(1e-2), jp.models.sersic, params, cells_of())
    errors = [error_of(got, exact(params))[0] for got in (coarse, adaptive(params), fine(params))]
    assert all(error < tol for error, tol in zip(errors, (1e-2, 1e-4, 1e-6), strict=True))
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


@pytest.mark.parametrize("tol", [1e-1, 2e-2, 3e-3, 1e-3, 1e-5, 1e-6, 1e-7])
def test_tolerance_holds_for_ridges_and_needles(tol):
    """Ridges between samples at coarse tolerances; at fine ones the last light of needles."""
    rule = jp.sampling.adaptive(tol)
    for n, q, Re in [(8.0, 0.1, 1.2), (6.0, 0.05, 10.0), (6.0, 0.2, 2.7), (1.5, 0.05, 0.5), (1.0, 0.1, 0.5)]:
        for place in [*PLACES, (9.58, 13.3, 0.0), (9.4, 9.4, 1.65), (8.1, 9.6, 0.79)]:
            params = sersic(n, q, Re, *place)
            got = means(rule, jp.models.sersic, params, cells_of())
            assert error_of(got, exact(params))[0] < tol, (n, q, Re, place)


def test_float32_agrees_with_float64():
    for n, q, Re in [(1.0, 0.6, 6.0), (2.5, 0.6, 6.0), (4.0, 0.2, 6.0), (8.0, 0.3, 4.0)]:
        params = sersic(n, q, Re, 9.125, 10.3125, dtype=jnp.float32)
        short = means(ADAPTIVE, jp.models.sersic, params, cells_of(dtype=jnp.float32))
        assert short.dtype == jnp.float32
        double = np.asarray(adaptive(sersic(n, q, Re, 9.125, 10.3125)))
        assert np.max(abs(np.asarray(short) - double)) < 2e-5 * double.max()
        assert error_of(short, double)[0] < 2e-4


# --- other models, transforms and sizes -------------------------------------------------------------------------------


def gauss_means(model, params, cells, order=40):
    """Means by a rule that is far finer than needed."""
    return np.asarray(means(jp.sampling.quad(order), model, params, cells))


def ring(params, x, y):
    r = jnp.sqrt((x - params["x"]) ** 2 + ((y - params["y"]) / 0.6) ** 2 + 1e-12)
    return jnp.exp(-0.5 * ((r - 6.0) / 0.8) ** 2)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_cells_with_the_centre_on_a_corner(dtype):
    """Are known but for rounding, and of their edges the two that have an area."""
    transform = jp.make_linear(pixelscale=0.26, crpix=(3.1, 40.7), dtype=dtype)
    x, y = transform.pixel_to_plane(jnp.asarray(31.5, dtype), jnp.asarray(17.5, dtype))
    frame = isophotes.locate(sersic(2.5, 0.6, 6.0, x, y, dtype=dtype), transform)
    half = jnp.full(2, 0.5, dtype)
    cells = jnp.asarray([(31, 17), (32, 17), (32, 18), (31, 18), (32, 19), (30, 18)], dtype).T
    assert isophotes.is_at_corner(frame, *cells, half).tolist() == [True] * 4 + [False] * 2
    # edges in their order: of the least line, the greatest column, the greatest line, the least column
    assert edges.first_edge(frame, cells[:, :4]).tolist() == [3, 0, 1, 2]
    moved = frame._replace(center=frame.center + jnp.asarray([1e-3, 0.0], dtype))
    assert not np.any(isophotes.is_at_corner(moved, *cells, half))


def test_the_brightest_cell_has_no_less_than_is_foretold():
    """So that a source between the samples is not integrated as if it were fainter; of one outside nothing is known."""

    @jax.jit
    def foretold(params):
        cells = cells_of()
        frame = isophotes.locate(params, cells.transform)
        axis = frame.center[:, None] + frame.axis[:, None] * isophotes.RADII[None, :]
        along = brightness(jp.models.sersic, params, cells.transform, *axis)
        light = isophotes.measure(frame, along, cells.size / 2, 1e-4)
        return isophotes.least_peak(frame, light, cells.start, cells.step, cells.shape)

    for n, q, Re in [*SOURCES, (0.5, 0.02, 30.0), (0.5, 0.1, 30.0), (1.0, 0.01, 6.0), (8.0, 1.0, 30.0)]:
        for place in [(9.5, 8.5, 0.0), (9.5, 9.0, 0.0), (8.5, 10.5, 0.3), (9.0, 10.0, 0.8)]:
            params = sersic(n, q, Re, *place)
            peak = float(np.max(adaptive(params)))
            assert 0.1 * np.sqrt(q) * peak < foretold(params) < 1.02 * peak, (n, q, Re, place)
    assert foretold(sersic(2.5, 0.3, 6.0, -0.6, 9.0)) == 0


def test_users_profiles_need_not_say_anything():
    ring_params = {"x": jnp.asarray(9.2), "y": jnp.asarray(10.1)}
    truth = gauss_means(ring, ring_params, cells_of())
    assert error_of(means(ADAPTIVE, ring, ring_params, cells_of()), truth)[0] < 1e-4
    king = jp.models.radial(lambda r, *, core, I0: I0 / (1 + (r / core) ** 2) ** 1.5)
    for core in (0.2, 0.3, 2.0):
        params = {"center": jnp.asarray([9.2, 10.1]), "q": 0.5, "PA": 2.0, "core": core, "I0": 3.0}
        params = jax.tree.map(jnp.asarray, params)
        assert error_of(means(ADAPTIVE, king, params, cells_of()), gauss_means(king, params, cells_of()))[0] < 1e-4


def test_profiles_that_break_off_are_known_by_their_light():
    """Far from the centre they need more nodes than others, whose cusp is all that is not smooth."""
    frame = isophotes.locate(sersic(1.0, 0.6, 3.0), jp.make_linear(pixelscale=1.0))
    radius = isophotes.RADII
    even = [np.exp(-b * radius ** (1 / n)) for n in (0.5, 1, 4, 8) for b in (0.1, 3.0)]
    even += [(1 + (radius / core) ** 2) ** -power for core in (0.3, 5.0) for power in (1.5, 5.0)]
    broken = [np.maximum(1 - (radius / end) ** 2, 0) ** 2 for end in (3.0, 7.0, 20.0)] + [np.exp(-((radius - 5) ** 2))]
    half = jnp.full(2, 0.5)
    uneven = [float(isophotes.measure(frame, jnp.asarray(light), half, 1e-4).uneven) for light in even + broken]
    assert uneven == [0.0] * len(even) + [1.0] * len(broken)


def test_cusp_of_infinite_brightness():
    """1/r about the centre of a pixel, where a sample falls on the pole: ∫ = 4 ln(1 + √2)."""
    model = jp.models.radial(lambda r, *, I0: I0 / r)
    params = {"center": jnp.asarray([7.0, 7.0]), "q": jnp.asarray(1.0), "PA": jnp.asarray(0.0), "I0": jnp.asarray(1.0)}
    got = means(ADAPTIVE, model, params, cells_of())
    assert_allclose(got[7, 7], 4 * np.log(1 + np.sqrt(2)), rtol=1e-4)
    assert np.all(np.isfinite(got))


def test_several_components_each_get_their_core():
    model = jp.scene(a=jp.models.sersic, b=jp.models.sersic)
    a, b = sersic(4.0, 0.5, 3.0, 5.2, 6.4), sersic(2.0, 0.3, 2.0, 13.7, 14.1, 0.2)
    image = jp.make_image(np.zeros((SIDE, SIDE)), std=1.0)
    assert error_of(jp.render(model, {"a": a, "b": b}, image), exact(a) + exact(b))[0] < 1e-4


@pytest.mark.parametrize("kind", ["cmos", "sip"])
def test_transforms_and_footprints(kind):
    """Against many Gauss nodes in sub-cells, where a cell's cusp is not: a source with a smooth core."""
    model, side = jp.models.moffat, SIDE
    if kind == "sip":
        transform = jp.make_sip((side, side), {(2, 0): 1e-3}, {(1, 1): -8e-4}, pixelscale=0.4, crpix=(10, 10))
    else:
        transform = jp.make_linear(cd=[[-0.3, 0.12], [0.1, 0.35]], crpix=(10, 10))
    if kind == "cmos":
        transform = jp.make_cmos(transform, loc=(0.1, -0.05), scale=(0.7, 0.8))
    values = {"center": [0.13, -0.3], "q": 0.4, "PA": 0.7, "n": 2.0, "Rd": 0.8, "I0": 2.0}
    params = {key: jnp.asarray(value) for key, value in values.items()}
    image = jp.make_image(np.zeros((side, side)), std=1.0, transform=transform)
    got = jp.render(model, params, image)
    truth = np.asarray(jp.render(model, params, image, jp.sampling.quad(30)))
    # a SIP map has kinks between the nodes of its table, which no rule knows of
    assert error_of(got, truth)[0] < (2e-4 if kind == "sip" else 1e-4)


def test_accuracy_does_not_depend_on_the_frame():
    params = sersic(4.0, 0.5, 4.0)
    large = means(ADAPTIVE, jp.models.sersic, params, cells_of(48))
    assert_allclose(large[:SIDE, :SIDE], adaptive(params), rtol=5e-5, atol=0)


# --- continuity, derivatives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "q", "Re"), [(1.0, 0.6, 3.0), (4.0, 0.3, 4.0), (2.5, 0.05, 6.0)])
def test_continuous_where_the_centre_moves_and_the_source_grows(n, q, Re):
    """The difference to a finer rule has steps (jumps) of at most 0.1 tol of the pixel."""

    def deviation(x, size):
        params = sersic(n, q, size, x)
        rough, better = np.asarray(adaptive(params)), np.asarray(fine(params))
        return (rough - better) / np.maximum(better, 1e-4 * better.max())

    moved = [deviation(x, Re) for x in 9.41 + 3e-3 * np.arange(60)]  # over the border at 9.5
    grown = [deviation(9.41, size) for size in Re * 1.002 ** np.arange(60)]
    for path in (moved, grown):
        assert np.max(abs(np.diff(path, axis=0))) < 1e-5


@pytest.mark.parametrize(("n", "q", "Re"), [(2.5, 0.6, 6.0), (4.0, 0.2, 3.0), (1.0, 1.0, 3.0), (2.5, 0.05, 6.0)])
def test_jacobian_against_finite_differences_of_exact_pixels(n, q, Re):
    params = sersic(n, q, Re)
    flat, unravel = ravel_pytree(params)
    columns = jacobian(params)
    columns = np.concatenate([np.moveaxis(np.atleast_3d(columns[key]), 2, 0) for key in sorted(columns)])
    assert np.all(np.isfinite(columns))
    largest = np.max(abs(columns))
    for p in range(flat.size):
        step = 1e-3 * max(1.0, abs(float(flat[p])))
        ends = [exact(unravel(flat.at[p].add(sign * step))) for sign in (-2, -1, 1, 2)]
        slope = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
        assert np.max(abs(slope)) > 1e-3 * largest or (q == 1 and p == 1)  # PA of a round source
        assert np.max(abs(columns[p] - slope)) < 1e-3 * np.max(abs(slope)) + 1e-9 * largest, p


@pytest.mark.full
def test_reverse_mode_and_vmap():
    params = [sersic(n, 0.5, 4.0, 7.0 + n) for n in (1.0, 2.0, 4.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    assert_allclose(jax.jit(jax.vmap(adaptive))(stacked), np.stack([adaptive(p) for p in params]), rtol=1e-12)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(adaptive(p) ** 2)))(params[1])
    columns, value = jacobian(params[1]), np.asarray(adaptive(params[1]))
    for key, slope in gradient.items():
        assert_allclose(slope, 2 * np.tensordot(value, columns[key], 2), rtol=1e-9, atol=1e-9)


def test_derivatives_at_the_centre_of_a_round_source_on_a_pixel_are_finite():
    columns = jacobian(sersic(1.0, 1.0, 3.0, 9.0, 10.0))
    assert all(np.all(np.isfinite(column)) for column in columns.values())
    assert np.max(columns["Re"]) > 0


# --- the error it states ----------------------------------------------------------------------------------------------


def test_stated_error_bounds_the_true_one():
    image = jp.make_image(np.zeros((SIDE, SIDE)), std=1.0, pixelscale=1.0)
    for n, q, Re in [(1.0, 0.6, 6.0), (4.0, 0.3, 4.0), (2.5, 0.1, 1.0)]:
        params = sersic(n, q, Re)
        truth = exact(params)
        for rule in (ADAPTIVE, jp.sampling.quad(3)):
            got, error = jp.render(jp.models.sersic, params, image, rule, with_error=True)
            assert np.all(abs(np.asarray(got) - truth) <= np.asarray(error) + 1e-12 * truth)
            if rule is ADAPTIVE:
                assert np.max(error / np.maximum(truth, 1e-4 * truth.max())) < 2e-4


@pytest.mark.full
def test_error_with_psf_and_sky():
    stamp = np.exp(-0.5 * (np.hypot(*(np.indices((15, 15)) - 7)) / 1.5) ** 2)
    image = jp.make_image(np.zeros((20, 20)), std=1.0, psf=stamp)
    model = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
    params = {"galaxy": sersic(4.0, 0.5, 3.0, 9.2, 10.4), "sky": {"I0": 0.1}}
    got, error = jp.render(model, params, image, with_error=True)
    finer = jp.render(model, params, image, jp.sampling.adaptive(1e-7))
    assert np.all(abs(got - finer) <= error)
    assert np.max(error) < 1e-4 * np.max(got)


def test_a_thin_ridge_that_runs_askew():
    """Far out on its major axis, where fourth differences cancel but sixth do not."""
    params = {"center": np.array([22.4999, 24.5001]), "q": 0.2, "PA": 0.3, "n": 2.5, "Re": 3.0, "Ie": 1.0}
    pixels = np.asarray(jp.render(jp.models.sersic, params, jp.make_image(np.zeros((48, 48)), std=1.0)))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for j, i in ((42, 29), (7, 16), (41, 28), (6, 15)):
        x, y = np.meshgrid(i + nodes / 2, j + nodes / 2)
        exact = np.sum(jp.models.sersic(params, x, y) * np.outer(weights, weights)) / 4
        assert abs(pixels[j, i] - exact) < 1e-4 * exact


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_derivative_by_an_amplitude_that_is_nothing(dtype):
    """No brightness says where nodes are needed; a fit that begins with an amplitude of 0 needs its column even so."""
    params, cells = sersic(2.5, 0.4, 2.0, 7.63, 7.31, dtype=dtype), cells_of(16, dtype=dtype)

    def column(level):
        return jax.jacfwd(lambda Ie: means(ADAPTIVE, jp.models.sersic, {**params, "Ie": Ie}, cells))(level)

    nothing, something = (np.asarray(column(jnp.asarray(level, dtype))) for level in (0.0, 1.0))
    assert_allclose(nothing, something, rtol=0, atol=1e-3 * something.max())


def test_lanes_do_not_disturb_each_other():
    """Lanes share the way that work is done: of one without light, a steep, a thin and a gentle one, and a far one."""
    sources = [
        {**sersic(4.0, 0.6, 1.0, 5.1, 6.3), "Ie": jnp.asarray(0.0)},
        sersic(6.0, 0.6, 0.5, 5.1, 6.3),
        sersic(1.0, 0.05, 3.0, 5.6, 6.1),
        sersic(0.7, 0.9, 4.0, 6.0, 5.5),
        sersic(2.5, 0.5, 2.0, 60.0, 5.5),
    ]

    def pixels(params):
        return means(ADAPTIVE, jp.models.sersic, params, cells_of(12))

    def everything(params):
        by_amplitude = jax.jacfwd(lambda Ie: pixels({**params, "Ie": Ie}))(params["Ie"])
        return *jax.jvp(pixels, (params,), (params,)), by_amplitude

    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sources)
    together = jax.jit(jax.vmap(everything))(stack)
    alone = jax.jit(everything)
    for k, source in enumerate(sources):
        for ours, theirs in zip(together, alone(source), strict=True):
            assert np.all(np.isfinite(theirs))
            assert_allclose(ours[k], theirs, rtol=1e-10, atol=1e-13 * np.max(np.abs(theirs)))


@pytest.mark.parametrize(
    ("key", "kind", "bound"), [("Re", "sersic", 3e-8), ("q", "sersic", 1e-7), ("Re", "thin", 3e-8), ("q", "ray", 1e-6)]
)
def test_nothing_jumps_where_another_rule_takes_over(key, kind, bound):
    """Steps of a pixel are those that the derivatives tell; a ray's sectors are where two rules differ most.

    In thin sources, cells next to the cusp go from one rule along edges to the other.
    What is left is that weights of rules have no derivatives: 2.5 times the tolerance for a parameter that doubles.
    """
    params = sersic(2.5, 0.4, 2.0, 7.63, 7.31)
    model = jp.models.sersic
    if kind == "thin":
        params = sersic(4.0, 0.1, 4.0, 7.63, 7.31)
    if kind == "ray":
        model = ray(profiles.exponential, 4)
        params = {name: params[name] for name in ("center", "q", "PA")}
        params |= {"Re": jnp.array([1.0, 2.0, 1.5, 3.0]), "Ie": jnp.ones(4)}
    factors = jnp.linspace(0.9, 1.1, 501)

    def moved(factor):
        return means(ADAPTIVE, model, {**params, key: factor * params[key]}, cells_of(16))

    along = jax.jit(lambda factors: jax.lax.map(lambda factor: jax.jvp(moved, (factor,), (1.0,)), factors))
    values, slopes = (np.asarray(found) for found in along(factors))
    foretold = np.diff(factors)[:, None, None] * (slopes[1:] + slopes[:-1]) / 2
    scale = np.maximum(values[1:], 1e-4 * values[1:].max((1, 2), keepdims=True))
    assert np.max(np.abs(np.diff(values, axis=0) - foretold) / scale) < bound


@pytest.mark.parametrize("side", [12, 104])
def test_the_way_of_accelerators(monkeypatch, side):
    """All at once instead of in turns, two lanes together; in a large frame, beside lists of cells made by groups."""
    rule, cells, asked = jp.sampling.adaptive(1e-3), cells_of(side), []
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), sersic(3.0, 0.5, 2.0, 6.1, 5.3))

    def value_and_slope(params):
        own = lambda n: rule(jp.models.sersic, {**params, "n": n}, cells)  # noqa: E731
        return own(params["n"]), jax.jacfwd(own)(params["n"])

    in_turns = jax.jit(lambda params: jax.lax.map(value_and_slope, params))(params)
    for module in (plan, refine):
        monkeypatch.setattr(module, "on_cpu", lambda: bool(asked.append(side)))
    at_once = jax.jit(lambda params: jax.vmap(value_and_slope)(params))(params)
    assert asked
    for ours, theirs in zip(in_turns, at_once, strict=True):
        assert_allclose(ours, theirs, rtol=0, atol=1e-13 * np.max(np.abs(theirs)))
