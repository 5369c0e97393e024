"""Quadrature about a source's centre: what a cell next to a cusp needs, and nodes along its edges.

Everything is in pixel coordinates relative to the centre, with a metric (a, b, c): R² = a u² + 2 b u v + c v² is
constant on an isophote.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_GROWTH = 1.4
_STEP = np.log(_GROWTH).item()
_SMALLEST = 1e-30
_TIP = 0.1  # of a source's reach: triangles of cells farther out go outwards
_BRIGHT, _DARK = 18.4, 39.1  # powers of e below the peak
_BRIGHT_FALL = (4.0, 12.0)  # between which the decay is measured
_NO_LIGHT, _SUDDEN = -1e3, 6.0  # log of the brightness where there is none, and the fall taken for a sudden end
_MARGIN = 1.15  # from where light ceases to matter to the reach
_ALMOST = 0.02  # part of the radii before which cells that reach into the dark begin to be integrated along edges
_FARTHEST = 10.0  # light that ends nearer, in distances of an edge's foot, is followed along all of the edge
_STEEP_DIAGONALS, _STEEP_FALL = 1.5, 3.5  # so many cells' diagonals from the centre brightness has fallen so much


RADII = 0.02 * _GROWTH ** np.arange(36)
"""Radii along the major axis (pixels) at which `measure` wants the brightness."""


class Frame(NamedTuple):
    """Where a source is, and its isophotes' shape.

    Attributes
    ----------
    center : (2,) array
        (i, j), pixels.
    metric : (a, b, c)
        R² = a u² + 2 b u v + c v²; where pixels are square, R is in pixels along the major axis.
    axis : (2,) array
        A step of R = 1 along the major axis.
    q : scalar
    """

    center: jax.Array
    metric: tuple
    axis: jax.Array
    q: jax.Array


class Light(NamedTuple):
    """How bright a source is, and how far its light goes; made by `measure`.

    Attributes
    ----------
    reach : scalar
        R beyond which there is no light that matters.
    dark : scalar
        R from which on there is so little that a Gauss rule does not integrate a cell that reaches from the bright
        part of the source to here.
    peak : scalar
        Mean brightness over the ellipse of one cell's area about the centre.
    top : scalar
        Brightness next to the centre.
    decay : scalar
        κ where −log(brightness/top) grows like R^κ (1/n of a Sérsic profile); at most 1. 0 if the source is not steep.
    is_steep : bool scalar
        Brightness falls by much within the cells next to the centre.
    """

    reach: jax.Array
    dark: jax.Array
    peak: jax.Array
    top: jax.Array
    decay: jax.Array
    is_steep: jax.Array


def locate(params, transform):
    """The frame of a source that says where its centre is; with `q` and `PA` among its parameters its shape is known.

    Parameters
    ----------
    params : dict
    transform : transform

    Returns
    -------
    Frame
    """
    ci, cj = transform.plane_to_pixel(params["center"][0], params["center"][1])
    one, zero = jnp.ones_like(ci), jnp.zeros_like(ci)
    xi, yi = jax.jvp(transform.pixel_to_plane, (ci, cj), (one, zero))[1]
    xj, yj = jax.jvp(transform.pixel_to_plane, (ci, cj), (zero, one))[1]
    jacobian = xi * yj - xj * yi
    known = "q" in params and "PA" in params
    q = jnp.clip(params["q"], 1e-3, 1e3) if known else one
    sin, cos = (jnp.sin(params["PA"]), jnp.cos(params["PA"])) if known else (zero, one)
    ui, uj = xi * sin + yi * cos, xj * sin + yj * cos  # along the major axis, a pixel along i or j
    vi, vj = xi * cos - yi * sin, xj * cos - yj * sin
    scale, flat = 1 / jnp.abs(jacobian), 1 / q**2
    metric = tuple(
        scale * form for form in (ui * ui + flat * vi * vi, ui * uj + flat * vi * vj, uj * uj + flat * vj * vj)
    )
    axis = jnp.stack([sin * yj - cos * xj, cos * xi - sin * yi]) * (jnp.sign(jacobian) * jnp.sqrt(scale))
    return Frame(jnp.stack([ci, cj]), metric, axis, q)


def measure(frame, brightness, half):
    """What a source is like, from its brightness along the major axis.

    Parameters
    ----------
    frame : Frame
    brightness : array
        At `RADII` times ``frame.axis`` from the centre.
    half : (2,) array
        Half the cells' sides, pixels.

    Returns
    -------
    Light
    """
    light = jnp.abs(brightness)
    log_radius, log_light = jnp.asarray(np.log(RADII), light.dtype), _log(light)
    # of the ellipse as large as a cell: its semi-major axis, squared
    pixel2 = 4 * half[0] * half[1] / (jnp.pi * frame.q)
    inside = jnp.clip((jnp.log(pixel2) / 2 - log_radius) / _STEP + 0.5, 0, 1)
    radius2 = jnp.asarray(RADII**2, light.dtype)
    peak = (jnp.sum(inside * light * radius2) * (2 * _STEP) + light[0] * radius2[0]) / pixel2

    levels = [_log(peak) - fall for fall in (_BRIGHT, _DARK)] + [log_light[0] - fall for fall in _BRIGHT_FALL]
    bright, dark, inner, outer = _last_above(log_light, jnp.stack(levels))
    less, more = (jnp.clip(log_light[0] - jnp.min(log_light), 1e-3, fall) for fall in _BRIGHT_FALL)
    decay = jnp.log(jnp.maximum(more / less, 1 + 1e-5)) / jnp.maximum(outer - inner, 1e-6)  # of a sudden end, 1
    near = 1 - jnp.abs(jnp.log(_STEEP_DIAGONALS * _diagonal(frame.metric, half)) - log_radius) / _STEP
    fall = jnp.sum(jnp.maximum(near, 0) * (log_light[0] - log_light))
    steepness = jnp.clip(fall - _STEEP_FALL, 0, 1)
    return Light(
        _MARGIN * jnp.exp(bright), jnp.exp(dark), peak, light[0], steepness * jnp.clip(decay, 0, 1), steepness > 0
    )


def _log(light):
    return jnp.where(light > jnp.finfo(light.dtype).tiny, jnp.log(light), _NO_LIGHT)


def _last_above(log_light, levels):
    """Log R at which brightness falls below levels for good, interpolated: it moves smoothly with the parameters."""
    number = jnp.arange(RADII.size, dtype=jnp.int32)
    excess = log_light[None, :] - levels[:, None]
    last = jnp.max(jnp.where(excess > 0, number[None, :], 0), axis=1)
    distance = number[None, :] - last[:, None]
    above, below = (jnp.sum(jnp.where(distance == k, excess, 0), axis=1) for k in (0, 1))
    # where light ends suddenly, it may be just before the next radius
    part = jnp.clip(above / jnp.maximum(above - jnp.maximum(below, -_SUDDEN), _SMALLEST), 0, 1)
    return np.log(RADII[0]).item() + _STEP * (last.astype(part.dtype) + part)


def half_sum_squared(frame, i, j, half):
    """How fast Gauss's rule converges in a cell: half the sum of the distances from its ends to the cusp, squared.

    Along a line, brightness is analytic but at the (complex) points where R = 0. The m-point rule's error falls like
    ρ^(−2m), with (ρ + 1/ρ)/2 the half sum of that point's distances from the ends of [−1, 1].

    Parameters
    ----------
    frame : Frame
    i, j : arrays
        Cells' centres.
    half : (2,) array
        Half the cells' sides.

    Returns
    -------
    array
        1 where the cusp touches the cell (and no rule converges), large far away.
    """
    a, b, c = frame.metric
    u, v = i - frame.center[0], j - frame.center[1]
    determinant = a * c - b * b

    # all divisions at once: each would be a kernel to compile
    inverse_a, inverse_c, inverse_i, inverse_j = 1 / jnp.stack([a, c, half[0], half[1]])

    def over_lines(u, v, inverse, inverse_along, across):
        """Lines v = constant of a cell, the worst of them."""
        shear = b * inverse
        real = jnp.maximum(jnp.abs(u + shear * v) - jnp.abs(shear) * across, 0) * inverse_along
        imaginary2 = jnp.maximum(jnp.abs(v) - across, 0) ** 2 * (determinant * (inverse * inverse_along) ** 2)
        mean = real * real + imaginary2 + 1
        return (mean + jnp.sqrt(mean * mean - 4 * real * real)) / 2

    return jnp.minimum(over_lines(u, v, inverse_a, inverse_i, half[1]), over_lines(v, u, inverse_c, inverse_j, half[0]))


def edge_table(nodes, weights, block):
    """What `edge_nodes` has to know of its blocks: each is a part of one edge, counted from the lower one.

    Parameters
    ----------
    nodes, weights : (E,) arrays
        A rule on [−½, ½].
    block : int
        Nodes a block.

    Returns
    -------
    (4 + 4 block, 4 E / block) array
        An edge's start and direction (±1 or 0 along i, j), then nodes on [0, 1], weights, and 1 for the edge's first
        and for its last node.
    """
    start = np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]])
    step = np.array([[2, 0, -2, 0], [0, 2, 0, -2]])
    count = len(nodes) // block
    edges = np.repeat(np.concatenate([start, step]), count, axis=1)
    number = np.arange(len(nodes))
    rows = nodes + 0.5, weights, number == 0, number == len(nodes) - 1
    rules = np.concatenate([row.reshape(count, block).T for row in rows])
    return np.concatenate([edges, np.tile(rules, 4)])


def edge_nodes(frame, light, centers, half, block, radial):
    """Nodes and weights of an integral over cells, about a source's centre: part of one edge of each a call.

    For any f, F(r) = r ∫ s f(s r) ds has div F = f, so that a cell's integral is the sum over its edges of signed
    triangles (centre, edge), s from 0 to 1. s = w⁴ removes the cusp; l = d sinh(t), from the foot of the perpendicular
    in the frame where isophotes are circles, the near-singularity of an edge that passes close to the centre.

    Of a cell that is far from the centre compared with the source's reach, most of these triangles' light would cancel.
    There they go outwards, s from 1 to where R is that of the farthest corner (any R does, the same for all edges), and
    an edge is as long as there is light on it.

    Parameters
    ----------
    frame : Frame
    light : Light
    centers : (2, W) array
        Of the cells.
    half : (2,) array
        Half the cells' sides.
    block : (4 + 4 E, W) array
        Columns of the `edge_table`.
    radial : (2, N) array
        Nodes and weights on [0, 1], from the centre.

    Returns
    -------
    (3, E, N, W) array
        i, j and weights; these sum to the mean over the cell when all edges' are added up.
    """
    offset = centers - frame.center[:, None]
    corner, edge = offset + half[:, None] * block[:2], half[:, None] * block[2:4]
    outside, end = _exterior(frame, light, offset, half)
    part, weight = _along(frame.metric, light.reach, outside, corner, edge, block[4:])
    point = corner[:, None] + part[None] * edge[:, None]

    far = _radius(frame.metric, point)
    ends = jnp.stack([jnp.broadcast_to(jnp.where(outside, end, 0)[None, :], far.shape), far])
    w = jnp.sqrt(jnp.sqrt(jnp.minimum(ends, light.reach) / far[None]))  # no light beyond its reach
    range_ = (w[1] - w[0])[:, None]
    w = w[0][:, None] + range_ * radial[0][None, :, None]
    s = (w * w) ** 2
    # s ds = 4 w⁷ dw, and a cell is 4 half[0] half[1]
    weight = (weight / (half[0] * half[1]))[:, None] * range_ * (w * w) * (s * w) * radial[1][None, :, None]
    nodes = frame.center[:, None, None, None] + s[None] * point[:, :, None]
    return jnp.concatenate([nodes, weight[None]])


def _along(metric, reach, outside, corner, edge, rules):
    """Nodes along edges, parts of their length, and weights: the triangles' heights times the parts they stand for.

    Only the part where there is light is looked at. Triangles from the centre are full of light beyond it: there the
    last node stands for the angle that is left.
    """
    a, b, c = metric
    along, weight, is_first, is_last = jnp.split(rules, 4)
    normal = a * edge[0] + b * edge[1], b * edge[0] + c * edge[1]
    length2, before = (point[0] * normal[0] + point[1] * normal[1] for point in (edge, corner))
    cross = corner[0] * edge[1] - corner[1] * edge[0]  # twice the triangle's area, signed
    height = jnp.maximum(jnp.abs(cross) * jnp.sqrt(a * c - b * b), 1e-10)  # distance of the foot times length
    ends = jnp.stack([before, before + length2]) / height[None, :]  # sinh(t)
    bright = reach * jnp.sqrt(length2) / height
    bright = jnp.where(outside, jnp.sqrt(jnp.maximum(bright * bright - 1, 0)), jnp.maximum(bright, _FARTHEST))
    lit = jnp.clip(ends, -bright[None, :], bright[None, :])
    left = jnp.where(outside, 0, jnp.arctan(ends) - jnp.arctan(lit))
    first, last = _arcsinh(lit)
    growth = jnp.exp(first[None, :] + (last - first)[None, :] * along)
    sinh, cosh = (growth - 1 / growth) / 2, (growth + 1 / growth) / 2
    angle = (last - first)[None, :] * weight / cosh + is_last * left[1:] - is_first * left[:1]
    part = (height[None, :] * sinh - before[None, :]) / length2[None, :]
    return part, (cross * height / length2)[None, :] * (cosh * cosh) * angle


def _exterior(frame, light, offset, half):
    """Whether a cell is one whose triangles go outwards, and the R at which these end."""
    end = jnp.minimum(_farthest(frame.metric, offset, half), light.reach)
    return _nearest(frame.metric, offset, half) > _TIP * light.reach, end


def _farthest(metric, offset, half):
    """R of a cell's farthest corner."""
    (u, v), (hi, hj) = offset, half
    corners = [_squared(metric, (u + si * hi, v + sj * hj)) for si in (-1, 1) for sj in (-1, 1)]
    return jnp.sqrt(reduce(jnp.maximum, corners))


def _nearest(metric, offset, half):
    """R of a cell's nearest point."""
    (a, b, c), (u, v), (hi, hj) = metric, offset, half
    edge_u, edge_v = jnp.sign(u) * jnp.maximum(jnp.abs(u) - hi, 0), jnp.sign(v) * jnp.maximum(jnp.abs(v) - hj, 0)
    on_u = edge_u, jnp.clip(-b / c * edge_u, v - hj, v + hj)
    on_v = jnp.clip(-b / a * edge_v, u - hi, u + hi), edge_v
    return jnp.sqrt(jnp.minimum(_squared(metric, on_u), _squared(metric, on_v)))


def reaches_into_dark(frame, light, i, j, half):
    """Cells in which brightness falls by more than a Gauss rule can follow, those of thin or tiny sources.

    Parameters
    ----------
    frame : Frame
    light : Light
    i, j : arrays
        Cells' centres.
    half : (2,) array
        Half the cells' sides.

    Returns
    -------
    array
        From 1, if they do, to 0 and less if they almost do.
    """
    bright = light.reach / _MARGIN
    offset = i - frame.center[0], j - frame.center[1]

    def look():
        dark, lit = _farthest(frame.metric, offset, half) / light.dark, _nearest(frame.metric, offset, half) / bright
        return 1 + jnp.minimum(dark - 1, 1 - lit) / _ALMOST

    nowhere = (1 - 3 * _ALMOST) * light.dark - (1 + 3 * _ALMOST) * bright > _diagonal(frame.metric, half)
    return jax.lax.cond(nowhere, lambda: jnp.full(i.shape, -2, i.dtype), look)


def _diagonal(metric, half):
    """R between the ends of a cell's longer diagonal."""
    a, b, c = metric
    return 2 * jnp.sqrt(a * half[0] ** 2 + c * half[1] ** 2 + 2 * jnp.abs(b) * half[0] * half[1])


def _arcsinh(x):
    size = jnp.abs(x)
    return jnp.sign(x) * jnp.log(size + jnp.sqrt(size * size + 1))


def _radius(metric, point):
    return jnp.sqrt(_squared(metric, point))


def _squared(metric, point):
    (a, b, c), (u, v) = metric, point
    return jnp.maximum(a * u * u + 2 * b * u * v + c * v * v, _SMALLEST)
