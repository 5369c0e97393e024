"""Pixels described in the tangent plane of another image.

Both planes touch the same sphere, so a gnomonic plane maps onto another by a homography: a 3 × 3 matrix, the rotation
between the two frames (East, North, outward). Its entries are written in differences of the tangent points, so that
nothing is lost in float32.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import array_namespace
from jaxphot.pytree import is_concrete, pytree
from jaxphot.transforms.protocol import recast_crval
from jaxphot.units import ARCSEC_PER_RAD

_RAD = np.pi / 180


@pytree
class Reprojected:
    """A transform whose plane is that of another tangent point; made by `reproject`.

    Attributes
    ----------
    inner : transform
        About its own tangent point.
    matrix : (3, 3) array
        From its plane to this one, in homogeneous coordinates (arcsec, arcsec, 1).
    crval, crval_lo : (2,) arrays
        Sky position (ra, dec), deg, of this plane's origin, in two parts.
    """

    inner: object
    matrix: jax.Array
    crval: jax.Array
    crval_lo: jax.Array

    @property
    def footprint(self):
        """The sensitive part of a pixel."""
        return self.inner.footprint

    @property
    def whole(self):
        """The same transform with pixels sensitive all over."""
        return replace(self, inner=self.inner.whole)

    @property
    def shape(self):
        """(ny, nx) of the image it belongs to; None if it fits any."""
        return getattr(self.inner, "shape", None)

    def pixel_to_plane(self, i, j):
        """Plane position (x, y), arcsec, of pixel coordinates."""
        return _mapped(_entries(self.matrix), *self.inner.pixel_to_plane(i, j))[:2]

    def plane_to_pixel(self, x, y):
        """Pixel coordinates (i, j) of a plane position (arcsec)."""
        (a, b, c), (d, e, f), (g, h, k) = _entries(self.matrix)
        adjugate = (
            (e * k - f * h, c * h - b * k, b * f - c * e),
            (f * g - d * k, a * k - c * g, c * d - a * f),
            (d * h - e * g, b * g - a * h, a * e - b * d),
        )
        return self.inner.plane_to_pixel(*_mapped(adjugate, x, y)[:2])

    def pixel_area(self, i, j):
        """Sensitive area (arcsec²) of the pixel at (i, j), in this plane."""
        (a, b, c), (d, e, f), (g, h, k) = rows = _entries(self.matrix)
        determinant = a * (e * k - f * h) - b * (d * k - f * g) + c * (d * h - e * g)
        depth = _mapped(rows, *self.inner.pixel_to_plane(i, j))[2]
        return self.inner.pixel_area(i, j) * abs(determinant / depth**3)

    def crop(self, i0, j0, shape):
        """The transform of the window whose first pixel is (i0, j0)."""
        return replace(self, inner=self.inner.crop(i0, j0, shape))

    def rebin(self, k):
        """The transform of the image summed over k × k blocks."""
        return replace(self, inner=self.inner.rebin(k))

    def astype(self, dtype):
        """The transform in another floating-point dtype."""
        crval, crval_lo = recast_crval(self.crval, self.crval_lo, dtype)
        return Reprojected(self.inner.astype(dtype), self.matrix.astype(dtype), crval, crval_lo)


def _entries(matrix):
    return [[matrix[..., row, column] for column in range(3)] for row in range(3)]


def _mapped(rows, x, y):
    x, y, depth = (row[0] * x + row[1] * y + row[2] for row in rows)
    return x / depth, y / depth, depth


def reproject(transform, crval, crval_lo=(0.0, 0.0), *, always=False):
    """A transform that describes the same pixels in the plane about another tangent point.

    Positions, sizes and angles of a model are then those of that plane.

    Parameters
    ----------
    transform : transform
        With a place on the sky.
    crval : (2,) array-like
        The other tangent point (ra, dec), deg.
    crval_lo : (2,) array-like
        What is missing of it in a short dtype, deg.
    always : bool
        Also where the tangent point is the transform's own, or neither is known.

    Returns
    -------
    Reprojected, or the transform itself where the tangent point is its own

    Raises
    ------
    ValueError
        One of the two tangent points is unknown (NaN); they are 90° or more apart.

    Examples
    --------
    >>> import jaxphot as jp
    >>> transform = jp.make_linear(pixelscale=0.2, crval=(10.0, 20.0))
    >>> [round(float(v), 2) for v in reproject(transform, (10.0, 19.99)).pixel_to_plane(0, 0)]
    [0.0, 36.0]
    """
    own, other = (transform.crval, transform.crval_lo), (crval, crval_lo)
    if is_concrete(own, other):
        own, other = ([np.asarray(part, np.float64) for part in point] for point in (own, other))
        sums = [np.sum(point, axis=0) for point in (own, other)]
        unknown = [np.any(np.isnan(point)) for point in sums]
        if not always and (all(unknown) or np.array_equal(*sums)):
            return transform
        if any(unknown) and not all(unknown):
            raise ValueError("transform: of two images one has a place on the sky (crval) and the other has none")
    else:
        other = [jnp.asarray(part, transform.crval.dtype) for part in other]
    matrix = _homography(*own, *other)
    if is_concrete(matrix) and np.any(matrix[..., 2, 2] <= 0):
        raise ValueError("transform: the tangent points are 90° or more apart")
    matrix = matrix / matrix[..., 2:, 2:]
    # both unknown: the planes are taken to be the same
    unknown = np.isnan if is_concrete(matrix) else jnp.isnan
    unknown = unknown(own[0]).all(-1) & unknown(other[0]).all(-1)
    matrix = jnp.where(unknown[..., None, None], jnp.eye(3, dtype=matrix.dtype), matrix)
    dtype, places = transform.crval.dtype, jnp.shape(transform.crval)
    high, low = (jnp.broadcast_to(jnp.asarray(part, dtype), places) for part in (crval, crval_lo))
    return Reprojected(transform, matrix.astype(dtype), high, low)


def _homography(crval, crval_lo, to_crval, to_crval_lo):
    """Rotation from the frame (East, North, outward) at one place to that at another, scaled for arcsec."""
    xp = array_namespace(crval, crval_lo, to_crval, to_crval_lo)
    ra, to_ra = crval[..., 0], to_crval[..., 0]
    across = abs(ra - to_ra) > 180  # the meridian 0: a difference of 360° would cost float32 its last digits
    ra, to_ra = (xp.where(across & (angle > 180), angle - 360, angle) for angle in (ra, to_ra))
    d_ra = ((ra - to_ra) + (crval_lo[..., 0] - to_crval_lo[..., 0])) * _RAD
    d_dec = ((crval[..., 1] - to_crval[..., 1]) + (crval_lo[..., 1] - to_crval_lo[..., 1])) * _RAD
    dec, to_dec = ((point[..., 1] + low[..., 1]) * _RAD for point, low in ((crval, crval_lo), (to_crval, to_crval_lo)))
    sin, cos, to_sin, to_cos = xp.sin(dec), xp.cos(dec), xp.sin(to_dec), xp.cos(to_dec)
    turn, versine = xp.sin(d_ra), 2 * xp.sin(d_ra / 2) ** 2
    rise, level = xp.sin(d_dec), xp.cos(d_dec)
    unit = ARCSEC_PER_RAD
    rows = [
        [1 - versine, -sin * turn, cos * turn * unit],
        [to_sin * turn, level - sin * to_sin * versine, (rise + to_sin * cos * versine) * unit],
        [-to_cos * turn / unit, (-rise + to_cos * sin * versine) / unit, level - cos * to_cos * versine],
    ]
    return xp.stack([xp.stack(row, -1) for row in rows], -2)
