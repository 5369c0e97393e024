"""Normal matrices of crowded fields: blocks of sources, couplings of stamps that overlap, a border of what is shared.

The matrix of S sources of at most p parameters, and D shared ones (skies, whole-frame galaxies), is

    ⎡ A   B ⎤      A: diagonal blocks (S, p, p) and couplings (M, p, p) of M pairs,
    ⎣ Bᵀ  C ⎦      B: (S, p, D),  C: (D, D).

A is solved by conjugate gradients, preconditioned by its diagonal blocks (block Jacobi), with the border as further
right-hand sides; the border then follows exactly, from its Schur complement.
"""

import jax
import jax.numpy as jnp

from jaxphot.numerics import solve_positive
from jaxphot.pytree import pytree, static_field

_MOST_TURNS = 400
_EXACT = jax.lax.Precision.HIGHEST


@pytree
class BlockMatrix:
    """A symmetric matrix of sources and shared parameters.

    Attributes
    ----------
    blocks : (S, p, p) array
        Zero in rows and columns that fill up sources of fewer parameters.
    pairs : (M, 2) array of int
        Sources a, b of each coupling; S in rows that only fill up.
    couplings : (M, p, p) array
        Rows of a, columns of b.
    cross : (S, p, D) array
    corner : (D, D) array
    index : (S, p) array of int
        Position of every source's parameters in the flat vector; its length for those that fill up.
    shared : (D,) array of int
        Position of the shared ones.
    size : int
        P, the length of the flat vector (static).
    """

    blocks: jax.Array
    pairs: jax.Array
    couplings: jax.Array
    cross: jax.Array
    corner: jax.Array
    index: jax.Array
    shared: jax.Array
    size: int = static_field()

    def gather(self, vector):
        """A flat vector as those of sources (S, p) and of what is shared (D,)."""
        return jnp.concatenate([vector, jnp.zeros(1, vector.dtype)])[self.index], vector[self.shared]

    def scatter(self, of_sources, of_shared):
        """The flat vector of both parts."""
        flat = jnp.zeros(self.size + 1, of_sources.dtype)
        return flat.at[self.index].add(of_sources).at[self.shared].add(of_shared)[: self.size]

    def coupled(self, vectors):
        """The part A, off its diagonal blocks, times (S, p, R) vectors."""
        first, second = self.pairs.T
        padded = jnp.concatenate([vectors, jnp.zeros_like(vectors[:1])])
        forth = jnp.einsum("mpq,mqr->mpr", self.couplings, padded[second], precision=_EXACT)
        back = jnp.einsum("mpq,mpr->mqr", self.couplings, padded[first], precision=_EXACT)
        return jnp.zeros_like(padded).at[first].add(forth).at[second].add(back)[:-1]

    def __matmul__(self, vector):
        """Matrix times a flat vector."""
        own, shared = self.gather(vector)
        own = own[..., None]
        product = jnp.einsum("spq,sqr->spr", self.blocks, own, precision=_EXACT) + self.coupled(own)
        product = product[..., 0] + jnp.einsum("spd,d->sp", self.cross, shared, precision=_EXACT)
        border = jnp.einsum("spd,sp->d", self.cross, own[..., 0], precision=_EXACT)
        return self.scatter(product, border + jnp.matmul(self.corner, shared, precision=_EXACT))

    def diagonal(self):
        """Of the whole matrix, (P,)."""
        return self.scatter(jnp.diagonal(self.blocks, axis1=1, axis2=2), jnp.diagonal(self.corner))

    def dense(self):
        """The matrix itself, (P, P)."""
        size, rows = self.size, jnp.concatenate([self.index, jnp.full_like(self.index[:1], self.size)])
        a, b = rows[self.pairs[:, 0]], rows[self.pairs[:, 1]]
        matrix = jnp.zeros((size + 1, size + 1), self.blocks.dtype)
        matrix = matrix.at[a[:, :, None], b[:, None, :]].add(self.couplings)
        matrix = matrix.at[self.index[:, :, None], self.shared[None, None, :]].add(self.cross)
        matrix = matrix + matrix.T
        matrix = matrix.at[self.index[:, :, None], self.index[:, None, :]].add(self.blocks)
        return matrix.at[self.shared[:, None], self.shared[None, :]].add(self.corner)[:size, :size]

    def congruent(self, basis):
        """BᵀHB for a basis of blocks."""
        turn, side = basis.blocks, basis.corner
        padded = jnp.concatenate([turn, jnp.zeros_like(turn[:1])])
        a, b = padded[self.pairs[:, 0]], padded[self.pairs[:, 1]]
        return BlockMatrix(
            _sandwich(turn, self.blocks, turn),
            self.pairs,
            _sandwich(a, self.couplings, b),
            jnp.einsum("spi,spd,de->sie", turn, self.cross, side, precision=_EXACT),
            jnp.einsum("di,de,ej->ij", side, self.corner, side, precision=_EXACT),
            self.index,
            self.shared,
            self.size,
        )


def _sandwich(left, middle, right):
    return jnp.einsum("spi,spq,sqj->sij", left, middle, right, precision=_EXACT)


@pytree
class BlockBasis:
    """An orthogonal matrix of a block for each source and one for what is shared; as in `BlockMatrix`."""

    blocks: jax.Array
    corner: jax.Array
    index: jax.Array
    shared: jax.Array

    @property
    def T(self):
        """The transpose."""
        return BlockBasis(jnp.swapaxes(self.blocks, 1, 2), self.corner.T, self.index, self.shared)

    def __matmul__(self, vector):
        """Basis times a flat vector."""
        own = jnp.concatenate([vector, jnp.zeros(1, vector.dtype)])[self.index]
        flat = jnp.zeros(vector.size + 1, vector.dtype)
        flat = flat.at[self.index].add(jnp.einsum("spq,sq->sp", self.blocks, own, precision=_EXACT))
        return flat.at[self.shared].add(jnp.matmul(self.corner, vector[self.shared], precision=_EXACT))[:-1]


def solve_blocks(hessian, rhs, damping, held):
    """As `lm.solve_scaled`, for a `BlockMatrix`: (H + λ diag H) δ = rhs, held and empty directions 0.

    Returns
    -------
    delta : (P,) array
        To a relative residual of 1e-6 (1e-4 in float32).
    """
    scaled, scale = scaled_matrix(hessian, damping, held)
    own, shared = hessian.gather(rhs * scale)
    solution, of_shared = _solve_bordered(scaled, own, shared)
    return scale * hessian.scatter(solution, of_shared)


def scaled_matrix(hessian, damping, held):
    """The matrix with a unit diagonal plus damping, and the scale of every parameter: 0 for those left out."""
    diagonal = hessian.diagonal()
    active = ~held & (diagonal > 0)
    scale = jnp.where(active, 1 / jnp.sqrt(jnp.where(active, diagonal, 1)), 0)
    own, shared = hessian.gather(scale)
    ridge, ridge_shared = hessian.gather(jnp.where(active, damping, 1))
    ridge = jnp.where(hessian.index < hessian.size, ridge, 1)
    padded = jnp.concatenate([own, jnp.zeros_like(own[:1])])
    a, b = padded[hessian.pairs[:, 0]], padded[hessian.pairs[:, 1]]
    eye = jnp.eye(own.shape[1], dtype=own.dtype)
    scaled = BlockMatrix(
        hessian.blocks * own[:, :, None] * own[:, None, :] + ridge[:, :, None] * eye[None],
        hessian.pairs,
        hessian.couplings * a[:, :, None] * b[:, None, :],
        hessian.cross * own[:, :, None] * shared[None, None, :],
        hessian.corner * shared[:, None] * shared[None, :] + jnp.diag(ridge_shared),
        hessian.index,
        hessian.shared,
        hessian.size,
    )
    return scaled, scale


def _solve_bordered(matrix, own, shared):
    """Solution of the whole system, (S, p) and (D,), by the Schur complement of the border."""
    both = conjugate_gradients(matrix, jnp.concatenate([own[..., None], matrix.cross], axis=-1))
    direct, through = both[..., 0], both[..., 1:]
    schur = matrix.corner - jnp.einsum("spd,spe->de", matrix.cross, through, precision=_EXACT)
    left = shared - jnp.einsum("spd,sp->d", matrix.cross, direct, precision=_EXACT)
    of_shared = solve_positive(schur, left) if shared.size else left
    return direct - jnp.einsum("spd,d->sp", through, of_shared, precision=_EXACT), of_shared


def conjugate_gradients(matrix, rhs):
    """A⁻¹ times (S, p, R) right-hand sides, all at once; Hestenes & Stiefel 1952, J. Res. NBS 49, 409."""
    inverse = inverse_blocks(matrix.blocks)
    tolerance = jnp.sqrt(jnp.finfo(rhs.dtype).eps) * 60  # 1e-6 in float64
    tolerance = jnp.minimum(tolerance, 1e-4)

    def dot(a, b):
        return jnp.einsum("spr,spr->r", a, b, precision=_EXACT)

    def precondition(residual):
        return jnp.einsum("spq,sqr->spr", inverse, residual, precision=_EXACT)

    def times(x):
        return jnp.einsum("spq,sqr->spr", matrix.blocks, x, precision=_EXACT) + matrix.coupled(x)

    def turn(state):
        x, residual, direction, size, count = state
        image = times(direction)
        curvature = dot(direction, image)
        length = jnp.where(curvature > 0, size / jnp.where(curvature > 0, curvature, 1), 0)
        x, residual = x + length[None, None, :] * direction, residual - length[None, None, :] * image
        steepest = precondition(residual)
        new = dot(residual, steepest)
        growth = jnp.where(size > 0, new / jnp.where(size > 0, size, 1), 0)
        direction = steepest + growth[None, None, :] * direction
        return x, residual, direction, new, count + 1

    first = precondition(rhs)
    size = dot(rhs, first)
    start = (jnp.zeros_like(rhs), rhs, first, size, 0)
    smallest = tolerance**2 * size
    if not rhs.size:
        return rhs
    return jax.lax.while_loop(lambda s: jnp.any(s[3] > smallest) & (s[4] < _MOST_TURNS), turn, start)[0]


def inverse_blocks(blocks):
    """Inverses of (S, p, p) positive definite blocks; the identity for one that is not."""
    eye = jnp.broadcast_to(jnp.eye(blocks.shape[-1], dtype=blocks.dtype), blocks.shape)
    factor = jnp.linalg.cholesky(blocks)
    half = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
    inverse = jnp.einsum("sqi,sqj->sij", half, half, precision=_EXACT)
    return jnp.where(jnp.all(jnp.isfinite(inverse), axis=(1, 2), keepdims=True), inverse, eye)
