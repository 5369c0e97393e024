"""Covariance of the physical parameters from the solver's Fisher matrix in internal coordinates."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.numerics import diagonal, put, take

_UNKNOWN = 100.0  # standard error of a logarithm or shear beyond which the data say nothing of it: a factor of e^100


def physical_covariance(state, coordinates, domain):
    """Covariance of the physical parameters, which of them are not determined, and whether a shear means round.

    The inverse Fisher matrix of the directions that are not held, carried over by the coordinates' derivatives. The
    null space of the matrix, if it has one, marks the parameters that take part in it with NaN.
    """
    z, held = state.params, state.held
    basis = domain.basis(z)
    basis = jnp.eye(z.size, dtype=z.dtype) if basis is None else basis
    inverse, null = inverse_where_free(basis.T @ state.hessian @ basis, held)
    nothing_known = (state.status == lm.NON_FINITE) | (state.status == lm.NO_DATA)
    return carry_over(z, inverse, basis, null, held, nothing_known, coordinates, domain.dimensionless)


def carry_over(z, inverse, basis, null, held, nothing_known, coordinates, dimensionless):
    """From the inverse of a matrix in a basis of internal coordinates to the covariance of the physical parameters.

    Parameters
    ----------
    z : (P,) array
        Internal coordinates.
    inverse, basis : (P, P) arrays
    null, held : (P,) arrays of bool
        Directions of the basis that nothing determines, or that are held.
    nothing_known : bool scalar
        There were no data, or nothing finite: no parameter is determined.
    coordinates : Coordinates
    dimensionless : tuple of int
        Positions of logarithms and shears.

    Returns
    -------
    covariance : (P, P) array
    undetermined : (P,) array of bool
    is_round : bool scalar
    """
    internal = basis @ inverse @ basis.T
    derivative = coordinates.derivative(z)
    covariance = derivative @ internal @ derivative.T
    is_round = jnp.zeros((), bool)
    scale = jnp.ones_like(z)
    if coordinates.pairs:
        q, pa = np.asarray(coordinates.pairs).T
        variance = diagonal(internal)
        small = take(z, q) ** 2 + take(z, pa) ** 2 < jnp.maximum(take(variance, q), take(variance, pa))
        is_round = jnp.any(small)
        widest = jnp.pi / np.sqrt(12).item()
        error = jnp.sqrt(jnp.maximum(take(diagonal(covariance), pa), 0))
        scale = put(scale, pa, jnp.where(small, widest / jnp.maximum(error, widest), 1))
    covariance = covariance * scale[:, None] * scale[None, :]
    undetermined = (jnp.abs(derivative) @ jnp.abs(basis) @ null.astype(z.dtype)) > 0
    # a source without light leaves its shape a trace of rounding errors to be determined from
    dimensionless = np.isin(np.arange(z.size), dimensionless)
    undetermined |= dimensionless & ~held & (diagonal(internal) > _UNKNOWN**2)
    undetermined |= nothing_known
    # a held direction is a parameter of the same place in the vector: a shear held along its radius is a held q
    unknown = undetermined | held
    return jnp.where(unknown[:, None] | unknown[None, :], jnp.nan, covariance), undetermined, is_round


def inverse_where_free(hessian, held):
    """Inverse over the directions not held, and a mask of those that a null vector of the matrix involves.

    With a ridge of the size of rounding, a direction in the null space gets a variance beyond anything that the data
    could have determined in this dtype, while the others' stay what they are.
    """
    ridge = 4 * hessian.shape[0] * jnp.finfo(hessian.dtype).eps
    eye = jnp.eye(hessian.shape[0], dtype=hessian.dtype)
    inverse = jax.vmap(lm.solve_scaled, (None, 0, None, None))(hessian, eye, ridge, held)
    return inverse, ~held & ~is_determined(diagonal(inverse) * diagonal(hessian), ridge)


def is_determined(inflation, ridge):
    """Whether a variance, in units of what it would be if all else were known, is no work of the ridge."""
    return (inflation > 0) & (inflation < 0.1 / ridge)
