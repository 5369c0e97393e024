"""Mean brightness over cells, with samples where they are needed.

far      one sample a cell, corrected by the differences with the samples of its neighbours: fourth order.
refined  only cells for which that is not good enough: 3 × 3 to 12 × 12 Gauss nodes (one in the middle is a sample
         already), or, near a source's centre and where light ends within a cell, nodes along the cell's edges
         (`jaxphot.edges`). Which there are, says `jaxphot.orders`, which a cell needs, `jaxphot.plan`.

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

from jaxphot.edges import edge_nodes, edge_tables, first_edge
from jaxphot.isophotes import RADII, locate, measure
from jaxphot.midpoint import EXTRA, RING, corrected_midpoint
from jaxphot.numerics import computed_once, for_all, for_any, gauss_legendre, on_cpu, sum_together
from jaxphot.orders import choose_orders
from jaxphot.plan import count_blocks, find_blocks, make_plan, no_plan, place_of, share_of
from jaxphot.pointwise import brightness, linearize_tree

_TURN = 1040  # nodes a turn


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

    return _means(sample, 1, tol, layout, _frame(params, transform), place, rough)[0]


@partial(integrate.defjvp, symbolic_zeros=True)
def _integrate_jvp(model, tol, layout, primals, tangents):
    def sample(arguments, i, j):
        return brightness(model, *arguments, i, j)

    planes = linearize_tree(sample, primals[:2], tangents[:2], places=2)
    if planes is None:
        value = integrate(model, tol, layout, *primals)
        return value, jnp.zeros_like(value)
    means = _means(planes.sample, planes.count, tol, layout, _frame(*primals[:2]), *primals[2:])
    return means[0], planes.contract(means)


def _frame(params, transform):
    known = isinstance(params, dict) and np.shape(params.get("center", ())) == (2,)
    return locate(params, transform) if known else None


def _means(sample, planes, tol, layout, frame, place, rough):
    """Means of all planes that ``sample(weight, i, j) → [array like i, …]`` gives, the first of which decides.

    Samples and cells are numbered along flat rows, `EXTRA` longer than there are cells.

    Returns
    -------
    (planes, ny, nx) array
    """
    ny, nx, step = layout
    start, size = place
    orders, half, row, dtype = choose_orders(tol), size / 2, nx + EXTRA, start.dtype
    on_axis = (ny + EXTRA) * row  # the first sample that is none of the cells'
    tables, width = _tables(orders, dtype), _TURN // orders.block

    def judge(samples):
        light = None if frame is None else measure(frame, samples[on_axis : on_axis + RADII.size], half, tol)
        return make_plan(tol, samples, frame, light, layout, place)

    def refined_nodes(plan, number):
        cell, share, block, along = find_blocks(orders, plan, number)
        column, line = place_of(cell, row)
        centers = start[:, None] + step * jnp.stack([column, line]).astype(dtype)
        cell = line * nx + jnp.minimum(column, nx - 1)

        def gauss(columns):
            return partial(_gauss_nodes, tables[0][..., :columns], block, centers, size)

        def none():
            return [jnp.zeros((orders.block, width), dtype)] * 3

        # blocks along edges come first, then those of the finest rule
        some = sum((block[0] >= columns).astype(jnp.int32) for columns in orders.columns[:-1])
        which = jnp.where(along[-1], 0, 1 + jnp.where(along[0], len(orders.columns) - 1, some))
        nodes = jax.lax.switch(for_all(which), [none, *map(gauss, orders.columns)])
        if frame is None:
            return nodes, cell, share

        def with_edges():
            at_corner = block - orders.corner_column
            turned = at_corner + orders.edge_blocks[0] * first_edge(frame, centers)
            column = jnp.where(along, jnp.where(at_corner < 0, block, turned), 0)
            of_edges = tables[1].at[column].get(mode="promise_in_bounds").T
            edges = edge_nodes(frame, plan.light, centers, half, of_edges, tables[2])
            return [jnp.where(along[None], new.reshape(old.shape), old) for new, old in zip(edges, nodes, strict=True)]

        return jax.lax.cond(for_any(along[0]), with_edges, lambda: nodes), cell, share  # they come first

    def refine_once(turn, plan, means):
        nodes, cell, share = refined_nodes(plan, turn * width + jnp.arange(width, dtype=jnp.int32))
        values = computed_once(lambda i, j, weight: sample(weight.ravel(), i.ravel(), j.ravel()), *nodes)
        values = [of_one.reshape(-1, width) for of_one in values]
        sums = jnp.stack([_sum(of_one) for of_one in values] if on_cpu() else sum_together(values))
        add = jnp.where(share > 0, sums * share[None, :], 0)
        return means.reshape(planes, -1).at[:, cell].add(add, mode="promise_in_bounds").reshape(means.shape)

    samples = computed_once(lambda i, j: sample(jnp.ones_like(i), i, j), *_grid_nodes(layout, start, frame))
    if rough is None:
        plan = computed_once(judge, samples[0])
    else:
        plan = jax.lax.cond(rough, lambda _: no_plan(tol, ny * row, frame, dtype), judge, samples[0])
    turns = -(-count_blocks(orders, plan) // width)
    middle = computed_once(partial(_weight_of_middle, orders), plan.needs)
    needs, middle = (of_row.reshape(ny, row)[:, :nx] for of_row in (plan.needs, middle))
    far_share = share_of(needs, 0)

    def begin(samples):
        """The far rule's part, and the middle node's in others."""
        grid = samples[:on_axis].reshape(ny + EXTRA, row)
        far = jnp.where(far_share > 0, corrected_midpoint(grid, size / step) * far_share, 0)
        return far + jnp.where(middle > 0, grid[RING : RING + ny, RING : RING + nx] * middle, 0)

    means = jnp.stack([begin(of_one) for of_one in samples])
    return jax.lax.fori_loop(0, for_all(turns), lambda turn, means: refine_once(turn, plan, means), means)


def _weight_of_middle(orders, needs):
    """Of cells' own samples: what Gauss rules with a node in the middle weigh it with."""
    weights = {k: gauss_legendre(p)[1][p // 2].item() ** 2 for k, p in enumerate(orders.gauss, 1) if p % 2}
    return sum((weight * share_of(needs, rule) for rule, weight in weights.items()), jnp.zeros_like(needs))


def _sum(values):
    """Σ over the first axis, written out: one kernel, where XLA's own sum would wake other threads."""
    rest = 0
    while (count := len(values)) > 1:
        if count % 2:
            rest = rest + values[-1]
        values = values[: count // 2] + values[count // 2 : count // 2 * 2]
    return values[0] + rest


def _grid_nodes(layout, start, frame):
    """Places (i, j): cells' centres with rings around them in flat rows, then some on the source's major axis."""
    ny, nx, step = layout
    shape = ny + EXTRA, nx + EXTRA
    i, j = (start[k] + step * (jnp.arange(shape[1 - k], dtype=start.dtype) - RING) for k in range(2))
    if frame is None:
        axis = jnp.broadcast_to(start[:, None], (2, RADII.size + EXTRA))
    else:
        radii = jnp.asarray(np.append(RADII, [RADII[-1]] * EXTRA), start.dtype)
        axis = frame.center[:, None] + frame.axis[:, None] * radii[None, :]
    grid = jnp.broadcast_to(i[None, :], shape), jnp.broadcast_to(j[:, None], shape)
    return [jnp.concatenate([of_grid.ravel(), on_axis]) for of_grid, on_axis in zip(grid, axis, strict=True)]


def _tables(orders, dtype):
    """Gauss nodes (3, p, blocks): offsets and weights, rule after rule; and the two `edge_tables`."""
    rows = []
    for p in orders.gauss:
        x, w = gauss_legendre(p)
        nodes = np.stack([np.tile(x, p), np.repeat(x, p), np.outer(w, w).ravel()])
        if p % 2:  # the one in the middle is a sample already
            nodes = np.delete(nodes, p * p // 2, axis=1)
        nodes = np.pad(nodes, ((0, 0), (0, -nodes.shape[1] % orders.block)))  # of no weight
        rows.append(nodes.reshape(3, -1, orders.block).swapaxes(1, 2))
    along = [gauss_legendre(nodes) for nodes in orders.along]
    radial = [gauss_legendre(nodes) for nodes in (orders.radial, orders.radial * orders.parts)]
    tables = np.concatenate(rows, 2), *edge_tables(along, radial, orders.parts, orders.edge_block)
    return [jnp.asarray(table, dtype) for table in tables]


def _gauss_nodes(rules, block, centers, size):
    """i, j and weight of nodes, (p, W) arrays, from the table of offsets and weights."""
    # a product with unit vectors: twenty times as fast as to look every number up
    chosen = (jnp.arange(rules.shape[2], dtype=jnp.int32)[:, None] == block[None, :]).astype(size.dtype)
    rule = jnp.einsum("knb,bw->knw", rules, chosen, precision=jax.lax.Precision.HIGHEST)
    return [*(centers[k][None] + size[k] * rule[k] for k in range(2)), rule[2]]
