"""Brightness against radius, and the way of a fit against its steps."""

import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import MaxNLocator

from jaxphot.drawing import along_major_axis, check_axes, default_rmax, in_annuli, main_ellipse, named_parts
from jaxphot.fitting.history import History
from jaxphot.fitting.result import status_message
from jaxphot.models.combinators import check_model
from jaxphot.parameters import check_params, parameters
from jaxphot.render import DEFAULT_SAMPLING


def profile(model, params, image=None, ax=None, *, part=None, rmax=None, residual=True, sampling=DEFAULT_SAMPLING):
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
    residual : bool
        With an image: draw (data − model) / error of every annulus below, in ``ax.child_axes[-1]``.
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
    if image is not None and residual:
        _draw_residual(ax, radius, (level - sum(curves.values())) / error)
    return ax


def _draw_residual(ax, radius, deviation):
    below = ax.inset_axes([0, -0.32, 1, 0.28], sharex=ax)
    below.axhline(0, color="black", linewidth=1)
    below.axhspan(-1, 1, color="0.9", zorder=0)
    below.plot(radius, deviation, "o", color="0.4", markersize=3.5)
    known = np.abs(deviation[np.isfinite(deviation)])
    limit = max(3.5, 1.15 * known.max()) if known.size else 3.5
    below.set(ylim=(-limit, limit), xlabel=ax.get_xlabel(), ylabel="residual [σ]")
    below.tick_params(which="both", direction="in", top=True, right=True)
    ax.set_xlabel("")
    ax.tick_params(labelbottom=False)


def convergence(history, ax=None, *, names=None):
    """Draw the way of a fit: how far χ² is above its end after every step, and how far each parameter is from its own.

    Parameters
    ----------
    history : History
        From `fit_history`.
    ax : matplotlib Axes, optional
    names : sequence of str, optional
        Parameters to draw, in standard errors from where they end; by default all.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.full((8, 8), 3.0), std=1.0)
    >>> ax = jp.plot.convergence(jp.fit_history(jp.models.flat_sky, {"I0": 0.0}, image))
    >>> ax.get_xlabel()
    'step'
    """
    if not isinstance(history, History):
        raise TypeError(f"history: expected what fit_history returns, got {type(history).__name__}")
    unknown = [name for name in names or () if name not in history.params]
    if unknown:
        raise ValueError(f"names: there is no {', '.join(unknown)}; there are {', '.join(history.params)}")
    ax = check_axes(ax, (5.6, 4.2))
    steps = np.arange(len(history.chi2))
    floor = 1e-8
    errors = np.sqrt(np.diagonal(np.asarray(history.fit.covariance, np.float64)))
    for name, error in zip(history.params, errors, strict=True):
        if (names is None or name in names) and error > 0:
            distance = np.abs(history.params[name] - history.params[name][-1]) / error
            ax.plot(steps, np.maximum(distance, floor), "-", linewidth=1, label=name)
    above = np.maximum(history.chi2 - np.nanmin(history.chi2), floor)
    ax.plot(steps, above, "o-", color="black", linewidth=1.8, markersize=4, label="χ² above its end")
    ax.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
    ax.set(
        yscale="log", xlabel="step", ylabel="distance from the end [σ], Δχ²", title=status_message(history.fit.status)
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(which="both", direction="in", top=True, right=True)
    ax.legend(frameon=False, fontsize=7, ncols=2)
    return ax
