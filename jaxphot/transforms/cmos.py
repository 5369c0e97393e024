"""Pixels of which only a rectangle collects light, on any other transform."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.pytree import pytree, refuse_tracers
from jaxphot.transforms.protocol import Footprint, check_pair

_ROUNDING = 1e-6  # a footprint may reach this far beyond its pixel


@pytree
class CMOS:
    """Pixels sensitive over a rectangle; made by `make_cmos`.

    Pixel coordinates stay those of whole pixels: (0, 0) is the centre of the first pixel, not of its sensitive part.

    Attributes
    ----------
    inner : transform
        Of whole pixels.
    loc : (2,) array
        Centre (i, j) of the sensitive part from the pixel's centre, pixels.
    scale : (2,) array
        Its sides (along i, along j), pixels.
    """

    inner: object
    loc: jax.Array
    scale: jax.Array

    @property
    def footprint(self):
        """The sensitive part of a pixel."""
        return Footprint((self.loc[..., 0], self.loc[..., 1]), (self.scale[..., 0], self.scale[..., 1]))

    @property
    def whole(self):
        """The same transform with pixels sensitive all over."""
        return self.inner.whole

    @property
    def shape(self):
        """(ny, nx) of the image it belongs to; None if it fits any."""
        return getattr(self.inner, "shape", None)

    @property
    def crval(self):
        """Sky position (ra, dec), deg, of the plane's origin."""
        return self.inner.crval

    @property
    def crval_lo(self):
        """What is missing of `crval` in a short dtype, deg."""
        return self.inner.crval_lo

    def pixel_to_plane(self, i, j):
        """Plane position (x, y), arcsec, of pixel coordinates."""
        return self.inner.pixel_to_plane(i, j)

    def plane_to_pixel(self, x, y):
        """Pixel coordinates (i, j) of a plane position."""
        return self.inner.plane_to_pixel(x, y)

    def pixel_area(self, i, j):
        """Sensitive area (arcsec²) of the pixel at (i, j)."""
        (li, lj), (si, sj) = self.footprint
        return self.inner.pixel_area(i + li, j + lj) * (si * sj)

    def crop(self, i0, j0, shape):
        """The transform of the window whose first pixel is (i0, j0)."""
        return replace(self, inner=self.inner.crop(i0, j0, shape))

    def rebin(self, k):
        """Refused, but for k = 1: the sensitive parts of a block are no rectangle."""
        if k == 1:
            return self
        raise ValueError(
            f"k: an image with CMOS pixels cannot be rebinned: the {k}×{k} sensitive parts of a block are separate"
            " rectangles, which no single footprint describes; fit it at its own pixels"
        )

    def astype(self, dtype):
        """The transform in another floating-point dtype."""
        return CMOS(self.inner.astype(dtype), self.loc.astype(dtype), self.scale.astype(dtype))


def make_cmos(transform, loc=(0.0, 0.0), scale=1.0):
    """Make the pixels of a transform sensitive over a rectangle only.

    Parameters
    ----------
    transform : transform
        Made by `make_linear`, `make_sip` or `transform_from_wcs`.
    loc : (float, float)
        Centre (i, j) of the sensitive part from the pixel's centre, pixels.
    scale : float or (float, float)
        Side of the sensitive part, or its sides along i and j, pixels.

    Returns
    -------
    CMOS

    Raises
    ------
    ValueError
        A footprint that is empty or leaves its pixel.

    Examples
    --------
    >>> from jaxphot.transforms.linear import make_linear
    >>> transform = make_cmos(make_linear(pixelscale=0.5), loc=(-0.1, -0.1), scale=0.8)
    >>> round(float(transform.pixel_area(3, 4)), 4)
    0.16
    """
    refuse_tracers(loc=loc, scale=scale)
    if isinstance(transform, CMOS):
        raise ValueError("transform: its pixels have a footprint already; wrap transform.inner")
    if not hasattr(transform, "pixel_to_plane"):
        raise TypeError(f"transform: expected one made by make_linear or its kin, got {type(transform).__name__}")
    loc = check_pair(loc, "loc")
    scale = check_pair((scale, scale) if np.shape(scale) == () else scale, "scale")
    if np.any(scale <= 0):
        raise ValueError(f"scale: expected positive sides, got {tuple(scale.tolist())}")
    reach = np.abs(loc) + scale / 2
    if np.any(reach > 0.5 + _ROUNDING):
        raise ValueError(
            f"loc, scale: the footprint leaves its pixel: |loc| + scale / 2 is {tuple(reach.tolist())}, more than ½"
        )
    dtype = transform.crval.dtype
    return CMOS(transform, jnp.asarray(loc, dtype), jnp.asarray(scale, dtype))
