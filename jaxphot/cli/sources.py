"""Images as a manifest names them: files, planes of a cube, cutouts of a frame about positions of a catalogue.

Files stay open while rows go on using them, so that a plane or a cutout costs no more than its pixels.
"""

import re
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fits import header_transform, header_zeropoint, read_psf
from jaxphot.hdus import FitsFile
from jaxphot.image import Image, estimate_variance
from jaxphot.noise import inverse_variance
from jaxphot.psf import make_psf
from jaxphot.transforms.linear import make_linear
from jaxphot.transforms.sky import sky_to_pixel

NOISES = {"variance": "variance", "sigma": "std", "ivar": "ivar"}
_SCALARS = ("zeropoint", "gain")
_OPEN_FILES = 8
_LARGEST_SIDE = 100_000  # pixels of a cutout
_WITH_HDU = re.compile(r"(.+)\[([^\[\]]+)\]$")


class Sources:
    """Makes the image of each row of a manifest.

    Parameters
    ----------
    manifest : Manifest
    given : dict
        What holds for all rows that do not say otherwise, by the names of the manifest's columns, and
        `psf_oversample`.
    dtype : dtype

    Attributes
    ----------
    without_noise : int
        How many images had no noise of any kind, so that every pixel counts with σ = 1.
    """

    def __init__(self, manifest, given, dtype):
        self.manifest, self.given, self.dtype = manifest, given, dtype
        self._frames, self._psfs = OrderedDict(), OrderedDict()
        self.without_noise = 0

    def image(self, row):
        """The image of a row.

        Raises
        ------
        Exception
            Whatever is wrong with its files or numbers.
        """
        name = self._said("image", row)
        if name is None:
            raise ValueError("image: the row names none; give a column image, or --image for all rows")
        frame = self._frame(name, self._said("hdu", row))
        said = {argument: self._said(argument, row) for argument in (*NOISES, "mask", "psf", "gain", "zeropoint")}
        if all(said[argument] is None for argument in NOISES):
            said.update({argument: value for argument, value in frame.own.items() if said[argument] is None})
        self.without_noise += all(said[argument] is None for argument in NOISES)
        is_estimated = said["sigma"] == "auto"
        if is_estimated:
            said["sigma"] = 1.0
        plane, window = frame.plane_of(self, row), self._window(frame, row)
        read = lambda argument: self._plane(frame, argument, said[argument], plane, window)  # noqa: E731
        noise = {name: read(argument) for argument, name in NOISES.items()}
        mask = read("mask")
        scale = self._said("pixelscale", row)
        transform = frame.transform if scale is None else make_linear(pixelscale=float(scale)).astype(self.dtype)
        if window is not None:
            transform = transform.crop(window[0], window[2], (window[3] - window[2], window[1] - window[0]))
        known = {"zeropoint": frame.zeropoint, "gain": None, **{k: v for k, v in said.items() if v is not None}}
        numbers = {key: np.asarray(known[key] if known[key] is not None else np.nan, self.dtype) for key in _SCALARS}
        data = np.asarray(frame.pixels(frame.hdu, plane, window), self.dtype)
        weights = inverse_variance(data, **noise, mask=None if mask is None else ~(mask == 0), dtype=self.dtype)
        # NumPy's arrays, since each would cost a way to the device and back before it joins a batch
        image = Image(data, weights.astype(self.dtype), transform, self._psf(frame, said["psf"], plane), **numbers)
        if not is_estimated:
            return image
        return replace(image, ivar=jnp.where(image.mask, 0, 1 / estimate_variance(image)).astype(image.dtype))

    def close(self):
        """Close all files."""
        while self._frames:
            self._frames.popitem()[1].close()

    def _said(self, name, row, default=None):
        value = self.manifest.cell(name, row)
        if value is None:
            value = self.given.get(name)
        return default if value is None else value

    def _path(self, text):
        """(path, HDU) that a text means; relative paths are from the manifest's folder, else from the working one."""
        match = _WITH_HDU.match(text)
        path, hdu = match.groups() if match else (text, None)
        beside = self.manifest.path.parent / path
        hdu = int(hdu) if hdu is not None and hdu.lstrip("-").isdigit() else hdu
        return (beside if beside.exists() else Path(path)), hdu

    def _frame(self, text, hdu=None):
        path, own = self._path(text)
        if own is None and hdu is not None:
            own = int(hdu) if str(hdu).lstrip("-").isdigit() else hdu
        key = (path, own)
        if key not in self._frames:
            self._frames[key] = _Frame(path, own, self.dtype)
            if len(self._frames) > _OPEN_FILES:
                self._frames.popitem(last=False)[1].close()
        self._frames.move_to_end(key)
        return self._frames[key]

    def _window(self, frame, row):
        """(i0, i1, j0, j1) of a cutout; None for the whole frame."""
        x, y, ra, dec = (self.manifest.cell(name, row) for name in ("x", "y", "ra", "dec"))
        if (x is None or y is None) and (ra is None or dec is None):
            return None
        size = self._said("size", row)
        if size is None:
            return None
        size = float(size)
        if not 1 <= size <= _LARGEST_SIDE:
            raise ValueError(f"size: expected from 1 to {_LARGEST_SIDE} pixels, got {size:g}")
        if x is None or y is None:
            x, y = frame.positions(self.manifest)[:, row]
        if not (np.isfinite(x) and np.isfinite(y)):
            raise ValueError(f"ra, dec: {ra}, {dec} is nowhere near the image")
        side, (ny, nx) = int(size), frame.shape
        i0, j0 = round(float(x)) - side // 2, round(float(y)) - side // 2
        if i0 >= nx or j0 >= ny or i0 + side <= 0 or j0 + side <= 0:
            raise ValueError(
                f"position: the cutout about pixel ({x:.1f}, {y:.1f}) is off the image of {nx} × {ny} pixels"
            )
        return i0, i0 + side, j0, j0 + side

    def _plane(self, frame, argument, value, plane, window):
        """Noise or mask: a number, an extension of the image's file or another file; None without any."""
        if value is None:
            return None
        number = _as_number(value)
        if number is not None:
            shape = frame.shape if window is None else (window[3] - window[2], window[1] - window[0])
            return np.full(shape, number)
        hdu = frame.extension(value)
        other = frame
        if hdu is None:
            other = self._frame(str(value))
            hdu = other.hdu
        if hdu.shape[-2:] != frame.hdu.shape[-2:]:
            raise ValueError(f"{argument}: {other.path} has shape {hdu.shape}, but the image has {frame.hdu.shape}")
        return other.pixels(hdu, plane, window, fill=1.0 if argument == "mask" else 0.0)

    def _psf(self, frame, value, plane):
        """The PSF that a row names, kept for the next rows; a cube of stamps has one for each plane."""
        if value is None:
            return None
        own = frame.extension(value)
        key = (frame.path, value, plane) if own is not None else (str(value), plane)
        if key not in self._psfs:
            options = {"oversample": int(self.given.get("psf_oversample") or 1), "dtype": self.dtype}
            path, number = self._path(str(value))
            if own is not None and len(own.shape) == 3:
                self._psfs[key] = make_psf(frame.pixels(own, plane, None), **options)
            elif own is not None:
                self._psfs[key] = read_psf(frame.path, hdu=own.name or str(value), **options)
            else:
                self._psfs[key] = read_psf(path, hdu=number, **options)
            if len(self._psfs) > _OPEN_FILES:
                self._psfs.popitem(last=False)
        return self._psfs[key]


class _Frame:
    """An open file with an image or a cube, and what its header says."""

    def __init__(self, path, key, dtype):
        self.path = path
        self._stack = ExitStack()
        try:
            self.file = FitsFile(path, self._stack, "image")
            self.hdu = self.file.image_hdu("image", key, cubes=True)
            self.shape = tuple(self.hdu.shape[-2:])
            self.exact = header_transform(self.file, self.hdu, self.shape)
            cast = self.exact if self.exact.crval.dtype == dtype else self.exact.astype(dtype)
            self.transform = jax.tree.map(np.asarray, cast)
            self.zeropoint = header_zeropoint(self.file, self.hdu)
            self.own = self._own() if "JAXPHOT" in self.hdu.header else {}
        except BaseException:
            self._stack.close()
            raise
        self._positions = None

    def _own(self):
        """Noise, mask, PSF and gain that `write_fits` put into the same file."""
        names = {key.lower(): key for key in ("IVAR", "MASK", "PSF") if key in self.file}
        gain = self.hdu.header.get("GAIN")
        return names if gain is None else {**names, "gain": gain}

    def close(self):
        """Close the file."""
        self._stack.close()

    def extension(self, value):
        """The HDU of this file that a text names, or None."""
        text = str(value)
        names = {hdu.name.upper() for hdu in self.file.hdus if hdu.name}
        is_number = text.isdigit() and int(text) < len(self.file.hdus)
        if text.upper() not in names and not is_number:
            return None
        return self.file.image_hdu(text, int(text) if is_number else text, cubes=True)

    def plane_of(self, sources, row):
        """Which plane of a cube a row means: its `plane`, else its number; None where there is no cube."""
        if len(self.hdu.shape) == 2:
            return None
        plane = sources.manifest.cell("plane", row, row)
        count = self.hdu.shape[0]
        if plane != int(plane) or not 0 <= plane < count:
            raise ValueError(f"plane: expected an integer from 0 to {count - 1}, got {plane:g}")
        return int(plane)

    def positions(self, manifest):
        """Pixel positions (2, N) of all rows' ra and dec in this frame; calculated once, together."""
        if self._positions is None:
            ra, dec = (np.asarray(manifest.columns[name], np.float64) for name in ("ra", "dec"))
            dec = np.where(np.abs(dec) <= 90, dec, np.nan)
            ra, dec = (np.where(np.isfinite(ra + dec), values, np.nan) for values in (ra, dec))
            known = np.isfinite(ra)
            self._positions = np.full((2, len(ra)), np.nan)
            self._positions[:, known] = np.asarray(sky_to_pixel(self.exact, ra[known], dec[known]))
        return self._positions

    def pixels(self, hdu, plane, window, fill=np.nan):
        """Pixels of a plane and a window; what lies beyond the frame is filled."""
        ny, nx = hdu.shape[-2:]
        i0, i1, j0, j1 = (0, nx, 0, ny) if window is None else window
        inside = (max(j0, 0), min(j1, ny), max(i0, 0), min(i1, nx))
        place = (slice(*inside[:2]), slice(*inside[2:]))
        if len(hdu.shape) == 3:
            place = (plane if hdu.shape[0] > 1 else 0, *place)
        try:
            values = np.asarray(hdu.section[place])
        except Exception as error:
            raise ValueError(f"{self.path}: its pixels cannot be read: {error}") from None
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if values.shape == (j1 - j0, i1 - i0):
            return values
        padded = np.full((j1 - j0, i1 - i0), fill, np.result_type(values.dtype, np.float32))
        padded[inside[0] - j0 : inside[1] - j0, inside[2] - i0 : inside[3] - i0] = values
        return padded


def remark_on_noise(count):
    """What to tell the user of images without noise."""
    images = "the image has" if count == 1 else f"{count} images have"
    return (
        f"jaxphot: note: {images} no noise: σ = 1 was taken for every pixel, so neither χ² nor errors mean anything;"
        " give --sigma, --variance or --ivar, or --sigma auto to estimate it from the pixels"
    )


def _as_number(value):
    """A text as a number, but for an integer, which is an extension's; None for what is none."""
    try:
        return None if isinstance(value, str) and value.strip().lstrip("+-").isdigit() else float(value)
    except ValueError:
        return None
