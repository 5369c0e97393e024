"""Likelihoods: one contract, densities that integrate to one, noise as they say, masks that do not count."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import linalg, stats
from simple import BLANK, MODEL, QUAD, START, TRUTH, many_observed, observed, pulls

import jaxphot as jp
from jaxphot.fitting import lm
from jaxphot.likelihood import compared

KERNEL = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
WITH_FLOOR = jp.scene(galaxy=jp.models.gaussian, sky=jp.models.flat_sky, noise=jp.models.noise_floor)
FLOOR = {"f": jnp.asarray(0.2)}
LIKELIHOODS = {
    "gaussian": jp.likelihood.gaussian(),
    "poisson": jp.likelihood.poisson(),
    "student_t": jp.likelihood.student_t(5),
    "huber": jp.likelihood.huber(),
    "model_variance": jp.likelihood.model_variance(0.3),
    "fractional_floor": jp.likelihood.fractional_floor(),
    "correlated": jp.likelihood.correlated(KERNEL),
}
PIXELS = jnp.asarray(np.random.default_rng(0).uniform(1.0, 4.0, (5, 6)))
PROBES = jnp.asarray(np.random.default_rng(1).normal(size=(8, 5, 6)))
IMAGE = jp.make_image(np.asarray(PIXELS), std=0.5, gain=3.0)


def judged(likelihood, value, image):
    """Terms of a model's pixels."""
    compare = getattr(likelihood, "compare", None)
    return likelihood.terms(value if compare is None else compare(value, image, FLOOR), image)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradient_and_fisher_weight(name):
    """The gradient is that of the loss; with data drawn its mean is 0 and its square's mean the weight."""
    likelihood = LIKELIHOODS[name]
    compare = getattr(likelihood, "compare", lambda value, image, noise: value)
    count = 2000
    # whitened values fill a torus, wider than the image: only along what pixels can do are they what they should be
    directions = jax.vmap(lambda d: jax.jvp(lambda v: compare(v, IMAGE, FLOOR), (PIXELS,), (d,))[1])(PROBES)

    @jax.jit
    @jax.vmap
    def draw(key):
        image = replace(IMAGE, data=likelihood.draw(key, PIXELS, IMAGE, FLOOR))
        values = compare(PIXELS, image, FLOOR)
        terms = likelihood.terms(values, image)
        exact = jax.grad(lambda values: jnp.sum(likelihood.terms(values, image).loss))(values)
        along = [jnp.sum(directions * item[None], axis=tuple(range(1, directions.ndim))) for item in terms[1:2]]
        return (
            terms.gradient,
            exact,
            along[0],
            jnp.sum(directions**2 * terms.weight[None], axis=tuple(range(1, directions.ndim))),
        )

    gradient, exact, score, weight = draw(jax.random.split(jax.random.key(1), count))
    assert_allclose(gradient, exact, rtol=1e-9, atol=1e-9 * np.abs(exact).max())
    expected = np.mean(weight, axis=0)
    assert np.all(np.abs(np.mean(score, axis=0)) < 5 * np.sqrt(expected / count))
    spread = np.std(np.square(score), axis=0) / np.sqrt(count)
    assert np.all(np.abs(np.mean(np.square(score), axis=0) - expected) < 5 * spread)


@pytest.mark.parametrize("name", ["gaussian", "student_t", "huber", "model_variance", "fractional_floor"])
def test_density_integrates_to_one(name):
    likelihood = LIKELIHOODS[name]
    one = jp.make_image([[0.0]], std=0.5, gain=3.0)
    grid = jnp.linspace(-400.0, 400.0, 400_001)

    def log_density(data):
        image = replace(one, data=data[None, None])
        return likelihood.log_normalization(image) - jnp.sum(judged(likelihood, jnp.full((1, 1), 2.0), image).loss)

    density = np.exp(jax.jit(jax.vmap(log_density))(grid))
    assert_allclose(np.trapezoid(density, grid), 1, rtol=1e-5)


def test_poisson_density_of_counts_sums_to_one_and_knows_zero_counts():
    counts = np.arange(60)
    got = [
        float(jp.log_likelihood(jp.models.flat_sky, {"I0": 2.5}, replace(IMAGE, data=jnp.full((5, 6), c / 3.0)),
                                jp.likelihood.poisson())) / 30
        for c in counts
    ]  # fmt: skip
    assert_allclose(got, stats.poisson.logpmf(counts, 7.5), atol=1e-9)
    assert_allclose(np.exp(got).sum(), 1, rtol=1e-9)
    nothing = replace(IMAGE, data=jnp.zeros((5, 6)))
    terms = jp.likelihood.poisson().terms(PIXELS, nothing)
    assert_allclose(terms.loss, 3 * PIXELS)  # the expected counts
    assert_allclose(terms.gradient, 3.0)
    assert_allclose(terms.weight, 3 / PIXELS)  # of the model: pixels without counts count
    dark = jp.likelihood.poisson().terms(jnp.zeros((5, 6)), IMAGE)
    assert np.all(np.isinf(dark.loss))
    assert np.all(np.isfinite(dark.gradient))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_masked_pixels_have_no_influence(name):
    likelihood = LIKELIHOODS[name]
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2] = mask[4, 5] = True
    for spoilt in (np.nan, 1e6, -3.0):
        image = jp.make_image(np.where(mask, spoilt, PIXELS), std=0.5, gain=3.0, mask=mask)
        plain = jp.make_image(np.asarray(PIXELS), std=0.5, gain=3.0, mask=mask)
        value = PIXELS + 0.3
        got, want = judged(likelihood, value, image), judged(likelihood, value, plain)
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
        assert np.all(np.isfinite(got.loss))
        gradient = jax.grad(lambda value, image=image: jnp.sum(judged(likelihood, value, image).loss))(value)
        assert np.all(np.isfinite(gradient))
        assert_allclose(np.asarray(gradient)[mask], 0, atol=1e-12)


def covariance_of_kernel(shape, kernel):
    """Dense covariance of white noise convolved with a kernel, unit variance."""
    ny, nx = shape
    stamp = jp.likelihood.correlated(kernel).rows
    reach = len(stamp) // 2
    first = np.zeros((2 * ny - 1, 2 * nx - 1))
    first[ny - 1 - reach : ny + reach, nx - 1 - reach : nx + reach] = stamp
    j, i = (grid.ravel() for grid in np.mgrid[:ny, :nx])
    return first[j[:, None] - j + ny - 1, i[:, None] - i + nx - 1]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_correlated_chi2_is_that_of_linear_algebra(masked, dtype):
    """On images of any shape, edges and masked pixels included."""
    shape = (9, 12)
    kernel = np.array([[0.2, 0.5, 0.1], [0.6, 2.0, 0.4], [0.0, 0.7, 0.3]])
    rng = np.random.default_rng(2)
    mask = (rng.random(shape) < 0.2) & masked
    std = rng.uniform(0.5, 2.0, shape)
    image = jp.make_image(rng.normal(size=shape), std=std, mask=mask, dtype=dtype)
    likelihood = jp.likelihood.correlated(kernel)
    value = jnp.asarray(rng.normal(size=shape), dtype)
    whitened = likelihood.compare(value, image, {})
    good = ~mask.ravel()
    dense = covariance_of_kernel(shape, kernel)[np.ix_(good, good)]
    residual = (np.asarray(value - image.data, float) / std).ravel()[good]
    want = residual @ linalg.solve(dense, residual)
    assert_allclose(np.sum(np.square(whitened)), want, rtol=1e-7 if dtype is np.float64 else 2e-3)


def test_correlated_takes_kernel_autocorrelation_or_power():
    kernel = np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    of_kernel = jp.likelihood.correlated(kernel)
    assert hash(of_kernel) == hash(jp.likelihood.correlated(kernel.tolist()))
    assert_allclose(jp.likelihood.correlated(autocorrelation=np.asarray(of_kernel.rows) * 7).rows, of_kernel.rows)
    power = np.abs(np.fft.fft2(kernel, (15, 15))) ** 2
    got = np.asarray(jp.likelihood.correlated(power=power).rows)
    assert got.shape == (15, 15)
    assert_allclose(got[5:10, 5:10], of_kernel.rows, atol=1e-12)
    drawn = np.asarray(jax.vmap(lambda key: of_kernel.draw(key, jnp.zeros((9, 9)), BLANK_9, {}))(
        jax.random.split(jax.random.key(0), 3000)
    ))  # fmt: skip
    assert_allclose(np.mean(drawn[:, 4, 4] * drawn[:, 4, 5]), of_kernel.rows[2][3], atol=0.06)
    assert_allclose(np.mean(drawn[:, 4, 4] ** 2), 1, atol=0.1)


BLANK_9 = jp.make_image(np.zeros((9, 9)), std=1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "one of kernel"),
        ({"kernel": KERNEL, "power": KERNEL}, "kernel and power"),
        ({"kernel": [1.0, 2.0]}, "kernel: expected"),
        ({"kernel": np.zeros((3, 3))}, "not all zero"),
        ({"autocorrelation": np.ones((2, 2))}, "odd sides"),
        ({"autocorrelation": [[0, 0.5, 0], [0, 1, 0], [0, 0.1, 0]]}, "opposite"),
        ({"power": [[1.0, -1.0]]}, "≥ 0"),
    ],
)
def test_correlated_says_what_it_expected(arguments, words):
    with pytest.raises(ValueError, match=words):
        jp.likelihood.correlated(**arguments)


def test_what_a_likelihood_needs_is_asked_for_at_the_door():
    image = jp.make_image(np.ones((6, 6)), std=1.0)
    for likelihood, word in (
        (jp.likelihood.poisson(), "gain"),
        (jp.likelihood.model_variance(), "gain"),
        (jp.likelihood.fractional_floor(), "noise_floor"),
    ):
        for call in (jp.fit, jp.log_likelihood):
            with pytest.raises(ValueError, match=word):
                call(jp.models.flat_sky, {"I0": 1.0}, image, likelihood=likelihood)
    with pytest.raises(ValueError, match="threshold"):
        jp.likelihood.huber(0)
    with pytest.raises(ValueError, match="read_noise"):
        jp.likelihood.model_variance(-1)


SETS = {
    "gaussian": (jp.likelihood.gaussian(), MODEL, TRUTH),
    "correlated": (LIKELIHOODS["correlated"], MODEL, TRUTH),
    "model_variance": (LIKELIHOODS["model_variance"], MODEL, TRUTH),
    "huber": (LIKELIHOODS["huber"], MODEL, TRUTH),
    "fractional_floor": (LIKELIHOODS["fractional_floor"], WITH_FLOOR, {**TRUTH, "noise": {"f": 0.15}}),
}


LONG = {"gaussian", "huber", "model_variance"}


@pytest.mark.parametrize("name", [pytest.param(key, marks=pytest.mark.full) if key in LONG else key for key in SETS])
def test_fits_with_every_likelihood_recover_truth_and_its_errors(name):
    """Pulls of a batch are standard normal, drawn from what the likelihood says."""
    likelihood, model, truth = SETS[name]
    count = 60
    images = many_observed(count, likelihood, model, truth)
    start = {**START, "noise": {"f": 0.05}} if "noise" in truth else START
    fits = jp.fit_batch(model, start, images, likelihood=likelihood, sampling=QUAD, progress=False)
    assert np.all(fits.status == lm.CONVERGED)
    pull = pulls(fits, truth)
    mean = pull.mean(0)
    if "noise" in truth:  # like every variance of largest likelihood it is low by the parameters fitted
        noise = list(fits.names).index("noise.f")
        assert -1.2 < mean[noise] < 0.2
        mean[noise] = 0
    assert np.all(np.abs(mean) < 4 / np.sqrt(count))
    assert np.all(np.abs(pull.std(0) - 1) < 4 / np.sqrt(2 * count))


def test_poisson_is_unbiased_where_a_variance_of_the_data_is_not():
    """A faint galaxy at 3 counts a pixel."""
    truth = {**TRUTH, "galaxy": {**TRUTH["galaxy"], "flux": 200.0}, "sky": {"I0": 3.0}}
    blank = jp.make_image(np.zeros(BLANK.shape), std=1.0, gain=1.0)
    count = 40
    counted = many_observed(count, jp.likelihood.poisson(), truth=truth, blank=blank)
    poisson = jp.fit_batch(MODEL, START, counted, likelihood=jp.likelihood.poisson(), sampling=QUAD, progress=False)
    weighted = replace(counted, ivar=1 / jnp.maximum(counted.data, 1.0))
    chi2 = jp.fit_batch(MODEL, START, weighted, sampling=QUAD, progress=False)
    sky_of_poisson, sky_of_chi2 = (np.mean(pulls(fits, truth)[:, -1]) for fits in (poisson, chi2))
    assert abs(sky_of_poisson) < 4 / np.sqrt(count)
    assert sky_of_chi2 < -1


def test_fractional_floor_may_be_fixed_and_says_when_there_is_none():
    likelihood = LIKELIHOODS["fractional_floor"]
    start = {**START, "noise": {"f": 0.03}}
    options = {"likelihood": likelihood, "sampling": QUAD}
    fixed = jp.fit(WITH_FLOOR, start, observed(), fixed={"noise": {"f": 1e-4}}, **options)
    plain = jp.fit(MODEL, START, observed(), sampling=QUAD)
    assert_allclose(fixed.params["galaxy"]["flux"], plain.params["galaxy"]["flux"], rtol=1e-4)
    free = jp.fit(WITH_FLOOR, start, observed(4), **options)
    assert free.status == lm.CONVERGED
    assert bool(free.at_bound["noise"]["f"]) or float(free.params["noise"]["f"]) < 0.05
    assert float(jp.total_flux(WITH_FLOOR, free.params)) == pytest.approx(float(free.params["galaxy"]["flux"]))
    assert jp.initialize(WITH_FLOOR, observed())["noise"]["f"] == 0.03


def test_everything_takes_every_likelihood():
    """The value that a likelihood judges is the same in a fit, a density and a log-likelihood."""
    for name in ("fractional_floor", "correlated"):
        likelihood = LIKELIHOODS[name]
        model = WITH_FLOOR if name == "fractional_floor" else MODEL
        params = {**TRUTH, **({"noise": {"f": 0.1}} if model is WITH_FLOOR else {})}
        image = observed(2)
        value = jp.render(model, params, image, QUAD)
        terms = likelihood.terms(compared(likelihood, model, params, value, image), image)
        want = likelihood.log_normalization(image) - jnp.sum(terms.loss)
        assert_allclose(jp.log_likelihood(model, params, image, likelihood, QUAD), want, rtol=1e-12)
