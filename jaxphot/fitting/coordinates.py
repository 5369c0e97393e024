"""Internal coordinates: what the solver steps in, and how results come back as physical parameters.

Positive scales step in their logarithm. An axis ratio and a position angle that are both free step as the shear
(η₁, η₂) = −ln q · (cos 2PA, sin 2PA), in which neither a round galaxy nor PA = 0 is anything special; vectors of
them, as `many` has, entry by entry. The user sees physical parameters only.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import array_namespace, put, take
from jaxphot.parameters import Parameter
from jaxphot.pytree import leaves_with_names


@dataclass(frozen=True)
class Coordinates:
    """The map between a flat physical vector, ordered as `names`, and the internal one; made by `make_coordinates`.

    Attributes
    ----------
    names : tuple of str
        One a scalar, in `jax.tree` order.
    paths : tuple of (str, shape)
        Key path and shape of every free leaf.
    logarithmic : tuple of bool
        A scalar each.
    pairs : tuple of (int, int)
        Positions of (q, PA) that step as a shear.
    radii : tuple of (int, int)
        Positions of (a radius along the major axis, the q beside it): the internal one is that of the circle with the
        same area, Re √q, which a change of shape leaves alone. In the radius itself the model has an edge at q = 1.
    centers : tuple of (int, int, int)
        Positions of x and y of a source, and of the radius beside them.
    """

    names: tuple
    paths: tuple
    logarithmic: tuple
    pairs: tuple
    radii: tuple
    centers: tuple

    @property
    def size(self):
        """Number of free scalars."""
        return len(self.names)

    def flatten(self, tree, dtype):
        """The leaves of a tree of free parameters as one vector."""
        leaves = [leaf for _, leaf in leaves_with_names(tree)] if tree else []
        return jnp.concatenate([jnp.zeros(0, dtype), *(jnp.ravel(leaf) for leaf in leaves)])

    def unflatten(self, vector):
        """Nested dictionary of the free leaves."""
        tree, position = {}, 0
        for path, shape in self.paths:
            size = int(np.prod(shape))
            *branch, leaf = path.split(".")
            node = tree
            for key in branch:
                node = node.setdefault(key, {})
            node[leaf] = vector[position : position + size].reshape(shape)
            position += size
        return tree

    def to_internal(self, physical):
        """Internal vector of a physical one inside its bounds."""
        z = self._where_logarithmic(physical, jnp.log)
        if self.pairs:
            q, pa = np.asarray(self.pairs).T
            # never exactly round: there the position angle's derivative would vanish for good
            size = jnp.maximum(-jnp.log(take(physical, q)), _roundest(physical.dtype))
            angle = 2 * take(physical, pa)
            z = put(z, [*q, *pa], jnp.concatenate([size * jnp.cos(angle), size * jnp.sin(angle)]))
        if self.radii:
            radius, q = np.asarray(self.radii).T
            z = put(z, radius, take(z, radius) + 0.5 * jnp.log(take(physical, q)))
        return z

    def from_internal(self, z):
        """Physical vector; position angles of shears in [0, π)."""
        if not self.pairs:
            return self._where_logarithmic(z, jnp.exp)
        q, pa = np.asarray(self.pairs).T
        size, angle = self._sizes(z), 0.5 * jnp.arctan2(take(z, pa), take(z, q))
        angle = jnp.where(angle < 0, angle + jnp.pi, angle)
        if self.radii:
            radius, shape = self._radii_and_shapes()
            z = put(z, radius, take(z, radius) + 0.5 * take(size, shape))
        return put(self._where_logarithmic(z, jnp.exp), [*q, *pa], jnp.concatenate([jnp.exp(-size), angle]))

    def derivative(self, z, physical=None):
        """Matrix d physical / d internal, (P, P); `physical` is what z means, if it is known already."""
        physical = self.from_internal(z) if physical is None else physical
        matrix = jnp.diag(jnp.where(jnp.asarray(self.logarithmic), physical, 1))
        if not self.pairs:
            return matrix
        q, pa = np.asarray(self.pairs).T
        size, along_q, along_pa = self._sizes(z), take(z, q), take(z, pa)
        radial, turning = take(physical, q) / size, 0.5 / size**2
        rows, columns = [*q, *q, *pa, *pa], [*q, *pa, *q, *pa]
        values = [-radial * along_q, -radial * along_pa, -turning * along_pa, turning * along_q]
        if self.radii:
            radius, shape = self._radii_and_shapes()
            growth = 0.5 * take(physical, radius) / take(size, shape)
            rows, columns = [*rows, *radius, *radius], [*columns, *q[shape], *pa[shape]]
            values += [growth * take(along_q, shape), growth * take(along_pa, shape)]
        entries = np.asarray(rows) * self.size + np.asarray(columns)
        return put(matrix.ravel(), entries, jnp.concatenate(values)).reshape(matrix.shape)

    def log_jacobian(self, z):
        """Value of log |det d physical / d internal|, such as turns a density of the one into that of the other."""
        physical = self.from_internal(z)
        total = jnp.sum(jnp.log(jnp.where(jnp.asarray(self.logarithmic, bool), physical, 1)))
        if not self.pairs:
            return total
        size = self._sizes(z)
        return total - jnp.sum(size + jnp.log(2 * size))

    def _sizes(self, z):
        """−ln q of every shear."""
        return _lengths(z, self.pairs)

    def _radii_and_shapes(self):
        """Positions of the radii, and for each which of the shears is beside it."""
        radius, q = np.asarray(self.radii).T
        return radius, np.asarray([[pair[0] for pair in self.pairs].index(k) for k in q])

    def _where_logarithmic(self, vector, function):
        chosen = jnp.asarray(self.logarithmic)
        return jnp.where(chosen, function(jnp.where(chosen, vector, 1)), vector)

    def limits(self, lower, upper):
        """Physical bounds (flat vectors, NumPy's or JAX's) in internal coordinates.

        Returns
        -------
        lower, upper : (P,) arrays
            A box; infinite for shears.
        inner, outer : (K,) arrays
            Radii of the rings of the K shears.
        """
        xp = array_namespace(lower, upper)
        q = np.asarray([q for q, _ in self.pairs], int)
        chosen, paired = np.asarray(self.logarithmic, bool), np.isin(np.arange(self.size), self.pairs)
        box = []
        for side, open_ in ((lower, -np.inf), (upper, np.inf)):
            positive = xp.maximum(side, float(np.finfo(side.dtype).tiny))
            inside = xp.where(chosen, xp.where(side > 0, xp.log(positive), -np.inf), side)
            box.append(xp.where(paired, open_, inside).astype(side.dtype))
        inner = xp.maximum(-xp.log(xp.minimum(upper[q], 1)), _roundest(lower.dtype))
        outer = -xp.log(xp.maximum(lower[q], float(np.finfo(lower.dtype).tiny)))
        return *box, inner.astype(lower.dtype), outer.astype(lower.dtype)

    def domain(self, limits):
        """The `Domain` of what `limits` returned."""
        lower, upper, inner, outer = limits
        dimensionless = np.asarray(self.logarithmic, bool) | np.isin(np.arange(self.size), self.pairs)
        dimensionless = tuple(np.flatnonzero(dimensionless).tolist())
        return Domain(lower, upper, self.pairs, inner, outer, dimensionless, self.centers)


SMALLEST_RING = 2  # √eps: a ring of this inner radius is the whole disk
_LONGEST_STEP = 0.7  # in logarithms and shears: a factor of 2
_LONGEST_MOVE = 0.5  # of a centre, in radii of its source


def _roundest(dtype):
    """Smallest |η| that is stepped in: derivatives lose eps / |η| of their precision."""
    return float(np.sqrt(np.finfo(dtype).eps))


def _lengths(vector, pairs):
    """Of vectors in two dimensions, given by their components' positions."""
    x, y = np.asarray(pairs).T
    return jnp.hypot(take(vector, x), take(vector, y))


class Domain(NamedTuple):
    """Bounds in internal coordinates: a box, and a ring for each shear.

    Attributes
    ----------
    lower, upper : (P,) arrays
        The box; infinite for shears.
    pairs : tuple of (int, int)
        Positions of (q, PA) of the K shears.
    inner, outer : (K,) arrays
        Radii of their rings.
    dimensionless : tuple of int
        Positions of logarithms and shears.
    centers : tuple of (int, int, int)
        Positions of x and y of sources, and of their radii.
    """

    lower: jax.Array
    upper: jax.Array
    pairs: tuple
    inner: jax.Array
    outer: jax.Array
    dimensionless: tuple = ()
    centers: tuple = ()

    def basis(self, z):
        """Axes, but for shears the radial and the tangential direction."""
        if not self.pairs:
            return None
        q, pa = np.asarray(self.pairs).T
        size = jnp.maximum(_lengths(z, self.pairs), jnp.finfo(z.dtype).tiny)
        cos, sin = take(z, q) / size, take(z, pa) / size
        entries = np.concatenate([q, pa, q, pa]) * z.size + np.concatenate([q, q, pa, pa])
        axes = jnp.eye(z.size, dtype=z.dtype)
        return put(axes.ravel(), entries, jnp.concatenate([cos, sin, -sin, cos])).reshape(axes.shape)

    def outward(self, z, gradient):
        """Directions of the basis at a bound along which descent would leave."""
        held = ((z <= self.lower) & (gradient > 0)) | ((z >= self.upper) & (gradient < 0))
        if not self.pairs:
            return held
        q = np.asarray(self.pairs)[:, 0]
        size, radial, slack = _lengths(z, self.pairs), take(gradient, q), 1 + 8 * jnp.finfo(z.dtype).eps
        # at its smallest (the default bound of q) a shear may still leave through the other side
        inside = (size <= self.inner * slack) & (radial > 0) & (self.inner > SMALLEST_RING * _roundest(z.dtype))
        return put(held, q, inside | ((size * slack >= self.outer) & (radial < 0)))

    def project(self, z):
        """The nearest point inside."""
        z = jnp.clip(z, self.lower, self.upper)
        if not self.pairs:
            return z
        q, pa = np.asarray(self.pairs).T
        size = _lengths(z, self.pairs)
        factor = jnp.clip(size, self.inner, self.outer) / jnp.where(size > 0, size, 1)
        along_q = jnp.where(size > 0, take(z, q) * factor, self.inner)
        return put(z, [*q, *pa], jnp.concatenate([along_q, take(z, pa) * factor]))

    def move(self, z, delta, held):
        """Where a step from z leads: never by more than a factor in a scale, nor a centre by more than half a radius.

        No quadratic form holds so far. A shear held on its ring follows it, where the tangent would leave it.
        """
        if self.dimensionless:
            longest = jnp.max(jnp.abs(take(delta, self.dimensionless)))
            delta = delta * jnp.minimum(_LONGEST_STEP / jnp.maximum(longest, jnp.finfo(z.dtype).tiny), 1)
        if self.centers:
            x, y, radius = np.asarray(self.centers).T
            distance = jnp.maximum(_lengths(delta, [*zip(x, y, strict=True)]), jnp.finfo(z.dtype).tiny)
            shorter = jnp.minimum(_LONGEST_MOVE * jnp.exp(take(z, radius)) / distance, 1)
            delta = _scaled(delta, [*x, *y], shorter)
        moved = z + delta
        if self.pairs:
            q, pa = np.asarray(self.pairs).T
            shrink = jnp.where(take(held, q), _lengths(z, self.pairs) / _lengths(moved, self.pairs), 1)
            moved = _scaled(moved, [*q, *pa], shrink)
        return self.project(moved)


def _scaled(vector, components, factors):
    """A vector that holds others in two dimensions, the x of each and then their y, times a factor for each."""
    return put(vector, components, take(vector, components) * jnp.concatenate([factors, factors]))


def make_coordinates(described, fixed, bounded):
    """Choose the coordinates of a fit.

    Parameters
    ----------
    described : dict
        Nested `Parameter`s of all parameters.
    fixed : collection of str
        Key paths that are not free.
    bounded : collection of str
        Key paths with bounds of the user's: a position angle among them keeps its axis ratio from stepping as a shear.

    Returns
    -------
    Coordinates
    """
    free = [
        (path, parameter)
        for path, parameter in leaves_with_names(described)
        if path not in fixed and parameter.coordinate != "constant"
    ]
    names, logarithmic, first = [], [], {}
    for path, parameter in free:
        first[path] = len(names)
        names.extend(scalar_names(path, parameter.shape))
        logarithmic.extend([parameter.is_logarithmic] * int(np.prod(parameter.shape)))
    pairs, radii = [], []
    for path, parameter in free:
        angle, each = _partner(path, parameter, free), range(int(np.prod(parameter.shape)))
        if angle is not None and angle not in bounded:
            pairs.extend((first[path] + k, first[angle] + k) for k in each)
            logarithmic[first[path] : first[path] + len(each)] = [False] * len(each)
            beside = _radii_beside(path, parameter.shape, free, bounded)
            radii.extend((first[radius] + k, first[path] + k) for radius in beside for k in each)
    centers = []
    for path, parameter in free:
        if path.rpartition(".")[2] == "center" and parameter.shape[-1:] == (2,):
            for radius in _lengths_beside(path, parameter.shape[:-1], free)[:1]:
                each = range(int(np.prod(parameter.shape[:-1])))
                centers.extend((first[path] + 2 * k, first[path] + 2 * k + 1, first[radius] + k) for k in each)
    paths = tuple((path, parameter.shape) for path, parameter in free)
    return Coordinates(tuple(names), paths, tuple(logarithmic), tuple(pairs), tuple(radii), tuple(centers))


def _radii_beside(path, shape, free, bounded):
    """Lengths beside a parameter but for those that the user bounds (or a default does)."""
    unbounded = {other for other, parameter in free if parameter.bounds == (0.0, float("inf"))}
    return [other for other in _lengths_beside(path, shape, free) if other in unbounded and other not in bounded]


def _lengths_beside(path, shape, free):
    """Free logarithmic lengths of a shape in the same dictionary."""
    branch = path.rpartition(".")[0]
    return [
        other
        for other, parameter in free
        if other.rpartition(".")[0] == branch
        and parameter.shape == shape
        and (parameter.unit, parameter.coordinate) == ("arcsec", "log")
    ]


def _partner(path, parameter: Parameter, free):
    """The free angle beside a ratio in the same dictionary, if there is exactly one of each, both of one shape."""
    if parameter.coordinate != "ratio":
        return None
    branch = path.rpartition(".")[0]
    siblings = [(p, other) for p, other in free if p.rpartition(".")[0] == branch and other.shape == parameter.shape]
    angles = [p for p, other in siblings if other.coordinate == "angle"]
    ratios = [p for p, other in siblings if other.coordinate == "ratio"]
    return angles[0] if len(angles) == len(ratios) == 1 else None


def scalar_names(path, shape):
    """``galaxy.n`` → (galaxy.n,), ``galaxy.center`` → (galaxy.center[0], galaxy.center[1])."""
    if not shape:
        return (path,)
    return tuple(f"{path}[{','.join(map(str, index))}]" for index in np.ndindex(*shape))
