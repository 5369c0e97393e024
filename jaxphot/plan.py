"""Which cells are refined, and how: decided by samples and by the distance from the source's centre."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxphot.isophotes import (
    Light,
    half_sum_squared,
    is_hard,
    is_near,
    may_reach_into_dark,
    reaches_into_dark,
)
from jaxphot.midpoint import EXTRA, far_and_error
from jaxphot.numerics import on_cpu, safe_log

_FLOOR = 1e-4  # accuracy is relative to the larger of the cell and this part of the brightest one
_CUSP = 0.2  # the p-point Gauss rule's relative error in a cell is about this · ρ^(−2p)
_ERRORS = {3: (0.03, 0.015), 4: (0.08, 0.04)}  # parts of the tolerance between which rules of so many points, of which
_OTHER_ERRORS = (0.2, 0.1)  # that estimate promises too much, and others are blended with the next finer one
_DOUBTFUL = 0.6  # part of the tolerance from which on the far rule's error counts, fully from twice that
_TINY = 1e3  # times the smallest number, added to what is divided by
_LEAST_RHO = 1.01
_MANY_CELLS = 2**14  # from which on larger groups of cells are sorted
_NEAR = (6.0, 8.0)  # half sums of distances from the cusp below which the far rule is not trusted either


@dataclass(frozen=True)
class Orders:
    """How many nodes: by Gauss rules in a cell, or along its edges times from the centre.

    All come in blocks of one size, as many as the first rule has.

    Attributes
    ----------
    gauss : tuple of int
        p of the p × p rules.
    unresolved : tuple of (float, float)
        Of all but the last: the far rule's error, relative to the cell, from which on they are blended with the next;
        of sources whose brightness falls outwards everywhere, and of others.
    along : (int, int)
        Nodes along an edge, where brightness falls by little between the centre and the cell, and where by much.
    radial : int
        Nodes from the centre in a block.
    parts : int
        Blocks of them where brightness falls by much.
    """

    gauss: tuple[int, ...]
    unresolved: tuple[tuple[float, float], ...]
    along: tuple[int, int]
    radial: int
    parts: int

    @property
    def block(self):
        """Nodes a block."""
        return self.gauss[0] ** 2

    @property
    def edge_block(self):
        """Nodes along an edge a block."""
        return self.block // self.radial

    @property
    def blocks(self):
        """Blocks a cell of every Gauss rule."""
        return tuple(-(-(p**2) // self.block) for p in self.gauss)

    @property
    def edge_blocks(self):
        """Blocks a cell along its edges, where brightness falls by little and where by much."""
        gentle, hard = (4 * nodes // self.edge_block for nodes in self.along)
        return gentle, hard * self.parts

    @property
    def rules(self):
        """The last rule's number: nodes along edges where brightness falls by much; before it, by little."""
        return len(self.gauss) + 2


def choose_orders(tol):
    """Orders that go with a tolerance."""
    if tol >= 3e-3:
        return Orders((3, 6), ((0.02, 0.005),), (6, 8), 9, 2)
    if tol >= 3e-5:
        return Orders((3, 4, 6, 9), ((0.02, 0.0015), (0.1, 0.02), (0.3, 0.3)), (10, 14), 9, 2)
    if tol >= 3e-7:
        return Orders((6, 12), ((0.02, 0.02),), (14, 20), 18, 2)
    return Orders((8, 16), ((0.02, 0.02),), (20, 28), 32, 2)


class Plan(NamedTuple):
    """Which cells are refined, and how.

    Attributes
    ----------
    needs : (N,) array
        Of every cell in flat rows, the number of its rule: 0 the far rule, then those of `Orders.gauss`, then nodes
        along its edges of two kinds; between two numbers, a blend of both.
    cells : (N,) int array
        Numbers of cells, those with needs first, sorted by falling need.
    counts, first : (rules,) int arrays
        How many need each rule, the last one first; these lie one after another in `cells`, the first of them here.
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


def no_plan(tol, cells, frame, dtype):
    """A `Plan` that leaves all cells to the far rule."""
    zero, rules = jnp.zeros((), dtype), choose_orders(tol).rules
    light = None if frame is None else Light(*[zero] * 7, zero > 0)
    none = jnp.zeros(rules, jnp.int32)
    return Plan(jnp.zeros(cells, dtype), jnp.zeros(cells, jnp.int32), none, none, light)


def make_plan(tol, samples, frame, light, layout, place):
    """Say what every cell needs, and list those that need more than the far rule.

    Mostly these are few. If less than a part of the groups of cells can have any (on a CPU: lanes that run together
    would do both), no others are looked at closely.

    Parameters
    ----------
    tol : float
    samples : array
        Of the grid, in flat rows, as for `jaxphot.midpoint.far_and_error`.
    frame : Frame or None
    light : Light or None
    layout : (ny, nx, step)
    place : (start, size)
        The first cell's centre, and the cells' sides.

    Returns
    -------
    Plan
    """
    (ny, nx, step), (start, size) = layout, place
    row, orders = nx + EXTRA, choose_orders(tol)
    tol = max(tol, 40 * float(jnp.finfo(samples.dtype).eps))
    mean, error = far_and_error(samples, ny, row, size / step)
    count, half, dtype = mean.size, size / 2, mean.dtype

    def centre(column, line):
        return [start[k] + step * along.astype(dtype) for k, along in enumerate((column, line))]

    is_cell = place_of(jnp.arange(count, dtype=jnp.int32), row)[0] < nx
    usable = jnp.isfinite(mean) & is_cell  # a cusp of infinite brightness may lie on a sample
    mean, error = jnp.where(usable, jnp.abs(mean), 0), jnp.where(usable, error, jnp.inf)
    peak = jnp.max(mean)
    if light is not None:
        peak = jnp.minimum(peak, light.peak)
    # (without any light, the distance from the centre decides: there are derivatives)
    level = jnp.maximum(mean, _FLOOR * peak)

    def judge(is_cell, level, error, place):
        needs = _find_needs(orders, tol, level, error, frame, light, place, half)
        return jnp.where(is_cell & (needs > 0), needs, 0)  # (none where it is NaN)

    def judge_all():
        place = centre(*place_of(jnp.arange(count, dtype=jnp.int32), row))
        needs = judge(is_cell, level, error, place)
        return needs, *_sort(needs, orders.rules)

    def judge_some():
        """Of the groups in which any may have needs."""
        numbers = jnp.arange(len(has_any), dtype=jnp.int32)
        groups = jax.lax.rem(_sorted(jnp.where(has_any, numbers, numbers + len(has_any))), jnp.int32(len(has_any)))
        cells = (groups[:some, None] * group + jnp.arange(group, dtype=jnp.int32)[None]).ravel()
        column, line = place_of(cells, row)
        within = jnp.minimum(cells, count - 1)
        needs = judge((column < nx) & (cells < count), level[within], error[within], centre(column, line))
        order, counts, first = _sort(needs, orders.rules)
        all_needs = jnp.zeros(count, needs.dtype).at[cells].set(needs, mode="drop", unique_indices=True)
        return all_needs, jnp.pad(within[order], (0, count - cells.size)), counts, first

    group = 8 if count < _MANY_CELLS else 32
    some = min(int(8 * count**0.5), count) // group
    if not on_cpu():
        return Plan(*judge_all(), light)
    is_doubtful = is_cell & (error > _DOUBTFUL * tol * level + _TINY * jnp.finfo(dtype).tiny)
    has_any = jnp.any(jnp.pad(is_doubtful, (0, -count % group)).reshape(-1, group), axis=1)
    if frame is not None:
        column, line = place_of(group * jnp.arange(len(has_any), dtype=jnp.int32), row)
        run = step * (group - 1) / 2
        for back, down in ((0, 0), (row, 1)):  # the end of a run may lie in the next row
            i, j = centre(column - back, line + down)
            has_any |= _may_be_near(orders, tol, peak, frame, light, (i + run, j), half, run)
    return Plan(*jax.lax.cond(jnp.sum(has_any, dtype=jnp.int32) <= some, judge_some, judge_all), light)


def _find_needs(orders, tol, level, error, frame, light, place, half):
    """`Plan.needs` of cells at a place, not cut off below 0."""
    error = error / (tol * level + _TINY * jnp.finfo(level.dtype).tiny)
    rise = 1.0 if light is None else light.rise
    parts = [plain + (other - plain) * rise for plain, other in orders.unresolved]
    ramps = [error / _DOUBTFUL - 1, *(error * (tol / part) - 1 for part in parts)]
    if frame is None:
        return _nested([jnp.clip(ramp, 0, 1) for ramp in ramps])
    squared = half_sum_squared(frame, *place, half)

    def by_distance(fall):
        limits = _least_half_sums(orders, tol, fall)
        return [_ramp(squared, *limit) for limit in (_least_far(limits[0]), *limits)]

    near = jax.lax.cond(light.is_steep, lambda: by_distance(_fall_of_steep(light, level)), lambda: by_distance(0.0))
    ramps = [jnp.maximum(a, b) for a, b in zip(ramps, near[:-1], strict=True)]
    needs = _nested([jnp.clip(ramp, 0, 1) for ramp in [*ramps, near[-1]]])
    gentle = orders.rules - 1
    needs = jnp.maximum(needs, gentle * reaches_into_dark(frame, light, *place, half))
    return jnp.where((needs > gentle - 1) & is_hard(frame, light, *place, half), orders.rules, needs)


def _nested(ramps):
    """Sum of ramps, each of which counts only as far as the one before it has risen."""
    total = ramps[-1]
    for ramp in ramps[-2::-1]:
        total = ramp * (1 + total)
    return total


def _may_be_near(orders, tol, peak, frame, light, place, half, run):
    """Whether cells of runs may have needs by their distance from the centre."""
    fall = jnp.where(light.is_steep, _fall_of_steep(light, _FLOOR * peak), 0)
    _, farthest = _least_far(_least_half_sums(orders, tol, fall)[0])
    return is_near(frame, *place, half, run, farthest) | may_reach_into_dark(frame, light, *place, half, run)


def _ramp(squared, low, high):
    """From 1 at `low` to 0 at `high`, and on."""
    return (high**2 - squared) / (high**2 - low**2)


def share_of(needs, rule):
    """Of the rule with this number in cells' values; of all rules they add up to 1."""
    return jnp.clip(1 - jnp.abs(needs - rule), 0, 1)


def _sort(needs, rules):
    """Cells' numbers by falling need, and `Plan.counts` and `Plan.first`.

    By a sort, which compiles faster than anything else that makes a list.
    """
    # even ones are those of one rule, from the last to the far rule; odd ones lie between two
    kinds = (jnp.floor(rules - needs) + jnp.ceil(rules - needs)).astype(jnp.int32)
    size = jnp.int32(needs.size)
    keys = _sorted(kinds * size + jnp.arange(needs.size, dtype=jnp.int32))
    ends = size * jnp.arange(1, 2 * rules + 1, dtype=jnp.int32)
    before = jnp.sum(keys[None, :] < ends[:, None], axis=1, dtype=jnp.int32)
    first = jnp.concatenate([jnp.zeros_like(before[:1]), before[:-2:2]])
    return jax.lax.rem(keys, size), before[1::2] - first, first


def _sorted(keys):
    return jax.lax.sort(keys, is_stable=False)  # all differ


def _fall_of_steep(light, level):
    """What the error of a Gauss rule grows by in cells of steep sources, to the power 1/(2p) of it, is exp of this.

    It grows like a power of the brightness next to the cusp relative to that in the cell.
    """
    return light.decay * safe_log(jnp.clip(light.top / level, 1, 1e30))


def _least_half_sums(orders, tol, fall):
    """(low, high) of every Gauss rule: half sums at which it errs by `_ERRORS`, parts of the tolerance.

    They are (ρ + 1/ρ)/2 where ρ^(2p) is as large as the error is without it.
    """
    limits, root = [], 2 * math.lcm(*orders.gauss)  # one exponential for all of them
    growth = math.exp(fall / root) if isinstance(fall, float) else jnp.exp(fall / root)
    for p in orders.gauss:
        rho = [(_CUSP / (part * tol)) ** (1 / (2 * p)) for part in _ERRORS.get(p, _OTHER_ERRORS)]
        grown = [max(r, _LEAST_RHO) * growth ** (root // (2 * p)) for r in rho]
        limits.append([(r + 1 / r) / 2 for r in grown])
    return limits


def _least_far(limits):
    """The same for the far rule: it ends where the first Gauss rule is all right."""
    largest = max if isinstance(limits[1], float) else jnp.maximum
    return largest(_NEAR[0], limits[1]), largest(_NEAR[1], limits[1] + 2)


def find_blocks(orders, plan, number):
    """Cell, share, place in the table of its kind, and whether it lies along edges, of blocks by their number.

    First come those along edges, then those of the Gauss rules, the finest first.
    """
    begin, found = jnp.int32(0), None
    for k, (size, column) in enumerate(zip(_sizes(orders), _first_columns(orders), strict=True)):
        within = number - begin
        rank = jax.lax.div(within, jnp.int32(size))
        own = plan.first[k] + rank, column + within - size * rank, jnp.full_like(number, orders.rules - k)
        found = own if k == 0 else [jnp.where(within >= 0, new, old) for new, old in zip(own, found, strict=True)]
        begin = begin + size * plan.counts[k]
    rank, column, rule = found
    cell = plan.cells[jnp.clip(rank, 0, plan.cells.size - 1)]
    share = jnp.where(number < begin, share_of(plan.needs[cell], rule.astype(plan.needs.dtype)), 0)
    return cell, share, jnp.where(number < begin, column, 0), rule >= orders.rules - 1


def count_blocks(orders, plan):
    """Of all cells."""
    return sum(size * plan.counts[k] for k, size in enumerate(_sizes(orders)))


def _sizes(orders):
    """Blocks a cell of every rule, the last one first."""
    return *orders.edge_blocks[::-1], *orders.blocks[::-1]


def _first_columns(orders):
    """Of every rule in the table of its kind."""
    gauss = [sum(orders.blocks[:k]) for k in range(len(orders.blocks))]
    return orders.edge_blocks[0], 0, *gauss[::-1]
