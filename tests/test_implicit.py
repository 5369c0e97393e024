"""Derivatives of a fit are those of its solution: against finite differences of the whole fit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from simple import BLANK, MODEL, QUAD, START, TRUTH

import jaxphot as jp

PSF = np.exp(-0.5 * np.add.outer(np.arange(-4, 5) ** 2, np.arange(-4, 5) ** 2) / 1.1**2)
IMAGE = replace(BLANK, psf=jp.make_psf(PSF))
IMAGE = jp.simulate(MODEL, TRUTH, IMAGE, jax.random.key(5), sampling=QUAD)
PLAIN = jp.simulate(MODEL, TRUTH, BLANK, jax.random.key(5), sampling=QUAD)
RNG = np.random.default_rng(8)
IN_DATA = jnp.asarray(RNG.normal(size=IMAGE.shape))
IN_PSF = jnp.asarray(RNG.normal(size=PSF.shape)) * IMAGE.psf.data
IN_CD = jnp.asarray(RNG.normal(size=(2, 2)))


def outcome(step, likelihood=None):
    """Parameters, errors and χ² of a fit where data, weights, PSF and transform have moved."""
    image = replace(
        IMAGE,
        data=IMAGE.data + step["data"] * IN_DATA,
        ivar=IMAGE.ivar * (1 + step["ivar"] * jnp.sin(IN_DATA)),
        psf=replace(IMAGE.psf, data=IMAGE.psf.data + step["psf"] * IN_PSF),
        transform=replace(IMAGE.transform, cd=IMAGE.transform.cd + step["cd"] * IN_CD),
    )
    fixed = {"sky": {"I0": 1.5 + step["fixed"]}}
    fit = jp.fit(MODEL, START, image, sampling=QUAD, rtol=1e-10, fixed=fixed, likelihood=likelihood)
    return {"params": fit.params["galaxy"], "stderr": fit.stderr["galaxy"], "chi2": fit.chi2}


STILL = {name: jnp.zeros(()) for name in ("data", "ivar", "psf", "cd", "fixed")}


def differences(function, h=2e-4):
    """Fourth-order finite differences with respect to every step."""
    run = jax.jit(function)
    columns = {}
    for name in STILL:
        at = lambda x, name=name: run({**STILL, name: jnp.asarray(x)})  # noqa: E731
        columns[name] = jax.tree.map(
            lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * h), at(h), at(-h), at(2 * h), at(-2 * h)
        )
    return columns


def test_jvp_and_grad_of_a_fit_are_exact():
    """To 1e-6 of the largest derivative of each quantity."""
    numbers = differences(outcome)
    basis = {name: {**STILL, name: jnp.ones(())} for name in STILL}
    push = jax.jit(lambda tangent: jax.jvp(outcome, (STILL,), (tangent,))[1])
    for name in STILL:
        got = push(basis[name])
        for key, want in {**numbers[name]["params"], "chi2": numbers[name]["chi2"]}.items():
            value = got["chi2"] if key == "chi2" else got["params"][key]
            assert np.max(np.abs(want)) > 1e-5, (name, key)
            assert_allclose(value, want, rtol=1e-6, atol=1e-6 * np.max(np.abs(want)), err_msg=f"{name} {key}")
        for key, want in numbers[name]["stderr"].items():  # of the Hessian's derivative: third derivatives
            assert_allclose(got["stderr"][key], want, rtol=1e-5, atol=1e-5 * np.max(np.abs(want)) + 5e-9)
    # backwards, under vmap: a row for each output
    pull = jax.jit(jax.vmap(lambda row: jax.vjp(lambda s: outcome(s)["params"], STILL)[1](row)[0]))
    rows = {key: jnp.zeros((2, *value.shape)) for key, value in numbers["data"]["params"].items()}
    rows["sigma"], rows["PA"] = rows["sigma"].at[0].set(1.0), rows["PA"].at[1].set(1.0)
    gradients = pull(rows)
    for name in STILL:
        want = [numbers[name]["params"]["sigma"], numbers[name]["params"]["PA"]]
        assert_allclose(gradients[name], want, rtol=1e-6, atol=1e-6 * np.max(np.abs(want)), err_msg=name)


@pytest.mark.full
@pytest.mark.parametrize(
    "likelihood",
    [jp.likelihood.poisson(), jp.likelihood.student_t(4), jp.likelihood.correlated([[0.2, 1.0, 0.3]])],
    ids=["poisson", "student_t", "correlated"],
)
def test_with_other_likelihoods(likelihood):
    numbers = differences(lambda step: outcome(step, likelihood)["params"])
    error = outcome(STILL, likelihood)["stderr"]  # fits end within 1e-10 of it; differences divide that by 2e-4
    push = jax.jit(lambda tangent: jax.jvp(lambda s: outcome(s, likelihood)["params"], (STILL,), (tangent,))[1])
    for name in STILL:
        if name == "ivar" and isinstance(likelihood, type(jp.likelihood.poisson())):
            continue  # serves as a mask only
        got = push({**STILL, name: jnp.ones(())})
        for key, want in numbers[name].items():
            noise = 3e-6 * max(np.max(np.abs(want)), float(np.max(error[key])))
            assert_allclose(got[key], want, rtol=3e-6, atol=noise, err_msg=f"{name} {key}")


@pytest.mark.full
@pytest.mark.parametrize("bounds", [{"sigma": (0.5, 2.2)}, {"q": (0.7, 0.9)}], ids=["box", "ring"])
def test_at_a_bound(bounds):
    """What is held follows its bound, the others the minimum on it; the ring's own curvature counts."""
    ((name, (low, high)),) = bounds.items()

    def best(step):
        shifted = {name: (low + step["bound"], high + step["bound"])}
        image = replace(PLAIN, data=PLAIN.data + step["data"] * IN_DATA)
        fit = jp.fit(MODEL, {**START, "galaxy": {**START["galaxy"], "sigma": 2.0}}, image,
                     sampling=QUAD, rtol=1e-10, bounds={"galaxy": shifted})  # fmt: skip
        return fit.params, fit.at_bound["galaxy"][name]

    zero = {"bound": jnp.zeros(()), "data": jnp.zeros(())}
    run, h = jax.jit(best), 5e-3  # a fit is exact to 1e-7 standard errors, where its loss no longer changes
    assert bool(run(zero)[1])
    push = jax.jit(lambda tangent: jax.jvp(lambda s: best(s)[0], (zero,), (tangent,))[1])
    for key in zero:
        at = lambda x, key=key: run({**zero, key: jnp.asarray(x)})[0]  # noqa: E731
        want = jax.tree.map(lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * h), at(h), at(-h), at(2 * h), at(-2 * h))
        got = push({**zero, key: jnp.ones(())})
        if key == "bound":
            assert_allclose(got["galaxy"][name], 1, rtol=1e-9)
        for part in want:
            for leaf, number in want[part].items():
                assert_allclose(got[part][leaf], number, rtol=1e-5, atol=1e-6)


def test_a_fit_that_is_not_differentiated_has_nothing_more_to_compile():
    """The rule is traced by whoever asks for derivatives only."""
    plain = jax.make_jaxpr(lambda image: jp.fit(MODEL, START, image, sampling=QUAD).params)(IMAGE)
    inner = [eqn.primitive.name for eqn in plain.eqns]
    assert "custom_jvp_call" in inner
    assert not any("solve" in name or "lu" in name for name in inner)


@pytest.mark.full
def test_a_mean_of_errors_can_be_minimised():
    """Derivatives of errors with respect to exposure: stderr ∝ 1/√exposure for pure noise."""
    clean = replace(IMAGE, data=jp.render(MODEL, TRUTH, IMAGE, QUAD))

    def error(exposure):
        fit = jp.fit(MODEL, TRUTH, replace(clean, ivar=clean.ivar * exposure), sampling=QUAD, rtol=1e-10)
        return fit.stderr["galaxy"]["flux"]

    value, slope = jax.value_and_grad(error)(4.0)
    assert_allclose(slope, -value / 8, rtol=1e-6)
