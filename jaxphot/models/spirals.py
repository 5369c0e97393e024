"""Isophotes wound up into arms: a metric made from another, and the laws by which winding goes on."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import jax.numpy as jnp
import numpy as np

from jaxphot.models.metrics import check_metric, ellipse, from_axes, own_parameters, to_axes
from jaxphot.numerics import safe_sqrt
from jaxphot.parameters import Angle, Inclination, PositionAngle, Radius, WindingSlope, keyword_parameters


def power_winding(r, *, R_arm: Radius, slope: WindingSlope):
    """Winding that goes on as a power law, ``(½ (r/R_arm + 1))^slope``; `slope` is GALFIT's R4 of a power spiral."""
    return jnp.exp(slope * jnp.log(0.5 * (r / R_arm + 1)))


def log_winding(r, *, R_arm: Radius, R_wind: Radius):
    """Winding that goes on as a logarithm, ``ln(r/R_wind + 1) / ln(R_arm/R_wind + 1)``; R_wind is GALFIT's R4."""
    return jnp.log1p(r / R_wind) / jnp.log1p(R_arm / R_wind)


def _start(rho, *, R_bar: Radius, R_arm: Radius, turn: Angle):
    """How far along the winding is: 0 within the bar, 1 far beyond R_arm, 2 % short of it at R_arm.

    The hyperbolic tangent of Peng et al. 2010 (AJ 139, 2097), appendix A: at R_bar the isophotes have turned by about
    0.23 rad.
    """
    size = jnp.abs(turn)
    log_ratio = jnp.log(0.46 / (size + 0.23) + 1e-6) - jnp.log(2 * size / (size + 0.23) + 1e-5)
    width = jnp.maximum(R_arm - R_bar, 1e-3 * R_arm)
    return 0.5 * (jnp.tanh((2 - 0.5 * log_ratio) * (rho - R_arm) / width + 2) + 1)


def _face_on(dx, dy, *, inclination: Inclination, PA_sky: PositionAngle):
    """Coordinates in the disk's plane: along the line of nodes, and across."""
    major, minor = to_axes(dx, dy, PA_sky)
    return major, minor / _shortening(inclination)


def _shortening(inclination):
    """The cosine of an inclination, but never 0: a disk seen edge-on has no face."""
    return jnp.maximum(jnp.cos(inclination), 0.01)


@dataclass(frozen=True)
class Spiral:
    """Isophotes wound up in the plane of a disk; made by `spiral`."""

    metric: Callable
    winding: Callable
    keeps_shape = False

    def parameters(self):
        """The inner metric's, the law's, and those of the rotation and of the disk's orientation."""
        parts = self.metric, self.winding, _start, _face_on
        return {name: parameter for part in parts for name, parameter in keyword_parameters(part).items()}

    def __call__(self, x, y, **params):
        """Radius (arcsec) at plane positions x, y (arcsec)."""
        center = params["center"]
        major, minor = _face_on(x - center[0], y - center[1], **own_parameters(params, _face_on))
        rho = safe_sqrt(major**2 + minor**2)
        law, start = own_parameters(params, self.winding), own_parameters(params, _start)
        angle = params["turn"] * _start(rho, **start) * self.winding(rho, **law)
        dx, dy = from_axes(major, minor, params["PA_sky"] - angle)
        return self.metric(center[0] + dx, center[1] + dy, **own_parameters(params, self.metric))

    def start(self, source):
        """Alternatives for `initialize`: face-on and inclined disks whose arms wind either way, more or less."""
        disks = [(0.3, source.PA), *product((0.75, 1.1), source.PA + np.arange(4) * np.pi / 4)]
        arms = product((-4.0, -2.0, -1.0, 1.0, 2.0, 4.0), np.arange(6) * np.pi / 6, (1.0, 2.0))
        return [
            {
                **{"inclination": tilt, "PA_sky": node, "PA": (node + angle) % np.pi, "turn": turn, "q": 0.5},
                **{"R_bar": 0.3 * source.Re, "R_arm": reach * source.Re, "R_wind": source.Re, "slope": 0.5},
            }
            for (tilt, node), (turn, angle, reach) in product(disks, arms)
        ]

    @property
    def area(self):
        """The inner metric's, if it has one, seen at an inclination: rotation leaves areas alone."""
        inner = self.metric.area
        return lambda **params: _shortening(params["inclination"]) * inner(**own_parameters(params, self.metric))


def spiral(metric=ellipse, winding=power_winding):
    """Wind isophotes up into spiral arms in the plane of an inclined disk, as Peng et al. 2010 (AJ 139, 2097) do.

    The inner metric's isophotes, given as the disk looks face-on (its q and PA are those of the unwound bar), are
    turned by ``θ(ρ) = turn · T(ρ) · winding(ρ)`` at the distance ρ from the centre in the disk's plane, then the disk
    is inclined about PA_sky. T goes from 0 within R_bar to 1 at R_arm, as GALFIT's tanh does.

    Parameters
    ----------
    metric : metric
    winding : callable
        `power_winding`, `log_winding`, or one's own ``law(r, *, …)``, about 1 at R_arm.

    Returns
    -------
    Spiral
        Parameters beside the metric's and the law's: `R_bar` and `R_arm` (arcsec, GALFIT's R1 and R2), `turn` (rad,
        R3: how far isophotes have turned at R_arm, positive from North to East), `inclination` (rad, R9, 0 face-on) and
        `PA_sky` (rad, R10, of the line of nodes). Face-on, PA_sky does not matter; nor do the radii if turn is 0.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> params = {"center": jnp.zeros(2), "q": 0.5, "PA": 0.0, "inclination": 0.0, "PA_sky": 0.0}
    >>> arms = {"R_bar": 1.0, "R_arm": 5.0, "turn": jnp.pi / 2, "slope": 0.0}
    >>> round(float(spiral()(20.0, 0.0, **params, **arms)), 3)  # far out, the major axis has turned to the East
    20.0
    """
    return Spiral(check_metric(metric), winding)
