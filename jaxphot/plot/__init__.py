"""Pictures. Every function takes `ax`, or makes one, and returns it; only `plot` and `drawing` import matplotlib.

Images are drawn on the tangent plane, in the coordinates of `center`: North up and East left where the image has a
place on the sky. Ignored pixels are grey.
"""

from jaxphot.plot.corners import corner
from jaxphot.plot.curves import convergence, profile
from jaxphot.plot.maps import image, model, pixel_area_map, pixel_footprint, psf, residual
from jaxphot.plot.marks import compass, scale_bar
from jaxphot.plot.scenes import scene
from jaxphot.plot.sheets import batch, thumbnail
from jaxphot.plot.triptychs import joint, triptych

__all__ = [
    "batch",
    "compass",
    "convergence",
    "corner",
    "image",
    "joint",
    "model",
    "pixel_area_map",
    "pixel_footprint",
    "profile",
    "psf",
    "residual",
    "scale_bar",
    "scene",
    "thumbnail",
    "triptych",
]
