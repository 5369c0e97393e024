"""Batches in float32, float64 and mixed precision."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from test_batch import SNR, assert_identical, cutouts, fit_all, flat, reference

from jaxphot.fitting.batch import BatchError, _enable_x64


def test_precision():
    """Neither float32 nor mixed is biased against float64, at any S/N; mixed has its errors and χ² too."""
    assert_identical(fit_all(precision="float64"), reference())
    double = reference()
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), cutouts()[2])
    low, mixed = fit_all(precision="float32"), fit_all(precision="mixed")
    assert low.chi2.dtype == np.float32
    assert mixed.chi2.dtype == mixed.covariance.dtype == np.float64
    assert_identical(low, fit_all(images=single))
    for snr in (10.0, 100.0, 1000.0):
        chosen = (np.asarray(double.status) == 0) & (np.asarray(low.status) == 0) & (snr == SNR)
        assert chosen.sum() >= 12, snr
        error = flat(double.stderr)[chosen]
        for fits, largest in ((low, 0.05), (mixed, 5e-3)):
            difference = (flat(fits.params) - flat(double.params))[chosen] / error
            assert np.max(np.abs(np.nanmean(difference, axis=0))) < largest / 4, (snr, fits.chi2.dtype)
            assert np.nanmax(np.abs(difference)) < largest, (snr, fits.chi2.dtype)
        # of faint galaxies, errors change by percents within a hundredth of themselves
        np.testing.assert_allclose(flat(mixed.stderr)[chosen], error, rtol=5e-3 if snr >= 100 else 3e-2)
        np.testing.assert_allclose(np.asarray(mixed.chi2)[chosen], np.asarray(double.chi2)[chosen], atol=1e-4)
    assert np.array_equal(mixed.status, double.status)


def test_precision_needs_what_it_says():
    with pytest.raises(ValueError, match="precision: expected one of float32, float64, mixed"):
        fit_all(precision="half")
    with _enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        fit_all(precision="mixed")
    _, _, images = cutouts()
    faint = replace(images, ivar=images.ivar * 1e60)
    with pytest.raises(BatchError, match=r"precision: images\[0\] .* float32 cannot hold"):
        fit_all(images=faint, precision="float32")
