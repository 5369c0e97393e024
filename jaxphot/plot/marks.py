"""Where North is, and how long an arcsecond."""

import numpy as np
from matplotlib import patheffects

from jaxphot.drawing import check_axes

_OUTLINE = [patheffects.withStroke(linewidth=2.2, foreground="black", alpha=0.6)]


def compass(ax=None, *, place=(0.88, 0.12), length=0.12, color="white"):
    """Draw arrows to the North and to the East into the axes of an image on the sky.

    Parameters
    ----------
    ax : matplotlib Axes, optional
        As `plot.image` returns them, in arcsec on the tangent plane.
    place : (float, float)
        Where the arrows begin, as fractions of the axes.
    length : float
        As a fraction of the axes' shorter side.
    color : matplotlib colour

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> transform = jp.make_linear(pixelscale=0.2, crval=(10.0, 20.0))
    >>> ax = compass(jp.plot.image(jp.make_image(np.eye(9), std=1.0, transform=transform)))
    >>> [text.get_text() for text in ax.texts if text.get_text()]
    ['N', 'E']
    """
    ax = check_axes(ax)
    left, right = ax.get_xlim()
    low, high = ax.get_ylim()
    x, y = left + place[0] * (right - left), low + place[1] * (high - low)
    size = length * min(abs(right - left), abs(high - low))
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    for name, dx, dy in (("N", 0, size), ("E", size, 0)):
        arrow = ax.annotate("", (x + dx, y + dy), (x, y), arrowprops=style)
        arrow.arrow_patch.set_path_effects(_OUTLINE)
        text = ax.text(x + 1.35 * dx, y + 1.35 * dy, name, color=color, ha="center", va="center", fontsize=8)
        text.set_path_effects(_OUTLINE)
    return ax


def scale_bar(ax=None, *, length=None, place=(0.08, 0.08), color="white"):
    """Draw a bar as long as a number of arcsec.

    Parameters
    ----------
    ax : matplotlib Axes, optional
    length : float, optional
        arcsec; by default a round number, about a fifth of the axes' width.
    place : (float, float)
        Its left end, as fractions of the axes.
    color : matplotlib colour

    Returns
    -------
    matplotlib Axes
    """
    ax = check_axes(ax)
    left, right = ax.get_xlim()
    low, high = ax.get_ylim()
    length = _round(0.22 * abs(right - left)) if length is None else length
    if not length > 0:
        raise ValueError(f"length: expected a positive number of arcsec, got {length!r}")
    x, y = left + place[0] * (right - left), low + place[1] * (high - low)
    end = x + length * np.sign(right - left)
    (bar,) = ax.plot([x, end], [y, y], color=color, linewidth=2, solid_capstyle="butt")
    words = f"{length / 60:g}′" if length >= 60 else f"{length:g}″"
    text = ax.annotate(
        words, ((x + end) / 2, y), (0, 3), textcoords="offset points", color=color, ha="center", fontsize=8
    )
    for artist in (bar, text):
        artist.set_path_effects(_OUTLINE)
    ax.set(xlim=(left, right), ylim=(low, high))
    return ax


def mark_sky(ax, image):
    """Compass and scale bar, where an image has a place on the sky."""
    if not np.any(np.isnan(np.asarray(image.transform.crval))):
        scale_bar(compass(ax))
    return ax


def _round(length):
    """The nearest of 1, 2, 5, 10, … below."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(power * max(step for step in (1, 2, 5) if step * power <= length * 1.0000001))
