"""Images about different tangent points, in one plane."""

from dataclasses import replace

import numpy as np

from jaxphot.image import Image
from jaxphot.pytree import is_concrete
from jaxphot.transforms.reprojected import reproject


def share_plane(images):
    """Images about different tangent points, all described in the plane of the first one.

    There a position, an angle or a size is the same in every image. `fit` does this itself; do it yourself to draw or
    render an image of a set with parameters of the set.

    Parameters
    ----------
    images : dict of Image, sequence of Image, or stack
        Either all with a place on the sky (crval) or all without.

    Returns
    -------
    The same; where tangent points differ, all transforms are wrapped in a `Reprojected`.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> g, r = (jp.make_image(np.zeros((5, 5)), std=1.0, transform=jp.make_linear(pixelscale=0.2, crval=(10.0, dec)))
    ...         for dec in (20.0, 20.001))
    >>> moved = share_plane({"g": g, "r": r})["r"]
    >>> [round(float(v), 3) for v in moved.transform.pixel_to_plane(0, 0)]
    [0.0, 3.6]
    """
    if isinstance(images, dict):
        return dict(zip(images, share_plane(list(images.values())), strict=True)) if images else images
    if isinstance(images, Image):
        crval, crval_lo = images.transform.crval, images.transform.crval_lo
        if is_concrete(crval) and np.all((np.asarray(crval) == crval[:1]) & (np.asarray(crval_lo) == crval_lo[:1])):
            return images
        if crval.ndim == 1 or (is_concrete(crval) and np.all(np.isnan(crval))):
            return images
        if is_concrete(crval) and np.any(np.isnan(crval)):
            raise ValueError("images: some have a place on the sky (crval) and others have none")
        return replace(images, transform=reproject(images.transform, crval[0], crval_lo[0]))
    first = images[0].transform
    moved = [_in_plane(image, first, number) for number, image in enumerate(images)]
    if all(new.transform is old.transform for new, old in zip(moved, images, strict=True)):
        return images
    # all of them, so that they are of one kind
    return [_in_plane(image, first, number, always=True) for number, image in enumerate(images)]


def _in_plane(image, first, number, always=False):
    try:
        return replace(image, transform=reproject(image.transform, first.crval, first.crval_lo, always=always))
    except ValueError as error:
        raise ValueError(f"images[{number}] cannot be described in the plane of images[0]: {error}") from None
