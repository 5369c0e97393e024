"""The linear transform and the gnomonic projection, against astropy.wcs to 1e-9 deg."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import jaxphot as jp
from jaxphot.transforms.linear import Linear

SHAPE = (70, 90)


def header(**changes):
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRPIX1": 40.3,
        "CRPIX2": 12.8,
        "CRVAL1": 150.1,
        "CRVAL2": 2.2,
        "CD1_1": -1e-4,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": 1e-4,
    } | changes
    h = fits.Header()
    for key, value in cards.items():
        if value is not None:
            h[key] = value
    return h


def rotated(degrees, sx=-1e-4, sy=1e-4):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return {"CD1_1": sx * c, "CD1_2": sy * s, "CD2_1": -sx * s, "CD2_2": sy * c}


NO_CD = {"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None}
CASES = {
    "CD": {},
    "rotated": rotated(33.0),
    "mirrored": rotated(120.0, sx=1e-4),
    "non-square": rotated(-70.0, sx=-5e-5, sy=3e-4),
    "sheared": {"CD1_2": 4e-5, "CD2_1": -1e-5},
    "PC + CDELT": NO_CD | {"CDELT1": -2e-4, "CDELT2": 1e-4, "PC1_1": 0.9, "PC1_2": -0.4, "PC2_1": 0.4, "PC2_2": 0.9},
    "CDELT alone": NO_CD | {"CDELT1": -2e-4, "CDELT2": 3e-4},
    "CROTA": NO_CD | {"CDELT1": -2e-4, "CDELT2": 1e-4, "CROTA2": 27.0},
    "swapped axes": {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 2.2, "CRVAL2": 150.1} | rotated(10.0),
    "swapped axes, CROTA": NO_CD
    | {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": -32.2, "CRVAL2": 150.1}
    | {"CDELT1": 1e-4, "CDELT2": -2e-4, "CROTA2": 17.0},
    "far reference pixel": {"CRPIX1": -500.5, "CRPIX2": 1800.25} | rotated(5.0),
    "LONPOLE": {"LONPOLE": 90.0} | rotated(20.0),
    "LONPOLE swapped": {"LONPOLE": 170.0, "CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 2.2, "CRVAL2": 150.1},
    "arcsec": NO_CD
    | {"CUNIT1": "arcsec", "CUNIT2": "arcsec", "CRVAL1": 540000.0, "CRVAL2": 7200.0, "CDELT1": -0.4, "CDELT2": 0.4},
    "galactic": {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"} | rotated(12.0),
    "near the pole": {"CRVAL1": 20.0, "CRVAL2": 89.999},
    "at the pole": {"CRVAL1": 77.0, "CRVAL2": 90.0},
    "south pole": {"CRVAL1": 300.0, "CRVAL2": -89.9995} | rotated(48.0),
    "RA wrap above": {"CRVAL1": 0.0001, "CRVAL2": 40.0},
    "RA wrap below": {"CRVAL1": 359.9999, "CRVAL2": -40.0},
    "large pixels": {"CD1_1": -0.05, "CD2_2": 0.05},
}


def on_the_sphere(ra, dec):
    ra, dec = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def pixels(seed=0, n=200):
    rng = np.random.default_rng(seed)
    return rng.uniform(-20, SHAPE[1] + 20, n), rng.uniform(-20, SHAPE[0] + 20, n)


def astropy_sky(wcs, i, j):
    world = wcs.all_pix2world(i, j, 0)
    scale = [360 / {"deg": 360, "arcsec": 1296000}[str(unit)] for unit in wcs.wcs.cunit]
    return world[wcs.wcs.lng] * scale[wcs.wcs.lng], world[wcs.wcs.lat] * scale[wcs.wcs.lat]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_astropy(case):
    wcs = WCS(header(**CASES[case]))
    transform = jp.transform_from_wcs(wcs, SHAPE)
    assert isinstance(transform, Linear)
    i, j = pixels()
    ra, dec = astropy_sky(wcs, i, j)
    ours_ra, ours_dec = jp.pixel_to_sky(transform, i, j)
    assert np.all((ours_ra >= 0) & (ours_ra < 360))
    distance = np.linalg.norm(on_the_sphere(ours_ra, ours_dec) - on_the_sphere(ra, dec), axis=0)
    assert np.rad2deg(distance.max()) < 1e-9
    back = jp.sky_to_pixel(transform, ra, dec)
    np.testing.assert_allclose(back, [i, j], rtol=0, atol=2e-8)


@pytest.mark.parametrize("case", ["CD", "rotated", "near the pole", "RA wrap above", "far reference pixel"])
def test_float32(case):
    """Leaves in float32, answers on concrete input in float64: as good as the leaves."""
    wcs = WCS(header(**CASES[case]))
    transform = jp.transform_from_wcs(wcs, SHAPE).astype(np.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(transform)} == {jnp.dtype("float32")}
    crval = np.asarray(transform.crval, np.float64) + np.asarray(transform.crval_lo, np.float64)
    np.testing.assert_allclose(crval, wcs.wcs.crval, rtol=0, atol=1e-11)
    i, j = [v.astype(np.float32) for v in pixels()]
    ra, dec = wcs.all_pix2world(i.astype(float), j.astype(float), 0)
    ours = jp.pixel_to_sky(transform, i, j)
    assert ours[0].dtype == np.float64
    distance = np.linalg.norm(on_the_sphere(*ours) - on_the_sphere(ra, dec), axis=0)
    assert np.rad2deg(distance.max()) * 3600 < 1e-3
    offset = jax.jit(
        lambda i, j: jp.sky_to_plane(*jp.pixel_to_sky(transform, i, j), transform.crval, transform.crval_lo)
    )
    if case in ("CD", "rotated"):
        x, y = offset(jnp.asarray(i), jnp.asarray(j))
        plane = transform.pixel_to_plane(i, j)
        assert x.dtype == jnp.float32
        assert np.max(np.hypot(x - plane[0], y - plane[1])) < 0.15  # ra and dec themselves have 24 bits there


def test_plane_axes_are_east_and_north():
    """+x grows with right ascension, +y with declination, whatever the pixels do."""
    for case in ("CD", "mirrored", "swapped axes", "LONPOLE", "RA wrap above"):
        transform = jp.transform_from_wcs(WCS(header(**CASES[case])), SHAPE)
        crval = np.asarray(transform.crval) + np.asarray(transform.crval_lo)
        i, j = transform.plane_to_pixel(3.6, 0.0)
        ra, dec = jp.pixel_to_sky(transform, i, j)
        assert (ra - crval[0]) % 360 * np.cos(np.deg2rad(crval[1])) == pytest.approx(1e-3, rel=1e-6)
        i, j = transform.plane_to_pixel(0.0, 3.6)
        ra, dec = jp.pixel_to_sky(transform, i, j)
        assert dec - crval[1] == pytest.approx(1e-3, rel=1e-6)


def test_round_trip_area_and_derivatives():
    transform = jp.make_linear(cd=[[-0.2, 0.05], [0.03, 0.3]], crpix=(4, 7), crtan=(1.0, -2.0))
    i, j = pixels()
    np.testing.assert_allclose(transform.plane_to_pixel(*transform.pixel_to_plane(i, j)), [i, j], rtol=0, atol=1e-11)
    np.testing.assert_allclose(transform.pixel_area(i, j), 0.0615, rtol=1e-12)
    jacobian = jax.jacfwd(lambda p: jnp.stack(transform.pixel_to_plane(*p)))(jnp.asarray([3.0, 4.0]))
    np.testing.assert_allclose(jacobian, transform.cd, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_rebin_and_crop(k):
    transform = jp.make_linear(cd=[[-0.2, 0.05], [0.03, 0.3]], crpix=(4.2, 7), crtan=(1.0, -2.0))
    binned, cut = transform.rebin(k), transform.crop(-3, 11, (5, 5))
    i, j = np.asarray([0.0, 3.0]), np.asarray([2.0, 1.0])
    middle = transform.pixel_to_plane(k * i + (k - 1) / 2, k * j + (k - 1) / 2)
    np.testing.assert_allclose(binned.pixel_to_plane(i, j), middle, rtol=0, atol=1e-12)
    np.testing.assert_allclose(binned.pixel_area(i, j), k * k * transform.pixel_area(i, j), rtol=1e-12)
    np.testing.assert_allclose(cut.pixel_to_plane(i + 3, j - 11), transform.pixel_to_plane(i, j), rtol=0, atol=1e-12)


def test_exact_images(truth):
    """Rotated, mirrored and sheared pixels: position angle East of North, flux per footprint."""
    cases, arrays = truth("sersic_cd")
    for name, case in cases.items():
        if case["n"] > 1.5:
            continue
        transform = jp.make_linear(cd=case["cd_arcsec_per_pix"], crpix=case["crpix0"])
        image = jp.make_image(np.zeros(case["shape"]), std=1.0, transform=transform)
        params = {
            "center": [case["X"], case["Y"]],
            "q": case["q"],
            "PA": np.deg2rad(case["pa_east_of_north_deg"]),
            "n": case["n"],
            "Re": case["Re_maj_arcsec"],
            "Ie": case["Ie_per_arcsec2"],
        }
        pixels = np.asarray(jp.render(jp.models.sersic, params, image, sampling=jp.sampling.quad(5)))
        assert np.max(np.abs(pixels - arrays[name])) < 2e-3 * arrays[name].max()


def test_sky_without_a_position():
    transform = jp.make_linear(pixelscale=0.2)
    with pytest.raises(ValueError, match="no sky position"):
        jp.pixel_to_sky(transform, 0.0, 0.0)


def test_far_hemisphere_is_nan():
    x, y = jp.sky_to_plane(np.asarray([10.0, 190.0]), np.asarray([20.0, -20.0]), (10.0, 20.0))
    assert np.isfinite(x[0])
    assert np.isnan(x[1])
    assert np.isnan(y[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "not neither"),
        ({"pixelscale": 0.2, "cd": np.eye(2)}, "not both"),
        ({"pixelscale": -1.0}, "positive"),
        ({"cd": [[1.0, 2.0], [2.0, 4.0]]}, "singular"),
        ({"cd": [[1.0, np.inf], [2.0, 4.0]]}, "finite"),
        ({"cd": [1.0, 2.0]}, "shape"),
        ({"pixelscale": 1.0, "crpix": (1.0,)}, "crpix"),
        ({"pixelscale": 1.0, "crval": (0.0, 91.0)}, "dec"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ValueError, match=words):
        jp.make_linear(**options)
