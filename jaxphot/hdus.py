"""What `jaxphot.fits` is made of: open files, header cards, and tables that hold a transform exactly.

A new transform is made known to files in `_WCS_CARDS` below.
"""

import dataclasses
import json
import math
import os
import uuid
import warnings
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS, FITSFixedWarning

from jaxphot.transforms.cmos import CMOS
from jaxphot.transforms.grid import DisplacementGrid
from jaxphot.transforms.linear import Linear
from jaxphot.transforms.polynomial import order_of
from jaxphot.transforms.sip import SIP, fit_inverse_coefficients, polynomial_error
from jaxphot.units import ARCSEC_PER_DEG

_VISIBLE = 1e-3  # pixels
_STRONGEST_COMPRESSION = 2000  # bytes of an image ÷ bytes of its file
_IMAGE_HDUS = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)


class FitsFile:
    """An open FITS file that can say what is in it, and find what an argument of `read_fits` means.

    `stack`, an ExitStack, closes it and every other file that its arguments refer to.
    """

    def __init__(self, path, stack, argument="path"):
        self.path, self.hdus = _open(path, argument)
        self.stack = stack
        stack.enter_context(self.hdus)

    def __contains__(self, name):
        return name in self.hdus

    def __getitem__(self, key):
        return self.hdus[key]

    def label(self, hdu):
        """``galaxy.fits[1]``, for error messages."""
        return f"{self.path}[{next(n for n, other in enumerate(self.hdus) if other is hdu)}]"

    def contents(self):
        """What there is, for error messages."""
        items = []
        for number, hdu in enumerate(self.hdus):
            kind = hdu.shape if isinstance(hdu, _IMAGE_HDUS) else "table"
            items.append(f"{number} {hdu.name} {kind}" if hdu.name else f"{number} {kind}")
        return f"{self.path} has " + ", ".join(items)

    def image_hdu(self, argument, key=None, cubes=False):
        """The HDU with this name or number, which must hold an image (or a cube); by default the first that does."""
        if key is None:
            found = next((hdu for hdu in self.hdus if image_shape(hdu, cubes)), None)
            if found is None:
                raise ValueError(f"{argument}: no two-dimensional image; {self.contents()}")
            return found
        try:
            found = self.hdus[key]
        except (KeyError, IndexError):
            raise ValueError(f"{argument}: there is no HDU {key!r}; {self.contents()}") from None
        if not image_shape(found, cubes):
            raise ValueError(f"{argument}: HDU {key!r} holds no two-dimensional image; {self.contents()}")
        return found

    def pixels(self, hdu, inside=None):
        """The image of an HDU, or its window (i0, i1, j0, j1), in native byte order."""
        try:
            if inside is None:
                values = hdu.data
            else:
                i0, i1, j0, j1 = inside
                values = hdu.section[..., j0:j1, i0:i1]
            return np.array(values, values.dtype.newbyteorder("=")).reshape(values.shape[-2:])
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{self.label(hdu)}: its pixels cannot be read: {error}") from None

    def plane(self, argument, given, frame, inside=None):
        """Pixels of the window `inside`, from an extension, another file or an array; None and floats stay."""
        if given is None or isinstance(given, (float, np.floating)):
            return given
        if not is_reference(given):
            values = np.asarray(given)
            if values.ndim == 0:
                raise TypeError(f"{argument}: expected an extension, a file, a float or an array, got {given!r}")
            _check_frame(argument, "the array", values.shape, frame)
            return values if inside is None else values[inside[2] : inside[3], inside[0] : inside[1]]
        file, hdu = self.find(argument, given)
        _check_frame(argument, file.label(hdu), image_shape(hdu), frame)
        return file.pixels(hdu, inside)

    def find(self, argument, given):
        """(file, HDU) that an extension, a path or a (path, HDU) means."""
        names = {hdu.name.upper() for hdu in self.hdus if hdu.name}
        first = given[0] if isinstance(given, tuple) else given
        if isinstance(first, (int, np.integer)) or (isinstance(first, str) and first.upper() in names):
            return self, self.image_hdu(argument, given)
        if isinstance(first, str) and not os.path.exists(first):
            raise ValueError(f"{argument}: {first!r} is neither an extension nor an existing file; {self.contents()}")
        file = FitsFile(first, self.stack, argument)
        return file, file.image_hdu(argument, given[1] if isinstance(given, tuple) else None)


def _open(path, argument):
    try:
        path = Path(path)
    except TypeError:
        raise TypeError(f"{argument}: expected the path of a FITS file, got {type(path).__name__}") from None
    if not path.exists():
        raise FileNotFoundError(f"{argument}: there is no file {path}")
    try:
        # recorded rather than turned into an error, which would leave astropy's file open
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always", AstropyUserWarning)
            # not mapped: all that was ever read of a mapped cube would count as the memory of this process
            hdus = fits.open(path, memmap=False)
            try:
                _check_sizes(hdus, path.stat().st_size)  # reads every header
            except BaseException:
                hdus.close()
                raise
    except Exception as error:  # astropy raises nearly anything for headers that make no sense
        reason = str(error).partition(" If this is really a FITS")[0] or type(error).__name__
        raise ValueError(f"{argument}: {path} is not a readable FITS file: {reason}") from None
    if any("truncated" in str(remark.message) for remark in remarks):
        hdus.close()
        raise ValueError(f"{argument}: {path} is not a readable FITS file: it is truncated")
    return path, hdus


def _check_sizes(hdus, file_size):
    """Refuse headers that promise more pixels than a file of this size can hold, before memory is asked for."""
    for hdu in hdus:
        if isinstance(hdu, _IMAGE_HDUS) and hdu.shape:
            promised = math.prod(hdu.shape) * abs(int(hdu.header.get("BITPIX", 8))) // 8
            if min(hdu.shape) < 0 or promised > _STRONGEST_COMPRESSION * file_size:
                shape = " × ".join(str(side) for side in reversed(hdu.shape))
                raise OSError(f"HDU {hdu.name or 0} promises {shape} pixels, but the file has {file_size} bytes")


def is_reference(given):
    """True for what `FitsFile.find` understands: an extension's name or number, a path, or a pair of them."""
    is_number = isinstance(given, (int, np.integer)) and not isinstance(given, bool)
    is_pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], (str, os.PathLike))
    return is_number or is_pair or isinstance(given, (str, os.PathLike))


def image_shape(hdu, cubes=False):
    """(ny, nx) of an HDU's image, or of a cube's planes, or None; axes before these may have length 1."""
    shape = hdu.shape if isinstance(hdu, _IMAGE_HDUS) else ()
    is_image = len(shape) >= 2 and 0 not in shape and all(size == 1 for size in shape[: -3 if cubes else -2])
    return tuple(shape[-2:]) if is_image else None


def _check_frame(argument, label, shape, frame):
    if shape != frame:
        raise ValueError(f"{argument}: {label} has shape {shape}, but the image has {frame}")


@contextmanager
def written_at_once(path, overwrite):
    """A temporary path that becomes `path` when all went well, and leaves nothing behind when not."""
    try:
        path = Path(path)
    except TypeError:
        raise TypeError(f"path: expected the path of a file, got {type(path).__name__}") from None
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"path: {path} is a folder")
    if path.exists() and not overwrite:
        raise FileExistsError(f"path: {path} exists; pass overwrite=True to replace it")
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_wcs(header, hdus=None):
    """The astropy WCS of a header, without astropy's remarks on dates and units that it has put right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(header, hdus)


def exact_card(key, value, comment=""):
    """A header card with every digit of a float64; `fits.Card` itself cuts numbers off at 20 characters."""
    if not np.isfinite(value):
        raise ValueError(f"image: its {comment or key} is {value}, which a FITS header cannot hold")
    number = repr(float(value)).upper()
    return fits.Card.fromstring(f"{key:8}= {number:>20}" + (f" / {comment}" if comment else ""))


def psf_cards(psf):
    """Centre, sampling and kind of a PSF stamp; ValueError for a PSF that varies over the frame."""
    if not hasattr(psf, "data"):
        raise ValueError("image: its PSF varies over the frame, for which there is no file yet; crop takes one of it")
    return [
        exact_card("PSFCEN1", psf.center[0], "column of the source, 0-based"),
        exact_card("PSFCEN2", psf.center[1], "row of the source, 0-based"),
        fits.Card("PSFOVER", psf.oversample, "cells a pixel, along each axis"),
        fits.Card("PSFINTEG", psf.integrated, "values are integrals over their cells"),
    ]


def _linear_cards(transform, suffix=""):
    """CTYPE, CRVAL, CRPIX and CD; the plane's origin is at CRVAL, so `crtan` is folded into CRPIX."""
    cd, crpix, crtan, crval, crval_lo = (
        np.asarray(getattr(transform, name), np.float64) for name in ("cd", "crpix", "crtan", "crval", "crval_lo")
    )
    # a distortion is written about crpix, which must stay: there `crtan` goes into its constant term
    crpix = crpix + 1 - (0 if suffix else np.linalg.solve(cd, crtan))
    on_sky = not np.any(np.isnan(crval))
    crval, cd = (crval + crval_lo, cd / ARCSEC_PER_DEG) if on_sky else (np.zeros(2), cd)
    names = ("RA---TAN" + suffix, "DEC--TAN" + suffix) if on_sky else ("X", "Y")
    cards = []
    for n in (0, 1):
        cards.append(fits.Card(f"CTYPE{n + 1}", names[n]))
        cards.append(fits.Card(f"CUNIT{n + 1}", "deg" if on_sky else "arcsec"))
        cards.append(exact_card(f"CRVAL{n + 1}", crval[n]))
        cards.append(exact_card(f"CRPIX{n + 1}", crpix[n]))
        cards.extend(exact_card(f"CD{n + 1}_{m + 1}", cd[n, m]) for m in (0, 1))
    return cards


def _sip_cards(transform):
    constant = np.linalg.solve(*(np.asarray(value, np.float64) for value in (transform.cd, transform.crtan)))
    cards = _linear_cards(transform.linear, "-SIP")
    for name, coefficients, shift in (("A", transform.a, constant[0]), ("B", transform.b, constant[1])):
        shifted = np.array(coefficients, np.float64)
        shifted[0, 0] += shift
        cards.extend(_coefficient_cards(name, shifted))
    return cards


def _coefficient_cards(name, coefficients):
    """A_ORDER, A_0_2, … of coefficients c[p, q]; astropy drops or refuses a distortion of order 1."""
    cards = [fits.Card(f"{name}_ORDER", max(order_of(coefficients), 2))]
    return cards + [exact_card(f"{name}_{p}_{q}", coefficients[p, q]) for p, q in np.argwhere(coefficients != 0)]


def _cmos_cards(transform):
    loc, scale = np.asarray(transform.loc, np.float64), np.asarray(transform.scale, np.float64)
    sides = {"SPIXSCL": scale[0]} if scale[0] == scale[1] else {"SPIXSCL1": scale[0], "SPIXSCL2": scale[1]}
    places = {"SPIXLOC1": loc[0], "SPIXLOC2": loc[1], **sides}
    return wcs_cards(transform.inner) + [exact_card(key, value) for key, value in places.items()]


# Transforms that a file can hold, and the header cards that tell other tools where their pixels are. A new transform
# is one line here and a function of its cards; its numbers are stored whatever they are.
_WCS_CARDS = {
    Linear: _linear_cards,
    SIP: _sip_cards,
    CMOS: _cmos_cards,
}
_PARTS = (DisplacementGrid,)  # of transforms


def wcs_cards(transform):
    """Header cards of a transform's WCS."""
    if type(transform) not in _WCS_CARDS:
        known = ", ".join(kind.__name__ for kind in _WCS_CARDS)
        raise TypeError(f"image: its transform is a {type(transform).__name__}; a FITS file can hold {known}")
    return _WCS_CARDS[type(transform)](transform)


def inverse_cards(transform):
    """AP and BP of a SIP transform: as they were given, else fitted. Other tools start or end there; jaxphot does not.

    Warns where A and B themselves, of a distortion that is no such polynomial, are off.
    """
    transform = getattr(transform, "inner", transform)
    if not isinstance(transform, SIP):
        return []
    error = polynomial_error(transform)
    if error > _VISIBLE:
        warnings.warn(
            f"image: its distortion is no SIP polynomial: the WCS in the header is off by up to {error:.2g} pixels;"
            " read_fits brings back the exact one",
            stacklevel=3,
        )
    if np.any(np.asarray(transform.crtan) != 0):  # AP and BP would have to be written about another point
        return []
    ap, bp = (np.asarray(c, np.float64) for c in (transform.ap, transform.bp))
    if not (np.any(ap) or np.any(bp)):
        ap, bp, _ = fit_inverse_coefficients(transform)
    return _coefficient_cards("AP", ap) + _coefficient_cards("BP", bp)


def footprint_of_header(header):
    """(loc, scale) of a CMOS pixel from SPIXLOC1/2 and SPIXSCL or SPIXSCL1/2; None without them."""
    scale = header.get("SPIXSCL", header.get("SPIXSCL1"))
    if scale is None:
        return None
    loc = (header.get("SPIXLOC1", 0.0), header.get("SPIXLOC2", 0.0))
    return loc, (scale, header.get("SPIXSCL2", scale))


def agrees(header, cards):
    """True where a header still says what these cards do, up to rounding."""
    for card in cards:
        value = header.get(card.keyword)
        if isinstance(card.value, float) and isinstance(value, (int, float)):
            if not np.isclose(value, card.value, rtol=1e-12, atol=0):
                return False
        elif value != card.value:
            return False
    return True


def transform_table(transform):
    """A table HDU whose one row has a column for every leaf; its NODES card says to which classes they belong."""
    nodes, leaves = {}, {}
    _take_apart(transform, "", nodes, leaves)
    row = np.zeros(1, [(name, leaf.dtype, leaf.shape) for name, leaf in leaves.items()])
    for name, leaf in leaves.items():
        row[name] = leaf
    return fits.BinTableHDU(row, fits.Header([fits.Card("NODES", json.dumps(nodes, default=int))]), name="TRANSFORM")


def _take_apart(node, path, nodes, leaves):
    static = {}
    for field in dataclasses.fields(node):
        value, name = getattr(node, field.name), f"{path}{field.name}"
        if field.metadata.get("static", False):
            static[field.name] = value
        elif dataclasses.is_dataclass(value):
            _take_apart(value, f"{name}.", nodes, leaves)
        else:
            leaves[name] = np.asarray(value)
    nodes[path] = [type(node).__name__, static]


def transform_from_table(table):
    """The transform that `transform_table` stored."""
    # columns by number: FITS does not tell names apart that differ in case only
    columns = [np.asarray(table.data.field(n)[0]) for n in range(len(table.columns))]
    native = [column.astype(column.dtype.newbyteorder("=")) for column in columns]
    leaves = dict(zip(table.columns.names, native, strict=True))
    transform = _put_together("", json.loads(table.header["NODES"]), leaves)
    if any(leaf.dtype != jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in jax.tree.leaves(transform)):
        transform = transform.astype(np.float32)  # splits crval, where JAX's own cast would round it
    return jax.tree.map(jnp.asarray, transform)


def _put_together(path, nodes, leaves):
    kind_name, static = nodes[path]
    kind = next((kind for kind in (*_WCS_CARDS, *_PARTS) if kind.__name__ == kind_name), None)
    if kind is None:
        raise ValueError(f"its transform is a {kind_name}, which this version of jaxphot does not know")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in static.items()}
    for field in dataclasses.fields(kind):
        name = f"{path}{field.name}"
        if f"{name}." in nodes:
            values[field.name] = _put_together(f"{name}.", nodes, leaves)
        elif name in leaves:
            values[field.name] = leaves[name]
    return kind(**values)
