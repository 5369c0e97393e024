"""Light through the PSF onto pixels, in Fourier space.

The extended light is integrated over cells (k × k a pixel, k the PSF's oversampling) of the frame widened by the PSF's
reach, so that light from just outside gets in and nothing wraps. Its transform is multiplied by the PSF's and by that
of the collecting footprint, the stars' transforms (a phase each: a band-limited shift) are added, and one inverse
transform at the pixels' scale gives the image: sampling every k-th cell folds the spectrum.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import fast_length
from jaxphot.pytree import pytree, static_field
from jaxphot.sampling import Cells


@pytree
class Optics:
    """What convolution needs and does not change during a fit; made by `make_optics`.

    Attributes
    ----------
    cells : Cells
        The widened frame in cells.
    area : array
        Of every cell, arcsec².
    extended, stars : complex arrays
        Transfer functions from cells, or from a unit point at the first cell's centre, to pixels.
    shape : (ny, nx)
        Of the image.
    pad, oversample : int
        Pixels added on each side; cells a pixel.
    fft_shape : (int, int)
        Pixels in the periodic frame.
    """

    cells: Cells
    area: jax.Array
    extended: jax.Array
    stars: jax.Array
    shape: tuple[int, int] = static_field()
    pad: int = static_field()
    oversample: int = static_field()
    fft_shape: tuple[int, int] = static_field()


def make_optics(psf, transform, shape, dtype):
    """Prepare the convolution of images of one shape with a PSF.

    Parameters
    ----------
    psf : PSF
    transform : transform
    shape : (ny, nx)
    dtype : dtype

    Returns
    -------
    Optics
    """
    k = psf.oversample
    # half the stamp, one cell for a centre off its middle, rounded up to pixels; one more for sub-pixel shifts
    pad = -(-(max(psf.shape) // 2 + 1) // k) + 1
    fft_shape = tuple(fast_length(side + 2 * pad) for side in shape)
    first = -pad - 0.5 + 0.5 / k
    cells = Cells(
        transform.whole,
        jnp.full(2, first, dtype),
        jnp.full(2, 1 / k, dtype),
        tuple(k * (side + 2 * pad) for side in shape),
        1 / k,
    )
    fy, fx = _frequencies(fft_shape, k, dtype)
    stamp = jnp.fft.rfft2(psf.data, s=tuple(k * side for side in fft_shape))
    stamp = stamp * _phase(fy * psf.center[1], fx * psf.center[0])
    (li, lj), (si, sj) = transform.footprint
    collect = _collection(fy, k, lj, sj) * _collection(fx, k, li, si)
    stars = stamp * collect
    extended = stars / (jnp.sinc(fy) * jnp.sinc(fx)).astype(stars.dtype) if psf.integrated else stars
    return Optics(cells, cells.area(), extended, stars, tuple(shape), pad, k, fft_shape)


def _frequencies(fft_shape, k, dtype):
    """Cycles a cell: (ny, 1) and (1, nx/2 + 1), as `rfft2` orders them."""
    fy = np.fft.fftfreq(k * fft_shape[0])[:, None]
    fx = np.fft.rfftfreq(k * fft_shape[1])[None, :]
    return jnp.asarray(fy, dtype), jnp.asarray(fx, dtype)


def _phase(turns_y, turns_x):
    """exp(2πi (turns_y + turns_x)) as a product of two vectors, with angles reduced before they are rounded."""
    vectors = [_rotation(turns - jnp.round(turns)) for turns in (turns_y, turns_x)]
    return vectors[0] * vectors[1]


def _rotation(turns):
    """exp(2πi turns)."""
    return jax.lax.complex(jnp.cos(2 * jnp.pi * turns), jnp.sin(2 * jnp.pi * turns))


def _collection(f, k, loc, scale):
    """Transfer along one axis from cells to a footprint of side `scale` at `loc` from the pixel's centre (pixels).

    For a whole pixel this is the sum over its k cells, exactly: sin(πkf) / sin(πf).
    """
    rotation = _rotation(f * ((k - 1) / 2 + loc * k))
    return rotation * ((scale * k) * jnp.sinc(f * (scale * k)) / jnp.sinc(f)).astype(rotation.dtype)


def collect(optics, brightness, stars):
    """The image of extended light and stars.

    Parameters
    ----------
    optics : Optics
    brightness : array or None
        Mean brightness over each of `optics.cells`.
    stars : sequence of (i, j, flux)
        Pixel coordinates and fluxes.

    Returns
    -------
    (ny, nx) array
    """
    k, (n_y, n_x) = optics.oversample, optics.fft_shape
    spectrum = jnp.zeros((), optics.stars.dtype)
    if brightness is not None:
        light = brightness * optics.area
        spectrum = jnp.fft.rfft2(light, s=(k * n_y, k * n_x)) * optics.extended
    for star in stars:
        spectrum = spectrum + _star_spectrum(optics, *star) * optics.stars
    image = jnp.fft.irfft2(_fold(spectrum, k, optics.fft_shape), s=optics.fft_shape)
    ny, nx = optics.shape
    return image[optics.pad : optics.pad + ny, optics.pad : optics.pad + nx]


def _star_spectrum(optics, i, j, flux):
    """Transform of a point of light; one so far outside that it would wrap gives nothing."""
    k, pad = optics.oversample, optics.pad
    ny, nx = optics.shape
    inside = (i > -pad) & (i < nx - 1 + pad) & (j > -pad) & (j < ny - 1 + pad)
    i, j = jnp.where(inside, i, 0), jnp.where(inside, j, 0)
    fy, fx = _frequencies(optics.fft_shape, k, jnp.result_type(i))
    cell_i, cell_j = (i + (pad + 0.5)) * k - 0.5, (j + (pad + 0.5)) * k - 0.5
    return jnp.where(inside, flux, 0).astype(optics.stars.dtype) * _phase(-fy * cell_j, -fx * cell_i)


def _fold(spectrum, k, fft_shape):
    """Spectrum of every k-th cell of an image, from the half spectrum of the image."""
    if k == 1:
        return spectrum
    n_y, n_x = fft_shape
    folded = spectrum.reshape(k, n_y, -1).sum(0)
    # the other half along x is the conjugate at the opposite frequency
    tail = folded[:, 1 : (k * n_x + 1) // 2]
    mirrored = jnp.conj(jnp.roll(tail[::-1, ::-1], 1, axis=0))
    whole = jnp.concatenate([folded, mirrored], axis=1).reshape(n_y, k, n_x).sum(1)
    return whole[:, : n_x // 2 + 1] / k**2
