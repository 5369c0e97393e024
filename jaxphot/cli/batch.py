"""Fitting all rows of a manifest: what is done is stored as it comes, and a rerun goes on from there."""

import json
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jaxphot.cli.expressions import declared_leaves, parse_bounds, parse_model, parse_values
from jaxphot.cli.manifest import read_manifest
from jaxphot.cli.sources import Sources, remark_on_noise
from jaxphot.cli.store import Record, Store
from jaxphot.fitting.result import NOT_FITTED
from jaxphot.fitting.stream import fit_stream
from jaxphot.initialize import measured_start
from jaxphot.pytree import leaves_with_names, update

STORE = "fits.sqlite"
_FAILURES_AT_ONCE = 50
_SECONDS_BETWEEN_LINES = 10  # of progress, where nobody watches


@dataclass
class Task:
    """What is asked for of every row; `from_options` reads it from text.

    Attributes
    ----------
    text : str
        The model's expression.
    model : model
    known, fixed, bounds : dict
        Partial trees.
    given : dict
        Of `Sources`: what holds for all rows.
    precision : {"float32", "float64", "mixed"}
    options : dict
        More of `fit_stream`.
    """

    text: str
    model: object
    known: dict = field(default_factory=dict)
    fixed: dict = field(default_factory=dict)
    bounds: dict = field(default_factory=dict)
    given: dict = field(default_factory=dict)
    precision: str = "float64"
    options: dict = field(default_factory=dict)

    @classmethod
    def from_options(cls, model, start=(), fix=(), bounds=(), given=None, precision="float64", **options):
        """Parse the texts of a command line."""
        scene = parse_model(model)
        declared = declared_leaves(scene)
        fixed = parse_values("--fix", fix, declared)
        known = update(parse_values("--start", start, declared), _given_values(fixed))
        if missing := [name for name, value in leaves_with_names(known) if value is None]:
            raise ValueError(f"--start: expected {missing[0]}=value")
        given = {key: value for key, value in (given or {}).items() if value is not None}
        return cls(model, scene, known, fixed, parse_bounds(bounds, declared), given, precision, options)

    @property
    def dtype(self):
        """Of the images."""
        return np.dtype("float32" if self.precision == "float32" else "float64")

    def settings(self):
        """All that a result depends on beside the manifest, as text."""
        trees = {name: getattr(self, name) for name in ("known", "fixed", "bounds")}
        said = {name: [[key, _plain(value)] for key, value in leaves_with_names(tree)] for name, tree in trees.items()}
        options = {name: repr(value) for name, value in sorted(self.options.items())}
        given = {key: str(value) for key, value in sorted(self.given.items())}
        model = "".join(self.text.split())
        return json.dumps({"model": model, **said, "given": given, "precision": self.precision, "options": options})


def _given_values(tree):
    """The part of a tree that says values."""
    kept = {key: _given_values(value) if isinstance(value, dict) else value for key, value in tree.items()}
    return {key: value for key, value in kept.items() if value is not None and value != {}} if kept else {}


def _plain(value):
    return [np.asarray(side).tolist() for side in value] if isinstance(value, tuple) else np.asarray(value).tolist()


def run_batch(
    task, manifest, out, *, part=(0, 1), chunk=None, retry=False, restart=False, quiet=False, stop_after=None
):
    """Fit the rows of a manifest that are not in the store yet.

    Parameters
    ----------
    task : Task
    manifest : str or path-like
    out : str or path-like
        A folder, made if missing.
    part : (k, n)
        Take every n-th row from the k-th on, and a store of one's own: for n processes or machines.
    chunk : int, optional
        Images in one compiled call.
    retry : bool
        Also fit the rows again that failed for want of a readable image.
    restart : bool
        Forget what the store has.
    quiet : bool
        Show no progress.
    stop_after : int, optional
        Rows; for trials.

    Returns
    -------
    dict
        Numbers of rows: `rows` of this part, `done` before, `fitted` and `failed` now; `seconds`.

    Raises
    ------
    ValueError, OSError
        What is wrong with the manifest, the folder or the options; never with a single row's image.
    """
    began = time.monotonic()
    manifest = read_manifest(manifest, declared_leaves(task.model))
    path = part_store(out, part)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out: {path.parent} cannot be made a folder: {error.strerror}") from None
    if restart:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    with Store(path) as store:
        if store.remark and not quiet:
            print(f"jaxphot: {store.remark}", file=sys.stderr)
        _check_settings(store, task, manifest)
        rows = range(part[0], manifest.count, part[1])
        done = store.done()
        if retry:
            done = {row: digest for row, digest in done.items() if not _failed(store, row)}
        todo = [row for row in rows if done.get(row) != manifest.digest(row)][:stop_after]
        run = _Run(task, manifest, store, len(rows), len(rows) - len(todo), quiet)
        run.go(todo, chunk)
    return {
        "rows": len(rows), "done": len(rows) - len(todo), "fitted": run.fitted, "failed": run.failed,
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def part_store(out, part=(0, 1)):
    """The store's file of a part."""
    k, n = part
    return Path(out) / (STORE if n == 1 else f"fits.{k:05d}-of-{n:05d}.sqlite")


def _failed(store, row):
    return any(record.status == NOT_FITTED for record in store.records([row]))


def _check_settings(store, task, manifest):
    """Refuse to mix results of different settings in one store."""
    before, now = store.meta("settings"), task.settings()
    if before is None:
        store.set_meta(settings=now, manifest=str(manifest.path.resolve()), model=task.text)
    elif before != now:
        old, new = json.loads(before), json.loads(now)
        what = next(key for key in new if old.get(key) != new[key])
        raise ValueError(
            f"--out: {store.path} was made with another {what} ({old.get(what)}, now {new[what]}); "
            "choose another folder, or --restart to forget it"
        )


class _Run:
    """One pass over the rows that are to be fitted."""

    def __init__(self, task, manifest, store, total, done, quiet):
        self.task, self.manifest, self.store = task, manifest, store
        self.fitted, self.failed = 0, 0
        self._failures, self._zeropoints = [], {}
        self._sources = Sources(manifest, task.given, task.dtype)
        self._declared = declared_leaves(task.model).keys()
        watched = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=done, disable=quiet, unit="fit", file=sys.stderr, smoothing=0.05,
            mininterval=0.1 if watched else _SECONDS_BETWEEN_LINES, ascii=None if watched else True,
        )  # fmt: skip

    def go(self, todo, chunk):
        """Fit rows; whatever ends it, what is done is stored."""
        task = self.task
        try:
            with self._bar:
                options = {"chunk": chunk, "precision": "mixed" if task.precision == "mixed" else None, **task.options}
                fixed, bounds = task.fixed or None, task.bounds or None
                count = self.manifest.count  # of all, so that a rerun has chunks of the same size
                fit_stream(
                    task.model, self._items(todo), self._report, fixed=fixed, bounds=bounds, count=count, **options
                )
        finally:
            self._store_failures()
            if self._sources.without_noise:
                print(remark_on_noise(self._sources.without_noise), file=sys.stderr)

    def _items(self, todo):
        sources = self._sources
        try:
            for row in todo:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        image = sources.image(row)
                        start = self._start(row, image)
                except Exception as error:  # one bad file never stops the run
                    self._fail(row, error)
                    continue
                self._zeropoints[row] = float(image.zeropoint)
                yield row, image, start
        finally:
            sources.close()

    def _start(self, row, image):
        known = update(self.task.known, self.manifest.start(row))
        is_complete = self._declared <= {name for name, _ in leaves_with_names(known)}
        return known if is_complete else measured_start(self.task.model, image, known or None)

    def _fail(self, row, error):
        text = f"{type(error).__name__}: {error}" if not isinstance(error, (ValueError, OSError)) else str(error)
        message = f"not fitted: {' '.join(text.split())[:500]}"
        self._failures.append(Record(row, self.manifest.ids[row], self.manifest.digest(row), NOT_FITTED, message))
        self.failed += 1
        self._bar.update(1)
        if len(self._failures) >= _FAILURES_AT_ONCE:
            self._store_failures()

    def _store_failures(self):
        failures, self._failures = self._failures, []
        if failures:
            self.store.add(failures)

    def _report(self, rows, fits):
        self._store_failures()
        ids, digests = [self.manifest.ids[row] for row in rows], [self.manifest.digest(row) for row in rows]
        self.store.add_fits(rows, ids, digests, [self._zeropoints.pop(row) for row in rows], fits)
        self.fitted += len(rows)
        self._bar.update(len(rows))
