"""Starting values from the pixels: sky, adaptive moments, curve of growth. NumPy; nothing here is differentiated."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.models.combinators import Linked, Scene, check_model, kind
from jaxphot.models.copies import Many
from jaxphot.moments import (
    adaptive_moments,
    clipped_median,
    elliptical_radius,
    median,
    psf_moments_of,
    shape_of_moments,
    smoothed,
)
from jaxphot.parameters import Parameter, Partial, SersicIndex, parameters
from jaxphot.psf_start import psf_start
from jaxphot.pytree import update
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
    brightest near the middle of the frame unless `known` gives its centre. A function of the plane may say more of its
    own parameters: ``function.start(source)`` returns a dictionary of values, from a `Source`; for a background, from
    the sky level. A PSF that is fitted starts from stars whose centres are known, or as wide as 3 pixels.

    Parameters
    ----------
    model : model
    image : Image
    known : dict, optional
        Partial tree of values to take as they are; a known centre says which source to measure, and `many` needs the
        centres of its copies. For a `linked` model these are the view's parameters; it must have an inverse.

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
    return _as_arrays(measured_start(model, image, known), image.dtype, jnp.asarray)


def measured_start(model, image, known=None):
    """As `initialize`, with NumPy's arrays: what thousands of starts need not carry to a device and back."""
    check_model(model)
    check_image(image)
    declared = parameters(model)
    known = {} if known is None else known
    _check_known(known, declared)
    pixels = _Pixels(image)
    _find_psf(model, known, pixels)
    has_sky = any(kind(part) == "background" for _, part in _leaf_models(model, ""))
    shared = _count_shared_centres(model, known)
    missing = []
    tree = _start(model, declared, known, pixels, has_sky, shared, "", missing)
    if missing:
        names = ", ".join(dict.fromkeys(missing))
        raise ValueError(f"initialize: no rule for {names}; pass known= with values for them")
    return _as_arrays(tree, image.dtype)


def _as_arrays(tree, dtype, as_array=np.asarray):
    if isinstance(tree, dict):
        return {key: _as_arrays(value, dtype, as_array) for key, value in tree.items()}
    return as_array(tree, dtype)


def _check_known(known, declared, prefix=""):
    if isinstance(declared, Parameter) or not isinstance(known, dict):
        return
    for key, value in known.items():
        if key in declared:
            _check_known(value, declared[key], f"{prefix}{key}.")
        elif declared and not isinstance(declared, Partial):
            names = ", ".join(f"{prefix}{name}" for name in sorted(declared))
            raise ValueError(f"known: unknown {prefix}{key}; the model has {names}")


def _find_psf(model, known, pixels):
    """Moments of the PSF of a scene that has one to fit: the image's own, or those of stars at known places."""
    parts = _leaf_models(model, "")
    if pixels.psf_moments is None and any(kind(part) == "psf" for _, part in parts):
        stars = [_branch(known, name).get("center") for name, part in parts if kind(part) == "point"]
        pixels.psf_moments = pixels.star_moments(
            [c for own in stars if own is not None for c in np.reshape(own, (-1, 2))]
        )


def _branch(tree, name):
    """The branch of a nested dictionary at a key path; {} if there is none."""
    for key in name.split(".") if name else ():
        tree = tree.get(key, {}) if isinstance(tree, dict) else {}
    return tree if isinstance(tree, dict) else {}


def _leaf_models(model, prefix):
    if isinstance(model, Linked | Many):
        return _leaf_models(model.model, prefix)
    if not isinstance(model, Scene):
        return [(prefix, model)]
    return [pair for name, part in model.parts for pair in _leaf_models(part, f"{prefix}.{name}" if prefix else name)]


def _count_shared_centres(model, known):
    """How many sources without a known centre there are: they all start at the same place and share its light."""
    count = 0
    for name, part in _leaf_models(model, ""):
        count += kind(part) in ("extended", "point") and "center" not in _branch(known, name)
    return max(count, 1)


def _start(model, declared, known, pixels, has_sky, shared, prefix, missing):
    if isinstance(model, Scene):
        join = f"{prefix}." if prefix else ""
        return {
            name: _start(part, declared[name], known.get(name, {}), pixels, has_sky, shared, f"{join}{name}", missing)
            for name, part in model.parts
        }
    if isinstance(model, Linked):
        if model.inverse is None:
            missing.append(f"{prefix or 'params'} (linked without inverse=)")
            return known
        inner = parameters(model.model)
        own = _start(model.model, inner, _common(known, inner), pixels, has_sky, shared, prefix, missing)
        return known if missing else update(model.inverse(_as_arrays(own, np.float64)), known)
    if isinstance(model, Many):
        if "center" not in known:
            missing.append(f"{prefix}.center" if prefix else "center")
            return known
        rows = [jax.tree.map(lambda leaf, k=k: np.asarray(leaf)[k], known) for k in range(len(known["center"]))]
        inner = parameters(model.model)
        copies = [_start(model.model, inner, row, pixels, has_sky, shared, prefix, missing) for row in rows]
        return known if missing else jax.tree.map(lambda *leaves: np.stack(leaves), *copies)
    if not declared:
        return known
    if kind(model) == "psf":
        return psf_start(declared, known, pixels.psf_ellipse(), prefix, missing)
    if kind(model) == "background":
        values = {"I0": pixels.sky, "delta": np.zeros(2), **_own_values(model, pixels.sky)}
    else:
        values = _source_values(model, declared, known, pixels, has_sky, shared)
    start = {}
    for key, parameter in declared.items():
        value = known.get(key, values.get(key))
        if value is None:
            missing.append(f"{prefix}.{key}" if prefix else key)
        else:
            start[key] = value if key in known else np.broadcast_to(_inside(value, parameter), parameter.shape)
    return update(start, known)


def _common(known, declared):
    """The part of a tree whose key paths are declared."""
    if not isinstance(known, dict) or isinstance(declared, Parameter):
        return known
    return {key: _common(value, declared[key]) for key, value in known.items() if key in declared}


def _inside(value, parameter):
    low, high = parameter.bounds
    return np.clip(value, low if np.isfinite(low) and low != 0 else -np.inf, high)


def _own_values(model, measured):
    """What the function of a model says of its start: ``function.start(source)``, or of the sky level, → dict."""
    start = getattr(getattr(model, "function", None), "start", None)
    return {} if start is None else start(measured)


def _source_values(model, declared, known, pixels, has_sky, shared):
    center = np.asarray(known["center"], float) if "center" in known else None
    source = pixels.measure(center, pixels.sky if has_sky else 0.0)
    if center is None:
        source = replace(source, **{key: getattr(source, key) / shared for key in ("Ie", "peak", "flux")})
    index = source.n if declared.get("n") == SersicIndex.__metadata__[0] else 2.5
    return {
        "center": source.center,
        "q": source.q,
        "PA": source.PA,
        "n": index,
        "Re": source.Re,
        "Ie": source.Ie,
        "I0": source.peak,
        "flux": source.flux,
        "sigma": source.Re / 1.18,
        "Rd": source.Re / 1.1,
        **_own_values(model, source),
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
        self.scale = float(np.sqrt(median(area)))
        self.psf_moments = psf_moments_of(image.psf, (nx - 1) / 2, (ny - 1) / 2)
        self.sky = self._sky()

    def _sky(self):
        """Clipped median of the frame's border, then of what lies outside the source found above it."""
        ny, nx = self.data.shape
        width = max(2, min(ny, nx) // 10)
        border = (self.i < width) | (self.i >= nx - width) | (self.j < width) | (self.j >= ny - width)
        chosen = self.good & border
        values = self.brightness[chosen if chosen.sum() >= 20 else self.good]
        return clipped_median(values)

    def star_moments(self, centers):
        """Median of the second moments (pixels²) of stars at given places; without any, a FWHM of 3 pixels."""
        light, found = np.where(self.good, self.brightness - self.sky, 0.0), [np.eye(2) * 1.6]
        for center in centers:
            i, j = self._to_pixel(center)
            found.append(adaptive_moments(light, self.good, self.i, self.j, i, j, True)[2])
        return np.median(found[1:] if centers else found, axis=0)

    def psf_ellipse(self):
        """Axis ratio, position angle, and standard deviation (arcsec) along the major axis of the PSF."""
        jacobian = self._jacobian(*((side - 1) / 2 for side in self.data.shape[::-1]))
        covariance = jacobian @ self.psf_moments @ jacobian.T
        return *shape_of_moments(covariance), float(np.sqrt(np.linalg.eigvalsh(covariance)[-1]))

    def measure(self, center, sky):
        """A `Source` at a known place (plane, arcsec), or the brightest near the middle."""
        light = np.where(self.good, self.brightness - sky, 0.0)
        i0, j0 = self._peak(light) if center is None else self._to_pixel(center)
        i0, j0, moments = adaptive_moments(light, self.good, self.i, self.j, i0, j0, center is not None)
        position = self._to_plane(i0, j0)
        jacobian = self._jacobian(i0, j0)
        observed = jacobian @ moments @ jacobian.T
        q_seen, angle = shape_of_moments(observed)
        r50, concentration, flux, profile = self._growth(light, position, q_seen, angle)
        blur = jacobian @ (np.zeros((2, 2)) if self.psf_moments is None else self.psf_moments) @ jacobian.T
        intrinsic = observed - blur
        smallest = (0.3 * self.scale) ** 2
        if np.linalg.eigvalsh(intrinsic)[0] < smallest:
            intrinsic = observed - blur * max(0.0, 1 - smallest / np.linalg.eigvalsh(observed)[0]) * 0.8
        q, angle = shape_of_moments(intrinsic if np.linalg.eigvalsh(intrinsic)[0] > 0 else observed)
        size = np.sqrt(max(r50**2 - 1.4 * np.linalg.eigvalsh(blur)[-1], (0.5 * self.scale) ** 2))
        table = np.asarray(_CONCENTRATION)
        n = float(np.clip(np.interp(concentration, table[:, 1], table[:, 0]), 0.7, 4.0))
        at_size = max(profile(size), 1e-3 * profile(0.0), median(self.noise[self.good]) * 1e-3)
        return Source(position, float(np.clip(q, 0.1, 0.97)), angle, float(size), n, at_size, profile(0.0), flux)

    def _peak(self, light):
        """Pixel of the brightest smoothed spot, weighted towards the middle of the frame."""
        ny, nx = light.shape
        smooth, weight = smoothed(light), smoothed(self.good.astype(float))
        smooth = np.where(weight > 0.2, smooth / np.maximum(weight, 0.2), -np.inf)
        distance2 = ((self.i - (nx - 1) / 2) / (0.25 * nx)) ** 2 + ((self.j - (ny - 1) / 2) / (0.25 * ny)) ** 2
        score = np.where(np.isfinite(smooth), np.maximum(smooth, 0) * np.exp(-0.5 * distance2), -1)
        j, i = np.unravel_index(np.argmax(score), score.shape)
        return float(i), float(j)

    def _growth(self, light, position, q, angle):
        """Half-light radius, log10(r80/r20), total flux, and the profile as a function of radius."""
        radius = elliptical_radius(self.x - position[0], self.y - position[1], q, angle)
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
                level = median(ring) if r > 2 * step else np.mean(ring)
                error = median(self.noise[inside]) / np.sqrt(inside.sum())
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
            tiny = median(self.noise[self.good])
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
