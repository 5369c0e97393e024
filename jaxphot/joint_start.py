"""Starting values for a set of images, put together from those of each image."""

import jax
import numpy as np

from jaxphot.image_sets import OF_IMAGES
from jaxphot.models.combinators import Linked
from jaxphot.parameters import Parameter, parameters
from jaxphot.pytree import leaves_with_names, subtree, update
from jaxphot.shared import average, is_below


def joint_start(images, image, known, measure):
    """Starting values of a set.

    What is shared is averaged over the images, weighted by how much light there is in each compared with its noise.
    Views that know how (`models.by_wavelength`) put the values together themselves; others by their inverses, of
    which each may return a part of the parameters only.

    Parameters
    ----------
    images : ImageSet
    image : dict of Image, or stack
    known : dict
        Partial tree of the set's parameters.
    measure : callable
        ``measure(model, image, known)`` for one image.

    Returns
    -------
    dict
        NumPy leaves.
    """
    known = {key: value for key, value in known.items() if key != OF_IMAGES}
    found, weights, own = [], [], []
    for place, model in enumerate(images.models):
        one = images.image(image, place)
        inner = _viewed(model)
        mine = images.select(place, known)
        found.append(jax.tree.map(np.asarray, measure(inner, one, common(mine, parameters(inner)))))
        weights.append(_light(one))
        own.append(_inverse(model, images.keys[place]))
    if images.per_image is not None:
        trees = [inverse(params) for inverse, params in zip(own, found, strict=True)]
        theta = average(trees, weights, parameters(images.models[0]))
        stacked = {name for name, _ in leaves_with_names(trees[0]) if is_below(name, images.per_image)}
        columns = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
        theta = update(theta, subtree(columns, stacked))
    elif all(hasattr(inverse, "together") for inverse in own):
        theta = own[0].together(found, weights)
    else:
        trees = [inverse(params) for inverse, params in zip(own, found, strict=True)]
        theta = average(trees, weights, images.parameters())
    return update(theta, known)


def _viewed(model):
    return model.model if isinstance(model, Linked) else model


def _inverse(model, key):
    if not isinstance(model, Linked):
        return lambda params: params
    if model.inverse is None:
        where = f" of {key!r}" if key else ""
        raise ValueError(f"initialize: no rule for params: the view{where} has no inverse; pass linked(…, inverse=)")
    return model.inverse


def _light(image):
    """Squared signal-to-noise ratio of what is brighter or darker than the middle of the image's values."""
    good = np.asarray(~image.mask)
    if not good.any():
        return 1.0
    data, ivar = np.asarray(image.data, np.float64)[good], np.asarray(image.ivar, np.float64)[good]
    return float(max(np.sum(ivar * (data - np.median(data)) ** 2) - data.size, 1.0))


def common(known, declared):
    """The part of a tree whose key paths are declared."""
    if not isinstance(known, dict) or isinstance(declared, Parameter):
        return known
    return {key: common(value, declared[key]) for key, value in known.items() if key in declared}
