"""Fits by any optimiser of optax: for losses with many parameters, or to compare."""

from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxphot.fitting import lm
from jaxphot.fitting.bijections import Unbounded
from jaxphot.fitting.multistart import scales
from jaxphot.fitting.penalty import penalty
from jaxphot.fitting.problem import check_number, make_problem
from jaxphot.fitting.result import unpack
from jaxphot.fitting.solve import complete_options, solution_change
from jaxphot.fitting.stages import begin, data_terms, describe_end, domain_of, evaluation_of

_NEAR = 1e-3  # of an interval: as close to a bound is at it
_LBFGS = optax.lbfgs()  # one object: another would compile again


class _State(NamedTuple):
    u: jax.Array
    optimizer: object
    loss: jax.Array
    best_u: jax.Array
    best: jax.Array
    since: jax.Array
    steps: jax.Array
    history: jax.Array


def fit_optax(model, params, image, optimizer=None, steps=500, *, tolerance=1e-3, patience=20, **options):
    """Fit a model to an image with an optimiser of optax.

    It steps in the coordinates of `fit` (logarithms, shears), in units of what crude starts are wrong by, with bounds
    by smooth bijections: a learning rate of 0.05 moves a logarithm by 0.02. Levenberg–Marquardt (`fit`) takes
    far fewer steps for a few parameters; this one needs no (P, P) matrix to step, and takes any loss.

    Parameters
    ----------
    model : model
    params : dict
        Where to start.
    image : Image
    optimizer : optax.GradientTransformation, optional
        ``optax.lbfgs()`` by default. A new object compiles anew.
    steps : int
        At most (static).
    tolerance : float
        Stop where the loss (half of χ²) fell by less than this during the last `patience` steps.
    patience : int
    **options
        `fixed`, `bounds`, `window`, `likelihood`, `sampling`, `priors`, `scale_covariance` as in `fit`.

    Returns
    -------
    fit : Fit
        The best point, with the Gauss–Newton covariance there. Its status is `converged` if it stopped early and a
        Newton step would lower the loss by no more than 10 times the tolerance, `stalled` if it stopped elsewhere.
    history : (steps,) array
        Loss (with priors) before each step; NaN after the last.

    Derivatives of the result are those of `fit`, by the implicit function theorem: they take the end for the minimum,
    and the history for constant.

    Raises
    ------
    TypeError, ValueError
        Bad concrete input.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.full((8, 8), 3.0), std=1.0)
    >>> result, history = fit_optax(jp.models.flat_sky, {"I0": 1.0}, image)
    >>> round(float(result.params["I0"]), 3)
    3.0
    """
    optimizer = _LBFGS if optimizer is None else optimizer
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer: expected one of optax, such as optax.adam(0.05), got {type(optimizer).__name__}")
    check_number("tolerance", tolerance, 0)
    for name, value in (("steps", steps), ("patience", patience)):
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name}: expected an integer ≥ 1, got {value!r}")
    for name in ("max_steps", "rtol"):
        if name in options:
            raise TypeError(f"fit_optax: {name} is an option of fit; use steps and tolerance")
    setup, lane = make_problem(model, params, image, **complete_options("fit_optax", options))
    if setup.coordinates.size == 0:
        raise ValueError("fixed: expected at least one free parameter")
    tolerance = jnp.asarray(tolerance, lane.dtype)
    outcome, history = _differentiable(setup, optimizer, int(steps), lane, tolerance, patience)
    return unpack(setup.coordinates, lane.start, outcome), history


@contextmanager
def _as_optax_likes():
    """Optax mixes dtypes and ranks, which a caller may have forbidden."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@partial(jax.jit, static_argnums=(0, 1, 2))
def _solve(setup, optimizer, steps, lane, tolerance, patience):
    coordinates, domain = setup.coordinates, domain_of(setup, lane)
    bounded = Unbounded(domain)
    z = begin(setup, lane).params
    y, unit = bounded.inverse(z), scales(setup, lane, z)
    unit = jnp.where(unit > 0, unit, jnp.maximum(jnp.abs(z), 1))

    def loss(u):
        physical = coordinates.from_internal(bounded.forward(y + unit * u.astype(z.dtype)))  # optax may widen it
        total = data_terms(setup, lane, physical)[0]
        return total + penalty(lane.priors, coordinates, lane.start, physical) if lane.priors else total

    optimizer = optax.with_extra_args_support(optimizer)

    def step(state):
        value, gradient = jax.value_and_grad(loss)(state.u)
        with _as_optax_likes():
            updates, inner = optimizer.update(
                gradient, state.optimizer, state.u, value=value, grad=gradient, value_fn=loss
            )
            moved = optax.apply_updates(state.u, updates)
        better = value < state.best - tolerance
        lower = value < state.best
        return _State(
            u=moved,
            optimizer=inner,
            loss=value,
            best_u=jnp.where(lower, state.u, state.best_u),
            best=jnp.where(lower, value, state.best),
            since=jnp.where(better, 0, state.since + 1),
            steps=state.steps + 1,
            history=state.history.at[state.steps].set(value),
        )

    u = jnp.zeros_like(z)
    count = jnp.zeros((), jnp.int32)
    infinite = jnp.full((), jnp.inf, z.dtype)
    with _as_optax_likes():
        inner = optimizer.init(u)
    state = _State(u, inner, infinite, u, infinite, count, count, jnp.full(steps, jnp.nan, z.dtype))
    state = jax.lax.while_loop(
        lambda s: (s.steps < steps) & (s.since < patience) & ((s.steps == 0) | jnp.isfinite(s.loss)), step, state
    )
    last = loss(state.u)
    state = state._replace(best_u=jnp.where(last < state.best, state.u, state.best_u))
    return _outcome(setup, lane, bounded.forward(y + unit * state.best_u), state, patience, tolerance), state.history


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _differentiable(setup, optimizer, steps, lane, tolerance, patience):
    return _solve(setup, optimizer, steps, lane, tolerance, patience)


@_differentiable.defjvp
def _differentiate(setup, optimizer, steps, primals, tangents):
    outcome, history = _differentiable(setup, optimizer, steps, *primals)
    return (outcome, history), (solution_change(setup, primals[0], tangents[0], outcome), jnp.zeros_like(history))


def _outcome(setup, lane, z, state, patience, tolerance):
    """What `fit` says of an end, of this one."""
    domain, here = domain_of(setup, lane), evaluation_of(setup, lane)(z)
    z = _snapped(z, here.gradient, domain)
    basis = domain.basis(z)
    basis = jnp.eye(z.size, dtype=z.dtype) if basis is None else basis
    gradient = basis.T @ here.gradient
    held = domain.outward(z, gradient)
    newton = lm.solve_scaled(basis.T @ here.hessian @ basis, gradient, 1e-6, held)
    is_minimum = 0.5 * jnp.where(held, 0, gradient) @ newton <= 10 * tolerance
    early = jnp.where(is_minimum, lm.CONVERGED, lm.STALLED)
    status = jnp.where(state.since >= patience, early, lm.MAX_STEPS)
    status = jnp.where(jnp.isfinite(here.loss) & jnp.isfinite(state.loss), status, lm.NON_FINITE)
    status = jnp.where(here.count == 0, lm.NO_DATA, status).astype(jnp.int32)
    end = lm.init(z)._replace(
        loss=here.loss,
        gradient=here.gradient,
        hessian=here.hessian,
        held=held,
        status=status,
        steps=state.steps,
        evaluations=state.steps,
    )
    return describe_end(setup, lane, end)


def _snapped(z, gradient, domain):
    """What a bijection keeps from its bound, and descent would take across it, put on the bound."""
    near = _NEAR * (domain.upper - domain.lower)
    near = jnp.where(jnp.isfinite(near), near, 0)
    z = jnp.where((z - domain.lower < near) & (gradient > 0), domain.lower, z)
    return jnp.where((domain.upper - z < near) & (gradient < 0), domain.upper, z)
