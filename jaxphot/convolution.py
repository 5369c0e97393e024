"""Light through the PSF onto pixels, in Fourier space.

The extended light is integrated over cells (k × k a pixel, k the PSF's oversampling) of the frame widened by the PSF's
reach, so that light from just outside gets in and nothing wraps. Its transform is multiplied by the PSF's and by that
of the collecting footprint, the stars' transforms (a phase each: a band-limited shift) are added, and one inverse
transform at the pixels' scale gives the image: sampling every k-th cell folds the spectrum.

Cells alone do not know where in a cell its light is: a source that is sharp on their scale is drawn off by up to half
a cell, which costs 1e-2 of the peak at three cells a pixel and 1e-1 at one. With `sampling.adaptive()` the light about
a source's centre, S · w, is therefore drawn apart (`_core`), as some hundreds of points by band-limited interpolation;
S · (1 − w), which is smooth, is left for the cells.

A native stamp of samples is the exception. GALFIT, imfit and AstroPhot convolve pixels with its values as they are, and
so do we: the same stamp gives the same image. Its image of a cuspy galaxy is off by 1e-2 of the peak, as theirs is; an
oversampled stamp, or a native one that says ``integrated=True``, is not.

There is no second path for small stamps. Convolution of 8 planes (value and 7 derivatives) on one core, float32 and
float64, 11 × 11 stamps: taps added up in real space take 0.32 and 0.39 ms at 32², 0.88 and 1.17 ms at 64²; the FFT 0.12
and 0.20, 0.35 and 0.55 ms. XLA's own convolution is slower by 7 and more (11 × 11), 34 and more times (25 × 25).
"""

import functools
from dataclasses import dataclass
from math import comb

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.isophotes import locate
from jaxphot.numerics import fast_length, gauss_legendre
from jaxphot.pytree import pytree, static_field
from jaxphot.sampling import Adaptive, Cells, mean_and_error

_REACH = 5  # cells: radius of the window w within which a source's light is drawn as points
_FLAT, _SMOOTH = 3, 6  # 1 − w ~ t^(2·3) at the centre, w ~ (1 − t)^6 at the window's edge
_TAPER = 5  # cells: half-width of the band-limited interpolation of cores
_COSINES = (0.4243801, 0.4973406, 0.0782793)  # its taper, Nuttall's of three terms: side lobes of 3e-4
_STAR_TAPER = 9  # cells: the same for stars on native stamps
_STAR_COSINES = (0.35875, 0.48829, 0.14128, 0.01168)  # Blackman–Harris
_PHASES = 512  # entries a cell of its table
_POWER = 5  # the points' radii are w^5, which resolves cusps of R^(1/n)
_UNDERSAMPLED = (0.1, 0.3)  # a stamp's transform at its highest frequencies: from here on less, from here on no points
_RINGING = (-6, -4)  # its logarithm: from here on less, from here on nothing by an exact phase
_HALF = _REACH + _TAPER


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
        Transfer functions from cells to pixels; from a point of light, without the move to `origin`.
    origin : (2,) array
        Where, in cells along i and j, a point of light is to be for its pixels to be the stamp's cells.
    tapped : scalar or None
        Share of a star on a native stamp that is moved by interpolation between cells; None for an oversampled one.
    placed : scalar or None
        Share of the light about sources' centres that is drawn as points; 0 for a stamp that would ring, None where
        there are no points.
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
    origin: jax.Array
    tapped: jax.Array | None
    placed: jax.Array | None
    shape: tuple[int, int] = static_field()
    pad: int = static_field()
    oversample: int = static_field()
    fft_shape: tuple[int, int] = static_field()


def make_optics(psf, transform, shape, dtype):
    """Prepare the convolution of images of one shape with a PSF.

    The cells are the stamp's, as they are. Largest error ÷ peak against GalSim, Sérsics of n = 0.5 to 6, q = 0.2 to 1,
    Re = 1 to 10 px, with and without the cores drawn as points (native: `integrated`):

    ===================  ===========  ===========
    cells a pixel        points       cells alone
    ===================  ===========  ===========
    Gaussian, FWHM 2 px
    3                    1e-4         1e-2
    5                    7e-5         6e-3
    1                    9e-3         1e-1
    Moffat, FWHM 3 px
    3                    9e-5         6e-3
    5                    7e-5         3e-3
    1                    2e-3         7e-2
    ===================  ===========  ===========

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
    highest = _highest(stamp)
    placed = 1 - _ramp(highest, *_UNDERSAMPLED) if k > 1 or psf.integrated else None
    tapped = _ramp(jnp.log10(highest + jnp.finfo(dtype).tiny), *_RINGING) if k == 1 else None
    (li, lj), (si, sj) = transform.footprint
    origin = psf.center + (k - 1) / 2 + k * jnp.stack([jnp.asarray(li, dtype), jnp.asarray(lj, dtype)])
    stars = stamp * (_collection(fy, k, sj) * _collection(fx, k, si)).astype(stamp.dtype)
    extended = stars * (_rotation(fy * origin[1]) * _rotation(fx * origin[0]))
    if psf.integrated:
        extended = extended / (jnp.sinc(fy) * jnp.sinc(fx)).astype(stars.dtype)
    return Optics(cells, cells.area(), extended, stars, origin, tapped, placed, tuple(shape), pad, k, fft_shape)


def _highest(stamp):
    """Largest value of a stamp's transform at the highest frequencies, of which it should keep nothing."""
    edges = jnp.abs(jnp.concatenate([stamp[stamp.shape[0] // 2], stamp[:, -1]]))
    # the derivative of max compares with what XLA may have rounded otherwise: where nothing is equal, it is 0/0
    return edges[jnp.argmax(edges)]


def _ramp(value, low, high):
    """0 below `low`, 1 above `high`, linear between."""
    return jnp.clip((value - low) / (high - low), 0, 1)


def _frequencies(fft_shape, k, dtype):
    """Cycles a cell: (ny, 1) and (1, nx/2 + 1), as `rfft2` orders them."""
    fy = np.fft.fftfreq(k * fft_shape[0])[:, None]
    fx = np.fft.rfftfreq(k * fft_shape[1])[None, :]
    return jnp.asarray(fy, dtype), jnp.asarray(fx, dtype)


def _rotation(turns):
    """exp(2πi turns)."""
    turns = turns - jnp.round(turns)
    return jax.lax.complex(jnp.cos(2 * jnp.pi * turns), jnp.sin(2 * jnp.pi * turns))


def _collection(f, k, scale):
    """Transfer along one axis from cells to a footprint of side `scale` (pixels) about the same point.

    For a whole pixel this is the sum over its k cells, exactly: sin(πkf) / sin(πf).
    """
    return (scale * k) * jnp.sinc(f * (scale * k)) / jnp.sinc(f)


def extended_light(sampling, pairs, optics):
    """Flux of extended sources in every one of `optics.cells`.

    Parameters
    ----------
    sampling : rule
        `adaptive`: light about a source's centre is drawn where it is. Others: by its cell, as GALFIT and imfit do.
    pairs : sequence of (model, params)
    optics : Optics

    Returns
    -------
    array, or None where there are no sources
    """
    lights = [_light(sampling, model, params, optics) for model, params in pairs]
    return sum(lights[1:], lights[0]) if lights else None


def light_error(sampling, model, params, optics):
    """How far `extended_light` of one source may be off in every cell: by comparison, as in `mean_and_error`."""
    if not _has_core(sampling, params, optics):
        return mean_and_error(sampling, model, params, optics.cells)[1] * optics.area
    tol = max(sampling.tol / 100, 30 * float(jnp.finfo(optics.area.dtype).eps))
    rough, finer = (_light(rule, model, params, optics) for rule in (sampling, Adaptive(tol)))
    size = jnp.abs(finer)
    return jnp.abs(rough - finer) + 2 * tol * jnp.maximum(size, 1e-4 * jnp.max(size))


def _has_core(sampling, params, optics):
    if optics.placed is None:
        return False
    center = params.get("center") if isinstance(params, dict) and isinstance(sampling, Adaptive) else None
    return len(center) == 2 if isinstance(center, list | tuple) else np.shape(center) == (2,)


def _light(sampling, model, params, optics):
    cells = optics.cells
    if not _has_core(sampling, params, optics):
        return sampling(model, params, cells) * optics.area
    frame = locate(params, cells.transform)
    # the sum depends neither on the window nor on the points' directions: no derivatives with respect to them
    frame = frame._replace(axis=jax.lax.stop_gradient(frame.axis), q=jax.lax.stop_gradient(frame.q))
    to_unit = jax.lax.stop_gradient(_to_unit(cells.transform, frame.center, optics.oversample))
    hollow = {"source": params, "to_unit": to_unit, "share": optics.placed}
    light = sampling(_Hollow(model), hollow, cells) * optics.area
    core = _core(model, hollow, frame, optics, (24, 32) if sampling.tol >= 1e-5 else (32, 64))
    return _add_core(light, core, (frame.center - cells.start) * optics.oversample)


@dataclass(frozen=True)
class _Hollow:
    """A model with the light about its centre taken out."""

    model: object

    def __call__(self, params, x, y):
        source = params["source"]
        window = _window(source["center"], params["to_unit"], x, y)
        return self.model(source, x, y) * (1 - params["share"] * window)


def _to_unit(transform, center, k):
    """(2, 2) from arcsec to radii of the window, at a position in pixels."""
    one, zero = jnp.ones_like(center[0]), jnp.zeros_like(center[0])
    xi, yi = jax.jvp(transform.pixel_to_plane, tuple(center), (one, zero))[1]
    xj, yj = jax.jvp(transform.pixel_to_plane, tuple(center), (zero, one))[1]
    return jnp.stack([yj, -xj, -yi, xi]).reshape(2, 2) * (k / _REACH / (xi * yj - xj * yi))


def _window(center, to_unit, x, y):
    """w: 1 at the centre, 0 from `_REACH` cells on; flat at the centre, smooth at its edge."""
    dx, dy = x - center[0], y - center[1]
    u, v = to_unit[0, 0] * dx + to_unit[0, 1] * dy, to_unit[1, 0] * dx + to_unit[1, 1] * dy
    t2 = u * u + v * v
    series = functools.reduce(lambda total, m: total * t2 + comb(_SMOOTH + m - 1, m), range(_FLAT)[::-1], 0)
    return jnp.maximum(1 - t2, 0) ** _SMOOTH * series


def _core(model, hollow, frame, optics, orders):
    """S · w on a grid of cells of which the source's centre is the middle one."""
    cells, k, source = optics.cells, optics.oversample, hollow["source"]
    u, v, weight = _polar_nodes(frame, orders)
    i, j = frame.center[0] + u / k, frame.center[1] + v / k
    x, y = cells.transform.pixel_to_plane(i, j)
    window = _window(source["center"], hollow["to_unit"], x, y) * hollow["share"]
    flux = model(source, x, y) * window * cells.transform.pixel_area(i, j) * (weight / k**2)
    offset = np.arange(-_HALF, _HALF + 1)
    # (a loop, so that XLA does not look each of them up again for every product)
    cell = jnp.asarray(offset, u.dtype)[:, None]
    rows, columns = jax.lax.map(lambda shift: _look_up(cell - shift[None, :]), jnp.stack([v, u]))
    spread = (rows[:, None] * columns[None, :]).reshape(offset.size**2, -1)  # once for the value and all derivatives
    return jnp.matmul(spread, flux, precision=jax.lax.Precision.HIGHEST).reshape(offset.size, offset.size)


def _polar_nodes(frame, orders):
    """Nodes (u, v) from the centre and weights, in cells, over the window's disc.

    Directions lie evenly on an ellipse of axis ratio √q: half-way between what the isophotes ask for and the circle.
    """
    radial, angular = orders
    w, weight = gauss_legendre(radial)
    w = w + 0.5
    radius, weight = _REACH * w**_POWER, _REACH**2 * _POWER * w ** (2 * _POWER - 1) * weight
    angle = 2 * np.pi * (np.arange(angular) + 0.5) / angular
    dtype = frame.axis.dtype
    flat = jnp.sqrt(frame.q)
    along, across = jnp.asarray(np.cos(angle), dtype), flat * jnp.asarray(np.sin(angle), dtype)
    norm2 = along**2 + across**2
    axis = frame.axis[None, :] / jnp.sqrt(jnp.sum(frame.axis**2) * norm2)[:, None]
    u, v = axis[:, 0] * along - axis[:, 1] * across, axis[:, 1] * along + axis[:, 0] * across
    radius, weight = jnp.asarray(radius, dtype)[:, None], jnp.asarray(weight, dtype)[:, None]
    weight = weight * (flat * (2 * np.pi / angular) / norm2)[None, :]
    return tuple(leaf.ravel() for leaf in (radius * u[None, :], radius * v[None, :], weight))


def _add_core(light, core, place):
    """Light plus a core whose middle is at `place` (index along i, j), between the cells."""
    offset = jnp.arange(-_HALF, _HALF + 1, dtype=place.dtype)
    starts, moves = [], []
    for axis, size in ((1, light.shape[0]), (0, light.shape[1])):
        length = min(offset.size, size)
        first = jnp.clip(jnp.round(jax.lax.stop_gradient(place[axis])) - _HALF, 0, size - length)
        index = first + jnp.arange(length, dtype=place.dtype)
        moves.append(_interpolation(index[:, None] - place[axis] - offset[None, :], jnp))
        starts.append(first.astype(jnp.int32))
    high = jax.lax.Precision.HIGHEST
    core = jnp.matmul(jnp.matmul(moves[0], core, precision=high), moves[1].T, precision=high)
    old = jax.lax.dynamic_slice(light, starts, core.shape)
    return jax.lax.dynamic_update_slice(light, old + core, starts)


def _interpolation(x, numpy, half=_TAPER, cosines=_COSINES):
    """Kernel of the band-limited interpolation at x cells: a tapered sinc."""
    taper = sum(c * numpy.cos((m * np.pi / half) * x) for m, c in enumerate(cosines))
    return numpy.where(numpy.abs(x) < half, taper * numpy.sinc(x), 0)


@functools.cache
def _table():
    """The kernel averaged over a cell, which is what cells see of a point; x from −_TAPER − 1 to _TAPER + 1."""
    x = np.arange(-(_TAPER + 1) * _PHASES, (_TAPER + 1) * _PHASES + 1) / _PHASES
    nodes, weights = gauss_legendre(8)
    return sum(weight * _interpolation(x + node, np) for node, weight in zip(nodes, weights, strict=True))


def _look_up(x):
    """The averaged kernel at x cells, linearly between the entries of its table."""
    table = _table()
    at = jnp.clip((x + (_TAPER + 1)) * _PHASES, 0, table.size - 1.001)
    below = at.astype(jnp.int32)
    share = at - below.astype(x.dtype)
    low, high = (jnp.asarray(values, x.dtype)[below] for values in (table[:-1], table[1:]))
    return low + share * (high - low)


def collect(optics, light, stars):
    """The image of extended light and stars.

    Parameters
    ----------
    optics : Optics
    light : array or None
        Flux in each of `optics.cells`.
    stars : sequence of (i, j, flux)
        Pixel coordinates and fluxes.

    Returns
    -------
    (ny, nx) array
    """
    k, (n_y, n_x) = optics.oversample, optics.fft_shape
    spectrum = jnp.zeros((), optics.stars.dtype)
    if light is not None:
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
    cell_i, cell_j = ((at + (pad + 0.5)) * k - 0.5 - origin for at, origin in zip((i, j), optics.origin, strict=True))
    y, x = (_move(optics.tapped, f, at) for f, at in ((fy[:, 0], cell_j), (fx[0], cell_i)))
    return jnp.where(inside, flux, 0).astype(optics.stars.dtype) * (y[:, None] * x[None, :])


def _move(tapped, f, cell):
    """Transfer along one axis to a place in cells: an exact phase for a stamp that its cells resolve.

    For one that they do not, the phase rings over the whole frame, whose border then cuts off a part of the flux. There
    it is interpolated from the cells around, by taps that sum to 1: the flux is kept to the last digit, and at a
    whole cell they are the stamp itself.
    """
    if tapped is None:
        return _rotation(-f * cell)
    base = jnp.round(jax.lax.stop_gradient(cell))
    offset = jnp.arange(-_STAR_TAPER, _STAR_TAPER + 1, dtype=f.dtype)
    taps = _interpolation(offset - (cell - base), jnp, _STAR_TAPER, _STAR_COSINES)
    taps = tapped * taps / jnp.sum(taps)
    around = _rotation(-f[:, None] * offset[None, :])
    near = jnp.matmul(around, jax.lax.complex(taps, jnp.zeros_like(taps)), precision=jax.lax.Precision.HIGHEST)
    return _rotation(-f * base) * near + (1 - tapped).astype(near.dtype) * _rotation(-f * cell)


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
