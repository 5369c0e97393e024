"""Results on the terminal, as a page, as a picture, as a table."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from astropy.io import fits

from jaxphot.cli.catalogue import find_stores, read_catalogue, write_catalogue
from jaxphot.cli.expressions import declared_leaves, parse_model
from jaxphot.cli.manifest import read_manifest
from jaxphot.cli.page import write_page
from jaxphot.cli.single import describe
from jaxphot.cli.sources import Sources
from jaxphot.cli.store import Store
from jaxphot.fitting.result import NOT_FITTED, status_message
from jaxphot.image import make_image
from jaxphot.render import render

_MOST_ROWS = 5000  # of the page's table
_ON_A_SHEET = 24


def show(results, page=None, picture=None, catalogue=None, limit=200):
    """Print a summary of results, and write what is asked for.

    Parameters
    ----------
    results : str or path-like
        A folder that ``jaxphot fit`` or ``jaxphot batch`` made, or a store in it.
    page, picture, catalogue : str or path-like, optional
        Files to write: an HTML page, a drawing, a table.
    limit : int
        Thumbnails on the page.

    Returns
    -------
    bool
        Whether all fits converged.
    """
    stores = find_stores(results)
    table = read_catalogue(results)
    if not len(table):
        raise ValueError(f"{results}: there are no results in it yet")
    print(_summary(results, table))
    if catalogue is not None:
        write_catalogue(catalogue, table)
        print(f"written to {catalogue}")
    if page is not None:
        kept = _worst_first(table)[:_MOST_ROWS]
        pictures = _pictures(stores, {int(table["row"][row]) for row in kept[:limit]})
        rows = np.sort(kept)
        shown = table[rows]
        by_place = {place: pictures[int(row)] for place, row in enumerate(shown["row"]) if int(row) in pictures}
        remarks = _summary(results, table).splitlines()
        if len(rows) < len(table):
            remarks.append(f"The table has the worst {len(rows)} of {len(table)} rows.")
        thumbnails = {place: _thumbnail(*found) for place, found in by_place.items()}
        remarks.append(f"Pictures, of {len(thumbnails)} rows: data, model, (data − model) / σ from −5 to 5.")
        write_page(page, f"jaxphot: {Path(results).name}", remarks, shown, thumbnails)
        print(f"written to {page}")
    if picture is not None:
        _draw(picture, stores, table)
        print(f"written to {picture}")
    return not np.any(np.asarray(table["failed"]))


def _worst_first(table):
    """Row numbers: those that failed, then by falling χ² per degree of freedom."""
    if "chi2" not in table.colnames:
        return np.arange(len(table))
    reduced = np.asarray(table["chi2"], float) / np.maximum(np.asarray(table["dof"]), 1)
    order = np.where(np.asarray(table["failed"]), np.inf, np.nan_to_num(reduced, nan=np.inf))
    return np.argsort(-order, kind="stable")


def _summary(results, table):
    codes, counts = np.unique(np.asarray(table["status"]), return_counts=True)
    lines = [f"{results}: {len(table)} fits"]
    lines += [f"{count:8d}  {status_message(int(code))}" for code, count in zip(codes, counts, strict=True)]
    if len(table) == 1 and "chi2" in table.colnames and codes[0] != NOT_FITTED:
        lines.append(describe(table[0], table.colnames, table["message"][0]))
    elif "chi2" in table.colnames:
        reduced = np.asarray(table["chi2"], float) / np.maximum(np.asarray(table["dof"]), 1)
        known = reduced[np.isfinite(reduced)]
        if known.size:
            low, middle, high = np.percentile(known, [16, 50, 84])
            lines.append(f"χ²/dof   {middle:.4g} (16 %: {low:.4g}, 84 %: {high:.4g})")
    for row in np.flatnonzero(np.asarray(table["status"]) == NOT_FITTED)[:5]:
        lines.append(f"  {table['id'][row]}: {table['message'][row]}")
    return "\n".join(lines)


def _pictures(stores, rows):
    """(image, model's pixels) by number of the row, for those whose files are still there."""
    found = {}
    for path in stores:
        with Store(path, must_exist=True) as store:
            if store.meta("images"):
                found.update(_from_file(store.meta("images")))
            elif store.meta("manifest"):
                found.update(_rendered(store, rows))
    return found


def _from_file(path):
    """What ``jaxphot fit`` wrote."""
    if not Path(path).is_file():
        return {}
    with fits.open(path) as hdus:
        data, model, deviation = (np.asarray(hdus[name].data, float) for name in ("DATA", "MODEL", "RESIDUAL"))
    with np.errstate(divide="ignore", invalid="ignore"):
        ivar = np.where(np.isfinite(deviation), (deviation / (data - model)) ** 2, 0.0)
    good = np.isfinite(deviation) & np.isfinite(ivar)
    return {0: (make_image(data, ivar=np.where(good, ivar, 0.0), mask=~good), model)} if good.any() else {}


def _rendered(store, rows):
    """Images of a manifest, read again, and their models, drawn again."""
    settings, model = json.loads(store.meta("settings")), parse_model(store.meta("model"))
    try:
        manifest = read_manifest(store.meta("manifest"), declared_leaves(model))
    except (OSError, ValueError) as error:
        print(f"jaxphot: no pictures: {error}", file=sys.stderr)
        return {}
    precision = "float32" if settings["precision"] == "float32" else "float64"
    sources = Sources(manifest, settings["given"], np.dtype(precision))
    draw = jax.jit(lambda params, image: render(model, params, image))
    found = {}
    try:
        for record in store.records(rows):
            if record.row >= manifest.count or record.digest != manifest.digest(record.row):
                continue
            try:
                image = sources.image(record.row)
            except Exception:  # the row's message says what is wrong with it
                continue
            fitted = store.fits([record]) if record.fit else None
            params = None if fitted is None else jax.tree.map(lambda leaf: leaf[0], fitted.params)
            found[record.row] = (
                image,
                np.full(image.shape, np.nan) if params is None else np.asarray(draw(params, image)),
            )
    finally:
        sources.close()
    return found


def _thumbnail(image, predicted):
    from jaxphot.plot.sheets import thumbnail

    return thumbnail(image, predicted)


def _draw(path, stores, table):
    """The pictures of the first rows on one sheet."""
    from jaxphot.plot.sheets import draw_sheet

    rows = [int(row) for row in table["row"][:_ON_A_SHEET]]
    found = _pictures(stores, set(rows))
    if not found:
        raise ValueError("--plot: none of the images can be read any more")
    kept = [place for place, row in enumerate(rows) if row in found]
    pictures = [_thumbnail(*found[rows[place]]) for place in kept]
    axes = draw_sheet(pictures, np.asarray(table["status"])[kept].tolist(), [str(table["id"][place]) for place in kept])
    axes[0].figure.savefig(path, dpi=150)
