"""GALFIT's files: units and angles against formulas of Peng et al. 2010, and every component there and back."""

import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_allclose
from scipy.special import gamma, kv

import jaxphot as jp
from jaxphot.interchange.galfit_parts import NAMES

SKY_CD = 0.4 * np.array([[-np.cos(0.5), np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
PLACES = {
    "pixels": jp.make_linear(pixelscale=0.4),
    "sky": jp.make_linear(cd=SKY_CD, crpix=(3.0, 5.0), crtan=(1.0, -2.0)),
}


@pytest.fixture(autouse=True)
def _as_a_reader():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


CONTROL = """\
# a feedme
A) galaxy.fits
B) imgblock.fits
C) none
D) psf.fits        # PSF
E) 2
F) none
G) none
H) 1 28 1 32       # region
I) 50 50
J) 25.0
K) 0.4  0.4
O) regular
P) 0
"""
ROWS = {
    "sersic": "3) 18.0 1\n4) 6.0 1\n5) 2.0 0\n9) 0.7 1\n10) 30 1",
    "devauc": "3) 18.0 1\n4) 6.0 1\n9) 0.7 1\n10) 30 1",
    "expdisk": "3) 18.0 1\n4) 6.0 1\n9) 0.7 1\n10) 30 1",
    "gaussian": "3) 18.0 1\n4) 6.0 1\n9) 0.7 1\n10) 30 1",
    "moffat": "3) 18.0 1\n4) 6.0 1\n5) 2.5 1\n9) 0.7 1\n10) 30 1",
    "king": "3) 20.0 1\n4) 3.0 1\n5) 12 1\n6) 1.5 1\n9) 0.7 1\n10) 30 1",
    "nuker": "3) 20.0 1\n4) 3.0 1\n5) 1.5 1\n6) 2.2 1\n7) 0.4 1\n9) 0.7 1\n10) 30 1",
    "ferrer": "3) 20.0 1\n4) 12.0 1\n5) 1.5 1\n6) 0.4 1\n9) 0.7 1\n10) 30 1",
    "edgedisk": "3) 20.0 1\n4) 2.0 1\n5) 6 1\n10) 30 1",
    "psf": "3) 18.0 1",
    "sky": "1) 3.0 1\n2) 0.1 1\n3) -0.05 1",
}
MORE = {
    "C0": "C0) 0.4 1",
    "Fourier": "C0) -0.3 1\nF1) 0.1 20 1 1\nF3) 0.05 -40 1 1",
    "bending": "B2) 1.2 1\nB1) 0.3 1",
    "power spiral": "R0) powerlaw\nR1) 2 1\nR2) 9 1\nR3) 200 1\nR4) 0.6 1\nR9) 40 1\nR10) 25 1",
    "log spiral": "F1) 0.1 20 1 1\nR0) log\nR1) 2 1\nR2) 9 1\nR3) -200 1\nR4) 3 1\nR9) 40 1\nR10) 25 1",
    "truncation": "To) 2\nZ) 0\n0) radial\nT4) 8 1\nT5) 3 1",
    "hole": "Ti) 2\nZ) 0\n0) radial2\nT4) 8 1\nT5) 5 1",
}


def _feedme(kind, more=""):
    position = "" if kind == "sky" else "1) 14.3 17.8 1 1\n"
    return f"{CONTROL}\n0) {kind}\n{position}{ROWS[kind]}\n{more}\nZ) 0\n"


def _read(tmp_path, text, **options):
    path = tmp_path / "galfit.feedme"
    path.write_text(text)
    return jp.read_galfit(path, **options)


def _radius(q=0.7):
    """Pixel positions (0-based), and the elliptical radius in pixels about GALFIT's (14.3, 17.8), 30° from up."""
    j, i = np.mgrid[3:32:5, 2:28:5].astype(float)
    dx, dy = i - 13.3, j - 16.8
    sin, cos = np.sin(np.radians(30)), np.cos(np.radians(30))
    major, minor = -dx * sin + dy * cos, dx * cos + dy * sin
    return i, j, np.hypot(major, minor / q), major, minor


def _expected(kind):
    """Brightness a pixel, as the paper's formulas have it."""
    _, _, r, major, minor = _radius()
    flux, peak = 10 ** (0.4 * 7), 10 ** (0.4 * 5) * 0.16
    if kind in ("sersic", "devauc", "expdisk"):
        n, b = {"sersic": (2, 3.672060748850897), "devauc": (4, 7.66924944250081), "expdisk": (1, 1.0)}[kind]
        shape = np.exp(-b * (r / 6) ** (1 / n))
        return flux * shape / (2 * np.pi * 0.7 * 36 * n * b ** (-2 * n) * gamma(2 * n))
    if kind == "gaussian":
        sigma = 6 / 2.3548200450309493
        return flux * np.exp(-0.5 * (r / sigma) ** 2) / (2 * np.pi * 0.7 * sigma**2)
    if kind == "moffat":
        rd = 3 / np.sqrt(2**0.4 - 1)
        return flux * 1.5 / (np.pi * rd**2 * 0.7) * (1 + (r / rd) ** 2) ** -2.5
    if kind == "king":
        edge = (1 + 16) ** (-1 / 1.5)
        return peak * (np.maximum((1 + (r / 3) ** 2) ** (-1 / 1.5) - edge, 0) / (1 - edge)) ** 1.5
    if kind == "nuker":
        return peak * 2 ** (1.8 / 1.5) * (r / 3) ** -0.4 * (1 + (r / 3) ** 1.5) ** (-1.8 / 1.5)
    if kind == "ferrer":
        return peak * np.maximum(1 - (r / 12) ** 1.6, 0) ** 1.5
    if kind == "edgedisk":
        return peak * np.abs(major / 6) * kv(1, np.abs(major / 6)) / np.cosh(minor / 2) ** 2
    i, j, *_ = _radius()
    return 3 + 0.1 * (i - 13.5) - 0.05 * (j - 15.5)


def _brightness(setup, transform):
    i, j, *_ = _radius()
    x, y = transform.pixel_to_plane(i, j)
    return np.asarray(setup.model(setup.params, x, y)) * 0.16


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind != "psf"])
def test_components_are_the_papers(kind, place, tmp_path):
    setup = _read(tmp_path, _feedme(kind), transform=PLACES[place])
    assert_allclose(_brightness(setup, PLACES[place]), _expected(kind), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [*NAMES, *MORE])
def test_there_and_back(kind, place, tmp_path):
    transform = PLACES[place]
    text = _feedme(kind) if kind in NAMES else _feedme("sersic", MORE[kind])
    path = tmp_path / "galfit.feedme"
    path.write_text(text)
    noted = kind in ("bending", "truncation", "hole")
    setup = _quietly(jp.read_galfit, path, noted, transform=transform)
    image = jp.make_image(np.zeros((32, 28)), std=1.0, transform=transform, zeropoint=25.0)
    again = tmp_path / "again.feedme"
    jp.write_galfit(again, setup.model, setup.params, image, fixed=setup.fixed)
    back = _quietly(jp.read_galfit, again, noted, transform=transform)
    assert back.model == setup.model
    assert back.fixed == setup.fixed
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-6, atol=1e-9), back.params, setup.params)
    with pytest.raises(FileExistsError):
        jp.write_galfit(again, setup.model, setup.params, image)


def _quietly(reader, path, noted, **options):
    if not noted:
        return reader(path, **options)
    with pytest.warns(UserWarning, match="not taken over"):
        return reader(path, **options)


def test_shapes_turn_with_the_sky(tmp_path):
    """Odd modes point somewhere: the same pixels are lit whichever way the plane is turned or mirrored."""
    for more in ("Fourier", "bending", "power spiral", "log spiral"):
        lit = []
        for transform in PLACES.values():
            path = tmp_path / "galfit.feedme"
            path.write_text(_feedme("sersic", MORE[more]))
            lit.append(_brightness(_quietly(jp.read_galfit, path, more == "bending", transform=transform), transform))
        assert_allclose(*lit, rtol=1e-6)


def test_control_rows(tmp_path):
    setup = _read(tmp_path, _feedme("sersic"), exptime=100.0)
    assert setup.window == (0, 28, 0, 32)
    assert setup.psf_oversample == 2
    assert setup.zeropoint == 30.0
    assert {role: path.name for role, path in setup.files.items()} == {
        "data": "galaxy.fits", "output": "imgblock.fits", "psf": "psf.fits",
    }  # fmt: skip
    assert setup.fixed == {"sersic1": {"n": None}}


def test_read_and_fit(tmp_path):
    """From the files of a GALFIT run to the fit, and total magnitudes that come back."""
    text = _feedme("gaussian", "\n0) sky\n1) 0.5 1\n2) 0 0\n3) 0 0\n").replace("D) psf.fits", "D) none")
    text = text.replace("C) none", "C) sigma.fits").replace("H) 1 28 1 32", "H) 3 26 4 30").replace("E) 2", "E) 1")
    frame = jp.make_image(np.zeros((32, 28)), std=1.0, pixelscale=0.4)
    truth = _read(tmp_path, text)
    pixels = np.asarray(jp.render(truth.model, truth.params, frame))
    fits.writeto(tmp_path / "galaxy.fits", pixels)
    fits.writeto(tmp_path / "sigma.fits", np.full((32, 28), 0.5))
    setup = _read(tmp_path, text.replace("3) 18.0", "3) 18.3"))
    image = setup.read_image()
    assert image.shape == (27, 24)
    fit = jp.fit(setup.model, setup.params, image, fixed=setup.fixed, bounds=setup.bounds)
    assert int(fit.status) == 0
    assert_allclose(jp.units.flux_to_mag(fit.params["gaussian1"]["flux"], setup.zeropoint), 18.0, atol=1e-6)
    assert_allclose(fit.params["gaussian1"]["center"], truth.params["gaussian1"]["center"], atol=1e-6)


TWO = "\n0) expdisk\n1) 14.8 17.8 1 1\n3) 19 1\n4) 3 1\n9) 0.5 1\n10) 12 1\n"


def test_constraints(tmp_path):
    lines = ["1 n 0.7 to 5", "1 re -1 2   # about the start", "2 q 0.3 to 0.9", "1_2 x offset", "1_2 y offset"]
    lines += ["1_2 re ratio", "1 mag 17 to 19", "1/2 re 1 3", ""]
    (tmp_path / "limits").write_text("\n".join(lines))
    text = _feedme("sersic", TWO).replace("G) none", "G) limits").replace("5) 2.0 0", "5) 2.0 1")
    with pytest.warns(UserWarning, match="not taken over") as caught:
        setup = _read(tmp_path, text)
    assert "limits:7" in str(caught[0].message)
    assert "limits:8" in str(caught[0].message)
    assert len(setup.notes) == 2
    assert_allclose(setup.bounds["sersic1"]["n"], (0.7, 5.0))
    assert_allclose(setup.bounds["sersic1"]["Re"], (2.0, 3.2))
    assert_allclose(setup.bounds["expdisk2"]["q"], (0.3, 0.9))
    assert "center" not in setup.params["expdisk2"]
    params = setup.model.params(setup.params)
    assert_allclose(params["expdisk2"]["center"] - params["sersic1"]["center"], [0.2, 0.0], atol=1e-12)
    image = jp.make_image(np.zeros((32, 28)), std=1.0, pixelscale=0.4)
    fit = jp.fit(setup.model, setup.params, image, fixed=setup.fixed, bounds=setup.bounds, max_steps=1)
    assert fit.names.count("expdisk2.Ie") == 1
    assert not any(name.startswith(("expdisk2.center", "expdisk2.Re")) for name in fit.names)


def test_output_image(tmp_path):
    """The header of the model's plane, as GALFIT 3 writes it."""
    header = fits.Header()
    cards = {
        "DATAIN": "galaxy.fits[1:28,1:32]", "SIGMA": "none", "PSF": "psf.fits", "CONSTRNT": "none", "MASK": "none",
        "FITSECT": "[1:28,1:32]", "MAGZPT": 25.0, "COMP_1": "sersic", "1_XC": "14.3000 +/- 0.02",
        "1_YC": "17.8000 +/- 0.02", "1_MAG": "18.0000 +/- 0.01", "1_RE": "*6.0000* +/- 0.1", "1_N": "[2.0000]",
        "1_AR": "0.7000 +/- 0.01", "1_PA": "30.0000 +/- 0.2", "COMP_2": "sky", "2_XC": "[14.5000]", "2_YC": "[16.5]",
        "2_SKY": "3.0 +/- 0.1", "2_DSDX": "[0]", "2_DSDY": "[0]", "CHISQ": 900.5, "NDOF": 889, "CHI2NU": 1.013,
    }  # fmt: skip
    header.update(cards)
    blank = np.zeros((32, 28), np.float32)
    planes = [fits.ImageHDU(blank), fits.ImageHDU(blank, header), fits.ImageHDU(blank)]
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(tmp_path / "block.fits")
    setup = jp.read_galfit(tmp_path / "block.fits", transform=PLACES["pixels"])
    assert setup.fixed == {"sersic1": {"n": None}}
    assert setup.info["NDOF"] == 889
    assert setup.window == (0, 28, 0, 32)
    _, sky = setup.model.parts
    assert sky == ("sky2", jp.models.flat_sky)
    assert_allclose(_brightness(setup, PLACES["pixels"]), _expected("sersic") + 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("0) sersic", "0) sersic3"), ":16: 'sersic3' has no counterpart"),
        (("4) 6.0 1\n", ""), ":16: sersic: line 4\\) is missing"),
        (("4) 6.0 1", "4) six 1"), ":19: 4\\): expected numbers"),
        (("K) 0.4  0.4", "K) 0.4 0.5"), "no squares"),
        (("J) 25.0", ""), "zero point"),
        (("F) none", "F) bad.txt"), "list of pixels"),
        (("Z) 0", "To) 7"), "no radial truncation"),
        (("P) 0", "what is this"), ":14: expected a row"),
    ],
)
def test_what_is_wrong_is_named(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        _read(tmp_path, _feedme("sersic").replace(*change))


def test_no_counterpart(tmp_path):
    image = jp.make_image(np.zeros((8, 8)), std=1.0, zeropoint=25.0)
    model = jp.scene(ball=jp.radial(jp.profiles.hernquist))
    params = {"ball": {"center": [3.0, 3.0], "q": 0.8, "PA": 0.1, "Rs": 1.0, "flux": 10.0}}
    with pytest.raises(ValueError, match="ball: GALFIT has no counterpart"):
        jp.write_galfit(tmp_path / "no", model, params, image)
    dark = {"ball": {**params["ball"], "flux": -1.0, "sigma": 1.0}}
    del dark["ball"]["Rs"]
    with pytest.raises(ValueError, match="ball: brightness"):
        jp.write_galfit(tmp_path / "no", jp.scene(ball=jp.models.gaussian), dark, image)


def test_astrophot_image(tmp_path):
    """The keys that AstroPhot writes: CD in degrees, CRTAN, SIP whatever CTYPE says, CMOS pixels, WEIGHT, MASK, PSF."""
    header = fits.Header()
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": 10.0, "MAGZP": 22.5})
    header.update({"CRPIX1": 5.0, "CRPIX2": 7.0, "CRTAN1": 1.5, "CRTAN2": -2.0, "IDNTY": "7"})
    header.update({"CD1_1": -0.2 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.2 / 3600})
    header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-4, "B_1_1": 2e-4})
    header.update({"SPIXLOC1": 0.1, "SPIXLOC2": 0.0, "SPIXSCL": 0.8})
    rng = np.random.default_rng(1)
    data, weight = rng.normal(size=(12, 10)), rng.uniform(1, 2, (12, 10))
    mask = np.zeros((12, 10), np.uint8)
    mask[2, 3] = 1
    stamp = fits.ImageHDU(np.ones((6, 6)), name="PSF")
    stamp.header.update({"CD1_1": -0.1 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.1 / 3600})
    planes = [fits.ImageHDU(weight, name="WEIGHT"), fits.ImageHDU(mask, name="MASK"), stamp]
    fits.HDUList([fits.PrimaryHDU(data, header), *planes]).writeto(tmp_path / "target.fits")
    image = jp.read_astrophot(tmp_path / "target.fits")
    assert_allclose(image.data, data)
    assert_allclose(image.ivar, np.where(mask, 0, weight))
    assert float(image.zeropoint) == 22.5
    assert image.psf.oversample == 2
    i, j = 8.0, 3.0
    u, v = i - 4, j - 6
    where = [-0.2 * (u + 1e-4 * u**2) + 1.5, 0.2 * (v + 2e-4 * u * v) - 2.0]
    assert_allclose(np.array(image.transform.inner.pixel_to_plane(i, j)), where, rtol=1e-12)
    assert_allclose(image.transform.scale, 0.8)
    header["MAGZP"] = -999
    fits.writeto(tmp_path / "bare.fits", data, header)
    assert np.isnan(jp.read_astrophot(tmp_path / "bare.fits", ivar=np.ones((12, 10))).zeropoint)


def test_astrophot_image_of_older_versions(tmp_path):
    """No CD matrix but texts, and planes that say what they are by a key."""
    header = fits.Header()
    header.update({"PXLSCALE": "[[-0.2, 0.01], [0.01, 0.2]]", "REFIMGIJ": "[-0.5, -0.5]", "REFIMGXY": "[3.0, -4.0]"})
    header.update(
        {"REFRADEC": "[150.0, 2.0]", "REFPLNXY": "[0.0, 0.0]", "PROJ": "gnomonic", "PXL_SHPE": "[10.0, 12.0]"}
    )
    header.update({"ZEROPNT": "22.5", "IMAGE": "PRIMARY"})
    rng = np.random.default_rng(1)
    data, weight = rng.normal(size=(12, 10)), rng.uniform(1, 2, (12, 10))
    mask = np.zeros((12, 10), int)
    mask[2, 3] = 1
    stamp = {"PXLSCALE": "[[-0.1, 0.005], [0.005, 0.1]]", "IMAGE": "PSF"}
    planes = [(weight, {"IMAGE": "WEIGHT"}), (mask, {"IMAGE": "MASK"}), (np.ones((6, 6)), stamp)]
    hdus = [fits.PrimaryHDU(data, header), *(fits.ImageHDU(values, fits.Header(keys)) for values, keys in planes)]
    fits.HDUList(hdus).writeto(tmp_path / "target.fits")
    image = jp.read_astrophot(tmp_path / "target.fits")
    assert_allclose(image.ivar, np.where(mask, 0, weight))
    assert float(image.zeropoint) == 22.5
    assert image.psf.oversample == 2
    where = np.array([[-0.2, 0.01], [0.01, 0.2]]) @ [8.5, 3.5] + [3.0, -4.0]
    assert_allclose(np.array(image.transform.pixel_to_plane(8.0, 3.0)), where, rtol=1e-12)
    assert_allclose(jp.plane_to_sky(0.0, 0.0, image.transform.crval), (150.0, 2.0), rtol=1e-12)
    for key, value, words in (("PXLSCALE", "__import__('os')", "PXLSCALE: expected 4 numbers"),
                              ("PROJ", "orthographic", "expected 'gnomonic'")):  # fmt: skip
        bad = header.copy()
        bad[key] = value
        fits.writeto(tmp_path / "bad.fits", data, bad, overwrite=True)
        with pytest.raises(ValueError, match=words):
            jp.read_astrophot(tmp_path / "bad.fits")
    header["ZEROPNT"] = "None"
    fits.writeto(tmp_path / "bare.fits", data, header)
    assert np.isnan(jp.read_astrophot(tmp_path / "bare.fits", ivar=np.ones((12, 10))).zeropoint)


def test_photutils_catalogue():
    """A flattened Gaussian drawn, measured by its moments, is where and as it was."""
    catalogs = pytest.importorskip("photutils.segmentation")
    transform = PLACES["sky"]
    image = jp.make_image(np.zeros((41, 41)), std=1.0, transform=transform)
    x, y = (float(v) for v in transform.pixel_to_plane(18.0, 22.0))
    truth = {"center": np.array([x, y]), "q": 0.6, "PA": 0.8, "sigma": 1.6, "flux": 50.0}
    data = np.asarray(jp.render(jp.models.gaussian, truth, image))
    segments = catalogs.SegmentationImage((data > 1e-6).astype(int))
    table = catalogs.SourceCatalog(data, segments).to_table()
    assert isinstance(table, Table)
    starts = jp.from_photutils(table, transform)
    assert_allclose(starts["center"][0], truth["center"], atol=1e-3)
    assert_allclose([starts[name][0] for name in ("q", "PA", "sigma", "flux")], [0.6, 0.8, 1.6, 50.0], rtol=0.02)
    with pytest.raises(ValueError, match="expected a column"):
        jp.from_photutils(Table({"a": [1.0]}), transform)
