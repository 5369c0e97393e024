"""Mean brightness over cells, with samples where they are needed.

far      one sample a cell, corrected by the differences with the samples of its neighbours: fourth order.
refined  only cells for which that is not good enough: m × m Gauss nodes, (2m) × (2m), or, near a source's centre and
         where light ends within a cell, nodes along the cell's edges (`jaxphot.edges`).

What decides are samples and the distance from the centre. Between two rules a cell's value is blended, so that nothing
jumps when parameters change.

All samples are taken by one loop over turns of equal numbers of nodes: the model is compiled once. It is as long as it
needs to be, which JAX does not differentiate backwards. `integrate` therefore is a `custom_jvp`: the loop carries
derivatives beside the value (`jaxphot.pointwise`), which are contracted with the tangent afterwards. `jvp`, `vmap`,
`grad` and `jacfwd` all work and cost one pass. (Do not differentiate it with respect to thousands of numbers.)
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.edges import RADII, Light, edge_nodes, edge_table, locate, measure
from jaxphot.midpoint import EXTRA, corrected_midpoint, far_and_error
from jaxphot.numerics import for_all, gauss_legendre, on_cpu, sum_together
from jaxphot.plan import Plan, choose_orders, find_blocks, find_needs, place_of, share_of, sort_cells
from jaxphot.pointwise import brightness, linearize_tree

_WIDTH, _TURNS = 90, 999  # the grid is sampled in at most so many turns, of at least so many blocks of nodes


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
        needs = find_needs(tol, *far_and_error(samples, ny, row, size / step), frame, light, layout, start, half)
        return Plan(needs, *sort_cells(needs), light)

    def no_judgement(_):
        zero = jnp.zeros((), dtype)
        light = None if frame is None else Light(*[zero] * 5, zero > 0)
        none = jnp.zeros(3, jnp.int32)
        return Plan(jnp.zeros(ny * row, dtype), jnp.zeros(ny * row, jnp.int32), none, none, light)

    def refined_nodes(plan, number):
        cell, share, block, along = find_blocks(orders, plan, number)
        centers = start[:, None] + step * jnp.stack(place_of(cell, row)).astype(dtype)
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
        share = share_of(needs, 0)
        return jnp.where(share > 0, far * share[None, :], 0)

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
    nodes = start[:, None] + step * (jnp.stack(place_of(number, nx + EXTRA)) - 2).astype(start.dtype)
    if frame is not None:
        beyond = number - (ny + EXTRA) * (nx + EXTRA)
        radii = jnp.asarray(RADII, start.dtype)[jnp.clip(beyond, 0, RADII.size - 1)]
        nodes = jnp.where(beyond < 0, nodes, frame.center[:, None] + frame.axis[:, None] * radii[None, :])
    return jnp.concatenate([nodes, jnp.ones_like(nodes[:1])])


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
