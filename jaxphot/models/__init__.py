"""Brightness on the plane: ready-made models, and what to build one's own from.

`profiles` are functions of radius, `metrics` turn the plane into a radius, `combinators` join them; `grids` has what is
interpolated between nodes.
"""

from jaxphot.models import grids, metrics, modifiers, profiles, spirals, views
from jaxphot.models.combinators import Component, background, extended, linked, point, radial, scene
from jaxphot.models.copies import many
from jaxphot.models.grids import basis, pixelated, zernike
from jaxphot.models.skies import bilinear_sky, poly_sky
from jaxphot.models.skies import flat_sky as _flat_sky
from jaxphot.models.skies import plane_sky as _plane_sky
from jaxphot.models.special import edge_on as _edge_on
from jaxphot.models.special import gaussian_ellipsoid as _gaussian_ellipsoid
from jaxphot.models.special import isothermal as _isothermal
from jaxphot.models.special import mge
from jaxphot.models.special import noise_floor as _noise_floor
from jaxphot.models.special import point_source as _point_source
from jaxphot.models.wavelength import by_wavelength

sersic = radial(profiles.sersic)
exponential = radial(profiles.exponential)
de_vaucouleurs = radial(profiles.de_vaucouleurs)
gaussian = radial(profiles.gaussian)
moffat = radial(profiles.moffat)
edge_on = extended(_edge_on)
isothermal = extended(_isothermal)
gaussian_ellipsoid = extended(_gaussian_ellipsoid)
ferrer = radial(profiles.ferrer)
king = radial(profiles.king)
nuker = radial(profiles.nuker)
core_sersic = radial(profiles.core_sersic)
broken_exponential = radial(profiles.broken_exponential)
hernquist = radial(profiles.hernquist)
point_source = point(_point_source)
flat_sky = background(_flat_sky)
noise_floor = Component(_noise_floor, "noise")
plane_sky = background(_plane_sky)

__all__ = [
    "background",
    "basis",
    "bilinear_sky",
    "broken_exponential",
    "by_wavelength",
    "core_sersic",
    "de_vaucouleurs",
    "edge_on",
    "exponential",
    "extended",
    "ferrer",
    "flat_sky",
    "gaussian",
    "gaussian_ellipsoid",
    "grids",
    "hernquist",
    "isothermal",
    "king",
    "linked",
    "many",
    "metrics",
    "mge",
    "modifiers",
    "moffat",
    "noise_floor",
    "nuker",
    "pixelated",
    "plane_sky",
    "point",
    "point_source",
    "poly_sky",
    "profiles",
    "radial",
    "scene",
    "sersic",
    "spirals",
    "views",
    "zernike",
]
