"""Many fits from a stream: images that come one at a time, of any kinds, results that leave as they are done."""

import itertools

import jax
import numpy as np

from jaxphot.fitting.batch import batch_settings, chunk_size, compiled_chunk, dispatch, phases
from jaxphot.fitting.chunks import Lanes, Source, read_lanes
from jaxphot.fitting.problem import declared
from jaxphot.image import Image
from jaxphot.models.combinators import check_model

_MOST_WAITING = 4  # chunks' worth of images of rare kinds that wait for others like them


def fit_stream(model, items, report, *, fixed=None, bounds=None, count=None, **options):
    """Fit images as they come, and hand results on as they are done, in a bounded amount of memory.

    Images of the same kind (shape, dtype, kind of transform and PSF) are fitted together; those of different kinds may
    come in any order. Nothing is kept of what was reported.

    Parameters
    ----------
    model : model
    items : iterable of (key, Image, dict)
        What to call it, the image, and where to start. Read by the calling thread while others are fitted.
    report : callable
        ``report(keys, fits)`` is called in the calling thread for every chunk that is done, in no certain order:
        a list of keys, and a `Fit` whose arrays are NumPy's, with a leading axis.
    fixed, bounds : dict, optional
        As for `fit`, the same for all.
    count : int, optional
        How many there will be, as far as is known: it decides how many go into a chunk.
    **options
        Those of `fit_batch`: `starts`, `precision`, `chunk`, `devices`, `schedule`, and those of `fit`.

    Raises
    ------
    ValueError, TypeError
        What `fit_batch` refuses. Whatever `items` or `report` raise ends the stream, when what was begun is reported.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> images = [jp.make_image(np.full((8, 8), level), std=1.0) for level in (1.0, 2.0, 3.0)]
    >>> levels = {}
    >>> items = ((n, image, {"I0": 0.0}) for n, image in enumerate(images))
    >>> fit_stream(jp.models.flat_sky, items, lambda keys, fits: levels.update(zip(keys, fits.params["I0"])))
    >>> sorted(round(float(level), 3) for level in levels.values())
    [1.0, 2.0, 3.0]
    """
    check_model(model)
    if options.get("per_image") is not None:
        raise ValueError("per_image: a stream has single images; fit_batch takes stacks of them")
    how = {name: options.pop(name, default) for name, default in _HOW.items()}
    settings = batch_settings(*how.values(), options)
    stream = _Stream(settings, model, fixed, bounds, count)
    run = {}

    def fit_chunk(chunk, device):
        dtypes, lanes = chunk
        if dtypes not in run:
            run[dtypes] = compiled_chunk(settings, model, dtypes)
        return run[dtypes](lanes, device)

    def hand_on(number, kept, fits):
        report(stream.keys.pop(number), jax.tree.map(lambda leaf: leaf[:kept], fits))

    dispatch(fit_chunk, stream.chunks(items), settings.workers, hand_on)


_HOW = {"starts": 1, "precision": None, "chunk": None, "devices": None, "schedule": None}


class _Stream:
    """Sorts items by their kind and makes chunks of lanes of them.

    Attributes
    ----------
    keys : dict
        Of the chunks that were handed out, by number.
    """

    def __init__(self, settings, model, fixed, bounds, count):
        self.settings, self.model, self.fixed, self.bounds, self.count = settings, model, fixed, bounds, count
        self.keys, self._numbers = {}, itertools.count()
        self._waiting, self._sizes = {}, {}

    def chunks(self, items):
        """Triples (number of the chunk, number of images, (dtypes, lanes)) as `dispatch` takes them."""
        for key, image, start in items:
            if not isinstance(image, Image):
                raise TypeError(f"items: expected (key, Image, start), got {type(image).__name__} for {key!r}")
            kind = _kind(image, start)
            waiting = self._waiting.setdefault(kind, [])
            waiting.append((key, image, start))
            size = self._size(kind, image, start)
            if len(waiting) == size:
                yield self._chunk(kind)
            elif sum(map(len, self._waiting.values())) > _MOST_WAITING * size:
                yield self._chunk(max(self._waiting, key=lambda kind: len(self._waiting[kind])))
        for kind in list(self._waiting):
            yield self._chunk(kind)

    def _size(self, kind, image, start):
        if kind not in self._sizes:
            source = Source([image])
            source.count = self.count
            lanes = self._lanes([start], image)
            self._sizes[kind] = chunk_size(self.settings, source, lanes.scalars, phases(self.settings, image)[-1])
        return self._sizes[kind]

    def _lanes(self, starts, image):
        stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *starts)
        dtype = phases(self.settings, image)[-1]
        return Lanes(
            declared(self.model, image, self.settings.options), stacked, self.fixed, self.bounds, len(starts), dtype
        )

    def _chunk(self, kind):
        keys, images, starts = zip(*self._waiting.pop(kind), strict=True)
        dtypes = phases(self.settings, images[0])
        lanes = self._lanes(starts, images[0])
        chunks = read_lanes(Source(list(images)), lanes, self._sizes[kind], self.settings.lanes, dtypes[-1])
        _, kept, lanes = next(chunks)
        number = next(self._numbers)
        self.keys[number] = list(keys)
        return number, kept, (dtypes, lanes)


def _kind(image, start):
    """What images have in common that one compiled program fits."""
    leaves, structure = jax.tree.flatten(image)
    names = jax.tree.structure(start)
    return structure, names, tuple((leaf.shape, leaf.dtype.name) for leaf in leaves)
