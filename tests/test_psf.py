"""Building a PSF. What it does to light is in test_render."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxphot as jp


@pytest.mark.parametrize(("shape", "center"), [((5, 7), (3, 2)), ((6, 8), (4, 3)), ((1, 1), (0, 0)), ((2, 5), (2, 1))])
def test_normalised_and_centred_by_galfits_rule(shape, center):
    stamp = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    psf = jp.make_psf(stamp)
    assert psf.shape == shape
    assert_allclose(psf.data, stamp / stamp.sum(), rtol=1e-15)
    assert_array_equal(psf.center, center)
    assert (psf.oversample, psf.integrated) == (1, False)


def test_what_is_an_array_and_what_is_not():
    """Values and centre may differ from lane to lane; sampling is part of the program."""
    psf = jp.make_psf(np.ones((4, 4)), oversample=3, center=(1.5, 1.5), integrated=True)
    assert len(jax.tree.leaves(psf)) == 2
    assert jax.tree.structure(psf) != jax.tree.structure(jp.make_psf(np.ones((4, 4)), oversample=2, center=(1.5, 1.5)))
    assert (psf.oversample, psf.integrated) == (3, True)


def test_off_centre_stamps_are_filled_up():
    """What is known of the PSF stays where it is relative to its centre; zeros are put around it."""
    stamp = np.arange(1.0, 36.0).reshape(5, 7)
    for center in ((0.0, 0.0), (6.0, 4.0), (0.3, 3.6), (6.4, -0.4)):
        psf = jp.make_psf(stamp, center=center)
        h, w = psf.shape
        assert np.all(np.abs(2 * np.asarray(psf.center) - (w - 1, h - 1)) <= 2)
        shift_u, shift_v = np.round(np.asarray(psf.center) - center).astype(int)
        assert_allclose(np.asarray(psf.center) - center, (shift_u, shift_v), atol=1e-14)
        assert_allclose(psf.data[shift_v : shift_v + 5, shift_u : shift_u + 7], stamp / stamp.sum())
        assert_allclose(np.sum(psf.data), 1.0)


def test_dtypes():
    stamp = np.ones((3, 3))
    assert jp.make_psf(stamp.astype(np.float32)).data.dtype == np.float32
    assert jp.make_psf(stamp.astype(">f4")).data.dtype == np.float32
    assert jp.make_psf(stamp.astype(int)).data.dtype == np.float64
    assert jp.make_psf(stamp, dtype=np.float32).center.dtype == np.float32
    image = jp.make_image(np.zeros((4, 4), np.float32), std=1.0, psf=jp.make_psf(stamp))
    assert image.psf.data.dtype == np.float32
    assert jp.make_psf(jp.make_psf(stamp).data).shape == (3, 3)


def test_a_plain_stamp_will_do():
    stamp = np.add.outer(np.arange(3.0), np.arange(5.0))
    one = jp.make_image(np.zeros((4, 4)), std=1.0, psf=stamp)
    two = jp.make_image(np.zeros((4, 4)), std=1.0, psf=jp.make_psf(stamp))
    assert_array_equal(one.psf.data, two.psf.data)
    assert_array_equal(one.psf.center, (2, 1))


def test_a_psf_of_one_cell_changes_nothing():
    """Nor does the default rule draw a galaxy's core by interpolating a stamp that cannot be interpolated."""
    params = {"center": [4.2, 3.7], "q": 0.6, "PA": 0.4, "sigma": 1.5, "flux": 10.0}
    images = [jp.make_image(np.zeros((8, 9)), std=1.0, psf=psf) for psf in (None, [[1.0]])]
    for rule, tol in ((jp.sampling.quad(3), 1e-14), (jp.sampling.adaptive(), 1e-5)):
        plain, point = (jp.render(jp.models.gaussian, params, image, rule) for image in images)
        assert_allclose(plain, point, rtol=0, atol=tol)
