"""The gnomonic (TAN) projection between the tangent plane (arcsec) and the sky (deg).

Formulas: Calabretta & Greisen 2002 (A&A 395, 1077), written as offsets from the tangent point, so that positions near
it keep their precision in float32. Concrete input is answered in float64 whatever JAX's settings; inside `jit` the
result has the dtype of its input.
"""

import jax
import numpy as np

from jaxphot.numerics import array_namespace
from jaxphot.pytree import is_concrete
from jaxphot.units import ARCSEC_PER_RAD

_RAD = np.pi / 180


def plane_to_sky(x, y, crval, crval_lo=(0.0, 0.0)):
    """Sky position of a point of the tangent plane.

    Parameters
    ----------
    x, y : array-like
        arcsec, +x East, +y North.
    crval : (2,) array-like
        Tangent point (ra, dec), deg.
    crval_lo : (2,) array-like
        What is missing of `crval` in a short dtype, deg.

    Returns
    -------
    ra, dec : arrays
        deg; 0 ≤ ra < 360.

    Examples
    --------
    >>> ra, dec = plane_to_sky(0.0, 3600.0, (10.0, 20.0))
    >>> round(float(ra), 6), round(float(dec), 6)
    (10.0, 20.999898)
    """
    (x, y, crval, crval_lo), xp = _prepared(x, y, crval, crval_lo)
    xi, eta = x / ARCSEC_PER_RAD, y / ARCSEC_PER_RAD
    dec0 = (crval[..., 1] + crval_lo[..., 1]) * _RAD
    sin0, cos0 = xp.sin(dec0), xp.cos(dec0)
    toward = cos0 - eta * sin0
    h = xp.hypot(xi, toward)
    ahead = toward > 0  # beyond the pole the other form of the same difference h − toward is the stable one
    excess = xp.where(ahead, xi**2 / xp.where(ahead, h + toward, 1), h - toward)
    d_ra = xp.arctan2(xi, toward) / _RAD
    d_dec = xp.arctan2(eta - sin0 * excess, (sin0 + eta * cos0) * sin0 + h * cos0) / _RAD
    ra = crval[..., 0] + (crval_lo[..., 0] + d_ra)
    return ra % 360, crval[..., 1] + (crval_lo[..., 1] + d_dec)


def sky_to_plane(ra, dec, crval, crval_lo=(0.0, 0.0)):
    """Point of the tangent plane (x, y), arcsec, of a sky position (deg); NaN on the far hemisphere.

    Parameters are those of `plane_to_sky`, of which this is the inverse.
    """
    (ra, dec, crval, crval_lo), xp = _prepared(ra, dec, crval, crval_lo)
    d_ra = ((ra - crval[..., 0]) - crval_lo[..., 0]) * _RAD
    d_dec = ((dec - crval[..., 1]) - crval_lo[..., 1]) * _RAD
    dec0 = (crval[..., 1] + crval_lo[..., 1]) * _RAD
    cos_dec = xp.cos(dec * _RAD)
    versine = 2 * xp.sin(d_ra / 2) ** 2
    cos_distance = xp.cos(d_dec) - xp.cos(dec0) * cos_dec * versine
    cos_distance = xp.where(cos_distance > 0, cos_distance, np.nan)
    xi = cos_dec * xp.sin(d_ra) / cos_distance
    eta = (xp.sin(d_dec) + xp.sin(dec0) * cos_dec * versine) / cos_distance
    return xi * ARCSEC_PER_RAD, eta * ARCSEC_PER_RAD


def pixel_to_sky(transform, i, j):
    """Sky position (ra, dec), deg, of pixel coordinates (i, j).

    Raises
    ------
    ValueError
        The transform has no sky position (crval is NaN).
    """
    transform, (i, j) = _exact(transform, i, j)
    x, y = transform.pixel_to_plane(i, j)
    return plane_to_sky(x, y, transform.crval, transform.crval_lo)


def sky_to_pixel(transform, ra, dec):
    """Pixel coordinates (i, j) of a sky position (deg).

    Raises
    ------
    ValueError
        The transform has no sky position (crval is NaN).
    """
    transform, (ra, dec) = _exact(transform, ra, dec)
    return transform.plane_to_pixel(*sky_to_plane(ra, dec, transform.crval, transform.crval_lo))


def _prepared(*values):
    if is_concrete(values):
        return [np.asarray(value, np.float64) for value in values], np
    xp = array_namespace(values)
    dtype = xp.result_type(*[value for value in values if isinstance(value, jax.Array)])
    return [xp.asarray(value, dtype) for value in values], xp


def _exact(transform, *coordinates):
    """Transform and coordinates in float64 NumPy where they are concrete."""
    if not is_concrete(transform, coordinates):
        return transform, coordinates
    if np.any(np.isnan(transform.crval)):
        raise ValueError("transform: it has no sky position; build the image with wcs= or the transform with crval=")
    as_float64 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), transform)
    return as_float64, [np.asarray(value, np.float64) for value in coordinates]
