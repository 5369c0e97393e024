"""FITS files in and out."""

from contextlib import ExitStack
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from astropy.io import fits

from jaxphot.hdus import (
    FitsFile,
    agrees,
    exact_card,
    footprint_of_header,
    image_shape,
    inverse_cards,
    is_reference,
    psf_cards,
    read_wcs,
    transform_from_table,
    transform_table,
    wcs_cards,
    written_at_once,
)
from jaxphot.image import Image, check_window, crop, make_image
from jaxphot.psf import PSF, make_psf
from jaxphot.pytree import refuse_tracers
from jaxphot.render import check_image
from jaxphot.transforms.cmos import make_cmos
from jaxphot.transforms.linear import make_linear
from jaxphot.transforms.wcs import transform_from_wcs

_VERSION = 1  # of the layout that write_fits makes
ZEROPOINT_KEYS = ("MAGZERO", "MAGZPT", "MAGZP", "ZEROPT", "ZEROPNT", "PHOTZP")


def read_fits(
    path,
    *,
    hdu=None,
    psf=None,
    variance=None,
    std=None,
    ivar=None,
    weight=None,
    mask=None,
    zeropoint=None,
    gain=None,
    transform=None,
    pixelscale=None,
    wcs=None,
    window=None,
    dtype=None,
):
    """Read an image, with its noise, mask, PSF and place on the sky.

    Noise, mask and PSF may each be an extension of the same file (name, number or (name, EXTVER)), another file
    (path or (path, hdu)), or an array of the whole frame's shape. An integer is an extension's number; the same noise
    everywhere is a float. A name that is both an extension and a file means the extension.

    Parameters
    ----------
    path : str or path-like
    hdu : int, str or (str, int), optional
        The image's HDU; by default the first with a two-dimensional image (further axes of length 1 do not count).
    psf : PSF, array, extension or file, optional
        An oversampled one is given as ``make_psf(stamp, oversample=k)`` or ``fits.read_psf(path, oversample=k)``.
    variance, std, ivar, weight : array, float, extension or file, optional
        One of the four; `weight` is another name for `ivar`.
    mask : array, extension or file, optional
        Bad where not 0.
    zeropoint : float, optional
        Magnitude of flux 1, in the unit of the pixels. By default the header's MAGZERO, MAGZPT, MAGZP, ZEROPT, ZEROPNT
        or PHOTZP, of the image's HDU or the primary one; BUNIT and EXPTIME are not looked at.
    gain : float, optional
        counts = data · gain; not taken from foreign headers, where GAIN often is that of a single exposure.
    transform, pixelscale, wcs : optional
        One of them, instead of the header's WCS, as in `make_image`. Without any and without a celestial WCS in the
        header, the plane is the pixel grid. SPIXLOC1/2 and SPIXSCL in the header make CMOS pixels (`make_cmos`).
    window : (i0, i1, j0, j1), optional
        Read these columns and rows only (see `crop`).
    dtype : dtype, optional
        float32 or float64; by default that of the file if floating, else JAX's default.

    Returns
    -------
    Image
        What `write_fits` wrote comes back exactly, where no argument says otherwise. A WCS in the header that was
        edited since wins over what was stored.

    Raises
    ------
    FileNotFoundError, ValueError
        A file that is missing, unreadable or without an image, an extension that is not there (those present are
        listed), shapes that disagree; and all that `make_image` refuses.

    Examples
    --------
    >>> import tempfile, numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.ones((4, 5)), std=0.1, pixelscale=0.2, zeropoint=25.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_fits(folder + "/image.fits", image)
    ...     again = read_fits(folder + "/image.fits")
    >>> again.shape, float(again.zeropoint)
    ((4, 5), 25.0)
    """
    if ivar is not None and weight is not None:
        raise ValueError("ivar and weight: they are the same thing; give one")
    noise = _given(variance=variance, std=std, ivar=weight if ivar is None else ivar)
    place = _given(transform=transform, pixelscale=pixelscale, wcs=wcs)
    others = _given(mask=mask, psf=psf, zeropoint=zeropoint, gain=gain, dtype=dtype)
    with ExitStack() as stack:
        file = FitsFile(path, stack)
        science = file.image_hdu("hdu", hdu)
        if "JAXPHOT" in science.header:
            if not (noise or place or others):
                image = _stored_image(file, science)
                return image if window is None else crop(image, window)
            noise = noise or {"ivar": "IVAR"}
            others = {**{key.lower(): key for key in ("PSF", "MASK") if key in file}, **others}
            others.setdefault("gain", science.header.get("GAIN"))
        others.setdefault("zeropoint", header_zeropoint(file, science))
        return _build(file, science, noise, place, others, window)


def _given(**arguments):
    return {name: value for name, value in arguments.items() if value is not None}


def _build(file, science, noise, place, others, window):
    """The image in an HDU, by `make_image`; of its window only the part on the frame is read, the rest added."""
    frame = image_shape(science)
    inside = None
    if window is not None:
        i0, i1, j0, j1 = window = check_window(window, frame)
        inside = (max(i0, 0), min(i1, frame[1]), max(j0, 0), min(j1, frame[0]))
    transform = _transform(file, science, place, frame)
    noise = {name: file.plane(name, given, frame, inside) for name, given in noise.items()}
    mask = file.plane("mask", others.pop("mask", None), frame, inside)
    psf = others.pop("psf", None)
    image = make_image(
        file.pixels(science, inside),
        transform=transform if window is None else None,
        mask=None if mask is None else mask != 0,
        psf=_stamp(*file.find("psf", psf)) if is_reference(psf) else psf,
        **noise,
        **others,
    )
    if window is None:
        return image
    image = crop(image, (i0 - inside[0], i1 - inside[0], j0 - inside[2], j1 - inside[2]))
    return replace(image, transform=transform.crop(i0, j0, image.shape).astype(image.dtype))


def _transform(file, science, place, frame):
    if len(place) > 1:
        raise ValueError(f"{' and '.join(place)}: give one of transform, pixelscale, wcs")
    if "transform" in place:
        return place["transform"]
    if "wcs" in place:
        return transform_from_wcs(place["wcs"], frame)
    if "pixelscale" in place:
        return make_linear(pixelscale=place["pixelscale"])
    return header_transform(file, science, frame)


def header_transform(file, science, frame):
    """The transform that `write_fits` stored, else that of the header's WCS, else the pixel grid."""
    stored = _stored_transform(file, science.header)
    if stored is not None:
        return stored
    try:
        says_axes = any(key.startswith("CTYPE") for key in science.header)  # else astropy need not be asked
        wcs = read_wcs(science.header, file.hdus) if says_axes else None
        is_on_sky = wcs is not None and wcs.has_celestial
        transform = transform_from_wcs(wcs, frame) if is_on_sky else make_linear(pixelscale=1.0)
        footprint = footprint_of_header(science.header)
        return transform if footprint is None else make_cmos(transform, *footprint)
    except (ValueError, KeyError, MemoryError) as error:  # among them all that wcslib raises
        label = file.label(science)
        raise ValueError(f"{label}: its WCS cannot be used: {error}; pass pixelscale= or transform=") from None


def _stored_transform(file, header):
    """The transform in the TRANSFORM table; None without one, or where the header has been edited since."""
    if "JAXPHOT" not in header:
        return None
    if "TRANSFORM" in file:
        table = file["TRANSFORM"]
        try:
            transform = transform_from_table(table)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file.label(table)}: {error}; pass pixelscale= or transform=") from None
        if agrees(header, wcs_cards(transform)):
            return transform
    if not read_wcs(header).has_celestial:
        problem = "its TRANSFORM table is missing or disagrees with the header"
        raise ValueError(f"{file.path}: {problem}; pass pixelscale= or transform=")
    return None


def header_zeropoint(file, science):
    """Magnitude of flux 1 that the image's header, or the primary one, tells; None if neither does."""
    for header in (science.header, file[0].header):
        for key in ZEROPOINT_KEYS:
            value = header.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return float(value)
    return None


def _stored_image(file, science):
    """The image that `write_fits` wrote; its leaves are taken as they are."""
    data = file.pixels(science)
    ivar = file.plane("ivar", "IVAR", data.shape)
    if "MASK" in file:  # it follows from the other two, unless somebody has masked more since
        more = (file.plane("mask", "MASK", data.shape) != 0) & np.isfinite(data)
        ivar = np.where(more, ivar.dtype.type(0), ivar)
    dtype = jnp.asarray(data).dtype
    transform = header_transform(file, science, data.shape)
    if any(leaf.dtype != dtype for leaf in jax.tree.leaves(transform)):
        transform = transform.astype(dtype)
    psf = _stamp(*file.find("psf", "PSF")) if "PSF" in file else None
    numbers = (header_zeropoint(file, science), science.header.get("GAIN"))
    zeropoint, gain = (jnp.asarray(np.nan if number is None else number, dtype) for number in numbers)
    return Image(jnp.asarray(data), jnp.asarray(ivar), transform, psf and psf.astype(dtype), zeropoint, gain)


def read_psf(path, *, hdu=None, oversample=1, center=None, integrated=False, dtype=None):
    """Read a PSF stamp and normalise it; the arguments after `hdu` are those of `make_psf`.

    A stamp that `write_fits` wrote brings its own oversampling and centre along, and comes back exactly.

    Parameters
    ----------
    path : str or path-like
    hdu : int, str or (str, int), optional
        By default the first HDU with a two-dimensional image.
    oversample, center, integrated, dtype
        See `make_psf`.

    Returns
    -------
    PSF
    """
    with ExitStack() as stack:
        file = FitsFile(path, stack)
        return _stamp(file, file.image_hdu("hdu", hdu), oversample, center, integrated, dtype)


def _stamp(file, hdu, oversample=1, center=None, integrated=False, dtype=None):
    header, data = hdu.header, file.pixels(hdu)
    if "PSFOVER" in header:
        center = jnp.asarray([header["PSFCEN1"], header["PSFCEN2"]], jnp.asarray(data).dtype)
        psf = PSF(jnp.asarray(data), center, int(header["PSFOVER"]), bool(header["PSFINTEG"]))
        return psf if dtype is None else psf.astype(dtype)
    try:
        return make_psf(data, oversample=oversample, center=center, integrated=integrated, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{file.label(hdu)}: {error}") from None


def write_fits(path, image, overwrite=False):
    """Write an image to a FITS file that other tools understand and that `read_fits` brings back exactly.

    Parameters
    ----------
    path : str or path-like
        ``.fits.gz`` compresses.
    image : Image
        One image, not a stack.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    FileExistsError, FileNotFoundError, ValueError

    Notes
    -----
    The primary HDU holds the data, with an ordinary WCS in the header (with SIP terms where the pixels are distorted,
    and SPIXLOC1/2, SPIXSCL where only a part of them collects light), MAGZERO and GAIN. Extensions: IVAR (inverse
    variance, 0 = ignored), MASK (1 = ignored), PSF (PSFCEN1/2: its centre, 0-based; PSFOVER: cells a pixel; PSFINTEG),
    and TRANSFORM, a table with every number of the transform, which the header's cards cannot all hold exactly. The
    file appears at once or not at all. The sky's frame is not known to an image: RA and DEC are written.
    """
    check_image(image)
    refuse_tracers("files are written outside", image=image)
    hdus = [
        fits.PrimaryHDU(np.asarray(image.data), fits.Header(_image_cards(image))),
        fits.ImageHDU(np.asarray(image.ivar), name="IVAR"),
        fits.ImageHDU(np.asarray(image.mask, np.uint8), name="MASK"),
    ]
    if image.psf is not None:
        cards = psf_cards(image.psf)
        hdus.append(fits.ImageHDU(np.asarray(image.psf.data), fits.Header(cards), name="PSF"))
    hdus.append(transform_table(image.transform))
    with written_at_once(path, overwrite) as temporary:
        fits.HDUList(hdus).writeto(temporary)


def _image_cards(image):
    cards = [fits.Card("JAXPHOT", _VERSION, "layout of this file: see jaxphot.write_fits")]
    return cards + wcs_cards(image.transform) + inverse_cards(image.transform) + flux_cards(image)


def flux_cards(image):
    """MAGZERO and GAIN, where known."""
    both = (("MAGZERO", image.zeropoint, "magnitude of flux 1"), ("GAIN", image.gain, "counts = data * gain"))
    return [exact_card(key, value, comment) for key, value, comment in both if not np.isnan(value)]
