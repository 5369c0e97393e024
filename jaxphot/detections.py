"""Where the sources of a frame are: from a segmentation map or a catalogue to positions and windows. NumPy."""

from typing import NamedTuple

import jax
import numpy as np

from jaxphot.pytree import refuse_tracers
from jaxphot.transforms.sky import pixel_to_sky, sky_to_pixel

# names of columns, photutils' and SExtractor's among them, and what to add for 0-based pixels
_PIXELS = (("x", "y", 0), ("xcentroid", "ycentroid", 0), ("x_centroid", "y_centroid", 0), ("X_IMAGE", "Y_IMAGE", -1))
_SKIES = (("ra", "dec"), ("RA", "DEC"), ("ALPHA_J2000", "DELTA_J2000"))
_LABELS = ("label", "id", "ID", "NUMBER")
_FLUXES = ("flux", "segment_flux", "kron_flux", "FLUX_AUTO")
_BOXES = (
    ("bbox_xmin", "bbox_xmax", "bbox_ymin", "bbox_ymax", 0),
    ("XMIN_IMAGE", "XMAX_IMAGE", "YMIN_IMAGE", "YMAX_IMAGE", -1),
)


class Detections(NamedTuple):
    """Sources, one a row."""

    labels: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 2) pixel coordinates (i, j)
    windows: np.ndarray  # (N, 4) of int: i0, i1, j0, j1
    fluxes: np.ndarray  # (N,), for their order only
    segments: np.ndarray | None  # (ny, nx) of int, 0 = sky


def windows_from_segmentation(
    segmentation, *, scale=1.0, border=0, side=1, minimum=1, maximum=None, labels=None, image=None, to=None
):
    """The window around every segment of a map, for `crop`, ``fit(window=)`` and `plot.scene`.

    Parameters
    ----------
    segmentation : (ny, nx) array of int, or photutils SegmentationImage
        0 is sky, every positive number a source.
    scale : float
        Sides are multiplied by this, about the middle of the segment's own box.
    border : int
        Pixels added on every side after that.
    side : int
        No window is smaller, in pixels, but where the frame ends.
    minimum, maximum : int, optional
        Segments of fewer, or more, pixels are left out.
    labels : sequence of int, optional
        Those wanted; all by default.
    image, to : Image, optional
        The image that the map is of, and another one that the windows are for. They go there through the plane, or
        through the sky where the two have tangent points that differ; those that miss it are left out.

    Returns
    -------
    dict
        Label → (i0, i1, j0, j1), as in `crop`: columns i0 ≤ i < i1, rows j0 ≤ j < j1, inside the frame.

    Raises
    ------
    ValueError
        No map of whole numbers, or none of its segments is left; labels that are not in it; a shape that is not the
        image's; `to` without `image`.

    Examples
    --------
    >>> import numpy as np
    >>> segmentation = np.zeros((20, 30), int)
    >>> segmentation[5:9, 10:16] = 3
    >>> windows_from_segmentation(segmentation, scale=2)
    {3: (7, 19, 3, 11)}
    """
    refuse_tracers("windows are static, and found outside", segmentation=segmentation)
    segments = check_segmentation(segmentation, None if image is None else image.shape)
    numbers, boxes, areas = _boxes(segments)
    keep = (areas >= minimum) & (areas <= (np.inf if maximum is None else maximum))
    if labels is not None:
        keep &= np.isin(numbers, _check_labels(labels, numbers))
    if not np.any(keep):
        raise ValueError(
            f"segmentation: none of its {len(numbers)} segments, of {areas.min()} to {areas.max()} pixels, is left by"
            f" minimum={minimum}, maximum={maximum} and labels="
        )
    numbers, boxes = numbers[keep], grown(boxes[keep], scale, border, side)
    if to is not None:
        if image is None:
            raise ValueError("image: expected the one that the segmentation is of, since windows go `to` another")
        boxes = _transferred(boxes, image, to)
    boxes, seen = clipped(boxes, segments.shape if to is None else to.shape)
    return {int(label): tuple(box.tolist()) for label, box in zip(numbers[seen], boxes[seen], strict=True)}


def check_segmentation(segmentation, shape):
    """A map as (ny, nx) array of int with at least one source in it; ValueError for anything else."""
    is_array = hasattr(segmentation, "dtype")  # photutils' map has its array as `data`
    segments = np.asarray(segmentation if is_array else getattr(segmentation, "data", segmentation))
    if segments.ndim != 2:
        raise ValueError(f"segmentation: expected a two-dimensional map [j, i], got shape {segments.shape}")
    if segments.dtype == bool or not np.issubdtype(segments.dtype, np.number) or np.iscomplexobj(segments):
        raise ValueError(f"segmentation: expected whole numbers, one a source, got dtype {segments.dtype}")
    if not np.all(np.isfinite(segments)) or np.any(segments != np.floor(segments)) or np.any(segments < 0):
        raise ValueError("segmentation: expected whole numbers, 0 for sky and a positive one for every source")
    if shape is not None and segments.shape != shape:
        raise ValueError(f"segmentation: its shape is {segments.shape}, the image's {shape}")
    if not np.any(segments):
        raise ValueError("segmentation: it is empty: every pixel is 0, which is sky")
    return segments.astype(np.int64)


def _check_labels(labels, numbers):
    labels = np.asarray(labels).ravel()
    unknown = labels[~np.isin(labels, numbers)]
    if unknown.size:
        raise ValueError(f"labels: there is no source {', '.join(str(label) for label in unknown.tolist()[:10])}")
    return labels


def _boxes(segments):
    """Labels, boxes (i0, i1, j0, j1) and numbers of pixels of all segments."""
    j, i = np.nonzero(segments)
    numbers, which = np.unique(segments[j, i], return_inverse=True)
    boxes = np.empty((len(numbers), 4), np.int64)
    for column, values, extreme, start in (
        (0, i, np.minimum, segments.shape[1]), (1, i + 1, np.maximum, 0),
        (2, j, np.minimum, segments.shape[0]), (3, j + 1, np.maximum, 0),
    ):  # fmt: skip
        boxes[:, column] = start
        extreme.at(boxes[:, column], which, values)
    return numbers, boxes, np.bincount(which)


def grown(boxes, scale=1.0, border=0, side=1):
    """Boxes (N, 4) scaled about their middles, then widened by a border, then to at least one side."""
    for name, value, lowest in (("scale", scale, 0), ("border", border, -1), ("side", side, 0)):
        if not value > lowest:
            raise ValueError(f"{name}: expected a number above {lowest}, got {value!r}")
    middle = (boxes[:, ::2] + boxes[:, 1::2]) / 2
    size = np.maximum((boxes[:, 1::2] - boxes[:, ::2]) * scale + 2 * border, side)
    first = np.floor(middle - size / 2 + 1e-9).astype(np.int64)
    last = np.ceil(middle + size / 2 - 1e-9).astype(np.int64)
    return np.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], axis=1)


def clipped(boxes, shape):
    """Boxes inside a frame, and which of them have a pixel there."""
    ny, nx = shape
    inside = np.clip(boxes, 0, np.asarray([nx, nx, ny, ny]))
    return inside, (inside[:, 1] > inside[:, 0]) & (inside[:, 3] > inside[:, 2])


def _transferred(boxes, image, to):
    """The smallest boxes on another image that hold those on the first: by 8 points on the border of each."""
    i0, i1, j0, j1 = (boxes[:, n : n + 1] - 0.5 for n in range(4))
    mi, mj = (i0 + i1) / 2, (j0 + j1) / 2
    i = np.concatenate([i0, mi, i1, i1, i1, mi, i0, i0], axis=1)
    j = np.concatenate([j0, j0, j0, mj, j1, j1, j1, mj], axis=1)
    source, target = _float64(image.transform), _float64(to.transform)
    if same_plane(image, to):
        i, j = target.plane_to_pixel(*source.pixel_to_plane(i, j))
    else:
        i, j = sky_to_pixel(target, *pixel_to_sky(source, i, j))
    ends = [np.floor(np.min(i, 1) + 0.5), np.ceil(np.max(i, 1) + 0.5), np.floor(np.min(j, 1) + 0.5)]
    ends = np.stack([*ends, np.ceil(np.max(j, 1) + 0.5)], axis=1)
    return np.where(np.isfinite(ends), np.round(ends), -1).astype(np.int64)


def _float64(transform):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), transform)


def same_plane(image, other):
    """Whether two images share a plane: one tangent point, or one of them has no place on the sky."""
    a, b = (
        np.asarray(t.crval, np.float64) + np.asarray(t.crval_lo, np.float64) for t in (image.transform, other.transform)
    )
    return bool(np.any(np.isnan(a)) or np.any(np.isnan(b)) or np.array_equal(a, b))


def detections(image, sources, *, scale=1.0, side=1, minimum=1, labels=None):
    """Sources from a segmentation map or a catalogue; positions of segments are their light's middle.

    `image` has NumPy leaves and no sky in its data.
    """
    columns = _columns(sources)
    found = _from_segments(image, sources, minimum) if columns is None else _from_table(image, columns, side)
    if labels is not None:
        found = _rows(found, np.isin(found.labels, _check_labels(labels, found.labels)))
    boxes, seen = clipped(grown(found.windows, scale, 0, side), image.shape)
    if not np.any(seen):
        raise ValueError("sources: expected at least one on the frame, got none")
    return _rows(found._replace(windows=boxes), seen)


def _rows(found, which):
    return Detections(*(field[which] for field in found[:4]), found.segments)


def _columns(sources):
    """A table's columns by name; None for what is no table."""
    if hasattr(sources, "to_table"):  # a photutils SourceCatalog
        sources = sources.to_table()
    if isinstance(sources, dict):
        return sources
    names = getattr(sources, "colnames", None) or getattr(getattr(sources, "dtype", None), "names", None)
    return None if names is None else {name: sources[name] for name in names}


def _from_segments(image, sources, minimum):
    segments = check_segmentation(sources, image.shape)
    numbers, boxes, areas = _boxes(segments)
    if not np.any(areas >= minimum):
        raise ValueError(f"segmentation: no segment has the minimum of {minimum} pixels; the largest has {areas.max()}")
    light = np.where(image.mask, 0.0, image.data)
    j, i = np.nonzero(segments)
    which, values = np.searchsorted(numbers, segments[j, i]), light[j, i]

    def summed(weights):
        return np.bincount(which, weights, len(numbers))

    flux, weights = summed(values), np.maximum(values, 0)
    weights = np.where(summed(weights)[which] > 0, weights, 1)
    positions = np.stack([summed(weights * i), summed(weights * j)], axis=1) / summed(weights)[:, None]
    return _rows(Detections(numbers, positions, boxes, flux, segments), areas >= minimum)


def _from_table(image, columns, side):
    i, j = _positions(image, columns)
    if len(i) == 0:
        raise ValueError("table: it has no rows")
    if not np.all(np.isfinite(i) & np.isfinite(j)):
        raise ValueError(f"table: rows {np.flatnonzero(~np.isfinite(i + j))[:10].tolist()} have no position")
    labels = next((np.asarray(columns[name]) for name in _LABELS if name in columns), np.arange(1, len(i) + 1))
    if len(np.unique(labels)) < len(labels):
        raise ValueError("table: labels are not unique")
    boxes = next((_boxes_of(columns, *names) for names in _BOXES if names[0] in columns), None)
    if boxes is None:
        middle = np.round(np.stack([i, i, j, j], axis=1)).astype(np.int64)
        boxes = middle + np.asarray([-(side // 2), side - side // 2, -(side // 2), side - side // 2])
    fluxes = next((_numbers(columns[name]) for name in _FLUXES if name in columns), None)
    fluxes = _peaks(image, i, j) if fluxes is None else np.nan_to_num(fluxes)
    found = Detections(labels, np.stack([i, j], axis=1), boxes, fluxes, None)
    ny, nx = image.shape
    on_frame = (i > -0.5) & (i < nx - 0.5) & (j > -0.5) & (j < ny - 0.5)
    if not np.any(on_frame):
        raise ValueError(f"table: none of its {len(i)} positions lies on the frame of {nx} columns, {ny} rows")
    return _rows(found, on_frame)


def _numbers(column):
    return np.asarray(getattr(column, "value", column), np.float64)


def _positions(image, columns):
    """Pixel coordinates of a table's rows."""
    for x, y, offset in _PIXELS:
        if x in columns and y in columns:
            return _numbers(columns[x]) + offset, _numbers(columns[y]) + offset
    for ra, dec in _SKIES:
        if ra in columns and dec in columns:
            return tuple(
                np.asarray(c)
                for c in sky_to_pixel(_float64(image.transform), _numbers(columns[ra]), _numbers(columns[dec]))
            )
    wanted = ", ".join("/".join(names[:2]) for names in (*_PIXELS, *_SKIES))
    raise ValueError(f"table: expected columns with positions ({wanted}), got {', '.join(map(str, columns))}")


def _boxes_of(columns, *names):
    i0, i1, j0, j1 = (_numbers(columns[name]) + names[4] for name in names[:4])
    return np.stack([i0, i1 + 1, j0, j1 + 1], axis=1).astype(np.int64)


def _peaks(image, i, j):
    """Brightest of the 3 × 3 pixels about each position."""
    padded = np.pad(np.where(image.mask, 0.0, image.data), 1)
    ci, cj = (np.clip(np.round(c).astype(int), 0, n - 1) + 1 for c, n in zip((i, j), image.shape[::-1], strict=True))
    return np.max([padded[cj + dj, ci + di] for dj in (-1, 0, 1) for di in (-1, 0, 1)], axis=0)
