"""The point-spread function: a stamp of values, its centre and its sampling."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.pytree import pytree, refuse_tracers, static_field
from jaxphot.transforms.protocol import default_dtype


@pytree
class PSF:
    """A PSF stamp; made by `make_psf`.

    Attributes
    ----------
    data : (h, w) array
        Sums to 1. ``data[v, u]``: u along columns, as in an image.
    center : (2,) array
        Index (u, v), 0-based, of the point-source's position in the stamp.
    oversample : int
        Cells of the stamp a pixel, along each axis (static).
    integrated : bool
        The stamp's values are integrals over its cells (static): see `make_psf`.
    """

    data: jax.Array
    center: jax.Array
    oversample: int = static_field(default=1)
    integrated: bool = static_field(default=False)

    @property
    def shape(self):
        """(h, w) of the stamp."""
        return self.data.shape[-2:]

    def at(self, i, j):
        """The PSF at a pixel position: itself, everywhere (see `make_polynomial_psf`, `make_grid_psf`)."""
        return self

    def rebin(self, k):
        """For the image summed over k × k blocks."""
        return PSF(self.data, self.center, self.oversample * k, self.integrated)

    def astype(self, dtype):
        """The PSF in another floating-point dtype."""
        return PSF(self.data.astype(dtype), self.center.astype(dtype), self.oversample, self.integrated)


def make_psf(data, *, oversample=1, center=None, integrated=False, dtype=None):
    """Build a PSF from a stamp, normalising it to sum 1.

    Parameters
    ----------
    data : (h, w) array-like
        Even or odd sides.
    oversample : int
        k × k cells a pixel. Stars are shifted, and galaxies' cores drawn, by band-limited interpolation of the stamp.
        Of a Gaussian it errs by at most 1e-3 of the peak for σ ≥ 1.2 cells. A native stamp (1) of σ = 0.8 px is
        undersampled: about 1e-2 of the peak is all that it can tell, by any interpolation; give it ×3. A stamp should
        reach to where the PSF is invisible: a cut at a visible level ripples as it is shifted. Galaxies are convolved
        with a native stamp of samples as other tools do it, pixel by pixel, which is wrong by 1e-2 of the peak
        for cuspy ones (n = 4, Re = 6 px, FWHM 3 px): an oversampled or an `integrated` stamp is right to 1e-3.
    center : (float, float), optional
        Index (u, v) = (column, row) of the source's position in the stamp; by default ``(w // 2, h // 2)``, GALFIT's
        rule: the middle of an odd side, the first cell past the middle of an even one. A stamp whose centre is
        more than a cell off its middle is filled up with zeros until it is not.
    integrated : bool
        False: the values are samples, with which a model integrated over cells is convolved as they are (as GALFIT,
        imfit and AstroPhot do). True: they are themselves integrals over cells (an ePSF, a star's image), so one box
        is divided out of the model's side and counts once.
    dtype : dtype, optional
        By default that of the data if floating, else JAX's default.

    Returns
    -------
    PSF

    Raises
    ------
    ValueError
        Not two-dimensional, non-finite values, a sum that is not positive, a centre outside the stamp.

    Examples
    --------
    >>> psf = make_psf([[0, 1, 0], [1, 4, 1], [0, 1, 0]])
    >>> float(psf.data[1, 1]), psf.center.tolist()
    (0.5, [1.0, 1.0])
    """
    refuse_tracers(data=data, center=center)
    values = np.asarray(data)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"psf: expected a two-dimensional stamp, got shape {values.shape}")
    if dtype is None:
        native = values.dtype.newbyteorder("=")
        dtype = native if native in (np.float32, np.float64) else default_dtype()
    values = values.astype(np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"psf: {np.sum(~np.isfinite(values))} values are not finite")
    total = values.sum()
    if not total > 0:
        raise ValueError(f"psf: expected a positive sum, got {total}")
    if isinstance(oversample, bool) or int(oversample) != oversample or oversample < 1:
        raise ValueError(f"oversample: expected an integer ≥ 1, got {oversample!r}")
    h, w = values.shape
    middle = np.asarray((w // 2, h // 2) if center is None else center, np.float64)
    if middle.shape != (2,) or not (np.all(middle >= -0.5) and middle[0] <= w - 0.5 and middle[1] <= h - 0.5):
        raise ValueError(f"center: expected (column, row) inside the stamp of shape {values.shape}, got {center!r}")
    values, middle = _centred(values, middle)
    dtype = jnp.zeros((), dtype).dtype  # float64 becomes float32 where JAX is set so
    return PSF(jnp.asarray(values / total, dtype), jnp.asarray(middle, dtype), int(oversample), bool(integrated))


def _centred(values, middle):
    """Zeros added on one side of each axis until the centre is within one cell of the stamp's middle.

    The reach of a PSF is then half its stamp, which is static, while its centre is a leaf.
    """
    pads = []
    for size, centre in zip(values.shape, middle[::-1], strict=True):
        excess = 2 * centre - (size - 1)
        missing = max(int(np.ceil(abs(excess) - 2)), 0)
        pads.append((0, missing) if excess > 0 else (missing, 0))
    return np.pad(values, pads), middle + np.asarray([pads[1][0], pads[0][0]])


def as_psf(psf, dtype):
    """None, or a PSF of the given dtype from a PSF, one that varies, or a plain stamp."""
    if psf is None:
        return None
    return psf.astype(dtype) if hasattr(psf, "at") else make_psf(psf, dtype=dtype)
