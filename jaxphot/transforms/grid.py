"""Displacement grids: how SIP and every other distortion is looked up.

Distorted pixel coordinates p become undistorted ones w = p + d(p), in pixels; what is left from w to the plane is linear.
The displacement d is tabulated at the pixel centres and one ring of nodes around them and interpolated bilinearly. A
coordinate outside the frame is moved to the frame's edge for the look-up, so that the displacement there is carried on
outside. The map is then continuous, piecewise bilinear and one to one, and its inverse is solved, not fitted: a table of
p − w gives the start of a few Newton steps on the same grid.

Functions work on NumPy arrays as well, in float64: builders use them so.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import array_namespace
from jaxphot.pytree import is_concrete, pytree, static_field

_NEWTON_STEPS = 3  # from the table: its error ε ≤ 1e-2 px shrinks by the distortion's curvature (≤ 4e-3 / px) a step
_INVERSE_STEP, _INVERSE_CELLS = 4, 256  # nodes of the inverse every 4 px, but not more than 257 an axis: it stays in cache


@pytree
class DisplacementGrid:
    """A tabulated distortion of a frame of pixels; made by `make_grid`.

    Attributes
    ----------
    displacement : (2, H, W) array
        (di, dj) in pixels at the nodes i = −1, step − 1, 2 step − 1, … up to nx or beyond, j likewise.
    area : (H, W) array
        Area of the pixel centred at each node ÷ that of an undistorted one.
    inverse : (2, h, w) array
        p − w on a grid over the frame's image in undistorted coordinates.
    origin, spacing : (2,) arrays
        (i, j) of that grid's first node, and the distance between nodes.
    frame : (2, 2) array
        Lowest and highest (i, j) of the frame: outside, the displacement of its edge is carried on.
    accuracy : scalar array
        Largest error (pixels) of the look-up between nodes, as measured in the middle of cells.
    shape : (ny, nx)
        Of the image (static).
    step : int
        Distance of nodes, pixels (static).
    """

    displacement: jax.Array
    area: jax.Array
    inverse: jax.Array
    origin: jax.Array
    spacing: jax.Array
    frame: jax.Array
    accuracy: jax.Array
    shape: tuple[int, int] = static_field()
    step: int = static_field()

    def forward(self, i, j):
        """Undistorted coordinates of pixel coordinates."""
        di, dj = _bilinear(*self._cell(self.displacement, i, j))
        return i + di, j + dj

    def backward(self, wi, wj):
        """Pixel coordinates of undistorted coordinates: the exact inverse of `forward`.

        Derivatives are those of the last Newton step alone, which by the implicit function theorem are exact.
        """
        xp = array_namespace(self.displacement, wi, wj)
        fixed = jax.lax.stop_gradient if xp is jnp else (lambda value: value)
        # without a barrier XLA evaluates each step anew for every use of its result: 30 times slower
        once = jax.lax.optimization_barrier if xp is jnp else (lambda values: values)
        still = jax.tree.map(fixed, self)
        i, j = still._start(fixed(wi), fixed(wj))
        for _ in range(_NEWTON_STEPS - 1):
            i, j = once(still._newton_step(*once((i, j)), fixed(wi), fixed(wj)))
        return self._newton_step(fixed(i), fixed(j), wi, wj)

    def relative_area(self, i, j):
        """Area of the pixel at (i, j) ÷ that of an undistorted one.

        Outside the frame it is what the displacement carried on gives, so that light keeps its flux.
        """
        xp = array_namespace(self.displacement, i, j)
        corners, u, v = self._cell(self.area[None], i, j)
        _, slopes = self._linearised(i, j)
        in_i, in_j = self._inside(i, j)
        within, carried_on = _determinant(slopes), _determinant(_gated(slopes, in_i, in_j, xp))
        ratio = xp.abs(carried_on / xp.where(within == 0, 1, within))
        return _bilinear(corners, u, v)[0] * xp.where(in_i & in_j, 1, ratio)

    def _newton_step(self, i, j, wi, wj):
        xp = array_namespace(self.displacement, i, j, wi)
        (di, dj), slopes = self._linearised(i, j)
        di_di, di_dj, dj_di, dj_dj = slopes = _gated(slopes, *self._inside(i, j), xp)
        ri, rj = (i - wi) + di, (j - wj) + dj
        det = _determinant(slopes)
        det = xp.where(det == 0, 1, det)
        return i - ((1 + dj_dj) * ri - di_dj * rj) / det, j - ((1 + di_di) * rj - dj_di * ri) / det

    def _start(self, wi, wj):
        """First guess of the inverse."""
        xp = array_namespace(self.inverse, wi, wj)
        h, w = self.inverse.shape[-2:]
        s = xp.clip((wi - self.origin[0]) / self.spacing[0], 0, w - 1)
        t = xp.clip((wj - self.origin[1]) / self.spacing[1], 0, h - 1)
        ei, ej = _bilinear(*_corners(self.inverse, s, t, xp))
        return wi + ei, wj + ej

    def _linearised(self, i, j):
        """Displacement and its slopes (∂di/∂i, ∂di/∂j, ∂dj/∂i, ∂dj/∂j) in the cell of (i, j) clamped to the frame."""
        corners, u, v = self._cell(self.displacement, i, j)
        return _bilinear(corners, u, v), [slope / self.step for slope in _slopes(corners, u, v)]

    def _inside(self, i, j):
        (i_lo, j_lo), (i_hi, j_hi) = self.frame
        return (i >= i_lo) & (i <= i_hi), (j >= j_lo) & (j <= j_hi)

    def _cell(self, array, i, j):
        """The nodes about (i, j) clamped to the frame, and its place (u, v) between them."""
        xp = array_namespace(array, i, j)
        (i_lo, j_lo), (i_hi, j_hi) = self.frame
        s, t = (xp.clip(i, i_lo, i_hi) + 1) / self.step, (xp.clip(j, j_lo, j_hi) + 1) / self.step
        return _corners(array, s, t, xp)


def _corners(array, s, t, xp):
    """Values of (n, H, W) tables at the four nodes about column s, row t; and the place (u, v) in that cell.

    NaN coordinates take any cell: their (u, v) is NaN.
    """
    n, h, w = array.shape
    column = xp.floor(xp.minimum(xp.where(s > 0, s, 0), w - 2))
    row = xp.floor(xp.minimum(xp.where(t > 0, t, 0), h - 2))
    index = row.astype(np.int32) * w + column.astype(np.int32)
    flat = array.reshape(n, h * w)
    corners = [[_take(table, index + k, xp) for k in (0, 1, w, w + 1)] for table in flat]
    cell = corners, s - column, t - row
    # without a barrier XLA looks the nodes up anew for every use of them: up to 30 times slower
    return jax.lax.optimization_barrier(cell) if xp is jnp else cell


def _take(table, index, xp):
    """``table[index]`` where every index is known to be inside: table by table, by far the fastest form on a CPU."""
    return table.at[index].get(mode="promise_in_bounds") if xp is jnp else table[index]


def _bilinear(corners, u, v):
    """Of every table, the value at (u, v) between its four corners."""
    return [c00 + u * (c10 - c00) + v * (c01 - c00 + u * (c11 - c01 - (c10 - c00))) for c00, c10, c01, c11 in corners]


def _slopes(corners, u, v):
    """Of every table, the derivatives of `_bilinear` in u and in v."""
    return [
        slope
        for c00, c10, c01, c11 in corners
        for slope in (c10 - c00 + v * (c11 - c01 - (c10 - c00)), c01 - c00 + u * (c11 - c10 - (c01 - c00)))
    ]


def _determinant(slopes):
    di_di, di_dj, dj_di, dj_dj = slopes
    return (1 + di_di) * (1 + dj_dj) - di_dj * dj_di


def _gated(slopes, in_i, in_j, xp):
    """Slopes with those along an axis on which a point is outside the frame set to 0: nothing changes out there."""
    di_di, di_dj, dj_di, dj_dj = slopes
    return [
        xp.where(in_i, di_di, 0),
        xp.where(in_j, di_dj, 0),
        xp.where(in_i, dj_di, 0),
        xp.where(in_j, dj_dj, 0),
    ]
