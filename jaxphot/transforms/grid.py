"""Displacement grids: how SIP and every other distortion is looked up.

Distorted pixel coordinates p become undistorted ones w = p + d(p), in pixels; the rest, from w to the plane, is linear.
The displacement d is tabulated at the pixel centres and one ring of nodes around them and interpolated bilinearly. A
coordinate outside the frame is moved to the frame's edge for the look-up, so that the displacement there is carried on
outside. The map is then continuous, piecewise bilinear and one to one, and its inverse is solved, not fitted: a table
of p − w gives the start of a few Newton steps on the same grid.

Functions work on NumPy arrays as well, in float64: builders use them so.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import array_namespace
from jaxphot.pytree import is_concrete, pytree, static_field
from jaxphot.transforms.tables import (
    add_ring,
    bilinear,
    block_positions,
    corners,
    determinant,
    edge_to_ring,
    gated,
    look_up,
    resample,
    slopes,
)

_NEWTON_STEPS = 3  # from the table: its error ε ≤ 1e-2 px shrinks by the distortion's curvature (≤ 4e-3 / px) a step
_SEARCH_STEPS = 50
_INVERSE_STEP = 4  # nodes of the inverse table every 4 px, …
_INVERSE_CELLS = 256  # … but not more than 257 along an axis, so that it stays in the cache: Newton does the rest


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
        return _run(_forward, self, i, j)

    def backward(self, wi, wj):
        """Pixel coordinates of undistorted coordinates: the exact inverse of `forward`, with exact derivatives."""
        return _run(_backward, self, wi, wj)

    def relative_area(self, i, j):
        """Area of the pixel at (i, j) ÷ that of an undistorted one; outside the frame, that at its edge.

        So light that the PSF brings in from outside is as bright as that inside: what a constant displacement covers
        out there would make uniform light jump at the border.
        """
        return _run(_relative_area, self, i, j)

    def crop(self, i0, j0, shape):
        """The grid of the window of a given shape whose first pixel is (i0, j0).

        Every point keeps its undistorted place, inside and outside the old frame; a window that leaves the frame keeps
        the frame's edge where it was. Only the parts of the frame that are cut off take a new displacement: that of
        the window's edge. The result has a node at every pixel.
        """
        if self.displacement.ndim > 3:
            return self._each(lambda grid: grid.crop(i0, j0, shape))
        old = _concrete_as_numpy(self)
        columns = (np.arange(-1, shape[1] + 1) + i0 + 1) / self.step
        rows = (np.arange(-1, shape[0] + 1) + j0 + 1) / self.step
        tables = [resample(resample(t, rows, -2, 2), columns, -1, 2) for t in (old.displacement, old.area)]
        shift = np.asarray([[i0, j0], [i0, j0]], old.frame.dtype)
        window = DisplacementGrid(
            *tables, old.inverse, old.origin, old.spacing, _clipped(old.frame - shift, shape), old.accuracy, shape, 1
        )

        def start(wi, wj):
            i, j = old.backward(wi + i0, wj + j0)
            return i - i0, j - j0

        return window._with_inverse(start).astype(self.displacement.dtype)

    def rebin(self, k):
        """The grid of the image summed over k × k blocks; its pixel (0, 0) is centred at (k − 1) / 2 of the old."""
        if self.displacement.ndim > 3:
            return self._each(lambda grid: grid.rebin(k))
        old = _concrete_as_numpy(self if self.step == 1 else self.crop(0, 0, self.shape))
        ny, nx = shape = (self.shape[0] // k, self.shape[1] // k)
        rows, columns = block_positions(ny, k), block_positions(nx, k)
        displacement = edge_to_ring(edge_to_ring(resample(resample(old.displacement, rows, -2, 4), columns, -1, 4)))
        blocks = old.area[1 : 1 + k * ny, 1 : 1 + k * nx].reshape(ny, k, nx, k).mean((1, 3))
        area = add_ring(add_ring(blocks))
        frame = _clipped((old.frame + 0.5) / k - 0.5, shape)
        binned = DisplacementGrid(
            displacement / k, area, old.inverse, old.origin, old.spacing, frame, old.accuracy * k, shape, 1
        )

        def start(wi, wj):
            i, j = old.backward(k * wi + (k - 1) / 2, k * wj + (k - 1) / 2)
            return (i + 0.5) / k - 0.5, (j + 0.5) / k - 0.5

        return binned._with_inverse(start).astype(self.displacement.dtype)

    def astype(self, dtype):
        """The grid in another floating-point dtype."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self)

    def _each(self, function):
        """A function of one grid over a stack of them; one by one where they are known, to compile nothing."""
        if not is_concrete(self):
            return jax.vmap(function)(self)
        grids = [function(jax.tree.map(lambda leaf, n=n: leaf[n], self)) for n in range(len(self.accuracy))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *grids)

    def _with_inverse(self, start):
        """The grid with its inverse table solved, from a first guess ``start(wi, wj)`` of the pixel coordinates."""
        xp = array_namespace(self.displacement)
        (i_lo, j_lo), (i_hi, j_hi) = self.frame
        h, w = [min(-(-side // _INVERSE_STEP), _INVERSE_CELLS) + 1 for side in self.shape]
        dtype = self.displacement.dtype
        i = i_lo + (i_hi - i_lo) * _ramp(self.shape[1] + 1, dtype)
        j = j_lo + (j_hi - j_lo) * _ramp(self.shape[0] + 1, dtype)
        # a one-to-one map takes its extremes on the border
        sides = [self.forward(i, j_lo), self.forward(i, j_hi), self.forward(i_lo, j), self.forward(i_hi, j)]
        edges = [xp.concatenate(lines) for lines in zip(*sides, strict=True)]
        origin, far = [xp.stack([limit(edge) for edge in edges]) for limit in (xp.min, xp.max)]
        spacing = (far - origin) / np.asarray([w - 1, h - 1], dtype)
        wi = xp.broadcast_to((origin[0] + (far[0] - origin[0]) * _ramp(w, dtype))[None, :], (h, w))
        wj = xp.broadcast_to((origin[1] + (far[1] - origin[1]) * _ramp(h, dtype))[:, None], (h, w))
        i, j = start(wi, wj)
        rough = replace(self, inverse=xp.stack([i - wi, j - wj]), origin=origin, spacing=spacing)
        i, j = rough.backward(wi, wj)
        return replace(rough, inverse=xp.stack([i - wi, j - wj]))

    def _search(self, wi, wj):
        """Pixel coordinates without a table to start from (NumPy): Newton steps, none longer than ¼ of the frame."""
        (i_lo, j_lo), (i_hi, j_hi) = self.frame
        i = i_lo + (i_hi - i_lo) * (wi - wi.min()) / (wi.max() - wi.min())
        j = j_lo + (j_hi - j_lo) * (wj - wj.min()) / (wj.max() - wj.min())
        longest = (max(self.shape) + 4) / 4
        for _ in range(_SEARCH_STEPS):
            i_new, j_new = self._newton_step(i, j, wi, wj)
            change = np.clip(i_new - i, -longest, longest), np.clip(j_new - j, -longest, longest)
            i, j = i + change[0], j + change[1]
            if np.max(np.abs(change)) < 1e-6:
                break
        return i, j

    def _newton_step(self, i, j, wi, wj):
        xp = array_namespace(self.displacement, i, j, wi)
        cell = self._cell(self.displacement, i, j)
        di, dj = bilinear(*cell)
        di_di, di_dj, dj_di, dj_dj = gradient = gated(slopes(*cell, self.step), *self._inside(i, j), xp)
        ri, rj = (i - wi) + di, (j - wj) + dj
        det = determinant(gradient)
        det = xp.where(det == 0, 1, det)
        return i - ((1 + dj_dj) * ri - di_dj * rj) / det, j - ((1 + di_di) * rj - dj_di * ri) / det

    def _start(self, wi, wj):
        """First guess of the inverse."""
        xp = array_namespace(self.inverse, wi, wj)
        h, w = self.inverse.shape[-2:]
        s = xp.clip((wi - self.origin[0]) / self.spacing[0], 0, w - 1)
        t = xp.clip((wj - self.origin[1]) / self.spacing[1], 0, h - 1)
        ei, ej = bilinear(*corners(self.inverse, s, t, xp))
        return wi + ei, wj + ej

    def _inside(self, i, j):
        (i_lo, j_lo), (i_hi, j_hi) = self.frame
        return (i >= i_lo) & (i <= i_hi), (j >= j_lo) & (j <= j_hi)

    def _cell(self, array, i, j):
        """The nodes about (i, j) clamped to the frame, and its place (u, v) between them."""
        xp = array_namespace(array, i, j)
        return corners(array, *self._place(i, j, xp), xp)

    def _place(self, i, j, xp):
        """Column and row in the tables of (i, j) clamped to the frame."""
        (i_lo, j_lo), (i_hi, j_hi) = self.frame
        return (xp.clip(i, i_lo, i_hi) + 1) / self.step, (xp.clip(j, j_lo, j_hi) + 1) / self.step


def _run(function, grid, i, j):
    """Evaluate on NumPy arrays as it is, otherwise compiled: operation by operation the first call takes seconds."""
    if array_namespace(grid.displacement, i, j) is np:
        return function(grid, i, j)
    return _compiled(function, grid, i, j)


@partial(jax.jit, static_argnums=0)
def _compiled(function, grid, i, j):
    return function(grid, i, j)


def _forward(grid, i, j):
    xp = array_namespace(grid.displacement, i, j)
    di, dj = look_up(grid.displacement, *grid._place(i, j, xp), xp)
    return i + di, j + dj


def _backward(grid, wi, wj):
    i, j = grid._start(wi, wj)
    if array_namespace(grid.displacement, wi, wj) is np:
        for _ in range(_NEWTON_STEPS):
            i, j = grid._newton_step(i, j, wi, wj)
        return i, j
    # A loop, because XLA evaluates a chain of steps anew for every use of the result, and one complex number,
    # because it would look everything up once for each of two: together 20 times slower.
    start = jax.lax.stop_gradient(jax.lax.complex(i, j))
    step = lambda _, ij: jax.lax.complex(*grid._newton_step(ij.real, ij.imag, wi, wj))  # noqa: E731
    solution = jax.lax.fori_loop(0, _NEWTON_STEPS, step, start)
    return solution.real, solution.imag


def _relative_area(grid, i, j):
    xp = array_namespace(grid.area, i, j)
    return look_up(grid.area[None], *grid._place(i, j, xp), xp)[0]


def _ramp(n, dtype):
    """Equidistant numbers from 0 to 1."""
    return (np.arange(n) / (n - 1)).astype(dtype)


def _clipped(frame, shape):
    """Corners of a frame, [[i, j] lowest, [i, j] highest], cut to an image of a given shape."""
    highest = np.asarray([[shape[1] - 0.5, shape[0] - 0.5]] * 2, frame.dtype)
    return array_namespace(frame).clip(frame, -0.5, highest)


def _concrete_as_numpy(grid):
    """A grid whose values are known as NumPy arrays: no compilation, no small operations on a device."""
    return jax.tree.map(np.asarray, grid) if is_concrete(grid) else grid


def make_grid(displacement, area, shape, step, accuracy, dtype):
    """Build a grid from its tables, solving the inverse.

    Parameters
    ----------
    displacement : (2, H, W) array
        float64, at the nodes given by `node_positions`.
    area : (H, W) array
    shape : (ny, nx)
    step : int
    accuracy : float
        Error of the look-up between nodes, pixels.
    dtype : dtype
        Of the leaves.

    Returns
    -------
    DisplacementGrid

    Raises
    ------
    ValueError
        The map cannot be inverted: two places of the frame come to lie on one another.
    """
    ny, nx = shape
    frame = np.asarray([[-0.5, -0.5], [nx - 0.5, ny - 0.5]])
    empty = np.zeros((2, 2, 2))
    grid = DisplacementGrid(
        displacement, area, empty, np.zeros(2), np.ones(2), frame, np.asarray(accuracy), (ny, nx), step
    )
    grid = grid._with_inverse(grid._search)
    _check_inverse(grid)
    return grid.astype(dtype)


def node_positions(n, step):
    """Coordinates of the nodes along an axis of n pixels: one before the first pixel, the last beyond the last."""
    return np.arange(-(-(n + 1) // step) + 1) * step - 1.0


def look_up_error(table, displacement, shape, step):
    """Largest error (pixels) of a look-up between nodes, from samples half-way along the sides of cells.

    Parameters
    ----------
    table : (2, H, W) array
        The displacement at the nodes.
    displacement : function
        ``displacement(i, j) → (2, len(j), len(i))``, exactly.
    shape, step : (ny, nx), int

    Returns
    -------
    float
    """
    (rows, j), (columns, i) = [_some_cells(side, step) for side in shape]
    at = lambda dj, di: table[:, (rows + dj)[:, None], columns + di]  # noqa: E731
    along_i = (at(0, 0) + at(0, 1)) / 2 - displacement(i + step / 2, j)
    along_j = (at(0, 0) + at(1, 0)) / 2 - displacement(i, j + step / 2)
    return np.max(np.hypot(*(np.abs(along_i) + np.abs(along_j))))  # inside a cell the two add up at worst


def _some_cells(n, step):
    """Index and first node of at most 40 cells along an axis of n pixels, evenly spread."""
    nodes = node_positions(n, step)[:-1]
    index = np.unique(np.linspace(0, len(nodes) - 1, 40).astype(int))
    return index, nodes[index]


def _check_inverse(grid):
    (i_lo, j_lo), (i_hi, j_hi) = grid.frame
    i, j = np.meshgrid(i_lo + (i_hi - i_lo) * _ramp(33, float), j_lo + (j_hi - j_lo) * _ramp(33, float))
    i_back, j_back = grid.backward(*grid.forward(i, j))
    error = np.hypot(i_back - i, j_back - j)
    if not np.max(error) <= 1e-3:
        row, column = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        where = f"({i[row, column]:.1f}, {j[row, column]:.1f})"
        raise ValueError(f"the distortion cannot be inverted: pixel (i, j) = {where} shares its place with another")
