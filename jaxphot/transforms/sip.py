"""Pixels distorted as the FITS SIP convention says (Shupe et al. 2005), or by any displacement grid.

u = p − crpix; U = u + A(u, v), V = v + B(u, v); plane = CD · (U, V) + crtan. The polynomials A and B, in pixels, only
build the grid that is looked up: see `grid`.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.pytree import pytree, refuse_tracers
from jaxphot.transforms.grid import DisplacementGrid, look_up_error, make_grid, node_positions
from jaxphot.transforms.linear import Linear, make_linear
from jaxphot.transforms.polynomial import dense_coefficients, fit_polynomial, jacobian, on_grid
from jaxphot.transforms.protocol import WHOLE_PIXEL, check_pair, check_shape, check_step, default_dtype

_SAMPLES = 40  # a side, for fitting polynomials


@pytree
class SIP:
    """Distorted pixels on the tangent plane; made by `make_sip` or `transform_from_wcs`.

    Attributes
    ----------
    linear : Linear
        From undistorted pixel coordinates to the plane: CD, crpix, crtan, crval.
    grid : DisplacementGrid
        From pixel coordinates to undistorted ones: what is used everywhere.
    a, b : (10, 10) arrays
        Coefficients in pixels, ``a[(1, 2)]`` is A_1_2, 0 where absent: what the grid was built from, or, for a
        distortion that is no SIP polynomial, the polynomials nearest to it.
    ap, bp : (10, 10) arrays
        Coefficients AP and BP of the inverse as given, for the header alone; 0 without any.
    """

    linear: Linear
    grid: DisplacementGrid
    a: jax.Array
    b: jax.Array
    ap: jax.Array
    bp: jax.Array

    footprint = WHOLE_PIXEL

    @property
    def whole(self):
        """The transform itself: its pixels are sensitive all over."""
        return self

    @property
    def shape(self):
        """(ny, nx) of the image it belongs to."""
        return self.grid.shape

    @property
    def accuracy(self):
        """Largest error (pixels) of positions between the grid's nodes; at pixel centres there is none if step is 1."""
        return self.grid.accuracy

    @property
    def cd(self):
        """(2, 2) arcsec/pixel."""
        return self.linear.cd

    @property
    def crpix(self):
        """Pixel (i, j), 0-based, about which the polynomials are written."""
        return self.linear.crpix

    @property
    def crtan(self):
        """Plane position of `crpix`, arcsec."""
        return self.linear.crtan

    @property
    def crval(self):
        """Sky position (ra, dec), deg, of the plane's origin."""
        return self.linear.crval

    @property
    def crval_lo(self):
        """What is missing of `crval` in a short dtype, deg."""
        return self.linear.crval_lo

    def pixel_to_plane(self, i, j):
        """Plane position (x, y), arcsec, of pixel coordinates."""
        return self.linear.pixel_to_plane(*self.grid.forward(i, j))

    def plane_to_pixel(self, x, y):
        """Pixel coordinates (i, j) of a plane position: the exact inverse of `pixel_to_plane`."""
        return self.grid.backward(*self.linear.plane_to_pixel(x, y))

    def pixel_area(self, i, j):
        """Area (arcsec²) of the pixel at (i, j)."""
        return self.linear.pixel_area(i, j) * self.grid.relative_area(i, j)

    def crop(self, i0, j0, shape):
        """The transform of the window whose first pixel is (i0, j0).

        Positions inside the old frame are unchanged. A window that leaves the frame keeps the old frame's edge, and
        the displacement there carried on outside. The grid of the result has a node at every pixel.
        """
        return replace(self, linear=self.linear.crop(i0, j0, shape), grid=self.grid.crop(i0, j0, tuple(shape)))

    def rebin(self, k):
        """The transform of the image summed over k × k blocks."""
        a, b, ap, bp = [_rescaled(c, k) for c in (self.a, self.b, self.ap, self.bp)]
        return SIP(self.linear.rebin(k), self.grid.rebin(k), a, b, ap, bp)

    def astype(self, dtype):
        """The transform in another floating-point dtype."""
        coefficients = [c.astype(dtype) for c in (self.a, self.b, self.ap, self.bp)]
        return SIP(self.linear.astype(dtype), self.grid.astype(dtype), *coefficients)


def _rescaled(coefficients, k):
    """Coefficients in pixels k times as large: c k^(p + q − 1)."""
    powers = np.arange(coefficients.shape[-1])
    factors = float(k) ** (powers[:, None] + powers - 1.0)
    return coefficients * np.broadcast_to(factors, coefficients.shape).astype(coefficients.dtype)


def make_sip(
    shape,
    a,
    b,
    *,
    ap=None,
    bp=None,
    cd=None,
    pixelscale=None,
    crpix=None,
    crtan=(0.0, 0.0),
    crval=None,
    step=1,
    dtype=None,
):
    """Build a SIP transform, checking every argument.

    Parameters
    ----------
    shape : (ny, nx)
        Of the image.
    a, b : dict ``{(p, q): c}`` or square array-like ``c[p, q]``, or None
        Coefficients, in pixels, of u^p v^q with u along columns: ``a[1, 2]`` is A_1_2. Orders up to 9.
    ap, bp : the same, optional
        Coefficients of the header's inverse: kept, never used. The inverse is solved.
    cd, pixelscale, crpix, crtan, crval
        As in `make_linear`; `crpix` must be given.
    step : int
        Distance in pixels of the grid's nodes. 1 (default) is exact at pixel centres. For large frames a coarser grid
        is smaller and faster; the error between nodes, about step² / 8 times the second derivatives of A and B, is
        measured and kept as ``transform.accuracy``.
    dtype : dtype, optional
        Of the leaves; JAX's default. Everything is computed in float64.

    Returns
    -------
    SIP

    Raises
    ------
    ValueError
        Coefficients that are not finite or of an order above 9, a distortion that folds the frame, a missing CD or
        crpix.

    Examples
    --------
    >>> transform = make_sip((64, 64), {(2, 0): 1e-4}, {}, pixelscale=0.5, crpix=(0, 0))
    >>> x, y = transform.pixel_to_plane(10, 5)
    >>> round(float(x), 4), round(float(y), 4)
    (5.005, 2.5)
    >>> [round(float(v), 3) for v in transform.plane_to_pixel(x, y)]
    [10.0, 5.0]
    """
    refuse_tracers(a=a, b=b)
    shape, step = check_shape(shape), check_step(step)
    a, b, ap, bp = [dense_coefficients(c, name) for name, c in (("a", a), ("b", b), ("ap", ap), ("bp", bp))]
    if crpix is None:
        raise ValueError("crpix: missing; SIP polynomials are written about it: give the pixel (i, j), 0-based")
    crpix = check_pair(crpix, "crpix")
    dtype = default_dtype() if dtype is None else dtype
    linear = make_linear(cd=cd, pixelscale=pixelscale, crpix=crpix, crtan=crtan, crval=crval, dtype=dtype)
    grid = _polynomial_grid(shape, a, b, crpix, step, dtype)
    return SIP(linear, grid, *[jnp.asarray(c, dtype) for c in (a, b, ap, bp)])


def _polynomial_grid(shape, a, b, crpix, step, dtype):
    """The displacement grid of polynomials about crpix."""
    i, j = node_positions(shape[1], step), node_positions(shape[0], step)
    table = np.empty((2, len(j), len(i)))

    def displacement(i, j, out=(None, None)):
        return [on_grid(c, i - crpix[0], j - crpix[1], values) for c, values in zip((a, b), out, strict=True)]

    displacement(i, j, out=table)
    area = on_grid(jacobian(a, b), i - crpix[0], j - crpix[1])
    _check_folds(jacobian(a, b), shape, crpix, step, area)
    np.abs(area, out=area)
    accuracy = look_up_error(table, displacement, shape, step)
    return make_grid(table, area, shape, step, accuracy, dtype)


def _check_folds(coefficients, shape, crpix, step, area):
    """Refuse a Jacobian that changes sign inside the frame, and say where."""
    if step == 1:
        i, j, area = np.arange(shape[1]), np.arange(shape[0]), area[1:-1, 1:-1]
    else:
        i, j = [np.unique([*range(0, side, step), side - 1]) for side in shape[::-1]]
        area = on_grid(coefficients, i - crpix[0], j - crpix[1])
    lowest, highest = area.min(), area.max()
    if lowest > 0 or highest < 0:
        return
    row, column = np.unravel_index(np.argmin(area) if highest > -lowest else np.argmax(area), area.shape)
    share = np.mean(area <= 0) if highest > -lowest else np.mean(area >= 0)
    raise ValueError(
        f"a, b: the distortion folds the frame: its Jacobian changes sign, over {100 * share:.3g} % of the pixels, most"
        f" at pixel (i, j) = ({i[column]}, {j[row]}), where it is {area[row, column]:.3g}"
    )


def distortion_samples(transform):
    """Samples (u, v) about crpix over the frame, and their displacement, of the grid itself (NumPy, float64)."""
    grid = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), transform.grid)
    crpix = np.asarray(transform.crpix, np.float64)
    (i_lo, j_lo), (i_hi, j_hi) = grid.frame
    # at whole pixels, where the grid is exact
    i = np.unique(np.rint(np.linspace(i_lo + 0.5, i_hi - 0.5, _SAMPLES)))
    j = np.unique(np.rint(np.linspace(j_lo + 0.5, j_hi - 0.5, _SAMPLES)))
    i, j = [values.ravel() for values in np.meshgrid(i, j)]
    wi, wj = grid.forward(i, j)
    return i - crpix[0], j - crpix[1], np.stack([wi - i, wj - j], -1)


def fit_inverse_coefficients(transform, accuracy=1e-4):
    """Coefficients AP and BP for a header: u = U + AP(U, V), v = V + BP(U, V).

    Fitted to exact pairs of pixels and undistorted positions, in scaled coordinates, with the lowest order that reaches
    the accuracy.

    Parameters
    ----------
    transform : SIP
    accuracy : float
        Largest error asked for, pixels.

    Returns
    -------
    ap, bp : (10, 10) NumPy arrays
    error : float
        Largest error over the frame, pixels; above `accuracy` where order 9 does not reach it.
    """
    u, v, displacement = distortion_samples(transform)
    (ap, bp), error = fit_polynomial(u + displacement[:, 0], v + displacement[:, 1], -displacement, accuracy)
    return ap, bp, error


def fit_coefficients(transform, accuracy=1e-6):
    """Coefficients A and B nearest to the transform's grid, and their largest error in pixels over the frame."""
    u, v, displacement = distortion_samples(transform)
    (a, b), error = fit_polynomial(u, v, displacement, accuracy)
    return a, b, error


def polynomial_error(transform):
    """Largest difference (pixels) between the grid and the coefficients a, b: what a header with them would be off."""
    u, v, displacement = distortion_samples(transform)
    scale = max(np.max(np.abs(u)), np.max(np.abs(v)), 1.0)
    powers = np.arange(10)
    basis = (u / scale)[:, None] ** powers, (v / scale)[:, None] ** powers
    scaled = scale ** (powers[:, None] + powers)
    ours = [
        np.einsum("np,pq,nq->n", basis[0], np.asarray(c, float) * scaled, basis[1]) for c in (transform.a, transform.b)
    ]
    return float(np.max(np.abs(np.stack(ours, -1) - displacement)))
