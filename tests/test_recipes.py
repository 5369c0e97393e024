"""The recipes run, and the samplers agree with each other and with the errors of the fit."""

import functools
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from simple import names_and_values

RECIPES = Path(__file__).parents[1] / "notebooks" / "recipes"
sys.path.insert(0, str(RECIPES))

import blackjax_nuts  # noqa: E402
import emcee_ensemble  # noqa: E402
import equinox_flax  # noqa: E402
import galaxy  # noqa: E402
import numpyro_model  # noqa: E402
import orbax_save  # noqa: E402

import jaxphot as jp  # noqa: E402


@pytest.fixture(autouse=True)
def as_others_are():
    """Other libraries mix dtypes and ranks, and warn of this and that."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


pytestmark = pytest.mark.filterwarnings("default")


@functools.cache
def observed():
    image = galaxy.observe()
    return image, galaxy.fit(image), galaxy.density(image)


def spread(draws):
    """Standard deviation of every scalar that is free."""
    _, fit, _ = observed()
    return np.concatenate(
        [np.ravel(np.std(names_and_values(draws)[name], axis=0)) for name in names_and_values(fit.stderr)]
    )


def errors():
    return np.concatenate([np.ravel(value) for value in names_and_values(observed()[1].stderr).values()])


def test_nuts_agrees_with_laplace_and_the_covariance():
    """At S/N 50: standard deviations to 10 %."""
    image, fit, density = observed()
    signal = np.asarray(jp.render(galaxy.MODEL, {**galaxy.TRUTH, "sky": {"I0": 0.0}}, image, galaxy.SAMPLING))
    assert 40 < np.sqrt(np.sum(signal**2 * np.asarray(image.ivar))) < 60
    draws, rate = blackjax_nuts.nuts(density, fit.params, jax.random.key(0), 2500)
    assert rate > 0.6
    laplace = jp.laplace(
        galaxy.MODEL, fit, image, jax.random.key(1), 20000, priors=galaxy.PRIORS, sampling=galaxy.SAMPLING
    )
    assert_allclose(spread(draws) / spread(laplace), 1, atol=0.1)
    assert_allclose(spread(draws) / errors(), 1, atol=0.1)


def test_mala_agrees_too():
    _, fit, density = observed()
    draws, rate = blackjax_nuts.mala(density, fit.params, jax.random.key(0), 20000)
    assert 0.45 < rate < 0.75
    assert_allclose(spread(draws) / errors(), 1, atol=0.1)


def test_numpyro():
    image, fit, _ = observed()
    draws = numpyro_model.sample(image, fit.params, jax.random.key(0), count=300, warmup=150)
    for name in ("q", "PA", "Re", "Ie"):
        best, error = fit.params["galaxy"][name], fit.stderr["galaxy"][name]
        assert abs(np.mean(draws[name]) - best) < error
        assert 0.7 < np.std(draws[name]) / error < 1.3


def test_emcee():
    _, fit, density = observed()
    draws = emcee_ensemble.sample(density, fit.params, 0, steps=600, discard=200)
    assert_allclose(spread(draws) / errors(), 1, atol=0.25)


@functools.cache
def training():
    images, loss, offsets = equinox_flax.galaxies(24, jax.random.key(0))
    best = float(np.mean(jax.jit(jax.vmap(loss))(offsets, images)))
    return images, loss, offsets.shape[1], best


@pytest.mark.parametrize("train", [equinox_flax.train_equinox, equinox_flax.train_flax], ids=["equinox", "flax"])
def test_networks_learn(train):
    """Half and more of what the true parameters are better by than the middle of all galaxies."""
    images, loss, size, best = training()
    _, losses = train(images, loss, size, 40)
    assert len(losses) == 40
    assert losses[-1] - best < 0.5 * (losses[0] - best)


def test_orbax_and_pickle(tmp_path):
    """Every leaf comes back as it was, and a fit from there is the same."""
    image, fit, _ = observed()
    refit = lambda image, fit: jp.fit(  # noqa: E731
        galaxy.MODEL, fit.params, image, priors=galaxy.PRIORS, sampling=galaxy.SAMPLING
    )
    want = refit(image, fit)
    for back in (orbax_save.there_and_back((image, fit), tmp_path), orbax_save.pickled((image, fit))):
        assert jax.tree.structure(back) == jax.tree.structure((image, fit))
        for a, b in zip(jax.tree.leaves(back), jax.tree.leaves((image, fit)), strict=True):
            assert np.array_equal(a, b, equal_nan=True)
        assert refit(*back).chi2 == want.chi2
