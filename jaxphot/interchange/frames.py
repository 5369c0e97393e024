"""Between other tools' pixels, degrees and magnitudes and our plane: what every reader and writer here shares."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxphot.fits import read_fits, read_psf
from jaxphot.image import Image
from jaxphot.models.combinators import Linked, Scene, kind
from jaxphot.models.totals import total_flux

_SQUARE = 0.01  # how far pixels may be from squares


@dataclass(frozen=True)
class Setup:
    """What a file of another tool says, as arguments of `jaxphot.fit`.

    Attributes
    ----------
    model : model
        A scene; parts are called by kind and number, such as ``sersic1``. `linked` where parameters are tied.
    params, fixed, bounds : dict
        Arguments of `fit` (arcsec, rad, flux/arcsec²).
    transform : transform
        Of the whole frame that the file's positions count in.
    zeropoint : float
        Magnitude of flux 1; NaN if not known.
    window : (i0, i1, j0, j1) or None
        The region that is fitted, as `crop` takes it.
    files : dict
        Paths by role: data, sigma, psf, mask, output.
    psf_oversample : int
        Cells a pixel of the PSF.
    notes : tuple of str
        What could not be taken over; each was a warning, too.
    info : dict
        What else the file says, as it stands there.
    """

    model: Callable
    params: dict
    fixed: dict
    bounds: dict
    transform: Any
    zeropoint: float = math.nan
    window: tuple | None = None
    files: dict = field(default_factory=dict)
    psf_oversample: int = 1
    notes: tuple = ()
    info: dict = field(default_factory=dict)

    def read_image(self, **changes) -> Image:
        """Read the image that the file names, with its noise, mask and PSF, cut to the window.

        Parameters
        ----------
        **changes
            Arguments of `read_fits` in place of what the file says.

        Raises
        ------
        ValueError
            The file names no image.
        """
        if "data" not in self.files:
            raise ValueError("the set-up names no image; read it with jaxphot.read_fits")
        path, _, extension = str(self.files["data"]).partition("[")
        known: dict = {} if math.isnan(self.zeropoint) else {"zeropoint": self.zeropoint}
        if extension:
            known["hdu"] = int(name) if (name := extension.rstrip("]")).isdigit() else name
        for role, argument in (("sigma", "std"), ("mask", "mask")):
            if role in self.files:
                known[argument] = self.files[role]
        if "psf" in self.files and "psf" not in changes:
            known["psf"] = read_psf(self.files["psf"], oversample=self.psf_oversample)
        known.update(transform=self.transform, window=self.window)
        return read_fits(path, **{**known, **changes})


@dataclass(frozen=True)
class Local:
    """The pixel grid about a point (i, j), 0-based: where it is in the plane, its scale, and which way is up."""

    center: np.ndarray
    jacobian: np.ndarray

    @property
    def scale(self):
        """Arcsec a pixel."""
        return math.sqrt(abs(np.linalg.det(self.jacobian)))

    @property
    def sense(self):
        """1 where position angles grow counter-clockwise in the pixel grid, as with North up and East left; or −1."""
        return -math.copysign(1.0, np.linalg.det(self.jacobian))

    @property
    def up(self):
        """Position angle of the direction in which rows grow, rad."""
        return math.atan2(self.jacobian[0, 1], self.jacobian[1, 1])

    def PA(self, degrees):
        """Position angle (rad) of degrees counter-clockwise from up; not reduced, since odd modes have a direction."""
        return self.up + self.sense * math.radians(degrees)

    def degrees(self, PA):
        """The inverse of `PA`, in (−180, 180]."""
        turned = math.degrees(self.sense * (float(PA) - self.up))
        return 180 - (180 - turned) % 360


def local_frame(transform, i, j):
    """The `Local` of a transform at a pixel position; ValueError where pixels are no squares within 1 %."""

    def plane(*at):
        return np.array([float(value) for value in transform.pixel_to_plane(*at)])

    columns = [(plane(i + di, j + dj) - plane(i - di, j - dj)) / (2 * (di + dj)) for di, dj in ((8.0, 0.0), (0.0, 8.0))]
    jacobian = np.stack(columns, axis=1)
    stretched = jacobian.T @ jacobian / abs(np.linalg.det(jacobian))
    if not np.allclose(stretched, np.eye(2), atol=2 * _SQUARE):
        raise ValueError("transform: pixels are no squares, which radii in pixels and axis ratios presuppose")
    return Local(plane(i, j), jacobian)


@dataclass(frozen=True)
class Field:
    """A number of another tool and ours: ``ours = factor · theirs`` in our unit.

    `kind` is one of length, number, ratio, ellipticity, angle, brightness (a pixel), flux, mag (total), surface
    (mag/arcsec²). A factor may be a function of our other parameters and the pixel scale.
    """

    key: str
    name: str
    kind: str = "number"
    factor: float | Callable = 1.0

    def ours(self, value, local, zeropoint, params):
        """Our value of theirs."""
        factor = self.factor(params, local.scale) if callable(self.factor) else self.factor
        return factor * _KINDS[self.kind][0](float(value), local, zeropoint)

    def theirs(self, value, local, zeropoint, params):
        """Their value of ours."""
        factor = self.factor(params, local.scale) if callable(self.factor) else self.factor
        return _KINDS[self.kind][1](float(value) / factor, local, zeropoint)


def _to_mag(flux, zeropoint):
    if not flux > 0:
        raise ValueError(f"brightness: a magnitude needs one > 0, got {flux:g}")
    return zeropoint - 2.5 * math.log10(flux)


def _same(value, local, zeropoint):
    return value


def _from_mag(value, local, zeropoint):
    return 10 ** (-0.4 * (value - zeropoint))


_KINDS = {
    "number": (_same, _same),
    "ratio": (_same, _same),
    "flux": (_same, _same),
    "length": (lambda v, at, zp: v * at.scale, lambda v, at, zp: v / at.scale),
    "ellipticity": (lambda v, at, zp: 1 - v, lambda v, at, zp: 1 - v),
    "angle": (lambda v, at, zp: at.PA(v), lambda v, at, zp: at.degrees(v)),
    "brightness": (lambda v, at, zp: v / at.scale**2, lambda v, at, zp: v * at.scale**2),
    "mag": (_from_mag, lambda v, at, zp: _to_mag(v, zp)),
    "surface": (_from_mag, lambda v, at, zp: _to_mag(v, zp)),
}


def decode(fields, values, local, zeropoint):
    """Our parameters from another tool's numbers by key; an amplitude of kind `mag` is left as a total flux."""
    params = {}
    for item in sorted(fields, key=lambda item: callable(item.factor)):
        params[item.name] = item.ours(values[item.key], local, zeropoint, params)
    return params


def from_total(model, params, name):
    """Parameters with the amplitude `name`, which held the total flux, as brightness."""
    if name == "flux":
        return params
    arrays = {key: jnp.asarray(value, float) for key, value in {**params, name: 1.0}.items()}
    return {**params, name: params[name] / float(total_flux(model, arrays))}


def total(model, params):
    """Total flux as a number."""
    return float(total_flux(model, {key: jnp.asarray(value, float) for key, value in params.items()}))


def sky_parameters(level, slope, local):
    """(I0, delta) of a `plane_sky` from a level at a point and a slope (a pixel, a pixel)."""
    delta = np.linalg.solve(local.jacobian.T, np.asarray(slope, float)) / local.scale**2
    return level / local.scale**2 - delta @ local.center, delta


def sky_level(I0, delta, local):
    """The inverse of `sky_parameters`."""
    delta = np.asarray(delta, float)
    return (I0 + delta @ local.center) * local.scale**2, local.jacobian.T @ delta * local.scale**2


def scene_parts(model, params, fixed):
    """(name, model, own params, own fixed) of a scene, which may be linked, or of one component."""
    if isinstance(model, Linked):
        model, params = model.model, model.params({key: _arrays(value) for key, value in params.items()})
    if not isinstance(model, Scene):
        return [("model", model, params, fixed)]
    for name, part in model.parts:
        if hasattr(part, "parts") or kind(part) == "stamped" or hasattr(part, "components"):
            raise ValueError(f"{name}: nested scenes, copies and views have no counterpart; write their parts")
    return [(name, part, params[name], fixed.get(name, {})) for name, part in model.parts]


def _arrays(tree):
    if isinstance(tree, dict):
        return {key: _arrays(value) for key, value in tree.items()}
    return jnp.asarray(tree, float)


def warn_all(notes, path):
    """One warning that lists what was not taken over."""
    if notes:
        warnings.warn(f"{path}: not taken over:\n  " + "\n  ".join(notes), stacklevel=3)
