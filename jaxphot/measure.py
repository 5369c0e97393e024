"""What is seen of a source in an image: sky, adaptive moments, curve of growth. NumPy."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jaxphot.moments import (
    adaptive_moments,
    clipped_median,
    elliptical_radius,
    extent_of_moments,
    median,
    psf_moments_of,
    shape_of_moments,
    smoothed,
)

# Growth of a Sérsic profile: log10(r80/r20) against n (exact, from the incomplete gamma function).
_CONCENTRATION = (
    (0.5, 0.429), (1.0, 0.560), (1.5, 0.668), (2.0, 0.763), (3.0, 0.929), (4.0, 1.073), (5.0, 1.203), (6.0, 1.322),
)  # fmt: skip


@dataclass
class Source:
    """What was measured of one source, in the plane (arcsec, flux/arcsec²).

    Attributes
    ----------
    center : (2,) array
    q, PA : float
        Corrected for the PSF's.
    Re, n, Ie : float
        Of the Sérsic profile that grows like it.
    peak, flux : float
    radii, annuli : arrays
        Rising radii, and the brightness of elliptical annuli there.
    light : callable
        ``light(x, y)``, smoothed pixels looked up at positions.
    """

    center: np.ndarray
    q: float
    PA: float
    Re: float
    n: float
    Ie: float
    peak: float
    flux: float
    radii: np.ndarray
    annuli: np.ndarray
    light: Callable

    def sersic(self, r):
        """Brightness of the measured Sérsic profile at radii r (arcsec)."""
        b = 2 * self.n - 1 / 3
        return self.Ie * np.exp(-b * ((np.asarray(r, float) / self.Re) ** (1 / self.n) - 1))

    def brightness(self, r):
        """Brightness of the annuli at radii r (arcsec), going on as the Sérsic profile does; > 0."""
        r, last = np.asarray(r, float), self.radii[-1]
        beyond = self.annuli[-1] * self.sersic(np.maximum(r, last)) / self.sersic(last)
        found = np.where(r <= last, np.interp(r, self.radii, self.annuli), beyond)
        return np.maximum(found, 1e-4 * max(self.peak, self.Ie))


class _Seen(NamedTuple):
    """Where a source lies and how flat it looks: what its annuli are drawn by."""

    light: np.ndarray
    center: np.ndarray
    q: float
    PA: float
    q_seen: float
    radius: np.ndarray
    blur: float


# what only depends on the frame is kept for the next of many cutouts
@functools.lru_cache(maxsize=4)
def _places(shape):
    return _kept(np.mgrid[: shape[0], : shape[1]].astype(float))


@functools.lru_cache(maxsize=4)
def _border(shape):
    (ny, nx), (j, i) = shape, _places(shape)
    width = max(2, min(shape) // 10)
    return _kept((i < width) | (i >= nx - width) | (j < width) | (j >= ny - width))


@functools.lru_cache(maxsize=4)
def _weight_of_all(shape):
    """The share of good pixels around every one, where all are good."""
    return _kept(np.multiply.outer(*[smoothed(np.ones((n, 5)))[:, 2] for n in shape]))


@functools.lru_cache(maxsize=4)
def _towards_the_middle(shape):
    across, along = (np.exp(-8 * ((np.arange(n) - (n - 1) / 2) / n) ** 2) for n in shape)
    return _kept(np.multiply.outer(across, along))


def _kept(array):
    array.flags.writeable = False
    return array


def _ring_edges(step, outermost):
    """Radii from 0 to the outermost pixel, at most 500 rings: a step apart, far out a tenth of the radius."""
    edges = [0.0]
    while edges[-1] < outermost and len(edges) <= 500:
        edges.append(edges[-1] + max(step, 0.1 * edges[-1]))
    return edges if len(edges) > 1 else [0.0, step]


class Pixels:
    """The data as float64 NumPy, with the geometry needed to measure sources."""

    def __init__(self, image):
        image = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), image)  # NumPy throughout: nothing to compile
        self.transform = image.transform
        self.good = (image.ivar > 0) & np.isfinite(image.data)
        self.data = np.where(self.good, image.data, 0.0)
        ny, nx = image.shape
        self.j, self.i = _places(image.shape)
        area = np.broadcast_to(image.transform.pixel_area(self.i, self.j), image.shape)
        self.brightness = self.data / area
        ivar = np.where(self.good, image.ivar, 0.0)
        self.noise = np.where(self.good, 1 / np.sqrt(np.where(ivar > 0, ivar, 1)), 0) / area
        self.x, self.y = image.transform.pixel_to_plane(self.i, self.j)
        self.scale = float(np.sqrt(median(area)))
        self.psf_moments = psf_moments_of(image.psf, (nx - 1) / 2, (ny - 1) / 2)
        self.sky = self._sky()

    def _sky(self):
        """Clipped median of the frame's border, then of what lies outside the source found above it."""
        chosen = self.good & _border(self.data.shape)
        values = self.brightness[chosen if chosen.sum() >= 20 else self.good]
        return clipped_median(values)

    def star_moments(self, centers):
        """Median of the second moments (pixels²) of stars at given places; without any, a FWHM of 3 pixels."""
        light, found = np.where(self.good, self.brightness - self.sky, 0.0), [np.eye(2) * 1.6]
        for center in centers:
            i, j = self._to_pixel(center)
            found.append(adaptive_moments(light, self.good, i, j, True)[2])
        return np.median(found[1:] if centers else found, axis=0)

    def psf_ellipse(self):
        """Axis ratio, position angle, and standard deviation (arcsec) along the major axis of the PSF."""
        jacobian = self._jacobian(*((side - 1) / 2 for side in self.data.shape[::-1]))
        covariance = jacobian @ self.psf_moments @ jacobian.T
        return *shape_of_moments(covariance), float(np.sqrt(extent_of_moments(covariance)[1]))

    def measure(self, center, sky):
        """A `Source` at a known place (plane, arcsec), or the brightest near the middle, and how it is seen."""
        light = np.where(self.good, self.brightness - sky, 0.0)
        i0, j0 = self._peak(light) if center is None else self._to_pixel(center)
        i0, j0, moments = adaptive_moments(light, self.good, i0, j0, center is not None)
        position = self._to_plane(i0, j0)
        jacobian = self._jacobian(i0, j0)
        observed = jacobian @ moments @ jacobian.T
        q_seen, angle_seen = shape_of_moments(observed)
        blur = jacobian @ (np.zeros((2, 2)) if self.psf_moments is None else self.psf_moments) @ jacobian.T
        intrinsic = observed - blur
        smallest = (0.3 * self.scale) ** 2
        if extent_of_moments(intrinsic)[0] < smallest:
            intrinsic = observed - blur * max(0.0, 1 - smallest / extent_of_moments(observed)[0]) * 0.8
        q, angle = shape_of_moments(intrinsic if extent_of_moments(intrinsic)[0] > 0 else observed)
        radius = elliptical_radius(self.x - position[0], self.y - position[1], q_seen, angle_seen)
        seen = _Seen(light, position, float(np.clip(q, 0.1, 0.97)), angle, q_seen, radius, extent_of_moments(blur)[1])
        return self._source(seen, self.good, 1.0), seen

    def measure_sectors(self, seen, nearest, count):
        """A `Source` for each of several sectors: what there would be if all around were like it.

        Parameters
        ----------
        seen : _Seen
            From `measure`.
        nearest : (ny, nx) array of int
            Number of every pixel's sector.
        count : int
        """
        near = seen.radius < 8 * self.scale
        shares = [max(np.mean(nearest[near] == k), 0.1 / count) for k in range(count)]
        return [self._source(seen, self.good & (nearest == k), share) for k, share in enumerate(shares)]

    def _source(self, seen, chosen, share):
        """The `Source` of chosen pixels, which are a share of every annulus."""
        r50, concentration, flux, radii, annuli = self._growth(seen, chosen, share)
        size = np.sqrt(max(r50**2 - 1.4 * seen.blur, (0.5 * self.scale) ** 2))
        table = np.asarray(_CONCENTRATION)
        n = float(np.clip(np.interp(concentration, table[:, 1], table[:, 0]), 0.7, 4.0))
        peak = float(annuli[0])
        at_size = max(np.interp(size, radii, annuli), 1e-3 * peak, median(self.noise[self.good]) * 1e-3)
        return Source(
            seen.center, seen.q, seen.PA, float(size), n, float(at_size), peak, flux, radii, annuli, self._look_up(seen)
        )

    @functools.cached_property
    def _weight(self):
        """The share of good pixels around every one."""
        return _weight_of_all(self.good.shape) if np.all(self.good) else smoothed(self.good.astype(float))

    def _look_up(self, seen):
        @functools.cache
        def smoothed_light():
            return smoothed(seen.light) / np.maximum(self._weight, 0.1)

        def light(x, y):
            smooth = smoothed_light()
            i, j = (np.asarray(side, float) for side in self.transform.plane_to_pixel(x, y))
            u, v = np.clip(i, 0, smooth.shape[1] - 1), np.clip(j, 0, smooth.shape[0] - 1)
            left, low = np.floor(u).astype(int), np.floor(v).astype(int)
            right, high = np.minimum(left + 1, smooth.shape[1] - 1), np.minimum(low + 1, smooth.shape[0] - 1)
            a, b = u - left, v - low
            below = (1 - a) * smooth[low, left] + a * smooth[low, right]
            above = (1 - a) * smooth[high, left] + a * smooth[high, right]
            return (1 - b) * below + b * above

        return light

    def _peak(self, light):
        """Pixel of the brightest smoothed spot, weighted towards the middle of the frame."""
        found = np.maximum(smoothed(light), 0) / np.maximum(self._weight, 0.2) * _towards_the_middle(light.shape)
        score = np.where(self._weight > 0.2, found, -1)
        j, i = np.unravel_index(np.argmax(score), score.shape)
        return float(i), float(j)

    def _growth(self, seen, chosen, share):
        """Half-light radius, log10(r80/r20), total flux, and the profile: radii and brightness of annuli."""
        q = seen.q_seen
        step = self.scale / max(np.sqrt(q), 0.3)
        order = np.argsort(seen.radius[chosen])
        radius, light, noise = (side[chosen][order] for side in (seen.radius, seen.light, self.noise))
        outermost, loudest = (float(radius[-1]), float(np.max(noise))) if len(radius) else (step, 0.0)
        edges, values = _ring_edges(step, outermost), []
        ends = [0, *np.searchsorted(radius, edges[1:]).tolist()]
        for r, beyond, first, end in zip(edges[:-1], edges[1:], ends[:-1], ends[1:], strict=True):
            count = end - first
            whole = share * math.pi * q * (beyond**2 - r**2) / self.scale**2
            if count < max(1, 0.3 * whole):
                if r > 3 * step:
                    break
                values.append(values[-1] if values else 0.0)
            else:
                ring = light[first:end]
                level = float(median(ring) if r > 2 * step else ring.sum() / count)
                is_faint = level * math.sqrt(count) < 2 * loudest  # or it need not be asked more precisely
                if r > 2 * step and is_faint and level < 2 * median(noise[first:end]) / math.sqrt(count):
                    break
                values.append(level)
        values = np.asarray(values if values else [0.0])
        edges = np.asarray(edges[: len(values) + 1])
        growth = np.concatenate([[0.0], np.cumsum(np.maximum(values, 0) * np.pi * q * np.diff(edges**2))])
        middle = (edges[1:] + edges[:-1]) / 2
        if not growth[-1] > 0:
            tiny = float(median(self.noise[self.good])) if np.any(self.good) else 1.0
            return 2 * step, 0.56, tiny * step**2, middle[:1], np.asarray([tiny])
        # strictly increasing, so that it can be inverted
        rising = growth / growth[-1] + 1e-9 * np.arange(len(growth))
        r20, r50, r80 = (np.interp(fraction, rising, edges) for fraction in (0.2, 0.5, 0.8))
        # the light beyond the last ring: as much again as a tenth, which no start is sensitive to
        return r50 * 1.05, np.log10(r80 / r20), float(growth[-1] * 1.05), middle, values

    def _to_plane(self, i, j):
        return np.asarray(self.transform.pixel_to_plane(np.float64(i), np.float64(j)))

    def _to_pixel(self, center):
        i, j = self.transform.plane_to_pixel(np.float64(center[0]), np.float64(center[1]))
        return float(i), float(j)

    def _jacobian(self, i, j):
        steps = [(self._to_plane(i + di, j + dj) - self._to_plane(i - di, j - dj)) / 2 for di, dj in ((1, 0), (0, 1))]
        return np.stack(steps, axis=1)
