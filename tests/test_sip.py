"""SIP images: positions, inverse, area, crops, rebinning, stacks, fits, bad input."""

import json
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxphot as jp
from jaxphot.transforms.polynomial import fit_polynomial, jacobian, on_grid, order_of
from jaxphot.transforms.sip import fit_coefficients, fit_inverse_coefficients, make_sip, polynomial_error

HEADERS = ["spitzer_irac_m51", "spitzer_irac_bri0021"]
# the strongly distorted frame of the issue: 128 rows, 256 columns, crpix at the corner
STRONG_A = {(0, 1): 1e-3, (1, 0): -1e-3, (1, 1): 1e-4, (2, 0): -5e-5, (0, 2): -5e-4}
STRONG_B = {(0, 1): 1e-3, (1, 0): -1e-3, (1, 1): -1e-3, (2, 0): 1e-4, (0, 2): 2e-3}


@pytest.fixture(scope="module")
def tables(data_dir):
    """``tables(name)`` → (transform, arrays, facts) of a real header."""
    facts = json.loads((data_dir / "sip" / "sip_tables.json").read_text())["headers"]

    def load(name, **options):
        keys = facts[name]["keywords"]
        coefficients = {
            kind: {tuple(map(int, key.split("_")[1:])): value for key, value in keys.items() if _is(key, kind)}
            for kind in ("A", "B", "AP", "BP")
        }
        transform = make_sip(
            facts[name]["size_xy"][::-1],
            coefficients["A"],
            coefficients["B"],
            ap=coefficients["AP"],
            bp=coefficients["BP"],
            cd=3600 * np.asarray([[keys["CD1_1"], keys["CD1_2"]], [keys["CD2_1"], keys["CD2_2"]]]),
            crpix=(keys["CRPIX1"] - 1, keys["CRPIX2"] - 1),
            crval=(keys["CRVAL1"], keys["CRVAL2"]),
            **options,
        )
        with np.load(data_dir / "sip" / f"sip_{name}.npz") as arrays:
            return transform, dict(arrays), facts[name]

    return load


def _is(key, kind):
    parts = key.split("_")
    return parts[0] == kind and len(parts) == 3 and parts[1].isdigit()


def strong(**options):
    return make_sip((128, 256), STRONG_A, STRONG_B, pixelscale=0.2, crpix=(0, 0), **options)


def mild(shape=(40, 48), seed=0, order=3, size=1.0, **options):
    """Up to a few pixels of displacement, different for each seed."""
    rng = np.random.default_rng(seed)
    a, b = [
        {
            (p, q): rng.normal() * size * 30.0 ** (1 - p - q) / 20
            for p in range(order + 1)
            for q in range(order + 1 - p)
            if p + q > 1
        }
        for _ in range(2)
    ]
    kwargs = {"cd": [[-0.2, 0.03], [0.02, 0.21]], "crpix": (20.3, 24.1), "crval": (150.0, 2.0), **options}
    return make_sip(shape, a, b, **kwargs)


def exact(transform):
    """The same transform on NumPy arrays: quick, nothing is compiled."""
    return jax.tree.map(np.asarray, transform)


def points(shape, n=3000, margin=0.0, seed=1):
    rng = np.random.default_rng(seed)
    i = rng.uniform(-0.5 - margin, shape[1] - 0.5 + margin, n)
    j = rng.uniform(-0.5 - margin, shape[0] - 0.5 + margin, n)
    return i, j


def round_trip(transform, i, j):
    transform = exact(transform)
    back = transform.plane_to_pixel(*transform.pixel_to_plane(i, j))
    return float(np.max(np.hypot(back[0] - i, back[1] - j)))


# ---- positions


@pytest.mark.parametrize("name", HEADERS)
def test_forward_agrees_with_the_tables(tables, name):
    transform, t, facts = tables(name)
    x, y = transform.pixel_to_plane(t["x"], t["y"])
    error = np.hypot(x - t["xi_arcsec"], y - t["eta_arcsec"]) / facts["pixel_scale_arcsec"]
    centres = (t["x"] % 1 == 0) & (t["y"] % 1 == 0)
    assert centres.sum() >= 16
    assert error[centres].max() < 1e-9
    assert error.max() <= float(transform.accuracy) < 1e-4


@pytest.mark.parametrize("name", HEADERS)
def test_inverse_is_solved(tables, name):
    transform, t, _ = tables(name)
    i, j = transform.plane_to_pixel(t["inv_xi_arcsec"], t["inv_eta_arcsec"])
    assert np.max(np.hypot(i - t["inv_x"], j - t["inv_y"])) < 1e-4  # AP and BP themselves: 5e-3
    assert round_trip(transform, *points(transform.shape)) < 1e-9


@pytest.mark.parametrize("name", HEADERS)
def test_sky_agrees_with_the_tables(tables, name):
    transform, t, _ = tables(name)
    centres = (t["x"] % 1 == 0) & (t["y"] % 1 == 0)
    ra, dec = jp.pixel_to_sky(transform, t["x"][centres], t["y"][centres])
    np.testing.assert_allclose(ra, t["ra_deg"][centres], rtol=0, atol=1e-9)
    np.testing.assert_allclose(dec, t["dec_deg"][centres], rtol=0, atol=1e-9)
    i, j = jp.sky_to_pixel(transform, t["ra_deg"][centres], t["dec_deg"][centres])
    np.testing.assert_allclose(np.stack([i, j]), [t["x"][centres], t["y"][centres]], rtol=0, atol=1e-7)


@pytest.mark.parametrize("margin", [0.0, 5.0, 200.0])
def test_strongly_distorted_round_trip(margin):
    transform = strong()
    assert round_trip(transform, *points(transform.shape, margin=margin)) < 1e-6
    edge = np.linspace(-0.5, 127.5, 400)
    for i in (-0.5, 255.5):
        assert round_trip(transform, np.full_like(edge, i), edge) < 1e-6


def test_strongly_distorted_forward():
    transform = exact(strong())
    i, j = points(transform.shape)
    x, y = transform.pixel_to_plane(i, j)
    exact_i = i + sum(c * i**p * j**q for (p, q), c in STRONG_A.items())
    exact_j = j + sum(c * i**p * j**q for (p, q), c in STRONG_B.items())
    error = np.hypot(x / 0.2 - exact_i, y / 0.2 - exact_j)
    assert error.max() < 1e-3
    assert error.max() <= float(transform.accuracy) * 1.001  # curvature 2e-3 · 2 / 8 and 5e-4 · 2 / 8: it is honest


@pytest.mark.parametrize(("a", "b"), [(STRONG_A, None), ({}, STRONG_B), (None, None), (STRONG_A, {(0, 3): 1e-6})])
def test_one_polynomial_alone(a, b):
    transform = make_sip((60, 50), a, b, pixelscale=1.0, crpix=(10, 10))
    assert round_trip(transform, *points((60, 50), margin=3)) < 1e-8
    i, j = jnp.asarray(7.0), jnp.asarray(30.0)
    x, y = transform.pixel_to_plane(i, j)
    expected = [sum(c * (-3.0) ** p * 20.0**q for (p, q), c in (poly or {}).items()) for poly in (a, b)]
    np.testing.assert_allclose([x, y], [-3 + expected[0], 20 + expected[1]], rtol=1e-12)


def test_displacement_is_constant_outside():
    transform = exact(mild())
    j = np.linspace(0.0, 39.0, 14)
    edge = transform.grid.forward(np.full_like(j, 47.5), j)[0] - 47.5
    for far in (48.0, 60.0, 1e4):
        outside = transform.grid.forward(np.full_like(j, far), j)[0] - far
        np.testing.assert_allclose(outside, edge, rtol=0, atol=1e-9)


def test_header_inverse_does_not_matter(tables):
    transform, _, _ = tables("spitzer_irac_m51")
    wrong = make_sip(
        (256, 256),
        transform.a,
        transform.b,
        ap={(0, 5): 1.0},
        cd=transform.cd,
        crpix=transform.crpix,
        crval=transform.crval,
    )
    wrong, transform = exact(wrong), exact(transform)
    i, j = points((256, 256), 50)
    np.testing.assert_array_equal(wrong.plane_to_pixel(i, j), transform.plane_to_pixel(i, j))
    assert float(wrong.ap[(0, 5)]) == 1.0


def test_coefficients_are_kept(tables):
    transform, _, facts = tables("spitzer_irac_m51")
    assert float(transform.a[(1, 2)]) == facts["keywords"]["A_1_2"]
    assert float(transform.b[(3, 0)]) == facts["keywords"]["B_3_0"]
    assert float(transform.bp[(1, 1)]) == facts["keywords"]["BP_1_1"]
    assert transform.a.shape == (10, 10)
    assert order_of(transform.a) == 3
    again = make_sip((256, 256), transform.a, transform.b, cd=transform.cd, crpix=transform.crpix)
    np.testing.assert_array_equal(again.grid.displacement, transform.grid.displacement)


def test_numpy_and_jax_agree():
    transform = mild()
    plain = exact(transform)
    i, j = points(transform.shape, 200, margin=4)
    for ours, theirs in zip(plain.pixel_to_plane(i, j), transform.pixel_to_plane(i, j), strict=True):
        assert isinstance(ours, np.ndarray)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    for ours, theirs in zip(plain.plane_to_pixel(i, j), transform.plane_to_pixel(i, j), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(plain.pixel_area(i, j), transform.pixel_area(i, j), rtol=1e-12)


def test_nan_positions_stay_nan():
    transform = mild()
    for xp in (jnp, np):
        values = transform.plane_to_pixel(xp.asarray([np.nan, 1.0]), xp.asarray([1.0, 1.0]))
        assert np.isnan(values[0][0])
        assert np.isfinite(values[0][1])


# ---- area


@pytest.mark.parametrize("name", HEADERS)
def test_area_agrees_with_the_tables(tables, name):
    transform, t, _ = tables(name)
    ratio = transform.pixel_area(t["x"], t["y"]) / abs(np.linalg.det(transform.cd))
    np.testing.assert_allclose(ratio, t["area_ratio"], rtol=1e-6)


def test_area_is_exact_up_to_the_border():
    """Against the shoelace of the pixel's outline with 200 corners, drawn with the polynomials."""
    transform = strong()
    outline = np.linspace(-0.5, 0.5, 51)
    ones = np.ones(51)
    di = np.concatenate([outline, 0.5 * ones, -outline, -0.5 * ones])
    dj = np.concatenate([-0.5 * ones, outline, 0.5 * ones, -outline])
    for i, j in [(0, 0), (255, 0), (0, 127), (255, 127), (100, 50), (255, 63)]:
        u, v = i + di, j + dj
        x = u + sum(c * u**p * v**q for (p, q), c in STRONG_A.items())
        y = v + sum(c * u**p * v**q for (p, q), c in STRONG_B.items())
        area = 0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
        assert float(transform.pixel_area(i, j)) == pytest.approx(0.04 * area, rel=1e-6)


def test_jacobian_is_the_mean_over_the_pixel():
    a, b = np.zeros((10, 10)), np.zeros((10, 10))
    a[4, 1], b[0, 3], b[2, 2] = 1e-6, 2e-5, -3e-6
    node, weight = np.polynomial.legendre.leggauss(6)
    u, v = 7 + node[:, None] / 2, -3 + node[None, :] / 2
    exact = (1 + 4e-6 * u**3 * v) * (1 + 6e-5 * v**2 - 6e-6 * u**2 * v) - (1e-6 * u**4) * (-6e-6 * u * v**2)
    mean = np.sum(exact * weight[:, None] * weight) / 4
    assert on_grid(jacobian(a, b), np.asarray([7.0]), np.asarray([-3.0]))[0, 0] == pytest.approx(mean, rel=1e-13)


def test_area_outside_is_that_of_the_edge():
    transform = exact(mild())
    inside = transform.pixel_area(np.asarray([-0.5, 47.5, 10.0, 47.5]), np.asarray([10.0, 20.0, -0.5, 39.5]))
    outside = transform.pixel_area(np.asarray([-3.0, 60.0, 10.0, 50.0]), np.asarray([10.0, 20.0, -7.0, 44.0]))
    np.testing.assert_allclose(outside, inside, rtol=1e-12)


def test_mirrored_pixels_have_positive_area():
    transform = make_sip((9, 9), {(1, 0): -2.0}, None, pixelscale=1.0, crpix=(4, 4))
    assert np.all(transform.pixel_area(*jnp.meshgrid(jnp.arange(9.0), jnp.arange(9.0))) > 0)
    assert round_trip(transform, *points((9, 9))) < 1e-9


# ---- coarser grids, dtypes, traces


@pytest.mark.parametrize("step", [2, 5, 16])
def test_coarse_grid_keeps_its_stated_accuracy(step):
    fine, coarse = [exact(mild((90, 70), size=0.05, step=n)) for n in (1, step)]
    assert coarse.grid.displacement.size < 1.5 * fine.grid.displacement.size / step**2 + 200
    i, j = points((90, 70))
    x, y = fine.pixel_to_plane(i, j)
    cx, cy = coarse.pixel_to_plane(i, j)
    assert np.max(np.hypot(cx - x, cy - y)) / 0.2 < coarse.accuracy + fine.accuracy
    assert round_trip(coarse, *points((90, 70), margin=9)) < max(1e-7, 1e-4 * coarse.accuracy)
    np.testing.assert_allclose(coarse.pixel_area(i, j), fine.pixel_area(i, j), rtol=0.1 * coarse.accuracy)


def test_float32():
    transform = make_sip(
        (500, 500), {(2, 0): 1e-5, (0, 3): 2e-8}, {(1, 1): -1e-5}, pixelscale=0.2, crpix=(250, 250), dtype=np.float32
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(transform)} == {jnp.dtype("float32")}
    i, j = [v.astype(np.float32) for v in points((500, 500), margin=5)]
    assert round_trip(transform, i, j) < 3e-4
    x, y = jax.jit(transform.pixel_to_plane)(i, j)
    back = jax.jit(transform.plane_to_pixel)(x, y)
    assert x.dtype == back[0].dtype == jnp.float32
    assert np.max(np.hypot(back[0] - i, back[1] - j)) < 3e-4
    cut = transform.crop(-3, 470, (40, 40)).rebin(2)
    assert {leaf.dtype for leaf in jax.tree.leaves(cut)} == {jnp.dtype("float32")}


def test_jit_vmap_grad():
    transforms = [mild(seed=s, order=2 + s) for s in range(3)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *transforms)
    i, j = map(jnp.asarray, points((40, 48), 64))
    together = jax.jit(jax.vmap(lambda t: t.plane_to_pixel(*t.pixel_to_plane(i, j))))(stack)
    np.testing.assert_allclose(together[0], jnp.broadcast_to(i, (3, 64)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(together[1], jnp.broadcast_to(j, (3, 64)), rtol=0, atol=1e-9)


def test_derivatives_of_the_inverse():
    transform = mild()
    positions = jnp.asarray([(12.3, 17.8), (-4.0, 20.2), (47.2, 39.4), (60.0, -9.0)])  # inside, at the border, outside

    def forward(p):
        return jnp.stack(transform.pixel_to_plane(p[0], p[1]))

    def inverse(crtan, p):
        moved = replace(transform, linear=replace(transform.linear, crtan=crtan))
        return jnp.stack(moved.plane_to_pixel(p[0], p[1]))

    @jax.jit
    @jax.vmap
    def derivatives(p):
        plane = forward(p)
        modes = [mode(inverse, (0, 1))(transform.crtan, plane) for mode in (jax.jacfwd, jax.jacrev)]
        return jax.jacfwd(forward)(p), modes

    slopes, modes = derivatives(positions)
    for by_crtan, by_position in modes:
        np.testing.assert_allclose(by_position @ slopes, np.broadcast_to(np.eye(2), (4, 2, 2)), rtol=0, atol=1e-7)
        # with respect to the transform too: a star's place when the frame is shifted
        np.testing.assert_allclose(by_crtan, -np.linalg.inv(slopes), rtol=0, atol=1e-7)


# ---- crop, rebin


WINDOWS = [(5, 30, 4, 33), (0, 48, 0, 40), (-6, 20, -3, 12), (40, 60, 30, 50), (-4, 53, -5, 44)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("step", [1, 4])
def test_crop_keeps_positions(window, step):
    transform = mild(step=step)
    i0, i1, j0, j1 = window
    jitted = exact(jax.jit(lambda t: t.crop(i0, j0, (j1 - j0, i1 - i0)))(transform)) if (i0, step) == (-6, 1) else None
    transform, cut = exact(transform), exact(transform.crop(i0, j0, (j1 - j0, i1 - i0)))
    assert cut.shape == (j1 - j0, i1 - i0)
    assert cut.grid.displacement.shape == (2, j1 - j0 + 2, i1 - i0 + 2)
    rng = np.random.default_rng(0)
    i = rng.uniform(max(i0, 0) - 0.5, min(i1, 48) - 0.5, 500)
    j = rng.uniform(max(j0, 0) - 0.5, min(j1, 40) - 0.5, 500)
    old, new = transform.pixel_to_plane(i, j), cut.pixel_to_plane(i - i0, j - j0)
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-11)
    np.testing.assert_allclose(cut.pixel_area(i - i0, j - j0), transform.pixel_area(i, j), rtol=1e-10)
    assert round_trip(cut, *points(cut.shape, margin=10)) < 1e-8
    if jitted:
        np.testing.assert_allclose(jitted.grid.inverse, cut.grid.inverse, rtol=0, atol=1e-6)
        np.testing.assert_allclose(jitted.pixel_to_plane(i - i0, j - j0), old, rtol=0, atol=1e-11)


def test_crop_beyond_the_frame_keeps_the_old_edge():
    transform, cut = exact(mild()), exact(mild().crop(-6, -3, (55, 62)))
    i, j = points((40, 48), margin=3)  # also outside the frame
    np.testing.assert_allclose(cut.pixel_to_plane(i + 6, j + 3), transform.pixel_to_plane(i, j), rtol=0, atol=1e-11)
    np.testing.assert_allclose(cut.pixel_area(i + 6, j + 3), transform.pixel_area(i, j), rtol=1e-10)


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_rebin(k, step):
    transform = mild((43, 47), step=step)
    transform, binned = exact(transform), exact(transform.rebin(k))
    ny, nx = 43 // k, 47 // k
    assert binned.shape == (ny, nx)
    i, j = np.meshgrid(np.arange(nx * 1.0), np.arange(ny * 1.0))
    tolerance = 0.2 * (1e-3 if k % 2 == 0 and step == 1 else 2) * float(transform.accuracy)
    if k % 2 and step == 1:
        tolerance = 1e-10
    truth = exact(mild((43, 47))) if step == 1 else transform
    # even blocks are centred between nodes, where the polynomial itself is the truth
    old = _by_polynomial(truth, k * i + (k - 1) / 2, k * j + (k - 1) / 2)
    np.testing.assert_allclose(binned.pixel_to_plane(i, j), old, rtol=0, atol=tolerance)
    area = transform.pixel_area(*np.meshgrid(np.arange(47.0), np.arange(43.0)))[: ny * k, : nx * k]
    np.testing.assert_allclose(binned.pixel_area(i, j), area.reshape(ny, k, nx, k).sum((1, 3)), rtol=1e-9)
    assert round_trip(binned, *points((ny, nx), margin=1)) < 1e-8
    # at the frame's own border
    edge = np.arange(ny * 1.0)
    old = transform.pixel_to_plane(np.full(ny, -0.5), k * edge + (k - 1) / 2)
    border = binned.pixel_to_plane(np.full(ny, -0.5), edge)
    np.testing.assert_allclose(border, old, rtol=0, atol=0.4 * float(transform.accuracy))


def _by_polynomial(transform, i, j):
    u, v = i - transform.crpix[0], j - transform.crpix[1]
    powers = np.argwhere((transform.a != 0) | (transform.b != 0))
    di, dj = [sum(c[p, q] * u**p * v**q for p, q in powers) for c in (transform.a, transform.b)]
    return transform.linear.pixel_to_plane(i + di, j + dj)


def test_rebinned_coefficients_describe_the_rebinned_frame():
    binned = exact(mild((48, 48)).rebin(3))
    assert polynomial_error(binned) < 1e-10
    again = exact(make_sip(binned.shape, binned.a, binned.b, cd=binned.cd, crpix=binned.crpix))
    i, j = np.meshgrid(np.arange(16.0), np.arange(16.0))
    np.testing.assert_allclose(binned.pixel_to_plane(i, j), again.pixel_to_plane(i, j), rtol=0, atol=1e-10)


def test_image_crop_and_rebin():
    rng = np.random.default_rng(3)
    image = jp.make_image(rng.normal(size=(40, 48)), std=1.0, transform=mild())
    cut = jp.crop(image, (30, 60, -5, 20))
    assert cut.shape == cut.transform.shape == (25, 30)
    assert jp.rebin(image, 4).pixel_area_map.shape == (10, 12)
    stack = jp.stack_images([image, image])
    cuts = jp.crop(stack, (30, 60, -5, 20))
    np.testing.assert_allclose(cuts.transform.grid.inverse[1], cut.transform.grid.inverse, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        jp.rebin(stack, 4).transform.grid.area[0], jp.rebin(image, 4).transform.grid.area, rtol=1e-12
    )


# ---- coefficients for headers


@pytest.mark.parametrize("name", HEADERS)
def test_inverse_coefficients(tables, name):
    transform, t, _ = tables(name)
    for accuracy in (1e-2, 1e-4, 1e-7):
        ap, _, error = fit_inverse_coefficients(transform, accuracy)
        assert error <= accuracy
        u = t["inv_x"] - np.asarray(transform.crpix[0])
        # the tables' exact undistorted positions
        plane = np.stack([t["inv_xi_arcsec"], t["inv_eta_arcsec"]])
        big_u, big_v = np.linalg.solve(np.asarray(transform.cd), plane)
        ours = big_u + sum(ap[p, q] * big_u**p * big_v**q for p, q in np.argwhere(ap != 0))
        assert np.max(np.abs(ours - u)) < 1.5 * accuracy
    assert order_of(ap) <= 9


def test_inverse_coefficients_of_a_strong_distortion_state_their_error():
    _, _, error = fit_inverse_coefficients(strong(), 1e-9)
    assert 1e-9 < error < 0.1


def test_forward_coefficients_are_found_again():
    transform = mild()
    a, _, error = fit_coefficients(transform, 1e-9)
    assert error < 1e-9
    np.testing.assert_allclose(a, transform.a, rtol=0, atol=1e-10)
    assert polynomial_error(transform) < 1e-10
    assert polynomial_error(replace(transform, a=transform.a.at[2, 0].add(1e-4))) > 1e-2


def test_fit_polynomial_scales():
    u, v = np.meshgrid(np.linspace(0, 4096, 30), np.linspace(0, 4096, 30))
    values = 1e-17 * u**5 - 3e-9 * u * v**2
    (c,), error = fit_polynomial(u.ravel(), v.ravel(), values.ravel()[:, None], 1e-6)
    assert error < 1e-6
    assert c[5, 0] == pytest.approx(1e-17, rel=1e-5)


# ---- images


def sersic_scene():
    return jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)


def test_uniform_source_is_uniform():
    for transform in (mild(), strong()):
        image = jp.make_image(np.zeros(transform.shape), std=1.0, transform=transform)
        pixels = jp.render(jp.models.flat_sky, {"I0": 3.0}, image)
        np.testing.assert_allclose(pixels / image.pixel_area_map, 3.0, rtol=1e-6)
        assert float(image.pixel_area_map.max() / image.pixel_area_map.min()) > 1.01


def test_uniform_light_through_a_psf_is_uniform():
    """As an extended source it goes through the convolution, with cells outside the frame."""
    transform = mild()
    uniform = jp.radial(constant)
    for k in (1, 3):
        psf = jp.make_psf(np.exp(-0.5 * ((np.indices((7 * k, 7 * k)) - 3 * k) ** 2).sum(0) / k**2), oversample=k)
        image = jp.make_image(np.zeros((40, 48)), std=1.0, transform=transform, psf=psf)
        params = {"center": jnp.zeros(2), "q": 0.9, "PA": 0.0, "level": 2.0}
        pixels = jp.render(uniform, params, image, sampling=jp.sampling.midpoint())
        # the PSF mixes areas of neighbours, which vary by less than a per mille a pixel
        np.testing.assert_allclose(pixels / image.pixel_area_map, 2.0, rtol=5e-3)


def constant(r, *, level):
    return level + 0 * r


@pytest.mark.parametrize("name", HEADERS)
def test_sersic_over_curved_pixels(tables, data_dir, name):
    transform, _, facts = tables(name)
    facts = facts["sersic_stamp"]
    (i0, j0), shape = facts["stamp_origin_xy"], tuple(facts["shape"])
    with np.load(data_dir / "sip" / f"sip_{name}_sersic.npz") as arrays:
        truth = arrays["image"]
    image = jp.make_image(np.zeros(shape), std=1.0, transform=transform.crop(i0, j0, shape))
    params = {
        "center": [facts["X_arcsec"], facts["Y_arcsec"]],
        "q": facts["q"],
        "PA": np.deg2rad(90 - facts["theta_deg"]),
        "n": facts["n"],
        "Re": facts["Re_maj_arcsec"],
        "Ie": facts["Ie_per_arcsec2"],
    }
    pixels = np.asarray(jp.render(jp.models.sersic, params, image, sampling=jp.sampling.quad(12)))
    peak = np.unravel_index(np.argmax(truth), shape)
    away = np.maximum(*np.abs(np.indices(shape) - np.asarray(peak)[:, None, None])) > 2
    assert np.max(np.abs(pixels / truth - 1)[away]) < 5e-5  # the grid's 1e-5 pixels
    assert np.max(np.abs(pixels - truth)) < 1e-3 * truth.max()  # the quadrature at the cusp
    assert abs(pixels.sum() / truth.sum() - 1) < 1e-4


PLACES = [(127.0, 128.0), (24.3, 20.1), (230.2, 25.7), (26.6, 232.4), (231.1, 229.8)]
GALAXY = {"q": 0.6, "PA": 0.7, "n": 2.0, "Re": 4.0, "Ie": 30.0}


@pytest.fixture(scope="module")
def injected(tables):
    """Five cutouts of a SIP frame with a galaxy each, and their true parameters."""
    transform, _, _ = tables("spitzer_irac_m51")
    rng = np.random.default_rng(5)
    images, truths = [], []
    for i, j in PLACES:
        ra, dec = jp.pixel_to_sky(transform, i, j)
        center = jnp.stack(jp.sky_to_plane(jnp.asarray(ra), jnp.asarray(dec), transform.crval, transform.crval_lo))
        truth = {"galaxy": {"center": center, **GALAXY}, "sky": {"I0": 1.0}}
        window = round(i) - 20, round(i) + 21, round(j) - 20, round(j) + 21
        cutout = transform.crop(window[0], window[2], (41, 41))
        blank = jp.make_image(np.zeros((41, 41)), std=0.5, transform=cutout)
        noise = rng.normal(size=(41, 41)) * 0.5
        images.append(replace(blank, data=jp.render(sersic_scene(), truth, blank) + noise))
        truths.append(truth)
    return images, truths


def starts_of(truths):
    factors = {"q": 1.1, "PA": 0.95, "n": 0.9, "Re": 1.1, "Ie": 0.9}
    starts = []
    for truth in truths:
        galaxy = {name: jnp.asarray(truth["galaxy"][name] * factor) for name, factor in factors.items()}
        starts.append(
            {"galaxy": {"center": truth["galaxy"]["center"] + 0.3, **galaxy}, "sky": {"I0": jnp.asarray(0.8)}}
        )
    return starts


@pytest.fixture(scope="module")
def fitted(injected):
    images, truths = injected
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts_of(truths))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jax.vmap(lambda p, im: jp.fit(sersic_scene(), p, im))(starts, jp.stack_images(images))


@pytest.mark.full
def test_injected_galaxies_are_recovered(injected, fitted):
    _, truths = injected
    pulls = []
    for n, truth in enumerate(truths):
        for name in (*GALAXY, "center"):
            error = fitted.params["galaxy"][name][n] - jnp.asarray(truth["galaxy"][name])
            pulls.extend(np.atleast_1d(error / fitted.stderr["galaxy"][name][n]))
    assert np.max(np.abs(pulls)) < 4
    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.5
    assert np.all(np.asarray(fitted.chi2) / np.asarray(fitted.dof) < 1.2)


@pytest.mark.full
def test_linear_frame_sees_the_same_galaxy(injected, fitted):
    """The galaxy of the most distorted corner, put into a linear frame of its own."""
    _, truths = injected
    linear = jp.make_linear(cd=[[0.9, 0.8], [0.8, -0.9]], crpix=(20, 20), crtan=truths[4]["galaxy"]["center"])
    blank = jp.make_image(np.zeros((41, 41)), std=0.5, transform=linear)
    image = replace(blank, data=jp.render(sersic_scene(), truths[4], blank))
    fit = jp.fit(sersic_scene(), starts_of(truths)[4], image)
    for name, value in fit.params["galaxy"].items():
        difference = np.abs(fitted.params["galaxy"][name][4] - value)
        assert np.all(difference < 4 * fitted.stderr["galaxy"][name][4])


# ---- stacks


def sip_image(seed, shape=(40, 48), psf=None, **options):
    rng = np.random.default_rng(seed)
    return jp.make_image(rng.normal(size=shape), std=1.0, transform=mild(shape, seed, 2 + seed % 3, **options), psf=psf)


def test_stack_and_unstack():
    psf = np.ones((3, 3))
    images = [sip_image(seed, psf=psf, crpix=(20.0 + seed, 10.0)) for seed in range(3)]
    back = jp.unstack_images(jp.stack_images(images))
    for image, other in zip(images, back, strict=True):
        assert jax.tree.structure(image) == jax.tree.structure(other)
        for leaf, leaf_other in zip(jax.tree.leaves(image), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(leaf, leaf_other)


def test_padded_stack_renders_the_same():
    images = [sip_image(0, (40, 48)), sip_image(1, (33, 20)), sip_image(2, (21, 48), step=3)]
    psf = jp.make_psf(np.exp(-0.5 * ((np.indices((9, 9)) - 4) ** 2).sum(0)))
    images = [replace(image, psf=psf) for image in images]
    stack = jp.stack_images(images, pad=True)
    assert stack.data.shape == (3, 40, 48)
    params = {"center": jnp.asarray([0.5, 0.5]), "q": 0.8, "PA": 0.3, "n": 1.0, "Re": 1.0, "Ie": 5.0}
    rule = jp.sampling.quad(2)
    together = jax.vmap(lambda image: jp.render(jp.models.sersic, params, image, sampling=rule))(stack)
    for number, image in enumerate(images):
        alone = jp.render(jp.models.sersic, params, image, sampling=rule)
        ny, nx = image.shape
        np.testing.assert_allclose(together[number, :ny, :nx], alone, rtol=1e-9, atol=1e-12)
        assert float(stack.ivar[number].sum()) == ny * nx


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: jp.make_image(np.zeros((40, 48)), std=1.0, pixelscale=0.2), "transform is Linear, not SIP"),
        (lambda: sip_image(1, (40, 47)), r"data is \(40, 47\).*pad=True"),
        (lambda: sip_image(1, step=2), "transform.grid.displacement"),
        (lambda: sip_image(1, psf=np.ones((3, 3))), "psf is present"),
    ],
)
def test_what_cannot_be_stacked(other, words):
    with pytest.raises(ValueError, match=words):
        jp.stack_images([sip_image(0), other()])


# ---- bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": {(2, 0): np.nan}}, r"a\[2, 0\]: expected a finite number"),
        ({"b": {(5, 5): 1e-30}}, r"b\[5, 5\]: its order 10 is above 9"),
        ({"a": {(10, 0): 1e-30}}, "order 10"),
        ({"a": {"2_0": 1e-5}}, r"keys \(p, q\)"),
        ({"a": {(-1, 2): 1e-5}}, r"keys \(p, q\)"),
        ({"a": np.zeros((3, 4))}, "square array"),
        ({"ap": {(1, 1): np.inf}}, r"ap\[1, 1\]"),
        ({"crpix": None}, "crpix: missing"),
        ({"crpix": (1.0, np.nan)}, "crpix"),
        ({"pixelscale": None}, "cd .* or pixelscale"),
        ({"cd": np.eye(2)}, "not both"),
        ({"shape": (0, 5)}, "shape"),
        ({"shape": 5}, "shape"),
        ({"step": 0}, "step"),
        ({"a": {(2, 0): 0.02}}, r"folds the frame.*pixel \(i, j\) = \(0, \d+\)"),
        ({"a": {(2, 0): -0.02}}, r"folds the frame.*pixel \(i, j\) = \(63, \d+\)"),
        ({"a": {(2, 0): -0.02}, "step": 8}, r"folds the frame.*pixel \(i, j\) = \(63, \d+\)"),
        ({"a": {(1, 0): -1.0}}, "folds the frame"),
        ({"crval": (10.0, 95.0)}, "crval"),
    ],
)
def test_bad_input(change, words):
    options = {"shape": (64, 64), "a": {}, "b": {}, "pixelscale": 0.5, "crpix": (32, 32)} | change
    with pytest.raises(ValueError, match=words):
        make_sip(options.pop("shape"), options.pop("a"), options.pop("b"), **options)


def test_a_map_that_meets_itself_is_refused():
    """The Jacobian is positive everywhere, but the frame is wound up so far that its ends overlap."""
    a, b = _complex_exponential(2.2)
    with pytest.raises(ValueError, match="cannot be inverted"):
        make_sip((80, 80), a, b, pixelscale=1.0, crpix=(40, 40))


def _complex_exponential(turns):
    """Taylor coefficients, order 9, of z → (exp(κ z) − 1) / κ with κ imaginary: a strip bent into a ring."""
    kappa = 1j * turns * np.pi / 80
    a, b = {}, {}
    coefficient = 1.0
    for m in range(2, 10):
        coefficient = coefficient * kappa / m
        for q in range(m + 1):
            value = coefficient * _binomial(m, q) * 1j**q
            a[(m - q, q)], b[(m - q, q)] = a.get((m - q, q), 0) + value.real, b.get((m - q, q), 0) + value.imag
    return a, b


def _binomial(m, q):
    return int(np.prod(np.arange(m - q + 1, m + 1)) // np.prod(np.arange(1, q + 1)))


def test_image_of_another_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"transform: it was made for an image of shape \(40, 48\), but data is \(48, 40\)"
    ):
        jp.make_image(np.zeros((48, 40)), std=1.0, transform=mild())
