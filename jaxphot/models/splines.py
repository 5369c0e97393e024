"""A profile that is free in form; reached as `profiles.spline`."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import pchip, safe_log
from jaxphot.parameters import Parameter


def check_radii(radii):
    """Rising radii as a tuple, or a ValueError."""
    radii = tuple(float(radius) for radius in radii)
    if len(radii) < 2 or radii[0] < 0 or not np.all(np.diff(radii) > 0) or not np.isfinite(radii[-1]):
        raise ValueError(f"radii: expected two or more rising radii ≥ 0, got {radii}")
    return radii


@dataclass(frozen=True)
class Spline:
    """Brightness given at some radii; made by `spline`."""

    radii: tuple
    log: bool

    def parameters(self):
        """The brightness at every radius, `I_r`."""
        bounds, coordinate = ((0.0, float("inf")), "log") if self.log else ((-float("inf"), float("inf")), "identity")
        text = "surface brightness at the nodes"
        return {"I_r": Parameter("flux / arcsec2", bounds, (len(self.radii),), text, coordinate=coordinate)}

    def start(self, source):
        """What `initialize` begins with: the brightness measured there."""
        return {"I_r": source.brightness(self.radii)}

    def __call__(self, r, *, I_r):
        """Brightness (flux/arcsec²) at radii r (arcsec)."""
        radii = np.asarray(self.radii)
        soft = radii[radii > 0][0]
        knots = 0.5 * np.log(radii**2 + soft**2)
        t, dtype = 0.5 * jnp.log(jnp.asarray(r) ** 2 + soft.item() ** 2), jnp.result_type(r, I_r)
        if self.log:
            return jnp.exp(pchip(knots, safe_log(jnp.asarray(I_r, dtype)), t))
        step = knots[-1] - knots[-2]  # two more nodes, at zero: light ends there, smoothly
        knots = np.append(knots, [knots[-1] + step, knots[-1] + 2 * step])
        return pchip(knots, jnp.append(jnp.asarray(I_r, dtype), jnp.zeros(2, dtype)), t)


def spline(radii, *, log=True):
    """A profile free in form: its brightness at given radii, and a smooth curve between them.

    The curve is a monotone cubic (`numerics.pchip`) in ``log √(r² + r₁²)``, where r₁ is the first radius above 0: in
    log radius, but smooth at the centre. It never overshoots its nodes; within the first one it goes straight on. A
    profile like any other: ``radial(profiles.spline((0, 1, 2, 4, 8)))``.

    Parameters
    ----------
    radii : sequence of float
        Rising, two or more, the first may be 0; arcsec. Static.
    log : bool
        Interpolate the logarithm of the brightness, which then is positive and goes on as a power law beyond the last
        node. Otherwise it may have any sign and falls to 0 within one more interval.

    Returns
    -------
    Spline
        With one parameter, the vector `I_r` of brightness at the radii, flux/arcsec².

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> profile = spline((0.0, 1.0, 3.0))
    >>> round(float(profile(1.0, I_r=jnp.array([8.0, 5.0, 1.0]))), 4)
    5.0
    """
    return Spline(check_radii(radii), bool(log))
