"""Errors in every way: propagated, robust, drawn, by fitting again; minima that are not the best, and the trap."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose
from scipy import stats
from simple import BLANK, MODEL, QUAD, SHAPE, START, TRUTH, many_observed, names_and_values, observed, pulls

import jaxphot as jp
from jaxphot.fitting import lm
from jaxphot.refits import reweighted

SKY = jp.models.flat_sky
LEVEL = jp.make_image(np.full((10, 10), 3.0), std=2.0)  # I0 = 3.0 ± 0.2


@functools.cache
def best():
    return jp.fit(MODEL, START, observed(), sampling=QUAD)


def ratios(draws, fit):
    """Standard deviation of draws ÷ standard error, of every free scalar."""
    errors = names_and_values(fit.stderr)
    return np.concatenate(
        [np.ravel(np.std(value, axis=0) / errors[name]) for name, value in names_and_values(draws).items()]
    )


def test_propagate_is_exact_for_linear_functions_and_first_order_for_others():
    fit = best()
    covariance = np.asarray(fit.covariance)
    flux, sigma = fit.names.index("galaxy.flux"), fit.names.index("galaxy.sigma")

    def function(params):
        galaxy = params["galaxy"]
        return {"mag": -2.5 * jnp.log10(galaxy["flux"]), "pair": jnp.stack([galaxy["flux"], galaxy["sigma"]])}

    result = jax.jit(lambda fit: jp.propagate(function, fit))(fit)
    assert_allclose(result.value["mag"], -2.5 * np.log10(fit.params["galaxy"]["flux"]))
    want = 2.5 / np.log(10) * np.sqrt(covariance[flux, flux]) / fit.params["galaxy"]["flux"]
    assert_allclose(result.stderr["mag"], want, rtol=1e-10)
    assert_allclose(result.stderr["pair"], np.sqrt(np.diag(covariance))[[flux, sigma]], rtol=1e-10)
    assert_allclose(result.covariance[1:, 1:], covariance[np.ix_([flux, sigma], [flux, sigma])], rtol=1e-10)
    total = jp.propagate(lambda params: jp.total_flux(MODEL, params), fit)
    assert_allclose(total.stderr, fit.stderr["galaxy"]["flux"], rtol=1e-10)


def test_propagate_in_a_batch_and_with_what_is_held_or_unknown():
    fits = jp.fit_batch(SKY, {"I0": 1.0}, [LEVEL] * 3, progress=False)
    squares = jax.vmap(lambda one: jp.propagate(lambda params: params["I0"] ** 2, one))(fits)
    assert_allclose(squares.stderr, 2 * 3 * 0.2 * np.ones(3), rtol=1e-6)
    held = jp.fit(SKY, {"I0": 1.0}, LEVEL, bounds={"I0": (0.0, 2.0)})
    assert bool(held.at_bound["I0"])
    assert np.isnan(held.stderr["I0"])
    result = jp.propagate(lambda params: (params["I0"], 1.0), held)
    assert_allclose(result.value[0], 2.0)
    assert_allclose(ravel_pytree(result.stderr)[0], 0.0)
    two = jp.scene(a=SKY, b=SKY)  # only their sum is determined
    fit = jp.fit(two, {"a": {"I0": 1.0}, "b": {"I0": 1.0}}, LEVEL)
    assert fit.status == lm.SINGULAR
    result = jp.propagate(lambda params: {"one": params["a"]["I0"], "none": jnp.zeros(())}, fit)
    assert np.isnan(result.stderr["one"])
    assert result.stderr["none"] == 0


def test_robust_errors_do_not_trust_the_weights():
    """Where the noise is three times what is said, they are; where it is as said, they agree with the usual ones."""
    data = 3 + 6 * np.random.default_rng(3).normal(size=(40, 40))
    image = jp.make_image(data, std=2.0)
    fit = jp.fit(SKY, {"I0": 1.0}, image)
    robust = jp.robust_errors(SKY, fit, image)
    assert_allclose(fit.stderr["I0"], 2 / 40, rtol=1e-6)
    assert_allclose(robust.stderr["I0"], np.std(data) / 40, rtol=1e-4)  # σ/√N, which for a mean it is exactly
    assert robust.params is fit.params
    # blocks: pixels that come in identical 2 × 2 groups are a quarter as many data
    doubled = jp.make_image(np.kron(data[:20, :20], np.ones((2, 2))), std=2.0)
    fit = jp.fit(SKY, {"I0": 1.0}, doubled)
    pixels, blocks = (jp.robust_errors(SKY, fit, doubled, block=k).stderr["I0"] for k in (1, 2))
    assert_allclose(blocks, 2 * pixels, rtol=1e-6)
    with pytest.raises(ValueError, match="block"):
        jp.robust_errors(SKY, fit, doubled, block=0)
    with pytest.raises(ValueError, match="block="):
        jp.robust_errors(SKY, fit, doubled, likelihood=jp.likelihood.correlated([[1.0, 1.0]]))


@pytest.mark.full
def test_robust_errors_of_a_galaxy_match_the_scatter_of_fits():
    """Correlated noise that the fit knows nothing of: blocks give the scatter back, the usual errors do not."""
    kernel = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    blank = jp.make_image(np.zeros((60, 60)), std=0.4)
    truth = {**TRUTH, "galaxy": {**TRUTH["galaxy"], "center": np.array([29.3, 30.8]), "sigma": 7.0, "flux": 3000.0}}
    images = many_observed(100, jp.likelihood.correlated(kernel), truth=truth, blank=blank)
    fits = jp.fit_batch(MODEL, truth, images, sampling=QUAD, progress=False)
    scatter = np.std(fits.params["galaxy"]["flux"])
    one = jax.tree.map(lambda leaf: leaf[0], fits)
    usual = float(one.stderr["galaxy"]["flux"])
    robust = float(jp.robust_errors(MODEL, one, jp.unstack_images(images)[0], block=6, sampling=QUAD)
                   .stderr["galaxy"]["flux"])  # fmt: skip
    assert scatter > 2 * usual
    assert 0.6 < robust / scatter < 1.3


def test_laplace_draws_have_the_covariance_of_the_fit_and_keep_to_the_bounds():
    fit, count = best(), 4000
    draws = jp.laplace(MODEL, fit, observed(), jax.random.key(1), count, sampling=QUAD)
    assert draws["galaxy"]["center"].shape == (count, 2)
    assert np.all(np.abs(ratios(draws, fit) - 1) < 4 / np.sqrt(2 * count) + 0.02)
    matrix = np.concatenate([value.reshape(count, -1) for value in names_and_values(draws).values()], axis=1)
    scale = np.sqrt(np.diag(fit.covariance))
    assert_allclose(np.cov(matrix.T) / np.outer(scale, scale), fit.covariance / np.outer(scale, scale), atol=0.08)
    faint = observed(truth={**TRUTH, "galaxy": {**TRUTH["galaxy"], "flux": 12.0}})
    poor = jp.fit(MODEL, TRUTH, faint, sampling=QUAD)
    draws = jp.laplace(MODEL, poor, faint, jax.random.key(1), 500, sampling=QUAD)["galaxy"]
    assert np.all((draws["q"] >= 0.01) & (draws["q"] <= 1) & (draws["sigma"] > 0))


def test_laplace_of_what_is_held_and_fixed():
    bounds, fixed = {"galaxy": {"sigma": (0.5, 2.2)}}, {"sky": {"I0": 1.5}}
    image = observed()
    fit = jp.fit(MODEL, {**START, "galaxy": {**START["galaxy"], "sigma": 2.1}}, image,
                 bounds=bounds, fixed=fixed, sampling=QUAD)  # fmt: skip
    assert bool(fit.at_bound["galaxy"]["sigma"])
    draws = jp.laplace(MODEL, fit, image, jax.random.key(2), 300, bounds=bounds, sampling=QUAD)
    assert_allclose(draws["galaxy"]["sigma"], 2.2, rtol=1e-12)
    assert_allclose(draws["sky"]["I0"], 1.5)
    others = {"galaxy": {name: draws["galaxy"][name] for name in ("PA", "center", "flux", "q")}}
    assert np.all(np.abs(ratios(others, fit) - 1) < 0.2)


def test_bootstraps_scatter_as_the_errors_say():
    for resample in (None, reweighted):
        options = {} if resample is None else {"resample": resample}
        image = LEVEL if resample is None else replace(LEVEL, data=observed_level())
        fit = jp.fit(SKY, {"I0": 1.0}, image)
        fits = jp.bootstrap(SKY, fit, image, jax.random.key(3), 300, **options)
        assert fits.params["I0"].shape == (300,)
        assert abs(np.std(fits.params["I0"]) / 0.2 - 1) < 4 / np.sqrt(600) + 0.15 * (resample is not None)
        assert abs(np.mean(fits.params["I0"]) - fit.params["I0"]) < 4 * 0.2 / np.sqrt(300)


def observed_level():
    return 3 + 2 * jnp.asarray(np.random.default_rng(9).normal(size=(10, 10)))


def test_bootstrap_of_a_galaxy():
    fits = jp.bootstrap(MODEL, best(), observed(), jax.random.key(3), 60, sampling=QUAD)
    assert np.all(fits.status == lm.CONVERGED)
    assert np.all(np.abs(ratios(fits.params, best()) - 1) < 4 / np.sqrt(120))


def test_profile_likelihood():
    """A parabola where the problem is linear; its interval is the standard error's; one-sided at a bound."""
    fit = jp.fit(SKY, {"I0": 1.0}, LEVEL)
    profile = jp.profile_likelihood(SKY, fit, LEVEL, "I0")
    assert_allclose(profile.delta, ((profile.value - 3) / 0.2) ** 2, atol=1e-6)
    assert_allclose([profile.low, profile.high], [2.8, 3.2], atol=1e-6)
    held = jp.fit(SKY, {"I0": 3.5}, LEVEL, bounds={"I0": (3.1, 9.0)})
    assert bool(held.at_bound["I0"])
    limit = jp.profile_likelihood(SKY, held, LEVEL, "I0", np.linspace(3.1, 4.0, 10), bounds={"I0": (3.1, 9.0)})
    assert np.isnan(limit.low)
    assert_allclose(limit.delta[-1], 25 - 0.25, atol=1e-6)
    of_galaxy = jp.profile_likelihood(MODEL, best(), observed(), "galaxy.q", sampling=QUAD)
    q, error = best().params["galaxy"]["q"], best().stderr["galaxy"]["q"]
    assert_allclose([of_galaxy.low, of_galaxy.high], [q - error, q + error], atol=0.1 * error)
    with pytest.raises(ValueError, match=r"name: expected one of galaxy.PA"):
        jp.profile_likelihood(MODEL, best(), observed(), "galaxy.center")
    with pytest.raises(ValueError, match="values: needed"):
        jp.profile_likelihood(SKY, held, LEVEL, "I0")


def test_simulated_data_have_the_noise_they_should():
    stack = many_observed(200, jp.likelihood.poisson())
    clean = np.asarray(jp.render(MODEL, TRUTH, BLANK, QUAD))
    chi2 = np.sum((np.asarray(stack.data) - clean) ** 2 / (clean / 5), axis=(1, 2))
    assert abs(stats.zscore(np.r_[chi2]).mean()) < 1e-9
    assert abs(chi2.mean() / clean.size - 1) < 4 * np.sqrt(2 / clean.size / 200) * 1.2
    with pytest.raises(ValueError, match="gain"):
        jp.simulate(SKY, {"I0": 1.0}, LEVEL, jax.random.key(0), jp.likelihood.poisson())


@pytest.mark.full
def test_find_modes_tells_two_stars_from_one():
    """Two equal bumps, one component: each is a minimum."""
    clean = np.asarray(jp.render(MODEL, TRUTH, BLANK, QUAD))
    two = {**TRUTH["galaxy"], "center": np.array([3.0, 14.0]), "flux": 250.0, "sigma": 1.2, "q": 0.9}
    one = {**two, "center": np.array([15.0, 4.0]), "flux": 300.0}
    parts = [jp.render(jp.models.gaussian, own, BLANK, QUAD) for own in (one, two)]
    image = replace(BLANK, data=sum(parts) + 0.4 * jnp.asarray(np.random.default_rng(0).normal(size=SHAPE)))
    start = {"galaxy": {**START["galaxy"], "center": np.array([9.0, 9.0]), "sigma": 4.0}, "sky": {"I0": 0.0}}
    modes = jp.find_modes(MODEL, start, image, 24, sampling=QUAD)
    assert clean.shape == SHAPE
    assert len(modes) >= 2
    assert sum(count for _, count in modes) <= 24
    assert np.all(np.diff([float(fit.chi2) for fit, _ in modes]) > 0)
    assert len(jp.find_modes(MODEL, START, observed(), 6, sampling=QUAD)) == 1


# --- the trap at q → 1 ------------------------------------------------------------------------------------------------


def trapped(model, start, image, PA):
    """The best fit on the line q = 1 with a PA at right angles to the truth, and proof that (q, PA) steps stay there.

    A step in the physical parameters is led by the slope: beyond the bound q = 1, and not in PA, which a circle
    does not have.
    """
    trap = jp.fit(model, start, image, sampling=QUAD, fixed={"galaxy": {"q": 1.0, "PA": PA}})

    def loss(params):
        return -jp.log_likelihood(model, params, image, sampling=QUAD)

    slope = jax.grad(loss)(jax.tree.map(jnp.asarray, trap.params))["galaxy"]
    assert slope["q"] < 0  # a greater q would be better: the bound holds it
    assert abs(slope["PA"]) < 1e-9 * abs(slope["q"])
    return trap.params, float(trap.chi2) / (int(trap.dof) - 2)


def test_a_start_at_q_1_is_no_trap():
    """In (q, PA) a round start is stuck: PA has no derivative there, and a wrong one keeps q at its bound."""
    truth = {**TRUTH, "galaxy": {**TRUTH["galaxy"], "q": 0.35, "PA": 0.9, "flux": 1200.0}}
    image = observed(6, truth=truth)
    start = {"galaxy": {**START["galaxy"], "flux": 800.0}, "sky": {"I0": 1.0}}
    trap, stuck = trapped(MODEL, start, image, 0.9 - np.pi / 2)
    assert stuck > 3
    fit = jp.fit(MODEL, trap, image, sampling=QUAD)
    assert fit.status == lm.CONVERGED
    assert float(fit.chi2) / int(fit.dof) < 1.2
    assert np.max(np.abs(pulls(fit, truth))) < 4.5


@pytest.mark.full
def test_nor_for_a_real_galaxy(data_dir):
    """KiDS G279148, an elongated one, from a round start."""
    from astropy.io import fits

    folder = data_dir / "kids"
    segments = fits.getdata(folder / "G279148segim.fits")
    ny, nx = segments.shape
    image = jp.read_fits(
        folder / "G279148fitim.fits", std=folder / "G279148sigma.fits", psf=folder / "G279148psfim.fits",
        mask=(segments > 0) & (segments != segments[ny // 2, nx // 2]), pixelscale=0.2, zeropoint=0.0, dtype=np.float64,
    )  # fmt: skip
    image = replace(image, data=image.data * 1e12, ivar=image.ivar * 1e-24)  # of order one
    model = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
    good = jp.fit(model, jp.initialize(model, image), image, sampling=QUAD)
    trap, stuck = trapped(model, jp.initialize(model, image), image, float(good.params["galaxy"]["PA"]) - np.pi / 2)
    fit = jp.fit(model, trap, image, sampling=QUAD)
    ours = float(fit.chi2) / int(fit.dof)
    print(f"χ²/dof at the trap {stuck:.2f}, jaxphot from there {ours:.2f}")
    assert stuck > 1.5 * ours
    assert_allclose(fit.chi2, good.chi2, rtol=1e-6)
