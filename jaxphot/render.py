"""Model and parameters and image → pixels."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxphot.convolution import Optics, collect, extended_light, light_error, make_optics
from jaxphot.image import Image
from jaxphot.models.combinators import check_model, components, kind
from jaxphot.parameters import check_params, parameters
from jaxphot.psf import PSF
from jaxphot.pytree import pytree, static_field
from jaxphot.sampling import Cells, adaptive, check_sampling, mean_and_error, quad
from jaxphot.stamps import local_cd, make_stamp
from jaxphot.transforms.shifted import Shifted
from jaxphot.windows import add_stamps, first_pixels, over_sources

_BACKGROUND_SAMPLING = quad(2)  # exact for a cubic: a background varies slowly over a pixel
DEFAULT_SAMPLING = adaptive()


@pytree
class Prepared:
    """What rendering needs of an image and does not change with the parameters; made by `prepare`.

    Attributes
    ----------
    transform : transform
    cells : Cells
        The pixels' sensitive footprints.
    area : array
        Of every footprint, arcsec².
    optics : Optics or None
        For images with a PSF.
    psf : PSF or None
        The image's, from which stamps' optics are made: where it varies, that at each stamp's middle. The frame's are
        of the PSF at its middle.
    sampling : rule
        Static.
    """

    transform: object
    cells: Cells
    area: jax.Array
    optics: Optics | None
    psf: object
    sampling: object = static_field()


def prepare(image, sampling=DEFAULT_SAMPLING):
    """Do once what rendering would repeat: pixel grids, areas, the PSF's Fourier transform.

    Parameters
    ----------
    image : Image
    sampling : rule
        Such as ``sampling.quad(3)``.

    Returns
    -------
    Prepared
    """
    check_sampling(sampling)
    (li, lj), scale = image.transform.footprint
    start = jnp.stack([jnp.asarray(li, image.dtype), jnp.asarray(lj, image.dtype)])
    size = jnp.stack([jnp.asarray(side, image.dtype) for side in scale])
    cells = Cells(image.transform.whole, start, size, tuple(image.shape))
    optics = None
    if image.psf is not None:
        psf = image.psf.at(*_middle(image.shape))
        optics = make_optics(psf, image.transform, image.shape, image.dtype)
    return Prepared(image.transform, cells, cells.area(), optics, image.psf, sampling)


def apply(prepared, model, params, rough=None, firsts=None):
    """The model's image, from what `prepare` made: pure, for use inside one's own jitted code.

    Parameters
    ----------
    prepared : Prepared
    model : model
    params : dict
    rough : bool scalar, optional
        Integrate pixels by one sample, as a fit does that is far from its end.
    firsts : sequence of (N, 2) arrays of int, optional
        First pixels (i, j) of the stamps of copies that are drawn in such; by default they are about their centres.

    Returns
    -------
    (ny, nx) array

    Raises
    ------
    ValueError
        A point source, but no PSF to draw it with.
    """
    if rough is not None:
        prepared = _roughly(prepared, rough)
    pairs = components(model, params)
    image = whole_frame(prepared, pairs)
    stamped = [pair for pair in pairs if kind(pair[0]) == "stamped"]
    if firsts is None:
        firsts = [first_pixels(*pair, prepared.transform, prepared.cells.shape) for pair in stamped]
    for (copies, own), first in zip(stamped, firsts, strict=True):
        image = add_stamps(image, draw_copies(prepared, copies, own, first, pairs), first)
    return image


def whole_frame(prepared, pairs):
    """Image of all components but those drawn in stamps."""
    extended = [pair for pair in pairs if kind(pair[0]) == "extended"]
    backgrounds = [pair for pair in pairs if kind(pair[0]) == "background"]
    points = [pair for pair in pairs if kind(pair[0]) == "point"]
    optics = _optics(prepared, pairs)
    if points and optics is None:
        raise ValueError("model: it has a point source, but the image has no PSF to draw it with; pass psf=")
    image = jnp.zeros(prepared.cells.shape, prepared.area.dtype)
    if optics is None:
        if extended:
            image = _add_up(prepared.sampling, extended, prepared.cells) * prepared.area
    elif extended or points:
        light = extended_light(prepared.sampling, extended, optics)
        image = collect(optics, light, [_star(prepared.transform, *pair) for pair in points])
    if backgrounds:
        image = image + _add_up(_BACKGROUND_SAMPLING, backgrounds, prepared.cells) * prepared.area
    return image


def draw_copies(prepared, copies, params, first, pairs=()):
    """Every copy of a `many` in its own stamp.

    Parameters
    ----------
    prepared : Prepared
        Of the frame.
    copies : Many
        With a stamp.
    params : dict
    first : (N, 2) array of int
        First pixel (i, j) of every stamp.
    pairs : sequence of (model, params)
        All components of the scene: a PSF among them is what is seen through.

    Returns
    -------
    (N, sy, sx) array
    """
    stamp = stamp_frame(prepared, copies, pairs)
    own, valid = copies.split(params)
    drawn = over_sources(lambda row: draw_copy(stamp, copies.model, *row), (own, first))
    return jnp.where(valid[:, None, None], drawn, 0)


def stamp_frame(prepared, copies, pairs=()):
    """A `Prepared` of the size of a stamp, at the frame's first pixel.

    Raises
    ------
    ValueError
        The stamp does not fit into the frame.
    """
    ny, nx = prepared.cells.shape
    if copies.stamp[0] > ny or copies.stamp[1] > nx:
        raise ValueError(
            f"stamp: {copies.stamp[0]} × {copies.stamp[1]} pixels (ny, nx) do not fit into the frame of {ny} × {nx};"
            " take smaller stamps, or a many(model) without them"
        )
    psf, dtype = prepared.psf, prepared.area.dtype
    live = [pair for pair in pairs if kind(pair[0]) == "psf"]
    if live:
        psf = _optics_stamp(prepared, *live[0])
    cells = replace(prepared.cells, shape=copies.stamp)
    optics = None if psf is None else make_optics(psf.at(*_middle((ny, nx))), prepared.transform, copies.stamp, dtype)
    return Prepared(prepared.transform, cells, cells.area(), optics, psf, prepared.sampling)


def draw_copy(stamp, model, params, first):
    """One copy in the stamp whose first pixel (i, j) is given: (sy, sx) array."""
    return whole_frame(_placed(stamp, first), components(model, params))


def _placed(stamp, first):
    """A stamp moved to where its first pixel is to be."""
    place = first.astype(stamp.area.dtype)
    cells, optics = _at(stamp.cells, place), stamp.optics
    if optics is not None:
        if not isinstance(stamp.psf, PSF):  # it varies: that at the stamp's middle
            i, j = _middle(cells.shape)
            psf, rough = stamp.psf.at(place[0] + i, place[1] + j), optics.cells.rough
            optics = make_optics(psf, stamp.transform, cells.shape, stamp.area.dtype)
            optics = replace(optics, cells=replace(optics.cells, rough=rough))
        moved = _at(optics.cells, place)
        optics = replace(optics, cells=moved, area=moved.area())
    return Prepared(Shifted(stamp.transform, place), cells, cells.area(), optics, stamp.psf, stamp.sampling)


def _middle(shape):
    """Pixel coordinates (i, j) of the middle of a frame."""
    return (shape[1] - 1) / 2, (shape[0] - 1) / 2


def _at(cells, place):
    return replace(cells, transform=Shifted(cells.transform, place))


def _roughly(prepared, rough):
    """With cells that ask for one sample each."""
    optics = prepared.optics
    if optics is not None:
        optics = replace(optics, cells=replace(optics.cells, rough=rough))
    return replace(prepared, cells=replace(prepared.cells, rough=rough), optics=optics)


def _optics(prepared, pairs):
    """That of the PSF among the components, if there is one (see `psf_models.with_psf`), else the image's own."""
    live = [pair for pair in pairs if kind(pair[0]) == "psf"]
    if not live:
        return prepared.optics
    if len(live) > 1:
        raise ValueError(f"model: expected one PSF for the whole scene, got {len(live)}")
    transform, cells = prepared.transform, prepared.cells
    optics = make_optics(_optics_stamp(prepared, *live[0]), transform, cells.shape, prepared.area.dtype)
    return replace(optics, cells=replace(optics.cells, rough=cells.rough))


def _optics_stamp(prepared, psf, params):
    """The PSF that a model of it gives."""
    cd = local_cd(prepared.transform, prepared.cells.shape, prepared.area.dtype)
    return make_stamp(psf.model, params, cd, psf.shape, psf.oversample)


def _add_up(sampling, pairs, cells):
    values = [sampling(model, params, cells) for model, params in pairs]
    return sum(values[1:], values[0]) if values else None


def integration_error(prepared, model, params):
    """How far every pixel of `apply` may be off because the model was sampled, not integrated: (ny, nx) array."""
    cells, pairs = prepared.cells, components(model, params)
    optics, error, lights = _optics(prepared, pairs), jnp.zeros_like(prepared.area), []
    for part, own in pairs:
        if kind(part) == "background":
            error = error + mean_and_error(_BACKGROUND_SAMPLING, part, own, cells)[1] * prepared.area
        elif kind(part) == "extended" and optics is None:
            error = error + mean_and_error(prepared.sampling, part, own, cells)[1] * prepared.area
        elif kind(part) == "extended":  # stars are exact
            lights.append(light_error(prepared.sampling, part, own, optics))
    if lights:
        error = error + collect(optics, sum(lights), [])
    error = jnp.abs(error)
    for copies, own in pairs:
        if kind(copies) == "stamped":
            first = first_pixels(copies, own, prepared.transform, cells.shape)
            error = add_stamps(error, _errors_of_copies(prepared, copies, own, first, pairs), first)
    return error


def _errors_of_copies(prepared, copies, params, first, pairs):
    stamp, (own, valid) = stamp_frame(prepared, copies, pairs), copies.split(params)
    rows = over_sources(lambda row: integration_error(_placed(stamp, row[1]), copies.model, row[0]), (own, first))
    return jnp.where(valid[:, None, None], rows, 0)


def _star(transform, model, params):
    center, flux = model.position_and_flux(params)
    return (*transform.plane_to_pixel(center[0], center[1]), flux)


def render(model, params, image, sampling=DEFAULT_SAMPLING, *, with_error=False):
    """The image that a model with given parameters makes: what is compared with the data.

    Parameters
    ----------
    model : model
    params : dict
        Nested as ``parameters(model)``; numbers or arrays.
    image : Image
        Gives shape, transform and PSF; its data are not used.
    sampling : rule
        How pixels are integrated, such as ``sampling.quad(3)``.
    with_error : bool
        Also tell how far each pixel may be off because the model was sampled, not integrated (static).

    Returns
    -------
    (ny, nx) array
        Flux in each pixel's sensitive area; with `with_error`, a pair of it and the bound of its error.

    Raises
    ------
    ValueError
        Parameters that do not fit the model (every key path is listed); a point source but no PSF.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.zeros((9, 9)), std=1.0, pixelscale=0.5)
    >>> round(float(render(jp.models.flat_sky, {"I0": 4.0}, image)[0, 0]), 4)
    1.0
    """
    check_model(model)
    check_sampling(sampling)
    check_image(image)
    params = check_params(parameters(model), params, image.dtype)
    return _render(model, params, image, sampling, bool(with_error))


@partial(jax.jit, static_argnames=("model", "sampling", "with_error"))
def _render(model, params, image, sampling, with_error):
    prepared = prepare(image, sampling)
    image = apply(prepared, model, params)
    return (image, integration_error(prepared, model, params)) if with_error else image


def check_image(image):
    """Refuse what is not one Image; a stack is for `fit_batch` or `jax.vmap`."""
    if isinstance(image, dict):
        raise TypeError(
            "image: expected one Image, got a dictionary: sets of images are for fit, fit_batch, initialize,"
            " log_likelihood, log_density and laplace; here, take one at a time, as separate gives them"
        )
    if not isinstance(image, Image):
        raise TypeError(f"image: expected an Image made by make_image or read_fits, got {type(image).__name__}")
    if image.data.ndim != 2:
        raise ValueError(
            f"image: expected one image, got a stack with data of shape {image.data.shape};"
            " use fit_batch, or jax.vmap over it"
        )
