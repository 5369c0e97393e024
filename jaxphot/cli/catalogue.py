"""The catalogue of a batch: the rows of one or several stores as one table."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from astropy.table import QTable, vstack

from jaxphot.catalog import to_table
from jaxphot.cli.batch import STORE
from jaxphot.cli.expressions import parse_model
from jaxphot.cli.store import Store
from jaxphot.fitting.result import NOT_FITTED, status_message

_AT_ONCE = 10_000  # rows


def find_stores(out):
    """The stores in a folder of results, or the one that is named.

    Raises
    ------
    FileNotFoundError
    """
    out = Path(out)
    if out.is_file():
        return [out]
    parts = sorted(out.glob("fits.*-of-*.sqlite"))
    found = ([out / STORE] if (out / STORE).is_file() else []) + parts
    if not found:
        raise FileNotFoundError(f"{out}: there are no results; expected a folder that jaxphot batch or fit made")
    return found


def read_catalogue(out):
    """All rows of a folder of results, in the order of the manifest.

    Parameters
    ----------
    out : str or path-like
        The folder, or one store.

    Returns
    -------
    QTable
        As `to_table` makes it, with `row` (number in the manifest) and `id`; the message of a row that was not fitted
        says why.
    """
    blocks = []
    for path in find_stores(out):
        with Store(path, must_exist=True) as store:
            text = store.meta("model")
            model = None if text is None else parse_model(text)
            block = []
            for record in store.records():
                block.append(record)
                if len(block) == _AT_ONCE:
                    blocks.append(_block(store, model, block))
                    block = []
            if block:
                blocks.append(_block(store, model, block))
    if not blocks:
        return QTable({"row": np.zeros(0, int), "id": np.zeros(0, "U1")})
    widest = max(blocks, key=lambda block: len(block.colnames))
    table = vstack([widest[:0], *blocks], metadata_conflicts="silent") if len(blocks) > 1 else blocks[0]
    table.sort("row")
    return table


def _block(store, model, records):
    fits = store.fits(records)
    rows = np.asarray([record.row for record in records])
    ids = [record.id for record in records]
    if fits is None:
        status = np.asarray([record.status for record in records])
        table = QTable({"id": ids, "status": status, "message": status_message(status), "failed": status != 0})
    else:
        zeropoint = np.asarray([np.nan if record.zeropoint is None else record.zeropoint for record in records])
        known = {} if np.all(np.isnan(zeropoint)) else {"zeropoint": zeropoint}
        table = to_table(fits, ids, model=model, **known)
    message = [
        record.message if record.status == NOT_FITTED else str(text)
        for record, text in zip(records, table["message"], strict=True)
    ]
    table.replace_column("message", np.asarray(message))
    table.add_column(rows, 0, "row")
    return table


def check_name(name):
    """Refuse what cannot be the name of a catalogue in a folder of results."""
    from jaxphot.export import table_format

    if Path(name).name != name:
        raise ValueError(f"--catalogue: expected the name of a file within --out, got {name!r}")
    try:
        kind = table_format(name)
    except ValueError as error:
        raise ValueError(f"--catalogue: {str(error).removeprefix('path: ')}") from None
    if kind == "parquet" and not find_spec("pyarrow"):
        raise ValueError("--catalogue: a .parquet file needs pyarrow; pip install pyarrow")


def write_catalogue(path, table):
    """Write a table as its name's ending says: .ecsv, .fits, .csv or .parquet; an existing one is replaced at once."""
    from jaxphot.export import write_table

    write_table(path, table, overwrite=True)
