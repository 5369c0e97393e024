"""One image from the command line: a folder with catalogue, fit, images and picture."""

import sys
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxphot.catalog import save_fit, to_table
from jaxphot.cli.batch import STORE
from jaxphot.cli.expressions import declared_leaves
from jaxphot.cli.manifest import Manifest
from jaxphot.cli.sources import Sources, remark_on_noise
from jaxphot.cli.store import Store
from jaxphot.export import write_table
from jaxphot.fitting.batch import fit_batch
from jaxphot.fitting.result import status_message
from jaxphot.fitting.solve import fit
from jaxphot.hdus import wcs_cards, written_at_once
from jaxphot.image import crop
from jaxphot.initialize import measured_start
from jaxphot.pytree import leaves_with_names
from jaxphot.render import render


def run_fit(task, image, out=None, window=None, draw=True, plane=0):
    """Fit one image, print its parameters, and write them.

    Parameters
    ----------
    task : Task
    image : str
        A file, or ``file.fits[EXTENSION]``.
    out : str or path-like, optional
        A folder, by default named as the image; it gets ``catalogue.ecsv``, ``fit.fits`` (for `load_fit`),
        ``images.fits`` (data, model, residual in σ), ``triptych.png``, and a store, for ``jaxphot show``.
    window : (i0, i1, j0, j1), optional
    draw : bool
    plane : int
        Of a cube.

    Returns
    -------
    bool
        Whether it converged.
    """
    name = Path(image.partition("[")[0]).name
    folder = Path(name).stem.removesuffix(".fits") if out is None else Path(out)
    folder = Path(folder)
    row = Manifest(Path(name), {"id": [name], "image": [image], "plane": [str(plane)]}, declared_leaves(task.model))
    sources = Sources(row, task.given, task.dtype)
    try:
        cutout = sources.image(0)
    finally:
        sources.close()
    if sources.without_noise:
        print(remark_on_noise(1), file=sys.stderr)
    if window is not None:
        cutout = crop(cutout, window)
    declared, given = declared_leaves(task.model), dict(leaves_with_names(task.known))
    start = task.known if declared.keys() <= given.keys() else measured_start(task.model, cutout, task.known or None)
    result = _fit(task, start, cutout)
    _make_folder(folder)
    known = {} if np.isnan(cutout.zeropoint) else {"zeropoint": float(cutout.zeropoint)}
    table = to_table(result, name, model=task.model, **known)
    write_table(folder / "catalogue.ecsv", table, overwrite=True)
    save_fit(folder / "fit.fits", result, overwrite=True)
    _write_images(folder / "images.fits", task.model, result, cutout)
    _store(folder / STORE, task, name, row, window, cutout, result)
    if draw:
        from jaxphot import plot

        axes = plot.triptych(cutout, task.model, result.params)
        axes[0].figure.savefig(folder / "triptych.png", dpi=150)
    print(describe(table[0], table.colnames, status_message(result)))
    print(f"written to {folder}/")
    return int(result.status) == 0


def _fit(task, start, image):
    options = dict(task.options)
    fixed, bounds = task.fixed or None, task.bounds or None
    if options.pop("starts", 1) == 1 and task.precision != "mixed":
        return fit(task.model, start, image, fixed=fixed, bounds=bounds, **options)
    precision = "mixed" if task.precision == "mixed" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "interrupted", RuntimeWarning)  # a batch keeps what was finished; this is none
        try:
            fits = fit_batch(
                task.model, start, [image], fixed=fixed, bounds=bounds, precision=precision, progress=False,
                **task.options,
            )  # fmt: skip
        except RuntimeWarning:
            raise KeyboardInterrupt from None
    return _first(fits)


def _first(fits):
    import jax

    return jax.tree.map(lambda leaf: leaf[0], fits)


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out: {folder} cannot be made a folder: {error.strerror}") from None


def _write_images(path, model, result, image):
    data = np.asarray(image.data)
    predicted = np.asarray(render(model, result.params, image))
    deviation = np.where(np.asarray(image.mask), np.nan, (data - predicted) * np.sqrt(np.asarray(image.ivar)))
    header = fits.Header(wcs_cards(image.transform))
    hdus = [fits.PrimaryHDU()]
    hdus += [
        fits.ImageHDU(values.astype(data.dtype), header, name)
        for name, values in (("DATA", data), ("MODEL", predicted), ("RESIDUAL", deviation))
    ]
    with written_at_once(path, overwrite=True) as temporary:
        fits.HDUList(hdus).writeto(temporary)


def _store(path, task, name, row, window, image, result):
    """The same as a batch of one, so that `show` need not tell them apart."""
    import jax

    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with Store(path) as store:
        store.set_meta(settings=task.settings(), model=task.text, images=str((path.parent / "images.fits").resolve()))
        batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], result)
        store.add_fits([0], [name], [row.digest(0)], [float(image.zeropoint)], batch)


def describe(row, names, message):
    """A row of a catalogue as lines of text: each parameter with its error."""
    lines = []
    for name in names:
        if f"{name}_err" in names:
            value, error = (float(getattr(row[key], "value", row[key])) for key in (name, f"{name}_err"))
            unit = getattr(row[name], "unit", None)
            lines.append(f"  {name:<24}{in_digits(value, error)}  {'' if unit is None else unit.to_string()}".rstrip())
        elif "." in name and not name.endswith(("_err", "_mag")):
            value, unit = getattr(row[name], "value", row[name]), getattr(row[name], "unit", None)
            lines.append(
                f"  {name:<24}{float(value):.6g}  {'' if unit is None else unit.to_string()}".rstrip() + "  (held)"
            )
    chi2, dof = float(row["chi2"]), int(row["dof"])
    lines.append(f"  χ² = {chi2:.6g} for {dof} degrees of freedom ({chi2 / max(dof, 1):.4g}); {message}")
    return "\n".join(lines)


def in_digits(value, error):
    """A value and its error with two digits of the error."""
    if not (np.isfinite(error) and error > 0):
        return f"{value:.6g}"
    power = int(np.floor(np.log10(error)))
    if -6 < power < 5:
        digits = max(1 - power, 0)
        return f"{value:.{digits}f} ± {error:.{digits}f}"
    return f"{value:.{max(int(np.floor(np.log10(max(abs(value), error)))) - power + 1, 1)}e} ± {error:.1e}"
