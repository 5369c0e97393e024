"""Which cells are refined, and how: decided by samples and by the distance from the source's centre."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.isophotes import (
    FLOOR,
    Light,
    half_sum_squared,
    hardness,
    is_at_corner,
    is_near,
    least_peak,
    may_reach_into_dark,
    reaches_into_dark,
)
from jaxphot.midpoint import EXTRA, level_and_error
from jaxphot.numerics import for_all, for_any, on_cpu, safe_log, smoothstep
from jaxphot.orders import choose_orders

_DOUBTFUL = (0.35, 5.0)  # the far rule's error, in tolerances: from which on others take over, and from which on alone;
_ACCURATE = (1e-4, 0.3)  # divided by this power of the tolerance over this one: large errors are foretold less well
_WIDTH = 2.0  # of other rules, the same from a limit to so many times that
_TINY = 1e6  # times the smallest number, added to what is divided by
_FARTHEST = 1e3  # half sum of distances from the cusp: beyond that it does not matter
_GROUPS = (8, 44), (32, 64)  # cells in one, and how many of them most sources have anything in, in frames of few and of
_MANY_CELLS = 2**14  # so many cells
_MANY_LISTED = 2**12  # cells: a comparison with all of them would take room of the cache's size
_NEAR = 8.0  # half sum of distances from the cusp: the far rule's error is more than foretold by its square nearer,
_EVEN = 0.7  # and less where there is nothing else


class Plan(NamedTuple):
    """Which cells are refined, and how.

    Attributes
    ----------
    needs : (N,) array
        Of every cell in flat rows, the number of its rule as in `Orders`; between two numbers, a blend of both.
    cells : (N,) int array
        Numbers of cells, those with needs first, sorted by falling kind.
    counts, first : (lists,) int arrays
        How many cells each of `Orders.lists` has; these lie one after another in `cells`, the first of them here.
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
    zero, none = jnp.zeros((), dtype), jnp.zeros(len(choose_orders(tol).lists), jnp.int32)
    light = None if frame is None else Light(*[zero] * 7, zero > 0)
    return Plan(jnp.zeros(cells, dtype), jnp.zeros(cells, jnp.int32), none, none, light)


def make_plan(tol, samples, frame, light, layout, place):
    """Say what every cell needs, and list those that need more than the far rule.

    Mostly these are few. On a CPU, if no more than a few of the groups of cells can have any, or three in eight, in all
    lanes that run together, no others are looked at closely.

    Parameters
    ----------
    tol : float
    samples : array
        Of the grid, in flat rows, as for `jaxphot.midpoint.level_and_error`.
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
    level, error = level_and_error(samples, ny, row, size / step)
    count, half, dtype = level.size, size / 2, level.dtype
    # a cusp of infinite brightness may lie on a sample
    level, error = jnp.where(jnp.isfinite(level), level, 0), jnp.where(jnp.isfinite(error), error, jnp.inf)
    is_cell = place_of(jnp.arange(count, dtype=jnp.int32), row)[0] < nx
    peak = jnp.max(jnp.where(is_cell, level, 0))
    if light is not None:
        peak = jnp.clip(peak, least_peak(frame, light, start, step, (ny, nx)), light.peak)
    level = jnp.maximum(level, FLOOR * peak)

    def centre(column, line):
        return [start[k] + step * along.astype(dtype) for k, along in enumerate((column, line))]

    def judge(is_cell, level, error, place):
        needs = _find_needs(orders, tol, level, error, frame, light, place, half)
        needs = jnp.where(is_cell & (needs > 0), needs, 0)  # (none where it is NaN)
        if frame is None:
            return needs, orders.kinds_of(needs, jnp.zeros_like(needs), False)
        hard, at_corner = hardness(frame, light, *place, half), is_at_corner(frame, *place, half)
        return needs, orders.kinds_of(needs, hard, at_corner)

    def judge_all():
        cells = jnp.arange(count, dtype=jnp.int32)
        needs, kinds = judge(is_cell, level, error, centre(*place_of(cells, row)))
        return needs, *_sort(orders, kinds, cells, count)

    def judge_some(most):
        """Of the groups in which any may have needs."""
        numbers = jnp.arange(len(has_any), dtype=jnp.int32)
        groups = jax.lax.rem(_sorted(jnp.where(has_any, numbers, numbers + len(has_any))), jnp.int32(len(has_any)))
        begin, line = place_of(groups[:most, None], per_row)
        column = group * begin + jnp.arange(group, dtype=jnp.int32)[None]
        column, line = column.ravel(), jnp.broadcast_to(line, column.shape).ravel()
        cells = line * row + jnp.minimum(column, nx)  # (the next one is none)
        needs, kinds = judge(column < nx, level[cells], error[cells], centre(column, line))
        listed, counts, first = _sort(orders, kinds, cells, count)
        all_needs = jnp.zeros(count, needs.dtype).at[cells].set(needs, mode="promise_in_bounds")
        return all_needs, jnp.pad(listed, (0, count - cells.size)), counts, first

    if not on_cpu():
        return Plan(*judge_all(), light)
    group, few = _GROUPS[count >= _MANY_CELLS]
    per_row = -(-nx // group)
    is_doubtful = (error > _doubtful(tol)[0] * tol * level + _TINY * jnp.finfo(dtype).tiny).reshape(ny, row)[:, :nx]
    has_any = jnp.any(jnp.pad(is_doubtful, ((0, 0), (0, -nx % group))).reshape(-1, group), axis=1)
    if frame is not None:
        begin, line = place_of(jnp.arange(len(has_any), dtype=jnp.int32), per_row)
        i, j = centre(group * begin, line)
        run = step * (group - 1) / 2
        has_any |= _may_be_near(orders, tol, peak, frame, light, (i + run, j), half, run)
    groups, result = for_all(jnp.sum(has_any, dtype=jnp.int32)), judge_all
    for most in (3 * count // 8 // group, min(few, count // 4 // group)):
        result = partial(jax.lax.cond, groups <= most, partial(judge_some, most), result)
    return Plan(*result(), light)


def _find_needs(orders, tol, level, error, frame, light, place, half):
    """`Plan.needs` of cells at a place, not cut off below 0."""
    tiny = _TINY * jnp.finfo(level.dtype).tiny
    # without any light, the distance from the centre decides
    error = (error + 0.9 * _doubtful(tol)[0] * tol * tiny) / (level + tiny)
    if frame is None:
        return _nested(_ramp_of_far(tol, error), [_ramp(error, limit) for _, limit in orders.unresolved])
    squared = jnp.clip(half_sum_squared(frame, *place, half), 1, _FARTHEST**2)  # (less by rounding)
    growth = jax.lax.cond(for_any(light.is_steep), lambda: _growth_of_steep(light, level), lambda: jnp.ones_like(level))
    shrink = 1 / (jnp.sqrt(squared) + jnp.sqrt(squared - 1)) ** 2
    near = _ramps_by_distance(orders, tol, shrink, growth)
    others = _ramps_by_error(orders, error, light, shrink, growth)
    even = _EVEN + (1 - _EVEN) * light.uneven
    far = jnp.maximum(_ramp_of_far(tol, error * jnp.maximum(even, _NEAR**2 / squared)), near[0])
    needs = _nested(far, [*(jnp.maximum(a, b) for a, b in zip(others, near[:-1], strict=True)), near[-1]])
    return jnp.maximum(needs, orders.edges * reaches_into_dark(frame, light, *place, half))


def _doubtful(tol):
    """`_DOUBTFUL` at a tolerance."""
    accurate, power = _ACCURATE
    return [error / max(tol / accurate, 1) ** power for error in _DOUBTFUL]


def _ramp_of_far(tol, error):
    """From 0 to 1, by the far rule's error."""
    low, high = _doubtful(tol)
    return (1 / low - tol / error) / (1 / low - 1 / high)


def _ramp(value, limit):
    """From 0 at a limit to 1, and on."""
    return (value / limit - 1) / (_WIDTH - 1)


def _ramps_by_distance(orders, tol, shrink, growth):
    """Of all Gauss rules, by ρ^(−2) of a cell.

    Where a source is smooth the p-point rule's relative error is less than ρ^(−2p), ρ that of the cell's ellipse of
    analyticity (`half_sum_squared`); next to a steep cusp it grows like a power of the brightness fallen from there.
    """
    return [
        _ramp(shrink**p * growth * jnp.minimum(growth, most), part * tol)
        for p, (part, most) in zip(orders.gauss, orders.nearest, strict=True)
    ]


def _ramps_by_error(orders, error, light, shrink, growth):
    """Of all Gauss rules but the last, by the far rule's error: where it is small, theirs are less than ρ^(−2p)."""
    ramps = [_ramp(error, even + (other - even) * light.uneven) for even, other in orders.unresolved]
    bent = error * error * shrink**3
    for number, limit in enumerate(orders.bent):
        ramps[number] = jnp.maximum(ramps[number], _ramp(bent, limit))
        bent = bent if number else bent * shrink * growth
    return ramps


def _nested(far, ramps):
    """Sum of ramps from 0 to 1, each of which counts only as far as the one before it has risen.

    Weights of rules have no derivatives. So they change least where the rules differ most: the far rule's in inverse
    proportion to its error, which then counts equally everywhere; others have no kinks.
    """
    total = 0
    for ramp in ramps[::-1]:
        total = smoothstep(ramp) * (1 + total)
    return jnp.clip(far, 0, 1) * (1 + total)


def _may_be_near(orders, tol, peak, frame, light, place, half, run):
    """Whether cells of runs may have needs by their distance from the centre."""
    growth = _growth_of_steep(light, FLOOR * peak)
    rho = (growth / (orders.nearest[0][0] * tol)) ** (0.5 / orders.gauss[0])
    farthest = jnp.clip((rho + 1 / rho) / 2, _NEAR, _FARTHEST)
    return is_near(frame, *place, half, run, farthest) | may_reach_into_dark(frame, light, *place, half, run)


def share_of(needs, rule):
    """Of the rule with this number in cells' values; of all rules they add up to 1."""
    return jnp.maximum(1 - jnp.abs(needs - rule), 0)


def _sort(orders, kinds, cells, count):
    """Numbers of cells, less than `count`, by falling kind, and `Plan.counts` and `Plan.first`.

    By a sort, which compiles faster than anything else that makes a list.
    """
    keys = _sorted((orders.last_kind - kinds) * jnp.int32(count) + cells)
    limits = count * jnp.arange(1, orders.last_kind + 1, dtype=jnp.int32)
    method = "scan" if on_cpu() and keys.size > _MANY_LISTED else "compare_all"
    above = jnp.searchsorted(keys, limits, method=method)
    above = jnp.pad(above, (1, 0))  # how many are of the last kinds: of none, one, two, …
    lowest, highest = np.array([of_rule.kinds for of_rule in orders.lists]).T
    first, end = above[orders.last_kind - highest], above[orders.last_kind + 1 - lowest]
    return jax.lax.rem(keys, jnp.int32(count)), end - first, first


def _sorted(keys):
    return jax.lax.sort(keys, is_stable=False)  # equal ones are the same


def _growth_of_steep(light, level):
    """A power of the brightness next to the cusp of a steep source relative to that in a cell."""
    growth = jnp.exp(light.decay * safe_log(jnp.clip(light.top / level, 1, 1e30)))
    return jnp.where(light.is_steep, growth, 1)  # (other lanes may be without any light)


def find_blocks(orders, plan, number):
    """Cell, share, place in the table of its kind, and whether it lies along edges, of blocks by their number.

    In the order of `Orders.lists`.
    """
    begin, found = jnp.int32(0), None
    for k, of_rule in enumerate(orders.lists):
        own = begin, plan.first[k], *(jnp.int32(constant) for constant in of_rule[:3])
        found = own if k == 0 else [jnp.where(number >= begin, new, old) for new, old in zip(own, found, strict=True)]
        begin = begin + of_rule.size * plan.counts[k]
    own_begin, first, size, column, rule = found
    rank = _quotient(number - own_begin, size, plan.cells.size * max(of_rule.size for of_rule in orders.lists))
    cell = plan.cells[jnp.clip(first + rank, 0, plan.cells.size - 1)]
    share = jnp.where(number < begin, share_of(plan.needs[cell], rule.astype(plan.needs.dtype)), 0)
    block = jnp.where(number < begin, column + number - own_begin - size * rank, 0)
    return cell, share, block, rule == orders.edges


def _quotient(number, divisor, most):
    """Of whole numbers up to a constant: by floats where these are exact, as processors divide no vectors of others."""
    if most >= 2**23:
        return jax.lax.div(number, divisor)
    return ((number.astype(jnp.float32) + 0.5) / divisor.astype(jnp.float32)).astype(jnp.int32)


def count_blocks(orders, plan):
    """Of all cells."""
    return sum(of_rule.size * plan.counts[k] for k, of_rule in enumerate(orders.lists))
