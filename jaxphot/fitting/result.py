"""What a fit returns: the `Fit`, its status in words, and the few arrays that it is made from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.pytree import is_concrete, leaves_with_names, pytree, refuse_tracers, static_field, update

NOT_FITTED = 6  # of a row of a catalogue, beside those of `lm`

MESSAGES = {
    lm.CONVERGED: "converged",
    lm.MAX_STEPS: "stopped at max_steps before it converged",
    lm.STALLED: "stalled: no step lowers the loss, but it is not at a minimum",
    lm.SINGULAR: "singular: the data do not determine all parameters (their stderr is NaN)",
    lm.NON_FINITE: "non-finite model, data or derivative at the start",
    lm.NO_DATA: "no data: every pixel is masked, NaN or has ivar 0",
    NOT_FITTED: "not fitted: the image could not be read or used",
}


@pytree
class Fit:
    """The result of a fit; in a batch every array has a leading axis.

    Attributes
    ----------
    params : dict
        Complete tree of best parameters, fixed ones included.
    stderr : dict
        Standard errors of the free ones; NaN where held at a bound or not determined.
    covariance : (P, P) array
        Of the free scalars, ordered as `names`.
    names : tuple of str
        ``galaxy.PA``, ``galaxy.center[0]``, … (static).
    chi2 : scalar
        Twice the loss: χ² for Gaussian noise, the deviance for others.
    dof : int scalar
        Pixels used less P.
    steps, evaluations : int scalars
        Trials made, and evaluations of model and Jacobian.
    status : int scalar
        In words: `status_message`.
    at_bound : dict
        True where a free parameter is held at a bound.
    undetermined : dict
        True where the data do not determine a free parameter, alone or together with others that are marked too.
    round : bool scalar
        An axis ratio is closer to 1 than its error; its position angle means nothing (stderr π/√12).
    multimodal : bool scalar
        Another start converged to another minimum (`fit_batch` with ``starts=``).
    """

    params: dict
    stderr: dict
    covariance: jax.Array
    chi2: jax.Array
    dof: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    status: jax.Array
    at_bound: dict
    undetermined: dict
    round: jax.Array
    multimodal: jax.Array
    names: tuple = static_field(default=())


def status_message(fit):
    """How a fit ended, in words; a list of them for a batch.

    Parameters
    ----------
    fit : Fit or int or array of int
        A `Fit` also says which parameters are not determined or at a bound, and whether other starts ended elsewhere.

    Returns
    -------
    str or list of str

    Examples
    --------
    >>> status_message(0)
    'converged'
    """
    refuse_tracers("words are made outside", fit=fit)
    if isinstance(fit, Fit):
        messages = np.atleast_1d(fit.status).tolist()
        messages = [_in_words(code) + more for code, more in zip(messages, _remarks(fit), strict=True)]
        return messages if np.ndim(fit.status) else messages[0]
    codes = np.asarray(fit)
    return [_in_words(code) for code in codes.tolist()] if codes.ndim else _in_words(int(codes))


def _in_words(code):
    return MESSAGES.get(code, f"unknown status {code}")


def _remarks(fit):
    """What there is to add to the status of every fit."""
    count = np.size(fit.status)
    remarks = [""] * count
    for words, tree in (("not determined", fit.undetermined), ("at a bound", fit.at_bound)):
        columns = [np.asarray(leaf).reshape(count, -1) for _, leaf in leaves_with_names(tree)] if tree else []
        marked = np.concatenate([np.zeros((count, 0), bool), *columns], axis=1)
        for row in np.flatnonzero(marked.any(axis=1)):
            which = [name for name, is_marked in zip(fit.names, marked[row], strict=True) if is_marked]
            remarks[row] += f"; {words}: {', '.join(which)}"
    for row in np.flatnonzero(np.asarray(fit.multimodal)):
        remarks[row] += "; other starts found another minimum"
    return remarks


class Outcome(NamedTuple):
    """What a program returns: the `Fit` in few arrays, since each costs compilation. Free scalars ordered as names.

    Attributes
    ----------
    physical, stderr, held, undetermined : (P,) arrays
    covariance : (P, P) array
    chi2, dof, steps, evaluations, status, round : scalars
    """

    physical: jax.Array
    stderr: jax.Array
    held: jax.Array
    undetermined: jax.Array
    covariance: jax.Array
    chi2: jax.Array
    dof: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    status: jax.Array
    round: jax.Array


def unpack(coordinates, start, outcome):
    """The `Fit` of an `Outcome`; outside of a program nothing is compiled for it.

    Parameters
    ----------
    coordinates : Coordinates
    start : dict
        Complete tree, for the parameters that are not free.
    outcome : Outcome

    Returns
    -------
    Fit
    """
    concrete = is_concrete(*jax.tree.leaves((start, outcome)))
    numbers = jax.tree.map(np.asarray, outcome) if concrete else outcome
    tree = coordinates.unflatten
    result = Fit(
        params=update(start, tree(numbers.physical)),
        stderr=tree(numbers.stderr),
        covariance=numbers.covariance,
        chi2=numbers.chi2,
        dof=numbers.dof,
        steps=numbers.steps,
        evaluations=numbers.evaluations,
        status=numbers.status,
        at_bound=tree(numbers.held),
        undetermined=tree(numbers.undetermined),
        round=numbers.round,
        multimodal=np.zeros((), bool) if concrete else jnp.zeros((), bool),
        names=coordinates.names,
    )
    return jax.device_put(result) if concrete else result
