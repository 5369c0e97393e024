"""Brightness on the plane: ready-made models, and what to build one's own from.

`profiles` are functions of radius, `metrics` turn the plane into a radius, `combinators` join them.
"""

from jaxphot.models import metrics, profiles
from jaxphot.models.combinators import background, extended, point, radial, scene
from jaxphot.models.skies import flat_sky as _flat_sky
from jaxphot.models.skies import plane_sky as _plane_sky
from jaxphot.models.special import point_source as _point_source

sersic = radial(profiles.sersic)
exponential = radial(profiles.exponential)
gaussian = radial(profiles.gaussian)
moffat = radial(profiles.moffat)
point_source = point(_point_source)
flat_sky = background(_flat_sky)
plane_sky = background(_plane_sky)

__all__ = [
    "background",
    "exponential",
    "extended",
    "flat_sky",
    "gaussian",
    "metrics",
    "moffat",
    "plane_sky",
    "point",
    "point_source",
    "profiles",
    "radial",
    "scene",
    "sersic",
]
