"""From the plane to a radius. A metric's keyword-only arguments are its parameters.

A metric may carry ``area(**parameters)``: the area within r = R is this times πR². Profiles whose parameter is a total
`flux` are divided by it. `ellipse`, `circle` and `superellipse` are functions; `fourier`, `warp` and `bend` take
settings and make a metric from another, so that they combine: ``bend((2,), 5.0, fourier((1, 3), superellipse))``. A
metric with the attribute ``keeps_shape = False`` has isophotes that are not all of one shape.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from jaxphot.models.splines import check_radii
from jaxphot.numerics import pchip, safe_log, safe_sqrt
from jaxphot.parameters import (
    AxisRatio,
    Boxiness,
    Center,
    Parameter,
    PositionAngle,
    keyword_parameters,
)


def circle(x, y, *, center: Center):
    """Distance from the centre (arcsec)."""
    return safe_sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2)


circle.area = lambda *, center: 1.0


def ellipse(x, y, *, center: Center, q: AxisRatio, PA: PositionAngle):
    """Elliptical radius ``√(x'² + (y'/q)²)``: the distance along the major axis of the isophote through (x, y).

    Parameters
    ----------
    x, y : arrays
        arcsec, +x East, +y North.
    center : (2,) array
        arcsec.
    q : scalar
        Axis ratio b/a.
    PA : scalar
        rad, East of North: the major axis points along (sin PA, cos PA).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(ellipse(0.0, 3.0, center=jnp.zeros(2), q=0.5, PA=0.0))
    3.0
    """
    major, minor = to_axes(x - center[0], y - center[1], PA)
    return safe_sqrt(major**2 + (minor / q) ** 2)


ellipse.area = lambda *, center, q, PA: q


def to_axes(dx, dy, PA):
    """Coordinates along the major axis, and along the minor one in the direction in which PA grows."""
    sin, cos = jnp.sin(PA), jnp.cos(PA)
    return dx * sin + dy * cos, dx * cos - dy * sin


def from_axes(major, minor, PA):
    """The inverse of `to_axes`."""
    sin, cos = jnp.sin(PA), jnp.cos(PA)
    return major * sin + minor * cos, major * cos - minor * sin


def superellipse(x, y, *, center: Center, q: AxisRatio, PA: PositionAngle, C0: Boxiness):
    """Boxy or disky radius ``(|x'|^c + |y'/q|^c)^(1/c)`` with ``c = C0 + 2``.

    C0 is GALFIT's C0 and imfit's c0 (Athanassoula et al. 1990, MNRAS 245, 130; Peng et al. 2010, AJ 139, 2097): 0 is an
    ellipse, > 0 boxy, < 0 disky; tools that give the exponent c itself (ProFit's box too is c − 2) subtract 2.

    Parameters
    ----------
    x, y, center, q, PA
        As of `ellipse`.
    C0 : scalar
        Boxiness, > −2. Below −1 isophotes have cusps on the axes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(superellipse(3.0, 4.0, center=jnp.zeros(2), q=1.0, PA=0.0, C0=0.0))
    5.0
    """
    major, minor = to_axes(x - center[0], y - center[1], PA)
    a, b = jnp.abs(major), jnp.abs(minor / q)
    longer, shorter, c = jnp.maximum(a, b), jnp.minimum(a, b), C0 + 2
    log_ratio = safe_log(shorter / jnp.where(longer > 0, longer, 1))
    return longer * jnp.exp(jnp.log1p(jnp.exp(c * log_ratio)) / c)


def _superellipse_area(center, q, PA, C0):
    c = C0 + 2
    return q * (4 / np.pi) * jnp.exp(2 * gammaln(1 + 1 / c) - gammaln(1 + 2 / c))


superellipse.area = _superellipse_area


def own_parameters(params, function):
    """Those of a dictionary of parameters that belong to a profile or metric."""
    return {name: params[name] for name in keyword_parameters(function)}


@dataclass(frozen=True)
class Fourier:
    """Isophotes with Fourier modes; made by `fourier`."""

    modes: tuple
    metric: Callable

    def parameters(self):
        """The inner metric's, and vectors of amplitudes `am` and phases `phim`."""
        shape = (len(self.modes),)
        own = {
            "am": Parameter("", (-1.0, 1.0), shape, "relative amplitudes of the Fourier modes"),
            "phim": Parameter("rad", shape=shape, description="phases of the Fourier modes"),
        }
        return {**keyword_parameters(self.metric), **own}

    def __call__(self, x, y, *, am, phim, **params):
        """Radius (arcsec) at plane positions x, y (arcsec)."""
        major, minor = to_axes(x - params["center"][0], y - params["center"][1], params.get("PA", 0.0))
        theta = _angle(major, minor / params.get("q", 1.0))
        factor = 1 + sum(am[k] * jnp.cos(m * (theta + phim[k])) for k, m in enumerate(self.modes))
        return self.metric(x, y, **params) * jnp.maximum(factor, 0.01)

    @property
    def area(self):
        """Area within r = 1 over π, by trapezoids in angle, unless the inner metric bends or winds."""
        if not getattr(self.metric, "keeps_shape", True):
            raise AttributeError("the radius is not proportional to the distance from the centre")
        return self._area

    def _area(self, **params):
        q, PA = params.get("q", 1.0), params.get("PA", 0.0)
        theta = jnp.asarray(2 * np.pi * np.arange(256) / 256, jnp.result_type(params["am"]))
        x, y = from_axes(jnp.cos(theta), q * jnp.sin(theta), PA)
        return q * jnp.mean(self(x, y, **{**params, "center": jnp.zeros_like(params["center"])}) ** -2)


def _angle(major, minor):
    """Angle from the major axis; 0, with gradient 0, at the centre."""
    somewhere = (major != 0) | (minor != 0)
    return jnp.where(somewhere, jnp.arctan2(minor, jnp.where(somewhere, major, 1)), 0)


def fourier(modes, metric=ellipse):
    """Isophotes with Fourier modes, ``r₀ (1 + Σ a_m cos(m (θ + φ_m)))`` (Peng et al. 2010, AJ 139, 2097, eq. 24).

    θ is the angle from the major axis in the direction in which PA grows, in the frame in which the ellipse is round:
    GALFIT's convention; its φ_m in degrees are ours in radians. m = 1 makes a galaxy lopsided, 3 triangular. Amplitudes
    are relative; a factor below 0.01 is taken as 0.01. With all amplitudes 0, phases do not matter.

    Parameters
    ----------
    modes : sequence of int
        m ≥ 1; static. (m = 2 is degenerate with q and PA.)
    metric : metric
        Gives r₀; with parameter `center`, and q and PA where it is not round. Its radius must be proportional to the
        distance from the centre for `area` to hold.

    Returns
    -------
    Fourier
        Parameters beside the metric's: vectors `am` and `phim` (rad), in the order of `modes`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> lopsided = fourier((1,), circle)
    >>> float(lopsided(0.0, 2.0, center=jnp.zeros(2), am=jnp.array([0.25]), phim=jnp.zeros(1)))
    2.5
    """
    return Fourier(_check_modes(modes), check_metric(metric))


def _check_modes(modes):
    modes = tuple(int(m) for m in modes)
    if not modes or min(modes) < 1 or len(set(modes)) < len(modes):
        raise ValueError(f"modes: expected different integers ≥ 1, got {modes}")
    return modes


def check_metric(metric, *needed):
    """Refuse a metric that lacks parameters which are needed."""
    missing = {"center", *needed} - set(keyword_parameters(metric))
    if missing:
        raise ValueError(f"metric: expected one with parameters {', '.join(sorted(missing))}, got {metric!r}")
    return metric


@dataclass(frozen=True)
class Warp:
    """Axis ratio and position angle that change with radius; made by `warp`."""

    radii: tuple
    metric: Callable
    keeps_shape = False

    def parameters(self):
        """The inner metric's, with vectors `q_r` and `PA_r` instead of q and PA."""
        inner, shape = keyword_parameters(self.metric), (len(self.radii),)
        own = {
            "q_r": Parameter("", (0.01, 1.0), shape, "axis ratio at the nodes", coordinate="ratio"),
            "PA_r": Parameter(
                "rad", shape=shape, description="position angle at the nodes, East of North", coordinate="angle"
            ),
        }
        return {**{name: inner[name] for name in inner if name not in ("q", "PA")}, **own}

    def __call__(self, x, y, *, q_r, PA_r, **params):
        """Radius (arcsec) at plane positions x, y (arcsec)."""
        radii = np.asarray(self.radii)
        soft = radii[radii > 0][0]
        squared = (x - params["center"][0]) ** 2 + (y - params["center"][1]) ** 2
        t = 0.5 * jnp.log(squared + soft.item() ** 2)
        knots = 0.5 * np.log(radii**2 + soft**2)
        turns = jnp.diff(PA_r)
        turns = turns - jnp.pi * jnp.round(turns / jnp.pi)  # the shorter way round: PA has a period of π
        PA = PA_r[0] + jnp.concatenate([jnp.zeros_like(turns[:1]), jnp.cumsum(turns)])
        q, PA = (pchip(knots, values, t, flat_ends=True) for values in (q_r, PA))
        return self.metric(x, y, q=q, PA=PA, **params)


def warp(radii, metric=ellipse):
    """Isophotes whose axis ratio and position angle are smooth functions of the distance from the centre.

    q and PA at a point are those of its distance ρ from the centre (not of its radius, which would have to be solved
    for): monotone cubics in log ρ, constant within the first and beyond the last node. From one node to the next PA
    turns the shorter way, so that 179° and 1° are 2° apart. There is no `area`: a profile's `flux` is not the total
    here, which `jaxphot.total_flux` integrates.

    Parameters
    ----------
    radii : sequence of float
        Rising, two or more, the first may be 0; arcsec. Static.
    metric : metric
        With parameters q and PA.

    Returns
    -------
    Warp
        Parameters beside the metric's: vectors `q_r` and `PA_r` (rad) at the radii, instead of q and PA.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> twisted = warp((1.0, 10.0))
    >>> q_r, PA_r = jnp.array([0.9, 0.5]), jnp.array([0.0, jnp.pi / 2])
    >>> round(float(twisted(20.0, 0.0, center=jnp.zeros(2), q_r=q_r, PA_r=PA_r)), 6)
    20.0
    """
    return Warp(check_radii(radii), check_metric(metric, "q", "PA"))


@dataclass(frozen=True)
class Bend:
    """A bent major axis; made by `bend`."""

    modes: tuple
    scale: float
    metric: Callable
    keeps_shape = False

    def parameters(self):
        """The inner metric's, and the vector of amplitudes `bm`."""
        own = Parameter("arcsec", shape=(len(self.modes),), description="amplitudes of the bending modes")
        return {**keyword_parameters(self.metric), "bm": own}

    def __call__(self, x, y, *, bm, **params):
        """Radius (arcsec) at plane positions x, y (arcsec)."""
        center, PA = params["center"], params["PA"]
        major, minor = to_axes(x - center[0], y - center[1], PA)
        minor = minor + sum(bm[k] * (major / self.scale) ** m for k, m in enumerate(self.modes))
        dx, dy = from_axes(major, minor, PA)
        return self.metric(center[0] + dx, center[1] + dy, **params)

    @property
    def area(self):
        """The inner metric's, if it has one: a shear leaves areas alone."""
        inner = self.metric.area
        return lambda *, bm, **params: inner(**params)


def bend(modes, scale, metric=ellipse):
    """Bend the major axis: ``y' → y' + Σ b_m (x'/scale)^m`` (GALFIT's bending modes; Peng et al. 2010, eq. 25).

    x' is along the major axis, y' along the minor one in the direction in which PA grows, before division by q. m = 1
    shears, m = 2 makes a banana, m = 3 an S.

    Parameters
    ----------
    modes : sequence of int
        m ≥ 1; static.
    scale : float
        arcsec, about the size of the galaxy (GALFIT takes its effective radius); static.
    metric : metric
        With parameter PA.

    Returns
    -------
    Bend
        Parameter beside the metric's: the vector `bm` (arcsec), in the order of `modes`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> banana = bend((2,), 2.0)
    >>> float(banana(1.0, 2.0, center=jnp.zeros(2), q=1.0, PA=0.0, bm=jnp.array([-1.0])))
    2.0
    """
    if not float(scale) > 0:
        raise ValueError(f"scale: expected a length > 0, got {scale!r}")
    return Bend(_check_modes(modes), float(scale), check_metric(metric, "PA"))
