"""Fits: recovered truth, honest errors, and what may not change them."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot.fitting import lm

QUAD = jp.sampling.quad(2)
SIMPLE = jp.scene(galaxy=jp.models.gaussian, sky=jp.models.flat_sky)
GALAXY = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)

SIMPLE_TRUTH = {
    "galaxy": {"center": np.array([9.3, 8.8]), "q": 0.6, "PA": 0.7, "sigma": 2.5, "flux": 300.0},
    "sky": {"I0": 1.5},
}
SIMPLE_START = {
    "galaxy": {"center": np.array([8.5, 9.5]), "q": 0.8, "PA": 0.3, "sigma": 2.0, "flux": 200.0},
    "sky": {"I0": 1.0},
}
SHAPE = (18, 20)


def observe(model, params, seed, std=0.4, shape=SHAPE, **options):
    """A rendered image with Gaussian noise."""
    clean = jp.render(model, params, jp.make_image(np.zeros(shape), std=std, **options), QUAD)
    noise = np.random.default_rng(seed).normal(size=shape)
    return jp.make_image(np.asarray(clean) + std * noise, std=std, **options)


@functools.cache
def simple_image(seed=5):
    return observe(SIMPLE, SIMPLE_TRUTH, seed)


def fit_simple(image, start=SIMPLE_START, **options):
    return jp.fit(SIMPLE, start, image, sampling=QUAD, **options)


def names_and_values(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: np.asarray(tree)}
    join = f"{prefix}." if prefix else ""
    return {name: v for key in sorted(tree) for name, v in names_and_values(tree[key], f"{join}{key}").items()}


def flat(tree):
    return np.concatenate([np.ravel(value) for value in names_and_values(tree).values()])


def pulls(fit, truth):
    """(fit − truth) / stderr of every free scalar, ordered as `names`; position angles modulo π."""
    free = names_and_values(fit.stderr)
    found, wanted = names_and_values(fit.params), names_and_values(truth)
    differences = {name: found[name] - wanted[name] for name in free}
    for name in differences:
        if name.endswith("PA"):
            differences[name] = (differences[name] + np.pi / 2) % np.pi - np.pi / 2
    return np.concatenate([np.ravel(differences[name] / free[name]) for name in free])


def assert_same(a, b, rows=...):
    """Bit-identical, in these lanes."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.array_equal(np.asarray(x)[rows], np.asarray(y)[rows], equal_nan=True)


def assert_close(a, b, rtol=1e-6, errors=1e-4):
    """Equal results: parameters to a small part of their errors; fits stop at 1e-3 of them."""
    assert a.names == b.names
    assert np.array_equal(a.status, b.status)
    error = np.where(np.isfinite(flat(b.stderr)), flat(b.stderr), 1)
    free = flat_free(a), flat_free(b)
    assert np.all(np.abs(free[0] - free[1]) <= errors * error)
    assert_allclose(a.chi2, b.chi2, rtol=rtol)
    assert_allclose(flat(a.stderr), flat(b.stderr), rtol=1e-3)


def flat_free(fit):
    found = names_and_values(fit.params)
    return np.concatenate([np.ravel(found[name]) for name in names_and_values(fit.stderr)])


# --- one fit --------------------------------------------------------------------------------------------------------


def test_recovers_a_convolved_sersic_and_its_errors():
    psf = np.exp(-0.5 * np.add.outer(np.arange(-4, 5) ** 2, np.arange(-4, 5) ** 2) / 1.3**2)
    truth = {
        "galaxy": {"center": [2.4, 2.0], "q": 0.6, "PA": 1.9, "n": 1.6, "Re": 1.1, "Ie": 30.0},
        "sky": {"I0": 4.0},
    }
    start = {
        "galaxy": {"center": [2.3, 2.2], "q": 0.8, "PA": 1.3, "n": 1.0, "Re": 0.8, "Ie": 20.0},
        "sky": {"I0": 3.0},
    }
    options = {"transform": jp.make_linear(cd=[[-0.2, 0.03], [0.02, 0.19]], crpix=(30.0, 3.0)), "psf": psf}
    image = observe(GALAXY, truth, 11, std=0.05, shape=(26, 28), **options)
    fit = jp.fit(GALAXY, start, image, sampling=QUAD)
    assert fit.status == lm.CONVERGED
    assert jp.status_message(fit.status) == "converged"
    assert fit.names == (
        "galaxy.Ie", "galaxy.PA", "galaxy.Re", "galaxy.center[0]", "galaxy.center[1]", "galaxy.n", "galaxy.q", "sky.I0",
    )  # fmt: skip
    assert fit.covariance.shape == (8, 8)
    assert int(fit.dof) == 26 * 28 - 8
    assert np.max(np.abs(pulls(fit, truth))) < 4
    assert abs(float(fit.chi2) / int(fit.dof) - 1) < 5 * np.sqrt(2 / int(fit.dof))
    assert_allclose(flat(fit.stderr), np.sqrt(np.diag(fit.covariance)), rtol=1e-14)
    assert not np.any(flat(fit.at_bound))
    assert not fit.round
    assert 0 <= float(fit.params["galaxy"]["PA"]) < np.pi

    # χ² and the covariance from their definitions, with derivatives of `render` by finite differences
    residual = (np.asarray(image.data) - np.asarray(jp.render(GALAXY, fit.params, image, QUAD))) / 0.05
    assert_allclose(fit.chi2, np.sum(residual**2), rtol=1e-10)
    columns = []
    for name in fit.names:
        key, _, index = name.partition("[")
        branch, leaf = key.split(".")
        step = 1e-4 * float(np.ravel(fit.stderr[branch][leaf])[int(index[0]) if index else 0]) * 100
        sides = []
        for sign in (1, -1):
            moved = np.array(fit.params[branch][leaf])
            moved[int(index[0]) if index else ()] += sign * step
            params = {**fit.params, branch: {**fit.params[branch], leaf: moved}}
            sides.append(np.asarray(jp.render(GALAXY, params, image, QUAD)))
        columns.append((sides[0] - sides[1]).ravel() / (2 * step) / 0.05)
    J = np.stack(columns, axis=1)
    covariance = np.linalg.inv(J.T @ J)
    error = np.sqrt(np.diag(covariance))
    assert_allclose(fit.covariance / np.outer(error, error), covariance / np.outer(error, error), atol=2e-3)
    # the gradient of χ²/2 is a small part of what one standard error would make of it
    assert np.max(np.abs(covariance @ (J.T @ residual.ravel())) / error) < 2e-3


def test_several_starts_lead_to_one_solution():
    reference = fit_simple(simple_image())
    assert reference.status == lm.CONVERGED
    rng = np.random.default_rng(2)
    for _ in range(5):
        start = {
            "galaxy": {
                "center": SIMPLE_TRUTH["galaxy"]["center"] + rng.uniform(-2, 2, 2),
                "q": rng.uniform(0.2, 1.0),
                "PA": rng.uniform(-7, 7),
                "sigma": rng.uniform(1, 5),
                "flux": rng.uniform(-50, 900),
            },
            "sky": {"I0": rng.uniform(-5, 5)},
        }
        fit = fit_simple(simple_image(), start)
        assert fit.status == lm.CONVERGED
        assert np.max(np.abs(flat_free(fit) - flat_free(reference)) / flat(reference.stderr)) < 1e-2
        assert_allclose(fit.chi2, reference.chi2, rtol=1e-7)


def test_star_and_sky():
    psf = np.exp(-0.5 * np.add.outer(np.arange(-6, 7) ** 2, np.arange(-6, 7) ** 2) / 2.0**2)
    model = jp.scene(star=jp.models.point_source, sky=jp.models.plane_sky)
    truth = {"star": {"center": [9.3, 8.8], "flux": 500.0}, "sky": {"I0": 1.0, "delta": [0.05, -0.03]}}
    image = observe(model, truth, 3, psf=psf)
    start = {"star": {"center": [8.0, 8.0], "flux": 100.0}, "sky": {"I0": 0.0, "delta": [0.0, 0.0]}}
    fit = jp.fit(model, start, image, sampling=QUAD)
    assert fit.status == lm.CONVERGED
    assert fit.names[-2:] == ("star.center[1]", "star.flux")
    assert np.max(np.abs(pulls(fit, truth))) < 4
    # the error of a star's flux on a known sky: 1/√Σ P² in units of the noise, ×1.1 for position and sky
    best = 0.4 / np.sqrt(np.sum((psf / psf.sum()) ** 2))
    assert best < float(fit.stderr["star"]["flux"]) < 1.4 * best


# --- fixed ----------------------------------------------------------------------------------------------------------


def test_fixed():
    """A value fixes it there, None and True hold it or a whole branch; one compiled program serves all."""
    held = fit_simple(simple_image(), {**SIMPLE_START, "sky": {"I0": 1.2}}, fixed={"sky": {"I0": None}})
    assert held.status == lm.CONVERGED
    assert "sky.I0" not in held.names
    assert "sky" not in held.stderr
    assert "sky" not in held.at_bound
    assert held.covariance.shape == (6, 6)
    assert int(held.dof) == 18 * 20 - 6
    assert float(held.params["sky"]["I0"]) == 1.2
    for start, fixed in (
        ({**SIMPLE_START, "sky": {"I0": 1.2}}, {"sky": {"I0": True}}),
        (SIMPLE_START, {"sky": {"I0": 1.2}}),
        ({"galaxy": SIMPLE_START["galaxy"]}, {"sky": {"I0": 1.2}}),
        ({**SIMPLE_START, "sky": {"I0": 1.2}}, {"sky": None}),
        ({**SIMPLE_START, "sky": {"I0": 1.2}}, {"sky": True}),
    ):
        assert_same(held, fit_simple(simple_image(), start, fixed=fixed))
    # held where the free fit ends: the same solution, and no error grows
    free = fit_simple(simple_image())
    assert free.chi2 < held.chi2
    held = fit_simple(simple_image(), fixed={"sky": {"I0": free.params["sky"]["I0"]}})
    assert np.all(np.abs(flat_free(held) - flat_free(free)[:6]) < 3e-3 * flat(held.stderr))
    assert np.all(flat(held.stderr) <= flat(free.stderr)[:6] * (1 + 1e-4))
    assert held.stderr["galaxy"]["flux"] < 0.95 * free.stderr["galaxy"]["flux"]


def test_fixed_vector_and_shape():
    """A fixed q leaves its PA to step alone."""
    fixed = {"galaxy": {"center": SIMPLE_TRUTH["galaxy"]["center"], "q": 0.6}}
    fit = fit_simple(simple_image(), fixed=fixed)
    assert fit.names == ("galaxy.PA", "galaxy.flux", "galaxy.sigma", "sky.I0")
    assert fit.status == lm.CONVERGED
    assert np.max(np.abs(pulls(fit, SIMPLE_TRUTH))) < 4
    assert_allclose(fit.params["galaxy"]["center"], SIMPLE_TRUTH["galaxy"]["center"])


def test_nothing_free():
    fit = fit_simple(simple_image(), SIMPLE_TRUTH, fixed=jax.tree.map(lambda _: None, SIMPLE_TRUTH))
    assert fit.status == lm.CONVERGED
    assert fit.names == ()
    assert fit.stderr == {}
    image = simple_image()
    residual = (np.asarray(image.data) - np.asarray(jp.render(SIMPLE, SIMPLE_TRUTH, image, QUAD))) / 0.4
    assert_allclose(fit.chi2, np.sum(residual**2), rtol=1e-12)
    assert int(fit.dof) == 360


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_at_a_bound():
    """Held there with error NaN; the rest is what it would be with that parameter fixed at the bound."""
    bounds = {"sky": {"I0": (-5.0, 1.2)}, "galaxy": {"flux": (0.0, 1e5)}}
    fit = fit_simple(simple_image(), bounds=bounds)
    assert fit.status == lm.CONVERGED
    assert float(fit.params["sky"]["I0"]) == 1.2
    assert bool(fit.at_bound["sky"]["I0"])
    assert np.isnan(fit.stderr["sky"]["I0"])
    assert np.all(np.isnan(np.asarray(fit.covariance)[6]))
    assert flat(fit.at_bound).sum() == 1
    fixed = fit_simple(simple_image(), fixed={"sky": {"I0": 1.2}})
    assert_allclose(fit.chi2, fixed.chi2, rtol=1e-7)
    assert np.all(np.abs(flat_free(fit)[:6] - flat_free(fixed)) < 1e-2 * flat(fixed.stderr))
    assert_allclose(flat(fit.stderr)[:6], flat(fixed.stderr), rtol=1e-3)
    # a start on the bound does not stay there if the data want it inside
    inside = fit_simple(
        simple_image(), {**SIMPLE_START, "sky": {"I0": 9.0}}, bounds={**bounds, "sky": {"I0": (-5.0, 9.0)}}
    )
    assert_close(inside, fit_simple(simple_image()), errors=3e-3)
    assert not np.any(flat(inside.at_bound))


def test_bounds_of_a_shape():
    """q at its lowest: held along the shear's radius, so PA keeps an error."""
    fit = fit_simple(simple_image(), bounds={"galaxy": {"q": (0.75, 1.0)}})
    assert fit.status == lm.CONVERGED
    assert_allclose(fit.params["galaxy"]["q"], 0.75, rtol=1e-12)
    assert bool(fit.at_bound["galaxy"]["q"])
    assert not bool(fit.at_bound["galaxy"]["PA"])
    assert np.isnan(fit.stderr["galaxy"]["q"])
    assert np.isnan(flat(fit.stderr)).sum() == 1
    fixed = fit_simple(simple_image(), {**SIMPLE_START}, fixed={"galaxy": {"q": 0.75}})
    assert_allclose(fit.stderr["galaxy"]["sigma"], fixed.stderr["galaxy"]["sigma"], rtol=1e-2)
    assert_allclose(fit.chi2, fixed.chi2, rtol=1e-6)
    assert_allclose(fit.params["galaxy"]["PA"], fixed.params["galaxy"]["PA"], atol=1e-2 * fixed.stderr["galaxy"]["PA"])
    assert_allclose(fit.stderr["galaxy"]["PA"], fixed.stderr["galaxy"]["PA"], rtol=1e-2)
    # and at its highest
    flatter = {**SIMPLE_START, "galaxy": {**SIMPLE_START["galaxy"], "q": 0.4}}
    fit = fit_simple(simple_image(), flatter, bounds={"galaxy": {"q": (0.1, 0.5)}})
    assert_allclose(fit.params["galaxy"]["q"], 0.5, rtol=1e-12)
    assert bool(fit.at_bound["galaxy"]["q"])


def test_bounded_position_angle():
    """A user's bound on PA: it steps alone and is not unwrapped."""
    fit = fit_simple(
        simple_image(),
        {**SIMPLE_START, "galaxy": {**SIMPLE_START["galaxy"], "PA": -2.3}},
        bounds={"galaxy": {"PA": (-3.0, -2.0)}},
    )
    assert fit.status == lm.CONVERGED
    assert_allclose(fit.params["galaxy"]["PA"], 0.7 - np.pi, atol=4 * float(fit.stderr["galaxy"]["PA"]))


def test_bounds_of_a_vector():
    bounds = {"galaxy": {"center": (np.array([0.0, 0.0]), np.array([9.0, 19.0]))}}
    fit = fit_simple(simple_image(), bounds=bounds)
    assert fit.status == lm.CONVERGED
    assert list(np.asarray(fit.at_bound["galaxy"]["center"])) == [True, False]
    assert_allclose(fit.params["galaxy"]["center"][0], 9.0)
    assert jp.status_message(fit) == "converged; at a bound: galaxy.center[0]"
    assert not np.any(flat(fit.undetermined))
    assert np.isnan(fit.stderr["galaxy"]["center"][0])
    assert np.isfinite(fit.stderr["galaxy"]["center"][1])


def test_a_round_galaxy_has_finite_errors():
    """At q → 1 the errors of q and PA stay finite, no bound fires, and a flag says that PA means nothing."""
    truth = {**SIMPLE_TRUTH, "galaxy": {**SIMPLE_TRUTH["galaxy"], "q": 1.0}}
    for seed in range(3):
        fit = fit_simple(observe(SIMPLE, truth, seed))
        assert fit.status == lm.CONVERGED
        assert not np.any(flat(fit.at_bound))
        assert np.all(np.isfinite(flat(fit.stderr)))
        assert 0 < float(fit.stderr["galaxy"]["PA"]) <= np.pi / np.sqrt(12) * (1 + 1e-6)
        assert 0.7 < float(fit.params["galaxy"]["q"]) <= 1
        assert (1 - float(fit.params["galaxy"]["q"])) < 4 * float(fit.stderr["galaxy"]["q"])
    exact = jp.make_image(jp.render(SIMPLE, truth, simple_image(), QUAD), std=0.4)
    fit = fit_simple(exact)
    assert bool(fit.round)
    assert np.all(np.isfinite(flat(fit.stderr)))
    assert_allclose(fit.stderr["galaxy"]["PA"], np.pi / np.sqrt(12), rtol=1e-3)
    started_round = fit_simple(simple_image(), {**SIMPLE_START, "galaxy": {**SIMPLE_START["galaxy"], "q": 1.0}})
    assert_close(started_round, fit_simple(simple_image()), errors=3e-3)
    assert not bool(started_round.round)


# --- pixels that do not count ---------------------------------------------------------------------------------------


def test_window_is_a_crop():
    window = (2, 18, 1, 15)
    image = simple_image()
    fit = fit_simple(image, window=window)
    assert int(fit.dof) == 16 * 14 - 7
    assert_same(fit, fit_simple(jp.crop(image, window)))
    assert fit.status == lm.CONVERGED
    assert np.max(np.abs(pulls(fit, SIMPLE_TRUTH))) < 4


def test_masked_and_nan_pixels_have_no_influence():
    rng = np.random.default_rng(8)
    data = np.array(simple_image().data)
    mask = rng.random(SHAPE) < 0.2
    reference = fit_simple(jp.make_image(data, std=0.4, mask=mask))
    assert int(reference.dof) == (~mask).sum() - 7
    for garbage in (0.0, 1e30, -1e30, np.nan, np.inf):
        data[mask] = garbage
        assert_same(reference, fit_simple(jp.make_image(data, std=0.4, mask=mask)))
    data[mask] = np.nan
    assert_same(reference, fit_simple(jp.make_image(data, std=0.4)))
    std = np.where(mask, np.nan, 0.4)
    assert_same(reference, fit_simple(jp.make_image(data, std=std)))
    image = jp.make_image(np.where(mask, 5.0, data), ivar=np.where(mask, 0.0, 0.4**-2))
    assert_close(reference, fit_simple(image), rtol=1e-10)
    # NaN that gets into a leaf by other ways counts as masked too
    image = replace(simple_image(), ivar=jnp.where(mask, jnp.nan, simple_image().ivar))
    assert_same(reference, fit_simple(image))


# --- statistics -----------------------------------------------------------------------------------------------------


def test_scale_covariance():
    image = simple_image()
    loud = replace(image, ivar=image.ivar * 9)  # errors said to be three times too small
    plain, scaled = fit_simple(loud), fit_simple(loud, scale_covariance=True)
    factor = float(plain.chi2) / int(plain.dof)
    assert 7 < factor < 11
    size, difference = flat(scaled.stderr), scaled.covariance - factor * plain.covariance
    assert np.all(np.abs(difference) <= 1e-10 * np.outer(size, size))
    assert_allclose(flat(scaled.stderr), np.sqrt(factor) * flat(plain.stderr), rtol=1e-10)
    assert_same(scaled.params, plain.params)


def test_poisson():
    truth = {**SIMPLE_TRUTH, "galaxy": {**SIMPLE_TRUTH["galaxy"], "flux": 900.0}}
    gain = 2.0
    clean = np.asarray(jp.render(SIMPLE, truth, simple_image(), QUAD))
    counts = np.random.default_rng(4).poisson(clean * gain, size=(20, *SHAPE))
    images = jp.stack_images([jp.make_image(c / gain, std=1.0, gain=gain) for c in counts])
    fits = jp.fit_batch(SIMPLE, SIMPLE_START, images, sampling=QUAD, likelihood=jp.likelihood.poisson(), progress=False)
    assert np.all(fits.status == lm.CONVERGED)
    assert_allclose(fits.dof, 360 - 7)
    assert (
        abs(np.mean(np.asarray(fits.chi2) / np.asarray(fits.dof)) - 1) < 0.15
    )  # the deviance, in counts of 3 and more
    for name, truth_value in names_and_values(truth).items():
        branch, leaf = name.split(".")
        error = np.asarray(fits.stderr[branch][leaf])
        pull = (np.asarray(fits.params[branch][leaf]) - truth_value) / error
        assert np.all(np.abs(pull.mean(0)) < 4 / np.sqrt(20)), name
        assert np.all(np.abs(pull.std(0) - 1) < 4 / np.sqrt(40)), name
    single = jp.fit(
        SIMPLE, SIMPLE_START, jp.unstack_images(images)[3], sampling=QUAD, likelihood=jp.likelihood.poisson()
    )
    assert_allclose(flat(single.params), flat(jax.tree.map(lambda leaf: leaf[3], fits.params)), rtol=1e-4)


def test_student_t_shrugs_off_outliers():
    data = np.array(simple_image().data)
    rng = np.random.default_rng(6)
    hit = rng.random(SHAPE) < 0.05
    data[hit] += 20.0
    image = jp.make_image(data, std=0.4)
    robust = fit_simple(image, likelihood=jp.likelihood.student_t(3))
    plain = fit_simple(image)
    assert robust.status == lm.CONVERGED
    assert np.max(np.abs(pulls(robust, SIMPLE_TRUTH))) < 5
    assert np.max(np.abs(pulls(plain, SIMPLE_TRUTH))) > 10
    # with many degrees of freedom it is the Gaussian
    wide = fit_simple(simple_image(), likelihood=jp.likelihood.student_t(1e7))
    assert_close(wide, fit_simple(simple_image()), rtol=1e-5, errors=3e-3)


def test_log_likelihood_is_scipys():
    from scipy import stats

    image = replace(simple_image(), gain=jnp.asarray(2.0))
    value = np.asarray(jp.render(SIMPLE, SIMPLE_TRUTH, image, QUAD))
    data = np.asarray(image.data)
    got = jp.log_likelihood(SIMPLE, SIMPLE_TRUTH, image, sampling=QUAD)
    assert_allclose(got, stats.norm.logpdf(data, value, 0.4).sum(), rtol=1e-12)
    got = jp.log_likelihood(SIMPLE, SIMPLE_TRUTH, image, jp.likelihood.student_t(3), QUAD)
    assert_allclose(got, stats.t.logpdf(data, 3, value, 0.4).sum(), rtol=1e-12)
    counted = replace(image, data=jnp.round(image.data * 2) / 2)
    counts = np.asarray(counted.data) * 2
    assert counts.min() >= 0
    got = jp.log_likelihood(SIMPLE, SIMPLE_TRUTH, counted, jp.likelihood.poisson(), QUAD)
    assert_allclose(got, stats.poisson.logpmf(counts, value * 2).sum(), rtol=1e-10)


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_of_undetermined_parameters():
    """Two flat skies: their sum is known, neither is."""
    model = jp.scene(galaxy=jp.models.gaussian, sky=jp.models.flat_sky, veil=jp.models.flat_sky)
    start = {**SIMPLE_START, "veil": {"I0": 0.0}}
    fit = jp.fit(model, start, simple_image(), sampling=QUAD)
    assert fit.status == lm.SINGULAR
    assert "singular" in jp.status_message(fit.status)
    assert jp.status_message(fit).endswith("not determined: sky.I0, veil.I0")
    assert [name for name, value in names_and_values(fit.undetermined).items() if np.any(value)] == [
        "sky.I0",
        "veil.I0",
    ]
    assert np.isnan(fit.stderr["sky"]["I0"])
    assert np.isnan(fit.stderr["veil"]["I0"])
    assert np.all(np.isfinite(flat(fit.stderr["galaxy"])))
    reference = fit_simple(simple_image())
    total = fit.params["sky"]["I0"] + fit.params["veil"]["I0"]
    assert_allclose(total, reference.params["sky"]["I0"], atol=1e-2 * float(reference.stderr["sky"]["I0"]))
    assert_allclose(flat(fit.stderr["galaxy"]), flat(reference.stderr["galaxy"]), rtol=1e-2)


def test_status_of_max_steps():
    fit = fit_simple(simple_image(), max_steps=1)
    assert fit.status == lm.MAX_STEPS
    assert int(fit.steps) == 1
    assert "max_steps" in jp.status_message(fit.status)
    assert jp.status_message(np.array([0, 1])) == ["converged", jp.status_message(1)]


def test_status_without_data_and_with_a_nan_start():
    image = simple_image()
    compiled = jax.jit(lambda start, image: fit_simple(image, start))
    empty = compiled(SIMPLE_START, replace(image, ivar=jnp.zeros_like(image.ivar)))
    assert empty.status == lm.NO_DATA
    assert_allclose(empty.params["galaxy"]["center"], SIMPLE_START["galaxy"]["center"])
    assert np.all(np.isnan(flat(empty.stderr)))
    lost = {**SIMPLE_START, "sky": {"I0": np.nan}}
    fit = compiled(lost, image)
    assert fit.status == lm.NON_FINITE
    assert np.all(np.isnan(flat(fit.stderr)))
    assert compiled(SIMPLE_START, image).status == lm.CONVERGED


# --- compilation ----------------------------------------------------------------------------------------------------


def test_nothing_retraces():
    """A notebook cell run again builds its model and image anew; only a new function compiles."""
    traces = []

    def counted(r, *, width, I0):
        traces.append(1)
        return I0 * jnp.exp(-0.5 * (r / width) ** 2)

    def cell(seed, width, bounds, seed_of_image=1):
        model = jp.scene(galaxy=jp.radial(counted), sky=jp.background(jp.models.skies.flat_sky))
        start = {
            "galaxy": {"center": [9.0, 9.0], "q": 0.7, "PA": 0.4, "width": width, "I0": 5.0},
            "sky": {"I0": 0.0},
        }
        image = observe(SIMPLE, SIMPLE_TRUTH, seed)
        options = {"sampling": jp.sampling.quad(2), "likelihood": jp.likelihood.gaussian()}
        fit = jp.fit(model, start, image, fixed={"sky": {"I0": seed}}, bounds=bounds, **options)
        jp.fit_batch(model, start, jp.stack_images([image] * 3), progress=False, **options)
        jp.render(model, start, image, QUAD)
        return fit

    assert cell(1, 2.0, {"galaxy": {"q": (0.1, 1.0)}}).status == lm.CONVERGED
    first = len(traces)
    assert first > 0
    cell(2, 2.5, {"galaxy": {"q": (0.2, 0.9)}})
    cell(3, np.float32(2.5), {"galaxy": {"q": [0.2, 0.9]}})
    assert len(traces) == first


def test_value_and_derivatives_cost_few_traces():
    """The model is traced once for the value and its derivatives together, not once for each."""
    traces = []

    def counted(params, x, y):
        traces.append(1)
        return params["a"] * jnp.exp(-((x - params["x"]) ** 2 + (y - 9.0) ** 2) / 8)

    fit = jp.fit(counted, {"a": 1.0, "x": 8.0}, simple_image(), sampling=jp.sampling.midpoint())
    assert fit.names == ("a", "x")
    assert len(traces) <= 2


# --- lanes ----------------------------------------------------------------------------------------------------------


def test_vmap_is_a_loop_and_a_bad_lane_touches_nobody():
    """Neighbours are bit-identical to a run with good pixels, or a good start, in the bad one's place."""
    images = jp.stack_images([observe(SIMPLE, SIMPLE_TRUTH, seed) for seed in range(4)])
    starts = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * 4), SIMPLE_START)
    mapped = jax.jit(jax.vmap(lambda start, image: fit_simple(image, start)))
    lanes = mapped(starts, images)
    assert lanes.names == fit_simple(simple_image()).names
    assert np.all(lanes.status == lm.CONVERGED)
    for k, image in enumerate(jp.unstack_images(images)):
        alone = fit_simple(image)
        assert_close(jax.tree.map(lambda leaf, k=k: leaf[k], lanes), alone, rtol=1e-9)
        assert int(lanes.steps[k]) == int(alone.steps)
    others = np.array([0, 1, 3])
    lost = jax.tree.map(np.copy, starts)
    lost["galaxy"]["sigma"][2] = np.nan
    for status, start, image in (
        (lm.NO_DATA, starts, replace(images, data=images.data.at[2].set(jnp.nan))),
        (lm.NO_DATA, starts, replace(images, ivar=images.ivar.at[2].set(0.0))),
        (lm.NON_FINITE, lost, images),
    ):
        bad = mapped(start, image)
        assert int(bad.status[2]) == status
        assert np.all(np.isnan(flat(jax.tree.map(lambda leaf: leaf[2], bad.stderr))))
        assert np.all(flat(jax.tree.map(lambda leaf: leaf[2], bad.undetermined)))
        assert_same(lanes, bad, others)


# --- the statistics of 300 ------------------------------------------------------------------------------------------


@pytest.mark.full
def test_pulls_of_300_noisy_sersics():
    """64×64, PSF, sky, S/N 30 to 1000, crude starts: errors are what the scatter says. Seed: the first, 1."""
    rng = np.random.default_rng(1)
    count, shape = 300, (64, 64)
    r2 = np.add.outer(np.arange(-12, 13) ** 2, np.arange(-12, 13) ** 2)
    psf = jp.make_psf((1 + r2 / 1.8**2) ** -3.0)
    truth = {
        "galaxy": {
            "center": 31.5 + rng.uniform(-2, 2, (count, 2)),
            "q": rng.uniform(0.2, 0.9, count),
            "PA": rng.uniform(0, np.pi, count),
            "n": rng.uniform(0.7, 4.5, count),
            "Re": rng.uniform(2.5, 7.0, count),
            "Ie": np.ones(count),
        },
        "sky": {"I0": np.ones(count)},
    }
    # a fixed rule has a node that a cusp likes to sit on, where χ² has an edge: quad(3) leaves 3 of 300 creeping
    sampling = jp.sampling.adaptive()
    blank = jp.make_image(np.zeros(shape), std=1.0, psf=psf)
    shapes = jax.jit(jax.vmap(lambda p: jp.render(jp.models.sersic, p, blank, sampling)))(truth["galaxy"])
    wanted = 10 ** rng.uniform(np.log10(30), 3, count)
    std = 2.0
    truth["galaxy"]["Ie"] = wanted * std / np.sqrt(np.sum(np.asarray(shapes) ** 2, axis=(1, 2)))
    clean = np.asarray(shapes) * truth["galaxy"]["Ie"][:, None, None] + truth["sky"]["I0"][:, None, None]
    data = clean + std * rng.normal(size=clean.shape)
    images = jp.stack_images([jp.make_image(d, std=std, psf=psf) for d in data])
    starts = {
        "galaxy": {
            "center": truth["galaxy"]["center"] + rng.uniform(-1.5, 1.5, (count, 2)),
            "q": np.full(count, 0.7),
            "PA": rng.uniform(0, np.pi, count),
            "n": np.full(count, 1.5),
            "Re": truth["galaxy"]["Re"] * rng.uniform(0.5, 2.0, count),
            "Ie": truth["galaxy"]["Ie"] * rng.uniform(0.3, 3.0, count),
        },
        "sky": {"I0": np.zeros(count)},
    }
    fits = jp.fit_batch(GALAXY, starts, images, sampling=sampling, chunk=100, progress=False)
    assert np.all(fits.status == lm.CONVERGED)
    assert np.max(fits.steps) < 40
    bounded = np.any(np.stack([np.any(leaf.reshape(count, -1), 1) for leaf in jax.tree.leaves(fits.at_bound)]), 0)
    used = (wanted >= 100) & ~bounded
    assert used.sum() > 150
    for name, truth_value in names_and_values(truth).items():
        branch, leaf = name.split(".")
        difference = np.asarray(fits.params[branch][leaf]) - truth_value
        if leaf == "PA":
            difference = (difference + np.pi / 2) % np.pi - np.pi / 2
        pull = (difference / np.asarray(fits.stderr[branch][leaf]))[used].reshape(used.sum(), -1)
        for column in pull.T:
            n = len(column)
            assert abs(column.mean()) <= 4 / np.sqrt(n), (name, column.mean(), column.std())
            assert abs(column.std() - 1) <= 4 / np.sqrt(2 * n), (name, column.mean(), column.std())
    reduced = (np.asarray(fits.chi2) / np.asarray(fits.dof))[used]
    assert abs(reduced.mean() - 1) < 4 * np.sqrt(2 / (64 * 64 * used.sum()))
