"""Models that are neither radial nor a background."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxphot.models.combinators import extended
from jaxphot.models.metrics import to_axes
from jaxphot.numerics import along_last, bessel_xk1
from jaxphot.parameters import (
    AxisRatio,
    Center,
    EulerAngle,
    Flux,
    Intensity,
    Length,
    NoiseFraction,
    PositionAngle,
    Radius,
    vector,
)


def point_source(*, center: Center, flux: Flux):
    """A star: all its flux at one point; drawn as the image's PSF moved there."""
    return center, flux


def noise_floor(x, y, *, f: NoiseFraction):
    """No light at all: f is the systematic error ÷ the model's pixels; for `likelihood.fractional_floor`."""
    return 0 * (x + y)


noise_floor.start = lambda source: {"f": 0.03}


def edge_on(x, y, *, center: Center, PA: PositionAngle, rs: Length, hs: Length, I0: Intensity):
    """Exponential disk seen edge-on, ``I0 (R/rs) K1(R/rs) sech²(z/hs)``.

    Van der Kruit & Searle 1981 (A&A 95, 105): luminosity density falls off exponentially with radius, with the scale
    length rs, and as an isothermal sheet, sech², with height; no dust. R is the distance along the disk, z that from
    its plane. K1 is the modified Bessel function: R/rs K1(R/rs) is 1 at R = 0. Total flux: ``2π I0 rs hs``.

    Parameters
    ----------
    x, y : arrays
        arcsec, +x East, +y North.
    center : (2,) array
        arcsec.
    PA : scalar
        rad, East of North, along the disk.
    rs : scalar
        Scale length, arcsec.
    hs : scalar
        Scale height, arcsec; far from the plane brightness falls by e each hs/2.
    I0 : scalar
        Brightness at the centre, flux/arcsec².

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> shape = {"center": jnp.zeros(2), "PA": 0.0, "rs": 2.0, "hs": 0.5, "I0": 3.0}
    >>> float(edge_on(0.0, 0.0, **shape)), round(float(edge_on(0.0, 2.0, **shape)), 4)
    (3.0, 1.8057)
    """
    along, height = to_axes(x - center[0], y - center[1], PA)
    return I0 * bessel_xk1(along / rs) * _sech2(height / hs)


# the second moments of brightness along and across are 3 rs² and π²/12 hs²
edge_on.start = lambda source: _thin_disk(source, 1.5, 1.91, 2 * np.pi)
edge_on.flux = lambda *, rs, hs, I0, **_: 2 * jnp.pi * I0 * rs * hs


def isothermal(x, y, *, center: Center, PA: PositionAngle, rs: Length, hs: Length, I0: Intensity):
    """Isothermal sheet seen edge-on whose brightness falls exponentially along it: ``I0 exp(−R/rs) sech²(z/hs)``.

    The vertical law is that of a self-gravitating sheet of one velocity dispersion (Spitzer 1942, ApJ 95, 329). Unlike
    `edge_on`, which is an exponential disk in projection, the brightness itself is exponential along the disk, with a
    ridge at R = 0. Parameters are those of `edge_on`. Total flux: ``4 I0 rs hs``.
    """
    along, height = to_axes(x - center[0], y - center[1], PA)
    return I0 * jnp.exp(-jnp.abs(along / rs)) * _sech2(height / hs)


# here 2 rs² and π²/12 hs²
isothermal.start = lambda source: _thin_disk(source, 1.3, 1.56, 4)
isothermal.flux = lambda *, rs, hs, I0, **_: 4 * I0 * rs * hs


def _thin_disk(source, concentration, thickness, norm):
    rs = source.Re / concentration
    hs = thickness * source.q * rs
    return {"rs": rs, "hs": hs, "I0": source.flux / (norm * rs * hs)}


def _sech2(u):
    """1/cosh² without overflow."""
    falling = jnp.exp(-2 * jnp.abs(u))
    return 4 * falling / (1 + falling) ** 2


def gaussian_ellipsoid(
    x,
    y,
    *,
    center: Center,
    sigma_a: Length,
    sigma_b: Length,
    sigma_c: Length,
    alpha: EulerAngle,
    beta: EulerAngle,
    gamma: EulerAngle,
    flux: Flux,
):
    """Three-dimensional Gaussian of total `flux`, projected along the line of sight.

    Before it is turned, axis a points North, b East and c at the observer. It is turned by `gamma` about the line of
    sight from North to East, then by `beta` about North, then by `alpha` from North to East: alpha is the position
    angle of the line about which it is tilted, and for beta = 0 axis a has the position angle alpha + gamma. The
    projection is a Gaussian whose covariance is the part of the turned one in the plane of the sky. An image tells
    three numbers of the six: at least three have to be held in a fit.

    Parameters
    ----------
    x, y : arrays
        arcsec, +x East, +y North.
    center : (2,) array
        arcsec.
    sigma_a, sigma_b, sigma_c : scalars
        Standard deviations along the axes, arcsec.
    alpha, beta, gamma : scalars
        Euler angles (z, x, z), rad.
    flux : scalar

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> shape = {"sigma_a": 2.0, "sigma_b": 1.0, "sigma_c": 5.0, "alpha": 0.3, "beta": 0.0, "gamma": -0.3}
    >>> value = gaussian_ellipsoid(0.0, 2.0, center=jnp.zeros(2), flux=1.0, **shape)
    >>> round(float(value), 6)  # 1/(2π · 2 · 1) exp(−½)
    0.048266
    """
    (sa, ca), (sb, cb), (sc, cc) = ((jnp.sin(angle), jnp.cos(angle)) for angle in (alpha, beta, gamma))
    north = ((ca * cc - sa * cb * sc) * sigma_a, (-ca * sc - sa * cb * cc) * sigma_b, sa * sb * sigma_c)
    east = ((sa * cc + ca * cb * sc) * sigma_a, (-sa * sc + ca * cb * cc) * sigma_b, -ca * sb * sigma_c)
    dx, dy = x - center[0], y - center[1]
    # sums of squares throughout, which do not cancel however flat the ellipse is
    det = (sb * sc * sigma_b * sigma_c) ** 2 + (sb * cc * sigma_a * sigma_c) ** 2 + (cb * sigma_a * sigma_b) ** 2
    form = sum((dx * n - dy * e) ** 2 for n, e in zip(north, east, strict=True))
    return flux / (2 * jnp.pi * jnp.sqrt(det)) * jnp.exp(-0.5 * form / det)


def _ellipsoid_start(source):
    a = source.Re / 1.18
    sizes = {"sigma_a": a, "sigma_b": a * source.q, "sigma_c": a * source.q}
    return {**sizes, "alpha": source.PA, "beta": 0.5, "gamma": 0.0}


gaussian_ellipsoid.start = _ellipsoid_start
gaussian_ellipsoid.flux = lambda *, flux, **_: flux


@dataclass(frozen=True)
class MultiGaussian:
    """Sum of concentric Gaussians; made by `mge`."""

    n: int
    own_PA: bool

    def parameters(self):
        """Vectors with an entry a Gaussian; the position angle is one number unless each has its own."""
        angle = {"PAs": vector(PositionAngle, self.n)} if self.own_PA else {"PA": vector(PositionAngle)}
        return {
            "center": vector(Center, 2),
            **angle,
            "qs": vector(AxisRatio, self.n),
            "sigmas": vector(Radius, self.n),
            "fluxes": vector(Flux, self.n),
        }

    def __call__(self, x, y, *, center, qs, sigmas, fluxes, PA=None, PAs=None):
        """Brightness (flux/arcsec²)."""
        angle = along_last(PAs, x) if self.own_PA else PA
        qs, sigmas, fluxes = (along_last(values, x) for values in (qs, sigmas, fluxes))
        major, minor = to_axes(*(jnp.asarray(d)[..., None] for d in (x - center[0], y - center[1])), angle)
        form = (major / sigmas) ** 2 + (minor / (qs * sigmas)) ** 2
        return jnp.sum(fluxes / (2 * jnp.pi * qs * sigmas**2) * jnp.exp(-0.5 * form), axis=-1)

    def start(self, source):
        """From half of the source's width to twice, equally bright."""
        sigmas = source.Re / 1.18 * (np.geomspace(0.5, 2.0, self.n) if self.n > 1 else np.ones(1))
        each = np.ones(self.n)
        return {
            "qs": source.q * each,
            "sigmas": sigmas,
            "fluxes": source.flux / self.n * each,
            "PAs": source.PA * each,
        }

    @staticmethod
    def flux(*, fluxes, **_):
        """Total flux."""
        return jnp.sum(fluxes)


def mge(n, *, own_PA=False):
    """Multi-Gaussian expansion: the sum of `n` concentric Gaussians (Emsellem et al. 1994, A&A 285, 723).

    ``Σ_j F_j / (2π σ_j² q_j) · exp(−½ (x'² + (y'/q_j)²) / σ_j²)``, as in Cappellari 2002 (MNRAS 333, 400). Parameters:
    `center`, `fluxes` (each Gaussian's total), `sigmas` (arcsec, along the major axis), `qs`, and `PA` for all or `PAs`
    one each. Total flux is the sum of `fluxes`. The order of the Gaussians has no meaning: let starts differ in sigma.

    Parameters
    ----------
    n : int
        Number of Gaussians (static).
    own_PA : bool
        Each has a position angle of its own (static).

    Returns
    -------
    model

    Examples
    --------
    >>> import jaxphot as jp
    >>> {name: parameter.shape for name, parameter in jp.parameters(mge(3)).items()}
    {'center': (2,), 'PA': (), 'qs': (3,), 'sigmas': (3,), 'fluxes': (3,)}
    """
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ValueError(f"n: expected a number of Gaussians ≥ 1, got {n!r}")
    return extended(MultiGaussian(int(n), bool(own_PA)))
