"""From an astropy WCS to a transform. Works on the object's attributes alone: astropy is not imported."""

import numpy as np

from jaxphot.transforms.linear import Linear, make_linear
from jaxphot.transforms.sky import pixel_to_sky
from jaxphot.units import ARCSEC_PER_DEG

_AGREEMENT = 1e-9  # deg, on the sphere


def transform_from_wcs(wcs, shape):
    """The transform of an astropy WCS.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial, gnomonic (TAN), without distortion; CD, PC + CDELT or CROTA. A cube's celestial part is taken.
    shape : (ny, nx)
        Of the image: where the result is compared with the WCS itself.

    Returns
    -------
    Linear
        Agrees with the WCS to 1e-9 deg over the image (in float64).

    Raises
    ------
    ValueError
        No celestial part, or not a linear TAN projection.
    """
    celestial = _celestial_part(wcs)
    lng, lat = celestial.wcs.lng, celestial.wcs.lat
    ctype = [str(name) for name in celestial.wcs.ctype]
    if not ctype[lng].replace("-SIP", "").endswith("TAN"):
        raise ValueError(f"wcs: expected a gnomonic (TAN) projection, got CTYPE {ctype}")
    if celestial.has_distortion:
        raise ValueError(f"wcs: expected a projection without distortion, got CTYPE {ctype} with distortion terms")
    cd = ARCSEC_PER_DEG * _native_rotation(celestial) @ np.asarray(celestial.pixel_scale_matrix)[[lng, lat]]
    crpix = np.asarray(celestial.wcs.crpix) - 1
    crval = np.asarray(celestial.wcs.crval)[[lng, lat]]
    _check_agreement(celestial, Linear(cd, crpix, np.zeros(2), crval, np.zeros(2)), shape)
    return make_linear(cd=cd, crpix=crpix, crval=crval)


def _celestial_part(wcs):
    """The two celestial axes of a WCS, without axes of other kinds."""
    if not hasattr(wcs, "wcs"):
        raise ValueError(f"wcs: expected an astropy.wcs.WCS, got {type(wcs).__name__}")
    if not wcs.has_celestial:
        raise ValueError(f"wcs: it has no celestial part; CTYPE is {[str(name) for name in wcs.wcs.ctype]}")
    celestial = wcs if wcs.naxis == 2 else wcs.celestial
    celestial.wcs.set()  # fills in lng and lat, turns CROTA into PC, units into degrees
    return celestial


def _native_rotation(celestial):
    """Rotation from native projection coordinates to East and North: the identity for LONPOLE = 180."""
    angle = np.deg2rad(celestial.wcs.lonpole - 180.0)
    return np.asarray([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _check_agreement(celestial, transform, shape):
    """Compare with the WCS itself at the corners and the middle: a wrong sky must not pass in silence."""
    ny, nx = shape
    i = np.asarray([0, nx - 1, 0, nx - 1, nx / 2], float)
    j = np.asarray([0, 0, ny - 1, ny - 1, ny / 2], float)
    world = celestial.all_pix2world(i, j, 0)
    ra, dec = world[celestial.wcs.lng], world[celestial.wcs.lat]
    ours_ra, ours_dec = pixel_to_sky(transform, i, j)
    d_ra = (ours_ra - ra + 180) % 360 - 180
    error = np.max(np.hypot(d_ra * np.cos(np.deg2rad(dec)), ours_dec - dec))
    if not error <= _AGREEMENT:
        raise ValueError(
            f"wcs: it differs from a linear TAN projection by up to {error:.2g} deg over the image"
            f" (CTYPE {[str(name) for name in celestial.wcs.ctype]})"
        )
