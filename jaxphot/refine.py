"""Mean brightness over cells, with samples where they are needed.

far      one sample a cell, corrected by the differences with the samples of its neighbours: fourth order.
refined  only cells for which that is not good enough: m × m Gauss nodes, (2m) × (2m), or, near a source's centre and
         where light ends within a cell, nodes along the cell's edges (`jaxphot.edges`).

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

from jaxphot.edges import RADII, Light, edge_nodes, edge_table, half_sum_squared, locate, measure, reaches_into_dark
from jaxphot.midpoint import EXTRA, corrected_midpoint, far_and_error
from jaxphot.numerics import for_all, gauss_legendre, on_cpu, safe_log, sum_together
from jaxphot.pointwise import brightness, linearize_tree

_FLOOR = 1e-4  # accuracy is relative to the larger of the cell and this part of the brightest one
_WIDTH, _TURNS = 90, 999  # the grid is sampled in at most so many turns, of at least so many blocks of nodes
_CUSP = 0.2  # the m-point Gauss rule's relative error in a cell is about this · ρ^(−2m)
_UNRESOLVED = 0.025  # the far rule's error, relative to the cell: beyond it the estimate says nothing
_MANY_CELLS = 2**14  # from which on larger groups of cells are sorted
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
        return Orders(4, 14, 16, 1)
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
    return _cut(means[0], layout), _cut(planes.contract(means), layout)


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
    needs : (N,) array
        Of every cell in flat rows: 3 nodes along its edges, 2 has 2m × 2m, up to 1 the share of m × m beside the far
        rule in its value.
    cells : (N,) int array
        All cells' numbers, sorted by falling need.
    counts : (3,) int array
        How many need edges, 2m × 2m, m × m.
    light : Light or None
    """

    needs: jax.Array
    cells: jax.Array
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
    orders, half, row, dtype = choose_orders(tol), size / 2, nx + EXTRA, start.dtype
    on_axis = (ny + EXTRA) * row  # the first sample that is none of the cells'
    blocks = -(-(on_axis + RADII.size + EXTRA) // orders.block)
    grid_turns = min(max(blocks // _WIDTH, 1), _TURNS)
    width = -(-blocks // grid_turns)
    length = width * orders.block
    tables = _tables(orders, dtype)

    def judge(samples):
        light = None if frame is None else measure(frame, samples[on_axis : on_axis + RADII.size], half)
        needs = _needs(tol, *far_and_error(samples, ny, row, size / step), frame, light, layout, start, half)
        return Plan(needs, *_list(needs), light)

    def no_judgement(_):
        zero = jnp.zeros((), dtype)
        light = None if frame is None else Light(*[zero] * 5, zero > 0)
        return Plan(jnp.zeros(ny * row, dtype), jnp.zeros(ny * row, jnp.int32), jnp.zeros(3, jnp.int32), light)

    def refined_nodes(plan, number):
        cell, share, block, along = _blocks(orders, plan, number)
        centers = start[:, None] + step * jnp.stack(_place(cell, row)).astype(dtype)
        nodes = _gauss_nodes(tables[0], jnp.where(along, 0, block), centers, size)
        if frame is None:
            return nodes, cell, share

        def with_edges():
            edges = edge_nodes(frame, plan.light, centers, half, tables[1][:, jnp.where(along, block, 0)], tables[2])
            return jnp.where(along, edges.reshape(nodes.shape), nodes)

        return jax.lax.cond(along[0], with_edges, lambda: nodes), cell, share  # they come first

    def grid_nodes(turn):
        nodes = _grid_nodes(layout, start, frame, turn * length + jnp.arange(length, dtype=jnp.int32))
        return nodes.reshape(3, -1, width), jnp.zeros(width, jnp.int32), jnp.zeros(width, dtype)

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

    def blend(samples, needs):
        far = corrected_midpoint(samples, ny, row, size / step)
        return jnp.where(needs < 1, far * (1 - needs)[None, :], 0)

    def go_through(phase, state):
        is_judged = phase > 0 if rough is None else (phase > 0) & ~rough
        turn, samples, means = state
        # (two conditions: what passes from one to the other is computed once)
        plan = jax.lax.cond(is_judged, judge, no_judgement, samples[0])
        means = jax.lax.cond(phase > 0, lambda: blend(samples, plan.needs), lambda: means)
        end = grid_turns + turns(plan)  # none without a plan
        return jax.lax.while_loop(lambda s: s[0] < end, lambda s: turn_once(s, plan), (turn, samples, means))

    means = jnp.zeros((planes, ny * row), dtype)
    if on_cpu():
        # samples that are none of the grid's go behind it, or, if that is one turn, in its place
        samples = jnp.zeros((planes, (grid_turns + (grid_turns > 1)) * length), dtype)
        return jax.lax.fori_loop(0, 2, go_through, (jnp.zeros((), jnp.int32), samples, means))[2]
    # where many lanes run together, what a loop carries should be little, and its length that of all
    grid = _grid_nodes(layout, start, frame, jnp.arange(grid_turns * length, dtype=jnp.int32))
    samples = jnp.stack(sample(grid[2], grid[0], grid[1]))
    plan = judge(samples[0])
    if rough is not None:
        plan = plan._replace(needs=jnp.where(rough, 0, plan.needs), counts=jnp.where(rough, 0, plan.counts))

    def refine_once(turn, means):
        nodes, cell, share = refined_nodes(plan, numbers(turn))
        return add(means, cell, sums_of(nodes, share)[1])

    return jax.lax.fori_loop(0, for_all(turns(plan)), refine_once, means) + blend(samples, plan.needs)


def _sum(values):
    """Σ over the second axis, written out: one kernel, where XLA's own sum would wake other threads."""
    rest = 0
    while (count := values.shape[1]) > 1:
        if count % 2:
            rest = rest + values[:, -1]
        values = values[:, : count // 2] + values[:, count // 2 : count // 2 * 2]
    return values[:, 0] + rest


def _grid_nodes(layout, start, frame, number):
    """(3, n) nodes by their number: cells' centres with two rings around them, then some on the source's major axis."""
    ny, nx, step = layout
    nodes = start[:, None] + step * (jnp.stack(_place(number, nx + EXTRA)) - 2).astype(start.dtype)
    if frame is not None:
        beyond = number - (ny + EXTRA) * (nx + EXTRA)
        radii = jnp.asarray(RADII, start.dtype)[jnp.clip(beyond, 0, RADII.size - 1)]
        nodes = jnp.where(beyond < 0, nodes, frame.center[:, None] + frame.axis[:, None] * radii[None, :])
    return jnp.concatenate([nodes, jnp.ones_like(nodes[:1])])


def _place(number, row):
    """Column and line of a flat number."""
    return jax.lax.rem(number, jnp.int32(row)), jax.lax.div(number, jnp.int32(row))


def _needs(tol, mean, error, frame, light, layout, start, half):
    """Which cells need more than the far rule, and how much: `Plan.needs`."""
    ny, nx, step = layout
    row = nx + EXTRA
    orders = choose_orders(tol)
    tol = max(tol, 40 * float(jnp.finfo(mean.dtype).eps))
    column, line = _place(jnp.arange(ny * row, dtype=jnp.int32), row)
    usable = jnp.isfinite(mean) & (column < nx)  # a cusp of infinite brightness may lie on a sample
    mean, error = jnp.where(usable, jnp.abs(mean), 0), jnp.where(usable, error, jnp.inf)
    peak = jnp.max(mean)
    if light is not None:
        peak = jnp.minimum(peak, light.peak)
    scale = tol * jnp.maximum(mean, _FLOOR * peak)
    share = jnp.clip(error / (0.6 * scale) - 1, 0, 1)
    unresolved = error * tol > _UNRESOLVED * scale
    needs = jnp.where(unresolved, 2, share)
    if frame is not None:
        i, j = (start[k] + step * along.astype(mean.dtype) for k, along in enumerate((column, line)))
        squared = half_sum_squared(frame, i, j, half)
        low, high = _least_half_sums(orders.m, tol, light, jnp.maximum(mean, _FLOOR * peak))
        share = jnp.maximum(share, jnp.clip((_NEAR[1] ** 2 - squared) / (_NEAR[1] ** 2 - _NEAR[0] ** 2), 0, 1))
        needs = jnp.where(share > 0, jnp.where((squared > high) & ~unresolved, share, 2), 0)
        needs = jnp.where((squared < low) | reaches_into_dark(frame, light, i, j, half), 3, needs)
    return jnp.where(column < nx, needs, 0)


def _list(needs):
    """`Plan.cells` and `Plan.counts`.

    By a sort, which compiles faster than anything else that makes a list. Mostly few cells have needs: if less than a
    part of the groups have any, these are sorted first (on a CPU: lanes that run together would do both), then their
    cells.
    """
    group, part = (64, 8) if needs.size > _MANY_CELLS else (16, 4)
    kinds = jnp.pad((3 - jnp.ceil(needs)).astype(jnp.int32), (0, -needs.size % group), constant_values=3)
    counts = jnp.sum(kinds[None, :] == jnp.arange(3, dtype=jnp.int32)[:, None], axis=1, dtype=jnp.int32)
    size = jnp.int32(kinds.size)
    keys = (kinds * size + jnp.arange(kinds.size, dtype=jnp.int32)).reshape(-1, group)
    some = len(keys) // part

    def sort_all():
        return _sorted(keys.ravel())

    def sort_some():
        number = jnp.arange(len(keys), dtype=jnp.int32)
        order = jax.lax.rem(_sorted(jnp.where(has_any, number, number + len(keys))), jnp.int32(len(keys)))
        few = _sorted(keys[order[:some]].ravel())
        return jnp.concatenate([few, jnp.broadcast_to(few[-1:], (kinds.size - few.size,))])

    if not on_cpu():
        listed = sort_all()
    else:
        has_any = jnp.any(kinds.reshape(keys.shape) < 3, axis=1)
        listed = jax.lax.cond(jnp.sum(has_any, dtype=jnp.int32) <= some, sort_some, sort_all)
    return jnp.minimum(jax.lax.rem(listed[: needs.size], size), needs.size - 1), counts


def _sorted(keys):
    return jax.lax.sort(keys, is_stable=False)  # all differ


def _least_half_sums(m, tol, light, scale):
    """Half sums, squared, below which cells need edges, and 2m × 2m nodes.

    They are (ρ + 1/ρ)/2 where ρ^(4m) or ρ^(2m) is as large as the error is without it. Of steep sources that grows like
    a power of the brightness next to the cusp relative to that in the cell.
    """
    rho = (_CUSP / (0.1 * tol)) ** (1 / (4 * m))

    def half_sums(rho):
        return jnp.stack([(r + 1 / r) ** 2 / 4 for r in (rho, rho * rho)])

    def of_steep():
        return half_sums(rho * jnp.exp(light.decay / (4 * m) * safe_log(jnp.maximum(light.top / scale, 1))))

    return jax.lax.cond(light.is_steep, of_steep, lambda: half_sums(jnp.full_like(scale, rho)))


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
    return cell, jnp.where(rank < edges + fine + coarse, jnp.minimum(plan.needs[cell], 1), 0), block, along


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
