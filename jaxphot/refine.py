"""Mean brightness over cells, with samples where they are needed.

far      one sample a cell, corrected by the differences with the samples of its neighbours: fourth order.
refined  only cells for which that is not good enough: m × m Gauss nodes, (2m) × (2m), or, near a source's centre, nodes
         along the cell's edges (`jaxphot.edges`), in one loop over a list of equal blocks of nodes.

What decides are samples and the distance from the centre; it carries no derivatives. Decisions that change with the
parameters are blended (far with refined) or taken where both rules agree to well below the tolerance.

The loop is as long as it needs to be, which JAX differentiates forwards only. `integrate` therefore is a `custom_jvp` that
forms the Jacobian with respect to the leaves that are differentiated in the same pass as the value: `jvp`, `vmap`, `grad`
and `jacfwd` all work and cost one pass. (Do not differentiate it with respect to thousands of numbers.)
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jaxphot.edges import edge_nodes, edge_table, ellipse_of_analyticity, find_source
from jaxphot.numerics import gauss_legendre

_FLOOR = 1e-4  # accuracy is relative to the larger of the cell and this part of the brightest one
_WIDTH = 64  # blocks evaluated together
_CUSP = 0.2  # the m-point Gauss rule's relative error in a cell is about this · ρ^(−2m)
_UNRESOLVED = 6e-3  # the far rule's last term, relative to the cell: beyond it says nothing
_NEAR = (6.0, 8.0)  # half sums of distances from the cusp below which it is not trusted either


@dataclass(frozen=True)
class Orders:
    """How many nodes: m × m or 2m × 2m in a cell, or `edge` along each edge times `radial` from the centre.

    ``edge_block · radial = m²``: all blocks are alike.
    """

    m: int
    edge: int
    radial: int
    edge_block: int

    @property
    def edge_blocks(self):
        """Blocks an edge."""
        return self.edge // self.edge_block


def choose_orders(tol):
    """Orders that go with a tolerance."""
    if tol >= 3e-3:
        return Orders(3, 6, 9, 1)
    if tol >= 3e-5:
        return Orders(4, 8, 8, 2)
    if tol >= 3e-7:
        return Orders(6, 12, 12, 3)
    return Orders(8, 16, 16, 4)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def integrate(model, tol, layout, params, transform, place):
    """Mean brightness over every cell, to `tol` of the larger of the cell and 1e-4 of the brightest.

    Parameters
    ----------
    model : model
    tol : float
    layout : (ny, nx, step)
        Cells, and the distance of their centres in pixels.
    params : dict
    transform : transform
    place : (start, size)
        Of `Cells`; these carry no derivative.

    Returns
    -------
    (ny, nx) array
    """
    return _integrate(model, tol, layout, params, transform, place)


@partial(integrate.defjvp, symbolic_zeros=True)
def _integrate_jvp(model, tol, layout, primals, tangents):
    leaves, tree = jax.tree.flatten(primals[:2])
    tangents = jax.tree.leaves(tangents[:2], is_leaf=lambda t: isinstance(t, SymbolicZero))
    live = [n for n, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]

    def mean(*free):
        full = list(leaves)
        for n, leaf in zip(live, free, strict=True):
            full[n] = leaf
        return _integrate(model, tol, layout, *jax.tree.unflatten(tree, full), primals[2])

    free = [leaves[n] for n in live]
    if not live:
        value = mean()
        return value, jnp.zeros_like(value)
    ends = np.cumsum([0] + [leaf.size for leaf in free])
    eye = np.eye(ends[-1])
    basis = [
        jnp.asarray(eye[:, lo:hi].reshape(-1, *leaf.shape), leaf.dtype)
        for leaf, lo, hi in zip(free, ends[:-1], ends[1:], strict=True)
    ]
    value, columns = jax.vmap(lambda *t: jax.jvp(mean, tuple(free), t), out_axes=(None, 0))(*basis)
    dot = jnp.concatenate([tangents[n].ravel() for n in live])
    return value, jnp.tensordot(dot, columns, 1, precision=jax.lax.Precision.HIGHEST)


def _integrate(model, tol, layout, params, transform, place):
    ny, nx, step = layout
    start, size = jax.lax.stop_gradient(place)
    dtype = start.dtype

    def brightness(i, j):
        x, y = transform.pixel_to_plane(i, j)
        return jnp.broadcast_to(model(params, x, y), jnp.broadcast_shapes(i.shape, j.shape)).astype(dtype)

    def frozen(i, j):
        x, y = jax.lax.stop_gradient(transform).pixel_to_plane(i, j)
        return model(jax.lax.stop_gradient(params), x, y).astype(dtype)

    i = start[0] + step * jnp.arange(-2, nx + 2, dtype=dtype)[None, :]
    j = start[1] + step * jnp.arange(-2, ny + 2, dtype=dtype)[:, None]
    mean, last = corrected_midpoint(brightness(i, j), size[0] / step, size[1] / step)
    source = None
    if isinstance(params, dict) and jnp.shape(params.get("center")) == (2,):
        fixed = jax.lax.stop_gradient((params, transform))
        source = jax.lax.stop_gradient(find_source(frozen, *fixed, size[0] * size[1]))
    half = size[0] / 2, size[1] / 2
    share, kind = _decide(tol, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(last), source, i, j, half)
    return _refine(brightness, choose_orders(tol), mean, share, kind, source, i, j, half)


def corrected_midpoint(samples, si, sj):
    """Means of cells from one sample each, of which there are two rings more than cells, and how far off they may be.

    Parameters
    ----------
    samples : (ny + 4, nx + 4) array
    si, sj : scalars
        Sides of a cell ÷ distance of the samples.

    Returns
    -------
    mean, error : (ny, nx) arrays
        The error is the first term that is left out, as the last two that are kept foretell it.
    """
    along_i, along_j = _second(samples, 1), _second(samples, 0)
    second_i, second_j = si**2 / 24 * along_i[2:-2, 1:-1], sj**2 / 24 * along_j[1:-1, 2:-2]
    fourth_i = (si**4 / 1920 - si**2 / 288) * _second(along_i, 1)[2:-2]
    fourth_j = (sj**4 / 1920 - sj**2 / 288) * _second(along_j, 0)[:, 2:-2]
    mixed = (si * sj) ** 2 / 576 * _second(along_i, 0)[1:-1, 1:-1]
    mean = samples[2:-2, 2:-2] + second_i + second_j + fourth_i + fourth_j + mixed
    fourth = jnp.abs(fourth_i) + jnp.abs(fourth_j) + jnp.abs(mixed)
    ratio = 2 * fourth / (jnp.abs(second_i) + jnp.abs(second_j) + jnp.finfo(mean.dtype).tiny)
    return mean, fourth * jnp.minimum(ratio, 1)


def _second(array, axis):
    n = array.shape[axis]
    low, middle, high = (jax.lax.slice_in_dim(array, k, n - 2 + k, axis=axis) for k in range(3))
    return low - 2 * middle + high


def _decide(tol, mean, error, source, i, j, half):
    """Share of the refined rule in every cell's value, and its kind: 0 none, 1 m × m, 2 for 2m × 2m, 3 edges."""
    orders = choose_orders(tol)
    tol = max(tol, 40 * float(jnp.finfo(mean.dtype).eps))
    peak = jnp.max(jnp.abs(mean))
    if source is not None:
        peak = jnp.minimum(peak, source.peak)
    scale = tol * jnp.maximum(jnp.abs(mean), _FLOOR * peak)
    share = jnp.clip(error / (0.2 * scale) - 1, 0, 1)
    unresolved = error * tol > _UNRESOLVED * scale
    kind = jnp.where(unresolved, 2, jnp.where(share > 0, 1, 0))
    if source is not None:
        sum_ = ellipse_of_analyticity(source, i[:, 2:-2], j[2:-2], half)
        low, high = (_half_sum_for(_CUSP / (0.1 * tol), m) for m in (2 * orders.m, orders.m))
        share = jnp.maximum(share, jnp.clip((_NEAR[1] - sum_) / (_NEAR[1] - _NEAR[0]), 0, 1))
        kind = jnp.where(share > 0, jnp.where((sum_ > high) & ~unresolved, 1, 2), 0)
        kind = jnp.where(sum_ < low, 3, kind)
    return jnp.where(kind > 1, 1, share), kind


def _half_sum_for(gain, m):
    """Half sum (ρ + 1/ρ)/2 at which ρ^(2m) = gain."""
    rho = gain ** (1 / (2 * m))
    return (rho + 1 / rho) / 2


def _refine(brightness, orders, mean, share, kind, source, i, j, half):
    """Replace a share of the cells' means by a refined rule's, going through a list of blocks of nodes."""
    ny, nx = shape = mean.shape
    i, j, share = i[0, 2:-2], j[2:-2, 0], share.ravel()
    # cells sorted by kind, edges first; (a sort compiles faster than anything else that makes a list)
    key = (3 - kind.ravel()) * (ny * nx) + jnp.arange(ny * nx, dtype=kind.dtype)
    cells = jax.lax.sort(key) % (ny * nx)
    edges, fine, coarse = (jnp.sum(kind == n, dtype=jnp.int32) for n in (3, 2, 1))
    edge_turns = -(-edges * (4 * orders.edge_blocks) // _WIDTH)
    turns = edge_turns + -(-(4 * fine + coarse) // _WIDTH)
    gauss, edge, radial = _tables(orders, mean.dtype)
    lane = jnp.arange(_WIDTH, dtype=jnp.int32)

    def edge_turn(number):
        rank, block = number // (4 * orders.edge_blocks), number % (4 * orders.edge_blocks)
        cell = cells[jnp.minimum(rank, cells.size - 1)]
        used = jnp.where(rank < edges, 1, 0).astype(mean.dtype)
        nodes = edge_nodes(source, i[cell % nx], j[cell // nx], half, edge[:, block], *radial)
        return cell, used, *(n.reshape(_WIDTH, -1) for n in nodes)

    def gauss_turn(number):
        rank = jnp.where(number < 4 * fine, number // 4, number - 3 * fine)
        block = jnp.where(number < 4 * fine, 1 + number % 4, 0)
        cell = cells[jnp.minimum(edges + rank, cells.size - 1)]
        used = jnp.where(rank < fine + coarse, share[cell], 0)
        di, dj, weight = gauss[0][block], gauss[1][block], gauss[2][block]
        at_i, at_j = i[cell % nx][:, None] + 2 * half[0] * di, j[cell // nx][:, None] + 2 * half[1] * dj
        return cell, used, at_i, at_j, weight

    def body(state):
        turn, image = state
        number = (turn - jnp.where(turn < edge_turns, 0, edge_turns)) * _WIDTH + lane
        if source is None:
            cell, used, at_i, at_j, weight = gauss_turn(number)
        else:
            cell, used, at_i, at_j, weight = jax.lax.cond(turn < edge_turns, edge_turn, gauss_turn, number)
        value = jnp.sum(weight * brightness(at_i, at_j), axis=1) * used
        return turn + 1, image.at[cell].add(value)

    start = jnp.zeros((), jnp.int32), mean.ravel() * (1 - share)
    return jax.lax.while_loop(lambda state: state[0] < turns, body, start)[1].reshape(shape)


def _tables(orders, dtype):
    """Gauss nodes: (3, 1 + 4, m²) offsets and weights, the first row for m × m; those of `edge_nodes`."""
    square = orders.m**2
    rows = []
    for m in (orders.m, 2 * orders.m):
        x, w = gauss_legendre(m)
        rows.append(np.stack([np.tile(x, m), np.repeat(x, m), np.outer(w, w).ravel()]).reshape(3, -1, square))
    radial = np.stack(gauss_legendre(orders.radial))
    radial[0] += 0.5
    along = edge_table(*gauss_legendre(orders.edge), orders.edge_block)
    return [jnp.asarray(t, dtype) for t in (np.concatenate(rows, 1), along, radial)]
