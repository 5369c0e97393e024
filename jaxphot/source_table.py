"""A catalogue of the sources of one scene: one row a source."""

import astropy.units as u
import jax
import numpy as np
from astropy.table import QTable
from jax.flatten_util import ravel_pytree

from jaxphot.catalog import add_column, add_magnitude, check_fit, declared_unit, unit_of
from jaxphot.fitting.coordinates import scalar_names
from jaxphot.fitting.neighbours import BlockCovariance
from jaxphot.models.combinators import Scene, kind
from jaxphot.models.copies import Many
from jaxphot.models.totals import total_flux
from jaxphot.parameters import parameters
from jaxphot.pytree import branch, leaves_with_names, update
from jaxphot.transforms.sky import pixel_to_sky


def to_source_table(fit, ids=None, *, model=None, image=None, zeropoint=None, unit=""):
    """A catalogue of the sources of one fitted scene: one row a source, as `to_table` has one row a fit.

    A source is every branch of the parameters with a `center`: one row, or as many as there are copies in a `many`.

    Parameters
    ----------
    fit : Fit
        Of one scene.
    ids : sequence, optional
        One a source, in the order of the rows, such as the `windows` of `initialize_scene`; 1, 2, … by default.
    model : model, optional
        Says the units of parameters by ``parameters(model)``; without it they follow from the parameters' names. Adds
        the total flux (see `total_flux`) of sources that have no parameter `flux`, with its propagated error.
    image : Image, optional
        Adds pixel coordinates `i`, `j`, and, where the image has a place on the sky, `ra` and `dec`.
    zeropoint : float, optional
        Magnitude of flux 1, such as ``image.zeropoint``: adds magnitudes.
    unit : str or astropy unit
        What the image's pixels are in.

    Returns
    -------
    astropy.table.QTable
        `id`; `part`, the key path of the source's part; for every scalar parameter that any source has its value and,
        where it was free, its standard error (NaN where a source does not have it, where padding fills up, or where
        nothing determines it); `at_bound` and `undetermined`: which of its parameters are, or "none". The fit's status,
        χ² and message are in ``table.meta``.

    Raises
    ------
    TypeError, ValueError
        No Fit, a batch of them, no source in it, or as many ids as there are not.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> y, x = np.mgrid[:30, :40]
    >>> data = sum(np.exp(-((x - i) ** 2 + (y - 15) ** 2) / 8) for i in (10, 28))
    >>> model = jp.scene(blobs=jp.many(jp.models.gaussian, stamp=21), sky=jp.models.flat_sky)
    >>> blobs = {"center": [[10.5, 15.0], [28.0, 15.0]], "q": [0.9, 0.9], "PA": [0.0, 0.0], "sigma": [2.0, 2.0]}
    >>> start = {"blobs": {**blobs, "flux": [20.0, 20.0]}, "sky": {"I0": 0.0}}
    >>> fit = jp.fit(model, start, jp.make_image(data, std=0.01))
    >>> table = to_source_table(fit, ["a", "b"])
    >>> table["id"].tolist(), table["flux"].value.round(1).tolist()
    (['a', 'b'], [25.1, 25.1])
    """
    if not check_fit(fit):
        raise ValueError("fit: expected that of one scene, got a batch; to_table has one row a fit")
    groups = list(_sources(fit.params))
    count = sum(size for _, size, _ in groups)
    if not count:
        raise ValueError("fit: none of its parameters is a `center`, so that it has no sources")
    ids = np.arange(1, count + 1) if ids is None else np.asarray(list(ids))
    if ids.shape != (count,):
        raise ValueError(f"ids: expected {count}, one a source, got shape {ids.shape}")
    units = {} if model is None else dict(leaves_with_names(parameters(model)))
    table = QTable({"id": ids, "part": np.concatenate([[path] * size for path, size, _ in groups])})
    columns, errors, shown = _gather(fit, groups, count)
    if model is not None:
        _add_totals(columns, errors, fit, groups, model)
        shown.setdefault("flux", "flux")
    if image is not None:
        _add_places(table, image, columns["center[0]"], columns["center[1]"])
    for key, column in columns.items():
        add_column(table, key, column, errors.get(key), unit_of(shown[key], units, u.Unit(unit)))
        if zeropoint is not None:
            add_magnitude(table, key, column, errors.get(key), np.float64(zeropoint), declared_unit(shown[key], units))
    for name in ("at_bound", "undetermined"):
        table[name] = _marked(getattr(fit, name), groups)
    table.meta |= {"status": int(fit.status), "chi2": float(fit.chi2), "dof": int(fit.dof)}
    return table


def _sources(tree, path=""):
    """(key path, number of sources, whether they are copies) of all branches with a centre."""
    if not isinstance(tree, dict):
        return
    shape = np.shape(tree.get("center")) if "center" in tree else None
    if shape == (2,):
        yield path, 1, False
    elif shape is not None and len(shape) == 2:
        yield path, shape[0], True
    else:
        for key in sorted(tree):
            yield from _sources(tree[key], f"{path}.{key}" if path else key)


def _branch(tree, path):
    """Leaves of a branch by key path within it; {} where the tree has none."""
    for key in path.split(".") if path else ():
        tree = tree.get(key, {}) if isinstance(tree, dict) else {}
    return dict(leaves_with_names(tree)) if isinstance(tree, dict) else {}


def _rows(leaf, size, are_copies):
    """A leaf as (N, scalars), with the shape of one source's."""
    leaf = np.asarray(leaf) if are_copies else np.asarray(leaf)[None]
    return leaf.reshape(size, -1), leaf.shape[1:]


def _gather(fit, groups, count):
    """Columns of values and of errors over all sources, and for each column a key path that tells its unit."""
    columns, errors, shown, first = {}, {}, {}, 0
    for path, size, are_copies in groups:
        valid = np.ones(size, bool)
        own = _branch(fit.params, path)
        if are_copies and "valid" in own:
            valid = np.asarray(own.pop("valid")) > 0
        for into, leaves in ((columns, own), (errors, _branch(fit.stderr, path))):
            for name, leaf in leaves.items():
                values, shape = _rows(leaf, size, are_copies)
                for number, key in enumerate(scalar_names(name, shape)):
                    column = into.setdefault(key, np.full(count, np.nan, values.dtype))
                    column[first : first + size] = np.where(valid, values[:, number], np.nan)
                    shown.setdefault(key, f"{path}.{name}" if path else name)
        first += size
    return columns, errors, shown


def _add_totals(columns, errors, fit, groups, model):
    """Total fluxes and their errors of the sources that have no parameter of that name."""
    count, first, variance_of = len(columns["center[0]"]), 0, _variances(fit)
    for path, size, are_copies in groups:
        own, part = _branch(fit.params, path), _part(model, path)
        rows = slice(first, first + size)
        first += size
        if part is None or kind(part) == "background" or "flux" in own or are_copies != isinstance(part, Many):
            continue
        flux, error = _totals(part, path, own, size, variance_of)
        for into, values in ((columns, flux), (errors, error)):
            column = into.setdefault("flux", np.full(count, np.nan, values.dtype))
            column[rows] = np.where(np.isnan(columns["center[0]"][rows]), np.nan, values)


def _part(model, path):
    """The part of a scene that has the parameters of a branch, or None."""
    for key in path.split(".") if path else ():
        model = dict(model.parts).get(key) if isinstance(model, Scene) else None
    return model


def _totals(part, path, own, size, variance_of):
    """Fluxes and standard errors, (N,) each, of the sources of one branch."""
    leaves = {name: leaf for name, leaf in own.items() if name != "valid"}
    are_copies = isinstance(part, Many)
    tree = {}
    for name, leaf in leaves.items():
        tree = update(tree, branch(name, leaf if are_copies else leaf[None]))
    prefix = f"{path}." if path else ""
    names = {}
    for name, leaf in leaves.items():
        of_leaf = np.array(scalar_names(prefix + name, np.shape(leaf)), object).reshape(np.shape(leaf))
        names = update(names, branch(name, of_leaf if are_copies else of_leaf[None]))
    model = part.model if are_copies else part
    flux, slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda one: total_flux(model, one))))(tree)
    slopes = np.asarray(jax.vmap(lambda one: ravel_pytree(one)[0])(slopes), np.float64)
    names = np.concatenate([np.reshape(leaf, (size, -1)) for leaf in jax.tree.leaves(names)], axis=1)
    return np.asarray(flux), np.sqrt([variance_of(*row) for row in zip(names, slopes, strict=True)])


def _variances(fit):
    """``variance_of(names, slopes)`` of a number, by its derivatives; what is at a bound does not vary."""
    numbers = {name: number for number, name in enumerate(fit.names)}
    held = np.concatenate([np.zeros(0, bool), *(np.ravel(leaf) for leaf in jax.tree.leaves(fit.at_bound))])
    covariance_at = _covariances(fit.covariance)

    def variance_of(names, slopes):
        free = np.array([name in numbers for name in names])
        at, slopes = np.array([numbers[name] for name in names[free]], int), slopes[free]
        varies = (slopes != 0) & ~held[at]
        return slopes[varies] @ covariance_at(at[varies]) @ slopes[varies] if at.size else np.nan

    return variance_of


def _covariances(covariance):
    """``covariance_at(numbers)``: the rows and columns of one source's parameters."""
    if not isinstance(covariance, BlockCovariance):
        whole = np.asarray(covariance, np.float64)
        return lambda at: whole[np.ix_(at, at)]
    blocks = [*np.asarray(covariance.blocks, np.float64), np.asarray(covariance.corner, np.float64)]
    index = [*np.asarray(covariance.index), np.asarray(covariance.shared)]
    block_of = {number: k for k, row in enumerate(index) for number in row.tolist()}

    def covariance_at(at):
        k = block_of[int(at[0])] if at.size else 0
        rows = np.searchsorted(index[k], at)
        return blocks[k][np.ix_(rows, rows)]

    return covariance_at


def _add_places(table, image, x, y):
    i, j = (np.asarray(c) for c in image.transform.plane_to_pixel(x, y))
    table["i"], table["j"] = i * u.pix, j * u.pix
    if not np.any(np.isnan(np.asarray(image.transform.crval))):
        ra, dec = pixel_to_sky(image.transform, i, j)
        table["ra"], table["dec"] = np.asarray(ra) * u.deg, np.asarray(dec) * u.deg


def _marked(tree, groups):
    """Names of the parameters marked in each source; "none" rather than nothing, which ECSV masks."""
    rows = []
    for path, size, are_copies in groups:
        found = [[] for _ in range(size)]
        for name, leaf in _branch(tree or {}, path).items():
            marks, shape = _rows(leaf, size, are_copies)
            for number, key in enumerate(scalar_names(name, shape)):
                for row in np.flatnonzero(marks[:, number]):
                    found[row].append(key)
        rows += [", ".join(one) or "none" for one in found]
    return rows
