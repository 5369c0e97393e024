"""From a model of a PSF to its stamp."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxphot.models.psf_models import check_stamp
from jaxphot.parameters import check_params, parameters
from jaxphot.psf import PSF
from jaxphot.sampling import Cells, midpoint, quad
from jaxphot.transforms.linear import Linear
from jaxphot.transforms.protocol import default_dtype

_RULE = quad(4)


def psf_from_model(model, params, shape, oversample=1, *, pixelscale=1.0, image=None, integrated=True):
    """A PSF stamp of a model: pure, for use inside one's own jitted and differentiated code.

    Parameters
    ----------
    model : model
        Such as ``psf_models.moffat``; any extended model about the plane's origin will do.
    params : dict
        Lengths in arcsec, angles East of North.
    shape : (int, int)
        (h, w) of the stamp in cells; the source is at the middle of cell ``(h // 2, w // 2)``. It should reach to where
        the PSF is invisible: the sum over the stamp is 1.
    oversample : int
        Cells a pixel.
    pixelscale : float
        arcsec/pixel, with North along rows and East along columns; unless `image` is given.
    image : Image, optional
        Its scale and orientation, as they are in its middle, are the stamp's.
    integrated : bool
        True: the model is integrated over each cell (4 × 4 Gauss nodes) and the PSF says so: the cells' box counts once
        both for stars, which are the stamp itself, and for galaxies. False: samples at the cells' centres, as other
        tools expect them; a native stamp of samples makes stars too sharp by one pixel's box.

    Returns
    -------
    PSF

    Examples
    --------
    >>> import jaxphot as jp
    >>> psf = psf_from_model(jp.psf_models.round_gaussian, {"sigma": 1.5}, (15, 15))
    >>> psf.shape, round(float(psf.data.sum()), 6), psf.center.tolist()
    ((15, 15), 1.0, [7.0, 7.0])
    """
    shape, k = check_stamp(shape, oversample)
    dtype = default_dtype() if image is None else image.dtype
    params = check_params(parameters(model), params, dtype)
    cd = jnp.eye(2, dtype=dtype) * pixelscale if image is None else local_cd(image.transform, image.shape, dtype)
    return _stamp(model, params, cd, shape, k, bool(integrated))


def make_stamp(model, params, cd, shape, oversample, integrated=True):
    """The stamp itself, without checks.

    Parameters
    ----------
    cd : (2, 2) array
        arcsec/pixel, as in `Linear`.

    Returns
    -------
    PSF
    """
    h, w = shape
    dtype, nowhere = cd.dtype, jnp.zeros(2, cd.dtype)
    center = jnp.asarray([w // 2, h // 2], dtype)
    cells = Cells(
        Linear(cd, nowhere, nowhere, nowhere, nowhere),
        -center / oversample,
        jnp.full(2, 1 / oversample, dtype),
        (h, w),
        1 / oversample,
    )
    values = (_RULE if integrated else midpoint())(model, params, cells)
    return PSF(values / jnp.sum(values), center, oversample, integrated)


_stamp = partial(jax.jit, static_argnums=(0, 3, 4, 5))(make_stamp)


def local_cd(transform, shape, dtype):
    """arcsec/pixel, (2, 2), of a transform in the middle of an image."""
    ny, nx = shape
    middle = tuple(jnp.asarray((side - 1) / 2, dtype) for side in (nx, ny))
    one, zero = jnp.ones((), dtype), jnp.zeros((), dtype)
    steps = [jax.jvp(transform.pixel_to_plane, middle, step)[1] for step in ((one, zero), (zero, one))]
    return jnp.stack([jnp.stack(step) for step in steps], axis=1)
