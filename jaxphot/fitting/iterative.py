"""Fits of very large crowded fields: one tile of sources after the other, until nothing moves."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting.problem import check_number
from jaxphot.fitting.solve import complete_options, fit
from jaxphot.image import crop
from jaxphot.models.combinators import Scene, kind, scene
from jaxphot.models.copies import Many, many, pad_sources
from jaxphot.noise_models import Gaussian
from jaxphot.parameters import check_params, parameters
from jaxphot.pytree import leaves_with_names, refuse_tracers, update
from jaxphot.render import check_image, render
from jaxphot.windows import first_pixels

_REFUSED = ("per_image", "transform_free", "linear", "priors")


def fit_iterative(model, params, image, *, side=150, rounds=20, tolerance=0.1, **options):
    """Fit a crowded field too large to step in all its parameters at once, by block-coordinate iteration.

    The frame is divided into tiles. The sources of one tile are fitted together to what all others leave of the data,
    then those of the next, then what is shared over the frame (skies, sources without stamps), round after round
    (block Gauss–Seidel; Bertsekas 1999, Nonlinear Programming, §2.7). Each tile is a small fit, of one compiled
    program for all. At the end `fit` evaluates the whole scene and takes its last steps from there, so that status and
    errors are those of the whole: every source marginalised over its neighbours and all that is shared.

    Parameters
    ----------
    model : Scene
        With at least one part that is a `many` in stamps.
    params : dict
    image : Image
    side : int
        Of the tiles, in pixels.
    rounds : int
        At most.
    tolerance : float
        The rounds end when none has moved a parameter by more than this many standard errors (`fit` does the rest).
    **options
        Those of `fit`, but for `per_image`, `transform_free`, `linear` and `priors`, and with Gaussian noise only;
        `max_steps` is for each tile and for the last steps.

    Returns
    -------
    Fit
        As that of `fit`: beyond 1500 free parameters `covariance` is a `BlockCovariance`. `steps` are the last ones.

    Raises
    ------
    ValueError, TypeError
        A model without stamps, or with stamps in a nested scene, behind a view or under a PSF that is fitted; noise
        that is not Gaussian; what `fit` refuses.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> psf = np.exp(-np.add.outer(np.arange(-6, 7) ** 2, np.arange(-6, 7) ** 2) / 4.0)
    >>> image = jp.make_image(np.zeros((40, 70)), std=0.1, psf=psf)
    >>> model = jp.scene(stars=jp.many(jp.models.point_source, stamp=13), sky=jp.models.flat_sky)
    >>> stars = {"center": np.array([[12.0, 20.0], [52.0, 18.0]]), "flux": np.array([90.0, 70.0])}
    >>> image = jp.make_image(jp.render(model, {"stars": stars, "sky": {"I0": 2.0}}, image), std=0.1, psf=psf)
    >>> result = fit_iterative(model, {"stars": {**stars, "flux": [50.0, 50.0]}, "sky": {"I0": 0.0}}, image, side=35)
    >>> np.round(result.params["stars"]["flux"], 2).tolist()
    [90.0, 70.0]
    """
    refuse_tracers("fit steps in all parameters", params=params, image=image)
    for name, value, above in (("side", side, 0), ("rounds", rounds, 0), ("tolerance", tolerance, 0)):
        check_number(name, value, above)
    options = complete_options("fit_iterative", options)
    _check(model, image, options)
    image = image if options["window"] is None else crop(image, options["window"])
    options = {**options, "window": None}
    fixed, values = _held(options["fixed"])
    params = update(params, values) if isinstance(params, dict) else params
    params = jax.tree.map(np.asarray, check_params(parameters(model), params, image.dtype))
    whole = {**options, "fixed": fixed}
    tiles = _Tiles(model, params, image, int(side))
    left = np.array(image.data - render(model, params, image, options["sampling"]))
    for _ in range(int(rounds)):
        moved = 0.0
        for window, rows in tiles:
            params, left, change = _fit_tile(tiles, params, image, left, window, rows, whole)
            moved = max(moved, change)
        params, left, change = _fit_shared(tiles, params, image, left, whole)
        if max(moved, change) <= tolerance:
            break
    return fit(model, params, image, **whole)


def _check(model, image, options):
    check_image(image)
    stamped = isinstance(model, Scene) and any(_is_stamped(part) for _, part in model.parts)
    if not stamped:
        raise ValueError("model: expected a scene with a part many(…, stamp=); for others use fit")
    for name, part in model.parts:
        if not _is_stamped(part) and (isinstance(part, Scene) or kind(part) in ("stamped", "linked", "psf")):
            raise ValueError(f"model: {name} is a nested scene, a view, or a PSF that is fitted; use fit")
    refused = [name for name in _REFUSED if options[name] is not None]
    if refused:
        raise ValueError(f"fit_iterative: {', '.join(refused)} cannot be used tile by tile; use fit")
    if options["likelihood"] is not None and not isinstance(options["likelihood"], Gaussian):
        raise ValueError(
            "likelihood: tiles are fitted to what the others leave: only Gaussian noise allows it; use fit"
        )


def _is_stamped(part):
    return isinstance(part, Many) and part.stamp is not None


def _held(fixed):
    """`fixed` with None for every value, and the values."""
    if not isinstance(fixed, dict):
        return fixed, {}
    held, values = {}, {}
    for key, value in fixed.items():
        if isinstance(value, dict):
            held[key], values[key] = _held(value)
        else:
            held[key] = None
            if value is not None and value is not True:
                values[key] = value
    return held, {key: value for key, value in values.items() if not isinstance(value, dict) or value}


class _Tiles:
    """Windows of one shape that hold all stamps of their sources; iterated over as (window, rows by group)."""

    def __init__(self, model, params, image, side):
        self.groups = {name: part for name, part in model.parts if _is_stamped(part)}
        others = {name: part for name, part in model.parts if name not in self.groups}
        self.shared = scene(**others) if others else None
        stamps = np.asarray([part.stamp for part in self.groups.values()])
        self.shape = tuple(int(min(side + s, n)) for s, n in zip(stamps.max(axis=0), image.shape, strict=True))
        members = {}
        for name, part in self.groups.items():
            first = np.asarray(first_pixels(part, params[name], image.transform, image.shape))
            middle = first + np.asarray(part.stamp[::-1]) // 2
            for row in np.flatnonzero(np.asarray(part.split(params[name])[1])):
                i, j = (middle[row] // side).tolist()
                members.setdefault((j, i), {}).setdefault(name, []).append(int(row))
        self.items = [(self._window(tile, side, image.shape), members[tile]) for tile in sorted(members)]
        most = {name: max(len(rows.get(name, ())) for _, rows in self.items) for name in self.groups}
        self.most = {name: count for name, count in most.items() if count}
        self.model = scene(**{name: many(self.groups[name].model, self.groups[name].stamp, padded=True)
                              for name in self.most})  # fmt: skip

    def __iter__(self):
        return iter(self.items)

    def _window(self, tile, side, shape):
        edges = []
        for k, size, n in zip(tile, self.shape, shape, strict=True):
            first = min(max(k * side - (size - side) // 2, 0), n - size)
            edges.append((first, first + size))
        (j0, j1), (i0, i1) = edges
        return i0, i1, j0, j1

    def take(self, params, rows):
        """Parameters of a tile's sources, filled up."""
        return {name: self._rows(params[name], rows.get(name, ()), count) for name, count in self.most.items()}

    def _rows(self, own, rows, count):
        own = {key: leaf for key, leaf in own.items() if key != "valid"}
        if rows:
            return pad_sources(jax.tree.map(lambda leaf: leaf[np.asarray(rows)], own), count)
        filled = pad_sources(jax.tree.map(lambda leaf: leaf[:1], own), count)
        return {**filled, "valid": np.zeros(count)}

    def bounds(self, bounds, params, rows):
        """The user's bounds on a tile's sources."""
        found = {}
        for name, count in self.most.items():
            leaves, chosen = dict(leaves_with_names(params[name])), np.asarray(rows.get(name) or [0])
            chosen = chosen[np.minimum(np.arange(count), len(chosen) - 1)]

            def cut(tree, path, leaves=leaves, chosen=chosen):
                if isinstance(tree, dict):
                    return {key: cut(value, f"{path}.{key}" if path else key) for key, value in tree.items()}
                return tuple(np.broadcast_to(one, leaves[path].shape)[chosen] for one in tree)

            if name in (bounds or {}):
                found[name] = cut(bounds[name], "")
        return found


def _fit_tile(tiles, params, image, left, window, rows, options):
    """Parameters, what is left of the data, and the largest move in standard errors, after fitting one tile."""
    i0, i1, j0, j1 = window
    cut, own, sampling = crop(image, window), tiles.take(params, rows), options["sampling"]
    before = np.asarray(render(tiles.model, own, cut, sampling))
    cut = _with_data(cut, left[j0:j1, i0:i1] + before)
    fixed = {name: held for name, held in (options["fixed"] or {}).items() if name in tiles.most}
    own_options = {**options, "fixed": fixed, "bounds": tiles.bounds(options["bounds"], params, rows)}
    result = fit(tiles.model, own, cut, **own_options)
    if not np.isfinite(float(result.chi2)) or not result.stderr:
        return params, left, 0.0
    left = left.copy()
    left[j0:j1, i0:i1] += before - np.asarray(render(tiles.model, result.params, cut, sampling))
    for name, chosen in rows.items():
        new = {key: leaf for key, leaf in result.params[name].items() if key != "valid"}
        put = lambda old, leaf, chosen=chosen: _put(old, chosen, np.asarray(leaf)[: len(chosen)])  # noqa: E731
        old = {key: leaf for key, leaf in params[name].items() if key != "valid"}
        params = {**params, name: {**params[name], **jax.tree.map(put, old, new)}}
    return params, left, _largest_move(own, result)


def _fit_shared(tiles, params, image, left, options):
    """The same for what is shared over the frame."""
    if tiles.shared is None:
        return params, left, 0.0
    names = [name for name, _ in tiles.shared.parts]
    own = {name: params[name] for name in names}
    before = np.asarray(render(tiles.shared, own, image, options["sampling"]))
    pick = lambda tree: {name: value for name, value in (tree or {}).items() if name in names}  # noqa: E731
    own_options = {**options, "fixed": pick(options["fixed"]), "bounds": pick(options["bounds"])}
    result = fit(tiles.shared, own, _with_data(image, left + before), **own_options)
    if not np.isfinite(float(result.chi2)) or not result.stderr:
        return params, left, 0.0
    found = jax.tree.map(np.asarray, result.params)
    left = left + before - np.asarray(render(tiles.shared, found, image, options["sampling"]))
    return {**params, **found}, left, _largest_move(own, result)


def _with_data(image, data):
    return replace(image, data=jnp.asarray(data, image.dtype))


def _put(old, rows, new):
    old = np.array(old)
    old[rows] = new
    return old


def _largest_move(before, result):
    """In standard errors, over all parameters whose error is known."""
    old, new = dict(leaves_with_names(before)), dict(leaves_with_names(result.params))
    moves = [0.0]
    for name, error in leaves_with_names(result.stderr):
        error = np.asarray(error)
        known = np.isfinite(error) & (error > 0)
        change = np.abs(np.asarray(new[name]) - np.asarray(old[name]))
        moves.append(float(np.max(change[known] / error[known], initial=0.0)))
    return max(moves)
