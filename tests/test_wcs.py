"""transform_from_wcs: real SIP headers, other projections and distortions, gWCS-like objects, bad input."""

import warnings

import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable

import jaxphot as jp
from jaxphot.transforms.linear import Linear
from jaxphot.transforms.sip import SIP, polynomial_error

SHAPE = (60, 80)


def header(ctype=("RA---TAN", "DEC--TAN"), crval=(150.0, 2.0), crpix=(40.0, 25.0), scale=1.0, **more):
    h = fits.Header()
    h["CTYPE1"], h["CTYPE2"] = ctype
    h["CRPIX1"], h["CRPIX2"] = crpix
    h["CRVAL1"], h["CRVAL2"] = crval
    h["CUNIT1"] = h["CUNIT2"] = "deg"
    angle = 0.4
    cd = scale / 3600 * np.asarray([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for (row, column), value in np.ndenumerate(cd):
        h[f"CD{row + 1}_{column + 1}"] = value
    for key, value in more.items():
        h[key] = value
    return h


def separation(ra, dec, other_ra, other_dec):
    """Arcsec, on the sphere."""
    ra, dec, other_ra, other_dec = map(np.deg2rad, (ra, dec, other_ra, other_dec))
    half = np.sin((dec - other_dec) / 2) ** 2 + np.cos(dec) * np.cos(other_dec) * np.sin((ra - other_ra) / 2) ** 2
    return np.rad2deg(2 * np.arcsin(np.sqrt(half))) * 3600


def errors(transform, sky, shape, scale):
    """Largest error in pixels at centres, anywhere, and of the way back from the sky at centres."""
    j, i = np.indices(shape, float)
    rng = np.random.default_rng(0)
    ri, rj = rng.uniform(-0.5, shape[1] - 0.5, 2000), rng.uniform(-0.5, shape[0] - 0.5, 2000)
    centres = separation(*jp.pixel_to_sky(transform, i, j), *sky(i, j)).max() / scale
    anywhere = separation(*jp.pixel_to_sky(transform, ri, rj), *sky(ri, rj)).max() / scale
    back_i, back_j = jp.sky_to_pixel(transform, *sky(i, j))
    return centres, anywhere, np.hypot(back_i - i, back_j - j).max()


def sky_of(wcs):
    def sky(i, j):
        return wcs.all_pix2world(i, j, 0)

    return sky


# ---- SIP headers


@pytest.fixture(scope="module", params=["sip.fits", "irac_sip.hdr"])
def real(request, data_dir):
    path = data_dir / "spitzer" / request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        h = fits.getheader(path) if path.suffix == ".fits" else fits.Header.fromstring(path.read_text())
        return WCS(h), h


def test_real_sip_headers(real):
    wcs, h = real
    transform = jp.transform_from_wcs(wcs, (256, 256))
    assert isinstance(transform, SIP)
    centres, anywhere, back = errors(transform, sky_of(wcs), (256, 256), 1.22)
    assert centres < 1e-6
    assert anywhere < 1e-3
    assert anywhere < 2 * float(transform.accuracy) + 1e-6
    assert back < 1e-6
    assert float(transform.a[(2, 0)]) == h["A_2_0"]
    assert float(transform.bp[(1, 1)]) == h["BP_1_1"]


def test_sip_without_the_suffix_is_used_and_said(real):
    wcs, h = real
    bare = h.copy()
    bare["CTYPE1"], bare["CTYPE2"] = "RA---TAN", "DEC--TAN"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = WCS(bare)
    with pytest.warns(UserWarning, match="lacks -SIP"):
        transform = jp.transform_from_wcs(bare, (256, 256))
    assert errors(transform, sky_of(bare), (256, 256), 1.22)[0] < 1e-6
    np.testing.assert_allclose(transform.a, jp.transform_from_wcs(wcs, (256, 256)).a, rtol=0, atol=0)


def test_suffix_without_coefficients_is_linear():
    wcs = WCS(header(("RA---TAN-SIP", "DEC--TAN-SIP")))
    assert isinstance(jp.transform_from_wcs(wcs, SHAPE), Linear)


def test_sip_with_lonpole():
    h = header(("RA---TAN-SIP", "DEC--TAN-SIP"), LONPOLE=150.0)
    for key, value in {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-5, "B_1_1": -2e-5}.items():
        h[key] = value
    wcs = WCS(h)
    transform = jp.transform_from_wcs(wcs, SHAPE)
    assert errors(transform, sky_of(wcs), SHAPE, 1.0)[0] < 1e-6


def test_image_from_a_sip_wcs(real):
    wcs, _ = real
    image = jp.make_image(np.zeros((256, 256)), std=1.0, wcs=wcs)
    assert image.transform.shape == (256, 256)
    small = jp.make_image(np.zeros((256, 256), np.float32), std=1.0, wcs=wcs)
    assert {leaf.dtype for leaf in jax.tree.leaves(small)} == {np.dtype("float32")}
    ra, dec = jp.pixel_to_sky(small.transform, 12.0, 200.0)
    assert separation(ra, dec, *wcs.all_pix2world(12.0, 200.0, 0)) < 1e-3


# ---- everything else becomes a grid


TPV = {"PV1_1": 1.0, "PV1_5": 2e-2, "PV1_7": -3e-1, "PV2_1": 1.0, "PV2_4": 1e-2, "PV2_10": 2e-1}


@pytest.mark.parametrize("code", ["SIN", "ZEA", "STG", "ARC", "TPV", "CAR", "AIT"])
def test_other_projections(code):
    more = TPV if code == "TPV" else {}
    wcs = WCS(header((f"RA---{code}", f"DEC--{code}"), scale=20.0, **more))
    transform = jp.transform_from_wcs(wcs, SHAPE)
    assert isinstance(transform, SIP)
    centres, anywhere, back = errors(transform, sky_of(wcs), SHAPE, 20.0)
    assert centres < 1e-6
    assert anywhere <= 1.01 * float(transform.accuracy) + 1e-6
    assert anywhere < 1e-3
    assert back < 1e-6
    assert polynomial_error(transform) < 1e-6  # so a header can say it in SIP


@pytest.mark.parametrize("crval", [(0.001, 5.0), (200.0, 89.995), (359.999, -60.0)])
def test_projections_at_the_pole_and_ra_wrap(crval):
    wcs = WCS(header(("RA---ZEA", "DEC--ZEA"), crval=crval))
    assert errors(jp.transform_from_wcs(wcs, SHAPE), sky_of(wcs), SHAPE, 1.0)[0] < 1e-6


def test_area_of_a_projection():
    """A zenithal equal-area projection has pixels of equal area on the sphere, so here of cos³ρ ÷ that in the plane."""
    wcs = WCS(header(("RA---ZEA", "DEC--ZEA"), scale=60.0, crpix=(40.5, 30.5)))
    transform = jp.transform_from_wcs(wcs, SHAPE)
    i, j = np.asarray([0.0, 40.0, 79.0, 79.0]), np.asarray([0.0, 30.0, 59.0, 0.0])
    distance = np.deg2rad(separation(*wcs.all_pix2world(i, j, 0), 150.0, 2.0) / 3600)
    np.testing.assert_allclose(transform.pixel_area(i, j) * np.cos(distance) ** 3, 3600.0, rtol=1e-6)


def test_look_up_tables():
    wcs = WCS(header())
    y, x = np.mgrid[:8, :9]
    table = (0.3 * np.sin(x / 3) * np.cos(y / 2)).astype(np.float32)
    wcs.cpdis1 = DistortionLookupTable(table, (1.0, 1.0), (1.0, 1.0), (10.0, 10.0))
    wcs.cpdis2 = DistortionLookupTable(-table, (1.0, 1.0), (1.0, 1.0), (10.0, 10.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform = jp.transform_from_wcs(wcs, SHAPE)
    centres, anywhere, _ = errors(transform, sky_of(wcs), SHAPE, 1.0)
    assert centres < 1e-6
    assert anywhere < 1e-3  # astropy's table is bilinear too, with nodes at whole pixels
    plain = jp.transform_from_wcs(WCS(header()), SHAPE)
    assert separation(*jp.pixel_to_sky(transform, 30.0, 30.0), *jp.pixel_to_sky(plain, 30.0, 30.0)) > 0.02


class Duck:
    """What a gWCS looks like: astropy's shared interface and nothing else."""

    pixel_n_dim = 2

    def __init__(self, wcs, types=("pos.eq.ra", "pos.eq.dec"), units=("deg", "deg"), swap=False):
        self.hidden, self.swap = wcs, swap
        self.world_axis_physical_types = list(types)
        self.world_axis_units = list(units)

    def pixel_to_world_values(self, i, j):
        values = self.hidden.all_pix2world(i, j, 0)
        values = [np.deg2rad(v) if unit == "rad" else v for v, unit in zip(values, self.world_axis_units, strict=True)]
        return values[::-1] if self.swap else values


def test_duck_typed_wcs(real):
    wcs, _ = real
    ducks = [
        Duck(wcs),
        Duck(wcs, units=("rad", "rad")),
        Duck(wcs, types=("pos.eq.dec", "pos.eq.ra"), swap=True),
    ]
    for duck in ducks:
        transform = jp.transform_from_wcs(duck, (64, 64))
        assert errors(transform, sky_of(wcs), (64, 64), 1.22)[0] < 1e-6


def test_accuracy_is_reported():
    wcs = WCS(header(("RA---TPV", "DEC--TPV"), scale=40.0, **TPV))
    with pytest.warns(UserWarning, match="positions between pixel centres are good to"):
        transform = jp.transform_from_wcs(wcs, SHAPE, step=20)
    _, anywhere, _ = errors(transform, sky_of(wcs), SHAPE, 40.0)
    assert 1e-3 < anywhere < 1.1 * float(transform.accuracy)


def test_cube_uses_its_celestial_part():
    h = header(("RA---SIN", "DEC--SIN"))
    h["NAXIS"], h["CTYPE3"], h["CRVAL3"], h["CDELT3"], h["CD3_3"], h["CUNIT3"] = 3, "FREQ", 1e9, 1e6, 1e6, "Hz"
    h["WCSAXES"] = 3
    wcs = WCS(h)
    transform = jp.transform_from_wcs(wcs, SHAPE)
    assert errors(transform, sky_of(wcs.celestial), SHAPE, 1.0)[0] < 1e-6


def test_grids_of_any_wcs_crop_rebin_stack_and_render():
    images = []
    for code in ("SIN", "STG"):
        wcs = WCS(header((f"RA---{code}", f"DEC--{code}"), scale=30.0))
        images.append(jp.make_image(np.ones(SHAPE), std=1.0, wcs=wcs))
        cut = jp.crop(images[-1], (-5, 30, 10, 40))
        i, j = np.asarray([0.0, 3.3]), np.asarray([12.0, 30.2])
        np.testing.assert_allclose(
            jp.pixel_to_sky(cut.transform, i + 5, j - 10),
            jp.pixel_to_sky(images[-1].transform, i, j),
            rtol=0,
            atol=1e-9,
        )
        binned = jp.rebin(images[-1], 2).transform
        np.testing.assert_allclose(
            jp.pixel_to_sky(binned, 3.0, 7.0), wcs.all_pix2world(6.5, 14.5, 0), rtol=0, atol=1e-9
        )
    assert jp.stack_images(images).data.shape == (2, *SHAPE)


# ---- bad input


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WCS(naxis=2), "no celestial part"),
        (lambda: Duck(None, types=("em.freq", "pos.eq.dec")), "no celestial part"),
        (lambda: "RA---TAN", "expected an astropy.wcs.WCS"),
        (lambda: WCS(header(("RA---SIN", "DEC--SIN"), scale=9000.0)), "no position|hemisphere"),
        (
            lambda: WCS(header(("RA---TPV", "DEC--TPV"), scale=60.0, **(TPV | {"PV1_7": -3.0}))),
            "folds the frame at pixel",
        ),
    ],
)
def test_bad_wcs(make, words):
    with pytest.raises(ValueError, match=words):
        jp.transform_from_wcs(make(), SHAPE)


def test_bad_shape():
    with pytest.raises(ValueError, match="shape"):
        jp.transform_from_wcs(WCS(header()), (5, 0))
