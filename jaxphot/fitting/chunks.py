"""What a batch reads: images in chunks of one size, and the starts, fixed values and bounds of their lanes."""

from itertools import chain

import jax
import numpy as np

from jaxphot.fitting.schedules import cast
from jaxphot.image import Image, check_same_kind
from jaxphot.parameters import Parameter
from jaxphot.pytree import leaves_with_names

_END = object()


class ItemError(Exception):
    """An image that could not be read or used; the message names it."""


class Source:
    """Images, of which nothing is held that is not being fitted: a stack, a sequence or any other iterable.

    An item may be a set: a dictionary of images, or a stack of its own.

    Attributes
    ----------
    first : Image, or a set of them
    count : int or None
        None for an iterator, whose end nobody knows.
    """

    def __init__(self, images, places=None, dimensions=2):
        self._places, self._dimensions = places, dimensions
        if isinstance(images, (Image, dict)):
            found = _members(images)
            lengths = set()
            for image in found:
                if not isinstance(image, Image):
                    raise TypeError(f"images: expected a stack or an iterable of images, got {type(image).__name__}")
                if image.data.ndim != dimensions + 1:
                    shape = "(N, ny, nx)" if dimensions == 2 else "(N, M, ny, nx)"
                    raise ValueError(f"images: expected a stack with data of shape {shape}, got {image.data.shape}")
                lengths.add(len(image.data))
            if len(lengths) > 1:
                raise ValueError(f"images: expected stacks of one length, got {', '.join(map(str, sorted(lengths)))}")
            self.count = max(lengths, default=0)
            self._check_count(self.count, "a stack of none")
            self._stack = jax.tree.map(np.asarray, images)
            self.first = jax.tree.map(lambda leaf: leaf[0], self._stack)
            return
        if not hasattr(images, "__iter__"):
            raise TypeError(f"images: expected a stack or an iterable of images, got {type(images).__name__}")
        self._stack = None
        self.count = len(images) if hasattr(images, "__len__") else None
        self._check_count(self.count, "none")
        if isinstance(images, (list, tuple)):  # they are here anyway: say what is wrong before the first fit
            for number, image in enumerate(images):
                _check_item(images[0], image, number, dimensions)
        images = iter(images)
        head, error = _read(images, 1, 0, None, dimensions)
        if error is not None:
            raise error
        self._check_count(len(head), "an iterator of none")
        self.first = head[0]
        self._images = chain(head, images)

    @property
    def members(self):
        """The images of the first item."""
        return _members(self.first)

    @property
    def cells(self):
        """Number of cells that the images of an item are drawn on."""
        return sum(_cells(image) for image in self.members)

    def place(self, number):
        """What the user calls the image with this number."""
        return number if self._places is None else self._places[number]

    @staticmethod
    def _check_count(count, got):
        if count == 0:
            raise ValueError(f"images: expected at least one, got {got}")

    def chunks(self, size):
        """Triples (position of the first, number of images, stack of NumPy arrays filled up to `size`).

        Raises
        ------
        ItemError
            When all that came before was handed out.
        """
        if self._stack is not None:
            for at in range(0, self.count, size):
                kept = min(size, self.count - at)
                rows = np.minimum(np.arange(at, at + size), self.count - 1)
                part = slice(at, at + size) if kept == size else rows
                yield at, kept, jax.tree.map(lambda leaf, part=part: leaf[part], self._stack)
            return
        at, error = 0, None
        while error is None:
            items, error = _read(self._images, size, at, self.first, self._dimensions)
            if items:
                filled = items + [items[-1]] * (size - len(items))
                yield at, len(items), jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
            at += len(items)
            if error is None and len(items) < size:
                return
        raise error


def _cells(image):
    (ny, nx), stamp = image.shape, (0, 0) if image.psf is None else image.psf.data.shape[-2:]
    fine = 1 if image.psf is None else image.psf.oversample**2
    return fine * (ny + stamp[0]) * (nx + stamp[1]) * int(np.prod(image.data.shape[:-2]))


def _read(images, size, at, first, dimensions):
    """Up to `size` of the next images, and the ItemError that ended the reading early (or None)."""
    items = []
    while len(items) < size:
        number = at + len(items)
        try:
            image = next(images, _END)
        except Exception as error:
            wrapped = ItemError(f"images[{number}]: reading it raised {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            return items, wrapped
        if image is _END:
            break
        try:
            _check_item(image if first is None else first, image, number, dimensions)
        except (TypeError, ValueError) as error:
            return items, ItemError(str(error))
        items.append(image)
    return items, None


def _members(item):
    """The images of an item: one, or those of a dictionary."""
    return list(item.values()) if isinstance(item, dict) else [item]


def _check_item(first, item, number, dimensions):
    if isinstance(first, dict) and not (isinstance(item, dict) and item.keys() == first.keys()):
        raise ValueError(f"images[{number}]: expected a dictionary of images {', '.join(first)} like images[0]")
    for image in _members(item):
        if not isinstance(image, Image):
            raise TypeError(f"images[{number}]: expected an Image, got {type(image).__name__}")
        if image.data.ndim != dimensions:
            wanted = "one image" if dimensions == 2 else "a stack of images"
            raise ValueError(f"images[{number}]: expected {wanted}, got data of shape {image.data.shape}")
    if _signature(item) != _signature(first):  # quicker than to look for words every time
        for image, other in zip(_members(first), _members(item), strict=True):
            check_same_kind(image, other, number)


def _signature(image):
    leaves, structure = jax.tree.flatten(image)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


class Lanes:
    """Params, fixed and bounds of any lanes: leaves with a lane axis are cut, the others repeated.

    Attributes
    ----------
    scalars : int
        Number of parameters, estimated where the model declares none.
    """

    def __init__(self, declared, params, fixed, bounds, count, dtype):
        self._shapes = {name: p.shape for name, p in leaves_with_names(declared) if isinstance(p, Parameter)}
        self._count, self._dtype = count, dtype
        self._longest, self._named = None, None
        self._trees = {}
        for argument, tree in (("params", params), ("fixed", fixed or {}), ("bounds", bounds or {})):
            if not isinstance(tree, dict):
                raise TypeError(f"{argument}: expected a tree of parameters, got {type(tree).__name__}")
            self._trees[argument] = self._with_axes(argument, tree)
        self.scalars = sum(max(int(np.prod(shape)), 1) for shape in self._shapes.values()) or 8

    def take(self, at, size):
        """The trees of `size` lanes from `at` on; beyond the last one it is repeated."""
        rows = np.arange(at, at + size)
        return jax.tree.map(lambda leaf: leaf.take(rows), self._trees, is_leaf=lambda leaf: isinstance(leaf, _Leaf))

    def check_end(self, count, ended):
        """Refuse an iterator that has more images than there are starts, or, when it ended, fewer.

        Raises
        ------
        ItemError
        """
        if self._longest is not None and (count > self._longest or (ended and count < self._longest)):
            images = f"ended after {count}" if ended else f"go on to {count} and more"
            raise ItemError(f"{self._named} has {self._longest} lanes, but the images {images}")

    def _with_axes(self, argument, tree, prefix=""):
        if isinstance(tree, dict):
            join = f"{prefix}." if prefix else ""
            return {key: self._with_axes(argument, value, f"{join}{key}") for key, value in tree.items()}
        if tree is None or tree is True:  # held at its start
            return None
        if argument == "bounds" and isinstance(tree, (tuple, list)) and len(tree) == 2:
            return tuple(self._with_axes("a side of bounds", side, prefix) for side in tree)
        try:
            leaf = np.asarray(tree, self._dtype)
        except (TypeError, ValueError):
            raise ValueError(f"{argument}: {prefix} expects numbers, got {type(tree).__name__}") from None
        shape = self._shapes.get(prefix, leaf.shape[1:])
        if leaf.shape == shape or leaf.shape == ():
            return _Leaf(np.broadcast_to(leaf, shape), False)
        wanted = self._count if self._count is not None else self._longest
        if leaf.shape[1:] != shape or (wanted is not None and len(leaf) != wanted):
            lanes = "N" if wanted is None else wanted
            raise ValueError(f"{argument}: {prefix} expects shape {(lanes, *shape)} or {shape}, got {leaf.shape}")
        if self._longest is None:
            self._longest, self._named = len(leaf), f"{argument}: {prefix}"
        return _Leaf(leaf, True)


class _Leaf:
    """An array, and whether it has a lane axis."""

    def __init__(self, array, has_lanes):
        self.array, self.has_lanes = array, has_lanes

    def take(self, rows):
        """Lanes of it."""
        if not self.has_lanes:
            return np.broadcast_to(self.array, (len(rows), *self.array.shape))
        return self.array[np.minimum(rows, len(self.array) - 1)]


def read_lanes(source, lanes, size, extra, dtype):
    """Chunks ready for a schedule: triples (position of the first, number of images, lanes).

    Parameters
    ----------
    source : Source
    lanes : Lanes
    size : int
        Lanes of every chunk, filled up with such as are not ``"real"``.
    extra : dict
        More leaves, one value for all lanes.
    dtype : dtype
        Of the images handed out.
    """
    count = 0
    for at, kept, images in source.chunks(size):
        count = at + kept
        lanes.check_end(count, ended=False)
        images = _checked_cast(source, images, dtype, at)
        shared = {key: np.broadcast_to(np.asarray(value), (size,)) for key, value in extra.items()}
        yield at, kept, {**lanes.take(at, size), **shared, "image": images, "real": np.arange(size) < kept}
    lanes.check_end(count, ended=True)


def _checked_cast(source, images, dtype, at):
    """Images in another dtype; a weight that it cannot hold is an error."""
    if _members(images)[0].data.dtype == dtype:
        return images
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        converted = cast(images, dtype)
    for old, new in zip(_members(images), _members(converted), strict=True):
        used = np.isfinite(old.data) & np.isfinite(old.ivar) & (old.ivar > 0)
        lost = used & ~(np.isfinite(new.ivar) & (new.ivar > 0) & np.isfinite(new.data))
        if lost.any():
            number = source.place(at + int(np.argmax(lost.reshape(len(lost), -1).any(axis=1))))
            name = np.dtype(dtype).name
            raise ItemError(f"precision: images[{number}] has data or ivar that {name} cannot hold; use another unit")
    return converted
