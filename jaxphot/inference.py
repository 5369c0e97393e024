"""Densities for people's own samplers and optimisers."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxphot.fitting.coordinates import make_coordinates
from jaxphot.fitting.joint import joint_equations
from jaxphot.fitting.problem import make_joint
from jaxphot.likelihood import check_likelihood, gaussian
from jaxphot.models.combinators import check_model
from jaxphot.parameters import check_params, parameters
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
    likelihood = gaussian() if likelihood is None else likelihood
    check_model(model)
    check_likelihood(likelihood)
    check_sampling(sampling)
    check_image(image)
    params = check_params(parameters(model), params, image.dtype)
    return _log_likelihood(model, params, image, likelihood, sampling)


@partial(jax.jit, static_argnums=(0, 3, 4))
def _log_likelihood(model, params, image, likelihood, sampling):
    value = apply(prepare(image, sampling), model, params)
    return likelihood.log_normalization(image) - jnp.sum(likelihood.terms(value, image).loss)


@partial(jax.jit, static_argnums=0)
def _joint_log_likelihood(joint, theta, stacks):
    equations = joint_equations(joint, make_coordinates({}, (), ()), theta, stacks)
    loss, normalization = equations.terms(jnp.zeros(0, stacks[0].dtype))
    return normalization - loss
