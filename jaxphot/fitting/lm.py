"""Levenberg–Marquardt for any function of any pytree of parameters: `init`, `step`, `run`.

It knows no images: a `function` gives values, a `loss` says what they cost (by default half their squares). All shapes
are static and nothing raises, so all three work under `jit` and `vmap`; a lane that is done does not move.
"""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxphot.fitting.equations import half_squares, normal_equations
from jaxphot.numerics import diagonal, solve_positive

CONVERGED, MAX_STEPS, STALLED, SINGULAR, NON_FINITE, NO_DATA = range(6)
RUNNING = -1

RTOL = 5e-3
_FIRST_DAMPING = 0.1  # from crude starts 0.5 takes as many steps; from good ones, one more
_FIRST_GROWTH = 8  # of the damping after a rejection; less costs more rejected evaluations in a row
_STRONGEST_SHRINK = 0.1  # of the damping after a good step; more makes curved valleys reject every other one
_LARGEST_DAMPING = 1e12
_FAST = 0.05  # steps that shrink as quickly foretell where the next one leads; the covariance changes by as little
_ROUGHLY = 0.02  # of the loss: where a full step would gain less, the function is no longer evaluated roughly
_MOST_ROUGH = 5  # evaluations
_SLOW = 0.8  # as slow a convergence is believed; damped steps shrink more slowly still
_EDGE = 1e3  # damping at which only steps of a thousandth of Newton's lower the loss: it has an edge there
_WORTH_TAKING = 1e-4  # smallest ratio of actual to predicted decrease that is accepted


class State(NamedTuple):
    """Where a fit is.

    Attributes
    ----------
    params : pytree
        The best point so far.
    loss, gradient, hessian : scalar, (P,), (P, P)
        There; the Hessian is the Fisher matrix JᵀWJ: an array, or what an `evaluate` of one's own returns, with ``@``,
        ``diagonal()`` and ``congruent(basis)``.
    decrement : scalar
        gᵀH⁻¹g over the parameters that are not held: by how much 2·loss would fall in a full step, that is the squared
        distance to the solution in standard errors.
    held : (P,) bool
        Directions (of the domain's basis) at a bound that the gradient would cross.
    rounding : scalar
        Error of the loss in this dtype.
    delta : (P,) array
        The step to try next.
    damping, growth : scalars
        Marquardt's λ, and what the next rejection multiplies it by.
    steps, evaluations, status : int scalars
    rough : bool scalar or None
        The function is still evaluated roughly; None for one that knows no such thing.
    """

    params: object
    loss: jax.Array
    gradient: jax.Array
    hessian: jax.Array
    decrement: jax.Array
    held: jax.Array
    rounding: jax.Array
    delta: jax.Array
    damping: jax.Array
    growth: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    status: jax.Array
    rough: jax.Array | None = None


class Box(NamedTuple):
    """A domain: bounds on each of P flat parameters. Any object with these methods will do in its place."""

    lower: jax.Array
    upper: jax.Array

    def basis(self, z):
        """Orthogonal (P, P) matrix whose columns are the directions that may be held; None for the axes."""
        return None

    def outward(self, z, gradient):
        """Directions at a bound along which descent would leave the domain."""
        return ((z <= self.lower) & (gradient > 0)) | ((z >= self.upper) & (gradient < 0))

    def project(self, z):
        """The nearest point inside."""
        return jnp.clip(z, self.lower, self.upper)

    def move(self, z, delta, held):
        """Where a step from z leads; what is held stays on its bound."""
        return self.project(z + delta)


def solve_scaled(hessian, rhs, damping, held):
    """Solve (H + λ diag H) δ = rhs with columns scaled to unit diagonal; held and empty directions give 0.

    Returns
    -------
    delta : (P,) array
        NaN where the matrix is not positive definite: λ is then too small.
    """
    squared = diagonal(hessian)
    active = ~held & (squared > 0)
    scale = jnp.where(active, 1 / jnp.sqrt(jnp.where(active, squared, 1)), 0)
    eye = jnp.eye(rhs.size, dtype=rhs.dtype)
    matrix = hessian * scale[:, None] * scale[None, :]
    matrix = matrix + eye * jnp.where(active, damping, 1)[:, None]
    return scale * solve_positive(matrix, scale * rhs)


def init(params, rough=None):
    """State before the first step; the first call of `step` evaluates the function at `params`.

    Parameters
    ----------
    params : pytree of floating-point arrays
    rough : bool scalar, optional
        Whether to begin roughly: the function then takes this as its second argument, and is cheaper where it is True.

    Returns
    -------
    State
    """
    z, _ = ravel_pytree(params)
    scalar = jnp.zeros((), z.dtype)
    count = jnp.zeros((), jnp.int32)
    return State(
        params=params,
        loss=scalar + jnp.inf,
        gradient=jnp.zeros_like(z),
        hessian=jnp.eye(z.size, dtype=z.dtype),
        decrement=scalar + jnp.inf,
        held=jnp.zeros(z.shape, bool),
        rounding=scalar,
        delta=jnp.zeros_like(z),
        damping=scalar + _FIRST_DAMPING,
        growth=scalar + _FIRST_GROWTH,
        steps=count,
        evaluations=count,
        status=count + RUNNING,
        rough=None if rough is None else jnp.asarray(rough),
    )


def step(
    function,
    state,
    *,
    loss=half_squares,
    domain=None,
    rtol=None,
    amplitudes=None,
    evaluate=normal_equations,
    solve=solve_scaled,
):
    """One trial: propose, evaluate, accept or reject, judge.

    Parameters
    ----------
    function : callable
        ``function(params) → array`` of values, by default residuals; ``function(params, rough)`` if the state says so.
    state : State
    loss : callable
        values → `Terms`.
    domain : Box, optional
        Where flat parameters may go; unbounded by default.
    rtol : float, optional
        Converged where the distance to the solution will be below this many standard errors after the step that
        `settle` takes (they are scaled to a loss of ½ a datum, so that the scale of the weights does not matter);
        0.005, and never below 30 eps.
    amplitudes : Amplitudes, optional
        Parameters in which the values are linear, under a quadratic loss: solved exactly at every trial.
    evaluate, solve : callables
        How normal equations are assembled and solved.

    Returns
    -------
    State
        Unchanged if it was done already.
    """
    own = {"loss": loss, "domain": domain, "rtol": rtol, "amplitudes": amplitudes, "evaluate": evaluate, "solve": solve}
    moved = _trial(function, state, **own)
    return jax.tree.map(lambda a, b: jnp.where(state.status == RUNNING, a, b), moved, state)


def _trial(function, state, *, loss, domain, rtol, amplitudes, evaluate, solve):
    """`step` for a state that is known to be running."""
    z, unravel = ravel_pytree(state.params)
    domain = Box(jnp.full_like(z, -jnp.inf), jnp.full_like(z, jnp.inf)) if domain is None else domain
    first = jnp.isinf(state.loss)  # of its kind: nothing to compare it with
    stage = () if state.rough is None else (state.rough,)
    eps = jnp.finfo(z.dtype).eps
    trial = domain.move(z, state.delta, state.held)
    move = trial - z
    predicted = -(state.gradient @ move + 0.5 * move @ (state.hessian @ move))
    new = evaluate(lambda v: function(unravel(v), *stage), trial, loss)
    if amplitudes is not None:
        trial, new = amplitudes.resolve(trial, new, domain.lower, domain.upper)

    actual = state.loss - new.loss
    ratio = jnp.where(first, 1, actual) / jnp.where(predicted > 0, predicted, jnp.inf)
    resolution = jnp.maximum(new.rounding, state.rounding)
    # below the loss's rounding error the gradient alone can tell which point is the better one
    finer = (jnp.abs(actual) <= resolution) & (_steepness(new) < _steepness(state))
    finite = jnp.isfinite(new.loss) & jnp.all(jnp.isfinite(new.gradient)) & _all_finite(new.hessian)
    accept = finite & (first | (ratio > _WORTH_TAKING) | finer)
    shrink = jnp.where(finer, 0.03, jnp.maximum(_STRONGEST_SHRINK, 1 - (2 * jnp.clip(ratio, 0, 1) - 1) ** 3))

    best = jax.tree.map(lambda a, b: jnp.where(accept, a, b), new, _evaluation(state, new))
    z = jnp.where(accept, trial, z)
    damping = jnp.where(first, state.damping, state.damping * jnp.where(accept, shrink, state.growth))
    held, decrement, delta = _propose(best, z, damping, domain, amplitudes, solve)
    moved = State(
        params=unravel(z),
        loss=best.loss,
        gradient=best.gradient,
        hessian=best.hessian,
        decrement=decrement,
        held=held,
        rounding=best.rounding,
        delta=delta,
        damping=damping,
        growth=jnp.where(accept, _FIRST_GROWTH, 2 * state.growth).astype(z.dtype),
        steps=state.steps + jnp.where(state.evaluations == 0, 0, 1),
        evaluations=state.evaluations + 1,
        status=state.status,
        rough=state.rough,
    )
    tolerance = _tolerance(moved, new, rtol, eps)
    alike = accept & ~first & jnp.all(held == state.held)
    rate2 = jnp.where(alike, jnp.minimum(decrement / state.decrement, 1), 1)
    left = decrement * _share_left(rate2, decrement / tolerance)
    status = _status(moved, left, new, accept, first, finite, tolerance, resolution)
    moved = moved._replace(status=status)
    return moved if state.rough is None else _look_closer(moved)


def _share_left(rate2, decrement):
    """How much of a decrement (in units of the tolerance) the last step leaves, if those after it shrink as it did.

    `rate2` is the decrement divided by the one before.
    """
    rate = jnp.sqrt(jnp.minimum(rate2, _SLOW**2))
    to_come = rate / (1 - rate)
    # where that is little, the loss after the step must be known without looking, too
    is_foretold = (rate < _FAST) & (decrement * rate < 4)
    return jnp.where(is_foretold, rate, jnp.maximum(to_come, 1)) ** 2


def _look_closer(state):
    """End the rough evaluations where they have done their work; the next step then is taken wherever it leads."""
    near = jnp.isfinite(state.decrement) & (state.decrement <= _ROUGHLY * 2 * state.loss)
    ended = (state.status != RUNNING) & (state.status != NO_DATA)
    switch = state.rough & (near | ended | (state.evaluations >= _MOST_ROUGH))
    return state._replace(
        rough=state.rough & ~switch,
        loss=jnp.where(switch, jnp.inf, state.loss),
        status=jnp.where(switch, RUNNING, state.status),
    )


def _evaluation(state, new):
    """What a state knows of its best point, as an `Evaluation`."""
    return new._replace(loss=state.loss, gradient=state.gradient, hessian=state.hessian, rounding=state.rounding)


def _steepness(point):
    """Squared gradient in units of the columns' norms."""
    squared = diagonal(point.hessian)
    return jnp.sum(jnp.where(squared > 0, point.gradient**2 / jnp.where(squared > 0, squared, 1), 0))


def _propose(best, z, damping, domain, amplitudes, solve):
    """Directions held at the point, the decrement there, and the damped step: zero along what is held."""
    basis = domain.basis(z)
    gradient, hessian = best.gradient, best.hessian
    if basis is not None:
        gradient, hessian = basis.T @ gradient, _congruent(hessian, basis)
    held = domain.outward(z, gradient)
    tiny = jnp.full_like(z, 4 * z.size * jnp.finfo(z.dtype).eps)
    damped = jnp.full_like(z, damping) if amplitudes is None else amplitudes.damping(damping, z.size)
    both = jnp.stack([tiny, jnp.maximum(damped, tiny)])
    newton, delta = jax.vmap(solve, (None, None, 0, None))(hessian, -gradient, both, held)
    decrement = -jnp.where(held, 0, gradient) @ newton
    return held, decrement, delta if basis is None else basis @ delta


def _congruent(hessian, basis):
    """The matrix in another basis; one that is no array knows how."""
    return basis.T @ hessian @ basis if isinstance(hessian, jax.Array) else hessian.congruent(basis)


def _all_finite(hessian):
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(hessian)]))


def _tolerance(state, new, rtol, eps):
    """Largest decrement that counts as converged: rtol² in units of the mean loss, or what rounding can resolve.

    That is the rounding of the values and, all that is left for data without noise, of the parameters.
    """
    rtol = jnp.maximum(jnp.asarray(RTOL if rtol is None else rtol, state.loss.dtype), 30 * eps)
    spare = jnp.maximum(new.count - state.gradient.size, 1)
    z, _ = ravel_pytree(state.params)
    rounding = jnp.maximum((16 * eps) ** 2 * new.signal, (4 * eps) ** 2 * jnp.max(diagonal(state.hessian) * z**2))
    return jnp.maximum(rtol**2 * 2 * state.loss / spare, rounding)


def _status(state, left, new, accept, first, finite, tolerance, resolution):
    # a decrease far below the loss's rounding error is not worth creeping on for (in float32: 0.01 standard errors)
    near = jnp.maximum(tolerance, 0.03 * resolution)
    converged = (accept & (left <= near)) | ((state.damping > 1) & (state.decrement <= resolution))
    # a kink of the model that meets nodes of the sampling: the minimum is here, whatever the slopes beside it promise
    converged |= ~first & (state.damping > _EDGE) & (state.decrement <= 100 * tolerance)
    # a step that no longer changes the loss, or was refused at every length
    stalled = ~accept & (state.damping > _LARGEST_DAMPING)
    status = jnp.where(stalled, STALLED, RUNNING)
    status = jnp.where(converged, CONVERGED, status)
    status = jnp.where(first & ~finite, NON_FINITE, status)
    return jnp.where(first & (new.count == 0), NO_DATA, status).astype(jnp.int32)


def run(function, params, *, max_steps=100, **options):
    """Step until done or `max_steps` trials were made; derivatives go forwards only, those of `fit` both ways.

    Parameters
    ----------
    function : callable
        ``function(params) → array`` of values, by default residuals.
    params : pytree of floating-point arrays
        Where to start, inside the domain.
    max_steps : int
    **options
        Those of `step`.

    Returns
    -------
    State

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> state = run(lambda p: jnp.stack([p["a"] - 3.0, 2 * p["a"] * p["b"]]), {"a": 1.0, "b": 1.0})
    >>> round(float(state.params["a"]), 3)
    3.0
    """
    state = resume(function, init(jax.tree.map(jnp.asarray, params)), max_steps=max_steps, **options)
    status = jnp.where(state.status == RUNNING, MAX_STEPS, state.status)
    return settle(state._replace(status=status), options.get("domain"))


def settle(state, domain=None):
    """Take the step that is left of a converged state, which is too short for another evaluation to be worth it.

    The loss is the one that the normal equations foretell.

    Parameters
    ----------
    state : State
    domain : Box, optional
        That of the fit.

    Returns
    -------
    State
    """
    z, unravel = ravel_pytree(state.params)
    moved = z + state.delta if domain is None else domain.move(z, state.delta, state.held)
    change = state.gradient @ (moved - z) + 0.5 * (moved - z) @ (state.hessian @ (moved - z))
    take = (state.status == CONVERGED) & (change <= 0) & jnp.all(jnp.isfinite(moved))
    return state._replace(
        params=unravel(jnp.where(take, moved, z)), loss=jnp.maximum(state.loss + jnp.where(take, change, 0), 0)
    )


def resume(function, state, *, max_steps, **options):
    """Step on from a state until done or `max_steps` trials were made in all; the status may still be RUNNING.

    Parameters are those of `run`.

    Returns
    -------
    State
    """
    defaults = {name: p.default for name, p in inspect.signature(step).parameters.items() if p.kind is p.KEYWORD_ONLY}
    return jax.lax.while_loop(
        # the first turn only evaluates; it is inside the loop so that the function is compiled once
        lambda s: (s.status == RUNNING) & ((s.steps < max_steps) | (s.evaluations == 0)),
        lambda s: _trial(function, s, **{**defaults, **options}),
        state,
    )
