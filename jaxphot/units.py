"""Conversions between what parameters hold (flux, arcsec, radians) and what people quote (magnitudes, degrees)."""

import jax.numpy as jnp

ARCSEC_PER_DEG = 3600.0
ARCSEC_PER_RAD = 206264.80624709636


def flux_to_mag(flux, zeropoint):
    """Magnitude ``zeropoint − 2.5 log10(flux)``; NaN for flux ≤ 0.

    Examples
    --------
    >>> float(flux_to_mag(100.0, 25.0))
    20.0
    """
    flux = jnp.asarray(flux)
    return zeropoint - 2.5 * jnp.log10(jnp.where(flux > 0, flux, jnp.nan))


def mag_to_flux(mag, zeropoint):
    """Flux ``10^(−0.4 (mag − zeropoint))``, the inverse of `flux_to_mag`."""
    return 10.0 ** (-0.4 * (jnp.asarray(mag) - zeropoint))


def flux_err_to_mag_err(flux, flux_err):
    """Standard error of a magnitude to first order, ``2.5 / ln 10 · flux_err / flux``."""
    return 2.5 / jnp.log(10.0) * jnp.asarray(flux_err) / jnp.asarray(flux)


def surface_brightness(intensity, zeropoint):
    """Surface brightness in mag/arcsec² of an intensity in flux/arcsec²."""
    return flux_to_mag(intensity, zeropoint)
