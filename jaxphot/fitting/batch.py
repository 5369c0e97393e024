"""Many fits: the one `fit`, called for chunks of lanes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from jaxphot.fitting.solve import fit
from jaxphot.image import Image, stack_images
from jaxphot.models.combinators import check_model
from jaxphot.parameters import Parameter, parameters
from jaxphot.pytree import leaves_with_names

_CHUNK = 256


def fit_batch(model, params, images, *, chunk=None, progress=True, devices=None, **options):
    """Fit one model to many images.

    Each image is fitted as by `fit`; one that fails says so in its status and does not touch the others.

    Parameters
    ----------
    model : model
    params : dict
        Starts; leaves with a leading axis N, or without one where all images share the value.
    images : Image or sequence of Image
        A stack, or images that `stack_images` can stack.
    chunk : int, optional
        Images in one compiled call; 256.
    progress : bool
        Show a progress bar.
    devices : sequence of jax.Device, optional
        Where to run; the default device.
    **options
        Those of `fit`. Leaves of `fixed` and `bounds` may carry the leading axis N.

    Returns
    -------
    Fit
        Every array has a leading axis N.

    Raises
    ------
    ValueError
        A leaf whose leading axis is not N; images that cannot be stacked.
    """
    check_model(model)
    images = images if isinstance(images, Image) else stack_images(images)
    if images.data.ndim != 3:
        raise ValueError(f"images: expected a stack with data of shape (N, ny, nx), got {images.data.shape}")
    count = len(images.data)
    if count == 0:
        raise ValueError("images: expected at least one, got a stack of none")
    size = _chunk_size(chunk, count)
    shapes = _shapes(parameters(model))
    lanes = {
        "params": _lanes("params", params, shapes, count),
        "fixed": _lanes("fixed", options.pop("fixed", None) or {}, shapes, count),
        "bounds": _lanes("bounds", options.pop("bounds", None) or {}, shapes, count),
    }
    options = tuple(sorted(options.items()))
    device = devices[0] if devices else None
    results = []
    with tqdm(total=count, disable=not progress or count <= size, unit="fit") as bar:
        for begin in range(0, count, size):
            rows = np.minimum(np.arange(begin, begin + size), count - 1)  # the last chunk is filled with its last lane
            part = jax.tree.map(lambda leaf: jax.device_put(leaf[rows], device), (lanes, images))
            result = jax.tree.map(np.asarray, _fit_lanes(model, options, *part))
            kept = min(size, count - begin)
            results.append(jax.tree.map(lambda leaf: leaf[:kept], result))
            bar.update(kept)
    return jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *results)


@partial(jax.jit, static_argnums=(0, 1))
def _fit_lanes(model, options, lanes, images):
    # a lane at a time, so that each leaves when it is done; `jax.vmap` would run all until the slowest is
    return jax.lax.map(lambda lane: fit(model, image=lane[1], **lane[0], **dict(options)), (lanes, images))


def _chunk_size(chunk, count):
    if chunk is not None and (isinstance(chunk, bool) or int(chunk) != chunk or chunk < 1):
        raise ValueError(f"chunk: expected an integer ≥ 1, got {chunk!r}")
    size = _CHUNK if chunk is None else int(chunk)
    return min(size, 1 << (count - 1).bit_length())  # few sizes, so that another N rarely compiles again


def _shapes(declared):
    return {name: leaf.shape for name, leaf in leaves_with_names(declared) if isinstance(leaf, Parameter)}


def _lanes(argument, tree, shapes, count, prefix=""):
    """Every leaf with a leading axis N; None (held) stays."""
    if isinstance(tree, dict):
        join = f"{prefix}." if prefix else ""
        return {key: _lanes(argument, value, shapes, count, f"{join}{key}") for key, value in tree.items()}
    if tree is None or tree is True:
        return None
    if isinstance(tree, (tuple, list)) and argument == "bounds":
        return tuple(_lanes("bound", side, shapes, count, prefix) for side in tree)
    leaf = np.asarray(tree)
    shape = shapes.get(prefix, leaf.shape[1:])
    if leaf.shape == shape or argument == "bound" and leaf.shape == ():
        return np.broadcast_to(leaf, (count, *leaf.shape))
    if leaf.shape != (count, *shape):
        raise ValueError(f"{argument}: {prefix} expects shape {(count, *shape)} or {shape}, got {leaf.shape}")
    return leaf
