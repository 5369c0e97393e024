"""Medians and moments of pixels: what a source or a PSF looks like at first sight. NumPy."""

import math

import numpy as np

_STRIDE = 1.8  # of the steps of the adaptive moments


def smoothed(array):
    """Convolution with the binomial kernel (1, 4, 6, 4, 1)/16 along both axes; zero beyond the frame."""
    return _blurred(_blurred(array).T).T


def _blurred(array):
    """`smoothed` along the first axis."""
    blurred = array * 0.375
    for weight, step in ((0.25, 1), (0.0625, 2)):
        blurred[step:] += weight * array[:-step]
        blurred[:-step] += weight * array[step:]
    return blurred


def median(values):
    """Median of finite values; several times as quick as NumPy's where they are few."""
    values = np.ravel(values)
    half = len(values) // 2
    if len(values) % 2:
        return np.partition(values, half)[half]
    low, high = np.partition(values, (half - 1, half))[half - 1 : half + 1] if half else (np.nan, np.nan)
    return (low + high) / 2


def clipped_median(values):
    """Median after leaving out, at most five times, what is more than 3σ from it."""
    for _ in range(5):
        middle = median(values)
        spread = 1.4826 * median(np.abs(values - middle))
        kept = values[np.abs(values - middle) <= 3 * spread]
        if len(kept) in (0, len(values)):
            break
        values = kept
    return float(median(values))


def elliptical_radius(dx, dy, q, angle):
    """As `metrics.ellipse`, in NumPy."""
    major = dx * np.sin(angle) + dy * np.cos(angle)
    minor = (dx * np.cos(angle) - dy * np.sin(angle)) / q
    return np.sqrt(major * major + minor * minor)  # (np.hypot takes five times as long)


def shape_of_moments(moments):
    """Axis ratio and position angle (East of North, [0, π)) of second moments in the plane."""
    (xx, xy), (_, yy) = moments
    least, most = extent_of_moments(moments)
    q = np.sqrt(max(least, 1e-6 * most) / most)
    return float(q), float(np.arctan2(2 * xy, yy - xx) / 2 % np.pi)


def extent_of_moments(moments):
    """Second moments along the minor and the major axis."""
    (xx, xy), (_, yy) = moments
    middle, length = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    return middle - length, middle + length


def adaptive_moments(light, good, i0, j0, keep_center):
    """Centre and second moments (pixels²) under an elliptical Gaussian weight matched to the source.

    The iteration of Bernstein & Jarvis 2002 (AJ 123, 583): the weight's moments are twice the weighted ones at the
    fixed point. It stops growing at a quarter of the frame. For a Gaussian each of their steps goes half of the way,
    for a Sérsic profile less: ours are `_STRIDE` times as long.

    Parameters
    ----------
    light, good : (ny, nx) arrays
    i0, j0 : float
        Where to start, or the centre.
    keep_center : bool
    """
    largest = (min(light.shape) / 4) ** 2
    light = np.where(good, light, 0.0)
    rows, columns = (np.arange(side, dtype=float) for side in light.shape)
    i0, j0 = float(i0), float(j0)  # Python's own numbers: NumPy takes ten times as long for one
    a, b, c = 4.0, 0.0, 4.0  # second moments ii, ij, jj
    for _ in range(60):
        near_j, near_i = _reach(j0, c, len(rows)), _reach(i0, a, len(columns))
        di, dj = columns[near_i] - i0, rows[near_j] - j0
        scale = -0.5 / (a * c - b * b)
        di2, dj2 = di * di, dj * dj
        weighted = np.multiply.outer(-2 * scale * b * dj, di)
        weighted += scale * c * di2
        weighted += (scale * a * dj2)[:, None]
        np.exp(weighted, out=weighted)
        weighted *= light[near_j, near_i]
        along, across = weighted.sum(0), weighted.sum(1)
        total = float(along.sum())
        if not total > 0:
            break
        found = (float(along @ di2), float(dj @ weighted @ di), float(across @ dj2))
        shift_i, shift_j = (_STRIDE * float(moment) / total for moment in (along @ di, across @ dj))
        length = math.hypot(shift_i, shift_j)
        far = (old + _STRIDE * (2 * moment / total - old) for moment, old in zip(found, (a, b, c), strict=True))
        new = _within(*far, 0.3, largest)
        if not keep_center:
            part = 1 / max(1.0, length)
            i0, j0, length = i0 + part * shift_i, j0 + part * shift_j, part * length
        change = max(abs(x - y) - 3e-3 * abs(y) for x, y in zip(new, (a, b, c), strict=True))
        a, b, c = new
        if change <= 1e-8 and length < 1e-2:
            break
    return i0, j0, np.asarray([[a, b], [b, c]])


def _reach(center, moment, size):
    """The pixels along an axis, two at least, whose weight matters: to 5σ, where it is 4e-6."""
    reach = 5 * math.sqrt(moment) if moment >= 0 else math.nan
    if not math.isfinite(center + reach):
        return slice(None)  # nothing is weighed, and the iteration ends
    low = min(max(int(center - reach), 0), size - 2)
    return slice(low, max(int(center + reach) + 2, low + 2))


def _within(a, b, c, low, high):
    """Second moments whose eigenvalues are brought between two values."""
    middle, half, length = (a + c) / 2, (a - c) / 2, math.hypot((a - c) / 2, b)
    upper, lower = min(max(middle + length, low), high), min(max(middle - length, low), high)
    middle, stretch = (upper + lower) / 2, (upper - lower) / (2 * length) if length > 0 else 0.0
    return middle + stretch * half, stretch * b, middle - stretch * half


def psf_moments_of(psf, i, j):
    """Adaptive second moments of a PSF at a pixel in pixels²; None without one."""
    if psf is None:
        return None
    psf = psf.at(i, j)
    stamp = np.asarray(psf.data, np.float64)
    center = np.asarray(psf.center, np.float64)
    _, _, moments = adaptive_moments(stamp, np.ones(stamp.shape, bool), *center, True)
    return moments / psf.oversample**2
