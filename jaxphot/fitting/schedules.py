"""The two schedules of a batch: a lane at a time, and all lanes of a chunk together.

Both call `begin`, `advance` and `finish` of the one fit. A lane may have several starts, and its steps several phases:
with mixed precision the first is in float32, and the last few steps and the covariance in float64.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.multistart import choose, spread
from jaxphot.fitting.problem import make_problem
from jaxphot.fitting.stages import advance, begin, domain_of, finish

_STEPS_AT_ONCE = 3  # the last few lanes are stepped to their end in one call
_SHRINK = 4  # what a chunk's lanes are divided by when so many are done; by less, more programs are compiled
_MOST_STEPS_BEFORE_LAST_PHASE = 25  # a lane that creeps in float32, where rounding hides its way, goes on in float64
SMALLEST_TOGETHER = 64  # lanes: with fewer, the compiler arranges sums differently and the last bits change


class Task(NamedTuple):
    """What is the same for all lanes and decides which program is compiled. Hashable.

    Attributes
    ----------
    model : model
    options : tuple of (str, value)
        Options of `make_problem` other than those that lanes carry.
    dtypes : tuple of str
        Of the phases.
    starts : int
    """

    model: object
    options: tuple
    dtypes: tuple
    starts: int


def power_of_two(n):
    """The smallest power of two not below n."""
    return 1 << max(n - 1, 0).bit_length()


def _problem(task, lane, phase):
    """Setup and lane of a fit, from traced leaves."""
    image = cast(lane["image"], task.dtypes[phase])
    own = {key: lane[key] for key in ("params", "fixed", "bounds", "rtol", "max_steps")}
    if phase < len(task.dtypes) - 1:
        own["max_steps"] = jnp.minimum(own["max_steps"], _MOST_STEPS_BEFORE_LAST_PHASE)
    return make_problem(task.model, image=image, **own, **dict(task.options))


def cast(tree, dtype):
    """Floating leaves, JAX's or NumPy's, in another dtype; what a `crval` loses is kept in the `crval_lo` beside it."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    by_path = {path: leaf for path, leaf in leaves}

    def one(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        if getattr(path[-1], "name", "") == "crval_lo" and leaf.dtype != dtype:
            high = by_path[(*path[:-1], jax.tree_util.GetAttrKey("crval"))]
            leaf = (high - high.astype(dtype).astype(high.dtype)) + leaf
        return leaf.astype(dtype)

    return jax.tree.unflatten(structure, [one(path, leaf) for path, leaf in leaves])


def _starts(task, lane, setup, problem):
    """States of all starts of a lane, with a leading axis. A lane that only fills up a chunk is done at once."""
    state = begin(setup, problem)
    idle = ~lane["real"] if setup.coordinates.size else jnp.ones((), bool)  # or nothing to step in
    state = state._replace(status=jnp.where(idle, lm.NO_DATA, state.status).astype(jnp.int32))
    return spread(setup, problem, state, task.starts)


def _polish(setup, lane, state):
    """The state with which a phase goes on from where the last one ended, in its own dtype."""
    dtype = lane.dtype
    start = domain_of(setup, lane).project(state.params.astype(dtype))
    fresh = lm.init(start, jnp.zeros((), bool))
    idle = (state.status == lm.NO_DATA) & (state.evaluations == 0)
    return fresh._replace(
        damping=jnp.minimum(fresh.damping, state.damping.astype(dtype)),
        steps=state.steps,
        status=jnp.where(idle, state.status, fresh.status),
    )


# --- a lane at a time -----------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=0)
def run_mapped(task, lanes):
    """Fit all lanes, one after the other; each leaves its loop when it is done.

    Parameters
    ----------
    task : Task
    lanes : dict
        Leaves with a leading axis.

    Returns
    -------
    Fit
        With a leading axis.
    """
    return jax.lax.map(partial(_fit_lane, task), lanes)


def _fit_lane(task, lane):
    setup, problem = _problem(task, lane, 0)
    states = _starts(task, lane, setup, problem)
    if task.starts == 1:
        state = advance(setup, problem, jax.tree.map(lambda leaf: leaf[0], states), problem.max_steps)
        multimodal = jnp.zeros((), bool)
    else:
        ends = jax.lax.map(lambda state: advance(setup, problem, state, problem.max_steps), states)
        state, multimodal = choose(setup, problem, ends)
    for phase in range(1, len(task.dtypes)):
        setup, problem = _problem(task, lane, phase)
        before = state.evaluations
        state = advance(setup, problem, _polish(setup, problem, state), problem.max_steps)
        state = state._replace(evaluations=state.evaluations + before)
    return replace(finish(setup, problem, state), multimodal=multimodal)


# --- all lanes together ---------------------------------------------------------------------------------------------


def run_stepped(task, lanes):
    """Fit all lanes, a few steps of all at a time; those that are done are taken out.

    The rest is gathered into a quarter of the places as soon as it fits, so that none waits for the slowest.

    Parameters
    ----------
    task : Task
    lanes : dict
        Leaves with a leading axis.

    Returns
    -------
    Fit
        With a leading axis.
    """
    states = _until_done(task, 0, lanes, _begin(task, lanes), task.starts)
    states, multimodal = _choose(task, lanes, states)
    for phase in range(1, len(task.dtypes)):
        before = states.evaluations
        states = _until_done(task, phase, lanes, _polish_all(task, phase, lanes, states), 1)
        states = states._replace(evaluations=states.evaluations + before)
    return replace(_finish(task, lanes, states), multimodal=multimodal)


def _until_done(task, phase, lanes, states, starts):
    """Step the states, of which each lane has `starts`, to their ends."""
    count, largest = len(states.status), np.repeat(np.asarray(lanes["max_steps"]), starts)
    if phase < len(task.dtypes) - 1:
        largest = np.minimum(largest, _MOST_STEPS_BEFORE_LAST_PHASE)
    active = np.arange(count)
    part = lanes if starts == 1 else _gather(lanes, active // starts)
    while True:
        whole = len(active) == count
        steps = np.int32(_STEPS_AT_ONCE if len(active) > SMALLEST_TOGETHER else largest.max())
        moved = _advance(task, phase, part, states if whole else _gather(states, active), steps)
        running = (np.asarray(moved.status) == lm.RUNNING) & (np.asarray(moved.steps) < largest[active])
        states = moved if whole else _scatter(states, active, moved)
        running = np.unique(active[running])
        if running.size == 0:
            return states
        bucket = len(active)
        while bucket // _SHRINK >= max(running.size, SMALLEST_TOGETHER):
            bucket //= _SHRINK
        if bucket < len(active):
            # filled up with a lane that is there anyway: it computes the same twice
            active = np.concatenate([running, np.full(bucket - running.size, running[0])])
            part = _gather(lanes, active // starts)


@partial(jax.jit, static_argnums=0)
def _begin(task, lanes):
    states = jax.vmap(lambda lane: _starts(task, lane, *_problem(task, lane, 0)))(lanes)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _advance(task, phase, lanes, states, steps):
    return jax.vmap(lambda lane, state: advance(*_problem(task, lane, phase), state, steps))(lanes, states)


@partial(jax.jit, static_argnums=0)
def _choose(task, lanes, states):
    if task.starts == 1:
        return states, jnp.zeros(states.status.shape, bool)
    states = jax.tree.map(lambda leaf: leaf.reshape(-1, task.starts, *leaf.shape[1:]), states)
    return jax.vmap(lambda lane, ends: choose(*_problem(task, lane, 0), ends))(lanes, states)


@partial(jax.jit, static_argnums=(0, 1))
def _polish_all(task, phase, lanes, states):
    return jax.vmap(lambda lane, state: _polish(*_problem(task, lane, phase), state))(lanes, states)


@partial(jax.jit, static_argnums=0)
def _finish(task, lanes, states):
    phase = len(task.dtypes) - 1
    return jax.vmap(lambda lane, state: finish(*_problem(task, lane, phase), state))(lanes, states)


@jax.jit
def _gather(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)


@partial(jax.jit, donate_argnums=0)
def _scatter(tree, rows, part):
    return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new), tree, part)
