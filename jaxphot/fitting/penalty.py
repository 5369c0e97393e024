"""Priors as a part of the loss: what a maximum a posteriori fit adds to the normal equations of the data."""

import jax
import jax.numpy as jnp

from jaxphot.priors import log_prior
from jaxphot.pytree import update


def penalty(priors, coordinates, complete, physical):
    """− log prior (less constants) of a flat vector of free parameters; `complete` gives the others."""
    return -log_prior(priors, update(complete, coordinates.unflatten(physical)), relative=True)


def penalized(evaluate, priors, coordinates, complete):
    """Normal equations of data and priors.

    The curvature of a prior is its Hessian in the physical parameters with negative eigenvalues set to 0.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(function, z, loss) → Evaluation`` of the data.
    priors : dict
        By key path.
    coordinates : Coordinates
    complete : dict
        Complete tree of parameters.

    Returns
    -------
    callable
        Of the same kind.
    """
    if not priors:
        return evaluate

    def both(function, z, loss):
        new = evaluate(function, z, loss)
        own = lambda physical: penalty(priors, coordinates, complete, physical)  # noqa: E731
        physical = coordinates.from_internal(z)
        derivative = coordinates.derivative(z, physical)
        value, gradient = jax.value_and_grad(own)(physical)
        hessian = derivative.T @ _positive(jax.hessian(own)(physical)) @ derivative
        return new._replace(
            loss=new.loss + value, gradient=new.gradient + gradient @ derivative, hessian=new.hessian + hessian
        )

    return both


def _positive(matrix):
    """The nearest matrix without negative eigenvalues; of unit diagonal meanwhile, as units differ."""
    diagonal = jnp.abs(jnp.diagonal(matrix))
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    finite = jnp.all(jnp.isfinite(matrix))
    scaled = jnp.where(finite, matrix / (scale[:, None] * scale[None, :]), jnp.eye(len(matrix), dtype=matrix.dtype))
    values, vectors = jnp.linalg.eigh(scaled)
    positive = (vectors * jnp.maximum(values, 0)[None, :]) @ vectors.T
    return jnp.where(finite, positive * scale[:, None] * scale[None, :], jnp.nan)
