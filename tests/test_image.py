"""Images: what builders make of their arguments; cutting, summing, stacking."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxphot as jp

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(6, 8))
CD = np.array([[-0.2, 0.03], [0.05, 0.25]])
TRANSFORM = jp.make_linear(cd=CD, crpix=(2.0, 3.0), crtan=(0.5, -0.5), crval=(150.123456789, -33.987654321))


def full(**options):
    mask = np.zeros((6, 8), bool)
    mask[1, 2] = True
    arguments = {
        "std": 0.5, "mask": mask, "transform": TRANSFORM, "psf": np.ones((3, 5)), "zeropoint": 22.5, "gain": 3.0,
    }  # fmt: skip
    return jp.make_image(DATA, **(arguments | options))


def test_builder():
    image = full()
    assert image.shape == (6, 8)
    assert image.dtype == np.float64
    assert_array_equal(image.data, DATA)
    assert_array_equal(image.mask, np.arange(48).reshape(6, 8) == 10)
    assert_array_equal(image.ivar, np.where(image.mask, 0, 4.0))
    assert float(image.zeropoint) == 22.5
    assert float(image.gain) == 3.0
    assert_allclose(image.psf.data, 1 / 15)
    assert_allclose(image.pixel_area_map, np.full((6, 8), abs(np.linalg.det(CD))))
    for leaf in jax.tree.leaves(image):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == np.float64
    plain = jp.make_image(DATA, std=1.0)
    assert np.isnan(plain.zeropoint)
    assert np.isnan(plain.gain)
    assert plain.psf is None
    assert [float(v) for v in plain.transform.pixel_to_plane(3, 4)] == [3.0, 4.0]


def test_ways_to_say_the_noise():
    wanted = np.broadcast_to(4.0, (6, 8))
    for options in ({"std": 0.5}, {"variance": 0.25}, {"ivar": 4.0}, {"std": np.full((6, 8), 0.5)}):
        assert_allclose(jp.make_image(DATA, **options).ivar, wanted)
    spotted = DATA.copy()
    spotted[0, 0], spotted[1, 1] = np.nan, np.inf
    image = jp.make_image(spotted, ivar=4.0)
    assert_array_equal(np.argwhere(image.mask), [[0, 0], [1, 1]])
    assert_array_equal(image.ivar[1, 1], 0)


def test_dtypes():
    single = full(dtype=np.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {np.dtype(np.float32)}
    assert jp.make_image(DATA.astype(np.float32), std=1.0).dtype == np.float32
    assert jp.make_image(DATA.astype(">f4"), std=1.0).dtype == np.float32
    assert jp.make_image(DATA.astype(">f8"), std=1.0).dtype == np.float64
    assert jp.make_image(np.ones((3, 3), np.int16), std=1.0).dtype == np.float64
    assert jp.make_image(jnp.ones((3, 3)), std=1.0).dtype == np.float64
    assert jp.make_image([[1, 2], [3, 4]], std=1.0).shape == (2, 2)


def test_sky_position_survives_float32():
    single = full(dtype=np.float32)
    exact = full()
    for i, j in ((0.0, 0.0), (7.0, 5.0)):
        ra, dec = jp.pixel_to_sky(single.transform, i, j)
        ra0, dec0 = jp.pixel_to_sky(exact.transform, i, j)
        assert abs(ra - ra0) * 3600 * np.cos(np.deg2rad(dec0)) < 1e-5
        assert abs(dec - dec0) * 3600 < 1e-5


def test_an_image_passes_through_jit_once():
    traces = []

    @jax.jit
    def total(image):
        traces.append(1)
        return jnp.sum(jnp.where(image.mask, 0, image.data)) + image.shape[0]

    assert_allclose(total(full()), DATA.sum() - DATA[1, 2] + 6)
    total(full(zeropoint=None, gain=7.0))
    total(full(transform=jp.make_linear(pixelscale=3.0)))
    assert len(traces) == 1


# --- crop -----------------------------------------------------------------------------------------------------------


def test_crop_is_a_slice():
    image = full()
    part = jp.crop(image, (2, 7, 1, 4))
    assert part.shape == (3, 5)
    assert_array_equal(part.data, DATA[1:4, 2:7])
    assert_array_equal(part.mask, image.mask[1:4, 2:7])
    assert_allclose(part.transform.pixel_to_plane(0.0, 0.0), image.transform.pixel_to_plane(2.0, 1.0), rtol=1e-14)
    assert_allclose(jp.pixel_to_sky(part.transform, 1.0, 1.0), jp.pixel_to_sky(image.transform, 3.0, 2.0), rtol=1e-15)
    twice = jp.crop(jp.crop(image, (1, 8, 1, 6)), (1, 6, 0, 3))
    for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(part), strict=True):
        assert_allclose(a, b, rtol=1e-14)


def test_crop_over_the_edge_fills_with_nothing():
    image = full()
    part = jp.crop(image, (-2, 10, 4, 9))
    assert part.shape == (5, 12)
    assert_array_equal(part.data[:2, 2:10], DATA[4:])
    inside = np.zeros((5, 12), bool)
    inside[:2, 2:10] = True
    assert_array_equal(part.ivar > 0, inside)
    assert_array_equal(part.mask, ~inside)
    assert_allclose(part.transform.pixel_to_plane(2.0, 0.0), image.transform.pixel_to_plane(0.0, 4.0), rtol=1e-14)


# --- rebin ----------------------------------------------------------------------------------------------------------


def test_rebin_sums():
    image = full()
    half = jp.rebin(image, 2)
    assert half.shape == (3, 4)
    sums = DATA.reshape(3, 2, 4, 2).sum((1, 3))
    masked = np.arange(12).reshape(3, 4) == 1  # the block of the masked pixel [1, 2]
    assert_array_equal(half.mask, masked)
    assert_allclose(np.asarray(half.data)[~masked], sums[~masked])
    assert_allclose(np.asarray(half.ivar)[~masked], 1.0)  # four variances of ¼
    assert_allclose(half.pixel_area_map, 4 * np.asarray(image.pixel_area_map)[:3, :4])
    # a block's centre is where its four pixels meet
    assert_allclose(half.transform.pixel_to_plane(1.0, 2.0), image.transform.pixel_to_plane(2.5, 4.5), rtol=1e-13)
    assert half.psf.oversample == 2
    thirds = jp.rebin(image, 3)
    assert thirds.shape == (2, 2)
    assert jp.rebin(image, 1).shape == (6, 8)


# --- stacks ---------------------------------------------------------------------------------------------------------


def test_stack_and_unstack():
    images = [full(zeropoint=20.0 + k, std=0.5 + k) for k in range(3)]
    stack = jp.stack_images(images)
    assert stack.data.shape == (3, 6, 8)
    assert stack.shape == (6, 8)
    assert_allclose(stack.zeropoint, [20, 21, 22])
    assert stack.mask.shape == (3, 6, 8)
    for image, again in zip(images, jp.unstack_images(stack), strict=True):
        for a, b in zip(jax.tree.leaves(image), jax.tree.leaves(again), strict=True):
            assert_array_equal(a, b)
        assert jax.tree.structure(image) == jax.tree.structure(again)
    # crop and rebin know stacks
    assert jp.crop(stack, (0, 4, 0, 4)).data.shape == (3, 4, 4)
    for k, part in enumerate(jp.unstack_images(jp.crop(stack, (1, 5, 2, 9)))):
        for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(jp.crop(images[k], (1, 5, 2, 9))), strict=True):
            assert_allclose(a, b, rtol=1e-14)
    for k, part in enumerate(jp.unstack_images(jp.rebin(stack, 2))):
        for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(jp.rebin(images[k], 2)), strict=True):
            assert_allclose(a, b, rtol=1e-14)


def test_stack_of_unequal_shapes():
    images = [full(), jp.crop(full(), (0, 5, 0, 4))]
    stack = jp.stack_images(images, pad=True)
    assert stack.data.shape == (2, 6, 8)
    assert_array_equal(stack.data[1, :4, :5], DATA[:4, :5])
    assert np.all(np.asarray(stack.ivar)[1, 4:] == 0)
    assert np.all(np.asarray(stack.ivar)[1, :, 5:] == 0)
    assert_array_equal(stack.data[0], DATA)
    params = {"center": [0.4, 0.2], "q": 0.7, "PA": 0.3, "sigma": 0.5, "flux": 3.0}
    padded = jp.render(jp.models.gaussian, params, jp.unstack_images(stack)[1])
    alone = jp.render(jp.models.gaussian, params, images[1])
    assert_allclose(padded[:4, :5], alone, rtol=1e-9)


def test_stack_inside_jit():
    images = [full(), full(std=1.0)]
    got = jax.jit(lambda a, b: jp.stack_images([a, b]).ivar)(*images)
    assert_array_equal(got, jp.stack_images(images).ivar)


# --- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [None, 2.0])
def test_estimate_variance(gain):
    rng = np.random.default_rng(3)
    j, i = np.indices((80, 90))
    galaxy = 40 * np.exp(-np.hypot(i - 45, j - 40) / 8)
    noise = 1.5 if gain is None else np.sqrt(1.5**2 + galaxy / gain)
    mask = rng.random(galaxy.shape) < 0.05
    data = np.where(mask, 1e5, 7 + galaxy + noise * rng.normal(size=galaxy.shape))
    image = jp.make_image(data, ivar=1.0, mask=mask, gain=gain)
    estimate = np.asarray(jp.estimate_variance(image))
    far = galaxy < 0.1
    assert_allclose(np.median(estimate[far]), 1.5**2, rtol=0.1 if gain is None else 0.4)
    assert np.all(np.isfinite(estimate))
    assert np.all(estimate > 0)
    if gain is None:
        assert np.ptp(estimate) == 0
    else:
        core = galaxy > 20
        assert_allclose(np.median(estimate[core]), np.median(1.5**2 + galaxy[core] / gain), rtol=0.25)
    used = replace(image, ivar=jnp.where(image.mask, 0, 1 / estimate))
    assert used.mask.sum() == mask.sum()
