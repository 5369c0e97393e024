"""Many fits: the one `fit`, handed out in chunks by two schedules.

- On a CPU a chunk is mapped: a lane at a time inside one compiled call, each leaving its loop when it is done, and a
  thread a core calling it for chunk after chunk.
- On an accelerator all lanes of a chunk step together, a few steps at a time; those that are done are taken out, and
  the rest is gathered into the next smaller power of two, so that none waits for the slowest. Two threads a device: one
  copies a chunk there while the other's is computed.

Sizes are powers of two, so that another N does not compile again.
"""

import os
import queue
import warnings
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from typing import NamedTuple

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxphot.fitting import lm
from jaxphot.fitting.chunks import ItemError, Lanes, Source, read_lanes
from jaxphot.fitting.problem import check_number, declared
from jaxphot.fitting.schedules import SMALLEST_TOGETHER, Task, power_of_two, run_mapped, run_stepped
from jaxphot.fitting.solve import complete_options
from jaxphot.image import Image, unstack_images
from jaxphot.image_sets import hashable
from jaxphot.likelihood import check_likelihood
from jaxphot.models.combinators import check_model
from jaxphot.priors import as_priors
from jaxphot.pytree import refuse_tracers
from jaxphot.sampling import check_sampling

_MAPPED = (8, 64)  # lanes: two sizes, few enough that the threads finish together, large enough to hide the call
_LARGEST_STEPPED = 16384
_PRECISIONS = {"float32": ("float32",), "float64": ("float64",), "mixed": ("float32", "float64")}


# where JAX before 0.8 has it
_enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


class BatchError(RuntimeError):
    """A batch that ended early.

    Attributes
    ----------
    fits : Fit or None
        What was finished before; with a model for each image a list, None where it was not.
    items : (M,) array of int
        Positions of the images that `fits` belongs to.
    """

    def __init__(self, message, fits, items):
        super().__init__(message)
        self.fits, self.items = fits, items


def fit_batch(
    model,
    params,
    images,
    *,
    starts=1,
    precision=None,
    chunk=None,
    progress=True,
    devices=None,
    schedule=None,
    **options,
):
    """Fit many images.

    Each image is fitted as by `fit`; one that fails says so in its status and does not touch the others.

    Parameters
    ----------
    model : model, sequence of N models, or dict of model
        One for all images, or one for each: those with the same model, and of the same kind, are fitted together. A
        dictionary for sets of images, each fitted as one (see `fit`).
    params : dict, or sequence of N dicts
        Starts; leaves with a leading axis N, or without one where all images share the value. One outside its bounds
        is moved to them. With a model for each image, a dictionary for each.
    images : Image, or iterable of Image
        A stack, or images that `stack_images` can stack; an iterator is read a chunk at a time. Sets of images are a
        dictionary of stacks, or an iterable of dictionaries; with ``per_image=`` one more axis, or an iterable of
        stacks.
    starts : int
        Fit every image from this many starts: the given one, and others around it (always the same). The best end is
        kept; `Fit.multimodal` says where another start converged to another minimum.
    precision : {"float32", "float64", "mixed"}, optional
        To compute in; by default that of the images. "mixed" steps in float32, and takes the last steps and the
        covariance in float64. The last two need JAX's 64-bit mode.
    chunk : int, optional
        Images in one compiled call; by default from the device's free memory.
    progress : bool
        Show a progress bar.
    devices : sequence of jax.Device, optional
        Where to run; all local devices by default.
    schedule : {"map", "vmap"}, optional
        A lane at a time, or all lanes of a chunk together; by default the first on a CPU, the second elsewhere.
    **options
        Those of `fit`. Leaves of `fixed` and `bounds` may carry the leading axis N; with a model for each image they
        are sequences of N, or None.

    Returns
    -------
    Fit, or list of Fit
        Every array has a leading axis N; with a model for each image, a list of N. After Ctrl-C: what was finished
        (the first M images), with a warning.

    Raises
    ------
    ValueError, TypeError
        A leaf whose leading axis is not N; images that cannot be stacked; none at all; options that `fit` refuses.
    BatchError
        An iterator that raised, or a device without memory for a single fit; its `fits` holds what was finished.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> images = [jp.make_image(np.full((8, 8), level), std=1.0) for level in (1.0, 2.0, 3.0)]
    >>> fits = fit_batch(jp.models.flat_sky, {"I0": 0.0}, images, progress=False)
    >>> [round(float(level), 3) for level in fits.params["I0"]]
    [1.0, 2.0, 3.0]
    """
    refuse_tracers("there, jax.vmap(fit) is the batch", params=params, images=images)
    settings = batch_settings(starts, precision, chunk, devices, schedule, options)
    own = options.get("fixed"), options.get("bounds")
    several = isinstance(model, (list, tuple))
    results = _Listed(len(model)) if several else _Joined()
    try:
        if several:
            groups = _groups(model, params, images, *own)
        else:
            dimensions = 2 if options.get("per_image") is None else 3
            groups = [(None, hashable(model), params, Source(images, dimensions=dimensions), *own)]
        count = len(model) if several else groups[0][3].count
        with tqdm(total=count, disable=not progress, unit="fit") as bar:
            for places, *problem in groups:
                _run(settings, *problem, report=partial(_report, results, places, bar))
    except KeyboardInterrupt:
        if not len(results.items):
            raise
        warnings.warn(f"interrupted: {len(results.items)} fits were finished", RuntimeWarning, stacklevel=2)
    except (ItemError, MemoryError) as error:
        raise BatchError(str(error), results.fits, results.items) from error
    return results.fits


class _Settings(NamedTuple):
    """How to run, whatever the model."""

    starts: int
    precision: object
    chunk: object
    schedule: str
    workers: list
    devices: int
    lanes: dict
    options: tuple


def batch_settings(starts, precision, chunk, devices, schedule, options):
    """Checked options, sorted into what lanes carry and what is compiled."""
    _check_count("starts", starts)
    if chunk is not None:
        _check_count("chunk", chunk)
    if precision is not None and precision not in _PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(_PRECISIONS)}, got {precision!r}")
    if precision in ("float64", "mixed") and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise ValueError(
            f'precision: "{precision}" needs JAX\'s 64-bit mode; say jax.config.update("jax_enable_x64", True) first'
        )
    options = complete_options("fit_batch", options)
    numbers = {name: options.pop(name) for name in ("max_steps", "rtol")}
    numbers["rtol"] = lm.RTOL if numbers["rtol"] is None else numbers["rtol"]
    for name, value in numbers.items():
        check_number(name, value, 0)
    numbers["max_steps"] = np.int32(numbers["max_steps"])  # as a lane counts its steps
    for name, check in (("sampling", check_sampling), ("likelihood", check_likelihood)):
        if options[name] is not None and not isinstance(options[name], dict):
            check(options[name])
    options["priors"] = as_priors(options["priors"])
    if options["window"] is not None and not isinstance(options["window"], dict):
        options["window"] = tuple(options["window"])
    options = {name: hashable(value) for name, value in options.items()}
    del options["fixed"], options["bounds"]
    schedule, workers, count = _workers(schedule, devices)
    return _Settings(starts, precision, chunk, schedule, workers, count, numbers, tuple(sorted(options.items())))


def _check_count(name, value):
    if isinstance(value, bool) or not np.isscalar(value) or value != int(value) or value < 1:
        raise ValueError(f"{name}: expected an integer ≥ 1, got {value!r}")


def _workers(schedule, devices):
    """The schedule, a device for each thread, and the number of devices."""
    devices = list(jax.local_devices() if devices is None else devices)
    if not devices:
        raise ValueError("devices: expected at least one, got none")
    on_cpu = devices[0].platform == "cpu"
    schedule = ("map" if on_cpu else "vmap") if schedule is None else schedule
    if schedule not in ("map", "vmap"):
        raise ValueError(f'schedule: expected "map" or "vmap", got {schedule!r}')
    if not on_cpu:
        return schedule, devices * 2, len(devices)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return schedule, devices * cores if schedule == "map" and len(devices) == 1 else devices, len(devices)


def _groups(models, params, images, fixed, bounds):
    """Tuples (places, model, starts, images, fixed, bounds) of images with one model and of one kind."""
    images = unstack_images(images) if isinstance(images, Image) else images
    given = {"params": params, "images": images, "fixed": fixed, "bounds": bounds}
    for name, values in given.items():
        if values is None and name in ("fixed", "bounds"):
            given[name] = [None] * len(models)
        elif not isinstance(values, (list, tuple)) or len(values) != len(models):
            got = f"{len(values)} of them" if isinstance(values, (list, tuple)) else type(values).__name__
            raise ValueError(
                f"{name}: with {len(models)} models, one for each image, expected a list as long, got {got}"
            )
    if not models:
        raise ValueError("images: expected at least one, got none")
    members = {}
    for place, (model, *own) in enumerate(zip(models, *given.values(), strict=True)):
        check_model(model)
        if not isinstance(own[1], Image):
            raise TypeError(f"images[{place}]: expected an Image, got {type(own[1]).__name__}")
        kind = tuple((np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(own[1]))
        members.setdefault((model, jax.tree.structure(own), kind), []).append((place, *own))
    groups = []
    for (model, *_), items in members.items():
        places, starts, parts, *trees = zip(*items, strict=True)
        starts, *trees = (_stack(tree) for tree in (starts, *trees))
        groups.append((np.asarray(places), model, starts, Source(list(parts), places), *trees))
    return groups


def _stack(trees):
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _report(results, places, bar, at, kept, fits):
    rows = np.arange(at, at + kept)
    results.add(rows if places is None else places[rows], jax.tree.map(lambda leaf: leaf[:kept], fits))
    bar.update(kept)


class _Joined:
    """Results of one model: one `Fit` with a leading axis, in the order of the images."""

    def __init__(self):
        self._pieces = {}

    def add(self, places, fits):
        self._pieces[places[0]] = (places, fits)

    @property
    def items(self):
        """Positions of the images that are done."""
        return np.concatenate([np.zeros(0, int), *(self._pieces[at][0] for at in sorted(self._pieces))])

    @property
    def fits(self):
        ordered = [self._pieces[at][1] for at in sorted(self._pieces)]
        return jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *ordered) if ordered else None


class _Listed:
    """Results of several models: a list of `Fit`."""

    def __init__(self, count):
        self.fits = [None] * count

    def add(self, places, fits):
        for row, place in enumerate(places):
            self.fits[place] = jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), fits)

    @property
    def items(self):
        """Positions of the images that are done."""
        return np.flatnonzero([one is not None for one in self.fits])


def _run(settings, model, params, source, fixed, bounds, report):
    """Fit images of one kind with one model."""
    dtypes = phases(settings, source.members[0])
    lanes = Lanes(declared(model, source.first, settings.options), params, fixed, bounds, source.count, dtypes[-1])
    size = chunk_size(settings, source, lanes.scalars, dtypes[-1])
    chunks = read_lanes(source, lanes, size, settings.lanes, dtypes[-1])
    dispatch(compiled_chunk(settings, model, dtypes), chunks, settings.workers, report)


def phases(settings, image):
    """The dtypes in which a fit of an image steps, one after the other."""
    return (image.dtype.name,) if settings.precision is None else _PRECISIONS[settings.precision]


def compiled_chunk(settings, model, dtypes):
    """The function (lanes, device) → Fit that fits a chunk by the schedule; one too large for the memory is halved."""
    task = Task(model, settings.options, dtypes, int(settings.starts))
    run = partial({"map": run_mapped, "vmap": run_stepped}[settings.schedule], task)
    return partial(_retry, run, {})


def chunk_size(settings, source, scalars, dtype):
    """Lanes in one compiled call."""
    count, starts = source.count, settings.starts
    if settings.schedule == "map":
        small, large = _MAPPED
        many = count is None or count > 4 * large * len(settings.workers)
        return int(settings.chunk or (large if many else small))
    if settings.chunk is not None:
        return max(power_of_two(int(settings.chunk)), -(-SMALLEST_TOGETHER // starts))
    stats = settings.workers[0].memory_stats() or {}
    free = stats.get("bytes_limit", 4 << 30) - stats.get("bytes_in_use", 0)
    # value and derivatives a few times over: as pixels, transformed and weighted
    bytes_a_lane = 6 * (scalars + 2) * source.cells * np.dtype(dtype).itemsize * starts
    at_once = len(settings.workers) // settings.devices  # chunks on one device
    fitting = max(int(0.6 * free / at_once / bytes_a_lane), 1)
    size = min(max(_LARGEST_STEPPED // starts, 1), 1 << (fitting.bit_length() - 1))
    if count is not None:
        # a chunk for each worker at least, so that one is copied while the other is computed
        share = power_of_two(max(count // len(settings.workers), 1) // 2 + 1)
        size = min(size, max(share, -(-SMALLEST_TOGETHER // starts)))
    return size


def dispatch(run, chunks, workers, report):
    """Run chunks on all workers, one ahead for whoever is free first; when it ends early, what has begun is finished.

    Parameters
    ----------
    run : callable
        (lanes, device) → Fit.
    chunks : iterable of (int, int, lanes)
        Position of the first item, number of items.
    workers : sequence of jax.Device
        One a thread.
    report : callable
        Takes position, number and Fit of every chunk that is done.
    """
    free, waiting = queue.SimpleQueue(), {}
    for device in workers:
        free.put(device)
    in_64_bits = bool(jax.config.jax_enable_x64)  # a `with` block around the caller does not reach into threads

    def work(lanes):
        device = free.get()
        try:
            if bool(jax.config.jax_enable_x64) == in_64_bits:
                return run(lanes, device)
            with _enable_x64(in_64_bits):
                return run(lanes, device)
        finally:
            free.put(device)

    def collect(futures):
        for future in sorted(futures, key=lambda future: waiting[future][0]):
            report(*waiting.pop(future), future.result())

    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            for at, kept, lanes in chunks:
                waiting[pool.submit(work, lanes)] = (at, kept)
                if len(waiting) > len(workers):
                    collect(wait(waiting, return_when=FIRST_COMPLETED).done)
            collect(wait(waiting).done)
        except ItemError:  # the images before it are as good as any
            collect(wait(waiting).done)
            raise
        except BaseException:
            begun = [future for future in waiting if not future.cancel()]
            collect([future for future in begun if future.exception() is None])
            raise


def _retry(run, largest, lanes, device):
    """Run a chunk; one that does not fit into memory is halved until it does. `largest` remembers how far."""
    size = len(lanes["real"])
    if size <= largest.get(device, size):
        try:
            return jax.tree.map(np.asarray, run(jax.device_put(lanes, device)))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if size == 1:
                raise MemoryError(f"{device} has no memory for a single fit: {error}") from error
        largest[device] = min(largest.get(device, size), -(-size // 2))
    half = -(-size // 2)
    parts = [jax.tree.map(lambda leaf: leaf[:half], lanes), jax.tree.map(lambda leaf: leaf[half:], lanes)]
    results = [_retry(run, largest, part, device) for part in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
