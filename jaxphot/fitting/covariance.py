"""Covariance of the physical parameters from the solver's Fisher matrix in internal coordinates."""

import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm


def physical_covariance(state, coordinates, domain):
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
