"""What the errors of a fit are worth, in other ways than its covariance; and data that a model would make.

Functions that begin from a `Fit` take the model, the fit and the image, and in ``**options`` those with which it was
fitted (`likelihood`, `sampling`, `window`, `bounds`, `priors`). What was fixed stays fixed.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxphot.fitting.coordinates import make_coordinates
from jaxphot.fitting.covariance import inverse_where_free
from jaxphot.fitting.groups import Joint
from jaxphot.fitting.implicit import free_hessian
from jaxphot.fitting.joint import joint_equations
from jaxphot.fitting.neighbours import whole_covariance
from jaxphot.fitting.problem import make_joint, make_problem
from jaxphot.fitting.solve import complete_options
from jaxphot.fitting.stages import domain_of, evaluation_of, start_of, values_of
from jaxphot.likelihood import check_likelihood, check_usable, gaussian, log_density
from jaxphot.models.combinators import check_model
from jaxphot.noise_models import Correlated, noise_parameters
from jaxphot.parameters import check_params, parameters
from jaxphot.pytree import branch, leaves_with_names, update
from jaxphot.render import DEFAULT_SAMPLING, apply, check_image, prepare
from jaxphot.sampling import check_sampling


def log_likelihood(model, params, image, likelihood=None, sampling=DEFAULT_SAMPLING, *, per_image=None):
    """Logarithm of the probability density of the data, given the model with these parameters.

    Parameters
    ----------
    model : model, or dict of model
    params : dict
        For a set of images that of the whole set, as in `fit`; transforms under ``_image`` included.
    image : Image, dict of Image, or a stack with `per_image`
    likelihood : likelihood, optional
        Gaussian by default; for a set also a dictionary.
    sampling : rule
        For a set also a dictionary.
    per_image : sequence of str, optional
        Key paths of parameters that each image of a stack has its own of, as for `fit`.

    Returns
    -------
    scalar array
        Pure; differentiable in `params`.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.ones((2, 2)), std=1.0)
    >>> round(float(log_likelihood(jp.models.flat_sky, {"I0": 1.0}, image)), 4)
    -3.6758
    """
    if isinstance(model, dict) or isinstance(image, dict) or per_image is not None:
        joint, theta, stacks = make_joint(model, params, image, likelihood, sampling, per_image)
        return _joint_log_likelihood(joint, theta, stacks)
    likelihood, params = _checked(model, params, image, likelihood, sampling)
    return _log_likelihood(model, params, image, likelihood, sampling)


def _checked(model, params, image, likelihood, sampling):
    likelihood = gaussian() if likelihood is None else likelihood
    check_model(model)
    check_likelihood(likelihood)
    check_sampling(sampling)
    check_image(image)
    params = check_params(parameters(model), params, image.dtype)
    check_usable(likelihood, model, params, image)
    return likelihood, params


@partial(jax.jit, static_argnums=(0, 3, 4))
def _log_likelihood(model, params, image, likelihood, sampling):
    value = apply(prepare(image, sampling), model, params)
    return log_density(likelihood, model, params, value, image)


@partial(jax.jit, static_argnums=0)
def _joint_log_likelihood(joint, theta, stacks):
    equations = joint_equations(joint, make_coordinates({}, (), ()), theta, stacks)
    loss, normalization = equations.terms(jnp.zeros(0, stacks[0].dtype))
    return normalization - loss


def simulate(model, params, image, key, likelihood=None, sampling=DEFAULT_SAMPLING):
    """An image of a model with noise drawn from the likelihood: for bootstraps and posterior predictions.

    Parameters
    ----------
    model : model
    params : dict
    image : Image
        Gives shape, transform, PSF, ivar and gain.
    key : JAX random key
    likelihood : likelihood, optional
        Gaussian by default.
    sampling : rule

    Returns
    -------
    Image
        `image` with other data. Pure.

    Examples
    --------
    >>> import jax, numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.zeros((50, 50)), std=2.0)
    >>> drawn = simulate(jp.models.flat_sky, {"I0": 5.0}, image, jax.random.key(1))
    >>> bool(abs(drawn.data.std() - 2.0) < 0.1)
    True
    """
    likelihood, params = _checked(model, params, image, likelihood, sampling)
    return replace(image, data=_draw(model, params, image, key, likelihood, sampling))


@partial(jax.jit, static_argnums=(0, 4, 5))
def _draw(model, params, image, key, likelihood, sampling):
    value = apply(prepare(image, sampling), model, params)
    return likelihood.draw(key, value, image, noise_parameters(model, params))


class Propagated(NamedTuple):
    """A function of the best parameters with its errors; made by `propagate`.

    Attributes
    ----------
    value : pytree
        What the function returned.
    stderr : pytree
        Of the same structure.
    covariance : (K, K) array
        Of all K numbers of it, in the order of ``jax.tree.leaves``.
    """

    value: object
    stderr: object
    covariance: jax.Array


def propagate(function, fit):
    """Value and errors of any function of a fit's parameters, to first order (the delta method).

    Parameters
    ----------
    function : callable
        ``function(params) → pytree`` of floating-point numbers or arrays, in jax.numpy; it gets the complete tree.
    fit : Fit
        Of one image; map over a batch with ``jax.vmap(lambda one: propagate(function, one))(fits)``.

    Returns
    -------
    Propagated
        Parameters that are held at a bound do not vary; the errors are NaN if one varies that is not determined.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> result = jp.fit(jp.models.flat_sky, {"I0": 1.0}, jp.make_image(np.full((8, 8), 3.0), std=1.0))
    >>> squared = propagate(lambda params: params["I0"] ** 2, result)
    >>> round(float(squared.value), 3), round(float(squared.stderr), 3)  # 2 · 3 · 0.125
    (9.0, 0.75)
    """
    free, rebuild = _free(fit)
    held = ravel_pytree(fit.at_bound)[0].astype(bool) if fit.names else jnp.zeros(0, bool)
    covariance = jnp.where(held[:, None] | held[None, :], 0, whole_covariance("propagate", fit))

    def flat(vector):
        value = jax.tree.map(jnp.asarray, function(rebuild(vector)))
        return ravel_pytree(value)[0], value

    value = flat(free)[1]
    directions = jnp.eye(free.size, dtype=free.dtype)
    columns = jax.vmap(lambda direction: jax.jvp(lambda v: flat(v)[0], (free,), (direction,))[1])(directions)
    unknown = jnp.isnan(jnp.diagonal(covariance))
    safe = jnp.where(unknown[:, None] | unknown[None, :], 0, covariance)
    result = columns.T @ safe @ columns
    lost = jnp.any((columns != 0) & unknown[:, None], axis=0)
    result = jnp.where(lost[:, None] | lost[None, :], jnp.nan, result)
    _, unravel = ravel_pytree(value)
    return Propagated(value, unravel(jnp.sqrt(jnp.diagonal(result))), result)


def _free(fit):
    """The free parameters of a fit as a vector ordered as its names, and the way back to the complete tree."""
    tree = {}
    values = dict(leaves_with_names(fit.params))
    for path, _ in leaves_with_names(fit.stderr) if fit.stderr else ():
        tree = update(tree, branch(path, jnp.asarray(values[path])))
    vector, unravel = ravel_pytree(tree)
    return vector, lambda vector: update(fit.params, unravel(vector))


def problem_at(model, fit, image, options):
    """Setup and lane at the best parameters of a fit, with what was fixed fixed."""
    free = {path for path, _ in leaves_with_names(fit.stderr)} if fit.stderr else set()
    options = complete_options("options", options)
    options["fixed"] = held_fixed(fit, free)
    return make_problem(model, fit.params, image, **options)


def held_fixed(fit, free):
    """Tree for `fixed` that holds all parameters of a fit but those with the given key paths."""
    fixed = {}
    for path, _ in leaves_with_names(fit.params):
        fixed = fixed if path in free else update(fixed, branch(path, None))
    return fixed


@partial(jax.jit, static_argnums=(0, 2))
def _robust(setup, lane, block):
    """Sandwich covariance of the free physical parameters; NaN where held."""
    coordinates, domain = setup.coordinates, domain_of(setup, lane)
    z = coordinates.to_internal(start_of(setup, lane))
    loss = partial(setup.likelihood.terms, image=lane.image)
    evaluate = evaluation_of(setup, lane)
    here = evaluate(z)
    basis = domain.basis(z)
    basis = jnp.eye(z.size, dtype=z.dtype) if basis is None else basis
    held = domain.outward(z, basis.T @ here.gradient)
    bread = free_hessian(lambda point: evaluate(point).gradient, z, held, domain)

    values = lambda z: values_of(setup, lane)(coordinates.from_internal(z))  # noqa: E731
    value, columns = jax.vmap(lambda t: jax.jvp(values, (z,), (t,)), out_axes=(None, 0))(basis.T)
    scores = columns * loss(value).gradient[None]
    scores = jnp.sum(scores.reshape(z.size, -1, *scores.shape[-2:]), axis=1)  # all there is of one pixel
    scores = _block_sums(scores, block).reshape(z.size, -1)
    scores = jnp.where(held[:, None], 0, scores)
    inverse, _ = inverse_where_free(bread, held)
    internal = basis @ inverse @ (scores @ scores.T) @ inverse.T @ basis.T
    derivative = coordinates.derivative(z)
    covariance = derivative @ internal @ derivative.T
    return jnp.where(held[:, None] | held[None, :], jnp.nan, covariance)


def _block_sums(values, block):
    """Sums over block × block pixels; those at the far edges may be smaller."""
    pads = [(0, 0), *((0, -side % block) for side in values.shape[1:])]
    values = jnp.pad(values, pads)
    count, ny, nx = values.shape
    return values.reshape(count, ny // block, block, nx // block, block).sum((2, 4))


def robust_errors(model, fit, image, *, block=1, **options):
    """Errors that hold though the noise is not as the likelihood says: the sandwich covariance.

    ``H⁻¹ (Σ s sᵀ) H⁻¹`` with the exact Hessian H and the scores s of pixels, or of blocks of pixels (Huber 1967; White
    1982, Econometrica 50, 1). It stays right where ivar is wrong, where outliers are (if the likelihood withstands
    them), and, with blocks wider than the correlation, where pixels are correlated. It asks for many pixels, and
    does not know of errors of the model itself.

    Parameters
    ----------
    model : model
    fit : Fit
    image : Image
    block : int
        Side of the blocks of pixels that count as one datum.
    **options
        Those of the fit.

    Returns
    -------
    Fit
        The same with other `covariance` and `stderr`; NaN where held at a bound.
    """
    if isinstance(block, bool) or int(block) != block or block < 1:
        raise ValueError(f"block: expected an integer ≥ 1, got {block!r}")
    setup, lane = problem_at(model, fit, image, options)
    if isinstance(setup.model, Joint):
        raise ValueError("model: robust_errors is for a model and an image, not yet for sets of images")
    if isinstance(setup.likelihood, Correlated):
        raise ValueError("likelihood: correlated() has no scores of single pixels; fit with gaussian() and use block=")
    covariance = _robust(setup, lane, int(block))
    stderr = jnp.sqrt(jnp.diagonal(covariance))
    return replace(fit, covariance=covariance, stderr=setup.coordinates.unflatten(stderr))


def laplace(model, fit, image, key, count=1000, **options):
    """Draws of the parameters from the Gaussian that the posterior resembles at the best fit.

    The Gaussian is one in the coordinates in which a fit steps (logarithms of scales, shears), so that scales stay
    positive and axis ratios below 1. What is held at a bound stays there, and no draw leaves the bounds.

    Parameters
    ----------
    model : model
    fit : Fit
    image : Image
    key : JAX random key
    count : int
        Static.
    **options
        Those of the fit.

    Returns
    -------
    dict
        Complete tree of parameters with a leading axis.
    """
    setup, lane = problem_at(model, fit, image, options)
    physical = _laplace(setup, lane, key, int(count))
    fixed = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (int(count), *np.shape(leaf))), lane.start)
    return update(fixed, jax.vmap(setup.coordinates.unflatten)(physical))


@partial(jax.jit, static_argnums=(0, 3))
def _laplace(setup, lane, key, count):
    domain = domain_of(setup, lane)
    z = setup.coordinates.to_internal(start_of(setup, lane))
    here = evaluation_of(setup, lane)(z)
    basis = domain.basis(z)
    basis = jnp.eye(z.size, dtype=z.dtype) if basis is None else basis
    held = domain.outward(z, basis.T @ here.gradient)
    inverse, _ = inverse_where_free(basis.T @ here.hessian @ basis, held)
    sigma = jnp.sqrt(jnp.maximum(jnp.diagonal(inverse), jnp.finfo(z.dtype).tiny))
    values, vectors = jnp.linalg.eigh(inverse / (sigma[:, None] * sigma[None, :]))
    root = sigma[:, None] * vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]
    steps = jax.random.normal(key, (count, z.size), z.dtype) @ root.T
    moved = z[None, :] + jnp.where(held[None, :], 0, steps) @ basis.T
    return jax.vmap(lambda own: setup.coordinates.from_internal(domain.project(own)))(moved)
