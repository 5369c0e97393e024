"""Medians and moments of pixels: what a source or a PSF looks like at first sight. NumPy."""

import numpy as np


def smoothed(array):
    """Convolution with the binomial kernel (1, 4, 6, 4, 1)/16 along both axes; zero beyond the frame."""
    padded = np.pad(array, 2)
    for axis in (0, 1):
        size = padded.shape[axis] - 4
        parts = [w * np.take(padded, np.arange(k, k + size), axis) for k, w in enumerate((1, 4, 6, 4, 1))]
        padded = sum(parts) / 16
    return padded


def clipped_median(values):
    """Median after leaving out, at most five times, what is more than 3σ from it."""
    for _ in range(5):
        middle = np.median(values)
        spread = 1.4826 * np.median(np.abs(values - middle))
        kept = values[np.abs(values - middle) <= 3 * spread]
        if len(kept) in (0, len(values)):
            break
        values = kept
    return float(np.median(values))


def elliptical_radius(dx, dy, q, angle):
    """As `metrics.ellipse`, in NumPy."""
    major = dx * np.sin(angle) + dy * np.cos(angle)
    minor = (dx * np.cos(angle) - dy * np.sin(angle)) / q
    return np.hypot(major, minor)


def shape_of_moments(moments):
    """Axis ratio and position angle (East of North, [0, π)) of second moments in the plane."""
    values, vectors = np.linalg.eigh(moments)
    q = np.sqrt(max(values[0], 1e-6 * values[1]) / values[1])
    x, y = vectors[:, 1]
    return float(q), float(np.arctan2(x, y) % np.pi)


def adaptive_moments(light, good, i, j, i0, j0, keep_center):
    """Centre and second moments (pixels²) under an elliptical Gaussian weight matched to the source.

    The iteration of Bernstein & Jarvis 2002 (AJ 123, 583): the weight's moments are twice the weighted ones at the
    fixed point. It stops growing at a quarter of the frame.
    """
    largest = (min(light.shape) / 4) ** 2
    moments = np.eye(2) * 4.0
    for _ in range(60):
        inverse = np.linalg.inv(moments)
        di, dj = i - i0, j - j0
        exponent = inverse[0, 0] * di**2 + 2 * inverse[0, 1] * di * dj + inverse[1, 1] * dj**2
        weight = np.where(good, np.exp(-0.5 * np.minimum(exponent, 200)), 0.0)
        weighted = weight * light
        total = weighted.sum()
        if not total > 0:
            break
        shift = np.asarray([(weighted * di).sum(), (weighted * dj).sum()]) / total
        new = np.asarray([
            [(weighted * di**2).sum(), (weighted * di * dj).sum()],
            [(weighted * di * dj).sum(), (weighted * dj**2).sum()],
        ]) / total * 2  # fmt: skip
        values, vectors = np.linalg.eigh(new)
        new = (vectors * np.clip(values, 0.3, largest)) @ vectors.T
        if not keep_center:
            length = np.hypot(*shift)
            shift = shift * min(1.0, 1.0 / length) if length > 0 else shift
            i0, j0 = i0 + shift[0], j0 + shift[1]
        done = np.allclose(new, moments, rtol=1e-3) and np.hypot(*shift) < 1e-2
        moments = new
        if done:
            break
    return i0, j0, moments


def psf_moments_of(psf):
    """Adaptive second moments of a PSF in pixels²; None without one."""
    if psf is None:
        return None
    stamp = np.asarray(psf.data, np.float64)
    v, u = np.mgrid[: stamp.shape[0], : stamp.shape[1]].astype(float)
    center = np.asarray(psf.center, np.float64)
    _, _, moments = adaptive_moments(stamp, np.ones(stamp.shape, bool), u, v, center[0], center[1], True)
    return moments / psf.oversample**2
