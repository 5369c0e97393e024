"""One fit: Levenberg–Marquardt from a start, and what the result says of itself."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.amplitudes import find_amplitudes
from jaxphot.fitting.covariance import physical_covariance
from jaxphot.fitting.problem import make_problem
from jaxphot.likelihood import Gaussian
from jaxphot.pytree import leaves_with_names, pytree, static_field, update
from jaxphot.render import DEFAULT_SAMPLING, apply, prepare

MESSAGES = {
    lm.CONVERGED: "converged",
    lm.MAX_STEPS: "stopped at max_steps before it converged",
    lm.STALLED: "stalled: no step lowers the loss, but it is not at a minimum",
    lm.SINGULAR: "singular: the data do not determine all parameters (their stderr is NaN)",
    lm.NON_FINITE: "non-finite model, data or derivative at the start",
    lm.NO_DATA: "no data: every pixel is masked, NaN or has ivar 0",
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


def fit(
    model,
    params,
    image,
    *,
    fixed=None,
    bounds=None,
    window=None,
    likelihood=None,
    sampling=DEFAULT_SAMPLING,
    max_steps=100,
    rtol=None,
    scale_covariance=False,
):
    """Fit a model to an image by Levenberg–Marquardt.

    A pure function: ``jax.vmap(lambda p, im: fit(model, p, im))(starts, images)`` fits a batch.

    Parameters
    ----------
    model : model
    params : dict
        Where to start, as `initialize` makes it.
    image : Image
    fixed : dict, optional
        A partial tree of parameters that do not vary: a value fixes the parameter there (it may then be missing from
        `params`), None holds it at its start.
    bounds : dict, optional
        A partial tree of (lowest, highest), instead of the default bounds in ``parameters(model)``.
    window : (i0, i1, j0, j1), optional
        Fit only these columns and rows (see `crop`).
    likelihood : likelihood, optional
        Such as ``likelihood.poisson()``; Gaussian by default.
    sampling : rule
        How pixels are integrated.
    max_steps : int
        Trials at most.
    rtol : float, optional
        Converged where the distance to the solution is below this many standard errors; 1e-3.
    scale_covariance : bool
        Multiply the covariance by χ²/dof.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError, TypeError
        Bad concrete input; the message names the argument or the parameter's key path. What happens during the fit is
        told by `Fit.status`.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.full((8, 8), 3.0), std=1.0)
    >>> result = fit(jp.models.flat_sky, {"I0": 0.0}, image)
    >>> round(float(result.params["I0"]), 3), round(float(result.stderr["I0"]), 3)
    (3.0, 0.125)
    """
    return run_fit(*make_problem(**locals()))  # every argument under its own name


def complete_options(function, given):
    """All options of `fit` from those given to another function; a TypeError names unknown ones."""
    known = {name: p.default for name, p in inspect.signature(fit).parameters.items() if p.kind is p.KEYWORD_ONLY}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(f"{function}: unknown {', '.join(unknown)}; beside its own, it takes fit's {', '.join(known)}")
    return {**known, **given}


@partial(jax.jit, static_argnums=0)
def run_fit(setup, lane):
    """The `Fit` of a problem that `make_problem` checked.

    Parameters
    ----------
    setup : Setup
    lane : Lane

    Returns
    -------
    Fit
    """
    return finish(setup, lane, advance(setup, lane, begin(setup, lane), lane.max_steps))


def begin(setup, lane):
    """State of the solver at the start, before any evaluation.

    Parameters
    ----------
    setup : Setup
    lane : Lane

    Returns
    -------
    lm.State
    """
    coordinates = setup.coordinates
    start = coordinates.flatten(_take(lane.start, coordinates.paths), lane.image.dtype)
    z = _lit(setup, lane.image, coordinates.to_internal(start))
    return lm.init(domain_of(setup, lane).project(z))


def _lit(setup, image, z):
    """A start whose amplitudes are not 0: there a component's other parameters would have no derivatives.

    Any other value will do, as amplitudes are solved for at the first evaluation; this has the unit of the data.
    """
    amplitudes = amplitudes_of(setup)
    if amplitudes is None or not amplitudes.scales:
        return z
    own = np.unique([number for _, number in amplitudes.scales])
    good = ~image.mask
    count = jnp.maximum(jnp.sum(good, dtype=z.dtype), 1)
    level = jnp.sum(jnp.where(good, jnp.abs(image.data), 0)) / count
    return z.at[own].set(jnp.where(z[own] == 0, level, z[own]))


def amplitudes_of(setup):
    """The `Amplitudes` that are solved exactly, or None."""
    if not isinstance(setup.likelihood, Gaussian):
        return None
    return find_amplitudes(setup.model, setup.coordinates, setup.bounded)


def advance(setup, lane, state, steps):
    """Go on for at most so many more trials.

    Returns
    -------
    lm.State
    """
    if setup.coordinates.size == 0:
        return state
    prepared = prepare(lane.image, setup.sampling)

    def pixels(physical):
        return apply(prepared, setup.model, update(lane.start, setup.coordinates.unflatten(physical)))

    quadratic = isinstance(setup.likelihood, Gaussian)
    return lm.resume(
        pixels,
        state,
        max_steps=jnp.minimum(state.steps + steps, lane.max_steps),
        loss=partial(setup.likelihood.terms, image=lane.image),
        domain=domain_of(setup, lane),
        rtol=lane.rtol,
        amplitudes=find_amplitudes(setup.model, setup.coordinates, setup.bounded) if quadratic else None,
        evaluate=partial(lm.normal_equations, coordinates=setup.coordinates),
    )


def finish(setup, lane, state):
    """The `Fit` of a state.

    Returns
    -------
    Fit
    """
    coordinates = setup.coordinates
    good = jnp.sum(~lane.image.mask, dtype=jnp.int32)
    if coordinates.size == 0:
        return _nothing_free(setup, lane, good)
    dof = good - coordinates.size
    covariance, undetermined, is_round = physical_covariance(state, coordinates, domain_of(setup, lane))
    if setup.scale_covariance:
        covariance = covariance * (2 * state.loss / jnp.maximum(dof, 1).astype(state.loss.dtype))
    status = jnp.where(state.status == lm.RUNNING, lm.MAX_STEPS, state.status)
    singular = (status == lm.CONVERGED) & jnp.any(undetermined)
    return Fit(
        params=update(lane.start, coordinates.unflatten(coordinates.from_internal(state.params))),
        stderr=coordinates.unflatten(jnp.sqrt(jnp.diagonal(covariance))),
        covariance=covariance,
        chi2=2 * state.loss,
        dof=dof,
        steps=state.steps,
        evaluations=state.evaluations,
        status=jnp.where(singular, lm.SINGULAR, status),
        at_bound=coordinates.unflatten(state.held),
        undetermined=coordinates.unflatten(undetermined),
        round=is_round,
        multimodal=jnp.zeros((), bool),
        names=coordinates.names,
    )


def domain_of(setup, lane):
    """Bounds in internal coordinates: the `Domain` of a lane."""
    dtype = lane.image.dtype
    sides = [
        jnp.concatenate(
            [jnp.zeros(0, dtype), *(jnp.ravel(lane.limits[path][side]) for path, _ in setup.coordinates.paths)]
        )
        for side in (0, 1)
    ]
    return setup.coordinates.domain(*sides)


def _take(tree, paths):
    """The leaves with the given key paths, as a nested dictionary."""
    wanted = {path for path, _ in paths}
    pruned = {}
    for name, leaf in leaves_with_names(tree):
        if name in wanted:
            *branch, key = name.split(".")
            node = pruned
            for part in branch:
                node = node.setdefault(part, {})
            node[key] = leaf
    return pruned


def _nothing_free(setup, lane, good):
    value = apply(prepare(lane.image, setup.sampling), setup.model, lane.start)
    total = 2 * jnp.sum(setup.likelihood.terms(value, lane.image).loss)
    status = jnp.where(jnp.isfinite(total), lm.CONVERGED, lm.NON_FINITE)
    zero = jnp.zeros((), jnp.int32)
    return Fit(
        params=lane.start,
        stderr={},
        covariance=jnp.zeros((0, 0), value.dtype),
        chi2=total,
        dof=good,
        steps=zero,
        evaluations=zero + 1,
        status=jnp.where(good == 0, lm.NO_DATA, status).astype(jnp.int32),
        at_bound={},
        undetermined={},
        round=jnp.zeros((), bool),
        multimodal=jnp.zeros((), bool),
    )
