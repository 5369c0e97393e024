"""Mean brightness over cells, with samples where they are needed.

far      one sample a cell, corrected by the differences with the samples of its neighbours: fourth order.
refined  only cells for which that is not good enough: m × m Gauss nodes, (2m) × (2m), or, near a source's centre, nodes
         along the cell's edges (`jaxphot.edges`).

What decides are samples and the distance from the centre. Decisions that change with the parameters are blended (far
with refined) or taken where both rules agree to well below the tolerance.

All samples are taken by one loop over turns of equal numbers of nodes: the model is compiled once. It is as long as it
needs to be, which JAX does not differentiate backwards. `integrate` therefore is a `custom_jvp`: the loop carries
derivatives beside the value (`jaxphot.pointwise`), which are contracted with the tangent afterwards. `jvp`, `vmap`,
`grad` and `jacfwd` all work and cost one pass. (Do not differentiate it with respect to thousands of numbers.)
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.edges import RADII, Light, edge_nodes, edge_table, half_sum_squared, locate, measure
from jaxphot.midpoint import EXTRA, corrected_midpoint, far_and_error
from jaxphot.numerics import for_all, gauss_legendre, on_cpu, sum_together
from jaxphot.pointwise import brightness, linearize_tree

_FLOOR = 1e-4  # accuracy is relative to the larger of the cell and this part of the brightest one
_WIDTH, _TURNS = 240, 999  # the grid is sampled in at most so many turns, of at least so many blocks of nodes
_CUSP = 0.2  # the m-point Gauss rule's relative error in a cell is about this · ρ^(−2m)
_UNRESOLVED = 0.04  # the far rule's error, relative to the cell: beyond it the estimate says nothing
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
    def block(self):
        """Nodes a block."""
        return self.m**2

    @property
    def edge_blocks(self):
        """Blocks of a cell that is integrated along its edges."""
        return 4 * self.edge // self.edge_block


def choose_orders(tol):
    """Orders that go with a tolerance."""
    if tol >= 3e-3:
        return Orders(3, 8, 9, 1)
    if tol >= 3e-5:
        return Orders(4, 12, 16, 1)
    if tol >= 3e-7:
        return Orders(6, 20, 18, 2)
    return Orders(8, 28, 32, 2)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def integrate(model, tol, layout, params, transform, place, rough=None):
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
    rough : bool scalar, optional
        Leave it at one sample a cell.

    Returns
    -------
    (ny, nx) array
    """

    def sample(weight, i, j):
        return [weight * brightness(model, params, transform, i, j)]

    return _cut(_means(sample, 1, tol, layout, _frame(params, transform), place, rough)[0], layout)


@partial(integrate.defjvp, symbolic_zeros=True)
def _integrate_jvp(model, tol, layout, primals, tangents):
    def sample(arguments, i, j):
        return brightness(model, *arguments, i, j)

    planes = linearize_tree(sample, primals[:2], tangents[:2], places=2)
    if planes is None:
        value = integrate(model, tol, layout, *primals)
        return value, jnp.zeros_like(value)
    means = _means(planes.sample, planes.count, tol, layout, _frame(*primals[:2]), *primals[2:])
    return _cut(means[0], layout), _cut(planes.contract(means[1:]), layout)


def _cut(flat, layout):
    """(ny, nx) from the flat rows of `_means`."""
    ny, nx, _ = layout
    return flat.reshape(ny, nx + EXTRA)[:, :nx]


def _frame(params, transform):
    known = isinstance(params, dict) and np.shape(params.get("center", ())) == (2,)
    return locate(params, transform) if known else None


class Plan(NamedTuple):
    """Which cells are refined, and how.

    Attributes
    ----------
    cells : (N,) int array
        All cells' numbers in flat rows, sorted by kind: edges, 2m × 2m, m × m, and those left alone.
    share : (N,) array
        Of the refined rule in every cell's value.
    counts : (3,) int array
        How many there are of the first three kinds.
    light : Light or None
    """

    cells: jax.Array
    share: jax.Array
    counts: jax.Array
    light: Light | None


def _means(sample, planes, tol, layout, frame, place, rough):
    """Means of all planes that ``sample(weight, i, j) → [array like i, …]`` gives, the first of which decides.

    Everything is flat, rows being `EXTRA` samples longer than there are cells: XLA's loops over two dimensions are not
    vectorised. What is computed for the cells that are too many is cut off at the end, by the caller.

    Returns
    -------
    (planes, ny · row) array
    """
    ny, nx, step = layout
    start, size = place
    orders, half, row = choose_orders(tol), size / 2, nx + EXTRA
    grid = _grid_nodes(layout, start, frame)
    blocks = -(-(grid.shape[1] + EXTRA) // orders.block)
    grid_turns = min(max(blocks // _WIDTH, 1), _TURNS)
    width = -(-blocks // grid_turns)
    length = width * orders.block
    grid = jnp.pad(grid, ((0, 0), (0, grid_turns * length - grid.shape[1])), mode="edge")
    tables = _tables(orders, grid.dtype)

    def make_plan(samples):
        first = (ny + EXTRA) * row
        light = None if frame is None else measure(frame, samples[first : first + RADII.size], size[0] * size[1])
        return _plan(tol, *far_and_error(samples, ny, row, size / step), frame, light, layout, start, half)

    def no_plan(samples):
        zero = jnp.zeros((), grid.dtype)
        cells, counts = jnp.zeros(ny * row, jnp.int32), jnp.zeros(3, jnp.int32)
        return Plan(cells, cells.astype(grid.dtype), counts, None if frame is None else Light(zero, zero, zero))

    def refined_nodes(plan, number):
        cell, share, block, along = _blocks(orders, plan, number)
        centers = start[:, None] + step * jnp.stack(
            [jax.lax.rem(cell, jnp.int32(row)), jax.lax.div(cell, jnp.int32(row))]
        ).astype(grid.dtype)
        nodes = _gauss_nodes(tables[0], jnp.where(along, 0, block), centers, size)
        if frame is None:
            return nodes, cell, share

        def with_edges():
            edges = edge_nodes(frame, plan.light, centers, half, tables[1][:, jnp.where(along, block, 0)], tables[2])
            return jnp.where(along, edges.reshape(nodes.shape), nodes)

        return jax.lax.cond(along[0], with_edges, lambda: nodes), cell, share  # they come first

    def grid_nodes(turn):
        nodes = jax.lax.dynamic_slice_in_dim(grid, turn * length, length, axis=1).reshape(3, -1, width)
        return nodes, jnp.zeros(width, jnp.int32), jnp.zeros(width, grid.dtype)

    def sums_of(nodes, share):
        values = sample(nodes[2].ravel(), nodes[0].ravel(), nodes[1].ravel())
        if on_cpu():
            values = jnp.stack(values)
            sums = _sum(values.reshape(planes, -1, width))
        else:
            sums = jnp.stack(sum_together([of_one.reshape(-1, width) for of_one in values]))
        return values, jnp.where(share > 0, sums * share[None, :], 0)

    def add(means, cell, sums):
        return means.at[:, cell].add(sums, mode="promise_in_bounds")

    def numbers(turn):
        return turn * width + jnp.arange(width, dtype=jnp.int32)

    def turns(plan):
        edges, fine, coarse = plan.counts
        return -(-(orders.edge_blocks * edges + 4 * fine + coarse) // width)

    def turn_once(state, plan):
        turn, samples, means = state
        nodes, cell, share = jax.lax.cond(
            turn < grid_turns, lambda: grid_nodes(turn), lambda: refined_nodes(plan, numbers(turn - grid_turns))
        )
        values, sums = sums_of(nodes, share)
        if grid_turns == 1:
            return turn + 1, values, add(means, cell, sums)
        at = jnp.minimum(turn, grid_turns) * length
        return turn + 1, jax.lax.dynamic_update_slice(samples, values, (jnp.int32(0), at)), add(means, cell, sums)

    def blend(samples, share):
        far = corrected_midpoint(samples, ny, row, size / step)
        return jnp.where(share < 1, far * (1 - share)[None, :], 0)

    def go_through(phase, state):
        is_planned = phase > 0 if rough is None else (phase > 0) & ~rough
        turn, samples, means = state
        plan = jax.lax.cond(is_planned, make_plan, no_plan, samples[0])
        means = jax.lax.cond(phase > 0, lambda: blend(samples, plan.share), lambda: means)
        end = grid_turns + turns(plan)  # none without a plan
        return jax.lax.while_loop(lambda s: s[0] < end, lambda s: turn_once(s, plan), (turn, samples, means))

    means = jnp.zeros((planes, ny * row), grid.dtype)
    if on_cpu():
        # samples that are none of the grid's go behind it, or, if that is one turn, in its place
        samples = jnp.zeros((planes, (grid_turns + (grid_turns > 1)) * length), grid.dtype)
        means = jax.lax.fori_loop(0, 2, go_through, (jnp.zeros((), jnp.int32), samples, means))[2]
    else:  # where many lanes run together, what a loop carries should be little, and its length that of all
        samples = jnp.stack(sample(grid[2], grid[0], grid[1]))
        plan = make_plan(samples[0])
        if rough is not None:
            plan = plan._replace(share=jnp.where(rough, 0, plan.share), counts=jnp.where(rough, 0, plan.counts))

        def refine_once(turn, refined):
            nodes, cell, share = refined_nodes(plan, numbers(turn))
            return add(refined, cell, sums_of(nodes, share)[1])

        means = jax.lax.fori_loop(0, for_all(turns(plan)), refine_once, means) + blend(samples, plan.share)
    return means


def _sum(values):
    """Σ over the second axis, written out: one kernel, where XLA's own sum would wake other threads."""
    rest = 0
    while (count := values.shape[1]) > 1:
        if count % 2:
            rest = rest + values[:, -1]
        values = values[:, : count // 2] + values[:, count // 2 : count // 2 * 2]
    return values[:, 0] + rest


def _grid_nodes(layout, start, frame):
    """(3, n) nodes: cells' centres with two rings around them, then some on the source's major axis; weights 1."""
    ny, nx, step = layout
    i = start[0] + step * jnp.arange(-2, nx + 2, dtype=start.dtype)
    j = start[1] + step * jnp.arange(-2, ny + 2, dtype=start.dtype)
    nodes = jnp.stack([x.ravel() for x in jnp.broadcast_arrays(i[None, :], j[:, None])])
    if frame is not None:
        radii = jnp.asarray(RADII, start.dtype)
        nodes = jnp.concatenate([nodes, frame.center[:, None] + frame.axis[:, None] * radii[None, :]], axis=1)
    return jnp.concatenate([nodes, jnp.ones_like(nodes[:1])])


def _plan(tol, mean, error, frame, light, layout, start, half):
    """Decide which cells need more than the far rule, and sort them by kind."""
    ny, nx, step = layout
    row = nx + EXTRA
    orders = choose_orders(tol)
    tol = max(tol, 40 * float(jnp.finfo(mean.dtype).eps))
    column = jnp.tile(jnp.arange(row, dtype=mean.dtype), ny)
    usable = jnp.isfinite(mean) & (column < nx)  # a cusp of infinite brightness may lie on a sample
    mean, error = jnp.where(usable, jnp.abs(mean), 0), jnp.where(usable, error, jnp.inf)
    peak = jnp.max(mean)
    if light is not None:
        peak = jnp.minimum(peak, light.peak)
    scale = tol * jnp.maximum(mean, _FLOOR * peak)
    share = jnp.clip(error / (0.8 * scale) - 1, 0, 1)
    unresolved = error * tol > _UNRESOLVED * scale
    kind = jnp.where(unresolved, 1, jnp.where(share > 0, 2, 3))
    if frame is not None:
        i = start[0] + step * column
        j = start[1] + step * jnp.repeat(jnp.arange(ny, dtype=mean.dtype), row)
        squared = half_sum_squared(frame, i, j, half)
        low, high = (_half_sum_for(_CUSP / (0.1 * tol), m) ** 2 for m in (2 * orders.m, orders.m))
        share = jnp.maximum(share, jnp.clip((_NEAR[1] ** 2 - squared) / (_NEAR[1] ** 2 - _NEAR[0] ** 2), 0, 1))
        kind = jnp.where(share > 0, jnp.where((squared > high) & ~unresolved, 2, 1), 3)
        kind = jnp.where(squared < low, 0, kind)
    kind = jnp.where(column < nx, kind, 3)
    share = jnp.where(kind < 2, 1, share)
    # a sort compiles faster than anything else that makes a list; all keys differ, so it need not be a stable one
    key = kind.astype(jnp.int32) * share.size + jnp.arange(share.size, dtype=jnp.int32)
    key = jax.lax.sort(key, is_stable=False)
    ends = jnp.sum(key[None, :] < share.size * jnp.arange(1, 4, dtype=jnp.int32)[:, None], axis=1, dtype=jnp.int32)
    counts = ends - jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:2]])
    return Plan(jax.lax.rem(key, jnp.int32(share.size)), share, counts, light)


def _half_sum_for(gain, m):
    """Half sum (ρ + 1/ρ)/2 at which ρ^(2m) = gain."""
    rho = gain ** (1 / (2 * m))
    return (rho + 1 / rho) / 2


def _blocks(orders, plan, number):
    """Cell, share, place in the table of its kind, and whether it lies along edges, of blocks by their number.

    First come those along edges, then four for every cell with 2m × 2m nodes, then one for each with m × m.
    """
    edges, fine, coarse = plan.counts
    first_fine = orders.edge_blocks * edges
    first_coarse = first_fine + 4 * fine
    along, late = number < first_fine, number >= first_coarse
    count = jnp.where(along, jnp.int32(orders.edge_blocks), jnp.int32(4))
    of_kind = jnp.where(along, number, number - first_fine)
    rank, block = jax.lax.div(of_kind, count), jax.lax.rem(of_kind, count)
    rank = jnp.where(late, number - first_coarse + fine, rank) + jnp.where(along, 0, edges)
    block = jnp.where(along, block, jnp.where(late, 0, 1 + block))
    cell = plan.cells[jnp.minimum(rank, plan.cells.size - 1)]
    return cell, jnp.where(rank < edges + fine + coarse, plan.share[cell], 0), block, along


def _tables(orders, dtype):
    """Gauss nodes (3, 1 + 4, m²): offsets and weights, the first row for m × m; what `edge_nodes` takes."""
    rows = []
    for m in (orders.m, 2 * orders.m):
        x, w = gauss_legendre(m)
        rows.append(
            np.stack([np.tile(x, m), np.repeat(x, m), np.outer(w, w).ravel()])
            .reshape(3, -1, orders.block)
            .swapaxes(1, 2)
        )
    along, radial = gauss_legendre(orders.edge), np.stack(gauss_legendre(orders.radial))
    radial[0] += 0.5
    tables = np.concatenate(rows, 2), edge_table(*along, orders.edge_block), radial
    return [jnp.asarray(table, dtype) for table in tables]


def _gauss_nodes(rules, block, centers, size):
    """(3, m², W) nodes and weights from the table of offsets and weights."""
    # a product with unit vectors: twenty times as fast as to look every number up
    chosen = (jnp.arange(rules.shape[2], dtype=jnp.int32)[:, None] == block[None, :]).astype(size.dtype)
    rule = jnp.einsum("knb,bw->knw", rules, chosen, precision=jax.lax.Precision.HIGHEST)
    scale = jnp.concatenate([size, jnp.ones(1, size.dtype)])
    return jnp.pad(centers, ((0, 1), (0, 0)))[:, None] + scale[:, None, None] * rule
