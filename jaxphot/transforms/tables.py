"""Regular tables: bilinear look-up with derivatives, resampling, a ring of nodes around them.

On JAX and on NumPy arrays alike; `xp` is the module of the two that is meant.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import array_namespace


def corners(array, s, t, xp):
    """Values of (n, H, W) tables at the four nodes about column s, row t; and the place (u, v) in that cell.

    NaN coordinates take any cell: their (u, v) is NaN.
    """
    n, h, w = array.shape
    index, u, v = _cell(h, w, s, t, xp)
    flat = array.reshape(n, h * w)
    return [[_take(table, index + k, xp) for k in (0, 1, w, w + 1)] for table in flat], u, v


def look_up(array, s, t, xp):
    """Bilinear values of (n, H, W) tables about column s, row t: (n, …)."""
    n, h, w = array.shape
    if xp is np:
        return bilinear(*corners(array, s, t, xp))
    index, u, v = _cell(h, w, s, t, xp)
    flat = array.reshape(n * h * w)

    def one(first):
        return bilinear([[_take(flat, first + index + k, xp) for k in (0, 1, w, w + 1)]], u, v)[0]

    # A loop over the tables, whose result XLA keeps; else it looks everything up anew for every use: 5 times slower
    return jax.lax.map(one, np.arange(n, dtype=np.int32) * (h * w))


def _cell(h, w, s, t, xp):
    """Flat index of the first node of the cell about column s, row t, and the place (u, v) in it."""
    column = xp.floor(xp.minimum(xp.where(s > 0, s, 0), w - 2))
    row = xp.floor(xp.minimum(xp.where(t > 0, t, 0), h - 2))
    return row.astype(np.int32) * w + column.astype(np.int32), s - column, t - row


def _take(table, index, xp):
    """``table[index]`` where every index is known to be inside: table by table, by far the fastest form on a CPU."""
    return table.at[index].get(mode="promise_in_bounds") if xp is jnp else table[index]


def bilinear(corners, u, v):
    """Of every table, the value at (u, v) between its four corners."""
    return [c00 + u * (c10 - c00) + v * (c01 - c00 + u * (c11 - c01 - (c10 - c00))) for c00, c10, c01, c11 in corners]


def slopes(corners, u, v, step):
    """Of every table, the derivatives of `bilinear` in i and in j, with nodes `step` pixels apart."""
    return [
        slope / step
        for c00, c10, c01, c11 in corners
        for slope in (c10 - c00 + v * (c11 - c01 - (c10 - c00)), c01 - c00 + u * (c11 - c10 - (c01 - c00)))
    ]


def determinant(slopes):
    """Jacobian determinant of p + d(p) from the slopes of d."""
    di_di, di_dj, dj_di, dj_dj = slopes
    return (1 + di_di) * (1 + dj_dj) - di_dj * dj_di


def gated(slopes, in_i, in_j, xp):
    """Slopes with those along an axis on which a point is outside the frame set to 0: nothing changes out there."""
    di_di, di_dj, dj_di, dj_dj = slopes
    return [
        xp.where(in_i, di_di, 0),
        xp.where(in_j, di_dj, 0),
        xp.where(in_i, dj_di, 0),
        xp.where(in_j, dj_dj, 0),
    ]


def resample(table, positions, axis, taps):
    """A table at other positions along an axis, by Lagrange's formula on the nearest `taps` nodes (static, NumPy).

    Two are the bilinear look-up itself, so that crops change nothing; beyond the last node they carry the slope on.
    """
    n = table.shape[axis]
    taps = min(taps, n)
    first = np.clip(np.floor(positions).astype(int) - (taps - 2) // 2, 0, n - taps)
    x = positions - first
    side = np.ones(table.ndim, int)
    side[axis] = -1
    total = 0
    for k in range(taps):
        weight = np.prod([(x - m) / (k - m) for m in range(taps) if m != k], axis=0)
        total = total + table.take(first + k, axis) * weight.astype(table.dtype).reshape(side)
    return total


def block_positions(n, k):
    """Node numbers of the centres of n blocks of k pixels, and of the outer edges before and after them."""
    return np.concatenate([[0.5], k * np.arange(n) + (k - 1) / 2 + 1, [k * n + 0.5]])


def edge_to_ring(table):
    """First and last row, known at the frame's edge, moved half a pixel out to the ring of nodes; then transposed."""
    xp = array_namespace(table)
    rows = [
        2 * table[..., :1, :] - table[..., 1:2, :],
        table[..., 1:-1, :],
        2 * table[..., -1:, :] - table[..., -2:-1, :],
    ]
    return xp.swapaxes(xp.concatenate(rows, -2), -1, -2)


def add_ring(table):
    """A row before the first and after the last, on the same slope; then transposed."""
    xp = array_namespace(table)
    near = min(1, table.shape[0] - 1)
    rows = [2 * table[:1] - table[near : near + 1], table, 2 * table[-1:] - table[-1 - near : len(table) - near]]
    return xp.concatenate(rows, 0).T
