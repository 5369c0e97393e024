"""Sets of images with priors, other likelihoods, densities, and derivatives of fits: as of single images."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_joint import QUAD, SIMPLE, STAR, observed, turned

import jaxphot as jp
from jaxphot.fitting import lm

BLANK = {key: turned(k, shape=(13, 14)) for k, key in enumerate("gr")}
MODELS = jp.models.by_wavelength(SIMPLE, {"g": 477.0, "r": 623.0}, {})
TRUTH = {"star": {**STAR, "flux": {"g": 40.0, "r": 60.0}}, "sky": {"I0": {"g": 1.0, "r": 2.0}}}
IMAGES = observed(MODELS, TRUTH, BLANK, 5)
SHAPE = {"star": {"center": None, "q": None, "PA": None}}
PRIORS = {"star": {"sigma": jp.priors.normal(0.7, 0.01), "flux": {"r": jp.priors.normal(61.0, 2.0)}}}


def numbers(params):
    return np.asarray([params["star"]["sigma"], *params["star"]["flux"].values(), *params["sky"]["I0"].values()])


def test_priors_pull_a_set_to_the_largest_posterior():
    """At the best fit the log posterior, put together from its definition, has no slope; χ² is that of the data."""
    fit = jp.fit(MODELS, TRUTH, IMAGES, sampling=QUAD, fixed=SHAPE, priors=PRIORS, rtol=1e-6)
    assert fit.status == lm.CONVERGED

    def log_posterior(params):
        star = params["star"]
        prior = -0.5 * ((star["sigma"] - 0.7) / 0.01) ** 2 - 0.5 * ((star["flux"]["r"] - 61) / 2.0) ** 2
        return jp.log_likelihood(MODELS, params, IMAGES, sampling=QUAD) + prior

    slope, errors = numbers(jax.grad(log_posterior)(fit.params)), numbers(fit.stderr)
    assert np.max(np.abs(slope * errors)) < 1e-4
    free = jp.fit(MODELS, TRUTH, IMAGES, sampling=QUAD, fixed=SHAPE)
    assert fit.stderr["star"]["sigma"] < free.stderr["star"]["sigma"]
    assert free.chi2 < fit.chi2
    held = jp.fit(MODELS, fit.params, IMAGES, sampling=QUAD, fixed=jax.tree.map(lambda leaf: None, fit.params))
    assert_allclose(fit.chi2, held.chi2, rtol=1e-9)


def test_uniform_priors_bound_a_set():
    bounded = {"star": {"sigma": jp.priors.uniform(0.5, 0.7)}}
    fit = jp.fit(MODELS, {**TRUTH, "star": {**TRUTH["star"], "sigma": 0.6}}, IMAGES, sampling=QUAD, priors=bounded)
    assert fit.params["star"]["sigma"] <= 0.7
    with pytest.raises(ValueError, match="priors: unknown star"):
        jp.fit(MODELS, TRUTH, IMAGES, sampling=QUAD, priors={"star": {"sigmas": jp.priors.normal(1.0, 1.0)}})
    with pytest.raises(ValueError, match="without priors"):
        jp.fit(MODELS, TRUTH, IMAGES, sampling=QUAD, priors=PRIORS, linear=("sky",))


@pytest.mark.parametrize("name", ["correlated", "fractional_floor"])
def test_likelihoods_that_compare_more_than_pixels(name):
    """A set of two images that share nothing has the sum of their log-likelihoods, and their fits."""
    if name == "correlated":
        likelihood, model, noise = jp.likelihood.correlated([[1, 2, 1], [2, 4, 2], [1, 2, 1]]), SIMPLE, {}
    else:
        likelihood = jp.likelihood.fractional_floor()
        model = jp.scene(star=jp.models.gaussian, sky=jp.models.flat_sky, noise=jp.models.noise_floor)
        noise = {"noise": {"f": 0.05}}
    images = {key: IMAGES[key] for key in "g"}
    start = {"star": {**STAR, "flux": 40.0}, "sky": {"I0": 1.0}, **noise}
    fixed = {"star": {"center": None, "q": None, "PA": None}, **({"noise": {"f": None}} if noise else {})}
    options = {"likelihood": likelihood, "sampling": QUAD, "fixed": fixed}
    alone = jp.fit(model, start, images["g"], **options)
    as_set = jp.fit({"g": model}, start, images, **options)
    assert as_set.status == lm.CONVERGED
    assert_allclose(as_set.chi2, alone.chi2, rtol=1e-6)
    assert_allclose(as_set.covariance, alone.covariance, rtol=1e-2)
    ours = jp.log_likelihood({"g": model}, start, images, likelihood, QUAD)
    assert_allclose(ours, jp.log_likelihood(model, start, images["g"], likelihood, QUAD), rtol=1e-10)
    if noise:
        with pytest.raises(ValueError, match="needs its parameter f"):
            jp.fit({"g": SIMPLE}, {k: start[k] for k in ("star", "sky")}, images, likelihood=likelihood)


def test_derivatives_of_joint_fits_are_those_of_the_solution():
    """Against finite differences of the whole fit."""
    pattern = jnp.asarray(np.random.default_rng(3).normal(size=IMAGES["g"].shape))

    def best(step):
        moved = {**IMAGES, "g": replace(IMAGES["g"], data=IMAGES["g"].data + step * pattern)}
        fit = jp.fit(MODELS, TRUTH, moved, sampling=QUAD, fixed=SHAPE, rtol=1e-10)
        return jnp.stack([fit.params["star"]["sigma"], fit.params["star"]["flux"]["r"], fit.stderr["star"]["sigma"]])

    run = jax.jit(best)
    h = 1e-3
    wanted = (run(jnp.asarray(h)) - run(jnp.asarray(-h))) / (2 * h)
    assert_allclose(jax.jit(jax.jacrev(best))(jnp.zeros(())), wanted, rtol=1e-4)


def test_log_density_and_draws_of_a_set():
    fit = jp.fit(MODELS, TRUTH, IMAGES, sampling=QUAD, fixed=SHAPE)
    density = jp.log_density(MODELS, IMAGES, params=fit.params, fixed=SHAPE, sampling=QUAD)
    y = density.unconstrain(fit.params)
    jacobian = jnp.log(fit.params["star"]["sigma"])  # sigma is sampled in its logarithm
    ours = density(y) - jacobian
    assert_allclose(ours, jp.log_likelihood(MODELS, fit.params, IMAGES, sampling=QUAD), rtol=1e-9)
    inverse = np.linalg.inv(density.fisher(y))
    row = density.names.index("star.sigma")
    assert_allclose(np.sqrt(inverse[row, row]) * fit.params["star"]["sigma"], fit.stderr["star"]["sigma"], rtol=1e-3)
    draws = jp.laplace(MODELS, fit, IMAGES, jax.random.key(1), 2000, sampling=QUAD)
    assert_allclose(np.std(draws["star"]["flux"]["r"]), fit.stderr["star"]["flux"]["r"], rtol=0.1)
    with pytest.raises(ValueError, match="not yet for sets"):
        jp.robust_errors(MODELS, fit, IMAGES, sampling=QUAD)


def test_what_is_not_for_sets_says_so():
    for call in (
        lambda: jp.simulate(MODELS, TRUTH, IMAGES, jax.random.key(0)),
        lambda: jp.bootstrap(MODELS, None, IMAGES, jax.random.key(0)),
        lambda: jp.compile_fit(MODELS, like=IMAGES),
        lambda: jp.fit_stream(MODELS, [("a", IMAGES, TRUTH)], print),
        lambda: jp.render(MODELS, TRUTH, IMAGES),
    ):
        with pytest.raises(TypeError, match="sets of images are for fit"):
            call()
