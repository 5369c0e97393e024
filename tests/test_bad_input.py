"""Bad input is refused at the door, by a message that names the argument or the parameter's key path."""

import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import jaxphot as jp

DATA = np.ones((6, 8))
IMAGE = jp.make_image(DATA, std=1.0)
MODEL = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
GALAXY = {"center": [4.0, 3.0], "q": 0.7, "PA": 0.3, "n": 2.0, "Re": 2.0, "Ie": 1.0}
START = {"galaxy": GALAXY, "sky": {"I0": 0.0}}


def image(**options):
    return jp.make_image(DATA, **({"std": 1.0} | options))


def galaxy(**changes):
    return {**START, "galaxy": {**GALAXY, **changes}}


def lacking(key):
    return {**START, "galaxy": {k: v for k, v in GALAXY.items() if k != key}}


def holes(value, at=(2, 3)):
    array = np.ones((6, 8))
    array[at] = value
    return array


def fit(params=START, image=IMAGE, model=MODEL, **options):
    return jp.fit(model, params, image, sampling=jp.sampling.midpoint(), **options)


def batch(params=START, count=3, **options):
    return jp.fit_batch(MODEL, params, jp.stack_images([IMAGE] * count), progress=False, **options)


# what is wrong: (the call, all of the words that the message must contain)
BAD_IMAGES = {
    "one-dimensional": (lambda: jp.make_image(np.ones(5), std=1.0), ["data", "(5,)"]),
    "cube": (lambda: jp.make_image(np.ones((2, 5, 5)), std=1.0), ["data", "(2, 5, 5)"]),
    "empty": (lambda: jp.make_image(np.ones((0, 5)), std=1.0), ["data", "(0, 5)"]),
    "words": (lambda: jp.make_image([["a", "b"]], std=1.0), ["data"]),
    "complex": (lambda: jp.make_image(DATA * 1j, std=1.0), ["data", "complex"]),
    "variance shape": (lambda: image(std=None, variance=np.ones((8, 6))), ["variance", "(6, 8)", "(8, 6)"]),
    "std shape": (lambda: image(std=np.ones(8)), ["std", "(6, 8)", "(8,)"]),
    "mask shape": (lambda: image(mask=np.zeros((5, 8), bool)), ["mask", "(6, 8)", "(5, 8)"]),
    "psf shape": (lambda: image(psf=np.ones(5)), ["psf", "(5,)"]),
    "nan variance": (lambda: image(std=None, variance=holes(np.nan)), ["variance", "[2, 3]", "nan"]),
    "negative variance": (lambda: image(std=None, variance=holes(-1.0)), ["variance", "[2, 3]", "-1.0"]),
    "zero std": (lambda: image(std=holes(0.0)), ["std", "[2, 3]", "0.0"]),
    "infinite std": (lambda: image(std=holes(np.inf)), ["std", "[2, 3]", "inf"]),
    "negative ivar": (lambda: image(std=None, ivar=holes(-1.0)), ["ivar", "[2, 3]", "-1.0"]),
    "two noises": (lambda: image(variance=1.0), ["variance", "std"]),
    "all masked": (lambda: image(mask=np.ones((6, 8), bool)), ["data", "masked"]),
    "all nan": (lambda: jp.make_image(DATA * np.nan, std=1.0), ["data", "usable"]),
    "all ivar 0": (lambda: image(std=None, ivar=np.zeros((6, 8))), ["data", "usable"]),
    "dtype": (lambda: image(dtype=np.int32), ["dtype", "int32"]),
    "ivar beyond float32": (lambda: image(std=1e-25, dtype=np.float32), ["std", "float32"]),
    "gain": (lambda: image(gain=[1.0, 2.0]), ["gain", "(2,)"]),
    "zeropoint": (lambda: image(zeropoint=np.ones(3)), ["zeropoint", "(3,)"]),
    "two transforms": (
        lambda: image(pixelscale=1.0, transform=jp.make_linear(pixelscale=1.0)),
        ["transform", "pixelscale"],
    ),
    "pixelscale 0": (lambda: image(pixelscale=0.0), ["pixelscale", "0.0"]),
    "no wcs": (lambda: image(wcs={"CRVAL1": 0.0}), ["wcs", "astropy", "dict"]),
    "singular cd": (lambda: jp.make_linear(cd=[[1.0, 2.0], [2.0, 4.0]]), ["cd", "singular"]),
    "nan cd": (lambda: jp.make_linear(cd=[[1.0, np.nan], [0.0, 1.0]]), ["cd", "finite"]),
    "cd shape": (lambda: jp.make_linear(cd=[1.0, 2.0]), ["cd", "(2, 2)", "(2,)"]),
    "cd and pixelscale": (lambda: jp.make_linear(cd=np.eye(2), pixelscale=1.0), ["cd", "pixelscale"]),
    "neither": (lambda: jp.make_linear(), ["cd", "pixelscale"]),
    "crpix": (lambda: jp.make_linear(pixelscale=1.0, crpix=(1.0, np.nan)), ["crpix", "nan"]),
    "crtan": (lambda: jp.make_linear(pixelscale=1.0, crtan=3.0), ["crtan", "3.0"]),
    "crval": (lambda: jp.make_linear(pixelscale=1.0, crval=(10.0, 91.0)), ["crval", "91"]),
    "psf sum": (lambda: jp.make_psf(np.zeros((3, 3))), ["psf", "sum"]),
    "psf nan": (lambda: jp.make_psf([[np.nan, 1.0]]), ["psf", "finite"]),
    "psf oversample": (lambda: jp.make_psf(np.ones((3, 3)), oversample=0), ["oversample", "0"]),
    "psf half oversample": (lambda: jp.make_psf(np.ones((3, 3)), oversample=1.5), ["oversample", "1.5"]),
    "psf center": (lambda: jp.make_psf(np.ones((3, 3)), center=(1.0, 3.0)), ["center", "(3, 3)"]),
    "psf center words": (lambda: jp.make_psf(np.ones((3, 3)), center=1.0), ["center"]),
    "rebin": (lambda: jp.rebin(IMAGE, 7), ["k", "6", "7"]),
    "rebin half": (lambda: jp.rebin(IMAGE, 1.5), ["k", "1.5"]),
    "stack none": (lambda: jp.stack_images([]), ["images"]),
    "stack shapes": (lambda: jp.stack_images([IMAGE, jp.crop(IMAGE, (0, 5, 0, 5))]), ["images[1]", "data", "pad=True"]),
    "stack dtypes": (lambda: jp.stack_images([IMAGE, image(dtype=np.float32)]), ["images[1]", "float32", "float64"]),
    "stack psf": (lambda: jp.stack_images([IMAGE, image(psf=np.ones((3, 3)))]), ["images[1]", "psf"]),
    "stack psf shape": (
        lambda: jp.stack_images([image(psf=np.ones((3, 3))), image(psf=np.ones((5, 5)))]),
        ["images[1]", "psf.data", "(5, 5)"],
    ),
    "stack oversample": (
        lambda: jp.stack_images([image(psf=np.ones((3, 3))), image(psf=jp.make_psf(np.ones((3, 3)), oversample=2))]),
        ["images[1]", "oversample"],
    ),
    "unstack": (lambda: jp.unstack_images(IMAGE), ["images", "(6, 8)"]),
    "window": (lambda: jp.crop(IMAGE, (0, 5, 3)), ["window", "four"]),
    "window of halves": (lambda: jp.crop(IMAGE, (0, 5.5, 0, 3)), ["window", "integers"]),
    "window of words": (lambda: jp.crop(IMAGE, "abcd"), ["window", "integers"]),
    "empty window": (lambda: jp.crop(IMAGE, (3, 3, 0, 5)), ["window", "empty"]),
    "window off the frame": (lambda: jp.crop(IMAGE, (8, 12, 0, 5)), ["window", "8 columns", "6 rows"]),
}

BAD_FITS = {
    "missing": (lambda: fit(lacking("n")), ["galaxy.n", "missing", "Sérsic index", "scalar"]),
    "missing branch": (lambda: fit({"galaxy": GALAXY}), ["sky.I0", "missing", "flux / arcsec2"]),
    "unknown": (lambda: fit(galaxy(Rd=1.0)), ["galaxy.Rd", "unknown", "Re"]),
    "unknown branch": (lambda: fit({**START, "halo": {}}), ["halo", "unknown", "galaxy, sky"]),
    "mis-shaped": (lambda: fit(galaxy(center=[1.0, 2.0, 3.0])), ["galaxy.center", "(2,)", "(3,)"]),
    "a batch": (lambda: fit(galaxy(n=np.ones(4))), ["galaxy.n", "()", "(4,)", "fit_batch"]),
    "nan": (lambda: fit(galaxy(Re=np.nan)), ["galaxy.Re", "finite", "nan"]),
    "infinite": (lambda: fit(galaxy(center=[np.inf, 1.0])), ["galaxy.center", "finite"]),
    "words": (lambda: fit(galaxy(n="four")), ["galaxy.n", "number", "str"]),
    "no dictionary": (lambda: fit([1.0, 2.0]), ["params", "dictionary", "list"]),
    "no dictionary inside": (lambda: fit({**START, "sky": 3.0}), ["sky", "dictionary", "I0"]),
    "all at once": (
        lambda: fit({"galaxy": {**GALAXY, "q": np.nan, "Rd": 1.0, "PA": [1.0]}}),
        ["galaxy.q", "galaxy.Rd", "galaxy.PA", "sky.I0"],
    ),
    "start out of bounds": (lambda: fit(galaxy(n=13.0)), ["galaxy.n", "13", "[0.1, 12]", "out"]),
    "start at zero": (lambda: fit(galaxy(Re=0.0)), ["galaxy.Re", "out"]),
    "negative q": (lambda: fit(galaxy(q=-0.5)), ["galaxy.q", "[0.01, 1]"]),
    "q above 1": (lambda: fit(galaxy(q=1.2)), ["galaxy.q", "[0.01, 1]"]),
    "two out of bounds": (lambda: fit(galaxy(q=1.2, n=0.01)), ["galaxy.q", "galaxy.n"]),
    "start out of own bounds": (lambda: fit(bounds={"sky": {"I0": (1.0, 2.0)}}), ["sky.I0", "[1, 2]"]),
    "bounds upside down": (lambda: fit(bounds={"sky": {"I0": (1.0, -1.0)}}), ["bounds", "sky.I0", "lowest < highest"]),
    "nan bounds": (lambda: fit(bounds={"sky": {"I0": (np.nan, 1.0)}}), ["bounds", "sky.I0"]),
    "bounds of one": (lambda: fit(bounds={"sky": {"I0": 3.0}}), ["bounds", "sky.I0", "3.0"]),
    "bounds shape": (lambda: fit(bounds={"sky": {"I0": (np.zeros(3), 1.0)}}), ["bounds", "sky.I0"]),
    "bounds unknown": (lambda: fit(bounds={"sky": {"I1": (0.0, 1.0)}}), ["bounds", "sky.I1", "sky.I0"]),
    "bounds no tree": (lambda: fit(bounds=[(0.0, 1.0)]), ["bounds", "tree", "list"]),
    "negative radius allowed": (
        lambda: fit(bounds={"galaxy": {"Re": (-1.0, 9.0)}}),
        ["bounds", "galaxy.Re", "positive"],
    ),
    "q allowed above 1": (lambda: fit(bounds={"galaxy": {"q": (0.1, 2.0)}}), ["bounds", "galaxy.q", "(0, 1]"]),
    "fixed unknown": (lambda: fit(fixed={"sky": {"I1": None}}), ["fixed", "sky.I1", "sky.I0"]),
    "fixed no tree": (lambda: fit(fixed=["sky"]), ["fixed", "tree", "list"]),
    "fixed shape": (lambda: fit(fixed={"galaxy": {"center": 1.0}}), ["galaxy.center", "(2,)"]),
    "fixed nan": (lambda: fit(fixed={"galaxy": {"n": np.nan}}), ["galaxy.n", "finite"]),
    "fixed leaf with leaves": (lambda: fit(fixed={"sky": {"I0": {"a": None}}}), ["fixed", "sky.I0.a", "sky.I0"]),
    "fixed leaf with values": (lambda: fit(fixed={"sky": {"I0": {"a": 1.0}}}), ["sky.I0", "number", "dict"]),
    "fixed branch at a number": (lambda: fit(fixed={"sky": 3.0}), ["sky", "dictionary", "I0"]),
    "held branch unknown": (lambda: fit(fixed={"psf": None}), ["fixed", "psf", "sky.I0"]),
    "held but missing": (lambda: fit(lacking("n"), fixed={"galaxy": {"n": None}}), ["galaxy.n", "missing"]),
    "window": (lambda: fit(window=(0, 0, 1, 2)), ["window", "empty"]),
    "window off the frame": (lambda: fit(window=(0, 4, -5, 0)), ["window", "off the frame"]),
    "max_steps": (lambda: fit(max_steps=0), ["max_steps", "0"]),
    "rtol": (lambda: fit(rtol=-1.0), ["rtol", "-1.0"]),
    "poisson without gain": (lambda: fit(likelihood=jp.likelihood.poisson()), ["likelihood", "gain"]),
    "student_t dof": (lambda: jp.likelihood.student_t(0), ["dof", "0"]),
    "a stack": (lambda: fit(image=jp.stack_images([IMAGE, IMAGE])), ["image", "(2, 6, 8)", "fit_batch"]),
    "a star without psf": (
        lambda: fit({"center": [1.0, 2.0], "flux": 1.0}, model=jp.models.point_source),
        ["model", "PSF", "psf="],
    ),
    "render: missing": (lambda: jp.render(MODEL, lacking("q"), IMAGE), ["galaxy.q", "missing"]),
    "render: a stack": (lambda: jp.render(MODEL, START, jp.stack_images([IMAGE] * 2)), ["image", "vmap"]),
    "log_likelihood: unknown": (lambda: jp.log_likelihood(MODEL, galaxy(x=1.0), IMAGE), ["galaxy.x", "unknown"]),
    "quad(0)": (lambda: jp.sampling.quad(0), ["n", "0"]),
    "upsample(2.5)": (lambda: jp.sampling.upsample(2.5), ["n", "2.5"]),
    "empty scene": (lambda: jp.scene(), ["scene", "at least one"]),
    "same name twice": (lambda: jp.radial(lambda r, *, q: r, jp.metrics.ellipse), ["profile", "metric", "q"]),
    "batch: wrong lanes": (lambda: batch(galaxy(n=np.ones(4))), ["params", "galaxy.n", "(3,)", "(4,)"]),
    "batch: fixed lanes": (lambda: batch(fixed={"sky": {"I0": np.ones(4)}}), ["fixed", "sky.I0", "(3,)", "(4,)"]),
    "batch: chunk": (lambda: batch(chunk=0), ["chunk", "0"]),
    "batch: missing": (lambda: batch(lacking("n")), ["galaxy.n", "missing"]),
    "batch: one image": (lambda: jp.fit_batch(MODEL, START, IMAGE), ["images", "(6, 8)"]),
    "batch: none": (lambda: jp.fit_batch(MODEL, START, []), ["images"]),
    "initialize: unknown": (lambda: jp.initialize(MODEL, IMAGE, {"sky": {"I1": 0.0}}), ["known", "sky.I1", "sky.I0"]),
    "initialize: no rule": (
        lambda: jp.initialize(jp.radial(lambda r, *, wiggle: r * wiggle), IMAGE),
        ["wiggle", "known="],
    ),
}

WRONG_TYPES = {
    "image is an array": (lambda: fit(image=DATA), ["image", "make_image", "ndarray"]),
    "render an array": (lambda: jp.render(MODEL, START, DATA), ["image", "ndarray"]),
    "model is a name": (lambda: fit(model="sersic"), ["model", "str"]),
    "model is a profile": (lambda: fit(model=jp.profiles.sersic), ["model", "radial(sersic)"]),
    "part is a name": (lambda: jp.scene(galaxy="sersic"), ["galaxy", "str"]),
    "profile is a number": (lambda: jp.radial(3.0), ["profile", "float"]),
    "transform is a number": (lambda: image(transform=3.0), ["transform", "make_linear"]),
    "bare sampling": (lambda: jp.render(MODEL, START, IMAGE, jp.sampling.quad), ["sampling", "call it", "quad"]),
    "sampling is a name": (lambda: jp.render(MODEL, START, IMAGE, "quad"), ["sampling", "str"]),
    "bare likelihood": (lambda: fit(likelihood=jp.likelihood.gaussian), ["likelihood", "call it", "gaussian"]),
    "likelihood is a class": (lambda: fit(likelihood=type(jp.likelihood.gaussian())), ["likelihood", "call it"]),
    "likelihood is a name": (lambda: fit(likelihood="gaussian"), ["likelihood", "str"]),
}


def check(error, call, words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert re.search(rf"(?<!\w){re.escape(word)}" if word[0].isalnum() else re.escape(word), message), message


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_images(what):
    check(ValueError, *BAD_IMAGES[what])


@pytest.mark.parametrize("what", BAD_FITS)
def test_fits(what):
    check((ValueError, TypeError), *BAD_FITS[what])


@pytest.mark.parametrize("what", WRONG_TYPES)
def test_wrong_types(what):
    check(TypeError, *WRONG_TYPES[what])


def test_no_noise_given_warns_once():
    with pytest.warns(UserWarning, match="ivar is 1") as caught:
        got = jp.make_image(DATA)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(got.ivar, 1.0)


def test_bad_noise_under_the_mask_is_fine():
    mask = np.zeros((6, 8), bool)
    mask[2, 3] = True
    for bad in (np.nan, -1.0, 0.0, np.inf):
        got = image(std=None, variance=holes(bad), mask=mask)
        np.testing.assert_array_equal(got.ivar, np.where(mask, 0.0, 1.0))


def test_traced_values_are_not_checked_but_their_shapes_are():
    import jax

    rendered = jax.jit(lambda n: jp.render(MODEL, galaxy(n=n), IMAGE, jp.sampling.midpoint()))
    assert np.all(np.isnan(rendered(jnp.nan)))
    with pytest.raises(ValueError, match=r"galaxy\.n: expected shape \(\), got \(3,\)"):
        rendered(jnp.ones(3))


def test_a_traced_true_in_fixed_is_an_error():
    import jax

    with pytest.raises(TypeError, match=r"fixed.*I0"):
        jax.jit(lambda held: fit(fixed={"sky": {"I0": held}}))(True)


def test_non_finite_pixels_that_count_are_ignored():
    """NaN that reaches the data after the builder is masked, not an error."""
    spoiled = replace(IMAGE, data=IMAGE.data.at[0, 0].set(jnp.nan))
    assert bool(spoiled.mask[0, 0])
    assert int(np.sum(spoiled.mask)) == 1
