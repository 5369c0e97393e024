"""Models that are neither radial nor a background."""

from jaxphot.parameters import Center, Flux


def point_source(*, center: Center, flux: Flux):
    """A star: all its flux at one point; drawn as the image's PSF moved there."""
    return center, flux
