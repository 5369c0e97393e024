"""Errors in large crowded fields: each source marginalised over its neighbours and over all that is shared.

The inverse of the bordered matrix in `blocks` is, for one source a,

    (H⁻¹)ₐₐ = (A⁻¹)ₐₐ + Xₐ S⁻¹ Xₐᵀ,    X = A⁻¹B,  S = C − BᵀX.

X and S are solved for exactly. (A⁻¹)ₐₐ is taken from the source and the dozen that it is coupled to most strongly,
with all couplings among them; what lies further is held. Of a source whose neighbours are blended with more distant
ones the errors are therefore slightly small; the error falls with every neighbour in between.
"""

import jax
import jax.numpy as jnp

from jaxphot.fitting import lm
from jaxphot.fitting.blocks import BlockBasis, conjugate_gradients, scaled_matrix
from jaxphot.fitting.covariance import carry_over, is_determined
from jaxphot.pytree import pytree, static_field

_NEIGHBOURS = 12
_EXACT = jax.lax.Precision.HIGHEST


@pytree
class BlockCovariance:
    """Covariance of each source's own parameters, and of those that are shared, in place of a (P, P) matrix.

    Attributes
    ----------
    blocks : (S, p, p) array
        Filled up for sources of fewer than p free parameters.
    corner : (D, D) array
    index : (S, p) array of int
        Positions in `Fit.names`; P where it is filled up.
    shared : (D,) array of int
    size : int
        P (static).
    """

    blocks: jax.Array
    corner: jax.Array
    index: jax.Array
    shared: jax.Array
    size: int = static_field()

    def diagonal(self):
        """Variances of all parameters, (P,), ordered as `Fit.names`."""
        flat = jnp.zeros(self.size + 1, self.blocks.dtype)
        flat = flat.at[self.index].set(jnp.diagonal(self.blocks, axis1=1, axis2=2))
        return flat.at[self.shared].set(jnp.diagonal(self.corner))[: self.size]

    def __mul__(self, factor):
        """All variances and covariances times a number."""
        return BlockCovariance(self.blocks * factor, self.corner * factor, self.index, self.shared, self.size)


def whole_covariance(function, fit):
    """The (P, P) covariance of a fit, for a function that needs it; a ValueError where there are only blocks of it."""
    if isinstance(fit.covariance, BlockCovariance):
        raise ValueError(
            f"{function}: the fit has a BlockCovariance, of each source's own parameters alone, as it has more than"
            " 1500; use its stderr and covariance.blocks, or fit a smaller window"
        )
    return fit.covariance


def block_covariance(state, layout, domain):
    """What `physical_covariance` returns, for a state whose Hessian is a `BlockMatrix`.

    Returns
    -------
    covariance : BlockCovariance
    undetermined : (P,) array of bool
    is_round : bool scalar
    """
    z, held, hessian = state.params, state.held, state.hessian
    size = hessian.size
    basis = domain.basis(z)
    if basis is None:
        eye = jnp.broadcast_to(jnp.eye(hessian.blocks.shape[1], dtype=z.dtype), hessian.blocks.shape)
        basis = BlockBasis(eye, jnp.eye(hessian.shared.size, dtype=z.dtype), hessian.index, hessian.shared)
    else:
        hessian = hessian.congruent(basis)
    ridge = 4 * size * jnp.finfo(z.dtype).eps
    matrix, scale = scaled_matrix(hessian, jnp.full_like(z, ridge), held)
    through = conjugate_gradients(matrix, matrix.cross)
    schur = matrix.corner - jnp.einsum("spd,spe->de", matrix.cross, through, precision=_EXACT)
    of_shared = jnp.linalg.inv(schur)
    own = local_inverses(matrix) + jnp.einsum("spd,de,sqe->spq", through, of_shared, through, precision=_EXACT)
    inflation = hessian.scatter(jnp.diagonal(own, axis1=1, axis2=2), jnp.diagonal(of_shared))
    nothing_known = (state.status == lm.NON_FINITE) | (state.status == lm.NO_DATA)
    null = ~held & (~is_determined(inflation, ridge) | (scale == 0))
    scale_own, scale_shared = hessian.gather(scale)
    own = own * scale_own[:, :, None] * scale_own[:, None, :]
    of_shared = of_shared * scale_shared[:, None] * scale_shared[None, :]
    return _physical((z, null, held), nothing_known, own, of_shared, basis, layout, hessian)


def _physical(vectors, nothing_known, own, of_shared, basis, layout, hessian):
    """Every block carried over by its own coordinates."""
    undetermined, is_round = jnp.zeros(hessian.size, bool), jnp.zeros((), bool)
    blocks, first = jnp.zeros_like(own), 0
    for group in layout.groups:
        rows, width = slice(first, first + len(group.index)), group.index.shape[1]
        first = rows.stop
        narrow = own[rows, :width, :width], basis.blocks[rows, :width, :width]
        found, unknown, is_rounded = _carry_each(group.coordinates, vectors, nothing_known, group.index, *narrow)
        blocks = blocks.at[rows, :width, :width].set(found)
        undetermined = undetermined.at[group.index].set(unknown)
        is_round |= jnp.any(is_rounded)
    alone = of_shared[None], basis.corner[None]
    corner, unknown, is_rounded = _carry_each(layout.coordinates, vectors, nothing_known, layout.shared[None], *alone)
    undetermined = undetermined.at[layout.shared].set(unknown[0])
    covariance = BlockCovariance(blocks, corner[0], hessian.index, hessian.shared, hessian.size)
    return covariance, undetermined, is_round | is_rounded[0]


def _carry_each(coordinates, vectors, nothing_known, index, inverse, basis):
    paired = {place for pair in coordinates.pairs for place in pair}
    dimensionless = tuple(k for k, is_log in enumerate(coordinates.logarithmic) if is_log or k in paired)

    def one(z, inverse, basis, null, held):
        return carry_over(z, inverse, basis, null, held, nothing_known, coordinates, dimensionless)

    z, null, held = (vector[index] for vector in vectors)
    return jax.vmap(one)(z, inverse, basis, null, held)


def local_inverses(matrix):
    """(A⁻¹)ₐₐ of every source a, from it and its neighbours alone: (S, p, p) array.

    Parameters
    ----------
    matrix : BlockMatrix
        With a unit diagonal, and a ridge.
    """
    count, width, _ = matrix.blocks.shape
    neighbours, coupling = _strongest(matrix)
    nobody = jnp.zeros_like(matrix.couplings[:1])
    couplings = jnp.concatenate([matrix.couplings, nobody, jnp.swapaxes(matrix.couplings, 1, 2), nobody])
    blocks = jnp.concatenate([matrix.blocks, jnp.eye(width, dtype=matrix.blocks.dtype)[None]])
    nothing = len(matrix.couplings)

    def one(a):
        members = jnp.concatenate([neighbours[a], a[None]])  # itself last: its block of the inverse is then at hand
        side = members.size
        theirs, numbers = neighbours[members], coupling[members]
        same = (theirs[:, None, :] == members[None, :, None]) & (members < count)[None, :, None]
        number = jnp.where(jnp.any(same, axis=2), jnp.max(jnp.where(same, numbers[:, None, :], 0), axis=2), nothing)
        upper = couplings[number]
        known = jnp.any(same, axis=2)[:, :, None, None]
        upper = jnp.where(known, upper, jnp.swapaxes(jnp.swapaxes(upper, 0, 1), 2, 3))
        whole = upper.at[jnp.arange(side), jnp.arange(side)].set(blocks[members])
        whole = jnp.swapaxes(whole, 1, 2).reshape(side * width, side * width)
        factor = jnp.linalg.cholesky(whole)[-width:, -width:]
        half = jax.scipy.linalg.solve_triangular(factor, jnp.eye(width, dtype=whole.dtype), lower=True)
        return jnp.matmul(half.T, half, precision=_EXACT)

    return jax.lax.map(one, jnp.arange(count, dtype=jnp.int32), batch_size=64)


def _strongest(matrix):
    """Neighbours (S + 1, K) of every source by strength, S where there are no more, and numbers of their couplings.

    A number beyond M stands for the transpose: the source is the second of its pair.
    """
    count, many = len(matrix.blocks), len(matrix.couplings)
    strength = jnp.sum(matrix.couplings**2, axis=(1, 2))
    pairs, numbers = matrix.pairs.astype(jnp.int32), jnp.arange(many, dtype=jnp.int32)
    source, other = jnp.concatenate([pairs[:, 0], pairs[:, 1]]), jnp.concatenate([pairs[:, 1], pairs[:, 0]])
    number = jnp.concatenate([numbers, numbers + (many + 1)])
    order = jnp.lexsort((-jnp.concatenate([strength, strength]), source))
    source, other, number = source[order], other[order], number[order]
    rank = jnp.arange(source.size, dtype=jnp.int32) - jnp.searchsorted(source, source).astype(jnp.int32)
    kept = (rank < _NEIGHBOURS) & (source < count)
    at = jnp.where(kept, source, count + 1), jnp.where(kept, rank, 0)
    shape = count + 1, _NEIGHBOURS
    neighbours = jnp.full(shape, count, jnp.int32).at[at].set(other, mode="drop")
    coupling = jnp.full(shape, many, jnp.int32).at[at].set(number, mode="drop")
    return neighbours, coupling
