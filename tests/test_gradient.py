"""Fits by optimisers of optax: the same minimum, bounds, history, an honest status."""

import jax
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from simple import MODEL, QUAD, START, names_and_values, observed

import jaxphot as jp
from jaxphot.fitting import lm


def deviations(one, other):
    """Largest difference of two fits in standard errors."""
    found, wanted, error = (names_and_values(tree) for tree in (one.params, other.params, other.stderr))
    return max(float(np.max(np.abs(found[name] - wanted[name]) / error[name])) for name in error)


def test_lbfgs_finds_the_minimum_of_fit():
    want = jp.fit(MODEL, START, observed(), sampling=QUAD)
    fit, history = jp.fit_optax(MODEL, START, observed(), sampling=QUAD)
    assert fit.status == lm.CONVERGED
    assert deviations(fit, want) < 0.01
    assert_allclose(np.diag(fit.covariance), np.diag(want.covariance), rtol=1e-2)
    done = int(fit.steps)
    assert done < 100 < len(history)
    assert np.all(np.isfinite(history[:done]))
    assert np.all(np.isnan(history[done:]))
    assert_allclose(np.nanmin(history), fit.chi2 / 2, rtol=1e-6)


@pytest.mark.full
def test_adam_with_a_schedule_prior_and_fixed():
    optimizer = optax.adam(optax.cosine_decay_schedule(0.2, 300))
    options = {"fixed": {"sky": {"I0": 1.5}}, "priors": {"galaxy": {"q": jp.priors.normal(0.5, 0.01)}}}
    want = jp.fit(MODEL, START, observed(), sampling=QUAD, **options)
    fit, _ = jp.fit_optax(MODEL, START, observed(), optimizer, 300, patience=300, sampling=QUAD, **options)
    assert fit.params["sky"]["I0"] == 1.5
    assert deviations(fit, want) < 0.05
    assert float(want.params["galaxy"]["q"]) < 0.57


def test_a_bound():
    options = {"bounds": {"galaxy": {"sigma": (0.5, 2.2)}}, "sampling": QUAD}
    want = jp.fit(MODEL, START, observed(), **options)
    fit, _ = jp.fit_optax(MODEL, START, observed(), **options)
    assert bool(want.at_bound["galaxy"]["sigma"])
    assert bool(fit.at_bound["galaxy"]["sigma"])
    assert fit.status == lm.CONVERGED
    assert_allclose(fit.params["galaxy"]["sigma"], 2.2)
    assert_allclose(fit.chi2, want.chi2, rtol=1e-3)


@pytest.mark.full
def test_what_did_not_arrive_says_so():
    slow, _ = jp.fit_optax(MODEL, START, observed(), optax.sgd(1e-9), 60, sampling=QUAD)
    assert slow.status in (lm.STALLED, lm.MAX_STEPS)
    assert jp.status_message(slow) != "converged"
    short, history = jp.fit_optax(MODEL, START, observed(), steps=3, sampling=QUAD)
    assert short.status == lm.MAX_STEPS
    assert len(history) == 3


def test_under_vmap():
    levels = np.array([1.0, 2.0, 5.0])
    images = jp.stack_images([jp.make_image(np.full((6, 6), level), std=1.0) for level in levels])
    fits, _ = jax.vmap(lambda image: jp.fit_optax(jp.models.flat_sky, {"I0": 0.5}, image, steps=50))(images)
    assert_allclose(fits.params["I0"], levels, rtol=1e-4)
    assert np.all(fits.status == lm.CONVERGED)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"optimizer": 3}, "optimizer"),
        ({"steps": 0}, "steps"),
        ({"patience": 1.5}, "patience"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"max_steps": 5}, "use steps"),
        ({"wiggle": 5}, "wiggle"),
        ({"fixed": {"I0": None}}, "at least one free"),
    ],
)
def test_bad_options(arguments, words):
    image = jp.make_image(np.ones((6, 6)), std=1.0)
    with pytest.raises((TypeError, ValueError), match=words):
        jp.fit_optax(jp.models.flat_sky, {"I0": 0.5}, image, **arguments)
