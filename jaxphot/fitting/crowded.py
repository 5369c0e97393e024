"""Fits of crowded fields: what `solve` does differently where sources are drawn in stamps.

Up to `scenes.LARGEST_DENSE` parameters the normal matrix is assembled from stamps but kept as a whole: solver and
covariance are the usual ones. Beyond that it is a `BlockMatrix`, solved by preconditioned conjugate gradients; time and
memory then grow with the number of sources and of overlaps.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.amplitudes import find_amplitudes
from jaxphot.fitting.blocks import solve_blocks
from jaxphot.fitting.covariance import physical_covariance
from jaxphot.fitting.neighbours import block_covariance
from jaxphot.fitting.regions import SceneDomain
from jaxphot.fitting.scenes import (
    all_first_pixels,
    branch,
    group_pairs,
    has_stamps,
    is_dense,
    make_equations,
    make_layout,
)
from jaxphot.noise_models import Gaussian
from jaxphot.parameters import describe, parameters
from jaxphot.pytree import is_concrete, leaves_with_names
from jaxphot.render import prepare


class AllLinear:
    """For a scene of nothing but amplitudes: no step needs damping, and the first one leads to the solution."""

    def damping(self, damping, size):
        """Marquardt's λ for each parameter: none."""
        return jnp.zeros(size, damping.dtype)

    def resolve(self, z, new, lower, upper):
        """The point and its evaluation as they are."""
        return z, new


def is_scene(setup):
    """Whether the normal equations are assembled from stamps."""
    return setup.coordinates.size > 0 and has_stamps(setup.model)


def layout_of(setup, lane):
    """The `Layout` of a lane's parameters."""
    return make_layout(setup.model, setup.coordinates, setup.bounded, lane.start)


def domain_of(setup, lane):
    """Bounds in internal coordinates: the `SceneDomain` of a lane."""
    return SceneDomain(layout_of(setup, lane), setup.coordinates, lane.limits, is_dense(setup.coordinates.size))


def begin(setup, lane, z):
    """State of the solver at the start, before any evaluation.

    Raises
    ------
    ValueError
        Priors, or a likelihood that compares more than the model's pixels with the data.
    """
    if setup.has_priors:
        raise ValueError("priors: not with many(…, stamp=) yet; use many(model) without stamps")
    if hasattr(setup.likelihood, "compare"):
        name = type(setup.likelihood).__name__
        raise ValueError(f"likelihood: {name} does not work with many(…, stamp=); use gaussian() or poisson()")
    state = lm.init(z)
    if is_dense(setup.coordinates.size):
        return state
    options = solver(setup, lane)
    evaluated = jax.eval_shape(
        lambda z: options["evaluate"](None, z, lambda value: setup.likelihood.terms(value, lane.image)), z
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), evaluated.hessian)
    return state._replace(hessian=zeros)


def solver(setup, lane):
    """Options of `lm.step` by which normal equations are assembled from stamps, and solved."""
    prepared = prepare(lane.image, setup.sampling)
    layout = layout_of(setup, lane)
    evaluate = make_equations(setup.model, setup.coordinates, layout, prepared, lane.start, lane.pairs)
    options = {"evaluate": evaluate, "amplitudes": _amplitudes(setup, lane)}
    return options if is_dense(setup.coordinates.size) else {**options, "solve": solve_blocks}


def _amplitudes(setup, lane):
    if not isinstance(setup.likelihood, Gaussian):
        return None
    free = {path for path, _ in setup.coordinates.paths}
    described = leaves_with_names(describe(parameters(setup.model), lane.start))
    bounds = [p.bounds for path, p in described if path in free]
    unbounded = not setup.bounded and not np.any(np.isfinite(bounds))
    if unbounded and all(parameter.linear for path, parameter in described if path in free):
        return AllLinear()
    return find_amplitudes(setup.model, setup.coordinates, setup.bounded) if is_dense(setup.coordinates.size) else None


def covariance(setup, lane, state):
    """Covariance, which parameters are not determined, whether a shear means round, and how many rows are no sources.

    Returns
    -------
    covariance : (P, P) array or BlockCovariance
    undetermined : (P,) array of bool
    is_round : bool scalar
    left_out : (P,) array of bool
        Parameters of rows that only fill up.
    """
    domain, layout = domain_of(setup, lane), layout_of(setup, lane)
    if is_dense(setup.coordinates.size):
        found, undetermined, is_round = physical_covariance(state, setup.coordinates, domain)
    else:
        found, undetermined, is_round = block_covariance(state, layout, domain)
    left_out = jnp.zeros(setup.coordinates.size, bool)
    for group in layout.groups:
        _, valid = group.copies.split(branch(lane.start, group.path))
        left_out = left_out.at[group.index].set(~jnp.asarray(valid)[:, None])
    return found, undetermined & ~left_out, is_round, left_out


def with_pairs(setup, lane):
    """A lane that knows which of its many stamps overlap; as it is where that is small, or not yet known."""
    if is_dense(setup.coordinates.size) or not is_concrete(lane.start, lane.image.transform):
        return lane
    layout = layout_of(setup, lane)
    firsts = all_first_pixels(setup.model, lane.start, lane.image.transform, lane.image.shape)
    firsts = [np.asarray(firsts[group.number]) for group in layout.groups]
    stamps = [group.copies.stamp for group in layout.groups]
    pairs = [_touching(firsts[a], firsts[b], stamps[a], stamps[b], a == b) for a, b in group_pairs(layout)]
    return lane._replace(pairs=tuple(_filled(found) for found in pairs))


def _touching(left, right, left_stamp, right_stamp, same):
    """(M, 2) numbers of stamps that overlap, each pair once; stamps are compared with those in the same rows only."""
    by_row = np.argsort(left[:, 1]), np.argsort(right[:, 1])
    rows, found = right[by_row[1], 1], []
    for chunk in np.array_split(by_row[0], max(len(left) // 256, 1)):
        if not len(chunk):
            continue
        first = np.searchsorted(rows, left[chunk[0], 1] - right_stamp[0], "right")
        last = np.searchsorted(rows, left[chunk[-1], 1] + left_stamp[0], "left")
        others = by_row[1][first:last]
        shift = right[others][None] - left[chunk][:, None]
        low, high = -np.asarray(right_stamp[::-1]), np.asarray(left_stamp[::-1])
        a, b = np.nonzero(np.all((shift > low) & (shift < high), axis=-1))
        found.append(np.stack([chunk[a], others[b]], axis=-1))
    pairs = np.concatenate([np.zeros((0, 2), int), *found])
    return pairs[pairs[:, 0] < pairs[:, 1]] if same else pairs


def _filled(pairs):
    """As many rows as one of a few sizes, so that similar fields share a program: −1 at the end."""
    step = max(1, 2 ** (int(np.log2(max(len(pairs), 1))) - 2))
    missing = -len(pairs) % step if len(pairs) else 1
    return np.pad(pairs, ((0, missing), (0, 0)), constant_values=-1).astype(np.int32)
