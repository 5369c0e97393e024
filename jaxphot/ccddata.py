"""Astropy's CCDData and NDData in and out."""

import numpy as np
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, NDData

from jaxphot.fits import ZEROPOINT_KEYS, flux_cards
from jaxphot.hdus import footprint_of_header, inverse_cards, psf_cards, read_wcs, wcs_cards
from jaxphot.image import make_image
from jaxphot.psf import make_psf
from jaxphot.render import check_image
from jaxphot.transforms.cmos import make_cmos
from jaxphot.transforms.linear import make_linear
from jaxphot.transforms.wcs import transform_from_wcs

_CREATOR = "jaxphot"  # marks a CCDData whose GAIN means counts = data · gain


def from_ccddata(ccd, *, psf=None, zeropoint=None, gain=None, dtype=None):
    """An image from astropy's CCDData or NDData: data, uncertainty of any kind, mask, WCS and PSF.

    Parameters
    ----------
    ccd : astropy.nddata.NDData
        The unit of the data is not kept; an uncertainty in another unit is converted to it.
    psf, zeropoint, gain : optional
        Instead of ``ccd.psf`` and of what the header (``ccd.meta``) says, by the keys of `read_fits`.
    dtype : dtype, optional

    Returns
    -------
    Image

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.nddata import CCDData, StdDevUncertainty
    >>> ccd = CCDData(np.ones((2, 3)), uncertainty=StdDevUncertainty(np.full((2, 3), 0.5)), unit="adu")
    >>> float(from_ccddata(ccd).ivar[0, 0])
    4.0
    """
    if not isinstance(ccd, NDData):
        raise TypeError(f"ccd: expected an astropy NDData or CCDData, got {type(ccd).__name__}")
    data, meta = np.asarray(ccd.data), dict(ccd.meta or {})
    stamp = getattr(ccd, "psf", None)
    if psf is None and stamp is not None:
        center = None if "PSFCEN1" not in meta else (meta["PSFCEN1"], meta["PSFCEN2"])
        psf = make_psf(
            stamp, center=center, oversample=meta.get("PSFOVER", 1), integrated=bool(meta.get("PSFINTEG", False))
        )
    return make_image(
        data.astype(data.dtype.newbyteorder("=")),
        **_uncertainty(ccd),
        mask=None if ccd.mask is None else np.broadcast_to(ccd.mask, data.shape),
        transform=_ccd_transform(ccd.wcs, data.shape, meta),
        psf=psf,
        zeropoint=next((meta[key] for key in ZEROPOINT_KEYS if key in meta), None) if zeropoint is None else zeropoint,
        gain=meta.get("GAIN") if gain is None and meta.get("CREATOR") == _CREATOR else gain,
        dtype=dtype,
    )


def _ccd_transform(wcs, shape, meta):
    """The transform of a WCS, or the pixel grid, with the footprint that the header tells."""
    on_sky = wcs is not None and getattr(wcs, "has_celestial", True)
    transform = transform_from_wcs(wcs, shape) if on_sky else make_linear(pixelscale=1.0)
    footprint = footprint_of_header(meta)
    return transform if footprint is None else make_cmos(transform, *footprint)


def _uncertainty(ccd):
    """The noise of an NDData as an argument of `make_image`, in the unit of its data."""
    uncertainty = ccd.uncertainty
    if uncertainty is None:
        return {}
    powers = {"std": ("std", 1), "var": ("variance", 2), "ivar": ("ivar", -2)}
    if uncertainty.uncertainty_type not in powers:
        known = ", ".join(powers)
        raise ValueError(f"ccd: its uncertainty is of type {uncertainty.uncertainty_type!r}; expected one of {known}")
    name, power = powers[uncertainty.uncertainty_type]
    both_known = uncertainty.unit is not None and ccd.unit is not None
    factor = uncertainty.unit.to(ccd.unit**power) if both_known else 1.0
    return {name: np.asarray(uncertainty.array, np.float64) * factor}


def to_ccddata(image, unit=""):
    """An image as astropy's CCDData, with its inverse variance, mask, WCS (if on the sky) and PSF stamp.

    Parameters
    ----------
    image : Image
    unit : str or astropy unit
        Of the data; dimensionless by default.

    Returns
    -------
    astropy.nddata.CCDData
        Zero point, gain, footprint, and the PSF's centre and sampling are in its `meta`, under the keys that
        `write_fits` uses.
    """
    check_image(image)
    placing = wcs_cards(image.transform) + inverse_cards(image.transform)
    wcs = read_wcs(fits.Header(placing))
    footprint = [card for card in placing if card.keyword.startswith("SPIX")]
    cards = flux_cards(image) + footprint + ([] if image.psf is None else psf_cards(image.psf))
    return CCDData(
        np.array(image.data),
        unit=unit,
        uncertainty=InverseVariance(np.array(image.ivar)),
        mask=np.array(image.mask),
        wcs=wcs if wcs.has_celestial else None,
        psf=None if image.psf is None else np.array(image.psf.data),
        meta={"CREATOR": _CREATOR, **{card.keyword: card.value for card in cards}},
    )
