"""Catalogues to files that other tools read, and fits to xarray and ArviZ."""

import json
from pathlib import Path

import jax
import numpy as np
from astropy.table import QTable, Table

from jaxphot.catalog import check_fit, parameter_units
from jaxphot.fitting.neighbours import BlockCovariance, whole_covariance
from jaxphot.hdus import written_at_once
from jaxphot.pytree import leaves_with_names

_TABLES = {".ecsv": "ascii.ecsv", ".fits": "fits", ".fit": "fits", ".gz": "fits", ".csv": "csv", ".parquet": "parquet"}


def write_table(path, table, overwrite=False):
    """Write a catalogue; the file appears at once or not at all.

    Parameters
    ----------
    path : str or path-like
        ``.ecsv`` (text, with units), ``.fits``, ``.fits.gz``, ``.csv`` (no units), or ``.parquet`` (needs pyarrow;
        units are in the schema's metadata under ``units``, as JSON).
    table : Table
        Such as `to_table` returns.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    FileExistsError, FileNotFoundError, ValueError
    ImportError
        Parquet without pyarrow.

    Examples
    --------
    >>> import tempfile, numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.full((8, 8), 3.0), std=1.0)
    >>> table = jp.to_table(jp.fit(jp.models.flat_sky, {"I0": 0.0}, image))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_table(folder + "/sky.csv", table)
    """
    kind = table_format(path)
    if not isinstance(table, Table):
        raise TypeError(f"table: expected an astropy Table, got {type(table).__name__}")
    with written_at_once(path, overwrite) as temporary:
        if kind == "parquet":
            _write_parquet(temporary, table)
        elif kind == "csv":
            Table(table, copy=False).write(temporary, format="ascii.csv")
        else:
            QTable(table, copy=False).write(temporary, format=kind)


def table_format(path):
    """What a file's ending says of its format: csv, parquet, or astropy's name.

    Raises
    ------
    ValueError
        No table is written to files of such a name.
    """
    kind = _TABLES.get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"path: expected a name that ends in {', '.join(_TABLES)}, got {str(path)!r}")
    return kind


def _write_parquet(path, table):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("path: a .parquet file needs pyarrow; pip install pyarrow") from None
    columns = {name: np.asarray(table[name]) for name in table.colnames}
    units = {name: str(table[name].unit) for name in table.colnames if getattr(table[name], "unit", None)}
    made = pyarrow.table(columns)
    made = made.replace_schema_metadata({"units": json.dumps(units), "creator": "jaxphot"})
    pyarrow.parquet.write_table(made, path)


def to_xarray(fit, ids=None, *, model=None):
    """A fit, or a batch of fits, as an xarray Dataset.

    Parameters
    ----------
    fit : Fit
    ids : sequence, optional
        Coordinates along the dimension `fit`.
    model : model, optional
        Says the units of parameters, as in `to_table`.

    Returns
    -------
    xarray.Dataset
        Variables by key path (``galaxy.n``; radians stay radians), their errors (``galaxy.n_err``), `covariance`
        (`parameter`, `parameter_`; left out where it is a `BlockCovariance`), `chi2`, `dof`, `steps`, `status`;
        units in ``.attrs``. A batch has a dimension `fit`.

    Raises
    ------
    ImportError
        Without xarray.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> fit = jp.fit(jp.models.flat_sky, {"I0": 0.0}, jp.make_image(np.full((8, 8), 3.0), std=1.0))
    >>> round(float(jp.to_xarray(fit)["I0"]), 3)  # doctest: +SKIP
    3.0
    """
    xarray = _imported("xarray", "to_xarray")
    single = check_fit(fit)
    lead = () if single else ("fit",)
    variables = {}
    for suffix, tree in (("", fit.params), ("_err", fit.stderr)):
        units = parameter_units(tree, model)
        for name, leaf in leaves_with_names(tree):
            values = np.asarray(leaf)
            own = tuple(f"{name}_{axis}" for axis in range(values.ndim - len(lead)))
            variables[name + suffix] = (lead + own, values, {"units": units[name]})
    if not isinstance(fit.covariance, BlockCovariance):
        variables["covariance"] = ((*lead, "parameter", "parameter_"), np.asarray(fit.covariance))
    for name in ("chi2", "dof", "steps", "status"):
        variables[name] = (lead, np.asarray(getattr(fit, name)))
    coordinates = {"parameter": list(fit.names), "parameter_": list(fit.names)}
    if ids is not None and not single:
        coordinates["fit"] = np.asarray(ids)
    return xarray.Dataset(variables, coordinates)


def to_arviz(fit, *, draws=1000, seed=0):
    """Draws from the normal distribution that a fit's covariance describes, for ArviZ.

    Parameters
    ----------
    fit : Fit
        Of one image. Parameters without a known error stay at their best values.
    draws : int
    seed : int

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        With a group `posterior` of one chain.

    Raises
    ------
    ImportError
        Without ArviZ.
    """
    arviz = _imported("arviz", "to_arviz")
    if not check_fit(fit):
        raise ValueError("fit: expected one fit, got a batch; take one as jax.tree.map(lambda leaf: leaf[k], fit)")
    covariance = np.asarray(whole_covariance("to_arviz", fit), np.float64)
    known = np.isfinite(np.diagonal(covariance)) & (np.diagonal(covariance) > 0)
    covariance = np.where(known[:, None] & known[None, :], covariance, 0.0)
    offsets = np.random.default_rng(seed).multivariate_normal(np.zeros(len(known)), covariance, draws)
    posterior, at = {}, 0
    errors = dict(leaves_with_names(fit.stderr))
    for name, leaf in leaves_with_names(jax.tree.map(np.asarray, fit.params)):
        if name in errors:
            size = max(leaf.size, 1)
            drawn = leaf + offsets[:, at : at + size].reshape(draws, *leaf.shape)
            posterior[name], at = drawn[None], at + size
    if int(arviz.__version__.partition(".")[0]) == 0:  # it would take the other form for a variable named "posterior"
        return arviz.from_dict(posterior=posterior)
    return arviz.from_dict({"posterior": posterior})


def _imported(name, needed_by):
    try:
        return __import__(name)
    except ImportError:
        raise ImportError(f"{needed_by}: it needs {name}; pip install {name}") from None
