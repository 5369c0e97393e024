"""Functions of functions: a profile, metric or model made from another. Each works on any, and they combine.

``radial(modifiers.truncate(profiles.sersic), modifiers.inclined())``
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.models.metrics import check_metric, ellipse, from_axes, own_parameters, to_axes
from jaxphot.numerics import gauss_legendre
from jaxphot.parameters import Inclination, Radius, SideRatio, keyword_parameters


def _combined(name, function, own):
    """Parameters of a profile or metric and of what modifies it; a ValueError where both have one of a name."""
    inner = keyword_parameters(function)
    shared = sorted(set(inner) & set(own))
    if shared:
        raise ValueError(f"{name}: the function has a parameter called {', '.join(shared)} already")
    return {**inner, **own}


def _inner_edge(r, *, R_in: Radius, w_in: Radius):
    return jax.nn.sigmoid(2 * (r - R_in) / w_in)  # = ½ (1 + tanh)


def _outer_edge(r, *, R_out: Radius, w_out: Radius):
    return jax.nn.sigmoid(2 * (R_out - r) / w_out)


@dataclass(frozen=True)
class Truncated:
    """A profile with an edge; made by `truncate`."""

    profile: Callable
    edges: tuple

    def parameters(self):
        """The profile's, and those of the edges."""
        own = {name: parameter for edge in self.edges for name, parameter in keyword_parameters(edge).items()}
        return _combined("truncate", self.profile, own)

    def __call__(self, r, **params):
        """Brightness (flux/arcsec²) at radii r (arcsec)."""
        brightness = self.profile(r, **own_parameters(params, self.profile))
        for edge in self.edges:
            brightness = brightness * edge(r, **own_parameters(params, edge))
        return brightness


def truncate(profile, *, inner=False, outer=True):
    """Cut a profile off smoothly: inside a radius (a hole), outside one, or both.

    Brightness is multiplied by ``½ (1 ∓ tanh((r − R)/w))``, the form of Peng et al. 2010 (AJ 139, 2097): half is left
    at R, 99 % and 1 % at R ∓ 2.3 w. GALFIT gives these two radii (its break and softened radius) instead. A profile's
    `flux` or I0 stays what it would be without the edge; `jaxphot.total_flux` tells what is left.

    Parameters
    ----------
    profile : profile
    inner, outer : bool
        Which sides are cut off; static.

    Returns
    -------
    Truncated
        A profile with the additional parameters `R_in`, `w_in` and `R_out`, `w_out` (arcsec): radius and softness.

    Examples
    --------
    >>> from jaxphot.models import profiles
    >>> disk = truncate(profiles.exponential)
    >>> float(disk(2.0, Re=2.0, Ie=3.0, R_out=2.0, w_out=0.1))
    1.5
    """
    edges = (_inner_edge,) * bool(inner) + (_outer_edge,) * bool(outer)
    if not edges:
        raise ValueError("truncate: expected inner=True, outer=True or both")
    made = Truncated(profile, edges)
    made.parameters()
    return made


def _distance_from_ring(r, *, R_ring: Radius):
    return jnp.abs(r - R_ring)


def _scaled_distance_from_ring(r, *, R_ring: Radius, side_ratio: SideRatio):
    return jnp.where(r < R_ring, (R_ring - r) / side_ratio, r - R_ring)


@dataclass(frozen=True)
class Ring:
    """A profile across a ring; made by `ring`."""

    profile: Callable
    distance: Callable

    def parameters(self):
        """The profile's, and the ring's."""
        return _combined("ring", self.profile, keyword_parameters(self.distance))

    def __call__(self, r, **params):
        """Brightness (flux/arcsec²) at radii r (arcsec)."""
        distance = self.distance(r, **own_parameters(params, self.distance))
        return self.profile(distance, **own_parameters(params, self.profile))


def ring(profile, *, two_sided=False):
    """A ring: the profile of the distance from a radius, ``profile(|r − R_ring|)``.

    Of a Gaussian it is imfit's GaussianRing (two-sided, GaussianRing2Side). A profile's central brightness becomes that
    of the ring; a `flux` only scales it (``profiles.sersic`` with n = ½ has a brightness instead), and
    `jaxphot.total_flux` tells the total. R_ring → 0 is the profile itself.

    Parameters
    ----------
    profile : profile
    two_sided : bool
        Inside, the profile is stretched by another parameter, `side_ratio`; static.

    Returns
    -------
    Ring
        A profile with the additional parameter `R_ring` (arcsec).

    Examples
    --------
    >>> from jaxphot.models import profiles
    >>> glow = ring(profiles.moffat)
    >>> float(glow(3.0, n=2.0, Rd=1.0, I0=5.0, R_ring=3.0))
    5.0
    """
    made = Ring(profile, _scaled_distance_from_ring if two_sided else _distance_from_ring)
    made.parameters()
    return made


@dataclass(frozen=True)
class Inclined:
    """A metric whose axis ratio is that of an inclined disk; made by `inclined`."""

    metric: Callable
    thickness: float

    def parameters(self):
        """The inner metric's, with `inclination` instead of q."""
        inner = {name: p for name, p in keyword_parameters(self.metric).items() if name != "q"}
        return {**inner, **keyword_parameters(self._q)}

    def _q(self, *, inclination: Inclination):
        cos, sin = jnp.cos(inclination), jnp.sin(inclination)
        return jnp.sqrt(cos**2 + (self.thickness * sin) ** 2)

    def __call__(self, x, y, *, inclination, **params):
        """Radius (arcsec) at plane positions x, y (arcsec)."""
        return self.metric(x, y, q=self._q(inclination=inclination), **params)

    @property
    def keeps_shape(self):
        """As of the inner metric."""
        return getattr(self.metric, "keeps_shape", True)

    @property
    def area(self):
        """The inner metric's, if it has one."""
        inner = self.metric.area
        return lambda *, inclination, **params: inner(q=self._q(inclination=inclination), **params)


def inclined(metric=ellipse, *, thickness=0.2):
    """The metric of a disk seen at an inclination i: ``q² = cos² i + thickness² sin² i`` (Hubble 1926, ApJ 64, 321).

    Parameters
    ----------
    metric : metric
        With a parameter q.
    thickness : float
        Axis ratio of the disk seen edge-on, between 0.01 and 1; static.

    Returns
    -------
    Inclined
        A metric with the parameter `inclination` (rad, 0 face-on) instead of q. Face-on, its derivative vanishes, and
        the position angle does not matter.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> disk = inclined(thickness=0.25)
    >>> round(float(disk(0.5, 0.0, center=jnp.zeros(2), PA=0.0, inclination=jnp.pi / 2)), 6)
    2.0
    """
    if not 0.01 <= float(thickness) <= 1:
        raise ValueError(f"thickness: expected an axis ratio from 0.01 to 1, got {thickness!r}")
    return Inclined(check_metric(metric, "q"), float(thickness))


@dataclass(frozen=True)
class Sectors:
    """A profile for each of several sectors; made by `wedge` and `ray`.

    Attributes
    ----------
    profile, metric : callable
    count : int
        Different sectors.
    symmetric : bool
        Opposite sectors are the same.
    blend : float
        Part of a sector's width over which it goes over into the next; 0 has a border, 1 is smooth all around.
    """

    profile: Callable
    metric: Callable
    count: int
    symmetric: bool
    blend: float
    kind = "extended"

    def parameters(self):
        """The metric's, and the profile's with one value a sector."""
        inner = keyword_parameters(self.profile)
        many = {name: replace(p, shape=(self.count, *p.shape)) for name, p in inner.items()}
        return _combined("metric", self.metric, many)

    @property
    def width(self):
        """Angle from one sector's middle to the next (rad)."""
        return (np.pi if self.symmetric else 2 * np.pi) / self.count

    def __call__(self, params, x, y):
        """Brightness (flux/arcsec²) at plane positions x, y (arcsec)."""
        of_profile, of_metric = (own_parameters(params, part) for part in (self.profile, self.metric))
        r = self.metric(x, y, **of_metric)
        dx, dy = x - params["center"][0], y - params["center"][1]
        major, minor = to_axes(dx, dy, params.get("PA", 0.0))
        somewhere = (major != 0) | (minor != 0)
        theta = jnp.arctan2(jnp.where(somewhere, minor, 0), jnp.where(somewhere, major, 1))
        weights = jnp.where(somewhere, self.weights(theta), 1 / self.count)
        values = jax.vmap(lambda own: self.profile(r, **own))(of_profile)
        brightness = jnp.sum(weights * values, axis=0)
        area = getattr(self.metric, "area", None)
        return brightness if area is None or "flux" not in of_profile else brightness / area(**of_metric)

    def weights(self, theta):
        """Weight of every sector, (count, …), at angles from the major axis; they sum to 1."""
        position = theta / self.width
        middle = jnp.arange(self.count, dtype=position.dtype).reshape((-1,) + (1,) * position.ndim)
        offset = jnp.expand_dims(position, 0) - middle
        distance = jnp.abs(offset - self.count * jnp.round(offset / self.count))
        if self.blend == 0:  # the nearest; on a border, the lower number
            nearest = jnp.argmin(distance, axis=0)
            return (jnp.expand_dims(nearest, 0) == middle.astype(nearest.dtype)).astype(position.dtype)
        across = jnp.clip((distance - (1 - self.blend) / 2) / self.blend, 0, 1)
        return 0.5 * (1 + jnp.cos(np.pi * across))

    def quadrature(self, order):
        """Angles from the major axis and weights of a Gauss rule between all borders (NumPy)."""
        whole = self.count * (2 if self.symmetric else 1)
        marks = (np.arange(whole)[:, None] + np.array([0.0, (1 - self.blend) / 2, 0.5, (1 + self.blend) / 2])).ravel()
        marks = np.append(np.unique(marks), whole)
        nodes, weights = gauss_legendre(order)
        middle, step = (marks[1:] + marks[:-1]) / 2, np.diff(marks)
        angle = middle[:, None] + step[:, None] * nodes
        return self.width * angle.ravel(), self.width * (step[:, None] * weights).ravel()

    def shares(self, params, theta):
        """Of every sector at (A,) angles from the major axis, (count, A): its weight times (distance to r = 1)²."""
        of_metric = own_parameters(params, self.metric)
        x, y = from_axes(jnp.cos(theta), jnp.sin(theta), params.get("PA", 0.0))
        r = self.metric(x, y, **{**of_metric, "center": jnp.zeros(2, theta.dtype)})
        return self.weights(theta) / r[None, :] ** 2


def wedge(profile, count, metric=ellipse, *, symmetric=True, blend=0.2):
    """Sectors with a profile each, and narrow borders between them.

    The first sector's middle lies on the major axis, the others follow in the direction in which PA grows (angles as
    seen on the sky; from North if the metric has no PA). At the very centre, brightness is the sectors' mean.

    Parameters
    ----------
    profile : profile
    count : int
        Different sectors, two or more; static.
    metric : metric
    symmetric : bool
        Opposite sectors are the same, so that `count` of them fill half the circle; else the whole circle; static.
    blend : float
        From 0 to 1: part of a sector's width over which it goes over smoothly into the next; static. With 0, brightness
        jumps, and the derivative with respect to the borders' angle is left out: to a fit that is not told the centre
        and the PA, χ² is a staircase, on which it stalls.

    Returns
    -------
    Sectors
        A model. The profile's parameters have a leading axis of length `count`; a total `flux` is that of the galaxy if
        it were all like this sector.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxphot.models import metrics, profiles
    >>> model = wedge(profiles.exponential, 2, metrics.circle, symmetric=False)
    >>> params = {"center": jnp.zeros(2), "Re": jnp.array([1.0, 1.0]), "Ie": jnp.array([1.0, 7.0])}
    >>> [round(float(model(params, 0.0, y)), 6) for y in (1.0, -1.0)]  # the North and the South
    [1.0, 7.0]
    """
    return _sectors(profile, count, metric, symmetric, blend)


def ray(profile, count, metric=ellipse, *, symmetric=True):
    """Profiles along several directions, and brightness that goes over smoothly from one to the next.

    As `wedge` with ``blend=1``: in the middle of a sector its own profile holds, between two middles their mean
    weighted with cos² and sin², so that weights always sum to 1.

    Parameters
    ----------
    profile, count, metric, symmetric
        As of `wedge`.

    Returns
    -------
    Sectors

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jaxphot.models import metrics, profiles
    >>> model = ray(profiles.exponential, 4, metrics.circle)
    >>> params = {"center": jnp.zeros(2), "Re": jnp.ones(4), "Ie": jnp.array([1.0, 3.0, 5.0, 7.0])}
    >>> [round(float(model(params, jnp.sin(a), jnp.cos(a))), 6) for a in (0.0, jnp.pi / 8, jnp.pi / 4)]
    [1.0, 2.0, 3.0]
    """
    return _sectors(profile, count, metric, symmetric, 1.0)


def _sectors(profile, count, metric, symmetric, blend):
    if isinstance(count, bool) or int(count) != count or count < 2:
        raise ValueError(f"count: expected an integer ≥ 2, got {count!r}")
    if not 0 <= float(blend) <= 1:
        raise ValueError(f"blend: expected a number from 0 to 1, got {blend!r}")
    made = Sectors(profile, check_metric(metric), int(count), bool(symmetric), float(blend))
    made.parameters()
    return made
