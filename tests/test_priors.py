"""Priors and posterior densities: normalised, the same in a fit and for a sampler, in coordinates without bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose
from scipy import stats
from simple import MODEL, QUAD, START, TRUTH, names_and_values, observed

import jaxphot as jp
from jaxphot.fitting import lm
from jaxphot.priors import as_priors, as_pytree, log_prior

PRIORS = {
    "galaxy": {
        "center": jp.priors.normal([9.0, 9.0], 1.0),
        "sigma": jp.priors.lognormal(2.4, 0.02),
        "PA": jp.priors.von_mises(0.8, 0.02),
        "q": jp.priors.uniform(0.3, 0.9),
    },
    "sky": {"I0": lambda value: -0.5 * ((value - 1.6) / 0.02) ** 2},
}


def evaluated(priors, params):
    return log_prior(as_pytree(as_priors(priors), jnp.float64), jax.tree.map(jnp.asarray, params))


def test_densities_are_scipys():
    x = np.array([0.3, 0.8, 2.9])
    for prior, want in (
        (jp.priors.normal(1.0, 0.5), stats.norm(1.0, 0.5).logpdf),
        (jp.priors.lognormal(1.5, 0.4), stats.lognorm(0.4, scale=1.5).logpdf),
        (jp.priors.uniform(0.5, 3.0), stats.uniform(0.5, 2.5).logpdf),
        # over half a turn: twice the angle is von Mises over a whole one
        (jp.priors.von_mises(0.4, 0.3), lambda x: stats.vonmises(1 / 0.36).logpdf(2 * (x - 0.4)) + np.log(2)),
    ):
        assert_allclose([float(prior(jnp.asarray(value))) for value in x], want(x), rtol=1e-12)
        assert_allclose(prior(jnp.asarray(x)), want(x).sum(), rtol=1e-12)  # of a vector: the sum
        assert hash(prior) == hash(type(prior)(*vars(prior).values()))
        assert prior.relative(jnp.asarray(0.9)) <= 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jp.priors.normal(0.0, 0.0), "std: expected finite numbers > 0"),
        (lambda: jp.priors.normal("one", 1.0), "mean: expected a number"),
        (lambda: jp.priors.uniform(2.0, 1.0), "low < high"),
        (lambda: jp.priors.lognormal(-1.0, 1.0), "median"),
        (lambda: fit(priors={"galaxy": {"n": jp.priors.normal(1.0, 1.0)}}), "priors: unknown galaxy.n"),
        (lambda: fit(priors={"galaxy": {"q": 0.3}}), "priors: galaxy.q expects"),
        (lambda: fit(priors={"galaxy": {"q": jp.priors.normal}}), "priors: galaxy.q expects"),
        (lambda: fit(priors=[1]), "priors: expected a partial tree"),
        (lambda: fit(priors=PRIORS, bounds={"galaxy": {"q": (0.1, 0.5)}}), "uniform prior"),
        (lambda: jp.log_density(MODEL, observed(), fixed={"sky": {"I0": None}}), "holds sky.I0"),
        (lambda: jp.log_density(jp.many(jp.models.gaussian), observed()), "does not declare all"),
        (lambda: jp.log_density(MODEL, observed())({"sky": {"I0": 1.0}}), "free parameters galaxy.PA"),
    ],
)
def test_bad_priors(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()


def fit(**options):
    return jp.fit(MODEL, START, observed(), sampling=QUAD, **options)


def test_a_fit_with_priors_is_at_the_maximum_of_the_posterior():
    """No step in any physical parameter raises log likelihood + log prior; its covariance is the inverse Hessian."""
    best = jp.fit(MODEL, START, observed(), sampling=QUAD, priors=PRIORS, rtol=1e-7)
    assert best.status == lm.CONVERGED
    vector, unravel = ravel_pytree(best.params)

    @jax.jit
    def log_posterior(vector):
        params = unravel(vector)
        return jp.log_likelihood(MODEL, params, observed(), sampling=QUAD) + evaluated(PRIORS, params)

    error = np.sqrt(np.diag(best.covariance))
    assert_allclose(np.asarray(jax.grad(log_posterior)(vector)) * error, 0, atol=1e-4)
    plain = fit()
    assert best.chi2 > plain.chi2  # of the data alone
    assert np.all(error[[1, 4, 6]] < np.sqrt(np.diag(plain.covariance))[[1, 4, 6]] * 1.05)
    assert float(best.stderr["sky"]["I0"]) < 0.02
    whole = jp.fit(MODEL, START, observed(), sampling=QUAD, priors=lambda params: evaluated(PRIORS, params), rtol=1e-7)
    assert_allclose(ravel_pytree(whole.params)[0], vector, rtol=1e-5)


def test_conjugate_prior_of_a_sky():
    """A Gaussian prior of a Gaussian mean: weighted means, also under vmap with traced means, and in a batch."""
    image = jp.make_image(np.full((8, 8), 3.0), std=2.0)
    precision = 64 / 4.0
    means = np.array([0.0, 5.0])
    want = (precision * 3 + means / 0.01) / (precision + 1 / 0.01)
    fit_sky = lambda mean: jp.fit(jp.models.flat_sky, {"I0": 1.0}, image, priors={"I0": jp.priors.normal(mean, 0.1)})  # noqa: E731
    got = jax.vmap(fit_sky)(jnp.asarray(means))
    assert_allclose(got.params["I0"], want, rtol=1e-6)
    assert_allclose(got.stderr["I0"], (precision + 100) ** -0.5, rtol=1e-6)
    batch = jp.fit_batch(
        jp.models.flat_sky, {"I0": 1.0}, [image] * 3, priors={"I0": jp.priors.normal(5.0, 0.1)}, progress=False
    )
    assert_allclose(batch.params["I0"], want[1], rtol=1e-6)
    moved = jax.grad(lambda mean: fit_sky(mean).params["I0"])(5.0)
    assert_allclose(moved, 100 / (precision + 100), rtol=1e-9)


DENSITIES = {
    "flat": {},
    "priors and bounds": {"priors": PRIORS, "bounds": {"galaxy": {"flux": (0.0, np.inf)}, "sky": {"I0": (-9.0, 9.0)}}},
    "ring": {"bounds": {"galaxy": {"q": (0.2, 0.9), "flux": (-np.inf, 900.0)}}},
    "no shear": {"fixed": {"galaxy": {"PA": 0.7}}},
}


@pytest.mark.parametrize("case", DENSITIES)
def test_log_density(case):
    """Likelihood + prior + the log-determinant of the map, which goes there and back and never out of bounds."""
    options = DENSITIES[case]
    image = observed()
    density = jp.log_density(MODEL, image, sampling=QUAD, **options)
    y = density.unconstrain(TRUTH)
    for name, value in names_and_values(density.constrain(y)).items():
        assert_allclose(value, names_and_values(TRUTH)[name], rtol=1e-12)
    vector, unravel = ravel_pytree(y)
    assert len(vector) == len(density.names)

    def free(vector):
        params = density.constrain(unravel(vector))
        return ravel_pytree({"galaxy": {k: v for k, v in params["galaxy"].items() if k in y["galaxy"]},
                             "sky": params["sky"]})[0]  # fmt: skip

    _, log_volume = jnp.linalg.slogdet(jax.jacfwd(free)(vector))
    want = jp.log_likelihood(MODEL, TRUTH, image, sampling=QUAD) + evaluated(options.get("priors"), TRUTH)
    both = jax.jit(jax.value_and_grad(lambda vector: density(unravel(vector))))
    value, gradient = both(vector)
    assert_allclose(value, want + log_volume, rtol=1e-12)
    step = 1e-5 * np.random.default_rng(0).normal(size=len(vector))
    assert_allclose(gradient @ step, (both(vector + step)[0] - both(vector - step)[0]) / 2, rtol=1e-5)
    rng = np.random.default_rng(3)
    for far in 10 * rng.normal(size=(5, len(vector))):
        params = density.constrain(unravel(vector + far))
        assert 0.01 <= params["galaxy"]["q"] <= 1
        if case == "ring":
            assert 0.2 - 1e-9 <= params["galaxy"]["q"] <= 0.9 + 1e-9
            assert params["galaxy"]["flux"] <= 900
        if case == "priors and bounds":
            assert params["galaxy"]["flux"] >= 0
            assert -9 <= params["sky"]["I0"] <= 9
    assert density.fisher(y).shape == (len(vector),) * 2
    assert np.all(np.linalg.eigvalsh(density.fisher(y)) > 0)


def test_a_density_is_a_pytree():
    """Images, fixed values and numbers of priors may be traced."""
    image = jp.make_image(np.full((6, 6), 2.0), std=1.0)

    def value(std, center):
        priors = {"I0": jp.priors.normal(center, std)}
        return jp.log_density(jp.models.flat_sky, image, priors)({"I0": jnp.asarray(2.0)})

    want = 36 * stats.norm.logpdf(0.0) + stats.norm(1.0, 3.0).logpdf(2.0)
    assert_allclose(jax.jit(value)(3.0, 1.0), want, rtol=1e-12)
    assert_allclose(jax.grad(value, 1)(3.0, 1.0), 1 / 9, rtol=1e-9)
    density = jp.log_density(jp.models.flat_sky, image)
    assert_allclose(jax.jit(lambda d, y: d(y))(density, {"I0": 2.0}), 36 * stats.norm.logpdf(0.0))


def test_a_draw_on_a_bound_can_be_made_unconstrained():
    density = jp.log_density(MODEL, observed(), sampling=QUAD, bounds={"sky": {"I0": (1.5, 2.0)}})
    y = density.unconstrain(TRUTH)
    assert np.isfinite(y["sky"]["I0"])
    assert_allclose(density.constrain(y)["sky"]["I0"], 1.5, atol=1e-5)
