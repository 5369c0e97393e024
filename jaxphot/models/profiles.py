"""Brightness as a function of radius. A profile's keyword-only arguments are its parameters.

Every profile takes the radius ``r`` (arcsec, along the major axis; any shape) and returns an array of that shape:
flux/arcsec². Values and gradients are finite at r = 0; a profile that is infinite there is softened within 1e-8 of its
scale. A profile may carry ``flux(**parameters)``, 2π ∫ I r dr in closed form: `jaxphot.total_flux` uses it; and
``start(source)``, values of those of its parameters that `jaxphot.initialize` does not know by name. `spline` makes
profiles that are free in form.

Under other names: an exponential disk of scale length h is `exponential` with Re = 1.678 h; a Plummer profile is
`moffat` with n = 2, the modified Hubble law n = 1, a β-model n = 3β − ½; imfit's FerrersBar2D is `ferrer` with beta = 0
and alpha = n, its ModifiedKing is `king`; a Gaussian ring is ``modifiers.ring(profiles.gaussian)``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, gammaln

from jaxphot.models.splines import spline as spline
from jaxphot.numerics import b_n, exp_of_power, gauss_legendre, safe_log
from jaxphot.parameters import (
    BreakSharpness,
    FerrerAlpha,
    FerrerBeta,
    Flux,
    InnerSlope,
    Intensity,
    KingSharpness,
    MoffatIndex,
    OuterSlope,
    Radius,
    SersicIndex,
    Transition,
)

_SOFT = 1e-8  # of a scale radius: closer to the centre an infinite cusp is flat


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


def _sersic_flux(n, Re, Ie):
    b = b_n(n)
    return 2 * jnp.pi * n * Re**2 * Ie * jnp.exp(b - 2 * n * jnp.log(b) + gammaln(2 * n))


sersic.flux = _sersic_flux


def exponential(r, *, Re: Radius, Ie: Intensity):
    """Exponential disk, a Sérsic profile of n = 1: ``Ie exp(−1.678 (r/Re − 1))``; Re is the half-light radius."""
    return Ie * jnp.exp(-1.6783469900166612 * (r / Re - 1))


exponential.flux = lambda *, Re, Ie: (
    2 * jnp.pi * Re**2 * Ie * (np.exp(1.6783469900166612) / 1.6783469900166612**2).item()
)


def de_vaucouleurs(r, *, Re: Radius, Ie: Intensity):
    """De Vaucouleurs' law (1948, AnAp 11, 247), a Sérsic profile of n = 4: ``Ie exp(−7.669 ((r/Re)^¼ − 1))``."""
    b = jnp.asarray(_B_4, jnp.result_type(r / Re))
    return Ie * jnp.exp(b) * exp_of_power(safe_log(r / Re), 0.25, b)


_B_4 = 7.669249442500804
de_vaucouleurs.flux = lambda *, Re, Ie: Re**2 * Ie * (8 * np.pi * np.exp(_B_4) * _B_4**-8 * 5040).item()


def gaussian(r, *, sigma: Radius, flux: Flux):
    """Gaussian of standard deviation `sigma` (arcsec, along the major axis) and total `flux`."""
    return flux / (2 * jnp.pi * sigma**2) * jnp.exp(-0.5 * (r / sigma) ** 2)


gaussian.flux = lambda *, sigma, flux: flux


def moffat(r, *, n: MoffatIndex, Rd: Radius, I0: Intensity):
    """Moffat profile ``I0 (1 + (r/Rd)²)^(−n)`` (Moffat 1969, A&A 3, 455); n is his β, FWHM = 2 Rd √(2^(1/n) − 1).

    Its total flux is infinite for n ≤ 1.
    """
    return I0 * jnp.exp(-n * jnp.log1p((r / Rd) ** 2))


moffat.flux = lambda *, n, Rd, I0: _finite_if(n > 1, jnp.pi * Rd**2 * I0, n - 1)


def _finite_if(converges, numerator, denominator):
    """A quotient, or infinity with the numerator's sign where an integral does not converge."""
    return jnp.where(converges, numerator / jnp.where(converges, denominator, 1), jnp.inf * jnp.sign(numerator))


def ferrer(r, *, Rout: Radius, alpha: FerrerAlpha, beta: FerrerBeta, I0: Intensity):
    """Bar with a nearly flat core and a sharp edge: ``I0 (1 − (r/Rout)^(2−beta))^alpha``, 0 beyond Rout.

    Ferrers 1877 (QJPAM 14, 1), with the inner slope of Peng et al. 2010 (AJ 139, 2097), as GALFIT has it.

    Parameters
    ----------
    r : array
        Radius, arcsec.
    Rout : scalar
        Outermost radius, arcsec.
    alpha : scalar
        Sharpness of the edge, > 0: brightness falls like the distance from it to this power.
    beta : scalar
        Central slope, < 2; 0 is the classical one. For beta ≥ 1 the centre is a cusp.
    I0 : scalar
        Central brightness, flux/arcsec².

    Examples
    --------
    >>> float(ferrer(1.0, Rout=2.0, alpha=2.0, beta=0.0, I0=16.0))
    9.0
    """
    exponent, log_r = 2 - beta, safe_log(r / Rout)
    inside = log_r < 0
    fraction = -jnp.expm1(exponent * jnp.where(inside, log_r, -1))
    return I0 * jnp.where(inside, jnp.exp(alpha * safe_log(fraction)), 0)


def _ferrer_flux(Rout, alpha, beta, I0):
    exponent = 2 - beta
    return 2 * jnp.pi * Rout**2 * I0 / exponent * jnp.exp(betaln(2 / exponent, alpha + 1))


ferrer.flux = _ferrer_flux
ferrer.start = lambda source: {"Rout": 3 * source.Re, "alpha": 2.0, "beta": 0.0}


def king(r, *, Rc: Radius, Rt: Radius, alpha: KingSharpness, I0: Intensity):
    """King's empirical profile (1962, AJ 67, 471) with a free exponent (Elson 1999; Peng et al. 2010, AJ 139, 2097).

    ``I0 ((u(r) − u(Rt)) / (1 − u(Rt)))^alpha`` with ``u(r) = (1 + (r/Rc)²)^(−1/alpha)``, and 0 beyond Rt: GALFIT's king
    and imfit's ModifiedKing; with alpha = 2 King's own and astropy's ``KingProjectedAnalytic1D``, whose amplitude is
    ``I0 Rc^(−2) (1 − u(Rt))^(−2)``.

    Parameters
    ----------
    r : array
        Radius, arcsec.
    Rc, Rt : scalar
        Core and tidal radius, arcsec.
    alpha : scalar
        Sharpness of the edge; towards 0, a Moffat profile of n = 1 cut off at Rt.
    I0 : scalar
        Central brightness, flux/arcsec².

    Examples
    --------
    >>> float(king(0.0, Rc=1.0, Rt=10.0, alpha=2.0, I0=3.0)), float(king(10.0, Rc=1.0, Rt=10.0, alpha=2.0, I0=3.0))
    (3.0, 0.0)
    """
    log_r, log_t = jnp.log1p((r / Rc) ** 2), jnp.log1p((Rt / Rc) ** 2)
    inside = log_r < log_t
    to_edge = jnp.where(inside, log_t - log_r, log_t)
    # u(r)^alpha is taken out of the power, where it is exact however small alpha is
    rest = alpha * (safe_log(-jnp.expm1(-to_edge / alpha)) - safe_log(-jnp.expm1(-log_t / alpha)))
    return I0 * jnp.where(inside, jnp.exp(rest - log_r), 0)


def _king_flux(Rc, Rt, alpha, I0):
    """With v = 1 − ln(1 + (r/Rc)²) / ln(1 + (Rt/Rc)²) = s⁴, a smooth integral over s from 0 to 1."""
    nodes, weights = gauss_legendre(48)
    s, log_t = (jnp.asarray(nodes + 0.5, jnp.result_type(Rt / Rc)), jnp.log1p((Rt / Rc) ** 2))
    ratio = jnp.expm1(-log_t / alpha * s**4) / jnp.expm1(-log_t / alpha)
    integral = jnp.sum(jnp.asarray(4 * weights, s.dtype) * s**3 * jnp.exp(alpha * jnp.log(ratio)))
    return jnp.pi * Rc**2 * I0 * log_t * integral


king.flux = _king_flux
king.start = lambda source: {"Rc": 0.7 * source.Re, "Rt": 6 * source.Re, "alpha": 2.0}


def _soft_log(u):
    """Logarithm of √(u² + 10⁻¹⁶): finite at 0, with gradient 0 there."""
    return 0.5 * jnp.log(u**2 + _SOFT**2)


def nuker(r, *, Rb: Radius, Ib: Intensity, alpha: Transition, beta: OuterSlope, gamma: InnerSlope):
    """Two power laws joined at a break (Lauer et al. 1995, AJ 110, 2622).

    ``Ib 2^((beta − gamma)/alpha) (r/Rb)^(−gamma) (1 + (r/Rb)^alpha)^((gamma − beta)/alpha)``. Softened within 1e-8 Rb,
    since it is infinite at r = 0 for gamma > 0. Its total flux is finite for gamma < 2 < beta.

    Parameters
    ----------
    r : array
        Radius, arcsec.
    Rb : scalar
        Break radius, arcsec.
    Ib : scalar
        Brightness at Rb, flux/arcsec².
    alpha : scalar
        Sharpness of the break.
    beta, gamma : scalar
        Outer and inner slope.

    Examples
    --------
    >>> round(float(nuker(2.0, Rb=2.0, Ib=3.0, alpha=2.0, beta=1.5, gamma=0.3)), 12)
    3.0
    """
    log_r = _soft_log(r / Rb)
    at_break = (beta - gamma) / alpha
    return Ib * jnp.exp(-gamma * log_r - at_break * (jax.nn.softplus(alpha * log_r) - np.log(2).item()))


def _nuker_flux(Rb, Ib, alpha, beta, gamma):
    converges = (gamma < 2) & (beta > 2)
    inner, outer = (jnp.where(converges, side, 1) for side in (2 - gamma, beta - 2))
    beta_function = jnp.exp((beta - gamma) / alpha * np.log(2).item() + betaln(inner / alpha, outer / alpha))
    return _finite_if(converges, 2 * jnp.pi * Rb**2 * Ib * beta_function, alpha)


nuker.flux = _nuker_flux
nuker.start = lambda source: {
    **{"Rb": source.Re, "Ib": source.brightness(source.Re)},
    **{"alpha": 1.5, "beta": 3.0, "gamma": 0.4},
}


def core_sersic(r, *, n: SersicIndex, Re: Radius, Rb: Radius, Ib: Intensity, alpha: Transition, gamma: InnerSlope):
    """Sérsic profile with a power-law core (Graham et al. 2003, AJ 125, 2951; Trujillo et al. 2004, AJ 127, 1917).

    ``I' (1 + (Rb/r)^alpha)^(gamma/alpha) exp(−b_n ((r^alpha + Rb^alpha)/Re^alpha)^(1/(alpha n)))``, where
    ``I' = Ib 2^(−gamma/alpha) exp(b_n (2^(1/alpha) Rb/Re)^(1/n))`` makes the brightness at Rb Ib. Softened within
    1e-8 Rb. With gamma = 0 and Rb → 0 it is `sersic`.

    Parameters
    ----------
    r : array
        Radius, arcsec.
    n, Re : scalar
        Of the outer Sérsic profile; its half-light radius (arcsec) if it went on to the centre.
    Rb : scalar
        Break radius, arcsec.
    Ib : scalar
        Brightness at Rb, flux/arcsec².
    alpha : scalar
        Sharpness of the break.
    gamma : scalar
        Inner slope.

    Examples
    --------
    >>> round(float(core_sersic(0.2, n=4.0, Re=5.0, Rb=0.2, Ib=3.0, alpha=2.0, gamma=0.1)), 12)
    3.0
    """
    log_r, log_b = _soft_log(r / Rb), jnp.log(Rb / Re)
    largest = 0.45 * float(np.log(np.finfo(jnp.result_type(log_b)).max))
    at_break = b_n(n) * jnp.exp(jnp.minimum((log_b + np.log(2).item() / alpha) / n, largest))
    softplus = jax.nn.softplus(alpha * log_r) - np.log(2).item()
    outer = -at_break * jnp.expm1(jnp.minimum(softplus / (alpha * n), largest))
    inner = gamma * (softplus / alpha - log_r)
    return Ib * jnp.exp(jnp.minimum(outer + inner, 2 * largest))


core_sersic.start = lambda source: {
    **{"Rb": 0.3 * source.Re, "Ib": source.brightness(0.3 * source.Re)},
    **{"alpha": 2.0, "gamma": 0.2},
}


def broken_exponential(r, *, h1: Radius, h2: Radius, Rb: Radius, alpha: BreakSharpness, I0: Intensity):
    """Exponential disk whose scale length changes at a break (Erwin, Pohlen & Beckman 2008, AJ 135, 20).

    ``S I0 exp(−r/h1) (1 + exp(alpha (r − Rb)))^((1/h1 − 1/h2)/alpha)``, with S such that the centre has I0.

    Parameters
    ----------
    r : array
        Radius, arcsec.
    h1, h2 : scalar
        Scale lengths inside and outside, arcsec.
    Rb : scalar
        Break radius, arcsec.
    alpha : scalar
        Sharpness of the break, 1/arcsec.
    I0 : scalar
        Central brightness, flux/arcsec².

    Examples
    --------
    >>> float(broken_exponential(0.0, h1=2.0, h2=1.0, Rb=3.0, alpha=1.0, I0=3.0))
    3.0
    """
    change = (1 / h1 - 1 / h2) / alpha
    return I0 * jnp.exp(-r / h1 + change * (jax.nn.softplus(alpha * (r - Rb)) - jax.nn.softplus(-alpha * Rb)))


broken_exponential.start = lambda source: {
    **{"h1": 0.7 * source.Re, "h2": 0.5 * source.Re, "Rb": 1.5 * source.Re},
    **{"alpha": 3 / source.Re, "I0": source.Ie * np.exp(1.7)},
}


def hernquist(r, *, Rs: Radius, flux: Flux):
    """Hernquist's sphere in projection (1990, ApJ 356, 359), close to de Vaucouleurs' law with Re = 1.8153 Rs.

    ``flux/(2π Rs²) ((2 + s²) X(s) − 3) / (1 − s²)²`` with s = r/Rs and ``X = arsech(s)/√(1 − s²)`` or, for s > 1,
    ``arcsec(s)/√(s² − 1)``. It grows like −ln r towards the centre and is softened within 1e-8 Rs.

    Parameters
    ----------
    r : array
        Radius, arcsec.
    Rs : scalar
        Scale radius, arcsec.
    flux : scalar
        Total flux.

    Examples
    --------
    >>> import math
    >>> round(float(hernquist(1.0, Rs=1.0, flux=2 * math.pi)), 4)  # 4/15
    0.2667
    """
    s2 = jnp.asarray(r / Rs) ** 2 + _SOFT**2
    delta = 1 - s2
    near = jnp.abs(delta) < 0.25
    series = jnp.polyval(jnp.asarray(_HERNQUIST, delta.dtype), jnp.where(near, delta, 0))
    inner, outer = (delta > 0) & ~near, (delta < 0) & ~near
    far = jnp.where(near, 1, delta)
    root = jnp.sqrt(jnp.abs(far))
    x = jnp.where(
        inner, jnp.log1p(jnp.where(inner, root, 0)) - 0.5 * jnp.log(s2), jnp.arctan(jnp.where(outer, root, 1))
    )
    exact = ((2 + s2) * x / root - 3) / far / far  # the square's derivative would overflow in float32
    return flux / (2 * jnp.pi * Rs**2) * jnp.where(near, series, exact)


# X = Σ δ^k / (2k + 1) with δ = 1 − s² (both branches): coefficients of ((3 − δ) X − 3)/δ², highest first
_HERNQUIST = tuple(3 / (2 * k + 1) - 1 / (2 * k - 1) for k in range(27, 1, -1))
hernquist.flux = lambda *, Rs, flux: flux
hernquist.start = lambda source: {"Rs": source.Re / 1.8}
