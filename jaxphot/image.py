"""Images: data, noise, transform and PSF in one immutable pytree, and the ways to build and cut them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.noise import inverse_variance
from jaxphot.psf import PSF, as_psf
from jaxphot.pytree import is_concrete, pytree, refuse_tracers
from jaxphot.transforms.linear import make_linear
from jaxphot.transforms.wcs import transform_from_wcs


@pytree
class Image:
    """One image, or a stack of them with a leading axis on every leaf; made by `make_image`.

    Attributes
    ----------
    data : (ny, nx) array
        ``data[j, i]``, i along columns.
    ivar : (ny, nx) array
        Inverse variance; 0 = ignored.
    transform : transform
        Pixel ↔ tangent plane, such as `Linear`.
    psf : PSF, one that varies over the frame, or None
    zeropoint : scalar array
        Magnitude of flux 1; NaN if unknown.
    gain : scalar array
        counts = data · gain, for Poisson statistics; NaN if unknown.
    """

    data: jax.Array
    ivar: jax.Array
    transform: object
    psf: PSF | None
    zeropoint: jax.Array
    gain: jax.Array

    @property
    def shape(self):
        """(ny, nx), of one image also in a stack."""
        return self.data.shape[-2:]

    @property
    def dtype(self):
        """Floating-point type of every leaf."""
        return self.data.dtype

    @property
    def mask(self):
        """True where a pixel is ignored: ivar is 0 or the data is not finite."""
        return ~((self.ivar > 0) & jnp.isfinite(self.data))

    @property
    def pixel_area_map(self):
        """Sensitive area of every pixel, (ny, nx), arcsec²."""
        return self.transform.pixel_area(*self.pixel_grid())

    def pixel_grid(self):
        """Pixel coordinates (i, j) of every pixel centre, each (ny, nx)."""
        return pixel_grid(self.shape, self.dtype)


def pixel_grid(shape, dtype, start=(0, 0)):
    """Coordinates (i, j) of pixel centres as two (ny, nx) arrays; `start` is the first pixel's (i, j)."""
    ny, nx = shape
    i = jnp.arange(nx, dtype=dtype) + start[0]
    j = jnp.arange(ny, dtype=dtype) + start[1]
    return jnp.broadcast_to(i[None, :], shape), jnp.broadcast_to(j[:, None], shape)


def make_image(
    data,
    *,
    variance=None,
    std=None,
    ivar=None,
    mask=None,
    transform=None,
    pixelscale=None,
    wcs=None,
    psf=None,
    zeropoint=None,
    gain=None,
    dtype=None,
):
    """Build an image, checking every argument.

    Parameters
    ----------
    data : (ny, nx) array-like
        ``data[j, i]``; NaN pixels are ignored.
    variance, std, ivar : (ny, nx) array-like or float, optional
        Noise of each pixel, one of the three. Without any, ivar is 1 and a warning says so.
    mask : (ny, nx) array-like of bool, optional
        True = bad.
    transform, pixelscale, wcs : optional
        One of: a transform made by `make_linear` and its kin; arcsec/pixel; an astropy WCS. Without any, the plane
        is the pixel grid.
    psf : PSF or (h, w) array-like, optional
        Made by `make_psf`, or, where it varies over the frame, by `make_polynomial_psf` or `make_grid_psf`.
    zeropoint : float, optional
        Magnitude of flux 1.
    gain : float, optional
        counts = data · gain.
    dtype : dtype, optional
        float32 or float64; by default that of the data if floating, else JAX's default.

    Returns
    -------
    Image

    Raises
    ------
    ValueError
        Shapes that disagree, a non-finite or negative variance where the pixel is used, nothing left unmasked.

    Examples
    --------
    >>> import numpy as np
    >>> image = make_image(np.zeros((5, 4)), std=0.1, pixelscale=0.2)
    >>> image.shape, round(float(image.pixel_area_map[0, 0]), 4)
    ((5, 4), 0.04)
    """
    refuse_tracers(data=data, variance=variance, std=std, ivar=ivar, mask=mask, psf=psf)
    data = _as_data(data)
    dtype = _canonical_dtype(data, dtype)
    weights = inverse_variance(data, variance, std, ivar, mask, dtype)
    return Image(
        jnp.asarray(data, dtype),
        jnp.asarray(weights, dtype),
        _as_transform(transform, pixelscale, wcs, data.shape).astype(dtype),
        as_psf(psf, dtype),
        _optional_number(zeropoint, "zeropoint", dtype),
        _optional_number(gain, "gain", dtype),
    )


def _as_data(data):
    data = np.asarray(data)
    if data.ndim != 2 or data.size == 0:
        raise ValueError(f"data: expected a two-dimensional array [j, i], got shape {data.shape}")
    if not (np.issubdtype(data.dtype, np.number) or data.dtype == bool) or np.iscomplexobj(data):
        raise ValueError(f"data: expected real numbers, got dtype {data.dtype}")
    return data


def _canonical_dtype(data, dtype):
    if dtype is None:
        dtype = data.dtype.newbyteorder("=") if data.dtype.newbyteorder("=") in (np.float32, np.float64) else None
    dtype = jnp.zeros((), dtype).dtype if dtype is None or np.dtype(dtype) != np.float64 else _float64()
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, got {dtype}")
    return dtype


def _float64():
    """float64 where JAX has it enabled, else float32, without JAX's own warning."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def _as_transform(transform, pixelscale, wcs, shape):
    given = [name for name, v in (("transform", transform), ("pixelscale", pixelscale), ("wcs", wcs)) if v is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: give one of transform, pixelscale, wcs")
    if wcs is not None:
        return transform_from_wcs(wcs, shape)
    if transform is None:
        return make_linear(pixelscale=1.0 if pixelscale is None else pixelscale)
    if not hasattr(transform, "pixel_to_plane"):
        raise TypeError(f"transform: expected one made by make_linear or its kin, got {type(transform).__name__}")
    if getattr(transform, "shape", None) not in (None, shape):
        raise ValueError(f"transform: it was made for an image of shape {transform.shape}, but data is {shape}")
    return transform


def _optional_number(value, name, dtype):
    number = np.nan if value is None else np.asarray(value, np.float64)
    if np.shape(number) != ():
        raise ValueError(f"{name}: expected a number, got shape {np.shape(number)}")
    return jnp.asarray(number, dtype)


def crop(image, window):
    """The part of an image inside a window.

    Parameters
    ----------
    image : Image
    window : (i0, i1, j0, j1)
        Columns i0 ≤ i < i1 and rows j0 ≤ j < j1. It may reach over the frame: pixels out there are 0 with ivar 0, so
        that the result always has the window's shape.

    Returns
    -------
    Image
        (j1 − j0, i1 − i0); positions in the plane and on the sky are unchanged. Of a PSF that varies over the frame it
        has the one at the window's middle.

    Raises
    ------
    ValueError
        Not four integers, empty, or nowhere on the frame.
    """
    i0, i1, j0, j1 = check_window(window, image.shape)
    transform = image.transform.crop(i0, j0, (j1 - j0, i1 - i0))
    return replace(
        image,
        data=_cut(image.data, i0, i1, j0, j1),
        ivar=_cut(image.ivar, i0, i1, j0, j1),
        transform=transform,
        psf=None if image.psf is None else image.psf.at((i0 + i1 - 1) / 2, (j0 + j1 - 1) / 2),
    )


def check_window(window, shape):
    """Four integers (i0, i1, j0, j1) that overlap a frame of the given shape, or a ValueError."""
    ny, nx = shape
    try:
        i0, i1, j0, j1 = (int(value) for value in window)
        whole = all(int(value) == value for value in window)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"window: expected four integers (i0, i1, j0, j1), got {window!r}")
    if i1 <= i0 or j1 <= j0:
        raise ValueError(
            f"window: (i0, i1, j0, j1) = {(i0, i1, j0, j1)} is empty; i0 < i1 and j0 < j1 are columns, rows"
        )
    if i1 <= 0 or j1 <= 0 or i0 >= nx or j0 >= ny:
        raise ValueError(f"window: (i0, i1, j0, j1) = {(i0, i1, j0, j1)} lies off the frame of {nx} columns, {ny} rows")
    return i0, i1, j0, j1


def _cut(array, i0, i1, j0, j1):
    ny, nx = array.shape[-2:]
    inside = array[..., max(j0, 0) : min(j1, ny), max(i0, 0) : min(i1, nx)]
    pads = [(0, 0)] * (array.ndim - 2) + [(max(-j0, 0), max(j1 - ny, 0)), (max(-i0, 0), max(i1 - nx, 0))]
    return jnp.pad(inside, pads)


def rebin(image, k):
    """Sum an image over k × k blocks; rows and columns that do not fill a block are dropped.

    A block with an ignored pixel in it is ignored. Variances add.

    Parameters
    ----------
    image : Image
    k : int

    Returns
    -------
    Image

    Raises
    ------
    ValueError
        k is not a positive integer or larger than the image, or the PSF's sampling cannot follow.
    """
    ny, nx = image.shape
    if isinstance(k, bool) or int(k) != k or not 1 <= k <= min(ny, nx):
        raise ValueError(f"k: expected an integer from 1 to {min(ny, nx)}, got {k!r}")
    k = int(k)
    good = ~image.mask
    data = _block_sum(jnp.where(good, image.data, 0), k)
    variance = _block_sum(jnp.where(good, 1 / jnp.where(good, image.ivar, 1), 0), k)
    used = _block_sum(good.astype(image.dtype), k) == k * k
    psf = None if image.psf is None else image.psf.rebin(k)
    return replace(
        image,
        data=jnp.where(used, data, 0),
        ivar=jnp.where(used, 1 / jnp.where(used, variance, 1), 0),
        transform=image.transform.rebin(k),
        psf=psf,
    )


def _block_sum(array, k):
    ny, nx = array.shape[-2] // k, array.shape[-1] // k
    blocks = array[..., : ny * k, : nx * k].reshape(*array.shape[:-2], ny, k, nx, k)
    return blocks.sum((-3, -1))


def stack_images(images, pad=False):
    """Put images of one kind into one Image whose leaves have a leading axis.

    Parameters
    ----------
    images : sequence of Image
    pad : bool
        Fill smaller images up with ignored pixels (ivar 0) to the largest shape.

    Returns
    -------
    Image

    Raises
    ------
    ValueError
        Images that cannot be stacked; the message names the leaf that differs.
    """
    images = list(images)
    if not images:
        raise ValueError("images: expected at least one, got none")
    if pad:
        ny, nx = max(im.shape[0] for im in images), max(im.shape[1] for im in images)
        if any(im.shape != (ny, nx) for im in images):  # all of them, so that grids come out alike
            images = [crop(im, (0, nx, 0, ny)) for im in images]
    for number, image in enumerate(images[1:], 1):
        check_same_kind(images[0], image, number)
    if not is_concrete(images):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *images)
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *images)


def check_same_kind(first, other, number):
    """Refuse a pair that cannot be stacked, naming what differs; `number` is the second one's place."""
    problem = difference(first, other)
    if problem:
        hint = "group the images by what differs and make a stack of each group"
        if problem.startswith("data is ("):
            hint = "stack_images(images, pad=True) fills up with ignored pixels; or group the images by shape"
        raise ValueError(f"images[{number}] cannot be stacked with images[0]: {problem}; {hint}")


def difference(first, other):
    """Words for what keeps two images from being stacked, or from sharing a compiled fit; None without anything."""
    kinds = [_kind(image.transform) for image in (first, other)]
    if kinds[0] != kinds[1]:
        return f"transform is {kinds[1]}, not {kinds[0]}"
    if (first.psf is None) != (other.psf is None):
        return f"psf is {'absent, not present' if other.psf is None else 'present, not absent'}"
    if first.shape != other.shape:
        return f"data is {other.shape}, not {first.shape}"
    return _first_difference(first, other)


def _kind(transform):
    """Name of a transform's class, with that of the one it wraps."""
    name = type(transform).__name__
    return f"{name}({_kind(transform.inner)})" if hasattr(transform, "inner") else name


def _first_difference(first, other):
    """Words for the first leaf or static field in which two images of one kind differ; None without any."""
    leaves, others = [dict(jax.tree_util.tree_leaves_with_path(image)) for image in (first, other)]
    for path, leaf in leaves.items():
        other_leaf = others[path]
        if (leaf.shape, leaf.dtype) != (other_leaf.shape, other_leaf.dtype):
            name = jax.tree_util.keystr(path).lstrip(".")
            return f"{name} is {other_leaf.dtype}{other_leaf.shape}, not {leaf.dtype}{leaf.shape}"
    if jax.tree.structure(first) != jax.tree.structure(other):
        if first.psf is not None and jax.tree.structure(first.psf) != jax.tree.structure(other.psf):
            return "psf.oversample or psf.integrated differs"
        return "a static field of the transform, such as the step of its grid, differs"
    return None


def unstack_images(images):
    """The list of images in a stack.

    Raises
    ------
    ValueError
        The image is not a stack.
    """
    if images.data.ndim != 3:
        raise ValueError(f"images: expected a stack with data of shape (N, ny, nx), got {images.data.shape}")
    leaves, structure = jax.tree.flatten(images)
    arrays = [np.asarray(leaf) if is_concrete(leaf) else leaf for leaf in leaves]
    return [jax.tree.unflatten(structure, [jnp.asarray(array[n]) for array in arrays]) for n in range(len(images.data))]


def estimate_variance(image):
    """Variance map from the data: the sky's scatter, plus Poisson noise of the signal where the gain is known.

    The scatter is 1.4826 × the median absolute deviation of differences between diagonal neighbours, / √2: a smooth
    galaxy cancels in them.

    Returns
    -------
    (ny, nx) array
        For ``make_image(variance=…)`` or ``dataclasses.replace(image, ivar=1 / variance)``.
    """
    data = jnp.where(image.mask, jnp.nan, image.data)
    difference = data[1:, 1:] - data[:-1, :-1]
    centre = jnp.nanmedian(difference)
    scatter = 1.4826 * jnp.nanmedian(jnp.abs(difference - centre))
    sky = jnp.nanmedian(data)
    signal = jnp.maximum(jnp.where(jnp.isnan(data), 0, data - sky), 0)
    poisson = jnp.where(jnp.isnan(image.gain), 0, signal / image.gain)
    return (scatter**2 / 2 + poisson).astype(image.dtype)
