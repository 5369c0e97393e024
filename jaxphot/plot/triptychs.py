"""Data, model and residual side by side: of one image, or of all images of a set."""

import matplotlib.pyplot as plt
import numpy as np

from jaxphot.drawing import (
    asinh_norm,
    checked,
    draw_pixels,
    pixel_corners,
    render_pixels,
    symmetric_norm,
)
from jaxphot.image_sets import separate
from jaxphot.plot.marks import mark_sky
from jaxphot.render import DEFAULT_SAMPLING

BRIGHTNESS, RESIDUAL = "inferno", "RdBu_r"
FLUX, SIGMAS = "flux per pixel", "(data − model) / σ"


def triptych(image, model, params, axes=None, *, marks=True, sampling=DEFAULT_SAMPLING):
    """Draw data, model and residual side by side, data and model with the same stretch.

    Parameters
    ----------
    image : Image
    model : model
    params : dict
    axes : sequence of three matplotlib Axes, optional
    marks : bool
        Draw `compass` and `scale_bar` into the first where the image has a place on the sky.
    sampling : rule
        How pixels are integrated.

    Returns
    -------
    (3,) array of matplotlib Axes
        The last one's colour bar tells χ² per used pixel.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> cutout = jp.make_image(np.ones((5, 5)), std=1.0)
    >>> len(jp.plot.triptych(cutout, jp.models.flat_sky, {"I0": 1.0}))
    3
    """
    data, good = checked(image)
    predicted = render_pixels(image, model, params, sampling)
    deviation = deviations(image, predicted)
    if axes is None:
        x, y = pixel_corners(image)
        height = 3.2 * np.clip(np.ptp(y) / np.ptp(x), 0.3, 2.0)
        _, axes = plt.subplots(1, 3, figsize=(10.5, height + 1.2), layout="compressed", sharex=True, sharey=True)
    axes = np.asarray(axes, dtype=object)
    if axes.shape != (3,):
        raise ValueError(f"axes: expected three, got shape {axes.shape}")
    norm = asinh_norm(data[good])
    chi2 = np.nansum(deviation**2) / max(good.sum(), 1)
    draw_pixels(image, np.where(good, data, np.nan), axes[0], norm, BRIGHTNESS, f"data: {FLUX}", "top")
    draw_pixels(image, predicted, axes[1], norm, BRIGHTNESS, f"model: {FLUX}", "top")
    label = f"{SIGMAS};  χ²/N = {chi2:.3g}"
    draw_pixels(image, deviation, axes[2], symmetric_norm(deviation), RESIDUAL, label, "top", extend="both")
    for ax in axes[1:]:
        ax.set_ylabel("")
    if marks:
        mark_sky(axes[0], image)
    return axes


def deviations(image, predicted):
    """(data − model) / σ; NaN where ignored."""
    data, good = checked(image)
    return np.where(good, (data - predicted) * np.sqrt(np.asarray(image.ivar, np.float64)), np.nan)


def joint(images, model, params, axes=None, *, per_image=None, sampling=DEFAULT_SAMPLING):
    """Draw data, model and residual of every image of a set: a row each.

    Parameters
    ----------
    images : dict of Image, or a stack
        As given to `fit`; drawn in the plane of the first, with their transforms as fitted.
    model : dict of model, or model
    params : dict
        Of the whole set, such as ``fit(...).params``.
    axes : (N, 3) array of matplotlib Axes, optional
    per_image : sequence of str, optional
        As given to `fit`.
    sampling : rule
        How pixels are integrated.

    Returns
    -------
    (N, 3) array of matplotlib Axes
        Rows in the order of the images; each says which it is.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> cutouts = {band: jp.make_image(np.ones((5, 5)), std=1.0) for band in "gr"}
    >>> sky = {band: jp.models.flat_sky for band in "gr"}
    >>> jp.plot.joint(cutouts, sky, {"I0": 1.0}).shape
    (2, 3)
    """
    triples = separate(model, params, images, per_image)
    named = triples if isinstance(triples, dict) else {str(place): triple for place, triple in enumerate(triples)}
    for _, _, image in named.values():
        checked(image)
    if axes is None:
        size = (10.5, 3.7 * len(named))
        _, axes = plt.subplots(len(named), 3, figsize=size, layout="compressed", squeeze=False)
    axes = np.asarray(axes, dtype=object)
    if axes.shape != (len(named), 3):
        raise ValueError(f"axes: expected shape {(len(named), 3)}, a row for each image, got {axes.shape}")
    for row, (name, (own, theta, image)) in zip(axes, named.items(), strict=True):
        triptych(image, own, theta, row, sampling=sampling)
        row[0].set_ylabel(f"{name}:  {row[0].get_ylabel()}")
    return axes
