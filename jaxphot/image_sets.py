"""Several images that one tree of parameters explains: what of it each image's model sees, and on whose plane.

A set is a dictionary of images with a dictionary of models, or a stack of images with one model. All of them are
described in the plane of the first one.
"""

from dataclasses import dataclass, replace

import jax
import numpy as np

from jaxphot.image import Image, crop
from jaxphot.models.combinators import Linked, Scene, check_model, kind
from jaxphot.parameters import Parameter, Partial, check_params, describe, parameters
from jaxphot.planes import share_plane
from jaxphot.pytree import is_concrete, leaves_with_names
from jaxphot.shared import broadcast_leaves, check_paths, merged_declarations, pruned, row, with_axis
from jaxphot.transforms.leaves import transform_leaf, with_leaf

OF_IMAGES = "_image"  # the branch of parameters that are leaves of images' transforms
_UNITS = {"crtan": "arcsec", "cd": "arcsec / pix", "crpix": "pix"}


@dataclass(frozen=True)
class ImageSet:
    """The models of a set of images; hashable. Made by `make_set`.

    Attributes
    ----------
    keys : tuple of str
        Names of the images; "0", "1", … in a stack, "" for a single one.
    models : tuple of model
        One an image.
    per_image : tuple of str or None
        Key paths of the parameters that have a leading axis of images; None where the images are a dictionary.
    free : tuple of (str, tuple of (str, shape))
        Names of the images whose transforms have parameters, and these.
    """

    keys: tuple
    models: tuple
    per_image: tuple | None
    free: tuple = ()

    def parameters(self):
        """What is declared of all parameters, leaves of transforms included."""
        if self.per_image is None:
            declared = merged_declarations(dict(zip(self.keys, map(parameters, self.models), strict=True)))
        else:
            declared = with_axis(parameters(self.models[0]), self.per_image, len(self.keys))
        if not self.free:
            return declared
        own = {
            key: {name: Parameter(_UNITS.get(name, ""), shape=shape) for name, shape in leaves}
            for key, leaves in self.free
        }
        kind_of = Partial if isinstance(declared, Partial) or not declared else dict
        return kind_of({**declared, OF_IMAGES: own.get("", own)})

    def each(self, value, argument, default):
        """An option of every image, from one for all or a dictionary."""
        value = thawed(value)
        if not isinstance(value, dict):
            return (default if value is None else value,) * len(self.keys)
        unknown = sorted(set(map(str, value)) - set(self.keys))
        if unknown:
            raise ValueError(f"{argument}: unknown image {', '.join(unknown)}; there are {', '.join(self.keys)}")
        value = {str(key): own for key, own in value.items()}
        return tuple(value.get(key, default) for key in self.keys)

    def image(self, images, place):
        """One of the images."""
        if isinstance(images, dict):
            return images[self.keys[place]]
        return images if self.keys == ("",) else jax.tree.map(lambda leaf: leaf[place], images)

    def _transform(self, images, key):
        if isinstance(images, dict) or key == "":
            return (images[key] if key else images).transform
        return jax.tree.map(lambda leaf: leaf[int(key)], images.transform)

    def start(self, params, images):
        """Parameters with those that the images give themselves: leaves of transforms, values without image axis."""
        if not isinstance(params, dict):
            return params
        if self.per_image:
            params = broadcast_leaves(params, self.per_image, len(self.keys), parameters(self.models[0]))
        if not self.free:
            return params
        given, own = params.get(OF_IMAGES, {}), {}
        for key, leaves in self.free:
            transform = self._transform(images, key)
            known = given if key == "" else given.get(key, {})
            own[key] = {name: known.get(name, transform_leaf(transform, name)) for name, _ in leaves}
        return {**params, OF_IMAGES: own.get("", own)}

    def select(self, place, theta):
        """What the model of an image takes of the parameters; `place` may be traced in a stack."""
        theta = {key: value for key, value in theta.items() if key != OF_IMAGES}
        if self.per_image is None:
            return pruned(parameters(self.models[place]), theta)
        return row(theta, self.per_image, place)

    def leaves(self, place, theta):
        """Values of the leaves of an image's transform that are parameters."""
        key = self.keys[place]
        own = theta.get(OF_IMAGES, {})
        return {name: (own[key] if key else own)[name] for name, _ in dict(self.free).get(key, ())}


@dataclass(frozen=True)
class Named:
    """A dictionary that is hashable: of models, or of an option of `fit` by image."""

    items: tuple


def thawed(value):
    """A `Named` as a dictionary; anything else as it is."""
    return dict(value.items) if isinstance(value, Named) else value


def hashable(value):
    """An option as it can be compiled for: sequences as tuples, dictionaries by image as `Named`."""
    if isinstance(value, dict):
        return Named(tuple((key, hashable(own)) for key, own in value.items()))
    return tuple(value) if isinstance(value, list) else value


def crop_images(images, window):
    """The windows of all images of a set; `window` is one for all, or a dictionary."""
    window = thawed(window)
    if window is None:
        return images
    if not isinstance(window, dict):
        whole = images if isinstance(images, dict) else {"": images}
        cut = {key: crop(image, window) for key, image in whole.items()}
        return cut if isinstance(images, dict) else cut[""]
    if not isinstance(images, dict):
        raise TypeError("window: expected (i0, i1, j0, j1), the same for the whole stack, got a dictionary")
    unknown = sorted(set(window) - set(images))
    if unknown:
        raise ValueError(f"window: unknown image {', '.join(unknown)}; there are {', '.join(images)}")
    return {key: crop(image, window[key]) if key in window else image for key, image in images.items()}


def make_set(model, images, per_image=None, transform_free=None):
    """Check models and images that belong together.

    Parameters
    ----------
    model : dict of model, or model
    images : dict of Image with the same keys, or a stack of Image, or one Image
    per_image : sequence of str, optional
        Key paths of leaves or branches with a value for each image of a stack.
    transform_free : sequence of str, or dict of them, optional
        Names of leaves of transforms that are parameters: for all images but the first, or by image.

    Returns
    -------
    ImageSet
    images : dict of Image, or Image
        In the plane of the first.
    """
    model, transform_free = thawed(model), thawed(transform_free)
    if isinstance(model, dict) != isinstance(images, dict):
        raise TypeError(
            "model, image: expected a dictionary of models with a dictionary of images, got"
            f" {type(model).__name__} and {type(images).__name__}"
        )
    if isinstance(images, dict):
        return _make_dictionary(model, images, per_image, transform_free)
    check_model(model)
    if not isinstance(images, Image):
        raise TypeError(f"image: expected an Image, a stack or a dictionary of them, got {type(images).__name__}")
    if images.data.ndim == 2 and per_image is None:
        keys = ("",)
    elif images.data.ndim == 3 and per_image is not None:
        keys = tuple(str(place) for place in range(len(images.data)))
    else:
        raise ValueError(
            "image: per_image= is for one model seen in a stack of images, with data of shape (N, ny, nx); got"
            f" {images.data.shape}" + ("; pass per_image=() if they share all parameters" if per_image is None else "")
        )
    paths = None if per_image is None else check_paths(per_image, parameters(model), "per_image")
    one = images if images.data.ndim == 2 else jax.tree.map(lambda leaf: leaf[0], images)
    free = _free(transform_free, keys, lambda key: one.transform)
    return ImageSet(keys, (model,) * len(keys), paths, free), share_plane(images)


def _make_dictionary(models, images, per_image, transform_free):
    if per_image is not None:
        raise ValueError("per_image: is for a stack of images; in a dictionary each image has its own model")
    if not images:
        raise ValueError("image: expected at least one image, got an empty dictionary")
    for name, tree in (("model", models), ("image", images)):
        odd = [key for key in tree if not isinstance(key, str) or not key or "." in key]
        if odd:
            raise ValueError(f"{name}: expected names without dots as keys, got {odd[0]!r}")
    if set(models) != set(images):
        only = [f"{key} has no {'image' if key in models else 'model'}" for key in sorted(set(models) ^ set(images))]
        raise ValueError(f"model, image: expected the same keys in both; {', '.join(only)}")
    dtype = next(iter(images.values()), None)
    for key, image in images.items():
        if not isinstance(image, Image):
            raise TypeError(f"image: {key}: expected an Image, got {type(image).__name__}")
        if image.data.ndim != 2:
            raise ValueError(f"image: {key}: expected one image, got a stack with data of shape {image.data.shape}")
        if image.dtype != dtype.dtype:
            raise ValueError(f"image: {key} is {image.dtype}, others are {dtype.dtype}; build them with one dtype=")
        check_model(models[key])
    free = _free(transform_free, tuple(images), lambda key: images[key].transform)
    return ImageSet(tuple(images), tuple(models[key] for key in images), None, free), share_plane(images)


def _free(wanted, keys, transform_of):
    """(image, names) of all transforms with parameters."""
    if not wanted:
        return ()
    if isinstance(wanted, str):
        raise TypeError(f"transform_free: expected a sequence of names, got the string {wanted!r}")
    if not isinstance(wanted, dict):
        wanted = dict.fromkeys(keys[1:] or keys, tuple(wanted))
    wanted = {str(key): tuple(names) for key, names in wanted.items()}
    unknown = sorted(set(wanted) - set(keys))
    if unknown:
        raise ValueError(f"transform_free: unknown image {', '.join(unknown)}; there are {', '.join(keys)}")

    def shape(key, name):
        return np.shape(transform_leaf(transform_of(key), name))

    return tuple((key, tuple((name, shape(key, name)) for name in names)) for key, names in wanted.items() if names)


def with_leaves(image, leaves):
    """An image with other values of its transform's leaves."""
    transform = image.transform
    for name, value in leaves.items():
        transform = with_leaf(transform, name, value)
    return replace(image, transform=transform)


def unlinked(model, params):
    """A model without its views, and its own parameters."""
    if isinstance(model, Linked):
        return unlinked(model.model, model.params(params))
    if type(model) is Scene:
        parts = [(name, *unlinked(part, params[name])) for name, part in model.parts]
        return Scene(tuple((name, part) for name, part, _ in parts)), {name: own for name, _, own in parts}
    return model, params


def check_views(images, theta):
    """The (model without views, its `Parameter`s as they are) of every image; errors name the image.

    Raises
    ------
    ValueError
        A view that returns what its model does not take, or asks for what there is not.
    """
    found, known = [], {}
    for place, (key, model) in enumerate(zip(images.keys, images.models, strict=True)):
        where = f"the image {key!r}: " if key and images.per_image is None else ""
        if images.per_image is not None and place:
            found.append(found[0])
            continue

        def own(theta, place=place, model=model):
            inner, params = unlinked(model, images.select(place, theta))
            known[place] = inner
            return params

        try:
            params = jax.eval_shape(own, theta)
        except KeyError as error:
            has = ", ".join(name for name, _ in leaves_with_names(theta))
            raise ValueError(f"params: {where}its view asks for {error}, which is missing; there are {has}") from error
        except ValueError as error:
            raise ValueError(f"params: {where}{error}") from error
        declared = describe(parameters(known[place]), params)
        shapes = jax.tree.map(lambda leaf: np.zeros(leaf.shape), params)
        check_params(parameters(known[place]), shapes, np.float64)
        found.append((known[place], declared))
    return found


def separate(model, params, image, per_image=None):
    """What each image of a set is explained by: ready for `render`, `plot.triptych`, `total_flux`, …

    Parameters
    ----------
    model : dict of model, or model
    params : dict
        Of the whole set, such as ``fit(...).params``; transforms that were fitted (``params["_image"]``) included.
    image : dict of Image, or a stack
    per_image : sequence of str, optional
        As given to `fit`.

    Returns
    -------
    dict or list of (model, params, Image)
        The images in the plane of the first one, their transforms as fitted; a list for a stack.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> stack = jp.stack_images([jp.make_image(np.full((5, 5), level), std=1.0) for level in (1.0, 2.0)])
    >>> params = {"I0": np.array([1.0, 2.0])}
    >>> [float(jp.render(*one)[0, 0]) for one in separate(jp.models.flat_sky, params, stack, per_image=["I0"])]
    [1.0, 2.0]
    """
    images, image = make_set(model, image, per_image, free_of(params, image))
    theta = images.start(params, image)
    triples = []
    for place, own_model in enumerate(images.models):
        own_image = with_leaves(images.image(image, place), images.leaves(place, theta))
        triples.append((own_model, images.select(place, theta), own_image))
    if images.per_image is not None:
        return triples
    return dict(zip(images.keys, triples, strict=True)) if isinstance(image, dict) else triples[0]


def free_of(params, image):
    """The transform_free of a fit that gave these parameters."""
    fitted = params.get(OF_IMAGES) if isinstance(params, dict) else None
    if not fitted:
        return None
    is_single = isinstance(image, Image) and image.data.ndim == 2
    return tuple(fitted) if is_single else {key: tuple(leaves) for key, leaves in fitted.items()}


# --- do images and model overlap? -----------------------------------------------------------------------------------


def check_overlap(images, theta, image):
    """Refuse an image off which all sources lie, by more than a frame: it says nothing of them.

    Raises
    ------
    ValueError
        Names the image; only for concrete values.
    """
    if not is_concrete(theta, image):
        return
    image = jax.tree.map(np.asarray, image)
    for place, model in enumerate(images.models):
        own = with_leaves(images.image(image, place), images.leaves(place, theta))
        centers = _centers(*unlinked(model, images.select(place, theta)))
        if not len(centers):
            continue
        transform = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), own.transform)
        i, j = (np.asarray(at) for at in transform.plane_to_pixel(*np.asarray(centers, np.float64).T))
        ny, nx = own.shape
        reach = max(nx, ny)
        off = np.maximum(np.maximum(-i, i - (nx - 1)), np.maximum(-j, j - (ny - 1)))
        if not np.min(off) <= reach:
            name = f"the image {images.keys[place]!r}" if images.keys[place] else "the image"
            raise ValueError(
                f"image: {name} does not overlap the model: its sources lie {np.min(off):.0f} pixels and more off the"
                f" frame of {nx} × {ny}; check centers (arcsec, in the plane of the first image), crval and transforms"
            )


def _centers(model, params):
    """Positions (x, y) of all sources of a model without views."""
    if isinstance(model, Scene):
        return [center for name, part in model.parts for center in _centers(part, params[name])]
    if kind(model) in ("background", "psf") or not isinstance(params, dict) or "center" not in params:
        return []
    center = np.asarray(params["center"], np.float64)
    return list(center.reshape(-1, 2)) if center.shape[-1:] == (2,) else []
