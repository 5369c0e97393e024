"""Files come back exactly, other tools see the same sky, and what cannot be read says why."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, NDData, StdDevUncertainty, UnknownUncertainty, VarianceUncertainty
from astropy.wcs import WCS

import jaxphot as jp
from jaxphot import hdus as pieces
from jaxphot.ccddata import from_ccddata, to_ccddata
from jaxphot.fits import read_psf
from jaxphot.pytree import pytree, static_field
from jaxphot.transforms.cmos import make_cmos
from jaxphot.transforms.sip import make_sip

SHAPE = (7, 9)
# rotated, mirrored, not square, with a reference pixel and offsets that no decimal holds exactly
PLACE = {
    "cd": [[-0.2 / 3, 0.1 / 7], [0.05 / 3, 0.21]],
    "crpix": (1234.1 / 3, -5 / 7),
    "crtan": (1 / 3, -2 / 7),
    "crval": (359.9999 + 1e-5 / 3, -30.4848 / 7),
}


def _image(dtype=np.float64, **changes):
    rng = np.random.default_rng(7)
    data = rng.normal(size=SHAPE).astype(dtype)
    data[2, 3] = np.nan
    arguments = {
        "variance": rng.uniform(0.5, 2, SHAPE),
        "mask": rng.uniform(size=SHAPE) < 0.1,
        "transform": jp.make_linear(**PLACE, dtype=dtype),
        "psf": jp.make_psf(
            rng.uniform(size=(6, 5)), oversample=2, center=(7 / 3, 17 / 6), integrated=True, dtype=dtype
        ),
        "zeropoint": 22.5 + 1e-6 / 7,
        "gain": -1e-5 / 3 + 4e-5,
    }
    return jp.make_image(data, **{**arguments, **changes})


def _assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        name = jax.tree_util.keystr(path)
        assert isinstance(other, jax.Array), name
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        np.testing.assert_array_equal(one, other, err_msg=name)


def _write(path, data, header=None, **extensions):
    hdus = [fits.PrimaryHDU(data, fits.Header(header or {}))]
    hdus += [fits.ImageHDU(values, name=name) for name, values in extensions.items()]
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "changes",
    [{}, {"psf": None, "zeropoint": None, "gain": None}, {"transform": None, "pixelscale": 0.1}, {"zeropoint": 0.0}],
    ids=["all", "bare", "no_sky", "zeropoint_0"],
)
@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_round_trip_is_exact(tmp_path, dtype, changes, suffix):
    image = _image(dtype, **changes)
    path = tmp_path / f"image{suffix}"
    jp.write_fits(path, image)
    _assert_same(image, jp.read_fits(path))
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_round_trip_of_what_no_builder_would_make(tmp_path):
    # nothing usable is left after a crop that kept only masked pixels; such an image must survive too
    image = dataclasses.replace(_image(), ivar=jnp.zeros(SHAPE))
    jp.write_fits(tmp_path / "a.fits", image)
    _assert_same(image, jp.read_fits(str(tmp_path / "a.fits")))


def test_float64_file_without_x64_keeps_the_sky(tmp_path):
    image = _image()
    jp.write_fits(tmp_path / "a.fits", image)
    jax.config.update("jax_enable_x64", False)
    try:
        again = jp.read_fits(tmp_path / "a.fits")
        assert {leaf.dtype for leaf in jax.tree.leaves(again)} == {np.dtype(np.float32)}
        crval = np.asarray(again.transform.crval, np.float64) + np.asarray(again.transform.crval_lo, np.float64)
    finally:
        jax.config.update("jax_enable_x64", True)
    np.testing.assert_allclose(crval, PLACE["crval"], rtol=0, atol=1e-11)


def test_arguments_override_what_is_stored(tmp_path):
    image = _image()
    jp.write_fits(tmp_path / "a.fits", image)
    again = jp.read_fits(tmp_path / "a.fits", zeropoint=20.0)
    _assert_same(dataclasses.replace(image, zeropoint=jnp.asarray(20.0)), again)
    again = jp.read_fits(tmp_path / "a.fits", std=2.0, pixelscale=0.5, dtype=np.float32)
    assert again.data.dtype == np.float32
    np.testing.assert_array_equal(again.mask, image.mask)
    assert set(np.unique(again.ivar)) == {0.0, 0.25}
    assert float(again.transform.cd[0, 0]) == 0.5
    assert again.psf.oversample == 2


@pytest.mark.parametrize("window", [(2, 6, 1, 7), (-2, 4, 3, 10)])
def test_window_is_a_crop(tmp_path, window):
    image = _image(transform=jp.make_linear(cd=np.diag([-0.2, 0.2]), crpix=(3, 4), crval=(10, 20)))
    jp.write_fits(tmp_path / "a.fits", image)
    expected = jp.crop(image, window)
    _assert_same(expected, jp.read_fits(tmp_path / "a.fits", window=window))
    # and through the builder, from a foreign file that is read in part only
    with fits.open(tmp_path / "a.fits") as hdus:
        header, ivar = hdus[0].header.copy(), hdus["IVAR"].data
        del header["JAXPHOT"]
        _write(tmp_path / "b.fits", hdus[0].data, header, WHT=ivar, BAD=hdus["MASK"].data)
    again = jp.read_fits(tmp_path / "b.fits", weight="wht", mask=2, window=window)
    np.testing.assert_array_equal(again.data, expected.data)
    np.testing.assert_array_equal(again.ivar, expected.ivar)
    for ours, theirs in zip(
        jp.pixel_to_sky(again.transform, 1.0, 2.0), jp.pixel_to_sky(expected.transform, 1.0, 2.0), strict=True
    ):
        assert abs(ours - theirs) < 1e-12


def test_astropy_sees_the_same_sky(tmp_path):
    image = _image()
    jp.write_fits(tmp_path / "a.fits", image)
    wcs = WCS(fits.getheader(tmp_path / "a.fits"))
    i, j = np.meshgrid([0, 8, 4.3], [0, 6, 2.7])
    ra, dec = wcs.all_pix2world(i, j, 0)
    ours_ra, ours_dec = jp.pixel_to_sky(image.transform, i, j)
    d_ra = (ours_ra - ra + 180) % 360 - 180
    assert np.max(np.hypot(d_ra * np.cos(np.deg2rad(dec)), ours_dec - dec)) < 1e-10
    # FITS's own convention: CRPIX counts from 1, and the plane's origin is CRVAL
    x, y = image.transform.pixel_to_plane(wcs.wcs.crpix[0] - 1, wcs.wcs.crpix[1] - 1)
    assert abs(x) < 1e-9
    assert abs(y) < 1e-9
    np.testing.assert_allclose(wcs.wcs.crval, PLACE["crval"], rtol=1e-15)
    with fits.open(tmp_path / "a.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "IVAR", "MASK", "PSF", "TRANSFORM"]
        np.testing.assert_array_equal(hdus["MASK"].data != 0, image.mask)


def test_plane_without_sky_is_in_the_header_too(tmp_path):
    image = _image(transform=jp.make_linear(pixelscale=0.3, crpix=(2, 1), crtan=(5, 7)))
    jp.write_fits(tmp_path / "a.fits", image)
    x, y = WCS(fits.getheader(tmp_path / "a.fits")).all_pix2world(4.0, 3.0, 0)
    np.testing.assert_allclose([x, y], image.transform.pixel_to_plane(4.0, 3.0), rtol=1e-12)


def test_an_edited_header_wins(tmp_path):
    path = tmp_path / "a.fits"
    jp.write_fits(path, _image())
    fits.setval(path, "CRVAL1", value=11.0)
    fits.setval(path, "MAGZERO", value=27.0)
    again = jp.read_fits(path)
    assert float(again.transform.crval[0]) == 11.0
    assert float(again.zeropoint) == 27.0
    with fits.open(path, mode="update") as hdus:
        hdus["MASK"].data[0, 0] = 1
    assert float(jp.read_fits(path).ivar[0, 0]) == 0
    jp.write_fits(path, _image(transform=jp.make_linear(pixelscale=0.3)), overwrite=True)
    with fits.open(path, mode="update") as hdus:
        del hdus["TRANSFORM"]
    with pytest.raises(ValueError, match="TRANSFORM table is missing"):
        jp.read_fits(path)


def _distorted(dtype=np.float64, **changes):
    """A SIP transform for images of the test's shape, distorted by a pixel, with and without a linear term."""
    a, b = {(2, 0): 1e-3 / 3, (1, 1): -2e-3, (0, 3): 1e-4, (1, 0): 1e-3 / 7}, {(0, 2): 1e-3, (2, 1): -1e-4}
    place = {**PLACE, "crpix": (3.1, 10 / 3), "crtan": (0, 0), **changes}
    return make_sip(SHAPE, a, b, **place, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["sip", "cmos", "cmos of sip"])
@pytest.mark.parametrize("crtan", [(0, 0), (0.1, -0.3)])
def test_every_transform_comes_back_and_astropy_agrees(tmp_path, dtype, kind, crtan):
    transform = _distorted(dtype, crtan=crtan) if "sip" in kind else jp.make_linear(**PLACE, dtype=dtype)
    if "cmos" in kind:
        transform = make_cmos(transform, (-0.1, 0.05), 0.8 if kind == "cmos" else (0.5, 0.7))
    image = _image(dtype, transform=transform)
    jp.write_fits(tmp_path / "a.fits", image)
    _assert_same(image, jp.read_fits(tmp_path / "a.fits"))
    window = (-1, 5, 2, 7)
    _assert_same(jp.crop(image, window), jp.read_fits(tmp_path / "a.fits", window=window))

    header = fits.getheader(tmp_path / "a.fits")
    i, j = np.meshgrid(np.arange(9.0), np.arange(7.0))
    ra, dec = WCS(header).all_pix2world(i, j, 0)
    ours_ra, ours_dec = jp.pixel_to_sky(image.transform, i, j)
    d_ra = (ours_ra - ra + 180) % 360 - 180
    tolerance = 1e-9 if dtype == np.float64 else 1e-8
    assert np.max(np.hypot(d_ra * np.cos(np.deg2rad(dec)), ours_dec - dec)) < tolerance

    # without what jaxphot alone understands, the header's cards give the same places and footprints
    del header["JAXPHOT"]
    again = jp.read_fits(_write(tmp_path / "b.fits", np.array(image.data), header), std=1.0)
    assert type(again.transform) is type(image.transform)
    np.testing.assert_allclose(again.pixel_area_map, image.pixel_area_map, rtol=1e-5 if dtype == np.float32 else 1e-9)
    np.testing.assert_allclose(
        jp.pixel_to_sky(again.transform, i, j), (ours_ra, ours_dec), rtol=0, atol=1e-9 if dtype == np.float64 else 1e-7
    )


def test_inverse_coefficients_are_kept_or_made(tmp_path):
    image = _image(transform=_distorted())
    jp.write_fits(tmp_path / "a.fits", image)
    wcs = WCS(fits.getheader(tmp_path / "a.fits"))
    i, j = wcs.sip_foc2pix(*wcs.sip_pix2foc(4.0, 3.0, 0), 0)
    np.testing.assert_allclose((i, j), (4, 3), rtol=0, atol=1e-3)
    given = make_sip(SHAPE, {(2, 0): 1e-3}, {}, ap={(2, 0): -1e-3 / 3}, bp={}, **{**PLACE, "crtan": (0, 0)})
    jp.write_fits(tmp_path / "b.fits", _image(transform=given))
    header = fits.getheader(tmp_path / "b.fits")
    assert header["A_2_0"] == 1e-3
    assert header["AP_2_0"] == -1e-3 / 3
    assert "AP_1_1" not in header


def test_a_distortion_that_sip_cannot_say_is_written_with_a_warning(tmp_path):
    image = _image(transform=_distorted())
    off = dataclasses.replace(image.transform, a=image.transform.a * 2)
    image = dataclasses.replace(image, transform=off)
    with pytest.warns(UserWarning, match="the WCS in the header is off by up to"):
        jp.write_fits(tmp_path / "a.fits", image)
    _assert_same(image, jp.read_fits(tmp_path / "a.fits"))


def test_real_sip_header(tmp_path, data_dir):
    with fits.open(data_dir / "spitzer" / "sip.fits") as opened:
        header = opened[0].header.copy()
    path = _write(tmp_path / "a.fits", np.zeros((256, 256)), header)
    image = jp.read_fits(path, std=1.0)
    assert float(image.transform.a[0, 2]) == np.float64(header["A_0_2"])
    jp.write_fits(tmp_path / "b.fits", image)
    _assert_same(image, jp.read_fits(tmp_path / "b.fits"))
    first, second = (pieces.read_wcs(fits.getheader(tmp_path / name)) for name in ("a.fits", "b.fits"))
    i, j = np.meshgrid(np.linspace(0, 255, 7), np.linspace(0, 255, 5))
    np.testing.assert_allclose(second.all_pix2world(i, j, 0), first.all_pix2world(i, j, 0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(second.sip.ap, first.sip.ap, rtol=1e-15)


@pytree
class _Wrapped:
    """A transform around another, with static fields: what CMOS or a distortion looks like to a file."""

    transform: jp.transforms.linear.Linear
    PA: jax.Array
    pa: jax.Array
    grid: jax.Array
    steps: tuple = static_field(default=())

    def astype(self, dtype):
        return dataclasses.replace(self, transform=self.transform.astype(dtype))


def test_any_transform_survives(tmp_path, monkeypatch):
    image = _image()
    monkeypatch.setitem(pieces._WCS_CARDS, _Wrapped, lambda wrapped: pieces.wcs_cards(wrapped.transform))
    grid = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 2)))
    wrapped = _Wrapped(image.transform, jnp.asarray(1 / 3), jnp.asarray([True]), grid, (2, 3))
    image = dataclasses.replace(image, transform=wrapped)
    jp.write_fits(tmp_path / "a.fits", image)
    _assert_same(image, jp.read_fits(tmp_path / "a.fits"))
    monkeypatch.delitem(pieces._WCS_CARDS, _Wrapped)
    with pytest.raises(ValueError, match=r"a.fits\[4\]: its transform is a _Wrapped, which this version"):
        jp.read_fits(tmp_path / "a.fits")


def test_noise_mask_and_psf_from_anywhere(tmp_path):
    rng = np.random.default_rng(1)
    data, std = rng.normal(size=SHAPE).astype(">f4"), rng.uniform(1, 2, SHAPE)
    bad = np.zeros(SHAPE, ">i4")
    bad[1, 1] = 4
    stamp = rng.uniform(size=(5, 5))
    path = _write(tmp_path / "a.fits", None, SCI=data, ERR=std, DQ=bad, PSF=stamp)
    other = _write(tmp_path / "std.fits", None, FIRST=std, SECOND=2 * std)
    expected = jp.make_image(data.astype("f4"), std=std, mask=bad != 0, psf=stamp, zeropoint=None)
    for arguments in (
        {"std": "ERR", "mask": "dq", "psf": "PSF"},
        {"std": 2, "mask": 3, "psf": 4, "hdu": "SCI"},
        {"std": other, "mask": bad, "psf": (str(path), "PSF"), "hdu": 1},
        {"std": str(other), "mask": bad != 0, "psf": jp.make_psf(stamp)},
        {"std": std, "mask": (path, 3), "psf": stamp},
        {"variance": std**2, "mask": ("DQ", 1), "psf": (path, "PSF")},
    ):
        image = jp.read_fits(path, **arguments)
        assert image.data.dtype == np.float32
        np.testing.assert_array_equal(image.data, expected.data)
        np.testing.assert_allclose(image.ivar, expected.ivar, rtol=2e-7)
        np.testing.assert_array_equal(image.ivar == 0, bad != 0)
        np.testing.assert_allclose(image.psf.data, expected.psf.data, rtol=2e-7)
    np.testing.assert_allclose(jp.read_fits(path, std=(other, 2)).ivar, std**-2 / 4, rtol=2e-7)
    assert float(jp.read_fits(path, std=0.5).ivar[0, 0]) == 4
    psf = read_psf(path, hdu="PSF", oversample=5, center=(2.5, 2))
    assert psf.oversample == 5
    assert psf.center.tolist() == [2.5, 2.0]


def test_types_of_pixels(tmp_path):
    integers = _write(tmp_path / "i.fits", np.arange(63, dtype=np.uint16).reshape(SHAPE))
    image = jp.read_fits(integers, std=1.0)
    assert image.data.dtype == np.float64
    assert float(image.data[6, 8]) == 62
    assert jp.read_fits(integers, std=1.0, dtype=np.float32).data.dtype == np.float32
    degenerate = _write(tmp_path / "c.fits", np.ones((1, 1, *SHAPE), ">f8"))
    assert jp.read_fits(degenerate, std=1.0, window=(1, 3, 2, 6)).shape == (4, 2)
    compressed = tmp_path / "z.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.ones((20, 20), "i4"))]).writeto(compressed)
    assert jp.read_fits(compressed, std=1.0).shape == (20, 20)
    assert jp.read_fits(compressed, std=1.0, window=(1, 3, 2, 6)).shape == (4, 2)


def test_header_says_where_and_how_bright(tmp_path, data_dir):
    path = data_dir / "imfit" / "ic3478rss_256.fits"
    image = jp.read_fits(path, std=1.0)
    wcs = pieces.read_wcs(fits.getheader(path))  # astropy alone warns of its date
    ra, dec = wcs.all_pix2world(100.0, 20.0, 0)
    np.testing.assert_allclose(jp.pixel_to_sky(image.transform, 100.0, 20.0), (ra, dec), rtol=0, atol=1e-6)
    for key in ("MAGZERO", "MAGZP", "ZEROPT"):
        named = _write(tmp_path / f"{key}.fits", np.ones(SHAPE), {key: 25.5})
        assert float(jp.read_fits(named, std=1.0).zeropoint) == 25.5
    assert float(jp.read_fits(named, std=1.0, zeropoint=1.0).zeropoint) == 1.0
    text = _write(tmp_path / "text.fits", np.ones(SHAPE), {"MAGZERO": "unknown", "GAIN": 3.0, "BUNIT": "rubbish"})
    image = jp.read_fits(text, std=1.0)
    assert np.isnan(image.zeropoint)
    assert np.isnan(image.gain)
    assert image.transform.pixel_to_plane(3.0, 4.0) == (3.0, 4.0)
    assert jp.read_fits(text, std=1.0, pixelscale=0.5).transform.pixel_to_plane(3.0, 4.0) == (1.5, 2.0)
    assert np.isfinite(jp.read_fits(text, std=1.0, wcs=wcs).transform.crval).all()
    assert jp.read_fits(text, std=1.0, transform=image.transform, gain=2).gain == 2


def test_real_files(data_dir):
    kids = data_dir / "kids"
    image = jp.read_fits(
        kids / "G267199fitim.fits",
        std=kids / "G267199sigma.fits",
        mask=kids / "G267199mskim.fits",
        psf=kids / "G267199psfim.fits",
        pixelscale=0.2,
        zeropoint=0.0,
    )
    bad = fits.getdata(kids / "G267199mskim.fits") != 0
    assert bad.any()
    np.testing.assert_array_equal(image.mask, bad)
    assert image.data.dtype == np.float32
    assert abs(float(image.psf.data.sum()) - 1) < 1e-5
    survey = data_dir / "legacysurvey" / "decals_59.1067_-30.4848_rz_128.fits"
    image = jp.read_fits(survey, hdu="IMAGE_Z", ivar="INVVAR_Z", psf="PSF_Z")
    np.testing.assert_array_equal(image.data, fits.getdata(survey, "IMAGE_Z"))
    ra, dec = jp.pixel_to_sky(image.transform, 63.0, 66.0)
    assert abs(float(ra) - 59.1067) < 2e-3
    assert abs(float(dec) + 30.4848) < 2e-3


@pytest.fixture
def survey(tmp_path):
    return _write(tmp_path / "s.fits", None, SCI=np.ones(SHAPE), ERR=np.ones(SHAPE), SMALL=np.ones((3, 3)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"std": "SIGMA"}, ValueError, r"std: 'SIGMA' is neither an extension nor an existing file; .*1 SCI .*2 ERR"),
        ({"std": 9}, ValueError, r"std: there is no HDU 9; .*2 ERR"),
        ({"std": 0}, ValueError, r"std: HDU 0 holds no two-dimensional image"),
        ({"hdu": "NOPE", "std": 1.0}, ValueError, r"hdu: there is no HDU 'NOPE'; .*1 SCI \(7, 9\)"),
        ({"std": "SMALL"}, ValueError, r"std: .*s.fits\[3\] has shape \(3, 3\), but the image has \(7, 9\)"),
        ({"std": 1.0, "mask": np.ones((2, 2))}, ValueError, r"mask: the array has shape \(2, 2\)"),
        ({"std": 1.0, "mask": True}, TypeError, r"mask: expected an extension"),
        ({"std": 1.0, "psf": "missing.fits"}, ValueError, r"psf: 'missing.fits' is neither"),
        ({"std": "ERR", "variance": 2.0}, ValueError, r"give one of variance, std, ivar"),
        ({"weight": "ERR", "ivar": 2.0}, ValueError, r"ivar and weight"),
        ({"std": 1.0, "pixelscale": 1.0, "wcs": WCS(naxis=2)}, ValueError, r"pixelscale and wcs"),
        ({"std": 1.0, "window": (0, 3)}, ValueError, r"window: expected four integers"),
    ],
)
def test_bad_arguments(survey, arguments, error, message):
    with pytest.raises(error, match=message):
        jp.read_fits(survey, **arguments)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: there is no file .*no.fits"):
        jp.read_fits(tmp_path / "no.fits")
    with pytest.raises(TypeError, match="path: expected the path"):
        jp.read_fits(None)
    (tmp_path / "text.fits").write_text("this is no FITS file\n")
    with pytest.raises(ValueError, match=r"text.fits is not a readable FITS file"):
        jp.read_fits(tmp_path / "text.fits")
    (tmp_path / "empty.fits").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.fits is not a readable FITS file"):
        jp.read_fits(tmp_path / "empty.fits")
    with pytest.raises(ValueError, match=r"is not a readable FITS file"):
        jp.read_fits(tmp_path)
    whole = _write(tmp_path / "whole.fits", np.ones((100, 100)))
    (tmp_path / "cut.fits").write_bytes(whole.read_bytes()[:40000])
    with pytest.raises(ValueError, match=r"cut.fits.*truncated"):
        jp.read_fits(tmp_path / "cut.fits", std=1.0)
    with pytest.raises(ValueError, match=r"no two-dimensional image; .*cube.fits has 0 PRIMARY \(2, 7, 9\)"):
        jp.read_fits(_write(tmp_path / "cube.fits", np.ones((2, *SHAPE))))
    broken = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CD1_1": 1.0, "CD1_2": 1.0, "CD2_1": 1.0, "CD2_2": 1.0}
    broken = _write(tmp_path / "broken.fits", np.ones(SHAPE), broken)
    with pytest.raises(ValueError, match=r"broken.fits\[0\]: its WCS cannot be used: .*pass pixelscale="):
        jp.read_fits(broken, std=1.0)
    assert jp.read_fits(broken, std=1.0, pixelscale=1.0).shape == SHAPE
    flat = _write(tmp_path / "flat.fits", None, PSF=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"flat.fits\[1\]: psf: expected a positive sum"):
        jp.read_fits(broken, std=1.0, pixelscale=1.0, psf=flat)


def test_writing_is_careful(tmp_path, monkeypatch):
    path, image = tmp_path / "a.fits", _image()
    jp.write_fits(path, image)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        jp.write_fits(path, image)

    def fail(self, name, *args, **kwargs):
        name.write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(fits.HDUList, "writeto", fail)
        with pytest.raises(OSError, match="disk full"):
            jp.write_fits(path, image, overwrite=True)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.fits"]
    jp.write_fits(path, _image(psf=None), overwrite=True)
    assert jp.read_fits(path).psf is None
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        jp.write_fits(tmp_path / "no" / "a.fits", image)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        jp.write_fits(tmp_path, image)
    with pytest.raises(TypeError, match="path: expected"):
        jp.write_fits(3, image)


def test_what_cannot_be_written(tmp_path):
    image = _image()
    with pytest.raises(ValueError, match="stack"):
        jp.write_fits(tmp_path / "a.fits", jp.stack_images([image, image]))
    with pytest.raises(TypeError, match="expected an Image"):
        jp.write_fits(tmp_path / "a.fits", image.data)
    with pytest.raises(TypeError, match="traced"):
        jax.jit(lambda image: jp.write_fits(tmp_path / "a.fits", image))(image)
    with pytest.raises(ValueError, match="magnitude of flux 1 is inf"):
        jp.write_fits(tmp_path / "a.fits", dataclasses.replace(image, zeropoint=jnp.asarray(np.inf)))
    with pytest.raises(TypeError, match="its transform is a object"):
        jp.write_fits(tmp_path / "a.fits", dataclasses.replace(image, transform=object()))
    assert list(tmp_path.iterdir()) == []


def test_ccddata_round_trip():
    image = _image()
    again = from_ccddata(to_ccddata(image, "adu"))
    for name in ("data", "ivar", "zeropoint", "gain"):
        np.testing.assert_array_equal(getattr(again, name), getattr(image, name))
    np.testing.assert_allclose(again.psf.data, image.psf.data, rtol=1e-14)
    np.testing.assert_array_equal(again.psf.center, image.psf.center)
    assert (again.psf.oversample, again.psf.integrated) == (2, True)
    here, there = (jp.pixel_to_sky(one.transform, 3.0, 5.0) for one in (image, again))
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-10)
    bare = from_ccddata(to_ccddata(_image(psf=None, transform=None, zeropoint=None, gain=None)))
    assert bare.psf is None
    assert np.isnan(bare.transform.crval).all()


def test_ccddata_uncertainties():
    data, bad = np.ones(SHAPE, ">f4"), np.zeros(SHAPE, bool)
    bad[0, 0] = True
    for kind, value in ((StdDevUncertainty, 0.5), (VarianceUncertainty, 0.25), (InverseVariance, 4.0)):
        ccd = CCDData(data, uncertainty=kind(np.full(SHAPE, value)), mask=bad, unit="electron")
        image = from_ccddata(ccd, gain=2.0)
        np.testing.assert_array_equal(image.ivar, np.where(bad, 0.0, 4.0))
        assert image.data.dtype == np.float32
        assert float(image.gain) == 2
    other_unit = NDData(data, uncertainty=StdDevUncertainty(np.full(SHAPE, 500.0), unit="mJy"), unit="Jy")
    assert float(from_ccddata(other_unit).ivar[0, 0]) == 4
    with pytest.raises(ValueError, match="ccd: its uncertainty is of type 'unknown'"):
        from_ccddata(NDData(data, uncertainty=UnknownUncertainty(np.ones(SHAPE))))
    with pytest.raises(TypeError, match="ccd: expected an astropy NDData"):
        from_ccddata(data)
    with pytest.warns(UserWarning, match="no variance"):
        from_ccddata(NDData(data))


@pytest.mark.parametrize(
    ("a", "b"),
    [({(2, 0): 1e-4}, {}), ({}, {(0, 2): 1e-4}), ({(2, 0): 1e-4}, {(1, 0): 1e-3}), ({(1, 0): 1e-3}, {(0, 2): 1e-4})],
)
def test_half_a_distortion_reaches_astropy(tmp_path, a, b):
    """A or B alone, or one of them of first order: astropy needs both, of order two at least."""
    sky = {"pixelscale": 0.5, "crpix": (9.0, 7.0), "crval": (150.0, 2.0)}
    image = jp.make_image(np.ones((16, 20)), std=1.0, transform=jp.make_sip((16, 20), a, b, **sky))
    jp.write_fits(tmp_path / "half.fits", image)
    i, j = np.meshgrid(np.arange(20.0), np.arange(16.0))
    expected = jp.pixel_to_sky(image.transform, i, j)
    wcs = WCS(fits.getheader(tmp_path / "half.fits"))
    np.testing.assert_allclose(wcs.all_pix2world(i, j, 0), expected, rtol=0, atol=1e-9)


def test_ccddata_keeps_gain_and_footprint():
    transform = jp.make_cmos(jp.make_linear(pixelscale=0.3, crval=(10.0, 20.0)), loc=(0.1, -0.05), scale=(0.5, 0.7))
    image = jp.make_image(np.ones((6, 5)), std=1.0, transform=transform, gain=2.5, zeropoint=25.0)
    again = jp.from_ccddata(jp.to_ccddata(image))
    assert float(again.gain) == 2.5
    np.testing.assert_allclose(again.pixel_area_map, image.pixel_area_map, rtol=1e-12)
    np.testing.assert_allclose(np.ravel(again.transform.footprint), np.ravel(transform.footprint), rtol=1e-12)
