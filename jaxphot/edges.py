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
    inside = light * radius**2 * (radius < pixel)
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


def edge_nodes(source, i, j, half, edge, along, along_weight, radial, radial_weight):
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
    edge : (W,) int array
        0 … 3: lower, right, upper, left.
    along, along_weight : (W, E) arrays
        Gauss nodes on [0, 1] along the edge, and weights.
    radial, radial_weight : (N,) arrays
        The same from the centre.

    Returns
    -------
    i, j, weight : (W, E, N) arrays
        Weights sum to the mean over the cell when all edges' are added up.
    """
    a, b, c = source.metric
    root = jnp.sqrt(a * c - b * b)
    u, v = i - source.center[0], j - source.center[1]
    corners_u = u[:, None] + half[0] * jnp.asarray([-1, 1, 1, -1], u.dtype)[None, :]
    corners_v = v[:, None] + half[1] * jnp.asarray([-1, -1, 1, 1], u.dtype)[None, :]
    du, dv = jnp.roll(corners_u, -1, 1) - corners_u, jnp.roll(corners_v, -1, 1) - corners_v
    length2 = a * du * du + 2 * b * du * dv + c * dv * dv
    foot = -(du * (a * corners_u + b * corners_v) + dv * (b * corners_u + c * corners_v)) / length2
    nearest = jnp.clip(foot, 0, 1)
    inside = (jnp.abs(u) <= half[0]) & (jnp.abs(v) <= half[1])
    start = jnp.min(_radius(source.metric, corners_u + nearest * du, corners_v + nearest * dv), axis=1)
    start = jnp.where(inside, 0, start)[:, None]

    mine = edge[:, None]
    u0, v0, du, dv, length2, foot = (
        jnp.take_along_axis(array, mine, 1) for array in (corners_u, corners_v, du, dv, length2, foot)
    )
    cross = u0 * dv - v0 * du
    distance = jnp.maximum(jnp.abs(cross) * root / length2, 1e-7)
    t0, t1 = jnp.arcsinh(-foot / distance), jnp.arcsinh((1 - foot) / distance)
    t = t0 + (t1 - t0) * along
    part = foot + distance * jnp.sinh(t)
    weight = cross * distance * jnp.cosh(t) * (t1 - t0) * along_weight / (4 * half[0] * half[1])
    u, v = u0 + part * du, v0 + part * dv

    k = source.exponent
    far = jnp.maximum(_radius(source.metric, u, v), _SMALLEST)
    last = jnp.minimum(1, source.reach / far)  # no light beyond: spend the nodes inside
    w0, w1 = jnp.minimum(start / far, last) ** (1 / k), last ** (1 / k)
    w = w0[:, :, None] + (w1 - w0)[:, :, None] * radial[None, None, :]
    s = w**k
    weight = (weight * (w1 - w0))[:, :, None] * (k * s * s / jnp.maximum(w, _SMALLEST)) * radial_weight[None, None, :]
    return source.center[0] + s * u[:, :, None], source.center[1] + s * v[:, :, None], weight


def _radius(metric, u, v):
    a, b, c = metric
    return jnp.sqrt(jnp.maximum(a * u * u + 2 * b * u * v + c * v * v, 0))
