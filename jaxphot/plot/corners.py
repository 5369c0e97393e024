"""Which values of parameters go together: covariance and samples."""

import matplotlib.pyplot as plt
import numpy as np

from jaxphot.drawing import draw_ellipses, draw_gaussian, label_corner, power_of_ten, write_correlation
from jaxphot.fitting.coordinates import scalar_names
from jaxphot.fitting.neighbours import whole_covariance
from jaxphot.fitting.result import Fit
from jaxphot.pytree import leaves_with_names


def corner(fit, axes=None, *, names=None, samples=None, truth=None):
    """Draw the covariance of a fit: 1σ and 2σ ellipses of every pair of parameters, a Gaussian for each.

    Parameters
    ----------
    fit : Fit
        Of one image.
    axes : (P, P) array of matplotlib Axes, optional
    names : sequence of str, optional
        Which of ``fit.names``, in this order; by default all whose errors are known.
    samples : dict, optional
        Parameter tree whose leaves have a leading axis, from a sampler: drawn as points and histograms beneath.
    truth : dict, optional
        Parameter tree of values to mark by lines.

    Returns
    -------
    (P, P) array of matplotlib Axes
        Correlation coefficients stand above the diagonal; position angles are in degrees.
    """
    chosen, names, scale, best, covariance = _gaussian(fit, names)
    drawn = None if samples is None else np.stack([_scalars(samples, 1, "samples")[n] for n in chosen], 1) * scale
    known = None if truth is None else np.asarray([_scalars(truth, 0, "truth").get(n, np.nan) for n in chosen]) * scale
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
                _draw_histogram(ax, drawn, row, best[row], sigma[row])
            else:
                if drawn is not None:
                    ax.plot(drawn[:, column], drawn[:, row], ",", color="C1", alpha=0.4, zorder=0, rasterized=True)
                draw_ellipses(ax, best[[column, row]], covariance[np.ix_([column, row], [column, row])])
                ax.set_ylim(best[row] - 3 * sigma[row], best[row] + 3 * sigma[row])
            if known is not None:
                ax.axvline(known[column], color="C3", linewidth=0.9)
                if column < row:
                    ax.axhline(known[row], color="C3", linewidth=0.9)
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
    covariance = np.asarray(whole_covariance("corner", fit), np.float64)
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
    return chosen, labels, scale, best * scale, covariance * np.outer(scale, scale)


def _draw_histogram(ax, drawn, row, best, sigma):
    """Samples as a histogram of the height of the Gaussian."""
    if drawn is None:
        return
    counts, edges = np.histogram(drawn[:, row], bins=36, range=(best - 3 * sigma, best + 3 * sigma))
    ax.stairs(counts / max(counts.max(), 1), edges, color="C1", linewidth=1)


def _scalars(tree, axes, argument):
    """Scalars by name of a parameter tree whose leaves have so many leading axes."""
    found = {}
    for name, leaf in leaves_with_names(tree):
        leaf = np.asarray(leaf, np.float64)
        if leaf.ndim < axes:
            raise ValueError(f"{argument}: {name} expects a leading axis, one entry a sample")
        flat = leaf.reshape(*leaf.shape[:axes], -1)
        for number, key in enumerate(scalar_names(name, leaf.shape[axes:])):
            found[key] = flat[..., number]
    return found
