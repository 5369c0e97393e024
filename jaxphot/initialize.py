"""Starting values from the pixels, for every model."""

import math
from dataclasses import replace
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.image import Image
from jaxphot.image_sets import make_set
from jaxphot.joint_start import common, joint_start
from jaxphot.measure import Pixels
from jaxphot.models.combinators import Linked, Scene, check_model, kind
from jaxphot.models.copies import Many
from jaxphot.models.modifiers import Sectors
from jaxphot.parameters import Parameter, Partial, SersicIndex, keyword_parameters, parameters
from jaxphot.psf_start import psf_start
from jaxphot.pytree import refuse_tracers, update
from jaxphot.render import check_image

_MOST_PIXELS = 4000  # on which alternatives are compared


def initialize(model, image, known=None, *, per_image=None):
    """Starting values for a fit, measured from the image.

    The sky level is taken out first (clipped median of the border, then of what lies beyond the source). Centre, axis
    ratio and position angle come from adaptive second moments corrected for the PSF's, size, brightness and Sérsic
    index from the curve of growth in elliptical annuli, whose medians neighbours hardly disturb. The source is the
    brightest near the middle of the frame unless `known` gives its centre. Each sector of a wedge or ray is measured
    by itself. What adds to a shape (boxiness, Fourier modes, bends) starts near nothing.

    A profile, a metric or a function of the plane may say more of its own parameters: ``function.start(source)``
    returns a dictionary of values, from a `measure.Source`; for a background, from the sky level. It may return a list
    of them: the one with which the model is most like the pixels is taken, as for spirals. A PSF that is fitted starts
    from stars whose centres are known, or as wide as 3 pixels.

    Of a stack or list every image is measured by itself, for `fit_batch`. For a set of images (see `fit`) this is done
    in each, in the plane of the first one; what they share is averaged, weighted by their signal-to-noise ratios. Every
    view needs an inverse then, which may return the part of the parameters that its image tells.

    Parameters
    ----------
    model : model, or dict of model
    image : Image, or a stack or list of them; for a set, dict of Image, or a stack with `per_image`
    known : dict, optional
        Partial tree of values to take as they are; a known centre says which source to measure, and `many` needs the
        centres of its copies. Of several images, leaves may have a leading axis N. For a `linked` model these are the
        view's parameters; it must have an inverse.
    per_image : sequence of str, optional
        Key paths of parameters that each image of a stack has its own of, as for `fit`.

    Returns
    -------
    dict
        Parameter tree for `fit`; for `fit_batch`, with a leading axis N on every leaf, if `image` is several.

    Raises
    ------
    ValueError
        A parameter that no rule covers (pass it in `known`); unknown key paths in `known`, or a leading axis there that
        is not the stack's.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> y, x = np.mgrid[:41, :41]
    >>> data = 100 * np.exp(-np.hypot(x - 22, (y - 19) / 0.6) / 4) + 7
    >>> start = initialize(jp.models.sersic, jp.make_image(data - 7, std=0.1))
    >>> [round(float(v)) for v in start["center"]]
    [22, 19]
    """
    refuse_tracers("starts are measured outside", image=image, known=known)
    if isinstance(model, dict) or isinstance(image, dict) or per_image is not None:
        known = {} if known is None else known
        images, image = make_set(model, image, per_image)
        _check_known(known, images.parameters())
        start = joint_start(images, image, known, measured_start)
        return _as_arrays(start, jax.tree.leaves(image)[0].dtype, jnp.asarray)
    if isinstance(image, list | tuple) or (isinstance(image, Image) and image.data.ndim == 3):
        return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *_each_start(model, image, known))
    return _as_arrays(measured_start(model, image, known), image.dtype, jnp.asarray)


def _each_start(model, images, known):
    """`measured_start` for every image of a stack or list."""
    check_model(model)
    declared = parameters(model)
    known = {} if known is None else _lists_as_arrays(known)
    if isinstance(images, Image):
        arrays = jax.tree.map(np.asarray, images)
        images = [jax.tree.map(lambda leaf, k=k: leaf[k], arrays) for k in range(len(arrays.data))]
    if not images:
        raise ValueError("image: expected at least one, got none")
    count = len(images)
    return [measured_start(model, image, _of_row(known, declared, k, count)) for k, image in enumerate(images)]


def _of_row(known, declared, row, count, prefix=""):
    """What is known of one image of several: a leaf with an axis more than its parameter has one value for each."""
    if isinstance(known, dict):
        inner = declared if isinstance(declared, dict) else {}
        return {key: _of_row(value, inner.get(key, {}), row, count, f"{prefix}{key}.") for key, value in known.items()}
    if not isinstance(declared, Parameter) or np.ndim(known) != len(declared.shape) + 1:
        return known
    if len(known) != count:
        wanted = f"one value for each of {count} images"
        raise ValueError(f"known: {prefix[:-1]}: expected {wanted}, got an array of shape {np.shape(known)}")
    return known[row]


def measured_start(model, image, known=None):
    """As `initialize`, with NumPy's arrays: what thousands of starts need not carry to a device and back."""
    check_model(model)
    check_image(image)
    declared = parameters(model)
    known = {} if known is None else _lists_as_arrays(known)
    _check_known(known, declared)
    pixels = Pixels(image)
    _find_psf(model, known, pixels)
    has_sky = any(kind(part) == "background" for _, part in _leaf_models(model, ""))
    shared = _count_shared_centres(model, known)
    missing = []
    tree = _start(model, declared, known, pixels, has_sky, shared, "", missing)
    if missing:
        names = ", ".join(dict.fromkeys(missing))
        raise ValueError(f"initialize: no rule for {names}; pass known= with values for them")
    return _as_arrays(tree, image.dtype)


def _lists_as_arrays(tree):
    if isinstance(tree, dict):
        return {key: _lists_as_arrays(value) for key, value in tree.items()}
    return np.asarray(tree) if isinstance(tree, list | tuple) else tree


def _as_arrays(tree, dtype, as_array=np.asarray):
    if isinstance(tree, dict):
        return {key: _as_arrays(value, dtype, as_array) for key, value in tree.items()}
    return as_array(tree, dtype)


def _check_known(known, declared, prefix=""):
    if isinstance(declared, Parameter) or not isinstance(known, dict):
        return
    for key, value in known.items():
        if key in declared:
            _check_known(value, declared[key], f"{prefix}{key}.")
        elif declared and not isinstance(declared, Partial):
            names = ", ".join(f"{prefix}{name}" for name in sorted(declared))
            raise ValueError(f"known: unknown {prefix}{key}; the model has {names}")


def _find_psf(model, known, pixels):
    """Moments of the PSF of a scene that has one to fit: the image's own, or those of stars at known places."""
    parts = _leaf_models(model, "")
    if pixels.psf_moments is None and any(kind(part) == "psf" for _, part in parts):
        stars = [_branch(known, name).get("center") for name, part in parts if kind(part) == "point"]
        pixels.psf_moments = pixels.star_moments(
            [c for own in stars if own is not None for c in np.reshape(own, (-1, 2))]
        )


def _branch(tree, name):
    """The branch of a nested dictionary at a key path; {} if there is none."""
    for key in name.split(".") if name else ():
        tree = tree.get(key, {}) if isinstance(tree, dict) else {}
    return tree if isinstance(tree, dict) else {}


def _leaf_models(model, prefix):
    if isinstance(model, Linked | Many):
        return _leaf_models(model.model, prefix)
    if not isinstance(model, Scene):
        return [(prefix, model)]
    return [pair for name, part in model.parts for pair in _leaf_models(part, f"{prefix}.{name}" if prefix else name)]


def _count_shared_centres(model, known):
    """How many sources without a known centre there are: they all start at the same place and share its light."""
    count = 0
    for name, part in _leaf_models(model, ""):
        count += kind(part) in ("extended", "point") and "center" not in _branch(known, name)
    return max(count, 1)


def _start(model, declared, known, pixels, has_sky, shared, prefix, missing):
    if isinstance(model, Scene):
        join = f"{prefix}." if prefix else ""
        return {
            name: _start(part, declared[name], known.get(name, {}), pixels, has_sky, shared, f"{join}{name}", missing)
            for name, part in model.parts
        }
    if isinstance(model, Linked):
        if model.inverse is None:
            missing.append(f"{prefix or 'params'} (linked without inverse=)")
            return known
        inner = parameters(model.model)
        own = _start(model.model, inner, common(known, inner), pixels, has_sky, shared, prefix, missing)
        return known if missing else update(model.inverse(_as_arrays(own, np.float64)), known)
    if isinstance(model, Many):
        if "center" not in known:
            missing.append(f"{prefix}.center" if prefix else "center")
            return known
        rows = [jax.tree.map(lambda leaf, k=k: np.asarray(leaf)[k], known) for k in range(len(known["center"]))]
        inner = parameters(model.model)
        copies = [_start(model.model, inner, row, pixels, has_sky, shared, prefix, missing) for row in rows]
        return known if missing else jax.tree.map(lambda *leaves: np.stack(leaves), *copies)
    if not declared:
        return known
    if kind(model) == "psf":
        return psf_start(declared, known, pixels.psf_ellipse(), prefix, missing)
    if kind(model) == "background":
        level = pixels.sky
        values = {"I0": level, "delta": np.zeros(2), **_alternatives(model, level)[0]}
    else:
        values = _source_values(model, declared, known, pixels, has_sky, shared)
    start = {}
    for key, parameter in declared.items():
        value = known.get(key, values.get(key))
        if value is None:
            missing.append(f"{prefix}.{key}" if prefix else key)
        else:
            start[key] = value if key in known else np.broadcast_to(_inside(value, parameter), parameter.shape)
    return update(start, known)


def _inside(value, parameter):
    low, high = parameter.bounds
    low = low if math.isfinite(low) and low != 0 else -math.inf
    return np.minimum(np.maximum(value, low), high)


def _alternatives(model, measured):
    """What the functions of a model say of its start: a list of dictionaries, of which mostly there is one."""
    found = [{}]
    for part in ("function", "profile", "metric"):
        inner = getattr(model, part, None)
        if inner is not None:
            own = inner.start(measured) if hasattr(inner, "start") else {}
            own = own if isinstance(own, list) else [own]
            found = [{**a, **b, **c} for a, b, c in product(found, _alternatives(inner, measured), own)]
    return found


def _source_values(model, declared, known, pixels, has_sky, shared):
    center = np.asarray(known["center"], float) if "center" in known else None
    source, seen = pixels.measure(center, pixels.sky if has_sky else 0.0)
    if center is None:
        source = _dimmed(source, shared)
    named = _named_values(source, declared)
    choices = [{**named, **own, **known} for own in _alternatives(model, source)]
    values = choices[0] if len(choices) == 1 else _most_alike(model, declared, choices, pixels, seen)
    if isinstance(model, Sectors):
        values |= _sector_values(model, declared, values, pixels, seen, shared if center is None else 1)
    return values


def _dimmed(source, shared):
    """A source that has its light in common with others."""
    return replace(source, **{key: getattr(source, key) / shared for key in ("Ie", "peak", "flux", "annuli")})


def _named_values(source, declared):
    """By the names that parameters have in every model."""
    index = source.n if declared.get("n") == SersicIndex.__metadata__[0] else 2.5
    sizes = {"Re": source.Re, "sigma": source.Re / 1.18, "Rd": source.Re / 1.1}
    lights = {"Ie": source.Ie, "I0": source.peak, "flux": source.flux}
    place = {"center": source.center, "q": source.q, "PA": source.PA}
    return {**place, "n": index, **sizes, **lights, **_shape_values(source)}


def _shape_values(source):
    """Of metrics and modifiers: nothing of what they add, or so little of it that its direction has a derivative."""
    tilt = np.arccos(np.clip(source.q, 0.2, 0.98))
    shapes = {"C0": 0.0, "am": 0.03, "phim": 0.0, "bm": 0.03, "q_r": source.q, "PA_r": source.PA}
    rings = {"R_ring": source.Re, "side_ratio": 1.0}
    inner = {"R_in": 0.3 * source.Re, "w_in": 0.3 * source.Re}
    outer = {"R_out": 2.5 * source.Re, "w_out": 0.7 * source.Re}
    return {**shapes, **rings, **inner, **outer, "inclination": tilt}


def _sector_values(model, declared, values, pixels, seen, shared):
    """The profile's parameters, half way from those of the whole source to those of each sector alone.

    Where little light is left of a sector its annuli end early, which a start must not take at its word.
    """
    dx, dy = pixels.x - values["center"][0], pixels.y - values["center"][1]
    angle = np.arctan2(dx, dy) - (values["PA"] if "PA" in declared else 0.0)
    nearest = np.round(angle / model.width).astype(int) % model.count
    inner = keyword_parameters(model.profile)
    sectors = [_dimmed(own, shared) for own in pixels.measure_sectors(seen, nearest, model.count)]
    each = [{**_named_values(own, inner), **_alternatives(model, own)[0]} for own in sectors]
    return {
        key: np.stack([np.broadcast_to((own[key] + values[key]) / 2, parameter.shape) for own in each])
        for key, parameter in inner.items()
        if all(key in own for own in each)
    }


def _most_alike(model, declared, choices, pixels, seen):
    """The one of several dictionaries of values whose picture, times any factor, is most like the light."""
    near = np.flatnonzero(pixels.good & (seen.radius < 4 * np.sqrt(np.mean(seen.radius[pixels.good] ** 2))))
    near = near[:: 1 + len(near) // _MOST_PIXELS]
    x, y, light = (np.ravel(side)[near] for side in (pixels.x, pixels.y, seen.light))
    trees = [
        {key: np.broadcast_to(_inside(values[key], p), p.shape) for key, p in declared.items() if key in values}
        for values in choices
    ]
    if set(trees[0]) != set(declared):  # something has no rule: which is said elsewhere
        return choices[0]
    stacked = {key: jnp.asarray(np.stack([tree[key] for tree in trees])) for key in declared}
    pictures = np.asarray(_pictures(model, stacked, x, y), float)
    scores = (pictures @ light) / np.sqrt(np.maximum(np.sum(pictures**2, axis=1), np.finfo(float).tiny))
    return choices[int(np.argmax(np.where(np.isfinite(scores), scores, -np.inf)))]


@partial(jax.jit, static_argnums=0)
def _pictures(model, stacked, x, y):
    return jax.lax.map(lambda params: model(params, x, y), stacked)
