"""Backgrounds: brightness that is not convolved with the PSF."""

from dataclasses import dataclass
from math import factorial

import jax.numpy as jnp
import numpy as np

from jaxphot.models.combinators import background
from jaxphot.models.grids import linear
from jaxphot.numerics import interpolate
from jaxphot.parameters import Gradient, Intensity, vector

_HIGHEST_ORDER = 15


def flat_sky(x, y, *, I0: Intensity):
    """The same brightness I0 (flux/arcsec²) everywhere."""
    return I0 + 0 * (x + y)


def plane_sky(x, y, *, I0: Intensity, delta: Gradient):
    """``I0 + delta · (x, y)``: I0 is the brightness at the plane's origin, delta in flux/arcsec² per arcsec."""
    return I0 + delta[0] * x + delta[1] * y


@dataclass(frozen=True)
class PolySky:
    """A polynomial in x and y; made by `poly_sky`."""

    order: int
    origin: tuple
    scale: float

    def parameters(self):
        """One vector, of Taylor coefficients."""
        return {"coefficients": vector(Intensity, len(self.powers()))}

    def powers(self):
        """(p, q) of every term x^p y^q: by total order, then by falling p."""
        return [(total - q, q) for total in range(self.order + 1) for q in range(total + 1)]

    def start(self, level):
        """The same brightness everywhere."""
        return {"coefficients": level * np.eye(len(self.powers()))[0]}

    def __call__(self, x, y, *, coefficients):
        """Brightness (flux/arcsec²)."""
        u, v = (x - self.origin[0]) / self.scale, (y - self.origin[1]) / self.scale
        of_u, of_v = (_scaled_powers(value, self.order) for value in (u, v))
        total = 0 * (u + v)
        for number, (p, q) in enumerate(self.powers()):
            total = total + coefficients[number] * of_u[p] * of_v[q]
        return total


def _scaled_powers(u, order):
    """Powers u^p / p! for p from 0 to the order."""
    powers = [jnp.ones_like(u)]
    for _ in range(order):
        powers.append(powers[-1] * u)
    return [power / factorial(p) for p, power in enumerate(powers)]


def poly_sky(order, *, origin=(0.0, 0.0), scale=1.0):
    """A polynomial sky, ``Σ c_pq u^p v^q / (p! q!)`` with ``(u, v) = ((x, y) − origin) / scale``.

    Its parameter is `coefficients`, flux/arcsec², in the order (0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), …: the
    brightness at the origin and its derivatives per `scale`. With a scale of half the image's width and the origin in
    its middle all coefficients are of one size, which matters from the second order on.

    Parameters
    ----------
    order : int
        Highest total power p + q, at most 15 (static).
    origin : (float, float)
        arcsec (static).
    scale : float
        arcsec (static).

    Returns
    -------
    model

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(poly_sky(1)({"coefficients": jnp.asarray([5.0, 2.0, -1.0])}, 1.0, 3.0))
    4.0
    """
    if isinstance(order, bool) or int(order) != order or not 0 <= order <= _HIGHEST_ORDER:
        raise ValueError(f"order: expected an integer from 0 to {_HIGHEST_ORDER}, got {order!r}")
    if not scale > 0:
        raise ValueError(f"scale: expected a length > 0, got {scale!r}")
    return background(PolySky(int(order), (float(origin[0]), float(origin[1])), float(scale)))


@dataclass(frozen=True)
class BilinearSky:
    """Brightness between nodes; made by `bilinear_sky`."""

    shape: tuple
    extent: tuple

    def parameters(self):
        """The nodes' values."""
        return {"nodes": vector(Intensity, *self.shape)}

    def start(self, level):
        """The same brightness everywhere."""
        return {"nodes": np.full(self.shape, level)}

    def __call__(self, x, y, *, nodes):
        """Brightness (flux/arcsec²)."""
        x0, x1, y0, y1 = self.extent
        rows, columns = self.shape
        u = jnp.clip((x - x0) / (x1 - x0), 0, 1) * (columns - 1)
        v = jnp.clip((y - y0) / (y1 - y0), 0, 1) * (rows - 1)
        u, v = jnp.broadcast_arrays(u, v)
        return interpolate(nodes, u, v, linear)


def bilinear_sky(shape, extent):
    """A sky that is bilinear between the nodes of a grid, and constant beyond: there it is that of the nearest edge.

    Its parameter is `nodes`, (ny, nx) flux/arcsec²; ``nodes[0, 0]`` lies at (x0, y0), ``nodes[-1, -1]`` at (x1, y1).

    Parameters
    ----------
    shape : (int, int)
        (ny, nx) nodes (static); an axis with one node does not vary.
    extent : (x0, x1, y0, y1)
        arcsec, positions of the outermost nodes (static). x0 > x1 is allowed.

    Returns
    -------
    model

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> sky = bilinear_sky((1, 2), (0.0, 10.0, 0.0, 1.0))
    >>> [float(sky({"nodes": jnp.asarray([[1.0, 3.0]])}, x, 0.0)) for x in (-5.0, 2.5, 99.0)]
    [1.0, 1.5, 3.0]
    """
    rows, columns = (int(side) for side in shape)
    if rows < 1 or columns < 1:
        raise ValueError(f"shape: expected (ny, nx) ≥ 1, got {shape!r}")
    x0, x1, y0, y1 = (float(side) for side in extent)
    if x0 == x1 or y0 == y1:
        raise ValueError(f"extent: expected (x0, x1, y0, y1) with two different ends each, got {extent!r}")
    return background(BilinearSky((rows, columns), (x0, x1, y0, y1)))
