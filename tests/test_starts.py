"""Several starts an image: the best end is kept, and another minimum is reported."""

import functools

import jax
import numpy as np
from test_batch import SHAPE, assert_same_solutions, cutouts, fit_all, flat, rows

import jaxphot as jp


@functools.cache
def two_blobs():
    """A faint blob where the fit starts, and a bright one 7 pixels away; the other lanes are ordinary galaxies."""
    _, starts, images = cutouts()
    i = np.arange(24)
    faint = 20 * np.exp(-0.5 * np.add.outer((i - 9.0) ** 2, (i - 10.0) ** 2) / 1.5)
    bright = 200 * np.exp(-0.5 * np.add.outer((i - 14.6) ** 2, (i - 14.2) ** 2) / 1.5)
    data = np.array(images.data[16:24])
    data[5] = faint + bright + np.random.default_rng(3).normal(size=SHAPE)
    starts = jax.tree.map(np.copy, rows(starts, slice(16, 24)))
    starts["galaxy"]["center"][5] = [10.0, 9.0]
    starts["galaxy"]["Re"][5], starts["galaxy"]["n"][5] = 1.5, 0.6
    return starts, jp.stack_images([jp.make_image(d, std=1.0) for d in data])


def test_several_starts():
    starts, images = two_blobs()
    one = fit_all(starts, images)
    assert not np.any(one.multimodal)
    assert one.params["galaxy"]["center"][5, 0] < 11
    several = fit_all(starts, images, starts=8)
    assert np.all(several.chi2 <= one.chi2 + 1e-4)
    assert several.chi2[5] < one.chi2[5] - 100
    assert several.params["galaxy"]["center"][5, 0] > 13
    assert bool(several.multimodal[5])
    assert jp.status_message(several)[5].endswith("other starts found another minimum")
    others = np.flatnonzero(~np.asarray(several.multimodal))
    assert others.size == 7
    # where no start does better, the result is that of the given start
    np.testing.assert_allclose(flat(several.params)[others], flat(one.params)[others], rtol=1e-8)
    together = fit_all(starts, images, starts=8, schedule="vmap")
    assert_same_solutions(together, several, close=1e-8)
    assert np.array_equal(together.multimodal, several.multimodal)
