"""One fit: what is free, where it may go, Levenberg–Marquardt, and what the result says of itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.amplitudes import find_amplitudes
from jaxphot.fitting.coordinates import make_coordinates
from jaxphot.image import crop
from jaxphot.likelihood import Gaussian, Poisson, check_likelihood, gaussian
from jaxphot.models.combinators import check_model
from jaxphot.parameters import check_params, describe, parameters
from jaxphot.pytree import is_concrete, leaves_with_names, pytree, static_field, update
from jaxphot.render import DEFAULT_SAMPLING, apply, check_image, prepare
from jaxphot.sampling import check_sampling

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
    round : bool scalar
        An axis ratio is closer to 1 than its error; its position angle means nothing (stderr π/√12).
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
    round: jax.Array
    names: tuple = static_field(default=())


def status_message(status):
    """A fit's status in words; a list of them for a batch.

    Examples
    --------
    >>> status_message(0)
    'converged'
    """
    codes = np.asarray(status)
    if codes.ndim:
        return [status_message(code) for code in codes]
    return MESSAGES.get(int(codes), f"unknown status {int(codes)}")


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
    likelihood = gaussian() if likelihood is None else likelihood
    check_model(model)
    check_sampling(sampling)
    check_likelihood(likelihood)
    check_image(image)
    _check_gain(likelihood, image)
    if window is not None:
        image = crop(image, window)
    _check_number("max_steps", max_steps, 0)
    if rtol is not None:
        _check_number("rtol", rtol, 0)
    start, coordinates, limits = _problem(model, params, fixed, bounds, image.dtype)
    rtol = 1e-3 if rtol is None else rtol
    return _fit(
        model, coordinates, likelihood, sampling, bool(scale_covariance),
        start, image, limits, rtol, max_steps,
    )  # fmt: skip


def _check_number(name, value, above):
    if is_concrete(value) and not (np.ndim(value) == 0 and np.isfinite(value) and value > above):
        raise ValueError(f"{name}: expected a number > {above}, got {value!r}")


def _check_gain(likelihood, image):
    if isinstance(likelihood, Poisson) and is_concrete(image.gain) and not np.all(np.asarray(image.gain) > 0):
        raise ValueError(
            "likelihood: poisson() needs the image's gain (counts = data · gain); pass gain= on building it"
        )


def _problem(model, params, fixed, bounds, dtype):
    """Canonical start, coordinates, and (lower, upper) of every free parameter by key path."""
    declared = parameters(model)
    fixed = {} if fixed is None else fixed
    values = _fixed_values(fixed, params)
    params = update(params, values) if isinstance(params, dict) else params
    start = check_params(declared, params, dtype)
    described = describe(declared, start)
    fixed_names = {name for name, _ in leaves_with_names(fixed)} if fixed else set()
    _check_known("fixed", fixed_names, described)
    limits = _limits(bounds, described, dtype)
    _check_inside(start, limits, fixed_names)
    bounded = [name for name, (_, _, is_users) in limits.items() if is_users]
    coordinates = make_coordinates(described, fixed_names, bounded)
    free = {path: limits[path][:2] for path, _ in coordinates.paths}
    return start, coordinates, free


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


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _fit(model, coordinates, likelihood, sampling, scale_covariance, start, image, limits, rtol, max_steps):
    prepared = prepare(image, sampling)
    loss = partial(likelihood.terms, image=image)
    good = jnp.sum(~image.mask, dtype=jnp.int32)
    dof = good - coordinates.size
    if coordinates.size == 0:
        return _nothing_free(apply(prepared, model, start), loss, start, good)

    def pixels(physical):
        return apply(prepared, model, update(start, coordinates.unflatten(physical)))

    sides = [jnp.concatenate([jnp.ravel(limits[path][side]) for path, _ in coordinates.paths]) for side in (0, 1)]
    domain = coordinates.domain(*sides)
    free_start = coordinates.flatten(_take(start, coordinates.paths))
    z = domain.project(coordinates.to_internal(free_start))
    state = lm.run(
        pixels,
        z,
        max_steps=max_steps,
        loss=loss,
        domain=domain,
        rtol=rtol,
        amplitudes=find_amplitudes(model, coordinates) if isinstance(likelihood, Gaussian) else None,
        evaluate=partial(lm.normal_equations, coordinates=coordinates),
    )
    # directions of a basis that is not the axes are held; both of their parameters then are
    covariance, undetermined, is_round = _covariance(state, coordinates, domain)
    if scale_covariance:
        covariance = covariance * (2 * state.loss / jnp.maximum(dof, 1))
    singular = (state.status == lm.CONVERGED) & jnp.any(undetermined)
    return Fit(
        params=update(start, coordinates.unflatten(coordinates.from_internal(state.params))),
        stderr=coordinates.unflatten(jnp.sqrt(jnp.diagonal(covariance))),
        covariance=covariance,
        chi2=2 * state.loss,
        dof=dof,
        steps=state.steps,
        evaluations=state.evaluations,
        status=jnp.where(singular, lm.SINGULAR, state.status),
        at_bound=coordinates.unflatten(state.held),
        round=is_round,
        names=coordinates.names,
    )


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


def _nothing_free(value, loss, start, good):
    terms = loss(value)
    total = 2 * jnp.sum(terms.loss)
    status = jnp.where(jnp.isfinite(total), lm.CONVERGED, lm.NON_FINITE)
    zero = jnp.zeros((), jnp.int32)
    return Fit(
        params=start, stderr={}, covariance=jnp.zeros((0, 0), value.dtype), chi2=total, dof=good, steps=zero,
        evaluations=zero + 1, status=jnp.where(good == 0, lm.NO_DATA, status).astype(jnp.int32), at_bound={},
        round=jnp.zeros((), bool), names=(),
    )  # fmt: skip


def _covariance(state, coordinates, domain):
    """Covariance of the physical parameters, which of them are not determined, and whether a shear means round.

    The inverse Fisher matrix of the directions that are not held, carried over by the coordinates' derivatives. The
    null space of the matrix, if it has one, marks the parameters that take part in it with NaN.
    """
    z, held = state.params, state.held
    basis = domain.basis(z)
    basis = jnp.eye(z.size, dtype=z.dtype) if basis is None else basis
    inverse, null = _inverse(basis.T @ state.hessian @ basis, held)
    internal = basis @ inverse @ basis.T
    derivative = coordinates.derivative(z)
    covariance = derivative @ internal @ derivative.T
    is_round = jnp.zeros((), bool)
    scale = jnp.ones_like(z)
    for q, pa in coordinates.pairs:
        size2 = z[q] ** 2 + z[pa] ** 2
        small = size2 < jnp.maximum(internal[q, q], internal[pa, pa])
        is_round |= small
        widest = jnp.pi / np.sqrt(12).item()
        error = jnp.sqrt(jnp.maximum(covariance[pa, pa], 0))
        scale = scale.at[pa].set(jnp.where(small, widest / jnp.maximum(error, widest), 1))
    covariance = covariance * scale[:, None] * scale[None, :]
    undetermined = (jnp.abs(derivative) @ jnp.abs(basis) @ null.astype(z.dtype)) > 0
    unknown = undetermined | ((jnp.abs(derivative) @ jnp.abs(basis) @ held.astype(z.dtype)) > 0)
    for q, pa in coordinates.pairs:  # a shear held along its radius says nothing of q, but all of PA
        only_q = held[q] & ~null[q] & ~null[pa]
        unknown = unknown.at[pa].set(jnp.where(only_q, undetermined[pa], unknown[pa]))
    unknown = unknown | (state.status == lm.NON_FINITE) | (state.status == lm.NO_DATA)
    return jnp.where(unknown[:, None] | unknown[None, :], jnp.nan, covariance), undetermined, is_round


def _inverse(hessian, held):
    """Inverse over the directions not held, and a mask of those that a null vector of the matrix involves."""
    diagonal = jnp.diagonal(hessian)
    known = jnp.isfinite(diagonal) & (diagonal > 0)
    active = ~held & known
    scale = jnp.where(active, 1 / jnp.sqrt(jnp.where(active, diagonal, 1)), 0)
    matrix = jnp.where(active[:, None] & active[None, :], hessian, 0) * scale[:, None] * scale[None, :]
    matrix = jnp.where(jnp.isfinite(matrix), matrix, 0) + jnp.diag(jnp.where(active, 0, 1).astype(matrix.dtype))
    values, vectors = jnp.linalg.eigh(matrix)
    empty = values < 4 * values.size * jnp.finfo(values.dtype).eps
    inverse = (vectors * jnp.where(empty, 0, 1 / jnp.where(empty, 1, values))[None, :]) @ vectors.T
    involved = jnp.any(empty[None, :] & (jnp.abs(vectors) > 1e-2), axis=1)
    return inverse * scale[:, None] * scale[None, :], (involved & active) | (~known & ~held)
