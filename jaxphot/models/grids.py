"""Models that are tables: a grid of values, weighted images, Zernike polynomials."""

from dataclasses import dataclass
from math import sqrt

import jax.numpy as jnp
import numpy as np

from jaxphot.models.combinators import extended
from jaxphot.models.metrics import to_axes
from jaxphot.numerics import along_last, interpolate
from jaxphot.parameters import Center, Intensity, Length, PositionAngle, Template, Weight, vector


def linear(t):
    """Weight of a node at a distance of t nodes: ``1 − |t|``. Linear interpolation between neighbours."""
    return jnp.maximum(1 - jnp.abs(t), 0)


linear.reach = 1


def cubic(t):
    """Weight of a node at a distance of t nodes in cubic convolution, which is Catmull and Rom's spline.

    Keys 1981, IEEE Trans. ASSP 29, 1153, with a = −½: through the nodes, once continuously differentiable, third order.
    """
    t = jnp.minimum(jnp.abs(t), 2)
    return jnp.where(t < 1, (1.5 * t - 2.5) * t * t + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2)


cubic.reach = 2


@dataclass(frozen=True)
class Pixelated:
    """A turned and scaled grid of values; made by `pixelated`."""

    shape: tuple
    kernel: object

    def parameters(self):
        """Where the grid lies, and its values."""
        return {**_placed(), "values": vector(Intensity, *self.shape)}

    def __call__(self, x, y, *, center, PA, scale, values):
        """Brightness (flux/arcsec²)."""
        return interpolate(values, *_to_grid(x, y, center, PA, scale, self.shape), self.kernel)

    def start(self, source):
        """A grid that is four half-light radii wide, upright, with what the image has at its nodes."""
        scale = 4 * source.Re / max(self.shape)
        v, u = (
            scale * (np.arange(side) - (side - 1) / 2).reshape(shape)
            for side, shape in zip(self.shape, ((-1, 1), (1, -1)), strict=True)
        )
        values = source.light(*np.broadcast_arrays(source.center[0] + u, source.center[1] + v))
        return {"PA": 0.0, "scale": scale, "values": values}

    @staticmethod
    def flux(*, scale, values, **_):
        """Total flux."""
        return scale**2 * jnp.sum(values)


def pixelated(shape, kernel=linear):
    """A picture on the sky: a grid of brightness values, turned by `PA`, with nodes `scale` arcsec apart.

    Parameters of the model: `center`, the position of the grid's middle, index ((nx − 1)/2, (ny − 1)/2); `PA`, to which
    the columns of the grid point: at 0, ``values[j, i]`` has j to the North and i to the East; `scale`, arcsec;
    `values`, flux/arcsec². Between nodes the brightness is interpolated; values beyond the grid count as 0, so that it
    falls to 0 over one node spacing beyond the outermost ones (with `cubic`, which swings through 0, over two).
    Total flux is the sum of `values` times scale². Free values are many parameters: for hundreds, not for thousands.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx) of the grid (static).
    kernel : function
        ``models.grids.linear`` (bilinear) or ``models.grids.cubic`` (bicubic; static).

    Returns
    -------
    model

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> values = jnp.asarray([[1.0, 3.0]])
    >>> float(pixelated((1, 2))({"center": jnp.zeros(2), "PA": 0.0, "scale": 2.0, "values": values}, 0.5, 0.0))
    2.5
    """
    return extended(Pixelated(_check_shape(shape), kernel))


@dataclass(frozen=True)
class Basis:
    """A weighted sum of images; made by `basis`."""

    n: int
    shape: tuple
    kernel: object

    def parameters(self):
        """Where the images lie, their weights and the images themselves."""
        return {**_placed(), "weights": vector(Weight, self.n), "images": vector(Template, self.n, *self.shape)}

    def __call__(self, x, y, *, center, PA, scale, weights, images):
        """Brightness (flux/arcsec²)."""
        values = jnp.sum(weights[:, None, None] * images, axis=0)
        return interpolate(values, *_to_grid(x, y, center, PA, scale, self.shape), self.kernel)

    def start(self, source):  # images and their scale are the user's to know
        """The first image alone."""
        return {"PA": 0.0, "weights": np.eye(self.n)[0]}

    @staticmethod
    def flux(*, scale, weights, images, **_):
        """Total flux."""
        return scale**2 * jnp.sum(weights[:, None, None] * images)


def basis(n, shape, kernel=linear):
    """A sum of images with free weights, ``Σ_k weights[k] · images[k]``, such as principal components.

    A model holds no arrays: `images`, (n, ny, nx) flux/arcsec², is a parameter that a fit has to hold,
    ``fixed={"galaxy": {"images": images}}``. Position, orientation, scale and what lies between and beyond the nodes
    are those of `pixelated`. One image with one weight is a template and its amplitude.

    Parameters
    ----------
    n : int
        Number of images (static).
    shape : (int, int)
        (ny, nx) of each (static).
    kernel : function
        As for `pixelated` (static).

    Returns
    -------
    model
    """
    return extended(Basis(_check_count("n", n, 1), _check_shape(shape), kernel))


@dataclass(frozen=True)
class Zernike:
    """A sum of Zernike polynomials; made by `zernike`."""

    order: int

    def parameters(self):
        """Where the disc lies, and the polynomials' weights."""
        count = (self.order + 1) * (self.order + 2) // 2
        return {"center": vector(Center, 2), "Rd": vector(Length), "weights": vector(Intensity, count)}

    def __call__(self, x, y, *, center, Rd, weights):
        """Brightness (flux/arcsec²)."""
        u, v = (x - center[0]) / Rd, (y - center[1]) / Rd
        inside = u * u + v * v <= 1
        basis = zernike_polynomials(self.order, jnp.where(inside, u, 0), jnp.where(inside, v, 0))
        return jnp.where(inside, jnp.sum(jnp.stack(basis, axis=-1) * along_last(weights, u), axis=-1), 0)

    def start(self, source):
        """A flat disc, twice as wide as the half-light radius."""
        weights = np.zeros((self.order + 1) * (self.order + 2) // 2)
        weights[0] = source.flux / (np.pi * (2 * source.Re) ** 2)
        return {"Rd": 2 * source.Re, "weights": weights}

    @staticmethod
    def flux(*, Rd, weights, **_):
        """Total flux."""
        return jnp.pi * Rd**2 * weights[0]


def zernike(order):
    """Zernike polynomials on a disc of radius `Rd` (arcsec) about `center`, with `weights`; 0 outside the disc.

    Weights (flux/arcsec²) are in the order and with the normalisation of Noll 1976 (JOSA 66, 207): ``weights[j − 1]``
    goes with Z_j, whose square has a mean of 1 over the disc. Z_1 = 1, so that the total flux is ``π Rd² weights[0]``.
    Azimuth is counted from +x (East) to +y (North): Z_2 = 2x/Rd, Z_3 = 2y/Rd. A shifted or scaled polynomial is one of
    the same order, so a fit of the weights has to hold `center` and `Rd`.

    Parameters
    ----------
    order : int
        Highest radial order n (static): (n + 1)(n + 2)/2 polynomials.

    Returns
    -------
    model

    Examples
    --------
    >>> import jaxphot as jp
    >>> jp.parameters(zernike(4))["weights"].shape
    (15,)
    """
    return extended(Zernike(_check_count("order", order, 0)))


def zernike_polynomials(order, u, v):
    """All Zernike polynomials up to a radial order, at points of the unit disc, in Noll's order: list of arrays.

    ``r^m (cos mφ, sin mφ)`` is the real and imaginary part of (u + iv)^m, and what is left of the radial polynomial a
    Jacobi polynomial in r², P_k^(0, m)(2r² − 1), by its recurrence in k, which is stable at any order. So nothing is
    singular at the centre.
    """
    one = jnp.ones_like(u)
    cos, sin, t = one, jnp.zeros_like(u), 2 * (u * u + v * v) - 1
    found = {}
    for m in range(order + 1):
        last, this = jnp.zeros_like(u), one
        for k in range((order - m) // 2 + 1):
            n = m + 2 * k
            scale = sqrt(n + 1) * (sqrt(2) if m else 1)
            found[n, m], found[n, -m] = scale * this * cos, scale * this * (sin if m else cos)
            last, this = this, _jacobi_next(k + 1, m, t, this, last)
        cos, sin = u * cos - v * sin, u * sin + v * cos
    return [found[noll(j)] for j in range(1, (order + 1) * (order + 2) // 2 + 1)]


def _jacobi_next(k, m, t, this, last):
    """P_k^(0, m)(t) from the two before it."""
    if k == 1:
        return 1 + (m + 2) / 2 * (t - 1)
    a = 2 * k + m
    first, second, third = (a - 1) * a * (a - 2), (a - 1) * m * m, 2 * (k - 1) * (k + m - 1) * a
    return ((first * t - second) * this - third * last) / (2 * k * (k + m) * (a - 2))


def noll(j):
    """(n, m) of Noll's index j ≥ 1; m < 0 goes with the sine.

    Examples
    --------
    >>> [noll(j) for j in range(1, 8)]
    [(0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (2, 2), (3, -1)]
    """
    n = 0
    while (n + 1) * (n + 2) // 2 < j:
        n += 1
    place = j - n * (n + 1) // 2 - 1
    m = n % 2 + 2 * ((place + (n + 1) % 2) // 2)
    return n, m if j % 2 == 0 else -m


def _placed():
    """Parameters that say where a grid lies."""
    return {"center": vector(Center, 2), "PA": vector(PositionAngle), "scale": vector(Length)}


def _to_grid(x, y, center, PA, scale, shape):
    """Index (column, row) of a position."""
    along, across = to_axes(x - center[0], y - center[1], PA)
    return across / scale + (shape[1] - 1) / 2, along / scale + (shape[0] - 1) / 2


def _check_shape(shape):
    ny, nx = (_check_count("shape", side, 1) for side in shape)
    return ny, nx


def _check_count(name, value, lowest):
    if isinstance(value, bool) or int(value) != value or value < lowest:
        raise ValueError(f"{name}: expected an integer ≥ {lowest}, got {value!r}")
    return int(value)
