"""Each source's share of the light of a frame."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxphot.image import crop, stack_images
from jaxphot.models.combinators import Linked, Scene, check_model, components, kind
from jaxphot.models.copies import Many
from jaxphot.parameters import check_params, parameters
from jaxphot.pytree import refuse_tracers
from jaxphot.render import DEFAULT_SAMPLING, check_image, draw_copies, prepare, whole_frame
from jaxphot.sampling import check_sampling
from jaxphot.windows import add_stamps, cut_stamps, first_pixels

_LEAST = 1e-6  # a smaller share is none: its square would make the pixel's weight overflow
_FAINTEST = 1e-8  # of a source's brightest pixel: light below it is the rounding of transforms, or of a PSF's rim


def deblend(model, params, image, sampling=DEFAULT_SAMPLING):
    """Divide the pixels among the sources of a scene, by what the model says of each one's share.

    Source s gets dₛ = fₛ (data − sky), with fₛ = mₛ / Σ m its share of the model's light in that pixel, as the SDSS
    deblender does it (Lupton et al. 2001, ASPC 238, 269). Negative light counts as none, and so does what is below 1e-8
    (in float32 1e-6) of the source's brightest pixel. The parts of all sources add up to the data without the sky,
    wherever the model has light. The variance is that of the pixel times fₛ²: noise of the data for shares that are
    given. Errors of the shares themselves are the fit's.

    Parameters
    ----------
    model : model
        A scene, as fitted to the image.
    params : dict
    image : Image
    sampling : rule
        How pixels are integrated.

    Returns
    -------
    dict of Image
        One for every source part, by key path (``galaxy``, ``field.stars``): its share as data, 1 / variance as ivar (0
        where it has no light, or the image is masked). For a `many`, a stack with a leading axis of sources: in their
        stamps, each with its own place on the plane (see `unstack_images`), or without stamps over the whole frame.

    Raises
    ------
    ValueError
        A model without sources; parameters that do not fit it.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.full((21, 31), 2.0), std=1.0)
    >>> source = {"q": 1.0, "PA": 0.0, "Re": 3.0, "Ie": 1.0}
    >>> params = {"left": {**source, "center": [10.0, 10.0]}, "right": {**source, "center": [20.0, 10.0]}}
    >>> shares = deblend(jp.scene(left=jp.models.exponential, right=jp.models.exponential), params, image)
    >>> [round(float(shares[name].data[10, 15]), 6) for name in ("left", "right")]
    [1.0, 1.0]
    """
    check_model(model)
    check_sampling(sampling)
    check_image(image)
    refuse_tracers("images are cut up outside", params=params, image=image)
    params = check_params(parameters(model), params, image.dtype)
    shares, firsts = _shares(model, params, image, sampling)
    if not shares:
        raise ValueError("model: it has no sources to divide the light among, only a background")
    return {name: _images(image, share, firsts.get(name)) for name, share in shares.items()}


def sources(model, params, prefix=""):
    """(key path, model, its params) of the parts of a scene that are no combination, copies staying together."""
    if isinstance(model, Linked):
        return sources(model.model, model.params(params), prefix)
    if not isinstance(model, Scene):
        return [(prefix, model, params)]
    join = f"{prefix}." if prefix else ""
    return [one for name, part in model.parts for one in sources(part, params[name], f"{join}{name}")]


@partial(jax.jit, static_argnames=("model", "sampling"))
def _shares(model, params, image, sampling):
    """Shares of the data, (ny, nx) or (N, sy, sx), with the shares' squares over ivar; and first pixels of stamps."""
    prepared, pairs = prepare(image, sampling), components(model, params)
    others = [pair for pair in pairs if kind(pair[0]) == "psf"]
    sky = whole_frame(prepared, [pair for pair in pairs if kind(pair[0]) == "background"])
    light, firsts, total = {}, {}, jnp.zeros_like(image.data)
    for name, part, own in sources(model, params):
        if kind(part) == "stamped":
            firsts[name] = first_pixels(part, own, image.transform, image.shape)
            drawn = draw_copies(prepared, part, own, firsts[name], pairs)
            light[name] = _visible(drawn)
            total = add_stamps(total, light[name], firsts[name])
        elif isinstance(part, Many):
            light[name] = _visible(jnp.stack([whole_frame(prepared, [*others, one]) for one in part.components(own)]))
            total = total + light[name].sum(axis=0)
        elif kind(part) in ("extended", "point"):
            light[name] = _visible(whole_frame(prepared, [*others, (part, own)]))
            total = total + light[name]
    found = {}
    for name, drawn in light.items():
        frames = [total, image.data - sky, jnp.where(image.mask, 0, image.ivar)]
        if name in firsts:
            frames = [cut_stamps(frame, firsts[name], drawn.shape[1:]) for frame in frames]
        elif drawn.ndim == 3:
            frames = [frame[None] for frame in frames]
        whole, data, ivar = frames
        share = jnp.where(whole > 0, drawn / jnp.where(whole > 0, whole, 1), 0)
        ivar = jnp.broadcast_to(ivar, drawn.shape)
        used = (share > _LEAST) & (ivar > 0)
        found[name] = jnp.where(used, share * data, 0), jnp.where(used, ivar / jnp.where(used, share, 1) ** 2, 0)
    return found, firsts


def _visible(drawn):
    """Light of each source, (…, ny, nx), without what is none."""
    floor = max(_FAINTEST, 8 * float(jnp.finfo(drawn.dtype).eps))
    return jnp.where(drawn > floor * jnp.max(drawn, axis=(-2, -1), keepdims=True), drawn, 0)


def _images(image, share, first):
    data, ivar = share
    if data.ndim == 2:
        return replace(image, data=data, ivar=ivar)
    if first is None:
        places = [image] * len(data)
    else:
        sy, sx = data.shape[1:]
        places = [crop(image, (i, i + sx, j, j + sy)) for i, j in first.tolist()]
    return replace(stack_images(places), data=data, ivar=ivar)
