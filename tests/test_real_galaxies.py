"""Real galaxies, from `initialize` to the optimum, against published fits and exact pixel integration."""

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import jaxphot as jp

DATA = Path(__file__).parent / "data"
MODEL = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
KIDS = json.loads((DATA / "kids/reference_fits.json").read_text())


def kids(name):
    data, sigma, mask, segments, psf = (
        fits.getdata(DATA / f"kids/{name}{part}.fits") for part in ("fitim", "sigma", "mskim", "segim", "psfim")
    )
    ny, nx = data.shape
    bad = (mask > 0) | ((segments > 0) & (segments != segments[ny // 2, nx // 2]))
    scale = 1e12  # the reference's unit: the files are in maggies
    return jp.make_image(data.astype(float) * scale, std=sigma.astype(float) * scale, mask=bad, psf=psf.astype(float))


def ic3478():
    data = fits.getdata(DATA / "imfit/ic3478rss_256.fits").astype(float)
    std = np.sqrt((data + 130.14) / 4.725 + (4.3 / 4.725) ** 2)
    mask = fits.getdata(DATA / "imfit/ic3478rss_256_mask.fits") > 0
    return jp.make_image(data, std=std, mask=mask, psf=fits.getdata(DATA / "imfit/psf_moffat_51.fits").astype(float))


def legacy(band):
    with fits.open(DATA / "legacysurvey/decals_59.1067_-30.4848_rz_128.fits") as hdus:
        y, x = np.mgrid[:128, :128]
        return jp.make_image(
            hdus[f"IMAGE_{band}"].data.astype(float),
            ivar=hdus[f"INVVAR_{band}"].data.astype(float),
            mask=np.hypot(x - 58, y) < 35,  # a bright neighbour that the lower edge cuts
            psf=hdus[f"PSF_{band}"].data.astype(float),
            wcs=WCS(hdus[f"IMAGE_{band}"].header),
            zeropoint=22.5,
        )


def fitted(image):
    result = jp.fit(MODEL, jp.initialize(MODEL, image), image)
    assert jp.status_message(result.status) == "converged"
    assert int(result.steps) <= 25
    return result


def flat(result):
    """Our parameters in the reference's names and units."""
    galaxy = {name: np.asarray(value) for name, value in result.params["galaxy"].items()}
    return {
        "x": galaxy["center"][0],
        "y": galaxy["center"][1],
        "q": galaxy["q"],
        "pa_y": np.rad2deg(-galaxy["PA"]) % 180,  # without a WCS +x is East here, so theirs runs the other way
        "n": galaxy["n"],
        "Ie": galaxy["Ie"],
        "Re": galaxy["Re"],
        "sky": np.asarray(result.params["sky"]["I0"]),
    }


@pytest.mark.parametrize("name", ["G279148", "G265911"])
def test_kids_galaxy_reaches_the_exact_optimum(name):
    reference = KIDS[name]["exact"]
    image = kids(name)
    assert int((~np.asarray(image.mask)).sum()) == KIDS[name]["n_good"]
    result = fitted(image)
    assert float(result.chi2) <= reference["chi2"] * 1.001
    ours = flat(result)
    for parameter, value in reference["params"].items():
        if parameter == "flux_total":
            continue
        error = reference["errors"][parameter]
        assert abs(ours[parameter] - value) <= error, f"{parameter}: {ours[parameter]} against {value} ± {error}"
    errors = {"n": result.stderr["galaxy"]["n"], "Re": result.stderr["galaxy"]["Re"], "sky": result.stderr["sky"]["I0"]}
    for parameter, error in errors.items():
        np.testing.assert_allclose(error, reference["errors"][parameter], rtol=0.02)


def test_kids_galaxy_with_masked_pixels():
    image = kids("G267199")
    result = fitted(image)
    galaxy = result.params["galaxy"]
    assert float(result.chi2) / int(result.dof) < 1.3
    assert 1.2 < float(galaxy["n"]) < 1.35
    assert 18.5 < float(galaxy["Re"]) < 19.5


def test_ic3478_agrees_with_imfit():
    reference = json.loads((DATA / "imfit/ic3478_pyimfit_fit.json").read_text())
    result = fitted(ic3478())
    assert float(result.chi2) <= reference["chi2"] * 1.001
    ours = flat(result)
    for parameter, value in reference["params"].items():
        if parameter != "flux_total":
            assert abs(ours[parameter] - value) <= reference["errors"][parameter], parameter


@pytest.mark.full
def test_legacy_survey_bands_agree_with_each_other():
    results = {band: fitted(legacy(band)) for band in "RZ"}
    red, near_infrared = (results[band].params["galaxy"] for band in "RZ")
    errors = results["R"].stderr["galaxy"], results["Z"].stderr["galaxy"]
    for name in ("center", "q", "PA"):
        apart = np.abs(np.asarray(red[name] - near_infrared[name]))
        # noise, and 0.02" or 5 % for what the colours really do differ
        assert np.all(apart <= 3 * np.hypot(errors[0][name], errors[1][name]) + 0.05)
    ra, dec = jp.plane_to_sky(*np.asarray(red["center"]), (59.1800643086817, -30.5))
    assert np.hypot((ra - 59.1067) * np.cos(np.deg2rad(dec)), dec + 30.4848) * 3600 < 1.5


def test_file_units_of_1e_12_work_in_float32():
    name = "G279148"
    data, sigma = (fits.getdata(DATA / f"kids/{name}{part}.fits") for part in ("fitim", "sigma"))
    segments = fits.getdata(DATA / f"kids/{name}segim.fits")
    bad = (segments > 0) & (segments != segments[data.shape[0] // 2, data.shape[1] // 2])
    image = jp.make_image(data, std=sigma, mask=bad, psf=fits.getdata(DATA / f"kids/{name}psfim.fits"))
    assert image.dtype == np.float32
    result = fitted(image)
    expected = KIDS[name]["exact"]
    for parameter in ("n", "Re"):
        apart = abs(float(result.params["galaxy"][parameter]) - expected["params"][parameter])
        assert apart <= expected["errors"][parameter]
