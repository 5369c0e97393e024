"""Conversions between what parameters hold (flux, arcsec, radians) and what people and other tools quote."""

import jax.numpy as jnp
from jax.scipy.special import gammaln

from jaxphot.numerics import b_n

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


def intensity(surface_brightness, zeropoint):
    """Intensity in flux/arcsec² of a surface brightness in mag/arcsec², the inverse of `surface_brightness`."""
    return mag_to_flux(surface_brightness, zeropoint)


def Ie_to_I0(Ie, n):
    """Central brightness ``Ie exp(b_n)`` of a Sérsic profile with brightness Ie at its half-light radius.

    Examples
    --------
    >>> round(float(Ie_to_I0(1.0, 1.0)), 4)
    5.3567
    """
    return Ie * jnp.exp(b_n(n))


def I0_to_Ie(I0, n):
    """Brightness at the half-light radius, the inverse of `Ie_to_I0`."""
    return I0 * jnp.exp(-b_n(n))


def Ie_to_flux(Ie, n, Re, q=1.0):
    """Total flux of a Sérsic profile, ``2π q Re² Ie n exp(b_n) b_n^(−2n) Γ(2n)`` (Graham & Driver 2005, PASA 22, 118).

    With `flux_to_mag` it gives the total magnitude, which is what GALFIT fits.

    Examples
    --------
    >>> round(float(Ie_to_flux(1.0, 4.0, 1.0)), 3)
    22.665
    """
    b = b_n(n)
    return 2 * jnp.pi * q * Re**2 * Ie * n * jnp.exp(b - 2 * n * jnp.log(b) + gammaln(2 * n))


def flux_to_Ie(flux, n, Re, q=1.0):
    """Brightness at the half-light radius of a Sérsic profile with a total flux, the inverse of `Ie_to_flux`."""
    return flux / Ie_to_flux(1.0, n, Re, q)


def Re_to_scale(Re, n=1.0):
    """Scale length h of a Sérsic profile written as ``I0 exp(−(r/h)^(1/n))``: ``Re b_n^(−n)``.

    Examples
    --------
    >>> round(float(Re_to_scale(1.67835)), 4)
    1.0
    """
    return Re * b_n(n) ** -n


def scale_to_Re(h, n=1.0):
    """Half-light radius of a Sérsic profile of scale length h, the inverse of `Re_to_scale`."""
    return h * b_n(n) ** n


def fwhm_to_sigma(fwhm):
    """Standard deviation of a Gaussian of full width at half maximum `fwhm`."""
    return fwhm / (2 * jnp.sqrt(2 * jnp.log(2.0)))


def sigma_to_fwhm(sigma):
    """Full width at half maximum of a Gaussian."""
    return sigma * (2 * jnp.sqrt(2 * jnp.log(2.0)))


def fwhm_to_Rd(fwhm, n):
    """Scale radius of a Moffat profile of exponent n (β) and full width at half maximum `fwhm`."""
    return fwhm / (2 * jnp.sqrt(2 ** (1 / n) - 1))


def Rd_to_fwhm(Rd, n):
    """Full width at half maximum of a Moffat profile of exponent n (β)."""
    return Rd * 2 * jnp.sqrt(2 ** (1 / n) - 1)
