"""Fits as tables: a catalogue for people, and files that bring a `Fit` back exactly."""

import dataclasses
import inspect
import json
import math
from functools import cache
from pathlib import Path

import astropy.units as u
import jax
import jax.numpy as jnp
import numpy as np
from astropy.io import fits
from astropy.table import QTable, Table

from jaxphot.fitting import lm
from jaxphot.fitting.coordinates import scalar_names
from jaxphot.fitting.neighbours import BlockCovariance
from jaxphot.fitting.result import Fit, status_message
from jaxphot.hdus import written_at_once
from jaxphot.models import metrics, modifiers, profiles, psf_models, skies, special, spirals
from jaxphot.parameters import Parameter, keyword_parameters, parameters
from jaxphot.pytree import leaves_with_names, refuse_tracers
from jaxphot.shared import declarations
from jaxphot.units import flux_err_to_mag_err, flux_to_mag

_FLUX = u.def_unit("flux")  # stands for the image's unit of data in `Parameter.unit`
_FORMAT = "jaxphot.Fit"
_BLOCKS = ("blocks", "corner", "index", "shared")  # arrays of a BlockCovariance
_KIND = {".fits": "FITS", ".fit": "FITS", ".gz": "FITS", ".ecsv": "ECSV"}


def to_table(fit, ids=None, *, model=None, zeropoint=None, unit=""):
    """A catalogue: one row a fit, one column a scalar parameter.

    Parameters
    ----------
    fit : Fit
        Of one image or of a batch.
    ids : sequence, optional
        One a fit, for a column `id`; for a single fit also the bare id.
    model : model, or dict of model, optional
        Says the units of parameters by ``parameters(model)``. Without it they follow from the parameters' names, as
        jaxphot's own profiles, metrics and skies use them; a name that is not among these is dimensionless.
    zeropoint : float or (N,) array, optional
        Magnitude of flux 1, such as ``image.zeropoint``: adds magnitudes beside fluxes and mag/arcsec² beside
        surface brightnesses.
    unit : str or astropy unit
        What the image's pixels are in, such as "adu" or "nmgy"; dimensionless by default.

    Returns
    -------
    astropy.table.QTable
        `id`; for every scalar parameter its value (``galaxy.n``, ``galaxy.center[0]``, …; angles in degrees) and, where
        it was free, its standard error (``galaxy.n_err``; NaN where held at a bound or not determined); `chi2`, `dof`,
        `steps`, `status` and `message`, the same in words; `failed`: the fit did not converge to a determined solution;
        `at_bound`, `undetermined`: which parameters are held at a bound, or not determined by the data, or "none";
        `round`: the position angle means nothing; `multimodal`: another start found another minimum. Where there were
        no data or nothing finite to fit, the values are NaN.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.full((8, 8), 3.0), std=1.0)
    >>> table = to_table(jp.fit(jp.models.flat_sky, {"I0": 0.0}, image), "sky-1")
    >>> table.colnames[:3], table["I0"].unit.to_string(), table["message"].tolist()
    (['id', 'I0', 'I0_err'], '1 / arcsec2', ['converged'])
    """
    single = check_fit(fit)
    if single:
        fit = jax.tree.map(lambda leaf: leaf[None], fit)
    count = len(fit.status)
    status = np.asarray(fit.status)
    units = {} if model is None else dict(leaves_with_names(declarations(model)))
    flux_unit = u.Unit(unit)
    magnitude = None if zeropoint is None else _check_zeropoint(zeropoint, count)
    nothing = np.isin(status, (lm.NON_FINITE, lm.NO_DATA))
    errors = dict(leaves_with_names(fit.stderr)) if fit.stderr else {}
    table = QTable()
    if ids is not None:
        table["id"] = _check_ids(ids, count, single)
    for name, leaf in leaves_with_names(fit.params):
        values = _columns(name, leaf, nothing)
        of_errors = _columns(name, errors[name], nothing) if name in errors else {}
        leaf_unit = unit_of(name, units, flux_unit)
        for key, column in values.items():
            add_column(table, key, column, of_errors.get(key), leaf_unit)
            if magnitude is not None:
                add_magnitude(table, key, column, of_errors.get(key), magnitude, declared_unit(name, units))
    table["chi2"] = np.asarray(fit.chi2) * u.one
    for name in ("dof", "steps", "status"):
        table[name] = np.asarray(getattr(fit, name))
    table["message"] = status_message(status)
    table["failed"] = status != lm.CONVERGED
    table["at_bound"] = _marked(fit.at_bound, count)
    table["undetermined"] = _marked(fit.undetermined, count)
    table["round"] = np.asarray(fit.round)
    table["multimodal"] = np.asarray(fit.multimodal)
    return table


def check_fit(fit):
    """Refuse what is no concrete Fit of one image or one batch; True for one image."""
    if not isinstance(fit, Fit):
        raise TypeError(f"fit: expected a Fit, as jaxphot.fit and fit_batch return it, got {type(fit).__name__}")
    refuse_tracers("tables and files are made outside", fit=fit)
    if np.ndim(fit.status) > 1:
        raise ValueError(f"fit: expected one fit or a batch with one leading axis, got shape {np.shape(fit.status)}")
    return np.ndim(fit.status) == 0


def _check_ids(ids, count, single):
    ids = np.asarray(ids)
    if single and ids.ndim == 0:
        ids = ids[None]
    if ids.shape != (count,):
        raise ValueError(f"ids: expected {count}, one a fit, got shape {ids.shape}")
    return ids


def _check_zeropoint(zeropoint, count):
    zeropoint = np.asarray(zeropoint, np.float64)
    if zeropoint.shape not in ((), (count,)):
        raise ValueError(f"zeropoint: expected a number or {count}, one a fit, got shape {zeropoint.shape}")
    return zeropoint


def _columns(name, leaf, blank):
    """Scalar columns by name of a leaf with a leading axis, NaN in rows where `blank`."""
    leaf = np.asarray(leaf)
    flat = np.where(blank[:, None], leaf.dtype.type(np.nan), leaf.reshape(len(leaf), -1))
    return {key: flat[:, n] for n, key in enumerate(scalar_names(name, leaf.shape[1:]))}


@cache
def _vocabulary():
    """Units of all parameters that jaxphot's own functions have, by name; those of two meanings are left out."""
    units = {}
    for module in (profiles, metrics, spirals, modifiers, skies, special, psf_models):
        for _, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__:
                for name, parameter in keyword_parameters(function).items():
                    units.setdefault(name, set()).add(parameter.unit)
    return {name: found.pop() for name, found in units.items() if len(found) == 1}


def declared_unit(name, declared):
    """Unit, as a string, of a parameter by its key path; from the model if that says anything of it."""
    if isinstance(declared.get(name), Parameter):
        return declared[name].unit
    return _vocabulary().get(name.rpartition(".")[2], "")


def parameter_units(tree, model=None):
    """Units, as strings, of the leaves of a tree by key path; from the model, or by the parameters' names."""
    declared = {} if model is None else dict(leaves_with_names(parameters(model)))
    return {name: declared_unit(name, declared) for name, _ in leaves_with_names(tree)}


def unit_of(name, declared, flux_unit):
    """Unit, of astropy, of a parameter by its key path, with what the pixels are in put for the flux."""
    text = declared_unit(name, declared)
    try:
        with u.add_enabled_units([_FLUX]):
            unit = u.Unit(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model: the unit of {name}, {text!r}, is none that astropy knows: {error}") from None
    pairs = zip(unit.bases, unit.powers, strict=True)
    return math.prod(
        [(flux_unit if base is _FLUX else base) ** power for base, power in pairs], start=u.Unit(unit.scale)
    )


def add_column(table, key, column, error, unit):
    """A column and its error's; angles in degrees."""
    shown = u.deg if unit == u.rad else unit
    table[key] = (column * unit).to(shown)
    if error is not None:
        table[f"{key}_err"] = (error * unit).to(shown)


def add_magnitude(table, key, column, error, zeropoint, unit):
    """Columns of magnitudes of a flux or surface brightness, and of its error's; none for anything else."""
    shown = {"flux": u.mag, "flux / arcsec2": u.mag / u.arcsec**2}.get(unit)
    if shown is None:
        return
    column = np.asarray(column, np.float64)
    table[f"{key}_mag"] = np.asarray(flux_to_mag(column, zeropoint)) * shown
    if error is not None:
        positive = np.where(column > 0, column, np.nan)
        table[f"{key}_mag_err"] = np.asarray(flux_err_to_mag_err(positive, np.asarray(error, np.float64))) * shown


def _marked(tree, count):
    """Names of the parameters marked in a tree, in one string a row; "none" rather than nothing, which ECSV masks."""
    rows = [[] for _ in range(count)]
    for name, leaf in leaves_with_names(tree) if tree else ():
        held = np.asarray(leaf).reshape(count, -1)
        for number, key in enumerate(scalar_names(name, np.shape(leaf)[1:])):
            for row in np.flatnonzero(held[:, number]):
                rows[row].append(key)
    return [", ".join(row) or "none" for row in rows]


def save_fit(path, fit, overwrite=False):
    """Write a fit, or a batch of them, to a file from which `load_fit` brings it back exactly.

    Parameters
    ----------
    path : str or path-like
        ``.fits``, ``.fits.gz`` (small and fast) or ``.ecsv`` (text); a table with one row a fit, whose columns are the
        key paths ``params.galaxy.n``, ``covariance``, …
    fit : Fit
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    FileExistsError, FileNotFoundError, ValueError

    Examples
    --------
    >>> import tempfile, numpy as np, jaxphot as jp
    >>> result = jp.fit(jp.models.flat_sky, {"I0": 0.0}, jp.make_image(np.full((8, 8), 3.0), std=1.0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_fit(folder + "/sky.ecsv", result)
    ...     again = load_fit(folder + "/sky.ecsv")
    >>> bool(again.params["I0"] == result.params["I0"]), again.names
    (True, ('I0',))
    """
    kind = _file_kind(path)
    single = check_fit(fit)
    static, leaves = {}, []
    for field in dataclasses.fields(fit):
        value = getattr(fit, field.name)
        if isinstance(value, BlockCovariance):
            value = {name: getattr(value, name) for name in _BLOCKS}
        if field.metadata.get("static", False):
            static[field.name] = value
        else:
            leaves.extend(_leaves(value, (field.name,)))
    arrays = [np.asarray(value)[None] if single else np.asarray(value) for _, value in leaves]
    # an array without elements is in the description only: neither format has columns for it
    described = [[list(keys), a.dtype.name, list(a.shape[1:])] for (keys, _), a in zip(leaves, arrays, strict=True)]
    count = len(np.atleast_1d(fit.status))
    meta = {"format": _FORMAT, "single": single, "count": count, "static": static, "leaves": described}
    columns = {".".join(keys): a for (keys, _), a in zip(leaves, arrays, strict=True) if a.size}
    with written_at_once(path, overwrite) as temporary:
        (_write_fits if kind == "FITS" else _write_ecsv)(temporary, columns, json.dumps(meta))


def _file_kind(path):
    try:
        suffix = Path(path).suffix.lower()
    except TypeError:
        raise TypeError(f"path: expected the path of a file, got {type(path).__name__}") from None
    if suffix not in _KIND:
        raise ValueError(f"path: expected a name that ends in .fits, .fits.gz or .ecsv, got {str(path)!r}")
    return _KIND[suffix]


def _leaves(tree, keys):
    """(keys, leaf) of a nested dictionary, in its own order."""
    if not isinstance(tree, dict):
        return [(keys, tree)]
    return [pair for key, value in tree.items() for pair in _leaves(value, (*keys, key))]


def _write_fits(path, columns, meta):
    # FITS names are ASCII and end after 68 characters; those that cannot be are numbered
    names = [name if name.isascii() and len(name) <= 68 else f"column{n}" for n, name in enumerate(columns)]
    arrays = list(columns.values())
    rows = np.zeros(len(arrays[0]), [(name, a.dtype, a.shape[1:]) for name, a in zip(names, arrays, strict=True)])
    for name, array in zip(names, arrays, strict=True):
        rows[name] = array
    text = np.array([(meta,)], [("json", f"S{len(meta)}")])  # header cards are too short for it
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(rows, name="FIT"), fits.BinTableHDU(text, name="META")]
    fits.HDUList(hdus).writeto(path)


def _write_ecsv(path, columns, meta):
    Table(columns, meta={"jaxphot": meta}, copy=False).write(path, format="ascii.ecsv")


def load_fit(path):
    """Read what `save_fit` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Fit
        Exactly as it was (where JAX's 64-bit mode is off, float64 is read as float32).

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or one that `save_fit` did not write.
    """
    kind = _file_kind(path)
    if not Path(path).exists():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        arrays, text = (_read_fits if kind == "FITS" else _read_ecsv)(path)
        meta = json.loads(text)
        if meta["format"] != _FORMAT:
            raise KeyError("format")
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"path: {path} is not a file that save_fit wrote ({error})") from None
    values = {field.name: {} for field in dataclasses.fields(Fit)}
    arrays = iter(arrays)
    for (*branch, last), dtype, shape in meta["leaves"]:
        rows = (meta["count"], *shape)
        array = np.zeros(rows) if 0 in shape else np.asarray(next(arrays)).reshape(rows)
        node = values
        for key in branch:
            node = node.setdefault(key, {})
        node[last] = jnp.asarray((array[0] if meta["single"] else array).astype(dtype))
    static = {name: tuple(value) if isinstance(value, list) else value for name, value in meta["static"].items()}
    if isinstance(values["covariance"], dict):
        values["covariance"] = BlockCovariance(**values["covariance"], size=len(static["names"]))
    return Fit(**{**values, **static})


def _read_fits(path):
    with fits.open(path) as hdus:
        # by number: FITS does not tell names apart that differ in case only
        rows, count = hdus["FIT"].data, len(hdus["FIT"].columns)
        return [np.array(rows.field(n)) for n in range(count)], str(hdus["META"].data["json"][0])


def _read_ecsv(path):
    table = Table.read(path, format="ascii.ecsv")
    return [np.asarray(table[name]) for name in table.colnames], table.meta["jaxphot"]
