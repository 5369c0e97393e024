"""Catalogues of photutils as starting values."""

import numpy as np

from jaxphot.interchange.frames import local_frame

_TO_HALF = 1.1774100225154747  # half-light radius of a Gaussian over its σ
_FLUXES = ("kron_flux", "segment_flux", "flux_fit", "flux", "source_sum")
_X = ("x_centroid", "xcentroid", "x_fit", "x_0", "x")
_Y = ("y_centroid", "ycentroid", "y_fit", "y_0", "y")


def from_photutils(table, transform):
    """Starting values from a catalogue of photutils: ``SourceCatalog(…).to_table()``, a star finder's, or PSF fluxes.

    Parameters
    ----------
    table : Table
        With centroids; of extended sources also semimajor_axis (or semimajor_sigma), eccentricity (or ellipticity, or
        elongation), and orientation (deg, from +x counter-clockwise).
    transform : transform
        Of the image that was searched: ``image.transform``.

    Returns
    -------
    dict of (N, …) arrays
        `center` and `flux`; with shapes also `q`, `PA`, `sigma` and `Re` (that of a Gaussian, 1.177 σ, along the major
        axis; moments of a segment are too small, by a third for faint sources). Choose those that the model has.

    Raises
    ------
    ValueError
        No centroids or no flux in the table; its columns are listed.

    Examples
    --------
    >>> import jaxphot as jp
    >>> from astropy.table import Table
    >>> table = Table({"xcentroid": [4.0, 9.0], "ycentroid": [5.0, 7.0], "flux": [10.0, 3.0]})
    >>> stars = jp.from_photutils(table, jp.make_linear(pixelscale=0.5))
    >>> stars["center"].tolist(), stars["flux"].tolist()
    ([[2.0, 2.5], [4.5, 3.5]], [10.0, 3.0])
    >>> model = jp.scene(stars=jp.many(jp.models.point_source), sky=jp.models.flat_sky)
    """
    x, y = _column(table, _X), _column(table, _Y)
    frames = [local_frame(transform, i, j) for i, j in zip(x, y, strict=True)]
    center = np.array([frame.center for frame in frames]).reshape(-1, 2)
    params = {"center": center, "flux": _column(table, _FLUXES)}
    if "orientation" not in table.colnames:
        return params
    scale = np.array([frame.scale for frame in frames])
    size = _column(table, ("semimajor_axis", "semimajor_sigma", "semimajor_axis_sigma"))
    q = _axis_ratio(table)
    angle = _column(table, ("orientation",)) - 90  # from +x to from up
    PA = np.array([frame.PA(degrees) % np.pi for frame, degrees in zip(frames, angle, strict=True)])
    return {**params, "q": np.clip(q, 0.05, 1.0), "PA": PA, "sigma": size * scale, "Re": _TO_HALF * size * scale}


def _axis_ratio(table):
    """By whichever of three columns there is."""
    if "eccentricity" in table.colnames:
        return np.sqrt(1 - _column(table, ("eccentricity",)) ** 2)
    if "ellipticity" in table.colnames:
        return 1 - _column(table, ("ellipticity",))
    return 1 / _column(table, ("elongation",))


def _column(table, names):
    """The first of these columns that there is, without its unit."""
    for name in names:
        if name in table.colnames:
            return np.asarray(getattr(table[name], "value", table[name]), float)
    raise ValueError(f"table: expected a column {' or '.join(names)}; there are {', '.join(table.colnames)}")
