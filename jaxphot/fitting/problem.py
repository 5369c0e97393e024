"""The door of a fit: what is free, where it may go, and errors that name what is wrong with the input."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.coordinates import Coordinates, make_coordinates
from jaxphot.fitting.groups import Joint, make_groups, positions, separable
from jaxphot.image import crop
from jaxphot.image_sets import Named, check_overlap, crop_images, free_of, make_set, unlinked
from jaxphot.likelihood import check_likelihood, check_usable, gaussian
from jaxphot.models.combinators import check_model
from jaxphot.noise_models import Correlated, Gaussian
from jaxphot.numerics import array_namespace
from jaxphot.parameters import Parameter, check_params, describe, parameters
from jaxphot.priors import as_priors, as_pytree, bounds_of
from jaxphot.pytree import branch, is_concrete, leaves_with_names, subtree, update
from jaxphot.render import DEFAULT_SAMPLING, check_image
from jaxphot.sampling import check_sampling
from jaxphot.shared import is_below


class Setup(NamedTuple):
    """What is static in a fit: it decides which program is compiled. Hashable.

    Attributes
    ----------
    model : model or Joint
    coordinates : Coordinates
    bounded : tuple of str
        Key paths of free parameters with bounds of the user's.
    likelihood : likelihood
    sampling : rule
    scale_covariance : bool
    has_priors : bool
    is_linear : bool
        The model is linear in all that is free: the first step leads to the solution.
    """

    model: object
    coordinates: Coordinates
    bounded: tuple
    likelihood: object
    sampling: object
    scale_covariance: bool
    has_priors: bool = False
    is_linear: bool = False


class Lane(NamedTuple):
    """What differs from one fit to the next: arrays only.

    Attributes
    ----------
    start : dict
        Complete tree of parameters.
    image : Image, or tuple of stacks
        Of a `Joint`: one a group.
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

    @property
    def images(self):
        """The image, or all stacks of images."""
        return self.image if type(self.image) is tuple else (self.image,)

    @property
    def dtype(self):
        """Of all images."""
        return self.images[0].dtype


def make_problem(
    model, params, image, *, max_steps, rtol, per_image=None, transform_free=None, linear=None, priors=None, **options
):
    """Check the arguments of `fit` (see there) and sort them into what is compiled and what is computed with.

    Returns
    -------
    Setup, Lane
    """
    check_number("max_steps", max_steps, 0)
    if rtol is not None:
        check_number("rtol", rtol, 0)
    numbers = lm.RTOL if rtol is None else rtol, max_steps
    priors = as_priors(priors)
    options["bounds"] = _with_priors(options["bounds"], priors)
    args, several = (model, params, image, numbers), (per_image, transform_free, linear, bool(priors))
    if isinstance(model, (dict, Named)) or isinstance(image, dict) or per_image is not None or transform_free:
        setup, lane = _joint_problem(*args, *several, **options)
    else:
        setup, lane = _problem(*args, **options)
        if linear is not None and _is_linear(setup, lane, linear, bool(priors)):
            setup = setup._replace(is_linear=True)
        elif linear is not None:
            setup, lane = _joint_problem(*args, *several, **options)
    _check_known("priors", {name for name, _ in priors if name}, lane.start)
    return setup._replace(has_priors=bool(priors)), lane._replace(priors=as_pytree(priors, lane.dtype))


def declared(model, image, options):
    """What is declared of all parameters of a fit with these (name, value) of options."""
    several = {name: value for name, value in options if name in ("per_image", "transform_free")}
    if isinstance(model, Named) or several["per_image"] is not None or several["transform_free"]:
        return make_set(model, image, **several)[0].parameters()
    check_model(model)
    return parameters(model)


def _is_linear(setup, lane, linear, has_priors):
    """All that is free are amplitudes that are named: the fit is one linear solve, however many they are."""
    described = dict(leaves_with_names(describe(parameters(setup.model), lane.start)))
    free = dict(setup.coordinates.paths)
    declared = {path for path in free if described[path].linear}
    quadratic = not has_priors and isinstance(setup.likelihood, (Gaussian, Correlated))
    if not free or declared != set(free) or not quadratic:
        return False
    return _linear(linear, described, free, declared, True) == set(free)


def _problem(model, params, image, numbers, *, fixed, bounds, window, likelihood, sampling, scale_covariance):
    """`make_problem` for one image."""
    likelihood = gaussian() if likelihood is None else likelihood
    check_model(model)
    check_sampling(sampling)
    check_likelihood(likelihood)
    check_image(image)
    if window is not None:
        image = crop(image, window)
    start, coordinates, bounded, limits = _parameters(parameters(model), params, fixed, bounds, image.dtype)
    check_usable(likelihood, model, start, image)
    setup = Setup(model, coordinates, bounded, likelihood, sampling, bool(scale_covariance))
    return setup, Lane(start, image, limits, *numbers)


def _joint_problem(
    model,
    params,
    image,
    numbers,
    per_image,
    transform_free,
    linear,
    has_priors,
    *,
    fixed,
    bounds,
    window,
    likelihood,
    sampling,
    scale_covariance,
):
    """`make_problem` for a set of images, or one whose transform has parameters or whose amplitudes are named."""
    images, image = make_set(model, crop_images(image, window), per_image, transform_free)
    likelihoods, samplings, members = _each_image(images, image, likelihood, sampling)
    declared, dtype = images.parameters(), members[0].dtype
    start = images.start(params, image)
    start, coordinates, bounded, limits = _parameters(declared, start, fixed, bounds, dtype)
    free = subtree(start, dict(coordinates.paths))
    groups, stacks, touched = make_groups(images, start, image, free, likelihoods, samplings)
    _check_usable(images, start, image, likelihoods)
    check_overlap(images, start, image)
    described = dict(leaves_with_names(describe(declared, start)))
    quadratic = not has_priors and all(isinstance(own, (Gaussian, Correlated)) for own in likelihoods)
    names = _linear(linear, described, dict(coordinates.paths), separable(groups, touched), quadratic)
    at = [position for name in sorted(names) for position in positions(coordinates)[name]]
    limited = any(name in bounded or np.any(np.isfinite(described[name].bounds)) for name in names)
    joint = Joint(images, groups, tuple(at), limited)
    setup = Setup(joint, coordinates, bounded, likelihoods[0], samplings[0], bool(scale_covariance))
    return setup, Lane(start, stacks, limits, *numbers)


def _each_image(images, image, likelihood, sampling):
    """Checked likelihood and rule of every image, and the images."""
    likelihoods = images.each(likelihood, "likelihood", gaussian())
    samplings = images.each(sampling, "sampling", DEFAULT_SAMPLING)
    members = list(image.values()) if isinstance(image, dict) else [image] * len(images.keys)
    for own, rule in zip(likelihoods, samplings, strict=True):
        check_likelihood(own)
        check_sampling(rule)
    return likelihoods, samplings, members


def _check_usable(images, theta, image, likelihoods):
    """Refuse images or models that lack what their likelihoods need."""
    for place, (model, likelihood) in enumerate(zip(images.models, likelihoods, strict=True)):
        check_usable(likelihood, *unlinked(model, images.select(place, theta)), images.image(image, place))


def make_joint(model, params, image, likelihood, sampling, per_image):
    """A set of images of which nothing is free: `Joint`, complete tree of parameters, and stacks of images."""
    images, image = make_set(model, image, per_image, free_of(params, image))
    likelihoods, samplings, members = _each_image(images, image, likelihood, sampling)
    theta = check_params(images.parameters(), images.start(params, image), members[0].dtype)
    groups, stacks, _ = make_groups(images, theta, image, {}, likelihoods, samplings)
    _check_usable(images, theta, image, likelihoods)
    return Joint(images, groups), theta, stacks


def _linear(wanted, described, free, fine, quadratic):
    """Key paths of the free parameters that are solved exactly."""
    if wanted is None:
        return {path for path in free if quadratic and path in fine and described[path].linear}
    if isinstance(wanted, str):
        raise TypeError(f"linear: expected a sequence of key paths, got the string {wanted!r}")
    if wanted and not quadratic:
        raise ValueError("linear: amplitudes are solved exactly under Gaussian noise without priors only")
    names = set()
    for name in wanted:
        below = [path for path in described if is_below(path, [name])]
        if not below:
            raise ValueError(f"linear: unknown {name}; there are {', '.join(described)}")
        # of a view's parameters nothing may be said
        plain = {path for path in below if described[path] == Parameter(shape=described[path].shape)}
        chosen = [path for path in below if described[path].linear or path in plain]
        if not chosen:
            raise ValueError(f"linear: {name} is no amplitude: the model is not proportional to it")
        for path in (path for path in chosen if path in free):
            if path not in fine:
                raise ValueError(
                    f"linear: {path} cannot be solved for by itself: it is not the only amplitude of its component, or"
                    " changes more than amplitudes; fix the component's other parameters, or leave it out"
                )
            names.add(path)
    return names


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


def _parameters(declared, params, fixed, bounds, dtype):
    """Canonical start, coordinates, key paths that the user bounds, and bounds in internal coordinates."""
    fixed = {} if fixed is None else fixed
    values = _fixed_values(fixed, params)
    params = update(params, values) if isinstance(params, dict) else params
    start = check_params(declared, params, dtype)
    described = describe(declared, start)
    fixed_names = {name for name, _ in leaves_with_names(_whole_branches(fixed, described))} if fixed else set()
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


def _whole_branches(fixed, described):
    """`fixed` with every leaf of a branch named where the branch itself is None (or True)."""
    if not isinstance(described, dict) or not (fixed is None or fixed is True or isinstance(fixed, dict)):
        return fixed
    if isinstance(fixed, dict):
        return {key: _whole_branches(value, described.get(key)) for key, value in fixed.items()}
    return {key: _whole_branches(None, child) for key, child in described.items()}


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
