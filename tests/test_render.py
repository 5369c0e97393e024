"""Pixels against exact integrals (data/truth), against convolution by hand, and against what the sky looks like."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.signal import convolve

import jaxphot as jp

QUAD3 = jp.sampling.quad(3)


def blank(shape, **options):
    return jp.make_image(np.zeros(shape), std=1.0, **options)


def gaussian_stamp(shape, center, sigma=1.3, lopsided=0.0):
    """A Gaussian, and a part of it put off to one side."""
    v, u = np.mgrid[: shape[0], : shape[1]]
    du, dv = u - center[0], v - center[1]
    aside = (du - sigma) ** 2 + (dv - 0.5 * sigma) ** 2
    return np.exp(-0.5 * (du**2 + dv**2) / sigma**2) + lopsided * np.exp(-0.5 * aside / sigma**2)


def params_of(case):
    """Truth's angle is counter-clockwise from +x, on the pixel grid; PA is from +y towards +x."""
    return {
        "center": [case["x"], case["y"]],
        "q": case["q"],
        "PA": np.deg2rad(90 - case["theta_deg"]),
        "n": case["n"],
        "Re": case["Re_maj_pix"],
        "Ie": case["Ie_per_pixel2"],
    }


# --- exact integrals ------------------------------------------------------------------------------------------------


def test_quadrature_converges_to_exact_pixels(truth):
    cases, arrays = truth("sersic_nopsf")
    assert len(cases) == 10
    for name, case in cases.items():
        exact, image = arrays[name], blank(case["shape"])
        j, i = np.indices(exact.shape)
        away = np.maximum(abs(i - round(case["x"])), abs(j - round(case["y"]))) >= 3
        error = {
            n: abs(np.asarray(jp.render(jp.models.sersic, params_of(case), image, jp.sampling.quad(n))) - exact)
            / exact.max()
            for n in (3, 5, 20)
        }
        # b_n is good to 1e-9 at n = 1/2; away from the cusp nothing else is left
        assert error[3][away].max() < 1e-5, name
        assert error[5][away].max() < 2e-8, name
        assert error[20][away].max() < 2e-9, name
        assert error[20].max() < max(2e-9, 0.2 * error[5].max()), name
        assert error[20].max() < {0.5: 2e-9, 1.0: 1e-5, 2.5: 3e-4, 4.0: 1e-2, 6.0: 2e-2}[case["n"]], name


def test_other_rules(truth):
    """Orders of convergence: halving the pixel divides the error by 4 (midpoint) or 16 (Simpson's)."""
    params = {"center": [4.3, 3.9], "q": 0.7, "PA": 0.4, "sigma": 3.0, "flux": 100.0}
    errors = {}
    for scale in (1.0, 0.5):
        side = int(9 / scale)
        transform = jp.make_linear(pixelscale=scale, crpix=(-0.5, -0.5), crtan=(-0.5, -0.5))
        image = blank((side, side), transform=transform)
        exact = jp.render(jp.models.gaussian, params, image, jp.sampling.quad(10))
        for name in ("midpoint", "simpsons"):
            got = jp.render(jp.models.gaussian, params, image, getattr(jp.sampling, name)())
            errors[name, scale] = float(jnp.max(jnp.abs(got - exact)) / scale**2)
        got = jp.render(jp.models.gaussian, params, image, jp.sampling.upsample(2))
        errors["upsample", scale] = float(jnp.max(jnp.abs(got - exact)) / scale**2)
    assert 3.5 < errors["midpoint", 1.0] / errors["midpoint", 0.5] < 4.5
    assert 13 < errors["simpsons", 1.0] / errors["simpsons", 0.5] < 19
    # 2 × 2 midpoints a pixel are midpoints of pixels half the size
    assert 3.5 < errors["midpoint", 1.0] / errors["upsample", 1.0] < 4.5


@pytest.mark.parametrize("key", ["native", "asym"])
def test_native_stamps_convolve_pixels_as_they_are(truth, key):
    """The convention of GALFIT, imfit and AstroPhot: exact pixels convolved with the stamp's values."""
    cases, arrays = truth("sersic_psf")
    psf = jp.make_psf(arrays[f"psf_{key}_25"])
    for name, case in cases.items():
        exact = arrays[f"{name}__{key}"]
        got = jp.render(jp.models.sersic, params_of(case), blank(case["shape"], psf=psf))
        assert np.max(np.abs(got - exact)) < 5e-6 * exact.max(), name


@pytest.mark.full
def test_cells_of_an_oversampled_stamp_by_a_fixed_rule(truth):
    """Truth convolves exact cells with the stamp; what is left is the cusp's integration, by quad(20)."""
    cases, arrays = truth("sersic_psf")
    psf = jp.make_psf(arrays["psf_oversampled3_75"], oversample=3)
    tolerance = {0.5: 2e-9, 1.0: 2e-7, 2.5: 1e-5, 4.0: 1e-4, 6.0: 5e-4}
    for name, case in cases.items():
        exact = arrays[f"{name}__over3"]
        got = jp.render(jp.models.sersic, params_of(case), blank(case["shape"], psf=psf), jp.sampling.quad(20))
        assert np.max(np.abs(got - exact)) < tolerance[case["n"]] * exact.max(), name


def test_a_flipped_kernel_would_be_seen(truth):
    cases, arrays = truth("sersic_psf")
    name = "s01_n0.5_ell"
    flipped = blank(cases[name]["shape"], psf=arrays["psf_asym_25"][::-1, ::-1])
    got = jp.render(jp.models.sersic, params_of(cases[name]), flipped, QUAD3)
    exact = arrays[f"{name}__asym"]
    assert np.max(np.abs(got - exact)) > 1e-2 * exact.max()


def test_integrated_psf_counts_the_pixel_once(truth):
    """Sérsic ⊗ Moffat ⊗ pixel, from the Moffat integrated over cells: ≤ 1e-3 of peak; taken as samples it is worse."""
    cases, arrays = truth("sersic_psf")
    _, stamps = truth("point_sources")
    for name in ("s01_n0.5_ell", "s03_n1_ell"):
        case, exact = cases[name], arrays[f"{name}__continuous"]
        error = {}
        for key, stamp, k in (("native", "psf_effective_native_41", 1), ("cells", "psf_cells5_205", 5)):
            inside = stamps[stamp].sum()  # the stamp lacks the Moffat's far wings
            params = params_of(case) | {"Ie": case["Ie_per_pixel2"] * inside}
            for integrated in (True, False) if k == 1 else (True,):
                psf = jp.make_psf(stamps[stamp], oversample=k, integrated=integrated)
                got = jp.render(jp.models.sersic, params, blank(case["shape"], psf=psf))
                error[key, integrated] = np.max(np.abs(got - exact)) / exact.max()
        assert error["native", True] < 1e-3
        assert error["cells", True] < 1e-3
        assert error["native", False] > 2e-3


def test_sersic_on_rotated_and_mirrored_cd(truth):
    cases, arrays = truth("sersic_cd")
    assert len(cases) == 4
    for name, case in cases.items():
        transform = jp.make_linear(cd=case["cd_arcsec_per_pix"], crpix=case["crpix0"])
        params = {
            "center": [case["X"], case["Y"]],
            "q": case["q"],
            "PA": np.deg2rad(case["pa_east_of_north_deg"]),
            "n": case["n"],
            "Re": case["Re_maj_arcsec"],
            "Ie": case["Ie_per_arcsec2"],
        }
        got = jp.render(jp.models.sersic, params, blank(case["shape"], transform=transform), jp.sampling.quad(20))
        limit = 1e-5 if case["n"] == 1 else 5e-3
        assert np.max(np.abs(got - arrays[name])) < limit * arrays[name].max(), name


@pytest.mark.parametrize(("stamp", "k", "limit"), [("psf_effective_native_41", 1, 1e-3), ("psf_cells5_205", 5, 1e-7)])
@pytest.mark.parametrize("integrated", [True, False])
def test_stars_are_the_stamp_moved(truth, stamp, k, limit, integrated):
    """Exact pixel integrals of a Moffat at sub-pixel places; the stamp is pixel-integrated and is not so again."""
    cases, arrays = truth("point_sources")
    assert len(cases) == 6
    psf = jp.make_psf(arrays[stamp], oversample=k, integrated=integrated)
    total = arrays[stamp].sum()  # the wings beyond the stamp are lost
    for name, case in cases.items():
        star = {"center": [case["x"], case["y"]], "flux": case["flux"] * total}
        got = np.asarray(jp.render(jp.models.point_source, star, blank(case["shape"], psf=psf)))
        error = abs(got - arrays[name]) / arrays[name].max()
        assert error[4:33, 4:37].max() < limit, name  # where the moved stamp covers the frame
        assert error.max() < max(limit, 2e-5), name


# --- convolution by hand --------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("model", "shape"))
def sampled(model, params, transform, shape):
    """Mean brightness × area by quad(3), written out again."""
    nodes, weights = np.polynomial.legendre.leggauss(3)
    i, j = jnp.arange(shape[1], dtype=float)[None, :], jnp.arange(shape[0], dtype=float)[:, None]
    total = jnp.zeros(shape)
    for oi, wi in zip(nodes / 2, weights / 2, strict=True):
        for oj, wj in zip(nodes / 2, weights / 2, strict=True):
            total = total + wi * wj * model(params, *transform.pixel_to_plane(i + oi, j + oj))
    return total * transform.pixel_area(0.0, 0.0)


def by_hand(model, params, image, margin=12):
    """Brightness integrated on cells of a wider frame, direct convolution, block sum: the PSF rule's definition."""
    psf, (ny, nx) = image.psf, image.shape
    k = psf.oversample
    fine = image.transform.crop(-margin, -margin, None)
    fine = jp.make_linear(cd=np.asarray(fine.cd) / k, crpix=(np.asarray(fine.crpix) + 0.5) * k - 0.5, crtan=fine.crtan)
    light = np.asarray(sampled(model, params, fine, (k * (ny + 2 * margin), k * (nx + 2 * margin))))
    blurred = convolve(light, np.asarray(psf.data), mode="full", method="direct")
    cu, cv = (round(float(c)) for c in psf.center)
    blurred = blurred[cv : cv + light.shape[0], cu : cu + light.shape[1]]
    summed = blurred.reshape(ny + 2 * margin, k, nx + 2 * margin, k).sum((1, 3))
    return summed[margin:-margin, margin:-margin]


CD = np.array([[-0.26, 0.05], [0.08, 0.31]])
GALAXY = {"center": jnp.asarray([0.4, -0.7]), "q": 0.5, "PA": 0.9, "Re": 1.2, "Ie": 3.0}


@pytest.mark.parametrize(
    ("k", "stamp", "center"),
    [
        (1, (9, 9), None),
        (1, (8, 8), None),  # even: the centre is the first cell past the middle
        (1, (7, 11), (6.0, 2.0)),
        (2, (10, 10), None),
        (2, (13, 9), (3.0, 7.0)),
        (3, (15, 15), None),
        (4, (11, 12), None),
        (1, (9, 9), (0.0, 8.0)),  # a centre in the corner
    ],
)
def test_convolution_is_the_discrete_sum(k, stamp, center):
    h, w = stamp
    middle = (w // 2, h // 2) if center is None else center
    psf = jp.make_psf(gaussian_stamp(stamp, middle, 1.4 * k, 0.3), oversample=k, center=center)
    if center is None:
        assert_allclose(psf.center, (w // 2, h // 2))
    image = blank((14, 17), transform=jp.make_linear(cd=CD, crpix=(7.2, 6.1), crtan=(0.2, -0.3)), psf=psf)
    wanted = by_hand(jp.models.exponential, GALAXY, image)
    got = jp.render(jp.models.exponential, GALAXY, image, QUAD3)
    assert wanted.max() > 0.1
    assert_allclose(got, wanted, rtol=0, atol=1e-13 * wanted.max())


def test_centre_between_cells_of_an_even_stamp():
    """The same PSF on an odd stamp and on an even one whose stated centre is half-way between cells."""
    scene = jp.scene(galaxy=jp.models.gaussian, star=jp.models.point_source)
    params = {
        "galaxy": {"center": [9.2, 8.1], "q": 0.6, "PA": 0.3, "sigma": 2.0, "flux": 50.0},
        "star": {"center": [5.3, 11.6], "flux": 20.0},
    }
    # σ = 2.2 px leaves 4e-11 at the highest frequency a stamp can hold
    odd = jp.make_psf(gaussian_stamp((31, 31), (15, 15), 2.2))
    even = jp.make_psf(gaussian_stamp((32, 32), (15.5, 15.5), 2.2), center=(15.5, 15.5))
    images = [jp.render(scene, params, blank((19, 18), psf=psf), QUAD3) for psf in (odd, even)]
    assert_allclose(images[0], images[1], rtol=0, atol=1e-9 * np.max(images[0]))


def test_moving_the_stated_centre_moves_everything_back():
    stamp = gaussian_stamp((17, 17), (8, 8), 1.5)
    params = {"center": [9.2, 8.1], "flux": 50.0}
    moved = {"center": [9.2 - 0.3, 8.1 + 0.4], "flux": 50.0}
    one = jp.render(jp.models.point_source, params, blank((19, 18), psf=jp.make_psf(stamp, center=(8.3, 7.6))))
    two = jp.render(jp.models.point_source, moved, blank((19, 18), psf=jp.make_psf(stamp)))
    assert_allclose(one, two, rtol=0, atol=1e-12)


# --- frames ---------------------------------------------------------------------------------------------------------

FIELD = jp.scene(galaxy=jp.models.exponential, star=jp.models.point_source)


def field(galaxy, star):
    return {
        "galaxy": {"center": galaxy, "q": 0.5, "PA": 1.0, "Re": 2.5, "Ie": 30.0},
        "star": {"center": star, "flux": 1e4},
    }


@pytest.mark.parametrize("k", [1, 3])
def test_nothing_wraps_and_light_from_outside_reaches_in(k):
    """A frame shows the same as that part of a larger frame, wherever bright sources stand near or over its edge."""
    sigma = {1: 2.0, 3: 3.0}[k]  # wide enough to be shifted without ripples; 6.5 σ to the stamp's edge
    half = round(6.5 * sigma)
    psf = jp.make_psf(gaussian_stamp((2 * half + 1, 2 * half + 1), (half, half), sigma, 0.2), oversample=k)
    large = blank((50, 54), psf=psf)
    i0, i1, j0, j1 = window = (18, 36, 17, 33)
    small = jp.crop(large, window)
    assert small.shape == (16, 18)
    for galaxy, star in (
        ([i0 + 0.2, j0 - 0.4], [i0 - 1.8, j0 + 5.3]),
        ([i1 + 2.0, j1 + 3.0], [i1 + 2.6, j1 - 0.5]),
        ([i0 - 6.0, j0 + 8.0], [i0 + 4.0, j1 + 4.4]),
        ([i0 - 14.0, j0 - 13.0], [i1 + 11.7, j1 + 9.1]),
        ([i1 - 2.0, j1 - 1.5], [i0 - 17.2, j0 + 3.3]),
    ):
        params = field(galaxy, star)
        wanted = np.asarray(jp.render(FIELD, params, large, QUAD3))
        got = np.asarray(jp.render(FIELD, params, small, QUAD3))
        assert wanted.max() > 100
        assert_allclose(got, wanted[j0:j1, i0:i1], rtol=0, atol=1e-8 * wanted.max())


def test_bright_source_outside_reaches_in_by_the_psf_alone():
    psf = gaussian_stamp((15, 15), (7, 7), 2.0)
    point = {"center": [-3.0, 6.0], "flux": 100.0}
    got = np.asarray(jp.render(jp.models.point_source, point, blank((12, 12), psf=psf)))
    wanted = np.zeros((12, 12))
    wanted[0:12, 0:5] = 100 * psf[1:13, 10:15] / psf.sum()
    assert_allclose(got, wanted, rtol=0, atol=1e-12)
    sharp = {"center": [-3.0, 6.0], "q": 1.0, "PA": 0.0, "sigma": 0.05, "flux": 100.0}
    galaxy = jp.render(jp.models.gaussian, sharp, blank((12, 12), psf=psf), jp.sampling.quad(30))
    assert_allclose(galaxy, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_star_on_a_pixel_is_the_stamp(k):
    side = 8 * k + k % 2 + (k % 2 == 0)
    psf = jp.make_psf(gaussian_stamp((side, side), (side // 2, side // 2), 1.3 * k, 0.2), oversample=k)
    shape = (15, 17)
    # k odd: the stamp's middle cell is the middle of a pixel; k even: a cell's centre is off the pixel's by half a cell
    off = 0.0 if k % 2 else 0.5 / k
    star = {"center": [8.0 + off, 7.0 + off], "flux": 30.0}
    got = jp.render(jp.models.point_source, star, blank(shape, psf=psf))
    cells = np.zeros((k * 15, k * 17))
    u, v = (round((c + 0.5) * k - 0.5) for c in (8.0 + off, 7.0 + off))
    cells[v - side // 2 : v + side // 2 + 1, u - side // 2 : u + side // 2 + 1] = 30 * np.asarray(psf.data)
    assert_allclose(got, cells.reshape(15, k, 17, k).sum((1, 3)), rtol=0, atol=1e-13 * 30)


@pytest.mark.parametrize(("k", "integrated"), [(1, False), (2, False), (1, True)])
def test_flux_is_conserved(k, integrated):
    scene = jp.scene(galaxy=jp.models.gaussian, star=jp.models.point_source)
    psf = jp.make_psf(gaussian_stamp((27 * k, 27 * k), (13 * k, 13 * k), 2.0 * k), oversample=k, integrated=integrated)
    image = blank((41, 43), transform=jp.make_linear(cd=CD, crpix=(20.0, 21.0)), psf=psf)
    params = {
        "galaxy": {"center": [0.3, 0.2], "q": 0.6, "PA": 0.5, "sigma": 0.5, "flux": 70.0},
        "star": {"center": [0.2, -0.3], "flux": 30.0},
    }
    assert_allclose(np.sum(jp.render(scene, params, image, jp.sampling.quad(8))), 100.0, rtol=1e-9)


def test_sky_is_not_convolved():
    transform = jp.make_linear(cd=CD, crpix=(3.0, 4.0), crtan=(1.0, 2.0))
    image = blank((9, 11), transform=transform, psf=gaussian_stamp((7, 7), (3, 3), 1.5, 0.4))
    area = abs(np.linalg.det(CD))
    flat = jp.render(jp.models.flat_sky, {"I0": 3.0}, image)
    assert_allclose(flat, 3.0 * area, rtol=1e-14)
    tilted = jp.render(jp.models.plane_sky, {"I0": 3.0, "delta": [0.4, -0.7]}, image)
    j, i = np.indices((9, 11))
    x, y = (CD[a, 0] * (i - 3.0) + CD[a, 1] * (j - 4.0) + b for a, b in ((0, 1.0), (1, 2.0)))
    assert_allclose(tilted, (3.0 + 0.4 * x - 0.7 * y) * area, rtol=1e-12)
    own = jp.background(lambda x, y, *, I0: I0 * (1 + x**2))
    got = jp.render(own, {"I0": 2.0}, image, QUAD3)
    spread = (CD[0, 0] ** 2 + CD[0, 1] ** 2) / 12  # mean of x² over a pixel, less that at its centre
    assert_allclose(got, 2.0 * (1 + x**2 + spread) * area, rtol=1e-12)


@pytest.mark.parametrize("with_psf", [False, True])
def test_rebinned_image_shows_the_sums(with_psf):
    psf = gaussian_stamp((27, 27), (13, 13), 2.0, 0.2) if with_psf else None
    image = blank((24, 31), transform=jp.make_linear(cd=CD, crpix=(11.0, 12.0)), psf=psf)
    stars = {"star": jp.models.point_source} if with_psf else {}
    scene = jp.scene(galaxy=jp.models.gaussian, sky=jp.models.plane_sky, **stars)
    params = {
        "galaxy": {"center": [0.3, 0.4], "q": 0.6, "PA": 0.5, "sigma": 1.1, "flux": 100.0},
        "sky": {"I0": 1.0, "delta": [0.02, 0.03]},
    }
    if with_psf:
        params["star"] = {"center": [-0.9, 1.1], "flux": 50.0}
    fine = np.asarray(jp.render(scene, params, image, jp.sampling.quad(8)))
    for k in (2, 3):
        rebinned = jp.rebin(image, k)
        ny, nx = rebinned.shape
        wanted = fine[: ny * k, : nx * k].reshape(ny, k, nx, k).sum((1, 3))
        got = jp.render(scene, params, rebinned, jp.sampling.quad(8))
        assert_allclose(got, wanted, rtol=0, atol=1e-9 * wanted.max())


# --- on the sky -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 35.0, 200.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_position_angle_is_true_on_the_sky(angle, mirrored):
    """Moments of the rendered light about its centre, in offsets to East and North from astropy's separations."""
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS

    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 40.0]
    wcs.wcs.crpix = [21.0, 33.0]
    wcs.wcs.cd = rotation @ np.diag([1.0 if mirrored else -1.0, 1.0]) * 0.25 / 3600
    image = blank((51, 47), wcs=wcs)
    center = image.transform.pixel_to_plane(23.4, 25.1)
    params = {"center": [float(c) for c in center], "q": 0.5, "PA": np.deg2rad(30.0), "sigma": 1.0, "flux": 1.0}
    light = np.asarray(jp.render(jp.models.gaussian, params, image))
    assert_allclose(light.sum(), 1.0, rtol=1e-6)

    j, i = np.indices(light.shape)
    sky = wcs.pixel_to_world(i, j)
    here = SkyCoord(*wcs.pixel_to_world_values(23.4, 25.1), unit="deg")
    distance, direction = here.separation(sky).arcsec, here.position_angle(sky).rad
    east, north = distance * np.sin(direction), distance * np.cos(direction)
    ee, nn, en = ((light * product).sum() for product in (east**2, north**2, east * north))
    assert abs(np.rad2deg(0.5 * np.arctan2(2 * en, nn - ee)) - 30.0) < 1e-2
    pixel = 0.25**2 / 12  # the pixel's own second moment
    values = np.linalg.eigvalsh([[ee - pixel, en], [en, nn - pixel]])
    assert_allclose(np.sqrt(values), [0.5, 1.0], rtol=1e-4)


# --- as a function --------------------------------------------------------------------------------------------------


def pixels_of(flat, image):
    params = {
        "galaxy": {"center": flat[:2], "q": flat[2], "PA": flat[3], "Re": flat[4], "Ie": flat[5]},
        "star": {"center": flat[6:8], "flux": flat[8]},
    }
    return jp.render(FIELD, params, image, QUAD3)


FLAT = np.array([9.2, 8.7, 0.5, 1.0, 2.5, 3.0, 11.4, 6.3, 50.0])


def test_derivatives_through_the_psf():
    psf = jp.make_psf(gaussian_stamp((13, 13), (6, 6), 2.0, 0.1), oversample=2)
    image = blank((16, 18), psf=psf)
    value, jacobian = jax.jit(lambda flat: (pixels_of(flat, image), jax.jacfwd(pixels_of)(flat, image)))(FLAT)
    assert_allclose(value, pixels_of(FLAT, image), rtol=0, atol=1e-13 * np.max(value))
    weights = np.random.default_rng(1).normal(size=value.shape)
    backward = jax.jit(jax.grad(lambda flat: jnp.sum(pixels_of(flat, image) * weights)))(FLAT)
    for k in range(len(FLAT)):
        step = 1e-3 * np.eye(len(FLAT))[k]
        near = pixels_of(FLAT + step, image) - pixels_of(FLAT - step, image)
        far = pixels_of(FLAT + 2 * step, image) - pixels_of(FLAT - 2 * step, image)
        reference = np.asarray((8 * near - far) / (12 * 1e-3))
        assert np.max(np.abs(reference)) > 1e-2
        assert_allclose(jacobian[..., k], reference, rtol=0, atol=1e-6 * np.max(np.abs(reference)))
        assert_allclose(backward[k], np.sum(jacobian[..., k] * weights), rtol=1e-9)


def test_vmap_is_a_loop_and_apply_is_render():
    psf = gaussian_stamp((7, 7), (3, 3), 1.2)
    images = [
        blank((16, 18), psf=psf * (1 + 0.1 * k), transform=jp.make_linear(pixelscale=1.0 + 0.1 * k)) for k in range(3)
    ]
    flats = FLAT + 0.05 * np.arange(3)[:, None]
    mapped = jax.jit(jax.vmap(pixels_of))(flats, jp.stack_images(images))
    for k, image in enumerate(images):
        single = pixels_of(flats[k], image)
        assert_allclose(mapped[k], single, rtol=0, atol=1e-12 * np.max(single))
    params = field([9.2, 8.7], [11.4, 6.3])
    prepared = jax.jit(jp.prepare, static_argnums=1)(images[0], QUAD3)
    again = jax.jit(jp.apply, static_argnums=1)(prepared, FIELD, params)
    assert_allclose(again, jp.render(FIELD, params, images[0], QUAD3), rtol=0, atol=1e-11 * np.max(again))


def test_dtype_follows_the_image():
    psf = gaussian_stamp((7, 7), (3, 3), 1.2)
    single = jp.make_image(np.zeros((16, 18), np.float32), std=1.0, psf=psf)
    got = pixels_of(jnp.asarray(FLAT), single)
    assert got.dtype == np.float32
    wanted = np.asarray(pixels_of(FLAT, blank((16, 18), psf=psf)))
    assert_allclose(got, wanted, rtol=0, atol=1e-5 * wanted.max())


def test_order_of_parts_and_empty_light():
    image = blank((8, 9), psf=gaussian_stamp((5, 5), (2, 2)))
    one = jp.scene(a=jp.models.gaussian, b=jp.models.flat_sky)
    two = jp.scene(b=jp.models.flat_sky, a=jp.models.gaussian)
    params = {"a": {"center": [4.0, 4.0], "q": 1.0, "PA": 0.0, "sigma": 1.0, "flux": 5.0}, "b": {"I0": 1.0}}
    assert_allclose(jp.render(one, params, image), jp.render(two, params, image), rtol=1e-13)
    dark = {"center": [4.0, 4.0], "flux": 0.0}
    assert np.all(np.asarray(jp.render(jp.models.point_source, dark, image)) == 0)
