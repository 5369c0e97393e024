"""From the plane to a radius. A metric's keyword-only arguments are its parameters.

A metric may carry ``area(**parameters)``, the area of its isophote r = 1 in units of the unit circle's; profiles whose
parameter is a total `flux` are divided by it.
"""

import jax.numpy as jnp

from jaxphot.numerics import safe_sqrt
from jaxphot.parameters import AxisRatio, Center, PositionAngle


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
    dx, dy = x - center[0], y - center[1]
    sin, cos = jnp.sin(PA), jnp.cos(PA)
    major = dx * sin + dy * cos
    minor = (dx * cos - dy * sin) / q
    return safe_sqrt(major**2 + minor**2)


ellipse.area = lambda *, center, q, PA: q
