"""PSFs that vary over the frame: against GalSim's and photutils' readers, in scenes and in cutouts."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from astropy.io import fits

import jaxphot as jp

Y, X = np.mgrid[-10:11, -10:11].astype(float)


def gaussian(sigma, k=1, half=10):
    v, u = np.mgrid[-half : half + 1, -half : half + 1] / k
    return np.exp(-(u**2 + v**2) / 2 / sigma**2) / (2 * np.pi * sigma**2 * k**2)


def psfex_file(path, basis, *, degree, samp, names=("X_IMAGE", "Y_IMAGE")):
    columns = [fits.Column("PSF_MASK", f"{basis.size}E", dim=str(basis.shape[::-1]), array=basis[None].astype("f4"))]
    table = fits.BinTableHDU.from_columns(columns, name="PSF_DATA")
    table.header.update(
        {"POLNAXIS": 2, "POLGRP1": 1, "POLGRP2": 1, "POLNGRP": 1, "POLDEG1": degree, "PSF_SAMP": samp, "PSFNAXIS": 3}
        | {"PSFAXIS1": basis.shape[2], "PSFAXIS2": basis.shape[1], "PSFAXIS3": basis.shape[0]}
        | {"POLNAME1": names[0], "POLNAME2": names[1], "POLZERO1": 501.0, "POLSCAL1": 500.0}
        | {"POLZERO2": 401.0, "POLSCAL2": 400.0, "CHI2": 1.0, "PSF_FWHM": 3.0}
    )
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)


def test_polynomial_is_the_one_galsim_reads(tmp_path):
    des = pytest.importorskip("galsim.des")
    import galsim

    rng = np.random.default_rng(0)
    basis = np.stack([gaussian(1.6)] + [0.05 * gaussian(s) * rng.normal() for s in (1.2, 1.4, 2.0, 1.8, 1.5)])
    psfex_file(tmp_path / "model.psf", basis, degree=2, samp=1.0)
    psf = jp.read_psfex(tmp_path / "model.psf")
    reference = des.DES_PSFEx(str(tmp_path / "model.psf"))
    for i, j in ((0.0, 0.0), (123.0, 700.0), (999.0, 50.0)):
        expected = reference.getPSFArray(galsim.PositionD(i + 1, j + 1))
        found = psf.at(i, j)
        np.testing.assert_allclose(found.data, expected / expected.sum(), atol=2e-7)
        assert found.integrated
        assert found.oversample == 1


def test_psfex_of_a_finer_step_draws_the_stars_it_was_made_of(tmp_path):
    """Steps of 0.7 pixels become cells of half a pixel; the pixel, which PSFEx has in its values, counts once."""
    model, truth = jp.psf_models.round_gaussian, {"sigma": 1.3}
    fine = jp.psf_from_model(model, truth, (301, 301), 10)  # cells of 0.1 pixel
    pixel = np.ones(10)
    pixel = np.convolve(pixel, [0.5, 0.5])  # ten cells about a cell's middle
    data = np.asarray(fine.data)
    effective = np.apply_along_axis(lambda row: np.convolve(row, pixel, "same"), 0, data)
    effective = np.apply_along_axis(lambda row: np.convolve(row, pixel, "same"), 1, effective)
    at = 150 + 7 * np.arange(-18, 19)
    basis = effective[np.ix_(at, at)][None]
    psfex_file(tmp_path / "model.psf", basis, degree=0, samp=0.7)
    image = jp.make_image(np.zeros((31, 31)), std=1.0, psf=jp.read_psfex(tmp_path / "model.psf"))
    star = {"center": [15.3, 14.8], "flux": 1.0}
    found = np.asarray(jp.render(jp.models.point_source, star, image))
    expected = np.asarray(jp.render(jp.models.point_source, star, replace(image, psf=fine)))
    np.testing.assert_allclose(found, expected, atol=3e-3 * expected.max())
    assert jp.read_psfex(tmp_path / "model.psf").oversample == 2


def test_grid_is_the_one_photutils_evaluates(tmp_path):
    psf_module = pytest.importorskip("photutils.psf")
    k, nodes = 4, [(i, j) for j in (9, 109) for i in (4, 54, 204)]
    sigmas = np.linspace(1.2, 2.0, 6)
    x = (np.arange(-50, 51)) / k
    from scipy.special import erf

    def line(sigma):
        return 0.5 * (erf((x + 0.5) / sigma / 2**0.5) - erf((x - 0.5) / sigma / 2**0.5))

    cube = np.stack([np.outer(line(s), line(s)) for s in sigmas])
    hdu = fits.PrimaryHDU(cube.astype("f4"))
    hdu.header.update({"NXPSFS": 3, "NYPSFS": 2, "JPSFY01": 10, "JPSFY02": 110})
    hdu.header.update({"IPSFX01": 5, "IPSFX02": 55, "IPSFX03": 205})
    hdu.writeto(tmp_path / "STDPSF.fits")
    psf = jp.read_psf_grid(tmp_path / "STDPSF.fits")
    np.testing.assert_allclose(psf.columns, [4, 54, 204])
    reference = psf_module.GriddedPSFModel.read(tmp_path / "STDPSF.fits", format="stdpsf")
    np.testing.assert_allclose(np.asarray(reference.grid_xypos), nodes)
    v, u = np.mgrid[:25, :25]
    frame = jp.make_image(np.zeros((120, 230)), std=1.0, psf=psf)
    for i, j in ((30.0, 60.0), (130.0, 40.0), (212.0, 15.0)):
        first = int(i) - 12, int(j) - 12
        cut = jp.crop(frame, (first[0], first[0] + 25, first[1], first[1] + 25))
        found = jp.render(jp.models.point_source, {"center": [i, j], "flux": 1.0}, cut)
        expected = reference.evaluate(u + first[0], v + first[1], 1.0, i, j)
        np.testing.assert_allclose(found, expected, atol=3e-3 * expected.max())


def varying(dtype=None):
    """From σ = 1.2 at the left edge of a frame of 150 columns to 2.0 at the right, in values."""
    return jp.make_grid_psf([gaussian(1.2), gaussian(2.0)], [(0, 20), (149, 20)], dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scene_sees_the_psf_of_each_place(dtype):
    image = jp.make_image(np.zeros((40, 150)), std=1.0, psf=varying(dtype), dtype=dtype)
    model = jp.scene(stars=jp.many(jp.models.point_source, stamp=25), sky=jp.models.flat_sky)
    center = np.array([[14.0, 20.0], [70.0, 18.0], [133.0, 21.0]])
    truth = {"stars": {"center": center, "flux": np.array([900.0, 800.0, 700.0])}, "sky": {"I0": 3.0}}
    drawn = jp.render(model, truth, image)
    assert drawn.dtype == dtype
    for k, (i, j) in enumerate(center):
        stamp = gaussian(1.2) * (1 - i / 149) + gaussian(2.0) * i / 149
        rows, columns = (np.s_[int(c) - 8 : int(c) + 9] for c in (j, i))
        expected = truth["stars"]["flux"][k] * stamp[2:-2, 2:-2] / stamp.sum() + 3
        np.testing.assert_allclose(drawn[rows, columns], expected, atol=0.3)
    if dtype == np.float64:
        data = drawn + np.random.default_rng(1).standard_normal(image.shape)
        start = {**truth, "stars": {"center": center + 0.3, "flux": truth["stars"]["flux"] * 0.8}}
        fit = jp.fit(model, start, replace(image, data=data))
        assert int(fit.status) == 0
        pull = (np.asarray(fit.params["stars"]["flux"]) - truth["stars"]["flux"]) / fit.stderr["stars"]["flux"]
        assert np.max(np.abs(pull)) < 4
        assert abs(float(fit.chi2) / int(fit.dof) - 1) < 0.1


def test_cutouts_have_the_psf_of_their_middle():
    image = jp.make_image(np.zeros((40, 150)), std=1.0, psf=varying())
    cuts = [jp.crop(image, (i, i + 25, 5, 30)) for i in (0, 60, 125)]
    batch = jp.stack_images(cuts)
    for cut, i in zip(cuts, (12.0, 72.0, 137.0), strict=True):
        assert isinstance(cut.psf, jp.PSF)
        np.testing.assert_allclose(cut.psf.data, image.psf.at(i, 17.0).data)
    assert batch.psf.data.shape == (3, 21, 21)
    small = jp.rebin(image, 2)
    np.testing.assert_allclose(small.psf.at(36.0, 10.0).data, image.psf.at(72.5, 20.5).data, atol=1e-12)
    assert small.psf.at(0, 0).oversample == 2
    polynomial = jp.make_polynomial_psf(np.stack([gaussian(1.2), 0.1 * gaussian(2.0), 0 * X]), 1, scale=(9, 9))
    half = polynomial.rebin(2)
    np.testing.assert_allclose(half.at(3.0, 1.0).data, polynomial.at(6.5, 2.5).data, atol=1e-12)
    assert jax.jit(lambda psf: psf.at(3.0, 4.0).data)(polynomial).shape == (21, 21)
    assert jp.initialize(jp.models.point_source, replace(image, data=image.data.at[20, 75].set(9.0)))["flux"] > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jp.make_polynomial_psf([gaussian(1.0)] * 2, 1), "basis: expected"),
        (lambda: jp.make_polynomial_psf([gaussian(1.0)], 0, scale=(0, 1)), "scale: expected"),
        (lambda: jp.make_polynomial_psf(gaussian(1.0), 0), "basis: expected stamps"),
        (lambda: jp.make_grid_psf([gaussian(1.0)] * 3, [(0, 0), (1, 0), (0, 1)]), "all combinations"),
        (lambda: jp.make_grid_psf([gaussian(1.0)], [(0, 0, 0)]), "positions: expected"),
        (lambda: jp.make_grid_psf([gaussian(1.0) * np.nan], [(0, 0)]), "not finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        jp.read_psfex(tmp_path / "none.psf")
    fits.PrimaryHDU(np.ones((3, 4, 4))).writeto(tmp_path / "cube.fits")
    with pytest.raises(ValueError, match="no PSFEx model"):
        jp.read_psfex(tmp_path / "cube.fits")
    with pytest.raises(ValueError, match="neither NXPSFS"):
        jp.read_psf_grid(tmp_path / "cube.fits")
    psfex_file(tmp_path / "colour.psf", np.stack([gaussian(1.5)] * 3), degree=1, samp=1.0, names=("X_IMAGE", "MAG"))
    with pytest.raises(ValueError, match="varies with X_IMAGE, MAG"):
        jp.read_psfex(tmp_path / "colour.psf")
    image = jp.make_image(np.zeros((9, 9)), std=1.0, psf=varying())
    with pytest.raises(ValueError, match="varies over the frame"):
        jp.write_fits(tmp_path / "image.fits", image)
