"""Mean brightness over cells, with samples where they are needed.

far      one sample a cell, corrected by the differences with the samples of its neighbours: fourth order.
refined  only cells for which that is not good enough: m × m Gauss nodes, (2m) × (2m), or, near a source's centre and
         where light ends within a cell, nodes along the cell's edges (`jaxphot.edges`).

What decides are samples and the distance from the centre. Between two rules a cell's value is blended, so that nothing
jumps when parameters change.

Cells are refined in a loop over turns of equal numbers of nodes. It is as long as it needs to be, which JAX does not
differentiate backwards. `integrate` therefore is a `custom_jvp`: the loop carries derivatives beside the value
(`jaxphot.pointwise`), which are contracted with the tangent afterwards. `jvp`, `vmap`, `grad` and `jacfwd` all work and
cost one pass. (Do not differentiate it with respect to thousands of numbers.)
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

_WIDTH = 96  # blocks of nodes a turn
_PART = 6000  # samples of the grid at once


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

    def refine_once(turn, plan, means):
        nodes, cell, share = refined_nodes(plan, turn * _WIDTH + jnp.arange(_WIDTH, dtype=jnp.int32))
        values = [of_one.reshape(-1, _WIDTH) for of_one in sample(nodes[2].ravel(), nodes[0].ravel(), nodes[1].ravel())]
        sums = jnp.stack([_sum(of_one) for of_one in values] if on_cpu() else sum_together(values))
        return means.at[:, cell].add(jnp.where(share > 0, sums * share[None, :], 0), mode="promise_in_bounds")

    value, samples = _sample_grid(sample, planes, layout, start, frame, on_axis + RADII.size + EXTRA)
    is_judged = _always(value[0]) if rough is None else ~rough
    plan = jax.lax.cond(is_judged, judge, no_judgement, value)
    edges, fine, coarse = plan.counts
    turns = -(-(orders.edge_blocks * edges + 4 * fine + coarse) // _WIDTH)
    share = share_of(plan.needs, 0)
    means = jnp.where(share > 0, corrected_midpoint(samples, ny, row, size / step) * share[None, :], 0)
    return jax.lax.fori_loop(0, for_all(turns), lambda turn, means: refine_once(turn, plan, means), means)


def _always(number):
    """True, which XLA does not foresee.

    What is computed under a condition is computed once. Otherwise XLA would do it again for each plane that needs it.
    """
    return (number <= number) | (number != number)


def _sample_grid(sample, planes, layout, start, frame, count):
    """The first plane alone and (planes, ≥ count) samples at nodes of the grid; on a CPU in parts that its cache holds.

    (Because the first plane is wanted by itself, XLA computes what it shares with others once, not again in each.)
    """

    def part(first, size):
        nodes = _grid_nodes(layout, start, frame, first + jnp.arange(size, dtype=jnp.int32))
        values = sample(nodes[2], nodes[0], nodes[1])
        return values[0], jnp.stack(values)

    parts = -(-count // _PART) if on_cpu() else 1
    size = -(-count // parts)
    if parts == 1:
        return part(0, size)

    def add(number, samples):
        first = number * size
        value, values = part(first, size)
        return (
            jax.lax.dynamic_update_slice(samples[0], value, (first,)),
            jax.lax.dynamic_update_slice(samples[1], values, (jnp.int32(0), first)),
        )

    empty = jnp.zeros(parts * size, start.dtype)
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(parts), add, (empty, jnp.zeros((planes, empty.size), empty.dtype)))


def _sum(values):
    """Σ over the first axis, written out: one kernel, where XLA's own sum would wake other threads."""
    rest = 0
    while (count := len(values)) > 1:
        if count % 2:
            rest = rest + values[-1]
        values = values[: count // 2] + values[count // 2 : count // 2 * 2]
    return values[0] + rest


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
