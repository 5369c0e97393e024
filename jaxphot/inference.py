"""Densities for people's own samplers and optimisers."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxphot.likelihood import check_likelihood, gaussian
from jaxphot.models.combinators import check_model
from jaxphot.parameters import check_params, parameters
from jaxphot.render import DEFAULT_SAMPLING, apply, check_image, prepare
from jaxphot.sampling import check_sampling


def log_likelihood(model, params, image, likelihood=None, sampling=DEFAULT_SAMPLING):
    """Logarithm of the probability density of the data, given the model with these parameters.

    Parameters
    ----------
    model : model
    params : dict
    image : Image
    likelihood : likelihood, optional
        Gaussian by default.
    sampling : rule

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
