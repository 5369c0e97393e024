"""Levenberg–Marquardt on problems that have nothing to do with images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import least_squares

from jaxphot.fitting import lm
from jaxphot.fitting.equations import normal_equations
from jaxphot.likelihood import Terms

INF = jnp.inf


def rosenbrock(p):
    return jnp.stack([10 * (p["y"] - p["x"] ** 2), 1 - p["x"]])


def line(p, t):
    return p["a"] + p["b"] * t


T = np.linspace(0, 3, 30)
Y = 1.3 - 0.7 * T + 0.1 * np.random.default_rng(3).normal(size=30)


def line_residual(p):
    return (line(p, T) - Y) / 0.1


def exponential_residual(p):
    """Data of a decay, well determined; p is the vector (amplitude, rate)."""
    return 50 * (p[0] * jnp.exp(-p[1] * T) - 2 * np.exp(-0.8 * T) - 0.01 * np.cos(40 * T))


def box(lower, upper):
    return lm.Box(jnp.asarray(lower, float), jnp.asarray(upper, float))


@functools.lru_cache
def compiled(function, **options):
    return jax.jit(functools.partial(lm.run, function, **options))


def test_rosenbrock():
    state = compiled(rosenbrock, rtol=1e-8)({"x": -1.2, "y": 1.0})
    assert state.status == lm.CONVERGED
    assert_allclose([state.params["x"], state.params["y"]], 1.0, atol=1e-7)
    assert state.loss < 1e-14
    assert int(state.steps) < 50
    assert int(state.evaluations) == int(state.steps) + 1


def test_linear_problem_takes_one_step():
    """Undamped, a step lands on the solution; with damping, it takes a few."""
    design = np.stack([np.ones_like(T), T], axis=1) / 0.1
    exact = np.linalg.lstsq(design, Y / 0.1, rcond=None)[0]
    start = {"a": jnp.asarray(5.0), "b": jnp.asarray(5.0)}

    @jax.jit
    def two_calls(state):
        return lm.step(line_residual, lm.step(line_residual, state))

    state = two_calls(lm.init(start)._replace(damping=jnp.asarray(0.0)))
    assert_allclose([state.params["a"], state.params["b"]], exact, rtol=1e-12)
    assert int(state.steps) == 1
    assert state.status == lm.CONVERGED
    state = compiled(line_residual)(start)
    assert state.status == lm.CONVERGED
    assert int(state.steps) <= 6
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    assert np.all(np.abs(np.array([state.params["a"], state.params["b"]]) - exact) < 2e-3 * errors)
    residual = design @ exact - Y / 0.1
    assert_allclose(2 * state.loss, residual @ residual, rtol=1e-6)


def test_hessian_and_gradient_are_numpys():
    """H = JᵀWJ with J by finite differences; its inverse is the covariance."""
    state = compiled(exponential_residual, rtol=1e-6)(jnp.asarray([1.0, 1.0]))
    p = np.asarray(state.params)
    steps = 1e-6 * np.eye(2)
    J = np.stack([np.asarray(exponential_residual(p + s) - exponential_residual(p - s)) / 2e-6 for s in steps], axis=1)
    assert_allclose(state.hessian, J.T @ J, rtol=1e-6)
    errors = np.sqrt(np.diag(J.T @ J))
    assert_allclose(state.gradient / errors, J.T @ np.asarray(exponential_residual(p)) / errors, atol=1e-4)
    delta = lm.solve_scaled(state.hessian, jnp.asarray([1.0, 0.0]), 0.0, jnp.zeros(2, bool))
    assert_allclose(delta, np.linalg.inv(J.T @ J)[:, 0], rtol=1e-5)


@pytest.mark.parametrize("count", [50, 3 * 4096, 3 * 4096 + 17])
def test_normal_equations_of_many_values(count):
    """More than are contracted at once, also a number that is no multiple of it."""
    rng = np.random.default_rng(4)
    matrix, data = rng.normal(size=(count, 3)), rng.normal(size=count)
    weights = rng.uniform(size=count) * (rng.uniform(size=count) > 0.1)

    def loss(value):
        return Terms(0.5 * weights * (value - data) ** 2, weights * (value - data), jnp.asarray(weights))

    z = jnp.asarray([0.3, -1.0, 2.0])
    new = jax.jit(lambda z: normal_equations(lambda z: jnp.asarray(matrix) @ z, z, loss))(z)
    assert_allclose(new.gradient, matrix.T @ (weights * (matrix @ z - data)), rtol=1e-11)
    assert_allclose(new.hessian, matrix.T @ (weights[:, None] * matrix), rtol=1e-12, atol=1e-9)
    change = jax.jit(jax.jacfwd(lambda z: normal_equations(lambda z: jnp.asarray(matrix) @ z, z, loss).gradient))(z)
    assert_allclose(change, new.hessian, rtol=1e-12, atol=1e-9)


def test_agrees_with_scipy():
    ours = compiled(exponential_residual, rtol=1e-6)(jnp.asarray([1.0, 1.0]))
    theirs = least_squares(lambda p: np.asarray(exponential_residual(p)), [1.0, 1.0], xtol=1e-12, ftol=1e-12)
    assert_allclose(ours.params, theirs.x, rtol=1e-6)
    assert_allclose(ours.loss, theirs.cost, rtol=1e-9)


# --- bounds ---------------------------------------------------------------------------------------------------------


def bounded(p, lower, upper):
    return lm.run(exponential_residual, p, domain=lm.Box(lower, upper), rtol=1e-6)


bounded = jax.jit(bounded)


@pytest.mark.parametrize(
    ("start", "lower", "upper", "held"),
    [
        ([1.0, 1.0], [-9, -9], [9, 9], [False, False]),
        ([1.0, 1.0], [-9, -9], [1.5, 9], [True, False]),  # the solution lies beyond a bound
        ([1.5, 1.0], [-9, -9], [1.5, 9], [True, False]),  # and the start on it
        ([2.2, 1.6], [-9, 1.5], [2.3, 9], [True, True]),  # a corner
        ([1.5, 0.3], [1.5, 0.3], [9, 9], [False, False]),  # starts at bounds that it must leave
        ([9.0, 9.0], [-9, -9], [9, 9], [False, False]),
    ],
)
def test_bounds(start, lower, upper, held):
    state = bounded(*(jnp.asarray(v, float) for v in (start, lower, upper)))
    theirs = least_squares(
        lambda p: np.asarray(exponential_residual(p)),
        np.clip(start, np.add(lower, 1e-3), np.subtract(upper, 1e-3)),
        bounds=(lower, upper),
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
    )
    assert state.status == lm.CONVERGED
    assert list(np.asarray(state.held)) == held
    assert np.all(np.asarray(state.params) >= lower)
    assert np.all(np.asarray(state.params) <= upper)
    assert_allclose(state.params, theirs.x, rtol=1e-4)
    assert 2 * state.loss <= 2 * theirs.cost * (1 + 1e-6)
    at_bound = np.where(np.isclose(state.params, lower), lower, upper)
    assert_allclose(np.asarray(state.params)[held], at_bound[held], rtol=1e-15)


# --- trouble --------------------------------------------------------------------------------------------------------


def test_parameter_without_influence():
    """Its row of the matrix is empty: it stays where it is and the others are solved."""
    state = jax.jit(lambda p: lm.run(lambda p: line_residual(p) + 0 * p["idle"], p))({"a": 0.0, "b": 0.0, "idle": 7.0})
    assert state.status == lm.CONVERGED
    assert float(state.params["idle"]) == 7.0
    assert_allclose(state.params["b"], -0.7, atol=0.1)


def test_two_parameters_that_do_the_same():
    state = jax.jit(lambda p: lm.run(lambda p: line_residual({"a": p["a1"] + p["a2"], "b": p["b"]}), p))(
        {"a1": 0.0, "a2": 5.0, "b": 0.0}
    )
    assert state.status == lm.CONVERGED
    alone = compiled(line_residual)({"a": 0.0, "b": 0.0})
    assert_allclose(state.params["a1"] + state.params["a2"], alone.params["a"], atol=1e-3)
    assert_allclose(state.loss, alone.loss, rtol=1e-5)
    eigenvalues = np.linalg.eigvalsh(state.hessian)
    assert eigenvalues[0] < 1e-12 * eigenvalues[-1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_start(bad):
    state = compiled(rosenbrock, rtol=1e-8)({"x": bad, "y": 1.0})
    assert state.status == lm.NON_FINITE
    assert int(state.steps) == 0


def test_no_data():
    def nothing(value):
        return Terms(0 * value, 0 * value, 0 * value)

    state = jax.jit(lambda p: lm.run(line_residual, p, loss=nothing))({"a": 1.0, "b": 2.0})
    assert state.status == lm.NO_DATA
    assert (float(state.params["a"]), float(state.params["b"])) == (1.0, 2.0)


def test_a_region_of_nan_is_avoided():
    """log of a negative number on the way: such trials are refused, with a shorter step next."""

    def residual(p):
        return jnp.stack([5 * (jnp.log(p) - np.log(1e-3)), 0.1 * p, 1.0 + 0 * p])

    state = jax.jit(lambda p: lm.run(residual, p, rtol=1e-6))(3.0)
    assert state.status == lm.CONVERGED
    assert_allclose(state.params, 1e-3, rtol=1e-5)


def test_max_steps():
    state = compiled(rosenbrock, rtol=1e-8, max_steps=3)({"x": -1.2, "y": 1.0})
    assert state.status == lm.MAX_STEPS
    assert int(state.steps) == 3
    assert state.loss < 0.5 * float(np.sum(np.square(rosenbrock({"x": -1.2, "y": 1.0}))))


def test_done_states_do_not_move():
    state = compiled(rosenbrock, rtol=1e-8)({"x": -1.2, "y": 1.0})
    again = jax.jit(lambda s: lm.step(rosenbrock, s))(state)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert_allclose(a, b, rtol=0, atol=0)


# --- pytrees, lanes, dtypes -----------------------------------------------------------------------------------------


def test_any_pytree_and_any_shape_of_values():
    def residual(p):
        outer, (inner, scale) = p
        return (outer["m"] @ jnp.asarray([[1.0, 2.0], [3.0, 5.0]]) - inner[:, None]) * scale

    start = ({"m": jnp.ones((2, 2))}, (jnp.zeros(2), jnp.ones(())))
    state = jax.jit(lambda p: lm.run(residual, p, max_steps=50))(start)
    assert jax.tree.structure(state.params) == jax.tree.structure(start)
    assert state.params[0]["m"].shape == (2, 2)
    assert state.loss < 1e-8


def test_vmap_is_a_loop():
    starts = jnp.asarray([[1.0, 1.0], [3.0, 0.1], [0.5, 3.0], [jnp.nan, 1.0], [2.0, 0.8]])
    lower, upper = jnp.asarray([-9.0, -9.0]), jnp.asarray([9.0, 9.0])
    lanes = jax.jit(jax.vmap(bounded, in_axes=(0, None, None)))(starts, lower, upper)
    assert list(np.asarray(lanes.status)) == [0, 0, 0, lm.NON_FINITE, 0]
    for k, start in enumerate(starts):
        alone = bounded(start, lower, upper)
        assert int(lanes.steps[k]) == int(alone.steps)
        assert_allclose(lanes.params[k], alone.params, rtol=1e-9)
        assert_allclose(lanes.loss[k], alone.loss, rtol=1e-9)
    # a bad lane does not touch its neighbours
    good = jax.jit(jax.vmap(bounded, in_axes=(0, None, None)))(starts.at[3].set([1.1, 1.1]), lower, upper)
    keep = np.array([0, 1, 2, 4])
    for a, b in zip(jax.tree.leaves(lanes), jax.tree.leaves(good), strict=True):
        assert np.array_equal(np.asarray(a)[keep], np.asarray(b)[keep])


def test_float32():
    def residual(p):
        t = T.astype(np.float32)
        data = (2 * np.exp(-0.8 * T) + 0.01 * np.cos(40 * T)).astype(np.float32)
        return 50 * (p[0] * jnp.exp(-p[1] * t) - data)

    state = jax.jit(functools.partial(lm.run, residual))(jnp.asarray([1.0, 1.0], np.float32))
    assert state.status == lm.CONVERGED
    assert state.params.dtype == state.hessian.dtype == np.float32
    double = compiled(exponential_residual, rtol=1e-6)(jnp.asarray([1.0, 1.0]))
    errors = np.sqrt(np.diag(np.linalg.inv(double.hessian)))
    assert np.all(np.abs(np.asarray(state.params) - np.asarray(double.params)) < 3e-3 * errors)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_perfect_data(dtype):
    """No residual is left at the solution, so nothing sets a scale but rounding."""
    t = T.astype(dtype)
    data = 2 * np.exp(-dtype(0.8) * t)
    state = jax.jit(functools.partial(lm.run, lambda p: 50 * (p[0] * jnp.exp(-p[1] * t) - data)))(
        jnp.asarray([1.0, 1.0], dtype)
    )
    assert_allclose(state.params, [2.0, 0.8], rtol=20 * np.finfo(dtype).eps)
    assert state.status == lm.CONVERGED
    assert int(state.steps) < 30


def test_differentiable_in_forward_mode():
    """How the solution moves with the data: for a linear problem, exactly the pseudo-inverse."""

    def fitted(shift):
        state = lm.init({"a": jnp.asarray(0.0), "b": jnp.asarray(0.0)})._replace(damping=jnp.asarray(0.0))
        for _ in range(2):
            state = lm.step(lambda p: line_residual(p) - shift / 0.1, state)
        return state.params["a"]

    assert_allclose(jax.jit(jax.jacfwd(fitted))(0.0), 1.0, rtol=1e-9)
