"""Backgrounds: brightness that is not convolved with the PSF."""

from jaxphot.parameters import Gradient, Intensity


def flat_sky(x, y, *, I0: Intensity):
    """The same brightness I0 (flux/arcsec²) everywhere."""
    return I0 + 0 * (x + y)


def plane_sky(x, y, *, I0: Intensity, delta: Gradient):
    """``I0 + delta · (x, y)``: I0 is the brightness at the plane's origin, delta in flux/arcsec² per arcsec."""
    return I0 + delta[0] * x + delta[1] * y
