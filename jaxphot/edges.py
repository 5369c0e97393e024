"""Quadrature about a source's centre: what a cell next to a cusp needs, and nodes along its edges.

Everything is in pixel coordinates relative to the centre, with a metric (a, b, c): R² = a u² + 2 b u v + c v² is
constant on an isophote.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import safe_log

_CUSP_RADII = 0.01 * 4.0 ** np.arange(3)  # pixels; from these the cusp's exponent is measured
_GROWTH = 1.4
_LIGHT_RADII = 0.02 * _GROWTH ** np.arange(36)  # pixels; from these, how far light reaches
_SMALLEST = 1e-30
_TIP = 0.05  # of a source's reach: cells farther out leave out the tips of triangles

RADII = np.concatenate([_CUSP_RADII, _LIGHT_RADII])
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
    """What a source is like next to its centre and far from it; made by `measure`.

    Attributes
    ----------
    exponent : scalar
        k: brightness is a smooth function of R^(1/k) at the centre (a Sérsic profile's n).
    reach : scalar
        R beyond which there is no light that matters.
    peak : scalar
        Mean brightness over the ellipse of one cell's area about the centre.
    """

    exponent: jax.Array
    reach: jax.Array
    peak: jax.Array


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


def measure(frame, brightness, area):
    """What a source is like, from its brightness along the major axis.

    Parameters
    ----------
    frame : Frame
    brightness : array
        At `RADII` times ``frame.axis`` from the centre.
    area : scalar
        Of a cell, pixels.

    Returns
    -------
    Light
    """
    light = jnp.abs(brightness)
    log = jnp.log(jnp.maximum(light[: _CUSP_RADII.size], jnp.finfo(light.dtype).tiny))
    radius, light = jnp.asarray(_LIGHT_RADII, light.dtype), light[_CUSP_RADII.size :]
    pixel2 = area / (jnp.pi * frame.q)  # of the ellipse as large as a cell: its semi-major axis, squared
    inside = jnp.where(radius**2 < pixel2, light * radius**2, 0)
    peak = (jnp.sum(inside) * (2 * np.log(_GROWTH).item()) + light[0] * radius[0] ** 2) / pixel2
    reach = _GROWTH * jnp.max(jnp.where(light > 1e-7 * peak, radius, radius[0]))
    return Light(_exponent(log[0] - log[1], log[1] - log[2]), reach, peak)


def _exponent(inner, outer):
    """The k of f = f₀ exp(−c R^(1/k)), from log f at radii each 4 times the last; 1 where f is flat, at most 10."""
    visible = inner > 1e-5
    steepening = visible & (outer > inner)
    ratio = jnp.where(steepening, outer / jnp.where(visible, inner, 1), 4)
    exponent = jnp.clip(np.log(4).item() / jnp.log(jnp.maximum(ratio, 1.01)), 1, 10)
    return jnp.where(visible & ~steepening, 4, exponent)


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
    (4 + 2 block, 4 E / block) array
        An edge's start and direction (±1 or 0 along i, j), then nodes on [0, 1] and weights.
    """
    start = np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]])
    step = np.array([[2, 0, -2, 0], [0, 2, 0, -2]])
    count = len(nodes) // block
    edges = np.repeat(np.concatenate([start, step]), count, axis=1)
    rules = np.concatenate([(nodes + 0.5).reshape(count, block).T, weights.reshape(count, block).T])
    return np.concatenate([edges, np.tile(rules, 4)])


def edge_nodes(frame, light, centers, half, block, radial):
    """Nodes and weights of an integral over cells, about a source's centre: part of one edge of each a call.

    For any f, F(r) = r ∫ s f(s r) ds has div F = f, so that a cell's integral is the sum over its edges of signed
    triangles (centre, edge). s = w^k removes the cusp; l = d sinh(t), from the foot of the perpendicular in the frame
    where isophotes are circles, the near-singularity of an edge that passes close to the centre. The triangles' tips,
    nearer than all of the cell, cancel. Where they hold much of the light they are left out: else they would dominate
    the error of faint cells.

    Parameters
    ----------
    frame : Frame
    light : Light
    centers : (2, W) array
        Of the cells.
    half : (2,) array
        Half the cells' sides.
    block : (4 + 2 E, W) array
        Columns of the `edge_table`.
    radial : (2, N) array
        Nodes and weights on [0, 1], from the centre.

    Returns
    -------
    (3, E, N, W) array
        i, j and weights; these sum to the mean over the cell when all edges' are added up.
    """
    a, b, c = frame.metric
    offset = centers - frame.center[:, None]
    nearest = jnp.sign(offset) * jnp.maximum(jnp.abs(offset) - half[:, None], 0)
    corner, edge = offset + half[:, None] * block[:2], half[:, None] * block[2:4]
    along, along_weight = jnp.split(block[4:], 2)

    normal = a * edge[0] + b * edge[1], b * edge[0] + c * edge[1]
    length2, before = (point[0] * normal[0] + point[1] * normal[1] for point in (edge, corner))
    cross = corner[0] * edge[1] - corner[1] * edge[0]  # twice the triangle's area, signed
    height = jnp.maximum(jnp.abs(cross) * jnp.sqrt(a * c - b * b), 1e-10)  # distance of the foot times length
    first, last = _arcsinh(jnp.stack([before, before + length2]) / height[None, :])
    growth = jnp.exp(first[None, :] + (last - first)[None, :] * along)
    shrink = 1 / growth
    part = ((0.5 * height)[None, :] * (growth - shrink) - before[None, :]) / length2[None, :]
    weight = cross * (last - first) * height / (length2 * (8 * half[0] * half[1]))
    weight = weight[None, :] * (growth + shrink) * along_weight
    point = corner[:, None] + part[None] * edge[:, None]

    far = _radius(frame.metric, point)
    start = _radius(frame.metric, nearest)
    start = jnp.where(start > _TIP * light.reach, start, 0)[None, :]
    ends = jnp.stack([jnp.broadcast_to(start, far.shape), far])
    w = jnp.exp(jnp.log(jnp.minimum(ends, light.reach) / far[None]) / light.exponent)  # no light beyond its reach
    range_ = (w[1] - w[0])[:, None]
    w = w[0][:, None] + range_ * radial[0][None, :, None]
    s = jnp.exp(light.exponent * safe_log(w))
    weight = (light.exponent * weight)[:, None] * range_ * (s * s / w) * radial[1][None, :, None]
    nodes = frame.center[:, None, None, None] + s[None] * point[:, :, None]
    return jnp.concatenate([nodes, weight[None]])


def _arcsinh(x):
    size = jnp.abs(x)
    return jnp.sign(x) * jnp.log(size + jnp.sqrt(size * size + 1))


def _radius(metric, point):
    (a, b, c), (u, v) = metric, point
    return jnp.sqrt(jnp.maximum(a * u * u + 2 * b * u * v + c * v * v, _SMALLEST))
