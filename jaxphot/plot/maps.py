"""Images, models, residuals, PSFs and pixels on the plane."""

import numpy as np
from matplotlib.colors import Normalize

from jaxphot.drawing import (
    add_bar,
    as_psf,
    asinh_norm,
    check_axes,
    check_pixels,
    check_transform,
    checked,
    draw_pixels,
    draw_rectangles,
    label_plane,
    render_pixels,
    stretch,
    symmetric_norm,
)
from jaxphot.plot.triptychs import BRIGHTNESS, FLUX, RESIDUAL, SIGMAS, deviations
from jaxphot.render import DEFAULT_SAMPLING

_AREA = "cividis"


def image(image, ax=None, *, norm=None, cmap=BRIGHTNESS, colorbar=True, title=None):
    """Draw an image's data with an asinh stretch about its sky level.

    Parameters
    ----------
    image : Image
    ax : matplotlib Axes, optional
    norm : matplotlib Normalize, optional
        By default from the unmasked pixels: linear within the sky's scatter, logarithmic above.
    cmap : str or Colormap
    colorbar : bool
    title : str, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> ax = jp.plot.image(jp.make_image(np.eye(5), std=1.0, pixelscale=0.2))
    >>> ax.get_xlabel()
    'x [arcsec]'
    """
    data, good = checked(image)
    norm = asinh_norm(data[good]) if norm is None else norm
    return draw_pixels(image, np.where(good, data, np.nan), ax, norm, cmap, FLUX, colorbar, title)


def model(
    image, model, params, ax=None, *, norm=None, cmap=BRIGHTNESS, colorbar=True, title=None, sampling=DEFAULT_SAMPLING
):
    """Draw what a model predicts for an image, with the stretch of the image's data.

    Parameters
    ----------
    image : Image
    model : model
    params : dict
    ax, norm, cmap, colorbar, title
        As in `image`.
    sampling : rule
        How pixels are integrated.

    Returns
    -------
    matplotlib Axes
    """
    data, good = checked(image)
    norm = asinh_norm(data[good]) if norm is None else norm
    return draw_pixels(image, render_pixels(image, model, params, sampling), ax, norm, cmap, FLUX, colorbar, title)


def residual(
    image, model, params, ax=None, *, limit=None, cmap=RESIDUAL, colorbar=True, title=None, sampling=DEFAULT_SAMPLING
):
    """Draw (data − model) / σ on a scale symmetric about 0: red where the data are brighter.

    Parameters
    ----------
    image : Image
    model : model
    params : dict
    ax, cmap, colorbar, title
        As in `image`.
    limit : float, optional
        Where the colours end, in σ; by default what 99 % of the pixels stay within, but from 3 to 10.
    sampling : rule
        How pixels are integrated.

    Returns
    -------
    matplotlib Axes
    """
    checked(image)
    if limit is not None and not limit > 0:
        raise ValueError(f"limit: expected a positive number of σ, got {limit!r}")
    values = deviations(image, render_pixels(image, model, params, sampling))
    norm = symmetric_norm(values, limit)
    return draw_pixels(image, values, ax, norm, cmap, SIGMAS, colorbar, title, extend="both")


def psf(psf, ax=None, *, cmap=BRIGHTNESS, colorbar=True, title=None):
    """Draw a PSF stamp, with a cross at its centre; the axes are in image pixels from there.

    Parameters
    ----------
    psf : PSF, Image with a PSF, or (h, w) array
    ax, cmap, colorbar, title
        As in `image`.

    Returns
    -------
    matplotlib Axes
    """
    psf = as_psf(psf)
    values = np.asarray(psf.data, np.float64)
    h, w = values.shape
    u, v = np.asarray(psf.center, np.float64)
    extent = np.asarray([-0.5 - u, w - 0.5 - u, -0.5 - v, h - 0.5 - v]) / psf.oversample
    ax = check_axes(ax)
    norm = stretch(0.0, 1e-3 * values.max(), min(values.min(), 0.0), values.max())
    artist = ax.imshow(values, origin="lower", extent=extent, norm=norm, cmap=cmap, interpolation="nearest")
    ax.plot(0, 0, "+", color="black", markersize=8, markeredgewidth=0.8)
    ax.set(xlabel="Δi [pixel]", ylabel="Δj [pixel]")
    if title is not None:
        ax.set_title(title)
    cell = "pixel" if psf.oversample == 1 else f"cell of 1/{psf.oversample} pixel"
    add_bar(ax, artist, f"fraction of the flux per {cell}", colorbar)
    return ax


def pixel_area_map(image, ax=None, *, cmap=_AREA, colorbar=True, title=None):
    """Draw the sensitive area of every pixel, arcsec².

    Parameters
    ----------
    image : Image
    ax, cmap, colorbar, title
        As in `image`.

    Returns
    -------
    matplotlib Axes
    """
    checked(image)
    area = np.broadcast_to(np.asarray(image.pixel_area_map, np.float64), image.shape)
    low, high = area.min(), area.max()
    if high - low < 1e-5 * high:  # rounding is no distortion
        low, high = 0.999 * low, 1.001 * high
    return draw_pixels(image, area, ax, Normalize(low, high), cmap, "pixel area [arcsec²]", colorbar, title)


def pixel_footprint(image, ax=None, *, pixels=None, color="C0", title=None):
    """Draw a few pixels on the plane: each one's border as a line, the part of it that collects light filled.

    Parameters
    ----------
    image : Image or transform
    ax : matplotlib Axes, optional
        Where something is drawn already, such as the image, its limits and labels are kept.
    pixels : (i, j), or sequence of them, optional
        By default the image's middle one.
    color : matplotlib colour
    title : str, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import jaxphot as jp
    >>> ax = pixel_footprint(jp.make_cmos(jp.make_linear(pixelscale=0.1), scale=0.7), pixels=[(0, 0), (1, 0)])
    >>> len(ax.collections)
    2
    """
    transform = check_transform(image)
    pixels = check_pixels(pixels, getattr(image, "shape", None))
    ax = check_axes(ax)
    is_empty = not ax.has_data()
    draw_rectangles(ax, transform, pixels, transform.footprint, facecolor=color, edgecolor="none", alpha=0.4)
    border = draw_rectangles(ax, transform, pixels, facecolor="none", edgecolor=color, linewidth=1.2)
    if is_empty:
        ax.set_aspect("equal")
        label_plane(ax, transform, *border, margin=0.05)
    if title is not None:
        ax.set_title(title)
    return ax
