"""Pictures. Every function takes `ax`, or makes one, and returns it; only `plot` and `drawing` import matplotlib.

Images are drawn on the tangent plane, in the coordinates of `center`: North up and East left where the image has a
place on the sky. Ignored pixels are grey.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize

from jaxphot.drawing import (
    add_bar,
    along_major_axis,
    as_psf,
    asinh_norm,
    check_axes,
    check_pixels,
    check_transform,
    checked,
    default_rmax,
    draw_ellipses,
    draw_gaussian,
    draw_pixels,
    draw_rectangles,
    in_annuli,
    label_corner,
    label_plane,
    main_ellipse,
    named_parts,
    power_of_ten,
    render_pixels,
    stretch,
    symmetric_norm,
    write_correlation,
)
from jaxphot.fitting.coordinates import scalar_names
from jaxphot.fitting.result import Fit
from jaxphot.models.combinators import check_model
from jaxphot.parameters import check_params, parameters
from jaxphot.pytree import leaves_with_names
from jaxphot.render import DEFAULT_SAMPLING
from jaxphot.triptychs import BRIGHTNESS, FLUX, RESIDUAL, SIGMAS, deviations
from jaxphot.triptychs import joint as joint
from jaxphot.triptychs import triptych as triptych

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


def profile(model, params, image=None, ax=None, *, part=None, rmax=None, sampling=DEFAULT_SAMPLING):
    """Draw brightness against radius: every component, their sum, and the data.

    Parameters
    ----------
    model : model
    params : dict
    image : Image, optional
        With it, everything is averaged over the image's unmasked pixels in elliptical annuli, so that the curves are
        what the image sees, blurred by its PSF; backgrounds are taken off the data. Without it, the curves are the
        brightness along the major axis, before any blurring, and stars are left out.
    ax : matplotlib Axes, optional
    part : str, optional
        Key path of the component whose centre, axis ratio and position angle define the radius; by default the first
        that has a centre.
    rmax : float, optional
        Largest radius, arcsec; by default the frame's, or four times the largest radius among the parameters.
    sampling : rule
        How pixels are integrated.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import jaxphot as jp
    >>> galaxy = {"center": [0.0, 0.0], "q": 0.5, "PA": 1.0, "n": 4.0, "Re": 2.0, "Ie": 1.0}
    >>> ax = jp.plot.profile(jp.models.sersic, galaxy)
    >>> ax.get_yscale()
    'log'
    """
    check_model(model)
    if rmax is not None and not rmax > 0:
        raise ValueError(f"rmax: expected a positive number of arcsec, got {rmax!r}")
    params = check_params(parameters(model), params, jnp.zeros(()).dtype if image is None else image.dtype)
    parts = named_parts(model, params)
    ellipse = main_ellipse(parts, part)
    ax = check_axes(ax, (5.6, 4.2))
    if image is None:
        radius, curves = along_major_axis(parts, ellipse, default_rmax(model, params) if rmax is None else rmax)
        known = sum(curves.values())
    else:
        radius, curves, level, error = in_annuli(image, parts, ellipse, rmax, sampling)
        ax.errorbar(radius, level, error, fmt="o", color="0.4", markersize=3.5, elinewidth=0.9, label="data", zorder=1)
        known = np.concatenate([level[level > error], error / 2, [np.max(sum(curves.values()))]])
    for number, (name, curve) in enumerate(curves.items()):
        if len(curves) > 1:
            ax.plot(radius, curve, "--", color=f"C{number}", linewidth=1.3, label=name, zorder=2)
    ax.plot(radius, sum(curves.values()), color="black", linewidth=1.5, label="model", zorder=3)
    positive = known[np.isfinite(known) & (known > 0)]
    ax.set_yscale("log")
    if positive.size:
        ax.set_ylim(max(0.5 * positive.min(), 1e-6 * positive.max()), 2 * positive.max())
    ax.set(xlabel="semi-major axis [arcsec]", ylabel="brightness [flux / arcsec²]", xlim=(0, 1.03 * radius[-1]))
    ax.tick_params(which="both", direction="in", top=True, right=True)
    ax.legend(frameon=False)
    return ax


def corner(fit, axes=None, *, names=None):
    """Draw the covariance of a fit: 1σ and 2σ ellipses of every pair of parameters, a Gaussian for each.

    Parameters
    ----------
    fit : Fit
        Of one image.
    axes : (P, P) array of matplotlib Axes, optional
    names : sequence of str, optional
        Which of ``fit.names``, in this order; by default all whose errors are known.

    Returns
    -------
    (P, P) array of matplotlib Axes
        Correlation coefficients stand above the diagonal; position angles are in degrees.
    """
    names, best, covariance = _gaussian(fit, names)
    size = len(names)
    if axes is None:
        side = max(1.35 * size, 3.0)
        _, axes = plt.subplots(size, size, figsize=(side, side), layout="constrained", squeeze=False)
    axes = np.asarray(axes, dtype=object)
    if axes.shape != (size, size):
        raise ValueError(f"axes: expected shape {(size, size)} for {', '.join(names)}, got {axes.shape}")
    sigma = np.sqrt(np.diagonal(covariance))
    for row in range(size):
        for column in range(size):
            ax = axes[row, column]
            if column > row:
                write_correlation(ax, covariance[row, column] / (sigma[row] * sigma[column]))
                continue
            if column == row:
                draw_gaussian(ax, best[row], sigma[row])
            else:
                draw_ellipses(ax, best[[column, row]], covariance[np.ix_([column, row], [column, row])])
                ax.set_ylim(best[row] - 3 * sigma[row], best[row] + 3 * sigma[row])
            ax.set_xlim(best[column] - 3 * sigma[column], best[column] + 3 * sigma[column])
            label_corner(ax, names[column] if row == size - 1 else "", names[row] if 0 == column < row else "")
    axes[0, 0].figure.align_labels(axes.ravel())
    return axes


def _gaussian(fit, wanted):
    """Names, best values and covariance of the parameters to draw; angles in degrees."""
    if not isinstance(fit, Fit):
        raise TypeError(f"fit: expected a Fit, as jaxphot.fit returns it, got {type(fit).__name__}")
    if np.ndim(fit.status):
        raise ValueError("fit: expected one fit, got a batch; take one as jax.tree.map(lambda leaf: leaf[k], fit)")
    values = {}
    for name, leaf in leaves_with_names(fit.params):
        values.update(zip(scalar_names(name, np.shape(leaf)), np.ravel(leaf), strict=True))
    covariance = np.asarray(fit.covariance, np.float64)
    known = {name: n for n, name in enumerate(fit.names) if covariance[n, n] > 0}
    chosen = list(known) if wanted is None else list(wanted)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        problem = f"no error is known of {', '.join(unknown)}" if unknown else "no error is known of any parameter"
        raise ValueError(f"names: {problem}; there are {', '.join(known) or 'none'}")
    rows = [known[name] for name in chosen]
    covariance = covariance[np.ix_(rows, rows)]
    best = np.asarray([values[name] for name in chosen], np.float64)
    labels, scale = [], np.ones(len(chosen))
    for n, name in enumerate(chosen):
        is_angle = name.rpartition(".")[2] == "PA"
        power = power_of_ten(max(abs(best[n]), 3 * np.sqrt(covariance[n, n])))
        scale[n] = np.rad2deg(1) if is_angle else 10.0**-power
        labels.append(f"{name} [deg]" if is_angle else f"{name} [$10^{{{power}}}$]" if power else name)
    return labels, best * scale, covariance * np.outer(scale, scale)
