"""CMOS pixels: every kind of light is collected by the footprints, with and without a PSF."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxphot as jp
from jaxphot.numerics import gauss_legendre
from jaxphot.transforms.cmos import CMOS, make_cmos
from jaxphot.transforms.sip import make_sip

FOOTPRINTS = [((-0.1, -0.1), 0.8), ((0.2, -0.1), (0.5, 0.7))]
SHAPE = (45, 60)


def linear(**options):
    return jp.make_linear(**({"pixelscale": 1.0} | options))


def sip(shape=SHAPE):
    a, b = {(2, 0): 3e-5, (1, 1): -4e-5, (0, 3): 2e-7}, {(0, 2): -5e-5, (2, 1): 3e-7}
    return make_sip(shape, a, b, cd=[[-0.5, 0.1], [0.1, 0.5]], crpix=(20, 30))


def blank(transform, shape=SHAPE, **options):
    return jp.make_image(np.zeros(shape), std=1.0, transform=transform, **options)


def brute_force(brightness, transform, loc, scale, shape, nodes=24):
    """Flux in every footprint from a fine Gauss–Legendre rule on NumPy alone."""
    scale = np.broadcast_to(scale, 2)
    node, weight = gauss_legendre(nodes)
    j, i = np.indices(shape, float)
    plain = jax.tree.map(np.asarray, transform)
    total = np.zeros(shape)
    for nj, wj in zip(node, weight, strict=True):
        for ni, wi in zip(node, weight, strict=True):
            x, y = plain.pixel_to_plane(i + loc[0] + scale[0] * ni, j + loc[1] + scale[1] * nj)
            area = plain.pixel_area(i + loc[0] + scale[0] * ni, j + loc[1] + scale[1] * nj)
            total += wi * wj * brightness(x, y) * area
    return total * scale[0] * scale[1]


GALAXY = {"center": [30.4, 22.8], "q": 0.6, "PA": np.deg2rad(35.0), "n": 1.0, "Re": 4.0, "Ie": 3.0}


def galaxy(x, y, center=(30.4, 22.8), re=4.0):
    dx, dy = x - center[0], y - center[1]
    pa = GALAXY["PA"]
    along, across = dx * np.sin(pa) + dy * np.cos(pa), dx * np.cos(pa) - dy * np.sin(pa)
    return 3.0 * np.exp(-1.6783469900166605 * (np.hypot(along, across / 0.6) / re - 1))


# ---- without a PSF


@pytest.mark.parametrize("name", ["cmos_s0.8_loc0.0_0.0", "cmos_s0.6_loc0.15_-0.1"])
def test_against_exact_integration(truth, name):
    cases, arrays = truth("sersic_cmos")
    case, expected = cases[name], arrays[name]
    image = blank(make_cmos(linear(), case["subpixel_loc_xy"], case["subpixel_scale"]), tuple(case["shape"]))
    params = {
        "center": [case["x"], case["y"]],
        "q": case["q"],
        "PA": np.deg2rad(90 - case["theta_deg"]),
        "n": case["n"],
        "Re": case["Re_maj_pix"],
        "Ie": case["Ie_per_pixel2"],
    }
    pixels = np.asarray(jp.render(jp.models.sersic, params, image, sampling=jp.sampling.quad(5)))
    j, i = np.indices(expected.shape)
    away = np.maximum(abs(i - round(case["x"])), abs(j - round(case["y"]))) > 1
    assert np.max(np.abs(pixels / expected - 1)[away]) < 1e-4
    finest = np.asarray(jp.render(jp.models.sersic, params, image, sampling=jp.sampling.quad(25)))
    assert np.max(np.abs(finest - expected)) < 5e-4 * expected.max()


@pytest.mark.parametrize(("loc", "scale"), FOOTPRINTS)
@pytest.mark.parametrize("kind", [linear, sip])
def test_against_brute_force(kind, loc, scale):
    transform = kind()
    center = np.asarray(transform.pixel_to_plane(30.4, 22.8))
    re = 4.0 if kind is linear else 2.0
    expected = brute_force(lambda x, y: galaxy(x, y, center, re), transform, loc, scale, SHAPE)
    params = GALAXY | {"center": center, "Re": re}
    image = blank(make_cmos(transform, loc, scale))
    pixels = np.asarray(jp.render(jp.models.sersic, params, image, sampling=jp.sampling.quad(5)))
    j, i = np.indices(SHAPE)
    away = np.maximum(abs(i - 30), abs(j - 23)) > 1
    assert np.max(np.abs(pixels / expected - 1)[away]) < 1e-4
    assert np.max(np.abs(pixels - expected)) < 2e-3 * expected.max()


@pytest.mark.parametrize(
    "rule", [jp.sampling.midpoint(), jp.sampling.simpsons(), jp.sampling.quad(2), jp.sampling.upsample(3)]
)
def test_every_rule_samples_the_footprint(rule):
    """A tilted plane of light is integrated exactly by all of them; its mean is that at the footprint's centre."""
    loc, scale = FOOTPRINTS[1]
    image = blank(make_cmos(linear(), loc, scale), (6, 7))
    pixels = jp.render(jp.models.plane_sky, {"I0": 2.0, "delta": [0.3, -0.2]}, image, sampling=rule)
    j, i = np.indices((6, 7))
    expected = (2 + 0.3 * (i + loc[0]) - 0.2 * (j + loc[1])) * 0.35
    np.testing.assert_allclose(pixels, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [linear, sip])
def test_sky_and_area(kind):
    inner = kind()
    image = blank(make_cmos(inner, *FOOTPRINTS[1]))
    j, i = np.indices(SHAPE, float)
    np.testing.assert_allclose(image.pixel_area_map, inner.pixel_area(i + 0.2, j - 0.1) * 0.35, rtol=1e-12)
    for psf in (None, jp.make_psf(np.ones((3, 3)))):
        pixels = jp.render(jp.models.flat_sky, {"I0": 3.0}, replace(image, psf=psf))
        np.testing.assert_allclose(pixels, 3 * image.pixel_area_map, rtol=1e-12)


# ---- with a PSF


def moffat(r2):
    return (1 + r2 / 2.25) ** -3.0


def stamp(k, radius=10):
    """Moffat, FWHM 1.53 px, sampled k times a pixel."""
    axis = np.arange(-radius * k, radius * k + 1) / k
    return jp.make_psf(moffat(axis[:, None] ** 2 + axis**2), oversample=k)


def integrated_stamp(k, radius=10):
    """The same, integrated over cells."""
    node, weight = gauss_legendre(6)
    axis = np.arange(-radius * k, radius * k + 1) / k
    fine = (axis[:, None] + node / k).ravel()
    values = moffat(fine[:, None] ** 2 + fine**2).reshape(len(axis), 6, len(axis), 6)
    return jp.make_psf(np.einsum("aibj,i,j->ab", values, weight, weight), oversample=k, integrated=True)


@pytest.mark.parametrize(("loc", "scale"), FOOTPRINTS)
@pytest.mark.parametrize(("k", "tolerance"), [(1, 3e-2), (3, 1e-3), (4, 1e-3)])
def test_blurred_first_collected_afterwards(loc, scale, k, tolerance):
    """Against a convolution on cells of 1/20 pixel, of which those in the footprint are summed."""
    fine, pad, (ny, nx) = 20, 11, (15, 17)
    sides = [(side + 2 * pad) * fine for side in (ny, nx)]
    y, x = [(np.arange(n) + 0.5) / fine - 0.5 - pad for n in sides]
    params = GALAXY | {"center": [8.3, 7.2], "Re": 2.5}
    light = galaxy(x[None, :], y[:, None], (8.3, 7.2), 2.5) / fine**2
    axis = np.arange(-10 * fine, 10 * fine + 1) / fine
    kernel = moffat(axis[:, None] ** 2 + axis**2)
    sizes = [n + len(axis) - 1 for n in sides]
    blurred = np.fft.irfft2(np.fft.rfft2(light, sizes) * np.fft.rfft2(kernel / kernel.sum(), sizes), sizes)
    half = len(axis) // 2
    blurred = blurred[half : half + sides[0], half : half + sides[1]]
    scales = np.broadcast_to(scale, 2)
    weights = [
        _overlap(coordinates, number, loc[axis], scales[axis], fine)
        for axis, (coordinates, number) in enumerate([(x, nx), (y, ny)])
    ]
    expected = weights[1] @ blurred @ weights[0].T
    image = blank(make_cmos(linear(), loc, scale), (ny, nx), psf=stamp(k))
    pixels = np.asarray(jp.render(jp.models.sersic, params, image, sampling=jp.sampling.quad(5)))
    assert np.max(np.abs(pixels - expected)) < tolerance * expected.max()


def _overlap(x, n, loc, scale, fine):
    """Share of each fine cell in the footprint of each pixel, (n, cells)."""
    low = np.arange(n)[:, None] + loc - scale / 2
    left = x[None, :] - 0.5 / fine
    return np.clip((np.minimum(left + 1 / fine, low + scale) - np.maximum(left, low)) * fine, 0, 1)


def gaussian(sigma, radius):
    return jp.make_psf(np.exp(-0.5 * ((np.indices((2 * radius + 1,) * 2) - radius) ** 2).sum(0) / sigma**2))


@pytest.mark.parametrize(("loc", "scale"), FOOTPRINTS)
@pytest.mark.parametrize("psf", [gaussian(1.5, 10), stamp(3, 6)], ids=["native", "oversampled"])
def test_star_flux_over_phase(loc, scale, psf):
    """Averaged over all sub-pixel phases, a star gives flux · si · sj (a native stamp must be well sampled)."""
    image = blank(make_cmos(linear(), loc, scale), (41, 41), psf=psf)
    phases = (np.arange(6) + 0.25) / 6
    centers = jnp.asarray([[20 + a, 20 + b] for a in phases for b in phases])
    draw = jax.jit(
        jax.vmap(lambda center: jp.render(jp.models.point_source, {"center": center, "flux": 7.0}, image).sum())
    )
    si, sj = np.broadcast_to(scale, 2)
    assert float(draw(centers).mean()) == pytest.approx(7.0 * si * sj, rel=1e-6)


@pytest.mark.parametrize(("loc", "scale"), FOOTPRINTS)
def test_star_is_collected_by_the_footprint(loc, scale):
    """Against the PSF's own integral over each footprint."""
    center = (8.3, 7.2)
    image = blank(make_cmos(linear(), loc, scale), (15, 17), psf=integrated_stamp(4))
    pixels = np.asarray(jp.render(jp.models.point_source, {"center": center, "flux": 5.0}, image))
    psf = lambda x, y: moffat((x - center[0]) ** 2 + (y - center[1]) ** 2)  # noqa: E731
    expected = brute_force(psf, linear(), loc, scale, (15, 17), nodes=10)
    axis = np.arange(-100, 101) / 10
    expected *= 5.0 / (moffat(axis[:, None] ** 2 + axis**2).sum() / 100)
    assert np.max(np.abs(pixels - expected)) < 1e-3 * expected.max()


def test_full_footprint_is_a_plain_pixel():
    for psf in (None, stamp(2, 4)):
        plain, cmos = [blank(t, (20, 21), psf=psf) for t in (linear(), make_cmos(linear()))]
        model = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
        params = {"galaxy": GALAXY | {"center": [9.0, 10.2]}, "sky": {"I0": 1.0}}
        rule = jp.sampling.quad(2)
        np.testing.assert_allclose(
            jp.render(model, params, cmos, sampling=rule), jp.render(model, params, plain, sampling=rule), rtol=1e-10
        )


# ---- transforms


def test_composes_with_sip():
    inner = sip()
    cmos = make_cmos(inner, *FOOTPRINTS[0])
    i, j = jnp.asarray([3.2, 40.0]), jnp.asarray([10.0, 44.3])
    np.testing.assert_array_equal(cmos.pixel_to_plane(i, j), inner.pixel_to_plane(i, j))
    np.testing.assert_array_equal(
        cmos.plane_to_pixel(*cmos.pixel_to_plane(i, j)), inner.plane_to_pixel(*inner.pixel_to_plane(i, j))
    )
    assert cmos.whole is inner
    assert cmos.shape == SHAPE
    cut = cmos.crop(5, 6, (10, 12))
    assert cut.shape == (10, 12)
    np.testing.assert_array_equal(cut.loc, cmos.loc)
    np.testing.assert_allclose(cut.pixel_area(2.0, 3.0), cmos.pixel_area(7.0, 9.0), rtol=1e-12)
    with pytest.raises(ValueError, match="made for an image of shape"):
        blank(cmos, (20, 20))


def test_crop_of_an_image_keeps_its_pixels():
    image = blank(make_cmos(linear(), *FOOTPRINTS[1]))
    cut = jp.crop(image, (20, 45, -4, 30))
    rule = jp.sampling.quad(2)
    pixels = jp.render(jp.models.sersic, GALAXY, image, sampling=rule)
    np.testing.assert_allclose(
        jp.render(jp.models.sersic, GALAXY, cut, sampling=rule)[4:], pixels[:30, 20:45], rtol=1e-10
    )


def test_rebin_is_refused():
    image = blank(make_cmos(linear(), scale=0.5))
    with pytest.raises(ValueError, match="cannot be rebinned: the 3×3 sensitive parts"):
        jp.rebin(image, 3)
    assert jp.rebin(image, 1).shape == SHAPE


def test_float32_and_sky():
    cmos = make_cmos(linear(crval=(10.0, 20.0), dtype=np.float32), *FOOTPRINTS[0])
    image = jp.make_image(np.zeros((5, 5), np.float32), std=1.0, transform=cmos)
    assert {leaf.dtype for leaf in jax.tree.leaves(image)} == {jnp.dtype("float32")}
    ra, dec = jp.pixel_to_sky(image.transform, 0.0, 0.0)
    np.testing.assert_allclose([ra, dec], [10.0, 20.0], rtol=0, atol=1e-12)
    assert jp.render(jp.models.flat_sky, {"I0": 1.0}, image).dtype == jnp.float32


@pytest.mark.full
def test_stack_of_different_footprints_fits_as_one_by_one():
    """SIP + CMOS, different coefficients and footprints, one compiled call."""
    images, starts, model = [], [], jp.models.sersic
    for seed, (loc, scale) in enumerate(FOOTPRINTS):
        a, b = {(2, 0): 1e-4 * seed, (0, 2): 5e-5}, {(1, 1): 1e-4, (0, 3): 1e-6 * seed}
        transform = make_cmos(make_sip((25, 26), a, b, pixelscale=1.0, crpix=(12, 12)), loc, scale)
        image = blank(transform, (25, 26), psf=stamp(1, 3))
        truth = {"center": jnp.asarray([0.3, -0.4]), "q": 0.7, "PA": 0.5, "n": 1.0, "Re": 3.0, "Ie": 5.0}
        noise = np.random.default_rng(seed).normal(size=(25, 26)) * 0.05
        images.append(replace(image, data=jp.render(model, truth, image) + noise, ivar=image.ivar * 400))
        starts.append({name: jnp.asarray(value, float) * 1.05 for name, value in truth.items()})
    rule = jp.sampling.quad(2)
    stack = jp.stack_images(images)
    assert isinstance(stack.transform, CMOS)
    together = jax.vmap(lambda p, im: jp.fit(model, p, im, fixed={"n": None}, sampling=rule))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts), stack
    )
    alone = jp.fit(model, starts[1], images[1], fixed={"n": None}, sampling=rule)
    for name, value in alone.params.items():
        np.testing.assert_allclose(together.params[name][1], value, rtol=1e-6, atol=1e-7)
    error = together.params["center"] - jnp.asarray([[0.3, -0.4]])
    assert np.all(np.abs(error / together.stderr["center"]) < 4)


def test_stack_names_the_wrapped_transform():
    plain = blank(make_cmos(linear()))
    with pytest.raises(ValueError, match=r"transform is CMOS\(SIP\), not CMOS\(Linear\)"):
        jp.stack_images([plain, blank(make_cmos(sip()))])


# ---- bad input


@pytest.mark.parametrize(
    ("loc", "scale", "words"),
    [
        ((0.2, 0.0), 0.8, "leaves its pixel"),
        ((0.0, -0.3), (1.0, 0.5), "leaves its pixel"),
        ((0.0, 0.0), 1.1, "leaves its pixel"),
        ((0.0, 0.0), 0.0, "positive sides"),
        ((0.0, 0.0), (0.5, -0.5), "positive sides"),
        ((0.0, np.nan), 0.5, "loc"),
        ((0.0,), 0.5, "loc"),
        ((0.0, 0.0), (0.5, 0.5, 0.5), "scale"),
    ],
)
def test_bad_footprints(loc, scale, words):
    with pytest.raises(ValueError, match=words):
        make_cmos(linear(), loc, scale)


def test_bad_transforms():
    with pytest.raises(ValueError, match="a footprint already"):
        make_cmos(make_cmos(linear()))
    with pytest.raises(TypeError, match="transform"):
        make_cmos(json)
