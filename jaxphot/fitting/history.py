"""The way of one fit, step by step: for pictures and for whoever wants to know why it went where it went."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.problem import make_problem
from jaxphot.fitting.result import Fit
from jaxphot.fitting.solve import complete_options
from jaxphot.fitting.stages import advance, begin, finish
from jaxphot.pytree import refuse_tracers


class History(NamedTuple):
    """What a fit went through; made by `fit_history`. S steps were made.

    Attributes
    ----------
    chi2 : (S + 1,) array
        After each step; the first is that of the start, with amplitudes solved for. NaN at the step from which on
        pixels are integrated exactly, where it has yet to be evaluated.
    decrement : (S + 1,) array
        By how much χ² would fall in a full Newton step: the squared distance to the end in standard errors.
    damping : (S + 1,) array
        Marquardt's λ.
    params : dict
        Free scalars by name, each (S + 1,).
    fit : Fit
        The end.
    """

    chi2: np.ndarray
    decrement: np.ndarray
    damping: np.ndarray
    params: dict
    fit: Fit


def fit_history(model, params, image, **options):
    """Fit as `fit` does, and keep what happened in every step.

    Parameters
    ----------
    model, params, image, **options
        As for `fit`.

    Returns
    -------
    History

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> history = fit_history(jp.models.flat_sky, {"I0": 0.0}, jp.make_image(np.full((8, 8), 3.0), std=1.0))
    >>> bool(history.chi2[-1] <= history.chi2[0])
    True
    """
    refuse_tracers("fit has the same result", params=params, image=image)
    setup, lane = make_problem(model, params, image, **complete_options("fit_history", options))
    state = jax.jit(begin, static_argnums=0)(setup, lane)
    step = jax.jit(partial(advance, steps=1), static_argnums=0)
    states = []
    while True:
        before = int(state.steps)
        state = step(setup, lane, state)
        states.append(state)
        if int(state.status) != lm.RUNNING or int(state.steps) == before:
            break
    from_internal = jax.jit(setup.coordinates.from_internal)
    physical = np.stack([np.asarray(from_internal(one.params)) for one in states])
    return History(
        chi2=np.asarray([2 * float(one.loss) if np.isfinite(one.loss) else np.nan for one in states]),
        decrement=np.asarray([float(one.decrement) for one in states]),
        damping=np.asarray([float(one.damping) for one in states]),
        params=dict(zip(setup.coordinates.names, physical.T, strict=True)),
        fit=jax.jit(finish, static_argnums=0)(setup, lane, state),
    )
