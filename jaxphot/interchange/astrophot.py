"""Images that AstroPhot (Stone et al. 2023, MNRAS 525, 6377) saved."""

import json
import math
import re
from contextlib import ExitStack

import numpy as np

from jaxphot.fits import read_fits, read_psf
from jaxphot.hdus import FitsFile, footprint_of_header, image_shape
from jaxphot.transforms.cmos import make_cmos
from jaxphot.transforms.linear import make_linear
from jaxphot.transforms.sip import make_sip
from jaxphot.units import ARCSEC_PER_DEG

_UNKNOWN = -998.0  # a MAGZP below this stands for none


def read_astrophot(path, *, hdu=0, **changes):
    """Read a target image that AstroPhot saved, with its weights, mask, PSF and place on the tangent plane.

    Parameters
    ----------
    path : str or path-like
    hdu : int or str
        The image's HDU.
    **changes
        Arguments of `read_fits` in place of what the file says.

    Returns
    -------
    Image
        In AstroPhot's own tangent plane, so that centres (arcsec) are the same numbers.

    Raises
    ------
    ValueError
        No image, no keys that tell where its pixels are, or a plane that is no gnomonic one.

    Notes
    -----
    Read are CD, CRPIX, CRVAL, CRTAN1/2 (plane position of the reference pixel, arcsec), SIP coefficients A_p_q and
    B_p_q whatever CTYPE says, SPIXLOC1/2 and SPIXSCL (CMOS pixels), MAGZP (−999: unknown), and the extensions WEIGHT
    (inverse variance), MASK or DQ, and PSF, whose oversampling is the ratio of the pixel scales.

    Versions before 0.17 wrote other keys, which are read as well: PXLSCALE (the matrix, arcsec/pixel), REFIMGIJ (a
    pixel, from 0) and REFIMGXY (its plane position), REFRADEC and REFPLNXY (the same for a position on the sky),
    ZEROPNT, and IMAGE, which says what an extension is.
    """
    with ExitStack() as stack:
        file = FitsFile(path, stack)
        science = file.image_hdu("hdu", hdu)
        header = science.header
        if "CD1_1" not in header and "PXLSCALE" not in header:
            raise ValueError(f"{file.label(science)}: no CD matrix; it is no image that AstroPhot saved")
        known = {"transform": _transform(header, image_shape(science), file.label(science))}
        known["zeropoint"] = _zeropoint(header)
        planes = {}
        for number, other in enumerate(file.hdus):  # by the name, or the key IMAGE of older versions
            planes.setdefault(other.name or str(other.header.get("IMAGE", "")).upper(), number)
        for name, argument in (("WEIGHT", "ivar"), ("MASK", "mask"), ("DQ", "mask")):
            if name in planes:
                known.setdefault(argument, planes[name])
        if "PSF" in planes:
            number = planes["PSF"]
            known["psf"] = read_psf(path, hdu=number, oversample=_oversampling(header, file.hdus[number].header))
    return read_fits(path, hdu=hdu, **{**known, **changes})


def _zeropoint(header):
    """NaN where unknown; older versions wrote a number as text."""
    try:
        zeropoint = float(header.get("MAGZP", header.get("ZEROPNT", math.nan)))
    except (TypeError, ValueError):
        return math.nan
    return zeropoint if zeropoint > _UNKNOWN else math.nan


def _numbers(header, key, shape, default):
    """An array that older versions wrote as text, such as ``[[0.2, 0.0], [0.0, 0.2]]``."""
    text = header.get(key)
    if text is None:
        return np.asarray(default, float)
    try:
        return np.asarray(json.loads(str(text)), float).reshape(shape)
    except (ValueError, TypeError):
        raise ValueError(f"{key}: expected {math.prod(shape)} numbers in brackets, got {str(text)[:80]!r}") from None


def _cd(header):
    """Arcsec a pixel."""
    if "CD1_1" not in header:
        return _numbers(header, "PXLSCALE", (2, 2), None)
    degrees = [[header.get(f"CD{n}_{m}", 0.0) for m in (1, 2)] for n in (1, 2)]
    return np.asarray(degrees, float) * ARCSEC_PER_DEG


def _oversampling(image, psf):
    if "CD1_1" not in psf and "PXLSCALE" not in psf:
        return 1
    return max(round(math.sqrt(abs(np.linalg.det(_cd(image)) / np.linalg.det(_cd(psf))))), 1)


def _old_place(header, label):
    if (projection := header.get("PROJ", "gnomonic")) != "gnomonic":
        raise ValueError(f"{label}: its plane is {projection!r}; expected 'gnomonic'")
    at = _numbers(header, "REFIMGXY", (2,), (0, 0)) - _numbers(header, "REFPLNXY", (2,), (0, 0))
    return {
        "cd": _cd(header),
        "crpix": tuple(_numbers(header, "REFIMGIJ", (2,), (-0.5, -0.5))),
        "crtan": tuple(at),
        "crval": tuple(_numbers(header, "REFRADEC", (2,), (0, 0))),
    }


def _transform(header, shape, label):
    if "CD1_1" not in header:
        return make_linear(**_old_place(header, label))
    place = {
        "cd": _cd(header),
        "crpix": tuple(header[f"CRPIX{n}"] - 1 for n in (1, 2)),
        "crtan": tuple(header.get(f"CRTAN{n}", 0.0) for n in (1, 2)),
        "crval": tuple(header.get(f"CRVAL{n}", 0.0) for n in (1, 2)),
    }
    sip = {name: _coefficients(header, name) for name in ("A", "B", "AP", "BP")}
    inverse = {name.lower(): sip[name] for name in ("AP", "BP") if sip[name]}
    distorted = sip["A"] or sip["B"]
    transform = make_sip(shape, sip["A"], sip["B"], **inverse, **place) if distorted else make_linear(**place)
    footprint = footprint_of_header(header)
    return transform if footprint is None else make_cmos(transform, *footprint)


def _coefficients(header, name):
    found = {key: re.fullmatch(rf"{name}_(\d)_(\d)", key) for key in header}
    return {(int(m[1]), int(m[2])): float(header[key]) for key, m in found.items() if m}
