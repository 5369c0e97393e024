"""The running store of a batch: an SQLite file with a row for each fit that is done.

Every chunk is one transaction, so that whatever kills the process, what was written stays. Each row carries a checksum;
rows that are damaged, and those of a manifest's rows that have changed since, are fitted again.
"""

import contextlib
import dataclasses
import json
import sqlite3
import zlib
from pathlib import Path

import numpy as np

from jaxphot.fitting.result import NOT_FITTED, Fit

_VERSION = "1"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fits (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL, digest INTEGER NOT NULL, status INTEGER NOT NULL, message TEXT NOT NULL,
    zeropoint REAL, fit BLOB NOT NULL, checksum INTEGER NOT NULL
);
"""
_COLUMNS = "row, id, digest, status, message, zeropoint, fit, checksum"


class Record:
    """One row of the store: which row of the manifest, how it ended, and the fit's numbers as bytes."""

    __slots__ = ("digest", "fit", "id", "message", "row", "status", "zeropoint")

    def __init__(self, row, id, digest, status, message="", zeropoint=None, fit=b""):
        self.row, self.id, self.digest, self.status = row, id, digest, status
        self.message, self.zeropoint, self.fit = message, zeropoint, fit

    def values(self):
        """As they are stored, with their checksum."""
        return (*self._said(), self.fit, self.checksum())

    def checksum(self):
        """CRC-32 of all else."""
        return zlib.crc32(self.fit, zlib.crc32(repr(self._said()).encode()))

    def _said(self):
        return self.row, self.id, self.digest, self.status, self.message, self.zeropoint


class Store:
    """An open store.

    Parameters
    ----------
    path : str or path-like
        Made where it is missing. A damaged file is kept beside it as ``….damaged``, and what can be read of it copied.
    must_exist : bool
        Refuse to make one.

    Attributes
    ----------
    remark : str
        What was wrong with the file, or "".
    """

    def __init__(self, path, must_exist=False):
        self.path, self.remark = Path(path), ""
        if must_exist and not self.path.is_file():
            raise FileNotFoundError(f"store: there is no file {path}")
        self._layout = None
        self._connection = self._open()

    def _open(self):
        connection = sqlite3.connect(self.path, timeout=30.0)
        try:
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("its pages are damaged")
            _prepare(connection)
        except sqlite3.OperationalError as error:  # locked, read-only, no room
            connection.close()
            raise OSError(f"{self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            connection.close()
            self.remark = f"{self.path} was damaged ({error}); what could be read was kept"
            return self._salvage()
        return connection

    def _salvage(self):
        """A new file with all rows of the damaged one that can still be read."""
        damaged = self.path.with_name(self.path.name + ".damaged")
        for suffix in ("", "-wal", "-shm"):
            file = self.path.with_name(self.path.name + suffix)
            if file.exists():
                file.replace(damaged.with_name(damaged.name + suffix))
        connection = sqlite3.connect(self.path, timeout=30.0)
        _prepare(connection)
        _fill_up(damaged)
        old = sqlite3.connect(damaged)
        with contextlib.closing(old), connection:
            for table, order in (("meta", ""), ("fits", "ORDER BY row"), ("fits", "ORDER BY row DESC")):
                columns = _COLUMNS if table == "fits" else "key, value"
                marks = ", ".join("?" * len(columns.split(",")))
                with contextlib.suppress(sqlite3.DatabaseError):
                    for values in old.execute(f"SELECT {columns} FROM {table} {order}"):
                        connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)
        return connection

    def close(self):
        """Close the file."""
        self._connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def meta(self, key):
        """A text that was stored with `set_meta`, or None."""
        found = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found and found[0]

    def set_meta(self, **texts):
        """Store texts by name."""
        with self._transaction():
            self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", texts.items())

    def add(self, records):
        """Store rows, all of them or none."""
        with self._transaction():
            marks = ", ".join("?" * 8)
            values = [record.values() for record in records]
            self._connection.executemany(f"INSERT OR REPLACE INTO fits VALUES ({marks})", values)

    @contextlib.contextmanager
    def _transaction(self):
        try:
            with self._connection:
                yield
        except sqlite3.Error as error:
            raise OSError(
                f"{self.path}: {error}; what was stored before is safe, run the same again to go on"
            ) from None

    def add_fits(self, rows, ids, digests, zeropoints, fits):
        """Store a chunk of fits (arrays with a leading axis)."""
        layout, packed = _pack(fits)
        if self._layout is None:
            self._layout = self.meta("layout")
        if self._layout is None:
            self.set_meta(layout=layout)
            self._layout = layout
        if self._layout != layout:
            raise ValueError(f"{self.path}: it holds fits of another model or precision")
        status = np.asarray(fits.status).tolist()
        self.add(
            Record(*values[:4], zeropoint=_number(values[4]), fit=values[5])
            for values in zip(rows, ids, digests, status, zeropoints, packed, strict=True)
        )

    def done(self):
        """Digest by row of all rows that are sound."""
        query = f"SELECT {_COLUMNS} FROM fits"
        return {record.row: record.digest for record in _sound(self._connection.execute(query))}

    def records(self, rows=None):
        """Sound rows, ordered; all of them or those named."""
        if rows is not None:
            wanted = sorted(rows)
            for row in wanted:
                yield from _sound(self._connection.execute(f"SELECT {_COLUMNS} FROM fits WHERE row = ?", (row,)))
            return
        yield from _sound(self._connection.execute(f"SELECT {_COLUMNS} FROM fits ORDER BY row"))

    def fits(self, records):
        """The `Fit` of records, with a leading axis; NaN for those that were not fitted. None if none of any was."""
        layout = self.meta("layout")
        return None if layout is None else _unpack(json.loads(layout), records)

    @property
    def count(self):
        """Number of rows."""
        return self._connection.execute("SELECT COUNT(*) FROM fits").fetchone()[0]


def _prepare(connection):
    connection.execute("PRAGMA journal_mode = WAL")  # what was committed survives a killed process
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(_SCHEMA)


def _fill_up(path):
    """Bring a file that was cut off to the length that its header tells; SQLite would read nothing of it otherwise."""
    with open(path, "r+b") as file:
        header = file.read(32)
        if header.startswith(b"SQLite format 3") and len(header) == 32:
            page = int.from_bytes(header[16:18], "big")
            length = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
            if file.seek(0, 2) < length < 1 << 40:
                file.truncate(length)


def _sound(rows):
    try:
        for row, id, digest, status, message, zeropoint, fit, checksum in rows:
            record = Record(row, id, digest, status, message, zeropoint, fit)
            if record.checksum() == checksum:
                yield record
    except sqlite3.DatabaseError:  # a page that broke since it was opened
        return


def _number(value):
    return None if value is None or not np.isfinite(value) else float(value)


def _fields(fits):
    """(key path, array) of all leaves in a fixed order."""
    for field in dataclasses.fields(fits):
        if not field.metadata.get("static", False):
            yield from _leaves((field.name,), getattr(fits, field.name))


def _leaves(path, tree):
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from _leaves((*path, key), tree[key])
    else:
        yield path, np.asarray(tree)


def _pack(fits):
    """A description of the leaves of a batch, and the bytes of each lane."""
    leaves = list(_fields(fits))
    described = [[path, a.dtype.newbyteorder("<").str, a.shape[1:]] for path, a in leaves]
    count = len(np.asarray(fits.status))
    parts = [
        a.astype(a.dtype.newbyteorder("<")).reshape(count, -1).view(np.uint8).reshape(count, -1)
        if a.size
        else np.zeros((count, 0), np.uint8)
        for _, a in leaves
    ]
    packed = np.concatenate(parts, axis=1)
    return json.dumps({"names": fits.names, "leaves": described}), [row.tobytes() for row in packed]


def _unpack(layout, records):
    count = len(records)
    width = sum(np.dtype(kind).itemsize * int(np.prod(shape)) for _, kind, shape in layout["leaves"])
    joined = b"".join(record.fit or bytes(width) for record in records)
    packed = np.frombuffer(joined, np.uint8).reshape(count, width)
    missing = np.asarray([not record.fit for record in records], bool)
    values, at = {}, 0
    for path, kind, shape in layout["leaves"]:
        dtype = np.dtype(kind)
        size = dtype.itemsize * int(np.prod(shape))
        array = np.ascontiguousarray(packed[:, at : at + size]).view(dtype).reshape(count, *shape)
        at += size
        if dtype.kind == "f":
            array = array.copy()
            array[missing] = np.nan
        *branches, last = path
        node = values
        for key in branches:
            node = node.setdefault(key, {})
        node[last] = array
    values["status"] = np.where(missing, NOT_FITTED, values["status"])
    for name in ("stderr", "at_bound", "undetermined", "params"):
        values.setdefault(name, {})
    return Fit(**values, names=tuple(layout["names"]))
