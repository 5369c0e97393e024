"""Where a source is, how its light falls, and what that means for cells: how near they are to its cusp and its end.

Everything is in pixel coordinates relative to the centre, with a metric (a, b, c): R² = a u² + 2 b u v + c v² is
constant on an isophote.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import for_any, smoothstep

_GROWTH = 1.47
_STEP = np.log(_GROWTH).item()
_SMALLEST = 1e-30
_BRIGHT, _DARK = (18.4, 36.0), 39.1  # powers of e below the peak; at least and at most, by the tolerance
_BRIGHT_FALL = (4.0, 12.0)  # between which the decay is measured
_GENTLE_FALL = (7.0, 9.0)  # up to which few nodes from the centre are enough: if it is like R or R², and like √R;
_CUSP_RADII, _CUSP_FALL = 6, 1.0  # less by twice the fall within the first radii that is more than this;
_CORE_FALL = 2.0  # and this where it is flat within, and falls like a power outside:
_CORE = (0.3, 0.7)  # from how much on, and how much at most, −log falls less like a power there than within
_NO_LIGHT, _SUDDEN = -1e3, 6.0  # log of the brightness where there is none, and the fall taken for a sudden end
_RISE = 0.1  # of the log of the brightness from one radius to the next
_BREAK = (2.5, 0.5)  # its fall is sudden if this many times the one before, and this much more
_MARGIN = 1.15  # from where light ceases to matter to the reach
_ALMOST = 0.02  # part of the radii before which cells that reach into the dark begin to be integrated along edges
_HARD = 1.3  # the square of so many gentle radii is where brightness has fallen by much
_LEAST_PEAK = 0.78  # times √q: part of the light about the centre that the brightest of four cells has
_STEEP_DIAGONALS, _STEEP_FALL = 1.5, 3.5  # so many cells' diagonals from the centre brightness has fallen so much

FLOOR = 1e-4
"""Accuracy is relative to the larger of the cell and this part of the brightest one."""

RADII = 0.02 * _GROWTH ** np.arange(32)  # no more: XLA sums larger vectors in two steps
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
    is_plain : bool
        That shape is known, and no parameter but the centre has several values (as those of rays and splines have).
    """

    center: jax.Array
    metric: tuple
    axis: jax.Array
    q: jax.Array
    is_plain: bool


class Light(NamedTuple):
    """How bright a source is, and how far its light goes; made by `measure`.

    Attributes
    ----------
    reach : scalar
        R beyond which there is no light that matters.
    dark : scalar
        R from which on there is so little that a Gauss rule does not integrate a cell that reaches from the bright
        part of the source to here.
    gentle : scalar
        R up to which brightness falls by little.
    peak : scalar
        Mean brightness over the ellipse of one cell's area about the centre.
    top : scalar
        Brightness next to the centre.
    decay : scalar
        κ where −log(brightness/top) grows like R^κ (1/n of a Sérsic profile); at most 1. 0 if the source is not steep.
    uneven : scalar
        0 where brightness falls outwards everywhere and never breaks off, 1 where it does not, or may not.
    is_steep : bool scalar
        Brightness falls by much within the cells next to the centre.
    """

    reach: jax.Array
    dark: jax.Array
    gentle: jax.Array
    peak: jax.Array
    top: jax.Array
    decay: jax.Array
    uneven: jax.Array
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
    others = jax.tree.leaves({key: value for key, value in params.items() if key != "center"})
    return Frame(jnp.stack([ci, cj]), metric, axis, q, known and not any(np.ndim(value) for value in others))


def measure(frame, brightness, half, tol):
    """What a source is like, from its brightness along the major axis.

    Parameters
    ----------
    frame : Frame
    brightness : array
        At `RADII` times ``frame.axis`` from the centre.
    half : (2,) array
        Half the cells' sides, pixels.
    tol : float
        Accuracy wanted, relative to `FLOOR` of the brightest cell: what is less is beyond the reach.

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
    near = 1 - jnp.abs(jnp.log(_STEEP_DIAGONALS * _diagonal(frame.metric, half)) - log_radius) / _STEP
    within, fall = jnp.sum(
        jnp.stack([inside * light * radius2, jnp.maximum(near, 0) * (log_light[0] - log_light)]), axis=1
    )
    peak = (within * (2 * _STEP) + light[0] * radius2[0]) / pixel2

    levels = [_log(peak) - fall for fall in (np.clip(-np.log(FLOOR * tol), *_BRIGHT).item(), _DARK)]
    cusp = jnp.maximum(log_light[0] - log_light[_CUSP_RADII] - _CUSP_FALL, 0)
    falls = *(fall - 2 * cusp for fall in _GENTLE_FALL), _CORE_FALL, *_BRIGHT_FALL
    levels += [log_light[0] - fall for fall in falls]
    bright, dark, gentle, gentler, core, inner, outer = _last_above(log_light, jnp.stack(levels))
    less, more = (jnp.clip(log_light[0] - jnp.min(log_light), 1e-3, fall) for fall in _BRIGHT_FALL)
    decay = jnp.log(jnp.maximum(more / less, 1 + 1e-5)) / jnp.maximum(outer - inner, 1e-6)  # of a sudden end, 1
    gentle += (gentler - gentle) * jnp.clip(2 * (1 - decay), 0, 1)
    flatter = (_inner_power(log_light) - decay - _CORE[0]) / (_CORE[1] - _CORE[0])
    gentle += jnp.minimum(core - gentle, 0) * jnp.clip(flatter, 0, 1)
    steepness = jnp.clip(fall - _STEEP_FALL, 0, 1)
    reach, dark, gentle = jnp.exp(jnp.stack([bright + np.log(_MARGIN).item(), dark, gentle]))
    uneven = _unevenness(log_light, levels[0]) if frame.is_plain else 1 + 0 * peak
    return Light(reach, dark, gentle, peak, light[0], steepness * jnp.clip(decay, 0, 1), uneven, steepness > 0)


def _inner_power(log_light):
    """κ where −log of the brightness grows like R^κ within the first radii (1/n of a Sérsic profile), from 0 to 2."""
    half = _CUSP_RADII // 2
    first, second = log_light[0] - log_light[half], log_light[half] - log_light[_CUSP_RADII]
    ratio = jnp.clip(second, 1e-9, 1e9) / jnp.clip(first, 1e-9, 1e9)
    return jnp.clip(jnp.log(ratio) / (half * _STEP), 0, 2)


def _unevenness(log_light, level):
    """`Light.uneven`; what breaks off below a level does not matter."""
    falls = log_light[:-1] - log_light[1:]
    times, more = _BREAK
    sudden = jnp.where(log_light[1:-1] > level, falls[1:] - times * falls[:-1] - more, 0)
    return jnp.clip(jnp.max(jnp.concatenate([-falls / _RISE, sudden])), 0, 1)


def _log(light):
    return jnp.where(light > jnp.finfo(light.dtype).tiny, jnp.log(light), _NO_LIGHT)


def _last_above(log_light, levels):
    """Log R at which brightness falls below levels for good, interpolated: it moves smoothly with the parameters."""
    number = np.arange(RADII.size, dtype=np.int32)
    last = jnp.max(jnp.where(log_light[None, :] > levels[:, None], number[None, :], 0), axis=1)
    near = jnp.minimum(last[None, :] + np.arange(2, dtype=np.int32)[:, None], number[-1])
    above, below = log_light[near] - levels[None, :]
    # where light ends suddenly, it may be just before the next radius
    part = jnp.clip(above / jnp.maximum(above - jnp.maximum(below, -_SUDDEN), _SMALLEST), 0, 1)
    return np.log(RADII[0]).item() + _STEP * (last.astype(part.dtype) + part)


def half_sum_squared(frame, i, j, half):
    """How fast Gauss's rule converges in a cell: half the sum of the distances from its ends to the cusp, squared.

    Along a line, brightness is analytic but at the (complex) points where R = 0. The p-point rule's error falls like
    ρ^(−2p), with (ρ + 1/ρ)/2 the half sum of that point's distances from the ends of [−1, 1].

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
    u, v = _offset(frame, i, j)
    determinant = a * c - b * b

    # all divisions at once: each would be a kernel to compile
    inverse_a, inverse_c, inverse_i, inverse_j = 1 / jnp.stack([a, c, half[0], half[1]])
    upright = determinant * inverse_a * inverse_c

    def over_lines(u, v, inverse, inverse_along, across):
        """Lines v = constant of a cell: no less than at the least real and imaginary part of any, or for all v."""
        shear = b * inverse
        real = jnp.maximum(jnp.abs(u + shear * v) - jnp.abs(shear) * across, 0) * inverse_along
        imaginary2 = jnp.maximum(jnp.abs(v) - across, 0) ** 2 * (determinant * (inverse * inverse_along) ** 2)
        mean = real * real + imaginary2 + 1
        of_cell = (mean + jnp.sqrt(mean * mean - 4 * real * real)) / 2
        # points where R = 0 lie on a straight line in (real, imaginary): the ellipse about −1 and 1 that it touches
        return jnp.maximum(of_cell, 1 + upright * ((u * inverse_along) ** 2 - 1))

    return jnp.minimum(over_lines(u, v, inverse_a, inverse_i, half[1]), over_lines(v, u, inverse_c, inverse_j, half[0]))


def is_near(frame, i, j, half, run, half_sum):
    """Where `half_sum_squared` may be less than the square of a half sum in any of a run of cells.

    Parameters
    ----------
    frame : Frame
    i, j : arrays
        Runs' centres.
    half : (2,) array
        Half the cells' sides.
    run : scalar
        Half the distance, along i, of a run's first and last centre.
    half_sum : scalar

    Returns
    -------
    bool array
    """
    a, b, c = frame.metric
    u, v = _offset(frame, i, j)
    long2, wide2 = 1 / half_sum**2, (a * c - b * b) / (half_sum**2 - 1)

    def over_lines(u, v, a, along, across, run_along, run_across):
        """As there, times a: it is less within an ellipse about the cusp."""
        real = jnp.maximum(jnp.abs(a * u + b * v) - jnp.abs(b) * (across + run_across) - a * run_along, 0)
        imaginary = jnp.maximum(jnp.abs(v) - across - run_across, 0)
        return real * real * long2 + imaginary * imaginary * wide2 < (a * along) ** 2

    return over_lines(u, v, a, half[0], half[1], run, 0) | over_lines(v, u, c, half[1], half[0], 0, run)


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
        From 1, if they do, to 0; between them if they almost do.
    """
    bright = light.reach / _MARGIN
    offset = _offset(frame, i, j)

    def look():
        dark, lit = farthest(frame.metric, offset, half) / light.dark, nearest(frame.metric, offset, half) / bright
        return jnp.clip(1 + jnp.minimum(dark - 1, 1 - lit) / _ALMOST, 0, 1)

    nowhere = (1 - _ALMOST) * light.dark - (1 + _ALMOST) * bright > _diagonal(frame.metric, half)
    return jax.lax.cond(for_any(~nowhere), look, lambda: jnp.zeros_like(i))


def may_reach_into_dark(frame, light, i, j, half, run):
    """Where `reaches_into_dark` may be more than 0 in any of a run of cells (as in `is_near`), by R at its centre."""
    radius2 = _squared(frame.metric, _offset(frame, i, j))
    reach = _diagonal(frame.metric, half) / 2 + run * jnp.sqrt(frame.metric[0])
    dark = jnp.maximum((1 - _ALMOST) * light.dark - reach, 0)
    return (radius2 > dark * dark) & (radius2 < ((1 + _ALMOST) * light.reach / _MARGIN + reach) ** 2)


def is_at_corner(frame, i, j, half):
    """Cells with the centre on a corner, but for rounding."""
    small = 2 * jnp.finfo(half.dtype).eps
    distances = (jnp.abs(jnp.abs(x) - side) for x, side in zip(_offset(frame, i, j), half, strict=True))
    return reduce(jnp.maximum, distances) <= small * jnp.max(jnp.abs(frame.center))


def least_peak(frame, light, start, step, shape):
    """What the brightest cell has at least: a fourth of the light about the centre, if that lies on a corner.

    Of a thin source with an axis along the cells' borders it is less, of Sérsic profiles no less than this. A centre
    outside of all cells tells nothing.

    Parameters
    ----------
    frame : Frame
    light : Light
    start : (2,) array
        The first cell's centre.
    step : float
    shape : (ny, nx)

    Returns
    -------
    scalar
    """
    ny, nx = shape
    column, line = (frame.center - start) / step
    margin = jnp.minimum(jnp.minimum(column, nx - 1 - column), jnp.minimum(line, ny - 1 - line))
    q = jnp.minimum(frame.q, 1 / frame.q)
    return light.peak * jnp.clip(margin + 0.5, 0, 1) * jnp.minimum(_LEAST_PEAK * jnp.sqrt(q), 0.25)


def hardness(frame, light, i, j, half):
    """From 0 where brightness falls by little between the centre and cells' farthest corners to 1 where by much."""
    part = _farthest_squared(frame.metric, _offset(frame, i, j), half) / light.gentle**2
    return smoothstep((part - 1) / (_HARD - 1))


def _offset(frame, i, j):
    """(u, v) of points from the centre."""
    return i - frame.center[0], j - frame.center[1]


def _diagonal(metric, half):
    """R between the ends of a cell's longer diagonal."""
    a, b, c = metric
    return 2 * jnp.sqrt(a * half[0] ** 2 + c * half[1] ** 2 + 2 * jnp.abs(b) * half[0] * half[1])


def farthest(metric, offset, half):
    """R of cells' farthest corners, from the offset (u, v) of their centres."""
    return jnp.sqrt(_farthest_squared(metric, offset, half))


def _farthest_squared(metric, offset, half):
    (u, v), (hi, hj) = offset, half
    corners = [_squared(metric, (u + si * hi, v + sj * hj)) for si in (-1, 1) for sj in (-1, 1)]
    return reduce(jnp.maximum, corners)


def nearest(metric, offset, half):
    """R of their nearest points."""
    (a, b, c), (u, v), (hi, hj) = metric, offset, half
    edge_u, edge_v = jnp.sign(u) * jnp.maximum(jnp.abs(u) - hi, 0), jnp.sign(v) * jnp.maximum(jnp.abs(v) - hj, 0)
    on_u = edge_u, jnp.clip(-b / c * edge_u, v - hj, v + hj)
    on_v = jnp.clip(-b / a * edge_v, u - hi, u + hi), edge_v
    return jnp.sqrt(jnp.minimum(_squared(metric, on_u), _squared(metric, on_v)))


def radius(metric, point):
    """R of points (u, v)."""
    return jnp.sqrt(_squared(metric, point))


def _squared(metric, point):
    (a, b, c), (u, v) = metric, point
    return jnp.maximum(a * u * u + 2 * b * u * v + c * v * v, _SMALLEST)
