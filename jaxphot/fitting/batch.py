"""Many fits: the one `fit`, handed out in chunks by two schedules.

- On a CPU a chunk is mapped: a lane at a time inside one compiled call, each leaving its loop when it is done, and a
  thread a core calling it for chunk after chunk.
- On an accelerator all lanes of a chunk step together, a few steps at a time; those that are done are taken out, and
  the rest is gathered into the next smaller power of two, so that none waits for the slowest.

Sizes are powers of two, so that another N does not compile again.
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxphot.fitting import lm
from jaxphot.fitting.problem import make_problem
from jaxphot.fitting.solve import advance, begin, finish
from jaxphot.image import Image, stack_images
from jaxphot.models.combinators import check_model
from jaxphot.parameters import Parameter, parameters
from jaxphot.pytree import leaves_with_names

_MAPPED = (8, 64)  # lanes: two sizes, few enough that the threads finish together, large enough to hide the call
_LARGEST_STEPPED = 16384
_STEPS_AT_ONCE = 3
_SMALLEST_GATHER = 64


class BatchError(RuntimeError):
    """A batch that ended early; `fits` holds what was finished before (None if nothing was)."""

    def __init__(self, message, fits):
        super().__init__(message)
        self.fits = fits


def fit_batch(model, params, images, *, chunk=None, progress=True, devices=None, schedule=None, **options):
    """Fit one model to many images.

    Each image is fitted as by `fit`; one that fails says so in its status and does not touch the others.

    Parameters
    ----------
    model : model
    params : dict
        Starts; leaves with a leading axis N, or without one where all images share the value. One outside its bounds
        is moved to them.
    images : Image, or iterable of Image
        A stack, or images that `stack_images` can stack; an iterator is read a chunk at a time.
    chunk : int, optional
        Images in one compiled call; by default from the device's free memory.
    progress : bool
        Show a progress bar.
    devices : sequence of jax.Device, optional
        Where to run; all local devices by default.
    schedule : {"map", "vmap"}, optional
        A lane at a time, or all lanes of a chunk together; by default the first on a CPU, the second elsewhere.
    **options
        Those of `fit`. Leaves of `fixed` and `bounds` may carry the leading axis N.

    Returns
    -------
    Fit
        Every array has a leading axis N. After Ctrl-C: what was finished, with a warning.

    Raises
    ------
    ValueError
        A leaf whose leading axis is not N; images that cannot be stacked; none at all.
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
    check_model(model)
    schedule, workers = _workers(schedule, devices)
    if not isinstance(images, Image) and hasattr(images, "__len__"):
        images = stack_images(images)
    count = _count(images)
    first, images = _first(images)
    starts = _Starts(model, params, options.pop("fixed", None), options.pop("bounds", None), count, first.dtype)
    size = _chunk_size(chunk, count, schedule, first, starts.scalars, workers[0])
    task = (model, tuple(sorted(options.items())))
    run = {"map": _run_mapped, "vmap": _run_stepped}[schedule]
    with tqdm(total=count, disable=not progress, unit="fit") as bar:
        pieces = _dispatch(partial(_retry, run, task), _chunks(images, starts, size), workers, bar)
    if not pieces:
        raise ValueError("images: expected at least one, got none")
    return _join(pieces)


def _workers(schedule, devices):
    """The schedule, and a device for each thread that hands out chunks."""
    devices = list(jax.local_devices() if devices is None else devices)
    if not devices:
        raise ValueError("devices: expected at least one, got none")
    on_cpu = devices[0].platform == "cpu"
    schedule = ("map" if on_cpu else "vmap") if schedule is None else schedule
    if schedule not in ("map", "vmap"):
        raise ValueError(f'schedule: expected "map" or "vmap", got {schedule!r}')
    if on_cpu and schedule == "map" and len(devices) == 1:
        devices = devices * len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else devices
    return schedule, devices


def _count(images):
    """N, or None for an iterator."""
    if not isinstance(images, Image):
        return None
    if images.data.ndim != 3:
        raise ValueError(f"images: expected a stack with data of shape (N, ny, nx), got {images.data.shape}")
    if len(images.data) == 0:
        raise ValueError("images: expected at least one, got a stack of none")
    return len(images.data)


def _first(images):
    """One image to estimate sizes from, and the images again."""
    if isinstance(images, Image):
        return jax.tree.map(lambda leaf: leaf[0], images), images
    images = iter(images)
    head = list(islice(images, 1))
    if not head:
        raise ValueError("images: expected at least one, got none")
    return head[0], _chain(head, images)


def _chain(head, rest):
    yield from head
    yield from rest


def _chunk_size(chunk, count, schedule, image, scalars, device):
    if chunk is not None:
        if isinstance(chunk, bool) or int(chunk) != chunk or chunk < 1:
            raise ValueError(f"chunk: expected an integer ≥ 1, got {chunk!r}")
        return int(chunk)
    if schedule == "map":
        small, large = _MAPPED
        return large if count is None or count > large else small
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", 4 << 30) - stats.get("bytes_in_use", 0)
    ny, nx = image.shape
    stamp = (0, 0) if image.psf is None else image.psf.shape
    fine = 1 if image.psf is None else image.psf.oversample**2
    # value and derivatives a few times over: as pixels, transformed and weighted
    bytes_a_lane = 6 * (scalars + 2) * fine * (ny + stamp[0]) * (nx + stamp[1]) * image.dtype.itemsize
    fitting = max(int(0.6 * free / bytes_a_lane), 1)
    size = min(_LARGEST_STEPPED, 1 << (fitting.bit_length() - 1))
    return size if count is None else min(size, _power_of_two(count))


def _power_of_two(n):
    return 1 << max(n - 1, 0).bit_length()


class _Starts:
    """Params, fixed and bounds of any lanes: leaves with a lane axis are cut, the others repeated."""

    def __init__(self, model, params, fixed, bounds, count, dtype):
        shapes = {name: p.shape for name, p in leaves_with_names(parameters(model)) if isinstance(p, Parameter)}
        self.trees = {}
        for argument, tree in (("params", params), ("fixed", fixed or {}), ("bounds", bounds or {})):
            if not isinstance(tree, dict):
                raise TypeError(f"{argument}: expected a tree of parameters, got {type(tree).__name__}")
            self.trees[argument] = _with_axes(argument, tree, shapes, count, dtype)
        self.scalars = sum(max(int(np.prod(shape)), 1) for shape in shapes.values()) or 8

    def lanes(self, rows):
        """The trees with a leading axis of ``len(rows)``."""
        return jax.tree.map(lambda leaf: leaf.take(rows), self.trees, is_leaf=lambda leaf: isinstance(leaf, _Leaf))


class _Leaf:
    """An array, and whether it has a lane axis."""

    def __init__(self, array, has_lanes):
        self.array, self.has_lanes = array, has_lanes

    def take(self, rows):
        """Lanes of it."""
        if not self.has_lanes:
            return np.broadcast_to(self.array, (len(rows), *self.array.shape))
        return self.array[np.minimum(rows, len(self.array) - 1)]


def _with_axes(argument, tree, shapes, count, dtype, prefix=""):
    if isinstance(tree, dict):
        join = f"{prefix}." if prefix else ""
        return {key: _with_axes(argument, value, shapes, count, dtype, f"{join}{key}") for key, value in tree.items()}
    if tree is None or tree is True:  # held at its start
        return None
    if argument == "bounds" and isinstance(tree, (tuple, list)) and len(tree) == 2:
        return tuple(_with_axes("a side of bounds", side, shapes, count, dtype, prefix) for side in tree)
    leaf = np.asarray(tree, dtype)
    shape = shapes.get(prefix, leaf.shape[1:])
    if leaf.shape == shape or leaf.shape == ():
        return _Leaf(np.broadcast_to(leaf, shape), False)
    if leaf.shape[1:] != shape or (count is not None and len(leaf) != count):
        lanes = "N" if count is None else count
        raise ValueError(f"{argument}: {prefix} expects shape {(lanes, *shape)} or {shape}, got {leaf.shape}")
    return _Leaf(leaf, True)


def _chunks(images, starts, size):
    """Triples (first item, number of items, lanes padded to `size` with a marker of the real ones)."""
    if isinstance(images, Image):
        images = jax.tree.map(np.asarray, images)
        for at in range(0, len(images.data), size):
            rows = np.arange(at, at + size)
            inside = np.minimum(rows, len(images.data) - 1)
            part = jax.tree.map(lambda leaf, inside=inside: leaf[inside], images)
            kept = min(size, len(images.data) - at)
            yield at, kept, {**starts.lanes(rows), "image": part, "real": np.arange(size) < kept}
        return
    at, more = 0, True
    while more:
        items = []
        try:
            items.extend(islice(images, size))
        except Exception as error:  # finish what came before, then say which item it was
            more = _ItemError(at + len(items), error)
        if items:
            part = stack_images(items + [items[-1]] * (size - len(items)))
            yield at, len(items), {**starts.lanes(np.arange(at, at + size)), "image": part,
                                   "real": np.arange(size) < len(items)}  # fmt: skip
        at += len(items)
        if isinstance(more, _ItemError):
            raise more
        more = len(items) == size


class _ItemError(Exception):
    def __init__(self, item, error):
        super().__init__(f"images[{item}]: reading it raised {type(error).__name__}: {error}")


def _dispatch(run, chunks, workers, bar):
    """Run chunks on all workers, a few ahead of what is finished; {first item: Fit}."""
    pieces, waiting, free = {}, deque(), deque(workers)

    def collect():
        at, kept, device, future = waiting.popleft()
        free.append(device)
        pieces[at] = jax.tree.map(lambda leaf: leaf[:kept], future.result())
        bar.update(kept)

    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            for at, kept, lanes in chunks:
                if not free:
                    collect()
                device = free.popleft()
                waiting.append((at, kept, device, pool.submit(run, lanes, device)))
            while waiting:
                collect()
        except KeyboardInterrupt:
            bar.write(f"interrupted: {sum(len(piece.status) for piece in pieces.values())} fits were finished")
        except (_ItemError, MemoryError) as error:
            while waiting and isinstance(error, _ItemError):
                collect()
            raise BatchError(str(error), _join(pieces) if pieces else None) from error
    return pieces


def _join(pieces):
    ordered = [pieces[at] for at in sorted(pieces)]
    return jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *ordered)


def _retry(run, task, lanes, device):
    """Run a chunk; one that does not fit into memory is halved until it does."""
    try:
        return jax.tree.map(np.asarray, run(task, jax.device_put(lanes, device)))
    except jax.errors.JaxRuntimeError as error:
        size = len(lanes["real"])
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        if size == 1:
            raise MemoryError(f"{device} has no memory for a single fit: {error}") from error
    half = size // 2
    parts = [jax.tree.map(lambda leaf: leaf[:half], lanes), jax.tree.map(lambda leaf: leaf[half:], lanes)]
    results = [_retry(run, task, part, device) for part in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)


def _problem(task, lane):
    """Setup and lane of a fit, from traced leaves. Lanes that only fill up a chunk have no data: they end at once."""
    model, options = task
    image = lane["image"]
    image = Image(**{**vars(image), "ivar": jnp.where(lane["real"], image.ivar, 0)})
    return make_problem(model, lane["params"], image, fixed=lane["fixed"], bounds=lane["bounds"], **dict(options))


@partial(jax.jit, static_argnums=0)
def _run_mapped(task, lanes):
    def one(lane):
        setup, problem = _problem(task, lane)
        return finish(setup, problem, advance(setup, problem, begin(setup, problem), problem.max_steps))

    return jax.lax.map(one, lanes)


def _run_stepped(task, lanes):
    states = _begin(task, lanes)
    active, part = np.arange(len(lanes["real"])), lanes
    while True:
        moved = _advance(task, part, states if len(active) == len(states.status) else _gather(states, active))
        states = moved if part is lanes else _scatter(states, active, moved)
        running = np.unique(active[np.asarray(moved.status) == lm.RUNNING])
        exhausted = np.asarray(moved.steps).max() if running.size else 0
        if running.size == 0 or exhausted >= dict(task[1]).get("max_steps", 100):
            return _finish(task, lanes, states)
        bucket = max(_power_of_two(running.size), _SMALLEST_GATHER)
        if bucket < len(active):
            # filled up with a lane that is there anyway: it computes the same twice
            active = np.concatenate([running, np.full(bucket - running.size, running[0])])
            part = _gather(lanes, active)


@partial(jax.jit, static_argnums=0)
def _begin(task, lanes):
    return jax.vmap(lambda lane: begin(*_problem(task, lane)))(lanes)


@partial(jax.jit, static_argnums=0)
def _advance(task, lanes, states):
    return jax.vmap(lambda lane, state: advance(*_problem(task, lane), state, _STEPS_AT_ONCE))(lanes, states)


@partial(jax.jit, static_argnums=0)
def _finish(task, lanes, states):
    return jax.vmap(lambda lane, state: finish(*_problem(task, lane), state))(lanes, states)


@jax.jit
def _gather(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)


@jax.jit
def _scatter(tree, rows, part):
    return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new), tree, part)
