"""Contact sheets: many fits at a glance."""

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Patch

from jaxphot.drawing import MASKED, asinh_norm
from jaxphot.fitting import lm
from jaxphot.fitting.result import NOT_FITTED, Fit, status_message
from jaxphot.image import Image, unstack_images
from jaxphot.render import DEFAULT_SAMPLING, render

STATUS_COLOURS = {
    lm.CONVERGED: "#2a9d5c",
    lm.MAX_STEPS: "#e0a100",
    lm.STALLED: "#e0a100",
    lm.SINGULAR: "#d9622b",
    lm.NON_FINITE: "#c0392b",
    lm.NO_DATA: "#7f8c8d",
    NOT_FITTED: "#7f8c8d",
}
_MOST_PIXELS = 160  # along a side of a thumbnail
_GAP = 2


def batch(images, model, fits, axes=None, *, ids=None, columns=4, sampling=DEFAULT_SAMPLING):
    """Draw a contact sheet of a batch: data, model and residual of each, framed in the colour of its status.

    Parameters
    ----------
    images : Image, or sequence of Image
        A stack, or a list.
    model : model
    fits : Fit
        With a leading axis, as `fit_batch` returns it.
    axes : sequence of matplotlib Axes, optional
        One for each fit at least.
    ids : sequence of str, optional
        Titles; by default numbers.
    columns : int
        Of the sheet.
    sampling : rule
        How pixels are integrated.

    Returns
    -------
    array of matplotlib Axes
        Data and model have the same asinh stretch; residuals are white at 0 and full at ±5 σ.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> images = [jp.make_image(np.full((8, 8), level), std=1.0) for level in (1.0, 2.0)]
    >>> fits = jp.fit_batch(jp.models.flat_sky, {"I0": 0.0}, images, progress=False)
    >>> len(jp.plot.batch(images, jp.models.flat_sky, fits))
    2
    """
    images = unstack_images(images) if isinstance(images, Image) else list(images)
    if not isinstance(fits, Fit) or np.ndim(fits.status) != 1:
        raise TypeError("fits: expected the Fit of a batch, with one leading axis")
    count = len(fits.status)
    if len(images) != count:
        raise ValueError(f"images: expected {count}, one a fit, got {len(images)}")
    draw = jax.jit(lambda params, image: render(model, params, image, sampling))
    pictures, titles = [], []
    for number, image in enumerate(images):
        params = jax.tree.map(lambda leaf, n=number: leaf[n], fits.params)
        pictures.append(thumbnail(image, np.asarray(draw(params, image))))
        reduced = float(fits.chi2[number]) / max(int(fits.dof[number]), 1)
        titles.append(f"{number if ids is None else ids[number]}   χ²/dof {reduced:.3g}")
    return draw_sheet(pictures, np.asarray(fits.status).tolist(), titles, axes, columns)


def draw_sheet(pictures, codes, titles, axes=None, columns=4):
    """Draw pictures in frames of the colours of their status codes, with a legend; returns the axes that were used."""
    count = len(pictures)
    if axes is None:
        columns = min(columns, count)
        rows = -(-count // columns)
        size = (3.3 * columns, 1.5 * rows + 0.4)
        _, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    axes = np.asarray(axes, dtype=object).ravel()
    if len(axes) < count:
        raise ValueError(f"axes: expected {count}, one a fit, got {len(axes)}")
    for ax in axes[count:]:
        ax.set_axis_off()
    for ax, picture, code, title in zip(axes, pictures, codes, titles, strict=False):
        _draw_cell(ax, picture, code)
        ax.set_title(title, fontsize=8, pad=3)
    handles = [Patch(color=_colour(code), label=status_message(code)) for code in sorted(set(codes))]
    axes[0].figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7, frameon=False)
    return axes[:count]


def _colour(code):
    return STATUS_COLOURS.get(code, "black")


def _draw_cell(ax, picture, code):
    ax.imshow(picture, origin="lower", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(color=_colour(code), linewidth=2.5)


def thumbnail(image, model, side=_MOST_PIXELS):
    """Data, model and residual side by side as one picture.

    Parameters
    ----------
    image : Image
    model : (ny, nx) array
        What `render` predicts; where it is not finite, as after a failed fit, it is grey.
    side : int
        Most pixels along a side; larger images are averaged over blocks.

    Returns
    -------
    (height, width, 3) uint8 array
        First row at the bottom, as in the image.
    """
    data, ivar = np.asarray(image.data, np.float64), np.asarray(image.ivar, np.float64)
    good = ~np.asarray(image.mask)
    data = np.where(good, data, np.nan)
    model = np.where(np.isfinite(model), np.asarray(model, np.float64), np.nan)
    deviation = (data - model) * np.sqrt(np.where(good, ivar, 0))
    block = -(-max(data.shape) // side)
    data, model, deviation = (_averaged(values, block) for values in (data, model, deviation * block))
    norm = asinh_norm(data)
    bright, signed = colormaps["inferno"], colormaps["RdBu_r"]
    panels = [
        _coloured(bright, np.ma.filled(norm(np.ma.masked_invalid(data)), np.nan)),
        _coloured(bright, np.ma.filled(norm(np.ma.masked_invalid(model)), np.nan)),
        _coloured(signed, deviation / 10 + 0.5),
    ]
    gap = np.full((data.shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def _averaged(values, block):
    """Means over blocks of pixels, ignored ones left out."""
    if block == 1:
        return values
    ny, nx = (side // block * block for side in values.shape)
    parts = values[:ny, :nx].reshape(ny // block, block, nx // block, block)
    known = np.isfinite(parts)
    count = known.sum((1, 3))
    return np.where(count > 0, np.where(known, parts, 0).sum((1, 3)) / np.maximum(count, 1), np.nan)


def _coloured(cmap, fraction):
    """RGB bytes of values from 0 to 1; NaN is grey."""
    picture = cmap.with_extremes(bad=MASKED)(np.ma.masked_invalid(np.clip(fraction, 0, 1)), bytes=True)
    return np.ascontiguousarray(picture[..., :3])
