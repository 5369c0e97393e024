"""A manifest: a table with a row for each image to fit, and the starts of its parameters.

CSV is read by Python's own reader, ECSV and FITS tables by astropy, parquet by pyarrow. Columns that are not known here
are left alone.
"""

import csv
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from astropy.table import Table

from jaxphot.cli.expressions import from_shown, put
from jaxphot.fitting.coordinates import scalar_names

TEXTS = ("id", "image", "hdu", "psf", "variance", "sigma", "ivar", "mask")
NUMBERS = ("zeropoint", "gain", "pixelscale", "plane", "x", "y", "ra", "dec", "size")
_MORE_NAMES = {
    "std": "sigma",
    "weight": "ivar",
    "file": "image",
    "path": "image",
    "name": "id",
    "RA": "ra",
    "DEC": "dec",
}
_FORMATS = {".csv": "csv", ".ecsv": "ascii.ecsv", ".fits": "fits", ".fit": "fits", ".gz": "fits", ".parquet": "parquet"}
_LONGEST_CELL = 100_000  # characters


class Manifest:
    """The rows of a manifest.

    Attributes
    ----------
    path : Path
    count : int
    ids : list of str
        From the column `id`, else the rows' numbers.
    columns : dict
        Known columns by name, each a list of str or an array of float64.
    starts : dict
        Key path of a parameter → (N, size) float64 array in its own units; NaN where a cell is empty.
    unused : list of str
        Columns that nothing is made of.
    """

    def __init__(self, path, table, declared):
        self.path = Path(path)
        self.count = len(next(iter(table.values())))
        if not self.count:
            raise ValueError(f"manifest: {path} has no rows")
        self.columns = {}
        for name in list(table):
            known = _MORE_NAMES.get(name, name)
            if known in TEXTS + NUMBERS and known not in self.columns:
                values = table.pop(name)
                self.columns[known] = _texts(values) if known in TEXTS else _numbers(path, name, values)
        self.starts = {}
        for key, parameter in declared.items():
            names = scalar_names(key, parameter.shape) if -1 not in parameter.shape else []
            if names and all(name in table for name in names):
                values = np.stack([_numbers(path, name, table.pop(name)) for name in names], axis=1)
                self.starts[key] = from_shown(values, parameter)
        self.unused = list(table)
        self.ids = self.columns.pop("id", None) or [str(number) for number in range(self.count)]
        if len(set(self.ids)) < self.count:
            seen = set()
            double = next(name for name in self.ids if name in seen or seen.add(name))
            raise ValueError(f"manifest: the id {double!r} is there twice; every row needs its own")
        self._declared = declared

    def cell(self, name, row, default=None):
        """What a row says of a known column; the default where the cell is empty or there is no such column."""
        if name not in self.columns:
            return default
        value = self.columns[name][row]
        is_empty = value == "" if isinstance(value, str) else np.isnan(value)
        return default if is_empty else value

    def start(self, row):
        """Partial tree of the starts that a row gives."""
        tree = {}
        for key, values in self.starts.items():
            if not np.any(np.isnan(values[row])):
                put(tree, key, values[row].reshape(self._declared[key].shape))
        return tree

    def digest(self, row):
        """A checksum of all that a row says, by which it is told whether it has changed since it was fitted."""
        said = [self.ids[row], *(f"{name}={values[row]}" for name, values in self.columns.items())]
        said += [f"{key}={values[row].tolist()}" for key, values in self.starts.items()]
        return zlib.crc32("\n".join(said).encode())


def read_manifest(path, declared):
    """Read a manifest.

    Parameters
    ----------
    path : str or path-like
        ``.csv``, ``.ecsv``, ``.fits`` or ``.parquet``.
    declared : dict
        `Parameter` by key path: columns with these names are starts (angles in degrees).

    Returns
    -------
    Manifest

    Raises
    ------
    FileNotFoundError, ValueError
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"manifest: expected a name that ends in .csv, .ecsv, .fits or .parquet, got {str(path)!r}")
    if not path.is_file():
        raise FileNotFoundError(f"manifest: there is no file {path}")
    try:
        table = _READERS.get(kind, partial(_read_table, kind=kind))(path)
    except Exception as error:  # whatever a reader says of a file that is none of its kind
        raise ValueError(f"manifest: {path} cannot be read: {type(error).__name__}: {error}") from None
    if not table:
        raise ValueError(f"manifest: {path} has no columns")
    return Manifest(path, table, declared)


def _read_csv(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        csv.field_size_limit(_LONGEST_CELL)
        rows = csv.reader((line for line in file if not line.startswith("#")), skipinitialspace=True, strict=True)
        names = [name.strip() for name in next(rows, [])]
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        columns = [[] for _ in names]
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise ValueError(f"line {rows.line_num} has {len(row)} cells, but there are {len(names)} columns")
            for column, cell in zip(columns, row, strict=True):
                column.append(cell.strip())
    return dict(zip(names, columns, strict=True))


def _read_parquet(path):
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError("a .parquet file needs pyarrow; pip install pyarrow") from None
    table = parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


_READERS = {"csv": _read_csv, "parquet": _read_parquet}


def _read_table(path, kind):
    table = Table.read(path, format=kind)
    columns = {}
    for name in table.colnames:
        column = table[name]
        if getattr(column, "ndim", 1) > 1:
            continue
        if getattr(column, "unit", None) is not None and column.unit.to_string() == "rad":
            column = column * np.rad2deg(1.0)
        blank = getattr(column, "mask", None)
        values = np.asarray(column)
        if blank is not None and np.any(blank):
            values = np.where(blank, "", values.astype(str)) if values.dtype.kind in "SUO" else np.where(
                blank, np.nan, values.astype(float)
            )  # fmt: skip
        columns[name] = values
    return columns


def _texts(values):
    texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
    return [text.strip() for text in texts]


def _numbers(path, name, values):
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        return values.astype(np.float64)
    numbers = np.empty(len(values))
    for row, value in enumerate(values):
        try:
            numbers[row] = float(value) if str(value).strip() else np.nan
        except ValueError:
            raise ValueError(f"manifest: {path}: row {row + 1}: {name} is no number: {str(value)[:80]!r}") from None
    return numbers
