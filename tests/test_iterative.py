"""Fields fitted tile by tile: the same minimum and errors as all at once."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxphot as jp

PSF = np.exp(-np.add.outer(np.arange(-8, 9) ** 2, np.arange(-8, 9) ** 2) / 2 / 1.3**2)
MODEL = jp.scene(
    blobs=jp.many(jp.models.gaussian, stamp=27), stars=jp.many(jp.models.point_source, stamp=21), sky=jp.models.flat_sky
)


def field():
    """26 stars and 4 blobs on 70 × 90 pixels, 11 pixels apart: every one overlaps its neighbours' stamps."""
    rng = np.random.default_rng(8)
    grid = np.stack(np.meshgrid(np.arange(11, 88, 11), np.arange(10, 66, 13)), -1).reshape(-1, 2)[:30]
    center = grid + rng.uniform(-2.5, 2.5, grid.shape)
    blobs = {"q": np.full(4, 0.7), "PA": np.arange(4.0), "sigma": np.full(4, 1.5), "flux": np.full(4, 900.0)}
    truth = {
        "blobs": {"center": center[::8], **blobs},
        "stars": {"center": np.delete(center, np.s_[::8], axis=0), "flux": rng.uniform(200, 2000, 26)},
        "sky": {"I0": 4.0},
    }
    blank = jp.make_image(np.zeros((70, 90)), std=1.0, psf=PSF)
    clean = np.asarray(jp.render(MODEL, truth, blank))
    start = {part: {**own} for part, own in truth.items()}
    for part in ("blobs", "stars"):
        start[part]["center"] = truth[part]["center"] + 0.2
        start[part]["flux"] = truth[part]["flux"] * 0.8
    return replace(blank, data=clean + rng.standard_normal(clean.shape)), start, truth


@pytest.mark.full
def test_tile_by_tile_is_all_at_once():
    image, start, truth = field()
    options = {"fixed": {"blobs": {"q": np.full(4, 0.7), "PA": None}}, "bounds": {"stars": {"flux": (0.0, 1e5)}}}
    found = jp.fit_iterative(MODEL, start, image, side=40, **options)
    whole = jp.fit(MODEL, start, image, **options)
    assert int(found.status) == int(whole.status) == 0
    assert found.names == whole.names
    assert int(found.steps) < int(whole.steps)
    assert_allclose(found.chi2, whole.chi2, atol=0.01)  # stamps lie where each start put them
    for part, name in (("stars", "flux"), ("stars", "center"), ("blobs", "sigma")):
        value, expected, error = (np.asarray(tree[part][name]) for tree in (found.params, whole.params, whole.stderr))
        assert np.max(np.abs(value - expected) / error) < 0.05
        assert_allclose(found.stderr[part][name], error, rtol=1e-2)
        assert np.max(np.abs(value - truth[part][name]) / error) < 4


def test_bad_input():
    image, start, _ = field()
    with pytest.raises(ValueError, match=r"many\(…, stamp=\)"):
        jp.fit_iterative(jp.models.flat_sky, {"I0": 0.0}, image)
    with pytest.raises(ValueError, match="only Gaussian noise"):
        jp.fit_iterative(MODEL, start, image, likelihood=jp.likelihood.student_t())
    with pytest.raises(ValueError, match="linear cannot be used"):
        jp.fit_iterative(MODEL, start, image, linear=("sky",))
    nested = jp.scene(inner=jp.scene(a=jp.models.flat_sky), stars=jp.many(jp.models.point_source, stamp=9))
    with pytest.raises(ValueError, match="inner is a nested scene"):
        jp.fit_iterative(nested, start, image)
    with pytest.raises(ValueError, match="side: expected"):
        jp.fit_iterative(MODEL, start, image, side=0)
    with pytest.raises(TypeError, match="unknown speed"):
        jp.fit_iterative(MODEL, start, image, speed=3)
