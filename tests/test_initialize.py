"""Starting values from pixels: near enough to the truth that a fit gets there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot.moments import adaptive_moments

GALAXY = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
SHAPE = (60, 64)
PSF = np.exp(-0.5 * np.add.outer(np.arange(-6, 7) ** 2, np.arange(-6, 7) ** 2) / 1.4**2)
QUAD = jp.sampling.quad(3)
# rotated and mirrored, 0.3 arcsec pixels, the plane's origin outside the frame
TRANSFORM = jp.make_linear(cd=0.3 * np.array([[0.6, 0.8], [0.8, -0.6]]), crpix=(-20.0, 90.0))


def observe(model, params, seed, std=0.05, **options):
    clean = jp.render(model, params, jp.make_image(np.zeros(SHAPE), std=std, **options), QUAD)
    data = np.asarray(clean) + std * np.random.default_rng(seed).normal(size=SHAPE)
    return jp.make_image(data, std=std, **options)


def galaxy(**changes):
    center = [float(v) for v in TRANSFORM.pixel_to_plane(33.0, 28.5)]
    values = {"center": center, "q": 0.6, "PA": 2.0, "n": 2.0, "Re": 2.0, "Ie": 10.0}
    return {"galaxy": values | changes, "sky": {"I0": 40.0}}


CASES = {
    "plain": ({}, {}),
    "psf": ({}, {"psf": PSF}),
    "flat and cuspy": ({"q": 0.25, "n": 4.0}, {"psf": PSF}),
    "round and soft": ({"q": 0.95, "n": 0.7}, {}),
    "small": ({"Re": 0.7}, {"psf": PSF}),
    "faint": ({"Ie": 1.0, "Re": 1.5}, {"psf": PSF}),
    "float32": ({}, {"psf": PSF, "dtype": np.float32}),
}


@pytest.mark.parametrize("name", CASES)
def test_near_the_truth(name):
    changes, options = CASES[name]
    truth = galaxy(**changes)
    image = observe(GALAXY, truth, 4, transform=TRANSFORM, **options)
    start = jp.initialize(GALAXY, image)
    assert {leaf.dtype for leaf in jax.tree.leaves(start)} == {image.dtype}
    found, wanted = start["galaxy"], truth["galaxy"]
    assert np.hypot(*(np.asarray(found["center"]) - wanted["center"])) < 0.3  # a pixel
    assert 0.5 < float(found["Re"]) / wanted["Re"] < 2
    assert abs(float(found["q"]) - wanted["q"]) < 0.25
    if wanted["q"] < 0.9:
        turn = (float(found["PA"]) - wanted["PA"] + np.pi / 2) % np.pi - np.pi / 2
        assert abs(turn) < 0.25
    assert 0.2 < float(found["Ie"]) / wanted["Ie"] < 5
    assert abs(float(start["sky"]["I0"]) - 40.0) < 0.1 * (wanted["Ie"] + 2)
    for key, parameter in jp.parameters(GALAXY)["galaxy"].items():
        assert np.all(np.asarray(found[key]) >= parameter.bounds[0])
        assert np.all(np.asarray(found[key]) <= parameter.bounds[1])


def test_fits_converge_from_there():
    truths = [galaxy(), galaxy(q=0.3, n=3.5), galaxy(Re=0.8, n=1.0), galaxy(Ie=1.5), galaxy(PA=0.0, n=0.8)]
    images = [observe(GALAXY, truth, seed, transform=TRANSFORM, psf=PSF) for seed, truth in enumerate(truths)]
    starts = jp.initialize(GALAXY, jp.stack_images(images))
    fits = jp.fit_batch(GALAXY, starts, images, sampling=QUAD, progress=False)
    assert np.all(fits.status == 0)
    for k, truth in enumerate(truths):
        for key in ("center", "q", "n", "Re", "Ie"):
            pull = (fits.params["galaxy"][key][k] - jnp.asarray(truth["galaxy"][key])) / fits.stderr["galaxy"][key][k]
            assert np.all(np.abs(pull) < 4.5), (k, key)


def test_a_stack_is_measured_image_by_image():
    truths = [galaxy(), galaxy(q=0.3), galaxy(Re=0.8)]
    images = [observe(GALAXY, truth, seed, transform=TRANSFORM) for seed, truth in enumerate(truths)]
    centers = np.stack([truth["galaxy"]["center"] for truth in truths]) + 0.1
    known = {"galaxy": {"center": centers, "n": 2.0}, "sky": {"I0": [39.0, 40.0, 41.0]}}
    together = jp.initialize(GALAXY, jp.stack_images(images), known)
    assert jax.tree.all(jax.tree.map(np.array_equal, together, jp.initialize(GALAXY, images, known)))
    for k, image in enumerate(images):
        own = {"galaxy": {"center": centers[k], "n": 2.0}, "sky": {"I0": known["sky"]["I0"][k]}}
        alone = jp.initialize(GALAXY, image, own)
        assert jax.tree.all(jax.tree.map(lambda a, b, k=k: np.array_equal(a, b[k]), alone, together))
    with pytest.raises(ValueError, match=r"known: galaxy\.center: expected one value for each of 3 images"):
        jp.initialize(GALAXY, jp.stack_images(images), {"galaxy": {"center": centers[:2]}})
    with pytest.raises(ValueError, match="image: expected at least one"):
        jp.initialize(GALAXY, [])


def test_masked_and_neighbouring_light():
    """A bright neighbour, half of it masked, and a masked cosmic ray on the galaxy: neither is measured."""
    truth = galaxy()
    neighbour = {**truth["galaxy"], "center": [float(v) for v in TRANSFORM.pixel_to_plane(58.0, 55.0)], "n": 1.0}
    image = observe(jp.scene(galaxy=GALAXY, other=jp.models.sersic), {"galaxy": truth, "other": neighbour}, 5,
                    transform=TRANSFORM)  # fmt: skip
    data, mask = np.array(image.data), np.zeros(SHAPE, bool)
    data[28, 34], mask[28, 34] = 1e6, True
    mask[50:, 50:] = True
    data[55, 55] = np.nan
    start = jp.initialize(GALAXY, jp.make_image(data, std=0.05, mask=mask, transform=TRANSFORM))
    assert np.hypot(*(np.asarray(start["galaxy"]["center"]) - truth["galaxy"]["center"])) < 0.3
    assert 0.5 < float(start["galaxy"]["Re"]) / 2.0 < 2
    assert abs(float(start["sky"]["I0"]) - 40.0) < 2


def test_known_values_are_taken_as_they_are():
    truth = galaxy()
    image = observe(GALAXY, truth, 6, transform=TRANSFORM)
    known = {"galaxy": {"n": 4.0, "center": np.asarray(truth["galaxy"]["center"]) + 0.1}, "sky": {"I0": 39.0}}
    start = jp.initialize(GALAXY, image, known=known)
    assert float(start["galaxy"]["n"]) == 4.0
    assert float(start["sky"]["I0"]) == 39.0
    assert_allclose(start["galaxy"]["center"], known["galaxy"]["center"])
    assert 0.5 < float(start["galaxy"]["Re"]) / 2.0 < 2


def test_two_sources_with_known_centres():
    """Each is measured where it is said to be."""
    model = jp.scene(a=jp.models.sersic, b=jp.models.sersic, sky=jp.models.flat_sky)
    a = {"center": [15.0, 20.0], "q": 0.8, "PA": 0.3, "n": 1.0, "Re": 3.0, "Ie": 2.0}
    b = {"center": [45.0, 40.0], "q": 0.4, "PA": 1.5, "n": 1.0, "Re": 5.0, "Ie": 6.0}
    image = observe(model, {"a": a, "b": b, "sky": {"I0": 1.0}}, 7)
    start = jp.initialize(model, image, {"a": {"center": a["center"]}, "b": {"center": b["center"]}})
    for name, truth in (("a", a), ("b", b)):
        assert 0.6 < float(start[name]["Re"]) / truth["Re"] < 1.7, name
        assert 0.3 < float(start[name]["Ie"]) / truth["Ie"] < 3, name
        assert abs(float(start[name]["q"]) - truth["q"]) < 0.25, name


def test_every_model_has_a_start():
    truth = galaxy()
    image = observe(GALAXY, truth, 8, transform=TRANSFORM, psf=PSF)
    for model in (jp.models.exponential, jp.models.gaussian, jp.models.moffat, jp.models.point_source):
        scene = jp.scene(source=model, sky=jp.models.plane_sky)
        start = jp.initialize(scene, image)
        assert list(start["source"]) == list(jp.parameters(model))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(start))
        assert_allclose(start["sky"]["delta"], 0)
        light = np.asarray(jp.render(scene, start, image, QUAD)) - 40 * np.asarray(image.pixel_area_map)
        wanted = np.asarray(jp.render(GALAXY, truth, image, QUAD)) - 40 * np.asarray(image.pixel_area_map)
        assert 0.3 < light.sum() / wanted.sum() < 3, model


def test_a_star():
    model = jp.scene(star=jp.models.point_source, sky=jp.models.flat_sky)
    truth = {"star": {"center": [30.3, 27.8], "flux": 200.0}, "sky": {"I0": -3.0}}
    start = jp.initialize(model, observe(model, truth, 9, psf=PSF))
    assert np.hypot(*(np.asarray(start["star"]["center"]) - truth["star"]["center"])) < 0.3
    assert 0.6 < float(start["star"]["flux"]) / 200.0 < 1.5
    assert abs(float(start["sky"]["I0"]) + 3.0) < 0.05


def test_nothing_but_noise():
    """Finite and inside the bounds, whatever it is."""
    data = np.random.default_rng(10).normal(size=SHAPE)
    start = jp.initialize(GALAXY, jp.make_image(data, std=1.0, psf=PSF))
    for key, parameter in jp.parameters(GALAXY)["galaxy"].items():
        value = np.asarray(start["galaxy"][key])
        assert np.all(np.isfinite(value))
        assert np.all(value >= parameter.bounds[0])
        assert np.all(value <= parameter.bounds[1])
    assert float(start["galaxy"]["Re"]) > 0
    empty = jp.initialize(GALAXY, jp.make_image(np.zeros(SHAPE), std=1.0))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(empty))
    assert float(empty["galaxy"]["Re"]) > 0


def test_small_frames():
    for shape in ((5, 5), (7, 30), (3, 4)):
        data = np.random.default_rng(1).normal(size=shape)
        data[shape[0] // 2, shape[1] // 2] += 20
        start = jp.initialize(GALAXY, jp.make_image(data, std=1.0))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(start)), shape


def test_moments_about_no_place_end():
    """A centre that a transform cannot place is no error of indices."""
    light = np.ones((9, 9))
    _, _, found = adaptive_moments(light, light > 0, np.nan, 4.0, True)
    assert np.all(np.isfinite(found))
