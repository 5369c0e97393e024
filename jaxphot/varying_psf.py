"""PSFs that change over the frame: polynomials of position and grids of stamps. `at(i, j)` gives the PSF at a pixel."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.psf import PSF, make_psf
from jaxphot.pytree import pytree, refuse_tracers, static_field


@pytree
class PolynomialPSF:
    """A stamp whose values are polynomials of position, as PSFEx has it; made by `make_polynomial_psf`.

    Attributes
    ----------
    basis : (K, h, w) array
        One stamp for each of the terms 1, x, x², …, y, x y, …, y², …
    zero, scale : (2,) arrays
        x = (i − zero₀) / scale₀, y = (j − zero₁) / scale₁, i and j 0-based.
    center : (2,) array
    degree, oversample : int
    integrated : bool
        As in `PSF`.
    """

    basis: jax.Array
    zero: jax.Array
    scale: jax.Array
    center: jax.Array
    degree: int = static_field()
    oversample: int = static_field(default=1)
    integrated: bool = static_field(default=False)

    @property
    def shape(self):
        """(h, w) of the stamp."""
        return self.basis.shape[-2:]

    def at(self, i, j):
        """The PSF at a pixel position, normalised."""
        x, y = (i - self.zero[..., 0]) / self.scale[..., 0], (j - self.zero[..., 1]) / self.scale[..., 1]
        weights = jnp.stack([x**p * y**q for p, q in _powers(self.degree)], axis=-1)
        return _weighted(self.basis, weights, self)

    def rebin(self, k):
        """For the image summed over k × k blocks."""
        zero = (self.zero + 0.5) / k - 0.5
        return PolynomialPSF(
            self.basis, zero, self.scale / k, self.center, self.degree, self.oversample * k, self.integrated
        )

    def astype(self, dtype):
        """In another floating-point dtype."""
        return _astype(self, dtype)


@pytree
class GridPSF:
    """Stamps at the nodes of a grid, bilinear in between and constant beyond; made by `make_grid_psf`.

    Attributes
    ----------
    stamps : (rows, columns, h, w) array
    columns, rows : (columns,), (rows,) arrays
        Pixel coordinates i and j of the nodes, 0-based, ascending.
    center : (2,) array
    oversample : int
    integrated : bool
        As in `PSF`.
    """

    stamps: jax.Array
    columns: jax.Array
    rows: jax.Array
    center: jax.Array
    oversample: int = static_field(default=1)
    integrated: bool = static_field(default=False)

    @property
    def shape(self):
        """(h, w) of the stamps."""
        return self.stamps.shape[-2:]

    def at(self, i, j):
        """The PSF at a pixel position, normalised."""
        weights = _hats(self.rows, j)[..., :, None] * _hats(self.columns, i)[..., None, :]
        flat = self.stamps.reshape(*self.stamps.shape[:-4], -1, *self.shape)
        return _weighted(flat, weights.reshape(*weights.shape[:-2], -1), self)

    def rebin(self, k):
        """For the image summed over k × k blocks."""
        columns, rows = ((nodes + 0.5) / k - 0.5 for nodes in (self.columns, self.rows))
        return GridPSF(self.stamps, columns, rows, self.center, self.oversample * k, self.integrated)

    def astype(self, dtype):
        """In another floating-point dtype."""
        return _astype(self, dtype)


def _astype(psf, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), psf)


def _powers(degree):
    """Exponents (of x, of y) of all terms, in PSFEx's order."""
    return [(p, q) for q in range(degree + 1) for p in range(degree + 1 - q)]


def _weighted(stamps, weights, psf):
    """The sum of stamps, of sum 1, as a `PSF`."""
    data = jnp.einsum("...k,...khw->...hw", weights, stamps, precision=jax.lax.Precision.HIGHEST)
    return PSF(data / data.sum((-2, -1), keepdims=True), psf.center, psf.oversample, psf.integrated)


def _hats(nodes, position):
    """Weights of nodes for linear interpolation: 1 at a node, falling to 0 at its neighbours."""
    if nodes.shape[-1] == 1:
        return jnp.ones_like(nodes)
    position = jnp.clip(position, nodes[..., 0], nodes[..., -1])[..., None]
    fraction = (position - nodes[..., :-1]) / jnp.diff(nodes, axis=-1)
    rising, falling = jnp.clip(fraction, 0, 1), jnp.clip(1 - fraction, 0, 1)
    one = jnp.ones_like(rising[..., :1])
    return jnp.minimum(jnp.concatenate([one, rising], -1), jnp.concatenate([falling, one], -1))


def make_polynomial_psf(
    basis, degree, *, zero=(0.0, 0.0), scale=(1.0, 1.0), oversample=1, center=None, integrated=False, effective=False,
    dtype=None,
):  # fmt: skip
    """Build a PSF whose values are polynomials of the position in the frame.

    Scenes draw each copy of a ``many(model, stamp=)`` with the PSF at the middle of its stamp, and everything else with
    that at the middle of the frame; `crop` takes the PSF at the middle of the cutout.

    Parameters
    ----------
    basis : (K, h, w) array-like
        K = (degree + 1)(degree + 2) / 2 stamps, one for each of 1, x, x², …, y, x y, …: powers of x run fastest.
    degree : int
    zero, scale : (float, float)
        x = (i − zero₀) / scale₀, y = (j − zero₁) / scale₁, for 0-based pixels (i, j).
    oversample, center, integrated, dtype
        As in `make_psf`. The PSF is normalised wherever it is taken.
    effective : bool
        The values are what pixels, not cells, collect about each place, sampled `oversample` times a pixel: an
        effective PSF (Anderson & King 2000, PASP 112, 1360), as PSFEx and photutils have it. The pixel is then divided
        out, in Fourier space, and the result is `integrated`; for ``oversample=1`` the two are the same.

    Returns
    -------
    PolynomialPSF

    Raises
    ------
    ValueError
        Not as many stamps as the degree has terms, or what `make_psf` refuses of the first of them; a scale of 0.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[-7:8, -7:8]
    >>> narrow, wide = (np.exp(-(x**2 + y**2) / 2 / sigma**2) / sigma**2 for sigma in (1.0, 2.0))
    >>> psf = make_polynomial_psf([narrow, wide - narrow, 0 * x], 1, scale=(100, 100))
    >>> [round(float(psf.at(i, 0.0).data.max()), 3) for i in (0.0, 100.0)]
    [0.159, 0.04]
    """
    refuse_tracers(basis=basis, center=center)
    basis = _stamps(basis, "basis")
    if isinstance(degree, bool) or int(degree) != degree or degree < 0 or len(basis) != len(_powers(int(degree))):
        raise ValueError(f"basis: expected (degree + 1)(degree + 2) / 2 stamps for degree {degree!r}, got {len(basis)}")
    zero, scale = _pair(zero, "zero"), _pair(scale, "scale")
    if not np.all(scale):
        raise ValueError(f"scale: expected numbers that are not 0, got {scale.tolist()}")
    stamps, like = _checked(basis, oversample, center, integrated, effective, dtype)
    stamps, zero, scale = (jnp.asarray(a, like.data.dtype) for a in (stamps, zero, scale))
    return PolynomialPSF(stamps, zero, scale, like.center, int(degree), like.oversample, like.integrated)


def make_grid_psf(stamps, positions, *, oversample=1, center=None, integrated=False, effective=False, dtype=None):
    """Build a PSF from stamps at the nodes of a rectangular grid: bilinear between four, the nearest beyond the grid.

    Parameters
    ----------
    stamps : (N, h, w) array-like
    positions : (N, 2) array-like
        0-based pixel (i, j) of each: all combinations of some columns and some rows, in any order, such as photutils'
        ``GriddedPSFModel.grid_xypos``.
    oversample, center, integrated, effective, dtype
        As in `make_polynomial_psf`.

    Returns
    -------
    GridPSF

    Raises
    ------
    ValueError
        Positions that are no complete grid; what `make_psf` refuses of any stamp.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[-7:8, -7:8]
    >>> stamps = [np.exp(-(x**2 + y**2) / 2 / sigma**2) / sigma**2 for sigma in (1.0, 2.0)]
    >>> psf = make_grid_psf(stamps, [(0, 50), (100, 50)])
    >>> [round(float(psf.at(i, 0.0).data.max()), 2) for i in (-10.0, 50.0, 200.0)]
    [0.16, 0.1, 0.04]
    """
    refuse_tracers(stamps=stamps, positions=positions, center=center)
    stamps = _stamps(stamps, "stamps")
    positions = np.asarray(positions, np.float64)
    if positions.shape != (len(stamps), 2):
        raise ValueError(f"positions: expected ({len(stamps)}, 2), one (i, j) a stamp, got shape {positions.shape}")
    columns, rows = np.unique(positions[:, 0]), np.unique(positions[:, 1])
    order = np.lexsort(positions.T)
    i, j = np.meshgrid(columns, rows)
    if i.size != len(stamps) or not np.array_equal(positions[order], np.stack([i.ravel(), j.ravel()], axis=1)):
        raise ValueError(
            f"positions: expected all combinations of columns and rows once, got {len(stamps)} positions in"
            f" {len(columns)} columns and {len(rows)} rows"
        )
    for stamp in stamps:
        make_psf(stamp)  # each is a PSF
    stamps = stamps / stamps.sum((1, 2), keepdims=True)
    stamps, like = _checked(stamps[order], oversample, center, integrated, effective, dtype)
    stamps = stamps.reshape(len(rows), len(columns), *stamps.shape[1:])
    stamps, columns, rows = (jnp.asarray(a, like.data.dtype) for a in (stamps, columns, rows))
    return GridPSF(stamps, columns, rows, like.center, like.oversample, like.integrated)


def _stamps(stamps, name):
    stamps = np.asarray(stamps, np.float64)
    if stamps.ndim != 3 or not stamps.size:
        raise ValueError(f"{name}: expected stamps of shape (N, h, w), got {stamps.shape}")
    if not np.all(np.isfinite(stamps)):
        raise ValueError(f"{name}: {np.sum(~np.isfinite(stamps))} values are not finite")
    return stamps


def _pair(value, name):
    value = np.asarray(value, np.float64)
    if value.shape != (2,) or not np.all(np.isfinite(value)):
        raise ValueError(f"{name}: expected two finite numbers, got {value!r}")
    return value


def _checked(stamps, oversample, center, integrated, effective, dtype):
    """Stamps about one centre, and the first as a `PSF` that says how they are sampled."""
    like = make_psf(stamps[0], oversample=oversample, center=center, integrated=integrated or effective, dtype=dtype)
    if effective and like.oversample > 1:
        stamps = np.stack([cells_of_effective(stamp, like.oversample) for stamp in stamps])
    # make_psf fills a stamp up at its beginning where its centre is far off its middle: all of them alike
    h, w = stamps.shape[1:]
    given = np.asarray((w // 2, h // 2) if center is None else center, np.float64)
    before = np.round(np.asarray(like.center, np.float64) - given).astype(int)[::-1]
    pads = [(b, n - s - b) for b, n, s in zip(before.tolist(), like.shape, (h, w), strict=True)]
    return np.pad(stamps, [(0, 0), *pads]), like


def cells_of_effective(stamp, oversample):
    """Integrals over cells of an effective PSF, which is their sum over a pixel about each place.

    Divided by the sum's transfer function D = sin πkf / (k sin πf) along both axes, as D / (D² + ε²): nothing at its
    zeros, where no detector tells anything.
    """
    height, width = stamp.shape
    shape = height + 2 * oversample, width + 2 * oversample
    sums = [
        _sum_of_cells(np.fft.fftfreq(shape[0]), oversample)[:, None],
        _sum_of_cells(np.fft.rfftfreq(shape[1]), oversample),
    ]
    spectrum = np.fft.rfft2(stamp, s=shape)
    for transfer in sums:
        spectrum = spectrum * transfer / (transfer**2 + _SMALLEST**2)
    return np.fft.irfft2(spectrum, s=shape)[:height, :width]


_SMALLEST = 0.03


def _sum_of_cells(frequency, k):
    sine = np.sin(np.pi * frequency)
    return np.where(np.abs(sine) < 1e-9, 1.0, np.sin(np.pi * k * frequency) / (k * np.where(sine == 0, 1, sine)))
