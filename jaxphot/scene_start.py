"""From a segmentation map or a catalogue to a model of the frame, its start, and the windows of its sources."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot import models
from jaxphot.detections import detections
from jaxphot.image import crop
from jaxphot.initialize import initialize, measured_start
from jaxphot.models.combinators import check_part, scene
from jaxphot.models.copies import many
from jaxphot.moments import clipped_median
from jaxphot.parameters import parameters
from jaxphot.pytree import refuse_tracers
from jaxphot.render import check_image, render
from jaxphot.sampling import midpoint

# sides of stamps, pixels: a source's is the next above its window, so that a frame needs few compiled programs
_SIDES = (15, 25, 41, 67, 111, 183, 303, 501, 827, 1365)


def initialize_scene(
    image, sources, *, model=models.sersic, stars=(), sky=models.flat_sky, scale=2.0, side=25, minimum=5, labels=None
):
    """A model of all sources of a frame, and its start, from a segmentation map or a catalogue.

    The sky is measured once, outside the segments. Sources follow in order of brightness: each is measured in its own
    window, with the segments of the others masked, and is then subtracted from the frame, so that the wings of a bright
    one are not taken for its neighbours. What a star's or a galaxy's start is, is told by `initialize`.

    Parameters
    ----------
    image : Image
    sources : (ny, nx) array of int, photutils SegmentationImage or SourceCatalog, or table
        A map, 0 where there is sky; or a table, structured array or dict of columns with positions: pixels, 0-based
        (``x, y`` or photutils' ``xcentroid, ycentroid``), SExtractor's 1-based ``X_IMAGE, Y_IMAGE``, or ``ra, dec`` in
        degrees. Its columns ``label`` (or id, NUMBER), ``flux`` (or segment_flux, FLUX_AUTO; for the order only) and
        ``bbox_xmin, …`` (SExtractor's ``XMIN_IMAGE, …``) are used where present. Rows off the frame are left out.
    model : model
        Of every source that is no star; it needs a parameter `center`.
    stars : sequence of labels
        Sources that are point sources.
    sky : model or None
        Its parameter `I0` starts at the sky's level.
    scale : float
        Windows are the segments' own boxes, this many times as large.
    side : int
        The smallest side of a window, in pixels.
    minimum : int
        Segments of fewer pixels are left out.
    labels : sequence, optional
        The sources wanted; all by default.

    Returns
    -------
    model : Scene
        ``galaxies41`` (a `many` in stamps of 41 × 41 pixels), ``stars25``, … and ``sky``: sources whose windows are of
        similar size share a stamp.
    start : dict
        Parameters for `fit`; every leaf of a `many` has a leading axis.
    windows : dict
        Label → (i0, i1, j0, j1), in the order in which the sources stand in `start`: its groups as `start` lists them,
        row by row.

    Raises
    ------
    ValueError
        An empty map, one of another shape than the image, or one without whole numbers; a table without positions on
        the frame; labels that are not there; stars without a PSF; a model that starts from more than pixels can tell.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> y, x = np.mgrid[:60, :80]
    >>> data = 5 + 90 * np.exp(-np.hypot(x - 20, y - 30) / 3) + 40 * np.exp(-np.hypot(x - 55, y - 25) / 3)
    >>> image = jp.make_image(data, std=1.0)
    >>> segmentation = np.where(data > 8, np.where(x < 40, 1, 2), 0)
    >>> model, start, windows = initialize_scene(image, segmentation, model=jp.models.exponential, side=41)
    >>> list(start), list(windows), start["galaxies41"]["center"].round().tolist()
    (['galaxies41', 'galaxies67', 'sky'], [2, 1], [[55.0, 25.0]])
    """
    check_image(image)
    check_part("model", model)
    refuse_tracers("starts are measured outside", image=image, sources=sources)
    frame = jax.tree.map(np.asarray, image)
    found = detections(frame, sources, scale=scale, side=side, minimum=minimum, labels=labels)
    level = 0.0 if sky is None else _sky_level(frame, found)
    frame = replace(frame, data=frame.data - level * np.asarray(frame.pixel_area_map))
    is_star = _which_stars(found.labels, stars, image)
    groups = _group(found, is_star, image.shape)
    rows = _measure(frame, found, groups, model)
    parts, start, windows = {}, {}, {}
    for name in sorted(groups):
        members, stamp, is_point = groups[name]
        parts[name] = many(models.point_source if is_point else model, stamp=stamp)
        start[name] = jax.tree.map(
            lambda *leaves: jnp.asarray(np.stack(leaves), image.dtype), *(rows[n] for n in members)
        )
        windows |= {found.labels[n].item(): tuple(found.windows[n].tolist()) for n in members}
    if sky is not None:
        parts["sky"] = sky
        known = {"I0": level} if "I0" in parameters(sky) else {}
        start["sky"] = initialize(sky, image, known)
    return scene(**parts), start, windows


def _sky_level(frame, found):
    """Brightness of the sky: clipped median of what lies outside all segments, or windows of a catalogue."""
    outside = np.ones(frame.shape, bool) if found.segments is None else found.segments == 0
    if found.segments is None:
        for i0, i1, j0, j1 in found.windows:
            outside[j0:j1, i0:i1] = False
    good = ~frame.mask
    chosen = good & outside if (good & outside).sum() >= 20 else good
    return clipped_median((frame.data / np.broadcast_to(frame.pixel_area_map, frame.shape))[chosen])


def _which_stars(labels, stars, image):
    stars = np.asarray(list(stars))
    unknown = [star for star in stars.tolist() if star not in labels]
    if unknown:
        raise ValueError(f"stars: there is no source {', '.join(map(str, unknown[:10]))}")
    if stars.size and image.psf is None:
        raise ValueError("stars: the image has no PSF to draw them with; pass psf= on building it")
    return np.isin(labels, stars)


def _group(found, is_star, shape):
    """Name → (rows, stamp, whether they are stars), of sources whose windows are of similar size."""
    sides = (found.windows[:, 1::2] - found.windows[:, ::2]).max(axis=1)
    groups = {}
    for row, (side, star) in enumerate(zip(sides, is_star, strict=True)):
        side = next((known for known in _SIDES if known >= side), int(side))
        stamp = min(side, shape[0]), min(side, shape[1])
        name = f"{'stars' if star else 'galaxies'}{side}"
        groups.setdefault(name, ([], stamp, bool(star)))[0].append(row)
    return groups


def _measure(frame, found, groups, model):
    """Start of every source, brightest first, each subtracted from the frame once it is known."""
    place = {row: group for group in groups.values() for row in group[0]}
    data, starts = np.array(frame.data, np.float64), {}
    for row in np.argsort(-found.fluxes, kind="stable"):
        _, stamp, is_point = place[row]
        own = models.point_source if is_point else model
        known = {"center": np.asarray(frame.transform.pixel_to_plane(*found.positions[row]))}
        starts[row] = measured_start(own, _alone(frame, data, found, row), known)
        i0, j0 = _first(found.positions[row], stamp, frame.shape)
        cut = crop(frame, (i0, i0 + stamp[1], j0, j0 + stamp[0]))
        data[j0 : j0 + stamp[0], i0 : i0 + stamp[1]] -= np.asarray(render(own, starts[row], cut, midpoint()))
    return starts


def _first(position, stamp, shape):
    """First pixel (i, j) of a stamp about a position, inside the frame; as `windows.first_pixels`."""
    first = [round(float(p) - (s - 1) / 2) for p, s in zip(position, stamp[::-1], strict=True)]
    return [min(max(f, 0), n - s) for f, s, n in zip(first, stamp[::-1], shape[::-1], strict=True)]


def _alone(frame, data, found, row):
    """The window of one source, the segments of others masked."""
    i0, i1, j0, j1 = (int(edge) for edge in found.windows[row])
    part = np.s_[j0:j1, i0:i1]
    ivar = frame.ivar[part]
    if found.segments is not None:
        segments = found.segments[part]
        ivar = np.where((segments == 0) | (segments == found.labels[row]), ivar, 0)
    transform = frame.transform.crop(i0, j0, ivar.shape)
    psf = None if frame.psf is None else frame.psf.at((i0 + i1 - 1) / 2, (j0 + j1 - 1) / 2)
    return replace(frame, data=data[part].astype(frame.data.dtype), ivar=ivar, transform=transform, psf=psf)
