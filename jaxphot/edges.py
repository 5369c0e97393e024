"""Quadrature about a source's centre: what a cell next to a cusp needs, and nodes along its edges.

Everything is in pixel coordinates relative to the centre, with a metric (a, b, c): R² = a u² + 2 b u v + c v² is constant
on an isophote.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_RADII = 0.01 * 4.0 ** np.arange(3)  # pixels; from these the cusp's exponent is measured
_EXTENT = 0.02 * 1.4 ** np.arange(36)  # pixels; from these, how far light reaches
_SMALLEST = 1e-30


class Source(NamedTuple):
    """Where a source is and what it is like there; it decides on nodes and carries no derivatives.

    Attributes
    ----------
    center : (i, j)
        Pixels.
    metric : (a, b, c)
        R² = a u² + 2 b u v + c v².
    exponent : scalar
        k: brightness is a smooth function of R^(1/k) at the centre (a Sérsic profile's n).
    reach : scalar
        R beyond which there is no light that matters.
    peak : scalar
        Mean brightness over the ellipse of one pixel's area about the centre.
    """

    center: tuple
    metric: tuple
    exponent: jax.Array
    reach: jax.Array
    peak: jax.Array


def find_source(brightness, params, transform, area):
    """Measure a source that says where its centre is; with `q` and `PA` among its parameters its shape is known too.

    Parameters
    ----------
    brightness : callable
        Of pixel coordinates.
    params : dict
    transform : transform
    area : scalar
        Of a cell, pixels.

    Returns
    -------
    Source
    """
    x, y = params["center"][0], params["center"][1]
    ci, cj = transform.plane_to_pixel(x, y)
    one, zero = jnp.ones_like(ci), jnp.zeros_like(ci)
    xi, yi = jax.jvp(transform.pixel_to_plane, (ci, cj), (one, zero))[1]
    xj, yj = jax.jvp(transform.pixel_to_plane, (ci, cj), (zero, one))[1]
    jacobian = xi * yj - xj * yi
    known = "q" in params and "PA" in params
    q = jnp.clip(params["q"], 1e-3, 1e3) if known else one
    sin, cos = (jnp.sin(params["PA"]), jnp.cos(params["PA"])) if known else (zero, one)
    ui, uj = xi * sin + yi * cos, xj * sin + yj * cos  # along the major axis, a pixel along i or j
    vi, vj = (xi * cos - yi * sin) / q, (xj * cos - yj * sin) / q
    metric = ui * ui + vi * vi, ui * uj + vi * vj, uj * uj + vj * vj
    along = (sin * yj - cos * xj) / jacobian, (cos * xi - sin * yi) / jacobian  # pixels an arcsec of the major axis

    scale = jnp.sqrt(jnp.abs(jacobian))  # arcsec a pixel
    radius = jnp.asarray(np.concatenate([_RADII, _EXTENT]), ci.dtype)
    light = jnp.abs(brightness(ci + radius * (scale * along[0]), cj + radius * (scale * along[1])))
    exponent = _exponent(light[: _RADII.size])
    radius, light = radius[_RADII.size :], light[_RADII.size :]
    pixel = jnp.sqrt(area / (jnp.pi * q))  # semi-major axis of the ellipse as large as a cell
    inside = jnp.where(radius < pixel, light * radius**2, 0)
    peak = (jnp.sum(inside) * (2 * np.log(1.4).item()) + light[0] * radius[0] ** 2) / pixel**2
    bright = light * jnp.minimum(radius / pixel, 1) ** 2  # what a cell that reaches so far can get of it
    reach = 1.4 * jnp.max(jnp.where(light > 1e-7 * jnp.max(bright), radius, radius[0]))
    return Source((ci, cj), metric, exponent, reach * scale, peak)


def _exponent(light):
    """K of f = f₀ exp(−c R^(1/k)) from three radii, each 4 times the last; 1 where it is flat, else within [1, 10]."""
    log = jnp.log(jnp.maximum(light, jnp.finfo(light.dtype).tiny))
    inner, outer = log[0] - log[1], log[1] - log[2]
    steep = (inner > 1e-5) & (outer > inner)
    ratio = jnp.where(steep, outer / jnp.where(steep, inner, 1), 1)
    exponent = np.log(4).item() / jnp.log(jnp.maximum(ratio, 1.01))
    return jnp.where(steep, jnp.clip(exponent, 1, 10), jnp.where(inner > 1e-5, 4, 1).astype(light.dtype))


def ellipse_of_analyticity(source, i, j, half):
    """How fast Gauss's rule converges in a cell: the smaller half sum of distances from its ends to the cusp.

    Along a line, brightness is analytic but at the (complex) points where R = 0. The m-point rule's error falls like
    ρ^(−2m), with (ρ + 1/ρ)/2 the half sum of that point's distances from the ends of [−1, 1].

    Parameters
    ----------
    source : Source
    i, j : arrays
        Cells' centres.
    half : (hi, hj)
        Half the cells' sides.

    Returns
    -------
    array
        1 where the cusp touches the cell (and no rule converges), large far away.
    """
    a, b, c = source.metric
    root = jnp.sqrt(a * c - b * b)
    u, v = i - source.center[0], j - source.center[1]
    return jnp.minimum(
        _half_sum(u, v, b / a, root / a, half[0], half[1]), _half_sum(v, u, b / c, root / c, half[1], half[0])
    )


def _half_sum(u, v, shear, flattening, along, across):
    """Over the lines v = constant of a cell, at worst."""
    real = jnp.maximum(jnp.abs(u + shear * v) - jnp.abs(shear) * across, 0) / along
    imaginary = flattening * jnp.maximum(jnp.abs(v) - across, 0) / along
    return (jnp.hypot(real - 1, imaginary) + jnp.hypot(real + 1, imaginary)) / 2


def edge_table(nodes, weights, block):
    """What `edge_nodes` has to know of its blocks: each is a part of one edge, counted against the clock from the lower.

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


def edge_nodes(source, i, j, half, block, radial, radial_weight):
    """Nodes and weights of an integral over a cell, about a centre: part of one edge a call.

    For any f, F(r) = r ∫ s f(s r) ds has div F = f, so that a cell's integral is the sum over its edges of signed
    triangles (centre, edge). The triangles' tips, nearer than all of the cell, cancel and are left out: else they would
    dominate the error of faint cells. s = w^k removes the cusp; l = d sinh(t), from the foot of the perpendicular in the
    frame where isophotes are circles, the near-singularity of an edge that passes close to the centre.

    Parameters
    ----------
    source : Source
    i, j : (W,) arrays
        Cells' centres.
    half : (hi, hj)
        Half the cells' sides.
    block : (4 + 2 E, W) array
        Columns of the `edge_table`.
    radial, radial_weight : (N,) arrays
        Gauss's rule on [0, 1], from the centre.

    Returns
    -------
    i, j, weight : (W, E, N) arrays
        Weights sum to the mean over the cell when all edges' are added up.
    """
    a, b, c = source.metric
    k = source.exponent
    u, v = i - source.center[0], j - source.center[1]
    outside_u, outside_v = (jnp.maximum(jnp.abs(x) - h, 0) for x, h in ((u, half[0]), (v, half[1])))
    start = _radius(source.metric, jnp.sign(u) * outside_u, jnp.sign(v) * outside_v)  # at the nearest point

    u, v = u + half[0] * block[0], v + half[1] * block[1]
    du, dv = half[0] * block[2], half[1] * block[3]
    along, along_weight = jnp.split(block[4:].T, 2, axis=1)
    length2 = a * du * du + 2 * b * du * dv + c * dv * dv
    foot = -(du * (a * u + b * v) + dv * (b * u + c * v)) / length2
    cross = u * dv - v * du  # twice the triangle's area, signed
    distance = jnp.maximum(jnp.abs(cross) * jnp.sqrt(a * c - b * b) / length2, 1e-7)  # in units of the edge's length
    t0, t1 = _arcsinh(-foot / distance), _arcsinh((1 - foot) / distance)
    growth = jnp.exp(t0[:, None] + (t1 - t0)[:, None] * along)
    part = foot[:, None] + distance[:, None] * (growth - 1 / growth) / 2
    slope = distance[:, None] * (growth + 1 / growth) / 2  # of `part` in t
    weight = (cross * (t1 - t0) / (4 * half[0] * half[1]))[:, None] * slope * along_weight
    u, v = u[:, None] + part * du[:, None], v[:, None] + part * dv[:, None]

    far = _radius(source.metric, u, v)
    # no light beyond its reach: spend the nodes inside
    log_first, log_last = (jnp.log(jnp.minimum(r, source.reach) / far) for r in (start[:, None], far))
    w0, w1 = jnp.exp(log_first / k), jnp.exp(log_last / k)
    w = w0[:, :, None] + (w1 - w0)[:, :, None] * radial[None, None, :]
    s = jnp.exp(k * jnp.log(w))
    weight = (weight * (w1 - w0) * k)[:, :, None] * (s * s / w) * radial_weight[None, None, :]
    return source.center[0] + s * u[:, :, None], source.center[1] + s * v[:, :, None], weight


def _arcsinh(x):
    size = jnp.abs(x)
    return jnp.sign(x) * jnp.log(size + jnp.sqrt(size * size + 1))


def _radius(metric, u, v):
    a, b, c = metric
    return jnp.sqrt(jnp.maximum(a * u * u + 2 * b * u * v + c * v * v, _SMALLEST))
