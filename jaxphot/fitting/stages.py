"""The stages of one fit: where it begins, how it goes on, and what its end says of itself."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import crowded, lm
from jaxphot.fitting.amplitudes import find_amplitudes
from jaxphot.fitting.covariance import physical_covariance
from jaxphot.fitting.groups import Joint
from jaxphot.fitting.joint import joint_equations
from jaxphot.fitting.penalty import penalized, penalty
from jaxphot.fitting.result import Outcome, unpack
from jaxphot.likelihood import compared
from jaxphot.noise_models import Correlated, Gaussian
from jaxphot.numerics import diagonal, put, take
from jaxphot.pytree import subtree, update
from jaxphot.render import apply, prepare

_ROUGH_FROM = 25  # steps allowed: with fewer, none are taken on roughly integrated pixels
_UNDAMPED = 1e-10  # Marquardt's λ for a model that is linear in all that is free


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
    z = domain_of(setup, lane).project(_lit(setup, lane, coordinates.to_internal(start_of(setup, lane))))
    if crowded.is_scene(setup):
        return crowded.begin(setup, lane, z)
    rough = lane.max_steps >= _ROUGH_FROM
    state = lm.init(z, rough if coordinates.size else None)
    return state._replace(damping=jnp.full_like(state.damping, _UNDAMPED)) if setup.is_linear else state


def start_of(setup, lane):
    """The start's free parameters as a flat physical vector."""
    paths = dict(setup.coordinates.paths)
    return setup.coordinates.flatten(subtree(lane.start, paths), lane.dtype)


def _lit(setup, lane, z):
    """A start whose amplitudes are not 0: there a component's other parameters would have no derivatives.

    Any other value will do, as amplitudes are solved for at the first evaluation; this has the unit of the data.
    """
    own = _scaling(setup)
    if not own.size:
        return z
    pairs = [(~image.mask, image.data) for image in lane.images]
    count = jnp.maximum(sum(jnp.sum(good, dtype=z.dtype) for good, _ in pairs), 1)
    level = sum(jnp.sum(jnp.where(good, jnp.abs(data), 0)) for good, data in pairs) / count
    return put(z, own, jnp.where(take(z, own) == 0, level, take(z, own)))


def _scaling(setup):
    """Positions of the amplitudes solved exactly that other parameters' derivatives are proportional to."""
    if isinstance(setup.model, Joint):
        return np.asarray(setup.model.linear, int)
    amplitudes = amplitudes_of(setup)
    return np.unique([] if amplitudes is None else [number for _, number in amplitudes.scales]).astype(int)


def linear_positions(setup):
    """Positions of the parameters that are solved exactly at every trial."""
    if isinstance(setup.model, Joint):
        return list(setup.model.linear)
    amplitudes = amplitudes_of(setup)
    return [] if amplitudes is None else list(amplitudes.linear)


def amplitudes_of(setup):
    """The `Amplitudes` of a single image's model that are solved exactly, or None."""
    if not isinstance(setup.likelihood, (Gaussian, Correlated)) or setup.has_priors:
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
    options = {
        "max_steps": jnp.minimum(state.steps + steps, lane.max_steps),
        "loss": partial(setup.likelihood.terms, image=lane.image),
        "domain": domain_of(setup, lane),
        "rtol": lane.rtol,
    }
    if crowded.is_scene(setup):
        return lm.resume(None, state, **options, **crowded.solver(setup, lane))
    function, evaluate, amplitudes = _solver(setup, lane)
    return lm.resume(function, state, **options, amplitudes=amplitudes, evaluate=evaluate)


def _solver(setup, lane):
    """What the solver steps with: function, how its normal equations are assembled (with priors), and amplitudes."""
    if isinstance(setup.model, Joint):
        equations = joint_equations(setup.model, setup.coordinates, lane.start, lane.image)
        function, data, amplitudes = equations.function, equations.evaluate, equations.amplitudes
    else:
        function, amplitudes = values_of(setup, lane), amplitudes_of(setup)
        data = partial(lm.normal_equations, coordinates=setup.coordinates)
    return function, penalized(data, lane.priors, setup.coordinates, lane.start), amplitudes


def evaluation_of(setup, lane):
    """``function(z) → Evaluation`` of loss and priors at internal coordinates."""
    function, evaluate, _ = _solver(setup, lane)
    return partial(evaluate, partial(function, rough=None), loss=partial(setup.likelihood.terms, image=lane.image))


def data_terms(setup, lane, physical):
    """Summed loss of all data at physical parameters, and what makes minus it a log-likelihood."""
    if isinstance(setup.model, Joint):
        return joint_equations(setup.model, setup.coordinates, lane.start, lane.image).terms(physical)
    terms = setup.likelihood.terms(values_of(setup, lane)(physical), lane.image)
    return jnp.sum(terms.loss), setup.likelihood.log_normalization(lane.image)


def values_of(setup, lane):
    """``function(physical, rough=None)`` → what the likelihood judges: the model's pixels, for most. Of one image."""
    prepared = prepare(lane.image, setup.sampling)

    def values(physical, rough=None):
        params = update(lane.start, setup.coordinates.unflatten(physical))
        pixels = apply(prepared, setup.model, params, rough)
        return compared(setup.likelihood, setup.model, params, pixels, lane.image)

    return values


def judge(setup, lane, state):
    """The `Outcome` of a state."""
    return describe_end(setup, lane, lm.settle(state, domain_of(setup, lane)))


def describe_end(setup, lane, state):
    """The `Outcome` of a state that was settled."""
    coordinates = setup.coordinates
    good = used_pixels(lane)
    if coordinates.size == 0:
        return _nothing_free(setup, lane, good)
    physical, loss = coordinates.from_internal(state.params), state.loss
    if setup.has_priors:
        loss = loss - penalty(lane.priors, coordinates, lane.start, physical)
    dof = good - coordinates.size
    if crowded.is_scene(setup):
        covariance, undetermined, is_round, left_out = crowded.covariance(setup, lane, state)
        dof = dof + jnp.sum(left_out, dtype=jnp.int32)
    else:
        covariance, undetermined, is_round = physical_covariance(state, coordinates, domain_of(setup, lane))
    if setup.scale_covariance:
        covariance = covariance * (2 * loss / jnp.maximum(dof, 1).astype(state.loss.dtype))
    status = jnp.where(state.status == lm.RUNNING, lm.MAX_STEPS, state.status)
    singular = (status == lm.CONVERGED) & jnp.any(undetermined)
    return Outcome(
        physical=physical,
        stderr=_root(diagonal(covariance)),
        held=state.held,
        undetermined=undetermined,
        covariance=covariance,
        chi2=2 * loss,
        dof=dof,
        steps=state.steps,
        evaluations=state.evaluations,
        status=jnp.where(singular, lm.SINGULAR, status),
        round=is_round,
    )


def used_pixels(lane):
    """Number of pixels that are not ignored, of all images."""
    return sum(jnp.sum(~image.mask, dtype=jnp.int32) for image in lane.images)


def _root(variance):
    """Square root; where there is none, NaN whose derivative is 0."""
    known = variance > 0
    return jnp.where(known, jnp.sqrt(jnp.where(known, variance, 1)), jnp.where(variance == 0, 0, jnp.nan))


def finish(setup, lane, state):
    """The `Fit` of a state."""
    return unpack(setup.coordinates, lane.start, judge(setup, lane, state))


def domain_of(setup, lane):
    """Bounds in internal coordinates: the `Domain` of a lane."""
    if crowded.is_scene(setup):
        return crowded.domain_of(setup, lane)
    return setup.coordinates.domain(lane.limits)


def _nothing_free(setup, lane, good):
    total = 2 * data_terms(setup, lane, jnp.zeros(0, lane.dtype))[0]
    status = jnp.where(jnp.isfinite(total), lm.CONVERGED, lm.NON_FINITE)
    zero, none = jnp.zeros((), jnp.int32), jnp.zeros(0, total.dtype)
    return Outcome(
        physical=none,
        stderr=none,
        held=none > 0,
        undetermined=none > 0,
        covariance=jnp.zeros((0, 0), total.dtype),
        chi2=total,
        dof=good,
        steps=zero,
        evaluations=zero + 1,
        status=jnp.where(good == 0, lm.NO_DATA, status).astype(jnp.int32),
        round=jnp.zeros((), bool),
    )
