"""Which cells are refined, and how: decided by samples and by the distance from the source's centre."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxphot.edges import Light, half_sum_squared, reaches_into_dark
from jaxphot.midpoint import EXTRA
from jaxphot.numerics import on_cpu, safe_log

_FLOOR = 1e-4  # accuracy is relative to the larger of the cell and this part of the brightest one
_CUSP = 0.2  # the m-point Gauss rule's relative error in a cell is about this · ρ^(−2m)
_ERRORS = (0.2, 0.1)  # parts of the tolerance between which a Gauss rule is blended with the next finer one
_UNRESOLVED = 0.02  # the far rule's error, relative to the cell: beyond twice that the estimate says nothing
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


class Plan(NamedTuple):
    """Which cells are refined, and how.

    Attributes
    ----------
    needs : (N,) array
        Of every cell in flat rows: 0 the far rule, 1 m × m nodes, 2 has 2m × 2m, 3 nodes along its edges; between two
        numbers, a blend of both.
    cells : (N,) int array
        All cells' numbers, sorted by falling need.
    counts, first : (3,) int arrays
        How many need nodes along edges, 2m × 2m, m × m; these lie one after another in `cells`, the first of them here.
    light : Light or None
    """

    needs: jax.Array
    cells: jax.Array
    counts: jax.Array
    first: jax.Array
    light: Light | None


def place_of(number, row):
    """Column and line of a flat number."""
    return jax.lax.rem(number, jnp.int32(row)), jax.lax.div(number, jnp.int32(row))


def find_needs(tol, mean, error, frame, light, layout, start, half):
    """Which cells need more than the far rule, and how much: `Plan.needs`.

    Parameters
    ----------
    tol : float
    mean, error : (N,) arrays
        The far rule's, and what it says of its error.
    frame : Frame or None
    light : Light or None
    layout : (ny, nx, step)
    start, half : (2,) arrays
        The first cell's centre, and half the cells' sides.
    """
    ny, nx, step = layout
    row = nx + EXTRA
    orders = choose_orders(tol)
    tol = max(tol, 40 * float(jnp.finfo(mean.dtype).eps))
    column, line = place_of(jnp.arange(ny * row, dtype=jnp.int32), row)
    usable = jnp.isfinite(mean) & (column < nx)  # a cusp of infinite brightness may lie on a sample
    mean, error = jnp.where(usable, jnp.abs(mean), 0), jnp.where(usable, error, jnp.inf)
    peak = jnp.max(mean)
    if light is not None:
        peak = jnp.minimum(peak, light.peak)
    # (without any light, the distance from the centre decides: there are derivatives)
    level = jnp.maximum(mean, _FLOOR * peak)
    error = error / (tol * level + 1e3 * jnp.finfo(mean.dtype).tiny)
    share, fine = jnp.clip(error / 0.6 - 1, 0, 1), jnp.clip(error * (tol / _UNRESOLVED) - 1, 0, 1)
    if frame is not None:
        i, j = (start[k] + step * along.astype(mean.dtype) for k, along in enumerate((column, line)))
        squared = half_sum_squared(frame, i, j, half)
        edges, enough = _least_half_sums(orders.m, tol, light, level)
        share = jnp.maximum(share, jnp.clip(_ramp(squared, *_NEAR), 0, 1))
        fine = jnp.maximum(fine, jnp.clip(_ramp(squared, *enough), 0, 1))
    needs = jnp.minimum(share * (1 + 3 * fine), 1 + fine)
    if frame is not None:
        along_edges = jnp.maximum(_ramp(squared, *edges), reaches_into_dark(frame, light, i, j, half))
        needs = jnp.clip(jnp.maximum(needs, 2 + along_edges), 0, 3)
    return jnp.where((column < nx) & (needs > 0), needs, 0)  # (none where it is NaN)


def _ramp(squared, low, high):
    """From 1 at `low` to 0 at `high`, and on."""
    return (high**2 - squared) / (high**2 - low**2)


def share_of(needs, rule):
    """Of the rule with this number in cells' values."""
    return jnp.clip(1 - jnp.abs(needs - rule), 0, 1)


def sort_cells(needs):
    """`Plan.cells`, `Plan.counts` and `Plan.first`.

    By a sort, which compiles faster than anything else that makes a list. Mostly few cells have needs: if less than a
    part of the groups have any, these are sorted first (on a CPU: lanes that run together would do both), then their
    cells.
    """
    group, part = (64, 8) if needs.size > _MANY_CELLS else (16, 4)
    # 0, 2, 4 are those of one rule (3 to 1), odd ones lie between two; 6 is the far rule alone
    kinds = (jnp.floor(3 - needs) + jnp.ceil(3 - needs)).astype(jnp.int32)
    kinds = jnp.pad(kinds, (0, -needs.size % group), constant_values=6)
    within = kinds[None, :] <= jnp.arange(6, dtype=jnp.int32)[:, None]
    before = jnp.sum(within, axis=1, dtype=jnp.int32)
    first = jnp.stack([jnp.zeros_like(before[0]), before[0], before[2]])
    counts = before[1::2] - first
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
        has_any = jnp.any(kinds.reshape(keys.shape) < 6, axis=1)
        listed = jax.lax.cond(jnp.sum(has_any, dtype=jnp.int32) <= some, sort_some, sort_all)
    return jnp.minimum(jax.lax.rem(listed[: needs.size], size), needs.size - 1), counts, first


def _sorted(keys):
    return jax.lax.sort(keys, is_stable=False)  # all differ


def _least_half_sums(m, tol, light, level):
    """Half sums at which 2m × 2m and m × m nodes err by `_ERRORS`, parts of the tolerance.

    They are (ρ + 1/ρ)/2 where ρ^(4m) or ρ^(2m) is as large as the error is without it. Of steep sources that grows like
    a power of the brightness next to the cusp relative to that in the cell.

    Returns
    -------
    ((low, high), (low, high))
    """

    def growth_of_steep():
        return jnp.exp(light.decay / (4 * m) * safe_log(jnp.clip(light.top / level, 1, 1e30)))

    growth = jax.lax.cond(light.is_steep, growth_of_steep, lambda: jnp.ones_like(level))
    inverse = 1 / growth
    rho = [(_CUSP / (part * tol)) ** (1 / (4 * m)) for part in _ERRORS]
    fine = [r / 2 * growth + 0.5 / r * inverse for r in rho]
    return fine, [2 * h * h - 1 for h in fine]  # that of ρ²


def find_blocks(orders, plan, number):
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
    rank = jnp.where(along, rank, jnp.where(late, number - first_coarse + plan.first[2], rank + plan.first[1]))
    block = jnp.where(along, block, jnp.where(late, 0, 1 + block))
    cell = plan.cells[jnp.minimum(rank, plan.cells.size - 1)]
    rule = jnp.where(along, jnp.int32(3), jnp.where(late, jnp.int32(1), jnp.int32(2)))
    share = share_of(plan.needs[cell], rule.astype(plan.needs.dtype))
    return cell, jnp.where(number < first_coarse + coarse, share, 0), block, along
