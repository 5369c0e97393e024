"""A transform seen from a window whose place is computed: what the stamps of a crowded field are drawn on."""

import jax

from jaxphot.pytree import pytree


@pytree
class Shifted:
    """Another transform with pixel coordinates counted from a window's first pixel.

    Unlike ``inner.crop`` it takes a place that is known only while a program runs, and never changes a table.

    Attributes
    ----------
    inner : transform
    first : (2,) array
        Pixel (i, j) of `inner` that is the window's (0, 0).
    """

    inner: object
    first: jax.Array

    @property
    def footprint(self):
        """The sensitive part of a pixel."""
        return self.inner.footprint

    @property
    def whole(self):
        """The same transform with pixels sensitive all over."""
        return Shifted(self.inner.whole, self.first)

    @property
    def crval(self):
        """Sky position (ra, dec), deg, of the plane's origin."""
        return self.inner.crval

    @property
    def crval_lo(self):
        """What is missing of `crval` in a short dtype, deg."""
        return self.inner.crval_lo

    def pixel_to_plane(self, i, j):
        """Plane position (arcsec) of pixel coordinates."""
        return self.inner.pixel_to_plane(i + self.first[..., 0], j + self.first[..., 1])

    def plane_to_pixel(self, x, y):
        """Pixel coordinates of a plane position (arcsec)."""
        i, j = self.inner.plane_to_pixel(x, y)
        return i - self.first[..., 0], j - self.first[..., 1]

    def pixel_area(self, i, j):
        """Sensitive area (arcsec²) of the pixel at (i, j)."""
        return self.inner.pixel_area(i + self.first[..., 0], j + self.first[..., 1])
