"""Crowded fields: normal equations assembled from stamps, and domains of many sources.

A source that is drawn in a stamp (see `many`) has derivatives there alone. Value and derivatives of every stamp are
evaluated one by one; gradient and normal matrix follow from products within stamps, between stamps that overlap, and
with the derivatives of what is shared over the frame. `lm.step` takes this in place of `normal_equations`. Stamps stay
where the start put them, so that the loss is smooth and the pairs that overlap are the same for the whole fit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting.blocks import BlockMatrix
from jaxphot.fitting.coordinates import make_coordinates
from jaxphot.fitting.equations import Evaluation
from jaxphot.models.combinators import Scene, components, kind
from jaxphot.models.copies import Many
from jaxphot.parameters import describe, parameters
from jaxphot.pytree import leaves_with_names, update
from jaxphot.render import apply, draw_copy, stamp_frame, whole_frame
from jaxphot.windows import add_stamps, cut_stamps, first_pixels, over_sources

LARGEST_DENSE = 1500  # parameters up to which the normal matrix is kept as a whole, with its full inverse
_MOST_NEIGHBOURS = 64  # a source, on average, where pairs are sought inside a program
_EXACT = jax.lax.Precision.HIGHEST


def is_dense(size):
    """Whether the normal matrix of so many parameters is kept as a whole."""
    return size <= LARGEST_DENSE


class Group(NamedTuple):
    """Copies in stamps, of one `many` in a scene; static.

    Attributes
    ----------
    path : str
        Key path of its parameters.
    copies : Many
    number : int
        Its place among all that is drawn in stamps.
    coordinates : Coordinates
        Of one copy.
    index : (N, p) array of int
        Position of every copy's free parameters in the flat vector.
    """

    path: str
    copies: Many
    number: int
    coordinates: object
    index: np.ndarray  # type: ignore[assignment]  # a tuple's own is not wanted


class Layout(NamedTuple):
    """Which flat parameters belong to which source, and which are shared; static.

    Attributes
    ----------
    groups : tuple of Group
    shared : (D,) array of int
    coordinates : Coordinates
        Of the shared ones.
    entangled : bool
        What is shared changes the stamps, too: a PSF that is fitted, or copies behind a view.
    """

    groups: tuple
    shared: np.ndarray
    coordinates: object
    entangled: bool

    @property
    def index(self):
        """Positions of all groups' parameters, (S, p), as long as the longest; P where a source has fewer."""
        size = sum(group.index.size for group in self.groups) + self.shared.size
        widest = max((group.index.shape[1] for group in self.groups), default=0)
        rows = [np.pad(g.index, ((0, 0), (0, widest - g.index.shape[1])), constant_values=size) for g in self.groups]
        return np.concatenate(rows) if rows else np.zeros((0, 0), int)


def has_stamps(model):
    """Whether a scene has sources with stamps whose parameters are their own."""
    if isinstance(model, Many):
        return model.stamp is not None
    return isinstance(model, Scene) and any(has_stamps(part) for _, part in model.parts)


def make_layout(model, coordinates, bounded, start):
    """Sort the free parameters of a scene.

    Parameters
    ----------
    model : model
    coordinates : Coordinates
        Of the whole.
    bounded : collection of str
        Key paths with bounds of the user's.
    start : dict
        Complete tree, for the number of copies.

    Returns
    -------
    Layout
    """
    first = dict(zip((path for path, _ in coordinates.paths), _places(coordinates), strict=True))
    stamped = _stamped(model, start, "")
    groups = [_group(number, *item, first, bounded) for number, item in enumerate(stamped) if item[0] is not None]
    taken = np.concatenate([np.zeros(0, int), *(group.index.ravel() for group in groups)])
    free = {path for path, _ in coordinates.paths}
    own = {path for path in free if any(path.startswith(_join(group.path)) for group in groups)}
    described = describe(parameters(model), start)
    fixed = {path for path, _ in leaves_with_names(described) if path not in free or path in own}
    shared = np.setdiff1d(np.arange(coordinates.size), taken)
    live = any(kind(part) == "psf" for part, _ in components(model, start))
    entangled = live or len(stamped) > len(groups)
    return Layout(tuple(groups), shared, make_coordinates(described, fixed, bounded), entangled)


def _places(coordinates):
    sizes = [int(np.prod(shape)) for _, shape in coordinates.paths]
    return np.cumsum([0, *sizes])[: len(sizes)].tolist()


def _join(path):
    return f"{path}." if path else ""


def _stamped(model, params, path):
    """(key path, copies, params) of all copies in stamps, as `components` orders them; None behind a view."""
    if isinstance(model, Many) and model.stamp is not None:
        return [(path, model, params)]
    if isinstance(model, Scene):
        return [item for name, part in model.parts for item in _stamped(part, params[name], f"{_join(path)}{name}")]
    return [(None, part, own) for part, own in components(model, params) if kind(part) == "stamped"]


def _group(number, path, copies, params, first, bounded):
    own, _ = copies.split(params)
    row = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf)[1:]), own)
    count = len(jax.tree.leaves(own)[0])
    described = describe(parameters(copies.model), row)
    join = _join(path)
    fixed = [name for name, _ in leaves_with_names(described) if join + name not in first]
    users = [name.removeprefix(join) for name in bounded if name.startswith(join)]
    coordinates = make_coordinates(described, fixed, users)
    columns = [np.zeros((count, 0), int)]
    for name, shape in coordinates.paths:
        size = int(np.prod(shape))
        columns.append(first[join + name] + size * np.arange(count)[:, None] + np.arange(size)[None, :])
    return Group(path, copies, number, coordinates, np.concatenate(columns, axis=1))


def branch(tree, path):
    """The part of a nested dictionary at a key path."""
    for key in path.split(".") if path else ():
        tree = tree[key]
    return tree


def all_first_pixels(model, params, transform, shape):
    """Where the stamps of all copies lie: a list of (N, 2) arrays of int, as `components` orders them."""
    pairs = components(model, params)
    return [first_pixels(part, own, transform, shape) for part, own in pairs if kind(part) == "stamped"]


def make_equations(model, coordinates, layout, prepared, start, pairs=None):
    """A function ``(function, z, loss) → Evaluation``, to be given to `lm.step` as ``evaluate``.

    Parameters
    ----------
    model : model
    coordinates : Coordinates
    layout : Layout
    prepared : Prepared
    start : dict
        Complete tree: it says where stamps lie.
    pairs : tuple of (M, 2) arrays, optional
        Which stamps overlap, for each pair of groups; sought by the program itself otherwise.
    """
    firsts = all_first_pixels(model, start, prepared.transform, prepared.cells.shape)
    own_firsts = [firsts[group.number] for group in layout.groups]
    pairs = find_pairs(layout, own_firsts, coordinates.size) if pairs is None else pairs

    def evaluate(_, z, loss):
        tree = update(start, coordinates.unflatten(coordinates.from_internal(z)))
        seen = components(model, tree) if layout.entangled else ()
        drawn = [
            _draw_group(group, prepared, branch(tree, group.path), z, first, seen)
            for group, first in zip(layout.groups, own_firsts, strict=True)
        ]
        frame, columns = _draw_shared(model, layout, prepared, tree, z, firsts)
        if not layout.entangled:
            for (stamps, _), first in zip(drawn, own_firsts, strict=True):
                frame = add_stamps(frame, stamps, first)
        terms = loss(frame)
        root = jnp.sqrt(terms.weight)
        hessian = _assemble(layout, [own for _, own in drawn], own_firsts, root, columns, pairs, coordinates.size)
        gradient = [
            jnp.einsum("npyx,nyx->np", own, cut_stamps(terms.gradient, first, own.shape[-2:]), precision=_EXACT)
            for (_, own), first in zip(drawn, own_firsts, strict=True)
        ]
        of_shared = jnp.einsum("dyx,yx->d", columns, terms.gradient, precision=_EXACT)
        total = jnp.sum(terms.loss)
        return Evaluation(
            total,
            hessian.scatter(_stack(gradient), of_shared),
            hessian.dense() if is_dense(coordinates.size) else hessian,
            8 * jnp.finfo(z.dtype).eps * total,
            jnp.sum(terms.weight > 0, dtype=z.dtype),
            jnp.sum((frame * root) ** 2),
        )

    return evaluate


def _draw_group(group, prepared, params, z, first, seen):
    """Stamps (N, sy, sx) of a group and their derivatives (N, p, sy, sx) in internal coordinates."""
    stamp, local = stamp_frame(prepared, group.copies, seen), group.coordinates
    own, valid = group.copies.split(params)

    def draw(row):
        own, internal, at, is_valid = row
        physical = local.from_internal(internal)

        def pixels(vector):
            return draw_copy(stamp, group.copies.model, update(own, local.unflatten(vector)), at)

        value, columns = _value_and_columns(pixels, physical)
        columns = jnp.einsum("pq,pyx->qyx", local.derivative(internal, physical), columns, precision=_EXACT)
        return jnp.where(is_valid, value, 0), jnp.where(is_valid, columns, 0)

    return over_sources(draw, (own, z[group.index], first, jnp.asarray(valid)))


def _value_and_columns(function, vector):
    """A function's value and its derivatives with respect to each of P numbers, by forward mode."""
    if not vector.size:
        value = function(vector)
        return value, jnp.zeros((0, *value.shape), value.dtype)
    directions = jnp.eye(vector.size, dtype=vector.dtype)
    return jax.vmap(lambda t: jax.jvp(function, (vector,), (t,)), out_axes=(None, 0))(directions)


def _draw_shared(model, layout, prepared, tree, z, firsts):
    """The frame without what is in stamps (with it if that is entangled) and derivatives (D, ny, nx)."""
    internal = z[layout.shared]

    def pixels(vector):
        full = update(tree, layout.coordinates.unflatten(vector))
        if layout.entangled:
            return apply(prepared, model, full, firsts=firsts)
        return whole_frame(prepared, components(model, full))

    physical = layout.coordinates.from_internal(internal)
    value, columns = _value_and_columns(pixels, physical)
    derivative = layout.coordinates.derivative(internal, physical)
    return value, jnp.einsum("pq,pyx->qyx", derivative, columns, precision=_EXACT)


def _stack(arrays):
    """(N, p) arrays of all groups as one (S, p), filled up with zeros."""
    widest = max(array.shape[1] for array in arrays)
    return jnp.concatenate([jnp.pad(array, ((0, 0), (0, widest - array.shape[1]))) for array in arrays])


def _fill(blocks, p, q):
    """(N, a, b) blocks filled up with zeros to (N, p, q)."""
    return jnp.pad(blocks, ((0, 0), (0, p - blocks.shape[1]), (0, q - blocks.shape[2])))


def _assemble(layout, columns, firsts, root, shared_columns, pairs, size):
    """The `BlockMatrix` of all stamps' derivatives, (N, p, sy, sx) a group, weighted by `root`²."""
    index = layout.index
    width, depth = index.shape[1], len(shared_columns)
    weighted = [
        own * cut_stamps(root, first, own.shape[-2:])[:, None] for own, first in zip(columns, firsts, strict=True)
    ]
    shared = shared_columns * root[None]
    blocks, cross = [], []
    for own, first in zip(weighted, firsts, strict=True):
        flat = own.reshape(*own.shape[:2], -1)
        blocks.append(_fill(jnp.einsum("npk,nqk->npq", flat, flat, precision=_EXACT), width, width))
        cross.append(_fill(_cross(own, first, shared), width, depth))
    offset = np.cumsum([0, *(len(group.index) for group in layout.groups)])
    couplings, numbers = [jnp.zeros((0, width, width), root.dtype)], [jnp.zeros((0, 2), jnp.int32)]
    for (a, b), of_both in zip(group_pairs(layout), pairs, strict=True):
        found = couple(weighted[a], weighted[b], firsts[a], firsts[b], of_both)
        couplings.append(_fill(found, width, width))
        numbers.append(jnp.where(of_both >= 0, of_both + jnp.asarray(offset[None, [a, b]], jnp.int32), len(index)))
    corner = jnp.einsum("dyx,eyx->de", shared, shared, precision=_EXACT)
    return BlockMatrix(
        jnp.concatenate(blocks),
        jnp.concatenate(numbers),
        jnp.concatenate(couplings),
        jnp.concatenate(cross),
        corner,
        jnp.asarray(index, jnp.int32),
        jnp.asarray(layout.shared, jnp.int32),
        size,
    )


def _cross(own, first, shared):
    """Products (N, p, D) of stamps with what is shared over the frame."""
    if not len(shared):
        return jnp.zeros((*own.shape[:2], 0), own.dtype)

    def one(row):
        stamp, at = row
        part = jax.lax.dynamic_slice(shared, (jnp.zeros_like(at[0]), at[1], at[0]), (len(shared), *stamp.shape[-2:]))
        return jnp.einsum("pyx,dyx->pd", stamp, part, precision=_EXACT)

    return over_sources(one, (own, first))


def group_pairs(layout):
    """(a, b), a ≤ b, of all pairs of groups."""
    return [(a, b) for a in range(len(layout.groups)) for b in range(a, len(layout.groups))]


def couple(left, right, left_first, right_first, pairs):
    """Products of stamps that overlap.

    Parameters
    ----------
    left, right : (N, p, y, x) arrays
        Weighted derivatives.
    left_first, right_first : (N, 2) arrays of int
        First pixels (i, j).
    pairs : (M, 2) array of int
        −1 in rows that fill up, at the end.

    Returns
    -------
    (M, p, q) array
    """
    (_, p, ly, lx), q = left.shape, right.shape[1]
    if not len(pairs):  # of a group of one copy
        return jnp.zeros((0, p, q), left.dtype)

    def one(pair):
        a, b = pair
        shift = left_first[a] - right_first[b]  # from the right stamp's first pixel to the left one's
        padded = jnp.pad(right[b], ((0, 0), (ly, ly), (lx, lx)))
        part = jax.lax.dynamic_slice(padded, (jnp.zeros_like(shift[0]), ly + shift[1], lx + shift[0]), (q, ly, lx))
        return jnp.einsum("pyx,qyx->pq", left[a], part, precision=_EXACT)

    def put(m, found):
        return jax.lax.dynamic_update_index_in_dim(found, one(pairs[m]), m, 0)

    count = jnp.sum(pairs[:, 0] >= 0)
    return jax.lax.fori_loop(0, count, put, jnp.zeros((len(pairs), p, q), left.dtype))


def find_pairs(layout, firsts, size):
    """Which stamps overlap: for each pair of groups an (M, 2) array of int, −1 in rows that fill up."""
    found = []
    for a, b in group_pairs(layout):
        (ay, ax), (by, bx) = layout.groups[a].copies.stamp, layout.groups[b].copies.stamp
        shift = firsts[b][None, :, :] - firsts[a][:, None, :]
        low, high = (jnp.asarray([[side]], jnp.int32) for side in ((-bx, -by), (ax, ay)))
        touching = jnp.all((shift > low) & (shift < high), axis=-1)
        most = touching.size
        if a == b:
            touching, most = jnp.triu(touching, 1), len(firsts[a]) * (len(firsts[a]) - 1) // 2
        if not is_dense(size):
            most = min(most, _MOST_NEIGHBOURS * max(touching.shape))
        found.append(jnp.stack(jnp.nonzero(touching, size=most, fill_value=-1), axis=-1).astype(jnp.int32))
    return tuple(found)
