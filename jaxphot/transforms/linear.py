"""Pixels as parallelograms: plane = CD · (pixel − crpix) + crtan."""

import jax
import jax.numpy as jnp

from jaxphot.pytree import pytree, refuse_tracers
from jaxphot.transforms.protocol import (
    WHOLE_PIXEL,
    cd_matrix,
    check_crval,
    check_pair,
    default_dtype,
    recast_crval,
    split_crval,
)


@pytree
class Linear:
    """A linear pixel grid on the tangent plane; made by `make_linear`.

    Attributes
    ----------
    cd : (2, 2) array
        arcsec/pixel; column 0 is a step in i (column of the image), column 1 in j (row).
    crpix : (2,) array
        Pixel (i, j), 0-based, that lies at `crtan`.
    crtan : (2,) array
        arcsec in the plane.
    crval, crval_lo : (2,) arrays
        Sky position (ra, dec), deg, where the plane touches the sphere, in two parts; NaN without a WCS.
    """

    cd: jax.Array
    crpix: jax.Array
    crtan: jax.Array
    crval: jax.Array
    crval_lo: jax.Array

    footprint = WHOLE_PIXEL

    @property
    def whole(self):
        """The transform itself: its pixels are sensitive all over."""
        return self

    def pixel_to_plane(self, i, j):
        """Plane position (x, y), arcsec, of pixel coordinates."""
        di, dj = i - self.crpix[..., 0], j - self.crpix[..., 1]
        cd = self.cd
        x = cd[..., 0, 0] * di + cd[..., 0, 1] * dj + self.crtan[..., 0]
        y = cd[..., 1, 0] * di + cd[..., 1, 1] * dj + self.crtan[..., 1]
        return x, y

    def plane_to_pixel(self, x, y):
        """Pixel coordinates (i, j) of a plane position."""
        dx, dy = x - self.crtan[..., 0], y - self.crtan[..., 1]
        cd, det = self.cd, self._determinant
        i = (cd[..., 1, 1] * dx - cd[..., 0, 1] * dy) / det + self.crpix[..., 0]
        j = (cd[..., 0, 0] * dy - cd[..., 1, 0] * dx) / det + self.crpix[..., 1]
        return i, j

    def pixel_area(self, i, j):
        """Area (arcsec²) of the pixel at (i, j): |det CD| everywhere."""
        return abs(self._determinant) + 0 * (i + j)

    @property
    def _determinant(self):
        cd = self.cd
        return cd[..., 0, 0] * cd[..., 1, 1] - cd[..., 0, 1] * cd[..., 1, 0]

    def crop(self, i0, j0, shape):
        """The transform of the window whose first pixel is (i0, j0)."""
        first = jnp.broadcast_to(jnp.asarray([i0, j0], self.crpix.dtype), self.crpix.shape)
        return self._replace(crpix=self.crpix - first)

    def rebin(self, k):
        """The transform of the image summed over k × k blocks."""
        return self._replace(cd=self.cd * k, crpix=(self.crpix + 0.5) / k - 0.5)

    def astype(self, dtype):
        """The transform in another floating-point dtype."""
        crval, crval_lo = recast_crval(self.crval, self.crval_lo, dtype)
        return Linear(self.cd.astype(dtype), self.crpix.astype(dtype), self.crtan.astype(dtype), crval, crval_lo)

    def _replace(self, **changes):
        return Linear(**{**vars(self), **changes})


def make_linear(*, cd=None, pixelscale=None, crpix=(0.0, 0.0), crtan=(0.0, 0.0), crval=None, dtype=None):
    """Build a linear transform, checking every argument.

    Parameters
    ----------
    cd : (2, 2) array-like, optional
        arcsec/pixel. Either this or `pixelscale` must be given.
    pixelscale : float, optional
        arcsec/pixel, for square pixels with +x along columns and +y along rows.
    crpix : (float, float)
        Reference pixel (i, j), 0-based (FITS's CRPIX less 1).
    crtan : (float, float)
        Plane position of the reference pixel, arcsec.
    crval : (float, float), optional
        Sky position (ra, dec), deg, of the plane's origin.
    dtype : dtype, optional
        Of the leaves; JAX's default.

    Returns
    -------
    Linear

    Raises
    ------
    ValueError
        Singular or non-finite CD, both or neither of `cd` and `pixelscale`, a pair that is none.

    Examples
    --------
    >>> transform = make_linear(pixelscale=0.2, crpix=(10, 20))
    >>> [float(v) for v in transform.pixel_to_plane(11, 20)]
    [0.2..., 0.0]
    """
    refuse_tracers(cd=cd, pixelscale=pixelscale, crpix=crpix, crtan=crtan, crval=crval,
    )  # fmt: skip
    dtype = default_dtype() if dtype is None else dtype
    crval_hi, crval_lo = split_crval(check_crval(crval), dtype)
    return Linear(
        jnp.asarray(cd_matrix(cd, pixelscale), dtype),
        jnp.asarray(check_pair(crpix, "crpix"), dtype),
        jnp.asarray(check_pair(crtan, "crtan"), dtype),
        crval_hi,
        crval_lo,
    )
