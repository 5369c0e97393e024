"""Starting values from the pixels: sky, adaptive moments, curve of growth. NumPy; nothing here is differentiated."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.models.combinators import Scene, check_model, kind
from jaxphot.parameters import SersicIndex, parameters
from jaxphot.pytree import leaves_with_names, update
from jaxphot.render import check_image

# Growth of a Sérsic profile: log10(r80/r20) against n (exact, from the incomplete gamma function).
_CONCENTRATION = (
    (0.5, 0.429), (1.0, 0.560), (1.5, 0.668), (2.0, 0.763), (3.0, 0.929), (4.0, 1.073), (5.0, 1.203), (6.0, 1.322),
)  # fmt: skip


@dataclass
class Source:
    """What was measured of one source, in the plane (arcsec, flux/arcsec²)."""

    center: np.ndarray
    q: float
    PA: float
    Re: float
    n: float
    Ie: float
    peak: float
    flux: float


def initialize(model, image, known=None):
    """Starting values for a fit, measured from the image.

    The sky level is taken out first (clipped median of the border, then of what lies beyond the source). Centre, axis
    ratio and position angle come from adaptive second moments corrected for the PSF's, size, brightness and Sérsic
    index from the curve of growth in elliptical annuli, whose medians neighbours hardly disturb. The source is the
    brightest near the middle of the frame unless `known` gives its centre.

    Parameters
    ----------
    model : model
    image : Image
    known : dict, optional
        Partial tree of values to take as they are; a known centre says which source to measure.

    Returns
    -------
    dict
        Parameter tree for `fit`.

    Raises
    ------
    ValueError
        A parameter that no rule covers (pass it in `known`); unknown key paths in `known`.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> y, x = np.mgrid[:41, :41]
    >>> data = 100 * np.exp(-np.hypot(x - 22, (y - 19) / 0.6) / 4) + 7
    >>> start = initialize(jp.models.sersic, jp.make_image(data - 7, std=0.1))
    >>> [round(float(v)) for v in start["center"]]
    [22, 19]
    """
    check_model(model)
    check_image(image)
    declared = parameters(model)
    known = {} if known is None else known
    _check_known(known, declared)
    pixels = _Pixels(image)
    has_sky = any(kind(part) == "background" for _, part in _leaf_models(model, ""))
    shared = _count_shared_centres(model, known)
    missing = []
    tree = _start(model, declared, known, pixels, has_sky, shared, "", missing)
    if missing:
        raise ValueError(f"initialize: no rule for {', '.join(missing)}; pass known= with values for them")
    return _as_arrays(tree, image.dtype)


def _as_arrays(tree, dtype):
    if isinstance(tree, dict):
        return {key: _as_arrays(value, dtype) for key, value in tree.items()}
    return jnp.asarray(tree, dtype)


def _check_known(known, declared):
    names = {name for name, _ in leaves_with_names(declared)}
    unknown = [name for name, _ in leaves_with_names(known) if names and name not in names] if known else []
    if unknown:
        raise ValueError(f"known: unknown {', '.join(unknown)}; the model has {', '.join(sorted(names))}")


def _leaf_models(model, prefix):
    if not isinstance(model, Scene):
        return [(prefix, model)]
    return [pair for name, part in model.parts for pair in _leaf_models(part, f"{prefix}.{name}" if prefix else name)]


def _count_shared_centres(model, known):
    """How many sources without a known centre there are: they all start at the same place and share its light."""
    count = 0
    for name, part in _leaf_models(model, ""):
        own = known
        for key in name.split(".") if name else ():
            own = own.get(key, {}) if isinstance(own, dict) else {}
        count += kind(part) != "background" and "center" not in own
    return max(count, 1)


def _start(model, declared, known, pixels, has_sky, shared, prefix, missing):
    if isinstance(model, Scene):
        join = f"{prefix}." if prefix else ""
        return {
            name: _start(part, declared[name], known.get(name, {}), pixels, has_sky, shared, f"{join}{name}", missing)
            for name, part in model.parts
        }
    if not declared:
        return known
    if kind(model) == "background":
        values = {"I0": pixels.sky, "delta": np.zeros(2)}
    else:
        values = _source_values(declared, known, pixels, has_sky, shared)
    start = {}
    for key, parameter in declared.items():
        value = known.get(key, values.get(key))
        if value is None:
            missing.append(f"{prefix}.{key}" if prefix else key)
        else:
            start[key] = value if key in known else _inside(value, parameter)
    return update(start, known)


def _inside(value, parameter):
    low, high = parameter.bounds
    return np.clip(value, low if np.isfinite(low) and low != 0 else -np.inf, high)


def _source_values(declared, known, pixels, has_sky, shared):
    center = np.asarray(known["center"], float) if "center" in known else None
    source = pixels.measure(center, pixels.sky if has_sky else 0.0)
    share = 1 / shared if center is None else 1.0
    index = source.n if declared.get("n") == SersicIndex.__metadata__[0] else 2.5
    return {
        "center": source.center,
        "q": source.q,
        "PA": source.PA,
        "n": index,
        "Re": source.Re,
        "Ie": source.Ie * share,
        "I0": source.peak * share,
        "flux": source.flux * share,
        "sigma": source.Re / 1.18,
        "Rd": source.Re / 1.1,
    }


class _Pixels:
    """The data as float64 NumPy, with the geometry needed to measure sources."""

    def __init__(self, image):
        image = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), image)  # NumPy throughout: nothing to compile
        self.transform = image.transform
        self.good = (image.ivar > 0) & np.isfinite(image.data)
        self.data = np.where(self.good, image.data, 0.0)
        ny, nx = image.shape
        self.j, self.i = np.mgrid[:ny, :nx].astype(float)
        area = np.broadcast_to(image.transform.pixel_area(self.i, self.j), image.shape)
        self.brightness = self.data / area
        ivar = np.where(self.good, image.ivar, 0.0)
        self.noise = np.where(self.good, 1 / np.sqrt(np.where(ivar > 0, ivar, 1)), 0) / area
        self.x, self.y = image.transform.pixel_to_plane(self.i, self.j)
        self.scale = float(np.sqrt(np.median(area)))
        self.psf_moments = _psf_moments(image.psf)
        self.sky = self._sky()

    def _sky(self):
        """Clipped median of the frame's border, then of what lies outside the source found above it."""
        ny, nx = self.data.shape
        width = max(2, min(ny, nx) // 10)
        border = (self.i < width) | (self.i >= nx - width) | (self.j < width) | (self.j >= ny - width)
        chosen = self.good & border
        values = self.brightness[chosen if chosen.sum() >= 20 else self.good]
        return _clipped_median(values)

    def measure(self, center, sky):
        """A `Source` at a known place (plane, arcsec), or the brightest near the middle."""
        light = np.where(self.good, self.brightness - sky, 0.0)
        i0, j0 = self._peak(light) if center is None else self._to_pixel(center)
        i0, j0, moments = _adaptive_moments(light, self.good, self.i, self.j, i0, j0, center is not None)
        position = self._to_plane(i0, j0)
        jacobian = self._jacobian(i0, j0)
        observed = jacobian @ moments @ jacobian.T
        q_seen, angle = _shape(observed)
        r50, concentration, flux, profile = self._growth(light, position, q_seen, angle)
        blur = jacobian @ self.psf_moments @ jacobian.T
        intrinsic = observed - blur
        smallest = (0.3 * self.scale) ** 2
        if np.linalg.eigvalsh(intrinsic)[0] < smallest:
            intrinsic = observed - blur * max(0.0, 1 - smallest / np.linalg.eigvalsh(observed)[0]) * 0.8
        q, angle = _shape(intrinsic if np.linalg.eigvalsh(intrinsic)[0] > 0 else observed)
        size = np.sqrt(max(r50**2 - 1.4 * np.linalg.eigvalsh(blur)[-1], (0.5 * self.scale) ** 2))
        table = np.asarray(_CONCENTRATION)
        n = float(np.clip(np.interp(concentration, table[:, 1], table[:, 0]), 0.7, 4.0))
        at_size = max(profile(size), 1e-3 * profile(0.0), np.median(self.noise[self.good]) * 1e-3)
        return Source(position, float(np.clip(q, 0.1, 0.97)), angle, float(size), n, at_size, profile(0.0), flux)

    def _peak(self, light):
        """Pixel of the brightest smoothed spot, weighted towards the middle of the frame."""
        ny, nx = light.shape
        smooth, weight = _smoothed(light), _smoothed(self.good.astype(float))
        smooth = np.where(weight > 0.2, smooth / np.maximum(weight, 0.2), -np.inf)
        distance2 = ((self.i - (nx - 1) / 2) / (0.25 * nx)) ** 2 + ((self.j - (ny - 1) / 2) / (0.25 * ny)) ** 2
        score = np.where(np.isfinite(smooth), np.maximum(smooth, 0) * np.exp(-0.5 * distance2), -1)
        j, i = np.unravel_index(np.argmax(score), score.shape)
        return float(i), float(j)

    def _growth(self, light, position, q, angle):
        """Half-light radius, log10(r80/r20), total flux, and the profile as a function of radius."""
        radius = _elliptical_radius(self.x - position[0], self.y - position[1], q, angle)
        step = self.scale / max(np.sqrt(q), 0.3)
        edges, values = [0.0], []
        outermost = np.max(radius[self.good]) if np.any(self.good) else step
        r = 0.0
        while r < outermost and len(values) < 500:
            width = max(step, 0.1 * r)
            inside = self.good & (radius >= r) & (radius < r + width)
            whole = np.pi * q * ((r + width) ** 2 - r**2) / self.scale**2
            if inside.sum() < max(1, 0.3 * whole):
                if r > 3 * step:
                    break
                values.append(values[-1] if values else 0.0)
            else:
                ring = light[inside]
                level = np.median(ring) if r > 2 * step else np.mean(ring)
                error = np.median(self.noise[inside]) / np.sqrt(inside.sum())
                if level < 2 * error and r > 2 * step:
                    break
                values.append(level)
            r += width
            edges.append(r)
        edges, values = np.asarray(edges), np.asarray(values if values else [0.0])
        edges = edges if len(edges) > 1 else np.asarray([0.0, step])
        growth = np.concatenate([[0.0], np.cumsum(np.maximum(values, 0) * np.pi * q * np.diff(edges**2))])
        middle = (edges[1:] + edges[:-1]) / 2
        if not growth[-1] > 0:
            tiny = np.median(self.noise[self.good])
            return 2 * step, 0.56, float(tiny * step**2), lambda r: float(tiny)
        # strictly increasing, so that it can be inverted
        rising = growth / growth[-1] + 1e-9 * np.arange(len(growth))
        r20, r50, r80 = (np.interp(fraction, rising, edges) for fraction in (0.2, 0.5, 0.8))
        # the light beyond the last ring: as much again as a tenth, which no start is sensitive to
        return r50 * 1.05, np.log10(r80 / r20), float(growth[-1] * 1.05), lambda r: float(np.interp(r, middle, values))

    def _to_plane(self, i, j):
        return np.asarray(self.transform.pixel_to_plane(np.float64(i), np.float64(j)))

    def _to_pixel(self, center):
        i, j = self.transform.plane_to_pixel(np.float64(center[0]), np.float64(center[1]))
        return float(i), float(j)

    def _jacobian(self, i, j):
        steps = [(self._to_plane(i + di, j + dj) - self._to_plane(i - di, j - dj)) / 2 for di, dj in ((1, 0), (0, 1))]
        return np.stack(steps, axis=1)


def _smoothed(array):
    """Convolution with the binomial kernel (1, 4, 6, 4, 1)/16 along both axes; zero beyond the frame."""
    padded = np.pad(array, 2)
    for axis in (0, 1):
        size = padded.shape[axis] - 4
        parts = [w * np.take(padded, np.arange(k, k + size), axis) for k, w in enumerate((1, 4, 6, 4, 1))]
        padded = sum(parts) / 16
    return padded


def _clipped_median(values):
    for _ in range(5):
        middle = np.median(values)
        spread = 1.4826 * np.median(np.abs(values - middle))
        kept = values[np.abs(values - middle) <= 3 * spread]
        if len(kept) in (0, len(values)):
            break
        values = kept
    return float(np.median(values))


def _elliptical_radius(dx, dy, q, angle):
    major = dx * np.sin(angle) + dy * np.cos(angle)
    minor = (dx * np.cos(angle) - dy * np.sin(angle)) / q
    return np.hypot(major, minor)


def _shape(moments):
    """Axis ratio and position angle (East of North, [0, π)) of second moments in the plane."""
    values, vectors = np.linalg.eigh(moments)
    q = np.sqrt(max(values[0], 1e-6 * values[1]) / values[1])
    x, y = vectors[:, 1]
    return float(q), float(np.arctan2(x, y) % np.pi)


def _adaptive_moments(light, good, i, j, i0, j0, keep_center):
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


def _psf_moments(psf):
    """Adaptive second moments of a PSF in pixels²; zeros without one."""
    if psf is None:
        return np.zeros((2, 2))
    stamp = np.asarray(psf.data, np.float64)
    v, u = np.mgrid[: stamp.shape[0], : stamp.shape[1]].astype(float)
    center = np.asarray(psf.center, np.float64)
    _, _, moments = _adaptive_moments(stamp, np.ones(stamp.shape, bool), u, v, center[0], center[1], True)
    return moments / psf.oversample**2
