"""Scenes of many sources: where they are, and what they leave."""

import jax
import numpy as np
from matplotlib.collections import PolyCollection

from jaxphot.deblend import sources
from jaxphot.drawing import checked, draw_rectangles
from jaxphot.image import check_window
from jaxphot.models.combinators import components, kind
from jaxphot.models.copies import Many
from jaxphot.parameters import check_params, parameters
from jaxphot.plot.triptychs import triptych
from jaxphot.render import DEFAULT_SAMPLING

_COLORS = {"extended": "#5ec8f2", "point": "#8df28a"}
_WINDOW = "#f2c14e"
_RADII = ("Re", "Rd", "sigma", "Rb", "Rc")  # the first that a source has is its outline's semi-major axis
_STAR = 2.5  # pixels, radius of the circle about a point source


def scene(image, model, params, axes=None, *, windows=None, labels=True, marks=True, sampling=DEFAULT_SAMPLING):
    """Draw a scene of many sources: the data with the sources' windows, the model with their outlines, the residual.

    Galaxies are ellipses at their half-light radius (``Re``, or ``Rd``, ``sigma``, …), point sources circles.

    Parameters
    ----------
    image : Image
    model : model
    params : dict
    axes : sequence of three matplotlib Axes, optional
    windows : dict or sequence, optional
        (i0, i1, j0, j1) by label, as `initialize_scene` and `windows_from_segmentation` return them.
    labels : bool
        Write the labels of `windows` beside them.
    marks : bool
        As in `triptych`.
    sampling : rule
        How pixels are integrated.

    Returns
    -------
    (3,) array of matplotlib Axes

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> cutout = jp.make_image(np.ones((31, 31)), std=1.0)
    >>> params = {"center": [[9.0, 9.0], [20.0, 22.0]], "q": [0.5, 0.9], "PA": [0.3, 0.0], "Re": [3.0, 2.0]}
    >>> model, params["Ie"] = jp.models.many(jp.models.exponential, stamp=21), [1.0, 1.0]
    >>> axes = scene(cutout, model, params, windows={7: (2, 17, 2, 17)})
    >>> axes[0].texts[0].get_text(), len(axes[1].collections[0].get_paths())
    ('7', 2)
    """
    checked(image)
    windows = windows if isinstance(windows, dict) else dict(enumerate(windows or (), 1))
    windows = {label: check_window(window, image.shape) for label, window in windows.items()}
    axes = triptych(image, model, params, axes, marks=marks, sampling=sampling)
    limits = [(ax.get_xlim(), ax.get_ylim()) for ax in axes]
    for label, window in windows.items():
        _draw_window(axes[0], image, window, str(label) if labels else None)
    ellipses = _outlines(image, model, check_params(parameters(model), params, image.dtype))
    for of_kind, color in _COLORS.items():
        outlines = [outline for is_of, outline in ellipses if is_of == of_kind]
        if outlines:
            axes[1].add_collection(PolyCollection(outlines, facecolor="none", edgecolor=color, linewidth=0.9))
    for ax, (xlim, ylim) in zip(axes, limits, strict=True):
        ax.set(xlim=xlim, ylim=ylim)
    return axes


def _draw_window(ax, image, window, label):
    i0, i1, j0, j1 = window
    middle, size = np.asarray([[(i0 + i1 - 1) / 2, (j0 + j1 - 1) / 2]]), (i1 - i0, j1 - j0)
    style = {"facecolor": "none", "edgecolor": _WINDOW, "linewidth": 0.8}
    _, _, x, y = draw_rectangles(ax, image.transform, middle, ((0.0, 0.0), size), **style)
    if label is not None:
        corner = len(x[0]) // 2  # the window's last pixel
        ax.annotate(
            label, (x[0, corner], y[0, corner]), (-2, -2), textcoords="offset points", color=_WINDOW, fontsize=7,
            ha="right", va="top", clip_on=True,
        )  # fmt: skip


def _outlines(image, model, params):
    """(kind, (M, 2) points on the plane) of every source that has a centre."""
    scale = float(np.sqrt(np.median(np.asarray(image.pixel_area_map))))
    found = []
    for part, own in _singles(model, params):
        if kind(part) == "point":
            center, _ = part.position_and_flux(own)
            found.append(("point", _ellipse(center, 1.0, 0.0, _STAR * scale)))
        elif kind(part) == "extended" and isinstance(own, dict) and np.shape(own.get("center")) == (2,):
            radius = next((own[name] for name in _RADII if name in own), 2 * scale)
            found.append(("extended", _ellipse(own["center"], own.get("q", 1.0), own.get("PA", 0.0), radius)))
    return found


def _singles(model, params):
    """(model, params) of every single source, NumPy leaves."""
    for _, part, own in sources(model, params):
        if not isinstance(part, Many):
            yield from components(part, jax.tree.map(np.asarray, own))
            continue
        own, valid = part.split(jax.tree.map(np.asarray, own))
        for row in np.flatnonzero(np.asarray(valid)):
            yield from components(part.model, jax.tree.map(lambda leaf, row=row: leaf[row], own))


def _ellipse(center, q, angle, radius):
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    major, minor = float(radius) * np.cos(turn), float(radius) * float(q) * np.sin(turn)
    sine, cosine = np.sin(float(angle)), np.cos(float(angle))
    x, y = np.asarray(center, np.float64)
    return np.stack([x + major * sine + minor * cosine, y + major * cosine - minor * sine], axis=-1)
