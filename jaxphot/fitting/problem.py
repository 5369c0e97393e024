"""The door of a fit: what is free, where it may go, and errors that name what is wrong with the input."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.coordinates import Coordinates, make_coordinates
from jaxphot.image import crop
from jaxphot.likelihood import check_likelihood, check_usable, gaussian
from jaxphot.models.combinators import check_model
from jaxphot.numerics import array_namespace
from jaxphot.parameters import check_params, describe, parameters
from jaxphot.priors import as_priors, as_pytree, bounds_of
from jaxphot.pytree import branch, is_concrete, leaves_with_names, update
from jaxphot.render import check_image
from jaxphot.sampling import check_sampling


class Setup(NamedTuple):
    """What is static in a fit: it decides which program is compiled. Hashable.

    Attributes
    ----------
    model : model
    coordinates : Coordinates
    bounded : tuple of str
        Key paths of free parameters with bounds of the user's.
    likelihood : likelihood
    sampling : rule
    scale_covariance : bool
    has_priors : bool
    """

    model: object
    coordinates: Coordinates
    bounded: tuple
    likelihood: object
    sampling: object
    scale_covariance: bool
    has_priors: bool = False


class Lane(NamedTuple):
    """What differs from one fit to the next: arrays only.

    Attributes
    ----------
    start : dict
        Complete tree of parameters.
    image : Image
    limits : tuple of arrays
        Bounds in internal coordinates, as `Coordinates.limits` makes them.
    rtol, max_steps : scalars
    pairs : tuple of (M, 2) arrays of int, optional
        Which stamps of a crowded field overlap, where it is large and known (see `scenes.find_pairs`).
    priors : dict
        By key path.
    """

    start: dict
    image: object
    limits: tuple
    rtol: object
    max_steps: object
    pairs: tuple | None = None
    priors: dict = {}  # noqa: RUF012


def make_problem(
    model, params, image, *, fixed, bounds, window, likelihood, sampling, max_steps, rtol, scale_covariance, priors=None
):
    """Check the arguments of `fit` (see there) and sort them into what is compiled and what is computed with.

    Returns
    -------
    Setup, Lane
    """
    likelihood = gaussian() if likelihood is None else likelihood
    check_model(model)
    check_sampling(sampling)
    check_likelihood(likelihood)
    check_image(image)
    if window is not None:
        image = crop(image, window)
    check_number("max_steps", max_steps, 0)
    if rtol is not None:
        check_number("rtol", rtol, 0)
    priors = as_priors(priors)
    bounds = _with_priors(bounds, priors)
    start, coordinates, bounded, limits = _parameters(model, params, fixed, bounds, image.dtype)
    check_usable(likelihood, model, start, image)
    _check_known("priors", {name for name, _ in priors if name}, start)
    setup = Setup(model, coordinates, bounded, likelihood, sampling, bool(scale_covariance), bool(priors))
    rtol, priors = lm.RTOL if rtol is None else rtol, as_pytree(priors, image.dtype)
    return setup, Lane(start, image, limits, rtol, max_steps, priors=priors)


def _with_priors(bounds, priors):
    """Bounds of the user's and of uniform priors."""
    own = bounds_of(priors)
    if not own:
        return bounds
    twice = set(own) & {name for name, _ in leaves_with_names(bounds or {})}
    if twice:
        raise ValueError(f"bounds: {', '.join(sorted(twice))} has a uniform prior, which bounds it already")
    for name, pair in own.items():
        bounds = update(bounds or {}, branch(name, pair))
    return bounds


def check_number(name, value, above):
    """Refuse a concrete option that is no finite number above a limit."""
    if is_concrete(value) and not (np.ndim(value) == 0 and np.isfinite(value) and value > above):
        raise ValueError(f"{name}: expected a number > {above}, got {value!r}")


def _parameters(model, params, fixed, bounds, dtype):
    """Canonical start, coordinates, key paths that the user bounds, and bounds in internal coordinates."""
    declared = parameters(model)
    fixed = {} if fixed is None else fixed
    values = _fixed_values(fixed, params)
    params = update(params, values) if isinstance(params, dict) else params
    start = check_params(declared, params, dtype)
    described = describe(declared, start)
    fixed_names = {name for name, _ in leaves_with_names(fixed)} if fixed else set()
    _check_known("fixed", fixed_names, described)
    fixed_names |= {name for name, parameter in leaves_with_names(described) if parameter.coordinate == "constant"}
    limits = _limits(bounds, described, dtype)
    _check_inside(start, limits, fixed_names)
    bounded = [name for name, (_, _, is_users) in limits.items() if is_users]
    coordinates = make_coordinates(described, fixed_names, bounded)
    free = [limits[path][:2] for path, _ in coordinates.paths]
    xp = array_namespace(free)
    sides = (xp.concatenate([np.zeros(0, dtype), *(xp.ravel(pair[k]) for pair in free)]) for k in (0, 1))
    users = tuple(path for path, _ in coordinates.paths if path in bounded)
    return start, coordinates, users, coordinates.limits(*sides)


def _fixed_values(fixed, params):
    """The leaves of `fixed` that are values: not None and not True."""
    if not isinstance(fixed, dict):
        raise TypeError(f"fixed: expected a partial tree of parameters, got {type(fixed).__name__}")
    kept = {}
    for key, value in fixed.items():
        own = params.get(key, {}) if isinstance(params, dict) else {}
        if isinstance(value, dict):
            kept[key] = _fixed_values(value, own)
        elif isinstance(value, jax.core.Tracer) and value.dtype == bool:
            raise TypeError(f"fixed: {key} is a traced bool; which parameters are free must be known: use None to hold")
        elif value is not None and value is not True:
            kept[key] = value
    return {key: value for key, value in kept.items() if not isinstance(value, dict) or value}


def _check_known(argument, names, described):
    known = {name for name, _ in leaves_with_names(described)}
    unknown = sorted(set(names) - known)
    if unknown:
        raise ValueError(f"{argument}: unknown {', '.join(unknown)}; the model has {', '.join(sorted(known))}")


def _limits(bounds, described, dtype):
    """(lower, upper, whether the user's) of every parameter, by key path."""
    users = {} if bounds is None else dict(leaves_with_names(bounds))
    if bounds is not None and not isinstance(bounds, dict):
        raise TypeError(f"bounds: expected a partial tree of (lowest, highest), got {type(bounds).__name__}")
    _check_known("bounds", users, described)
    limits = {}
    for name, parameter in leaves_with_names(described):
        pair = users.get(name, parameter.bounds)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"bounds: {name} expects (lowest, highest), got {pair!r}")
        try:
            low, high = (_side(side, parameter.shape, dtype) for side in pair)
        except (TypeError, ValueError):
            raise ValueError(f"bounds: {name} expects numbers or shape {parameter.shape}, got {pair!r}") from None
        if is_concrete(low, high):
            if not np.all(np.asarray(low) < np.asarray(high)):
                raise ValueError(f"bounds: {name} expects lowest < highest, got {pair!r}")
            if parameter.is_logarithmic and np.any(np.asarray(low) < 0):
                raise ValueError(f"bounds: {name} is positive by its nature, got {pair!r}")
            if parameter.coordinate == "ratio" and not (np.all(np.asarray(low) > 0) and np.all(np.asarray(high) <= 1)):
                raise ValueError(f"bounds: {name} is an axis ratio in (0, 1], got {pair!r}")
        limits[name] = (low, high, name in users)
    return limits


def _side(value, shape, dtype):
    """One side of a pair of bounds as an array; NumPy if it is concrete, so that nothing is compiled for it."""
    if is_concrete(value):
        return np.broadcast_to(np.asarray(value, dtype), shape)
    return jnp.broadcast_to(jnp.asarray(value, dtype), shape)


def _check_inside(start, limits, fixed_names):
    outside = []
    for name, value in leaves_with_names(start):
        low, high, _ = limits[name]
        if name in fixed_names or not is_concrete(value, low, high):
            continue
        value, low, high = (np.asarray(item) for item in (value, low, high))
        if np.any(value < low) or np.any(value > high) or (np.any(value <= low) and np.any(low == 0)):
            interval = f"[{np.min(low):g}, {np.max(high):g}]"
            outside.append(f"{name} = {value} outside {interval}")
    if outside:
        raise ValueError("params: the start is out of bounds: " + "; ".join(outside))
