"""float32: the dtype of most survey images and the default of JAX."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxphot as jp

MODEL = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
PSF = np.exp(-0.5 * np.add.outer(np.arange(-4, 5) ** 2, np.arange(-4, 5) ** 2) / 1.3**2)
QUAD = jp.sampling.quad(2)
SHAPE = (28, 30)
# a plane far from its origin, as a cutout of a large mosaic has it: 500 arcsec away
CD = np.array([[-0.2, 0.02], [0.02, 0.2]])
CENTER = CD @ [2514.7, 13.2]
TRUTH = {"galaxy": {"q": 0.55, "PA": 0.8, "n": 1.7, "Re": 1.0, "Ie": 1.0}, "sky": {"I0": 0.2}}


def images(scale, count=4, snr=100.0):
    """The same noisy pixels as float64 images, with fluxes of a given scale."""
    transform = jp.make_linear(cd=CD, crpix=(-2500.0, 0.0), crval=(150.1, 2.2))
    truth = {"galaxy": TRUTH["galaxy"] | {"center": CENTER}, "sky": TRUTH["sky"]}
    clean = np.asarray(
        jp.render(MODEL, truth, jp.make_image(np.zeros(SHAPE), std=1.0, transform=transform, psf=PSF), QUAD)
    )
    std = np.sqrt(np.sum((clean - clean.min()) ** 2)) / snr
    noise = std * np.random.default_rng(12).normal(size=(count, *SHAPE))
    return [jp.make_image(scale * (clean + n), std=scale * std, transform=transform, psf=PSF) for n in noise]


def start(scale):
    return {
        "galaxy": {"center": CENTER + 0.15, "q": 0.8, "PA": 0.4, "n": 1.0, "Re": 0.8, "Ie": 0.7 * scale},
        "sky": {"I0": 0.0},
    }


def flat(tree):
    return np.concatenate([np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


@pytest.mark.full
def test_fits_agree_with_float64():
    """Down to the fluxes of maggies, whose squares float32 cannot hold."""
    for scale in (1.0, 1e-10, 1e6):
        double = images(scale)
        single = [jax.tree.map(lambda leaf: leaf.astype(np.float32), image) for image in double]
        fits = {
            dtype: jp.fit_batch(MODEL, start(scale), batch, sampling=QUAD, progress=False)
            for dtype, batch in ((np.float64, double), (np.float32, single))
        }
        for dtype, fit in fits.items():
            assert np.all(fit.status == 0), (scale, dtype, fit.status)
            assert fit.chi2.dtype == fit.covariance.dtype == dtype
        difference = (flat(fits[np.float32].params) - flat(fits[np.float64].params)) / flat(fits[np.float64].stderr)
        assert np.max(np.abs(difference)) < 0.03, scale
        assert_allclose(flat(fits[np.float32].stderr), flat(fits[np.float64].stderr), rtol=0.01)
        assert_allclose(fits[np.float32].chi2, fits[np.float64].chi2, rtol=1e-4)
        assert np.max(fits[np.float32].steps) <= np.max(fits[np.float64].steps) + 5, scale


@pytest.mark.full
def test_high_signal_to_noise():
    """S/N 10⁴: rounding of the model is a good part of the noise, and the fit still ends."""
    single = [jax.tree.map(lambda leaf: leaf.astype(np.float32), image) for image in images(1.0, snr=1e4)]
    fits = jp.fit_batch(MODEL, start(1.0), single, sampling=QUAD, progress=False)
    assert np.all(fits.status == 0)
    assert np.max(fits.steps) < 40
    double = jp.fit_batch(MODEL, start(1.0), images(1.0, snr=1e4), sampling=QUAD, progress=False)
    difference = (flat(fits.params) - flat(double.params)) / flat(double.stderr)
    assert np.max(np.abs(difference)) < 1.0


def test_sky_positions():
    """Concrete: float64 from float32 leaves. Traced in float32: 1e-3 arcsec relative to crval."""
    crval = (210.123456789, -54.3210987654)
    exact = jp.make_linear(cd=[[-0.26, 0.01], [0.01, 0.26]], crpix=(1023.5, 511.5), crval=crval, dtype=np.float64)
    single = exact.astype(np.float32)
    i, j = np.array([0.0, 1023.5, 2000.0]), np.array([0.0, 511.5, 30.0])
    ra, dec = jp.pixel_to_sky(exact, i, j)
    got_ra, got_dec = jp.pixel_to_sky(single, i, j)
    assert np.max(np.abs(got_ra - ra)) * 3600 < 1e-4
    assert np.max(np.abs(got_dec - dec)) * 3600 < 1e-4
    assert_allclose((got_ra[1], got_dec[1]), crval, rtol=0, atol=1e-10)

    @jax.jit
    def there_and_back(transform, i, j):
        return jp.sky_to_pixel(transform, *jp.pixel_to_sky(transform, i, j))

    back = there_and_back(exact, i, j)
    assert_allclose(back, (i, j), atol=1e-7)

    # in float32 a position near ra = 0 has small numbers to hold, so that the projection itself is what is measured
    @jax.jit
    def project(x, y, crval):
        return jp.plane_to_sky(x, y, crval)

    x, y = np.array([-900.0, 3.0, 0.0, 1200.0]), np.array([800.0, -2.0, 0.0, -1500.0])
    for dec in (0.0, -54.3210987654, 89.0):
        exact = jp.plane_to_sky(x, y, np.array([0.0, dec]))
        got = project(*(value.astype(np.float32) for value in (x, y, np.array([0.0, dec]))))
        assert got[0].dtype == np.float32
        turn = (np.asarray(got[0], float) - exact[0] + 180) % 360 - 180
        near = exact[0] < 180  # on the other side of ra = 0, 360 degrees are all that float32 sees
        rounding = 3600 * np.finfo(np.float32).eps * abs(dec)
        assert np.max(np.abs(turn * np.cos(np.deg2rad(dec)))[near]) * 3600 < 1e-3 + 2 * rounding
        assert np.max(np.abs(np.asarray(got[1], float) - exact[1])) * 3600 < 1e-3 + 2 * rounding


SCRIPT = """
import warnings
warnings.simplefilter("error")
import numpy as np, jax, jaxphot as jp
assert not jax.config.jax_enable_x64
rng = np.random.default_rng(0)
psf = np.exp(-0.5 * np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2) / 1.2**2)
model = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
truth = {"galaxy": {"center": [11.3, 12.1], "q": 0.6, "PA": 0.5, "n": 1.5, "Re": 3.0, "Ie": 4.0}, "sky": {"I0": 1.0}}
transform = jp.make_linear(pixelscale=1.0, crval=(150.123456789, 2.2))
blank = jp.make_image(np.zeros((24, 26)), std=0.2, psf=psf, transform=transform, zeropoint=25.0)
sampling = jp.sampling.quad(2)
data = np.asarray(jp.render(model, truth, blank, sampling)) + 0.2 * rng.normal(size=(24, 26))
image = jp.make_image(data.astype(float), std=0.2, psf=psf, transform=transform, zeropoint=25.0)
assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(image))
start = jp.initialize(model, image)
fit = jp.fit(model, start, image, sampling=sampling)
assert jp.status_message(fit.status) == "converged", jp.status_message(fit.status)
pulls = jax.tree.map(lambda p, t, e: (p - np.asarray(t)) / e, fit.params, truth, fit.stderr)
assert max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(pulls)) < 4.5, pulls
fits = jp.fit_batch(model, start, [image, image], sampling=sampling, progress=False)
assert np.all(np.asarray(fits.status) == 0)
ra, dec = jp.pixel_to_sky(image.transform, 0.0, 0.0)
assert abs(ra - 150.123456789) < 1e-10 and ra.dtype == np.float64
assert np.isfinite(float(jp.log_likelihood(model, fit.params, image, sampling=sampling)))
assert jp.rebin(image, 2).shape == (12, 13) and jp.crop(image, (0, 5, 0, 5)).dtype == np.float32
table = jp.to_table(fits)
assert len(table) == 2
"""


def test_the_main_job_with_x64_off():
    """In a process of its own, as most people run JAX; any warning is an error."""
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment())
    assert result.returncode == 0, result.stderr


def environment():
    import os

    return {key: value for key, value in os.environ.items() if not key.startswith("JAX_ENABLE")}
