"""Brightness as a function of radius. A profile's keyword-only arguments are its parameters.

Every profile takes the radius ``r`` (arcsec, along the major axis; any shape) and returns an array of that shape:
flux/arcsec². Values and gradients are finite at r = 0.
"""

import jax.numpy as jnp

from jaxphot.numerics import b_n, exp_of_power, safe_log
from jaxphot.parameters import Flux, Intensity, MoffatIndex, Radius, SersicIndex


def sersic(r, *, n: SersicIndex, Re: Radius, Ie: Intensity):
    """Sérsic profile, ``Ie exp(−b_n ((r/Re)^(1/n) − 1))`` (Sérsic 1963; Graham & Driver 2005, PASA 22, 118).

    Parameters
    ----------
    r : array
        Radius, arcsec.
    n : scalar
        Index: ½ is a Gaussian, 1 an exponential, 4 de Vaucouleurs.
    Re : scalar
        Half-light radius, arcsec.
    Ie : scalar
        Brightness at Re, flux/arcsec².

    Examples
    --------
    >>> round(float(sersic(2.0, n=4.0, Re=2.0, Ie=3.0)), 4)
    3.0
    """
    b = b_n(n)
    return Ie * jnp.exp(b) * exp_of_power(safe_log(r / Re), 1 / n, b)


def exponential(r, *, Re: Radius, Ie: Intensity):
    """Exponential disk, a Sérsic profile of n = 1: ``Ie exp(−1.678 (r/Re − 1))``; Re is the half-light radius."""
    return Ie * jnp.exp(-1.6783469900166612 * (r / Re - 1))


def gaussian(r, *, sigma: Radius, flux: Flux):
    """Gaussian of standard deviation `sigma` (arcsec, along the major axis) and total `flux`."""
    return flux / (2 * jnp.pi * sigma**2) * jnp.exp(-0.5 * (r / sigma) ** 2)


def moffat(r, *, n: MoffatIndex, Rd: Radius, I0: Intensity):
    """Moffat profile ``I0 (1 + (r/Rd)²)^(−n)`` (Moffat 1969, A&A 3, 455); n is his β, FWHM = 2 Rd √(2^(1/n) − 1)."""
    return I0 * jnp.exp(-n * jnp.log1p((r / Rd) ** 2))
