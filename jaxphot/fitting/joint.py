"""Normal equations of several images that one tree of parameters explains.

Every image is drawn with the parameters of its own model, so its derivatives are taken with respect to these few alone,
and carried over to the shared parameters by the chain rule through the views: H = Σ Jᵀ H_image J. Images of one kind,
seen with one model, form a group whose equations are compiled once, however many they are.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting.amplitudes import Amplitudes, best_change
from jaxphot.fitting.coordinates import Coordinates
from jaxphot.fitting.equations import Evaluation, normal_equations
from jaxphot.fitting.groups import Joint
from jaxphot.image_sets import unlinked, with_leaves
from jaxphot.likelihood import compared
from jaxphot.pytree import leaves_with_names, update
from jaxphot.render import apply, prepare

_TRUSTED = 1e3  # largest change of an amplitude after which the scaled derivatives are still used
_TOGETHER = 64  # images of a group whose derivatives an accelerator computes at once
_EXACT = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class JointEquations:
    """The normal equations of a `Joint` at work; made by `joint_equations`. It holds arrays: not static.

    Attributes
    ----------
    joint : Joint
    coordinates : Coordinates
        Of the free parameters of the whole set.
    start : dict
        Complete tree, for those that are not free.
    stacks : tuple of Image
        With a leading axis, as all of the following; one a group.
    constants : tuple of dict
        Parameters of the models at the start.
    prepared : tuple of Prepared or None
        None for images whose transforms are parameters.
    """

    joint: Joint
    coordinates: Coordinates
    start: dict
    stacks: tuple
    constants: tuple
    prepared: tuple

    def vectors(self, physical):
        """Parameters of every image's model that are not constant: for each group a (K, p) array."""
        theta = update(self.start, self.coordinates.unflatten(physical))
        images = self.joint.images
        return tuple(_vectors(images, group, theta, physical.dtype) for group in self.joint.groups)

    def function(self, physical, rough):
        """Parameters of all images, and whether pixels are integrated roughly: what `evaluate` starts from."""
        return self.vectors(physical), rough

    def evaluate(self, function, z, loss):
        """Loss and derivatives at internal coordinates; for `lm.step` in place of `normal_equations`.

        Returns
        -------
        Evaluation, or `_Parted` where amplitudes are to be solved for
        """
        _, rough = function(self.coordinates.from_internal(z))
        vectors, jacobians = self._chain(z)
        parts = tuple(_each(*own, rough) for own in zip(*self._groups, vectors, strict=True))
        total = _assembled(parts, jacobians, z.size)
        return _Parted(*total, vectors, parts) if self.joint.linear else total

    @property
    def _groups(self):
        return self.joint.groups, self.stacks, self.prepared, self.constants

    def _chain(self, z):
        """Vectors of all groups, and their derivatives with respect to internal coordinates, each (K, p, P)."""
        physical = self.coordinates.from_internal(z)

        def along(direction):
            return jax.jvp(self.vectors, (physical,), (direction,))

        vectors, columns = jax.vmap(along, out_axes=(None, 0))(jnp.eye(z.size, dtype=z.dtype))
        derivative = self.coordinates.derivative(z, physical)
        return vectors, tuple(jnp.tensordot(c, derivative, axes=(0, 0), precision=_EXACT) for c in columns)

    def terms(self, physical):
        """Summed loss at physical parameters, and what makes minus it a log-likelihood."""
        loss, normalization = jnp.zeros((), physical.dtype), jnp.zeros((), physical.dtype)
        for group, stack, ready, constant, vectors in zip(*self._groups, self.vectors(physical), strict=True):

            def one(items, group=group):
                image, ready, constant, vector = items
                value = _pixels(group, image, ready, constant, None)(vector)
                return jnp.sum(group.likelihood.terms(value, image).loss), group.likelihood.log_normalization(image)

            sums = jax.lax.map(one, (stack, ready, constant, vectors))
            loss, normalization = loss + jnp.sum(sums[0]), normalization + jnp.sum(sums[1])
        return loss, normalization

    @property
    def amplitudes(self):
        """What `lm.step` takes: itself, or None where nothing is solved for."""
        return self if self.joint.linear else None

    def damping(self, damping, size):
        """Marquardt's λ for each parameter: none for those that are solved exactly."""
        return Amplitudes(self.joint.linear, (), False).damping(damping, size)

    def resolve(self, z, new, lower, upper):
        """The point with its linear parameters replaced by the best ones, and the evaluation there.

        The amplitudes of every image follow through the views, and with each of them the derivatives of its component.

        Parameters
        ----------
        z : (P,) array
        new : _Parted
        lower, upper : (P,) arrays
            Bounds.

        Returns
        -------
        z : (P,) array
        new : Evaluation
        """
        at = np.asarray(self.joint.linear)
        bounds = (lower[at], upper[at]) if self.joint.bounded else None
        delta = best_change(z[at], new.hessian[np.ix_(at, at)], new.gradient[at], bounds, z.size)
        trial = z.at[at].add(delta)
        moved, jacobians = self._chain(trial)
        loss, usable, parts = new.loss, jnp.all(jnp.isfinite(delta)), []
        for group, old, vectors, part in zip(self.joint.groups, new.vectors, moved, new.parts, strict=True):
            change, scaled, fine = _rescaled(group, old, vectors, part)
            loss, usable = loss + change, usable & fine
            parts.append(scaled)
        solved = _assembled(parts, jacobians, z.size)._replace(loss=jnp.maximum(loss, 0))
        stays = Evaluation(*new[: len(Evaluation._fields)])
        solved = solved._replace(rounding=stays.rounding, count=stays.count, signal=stays.signal)
        usable &= jnp.isfinite(loss)
        return jnp.where(usable, trial, z), jax.tree.map(lambda a, b: jnp.where(usable, a, b), solved, stays)


class _Parted(NamedTuple):
    """An `Evaluation` with what it was assembled from: parameters and equations of every group."""

    loss: jax.Array
    gradient: jax.Array
    hessian: jax.Array
    rounding: jax.Array
    count: jax.Array  # type: ignore[assignment]  # a tuple's own is not wanted
    signal: jax.Array
    vectors: tuple
    parts: tuple


def joint_equations(joint, coordinates, start, stacks):
    """Prepare all images of a `Joint`.

    Returns
    -------
    JointEquations
    """
    prepared = tuple(
        None if group.free else jax.vmap(partial(prepare, sampling=group.sampling))(stack)
        for group, stack in zip(joint.groups, stacks, strict=True)
    )
    constants = tuple(_inner(joint.images, group, start) for group in joint.groups)
    return JointEquations(joint, coordinates, start, stacks, constants, prepared)


def _inner(images, group, theta):
    """Parameters of the models, without views, of a group's images: a tree with a leading axis."""
    if images.per_image is None:
        trees = [unlinked(images.models[place], images.select(place, theta))[1] for place in group.places]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    model = images.models[0]
    return jax.vmap(lambda place: unlinked(model, images.select(place, theta))[1])(np.asarray(group.places))


def _vectors(images, group, theta, dtype):
    """What is not constant of the parameters of a group's models and transforms: (K, p)."""
    count = len(group.places)
    leaves = dict(leaves_with_names(_inner(images, group, theta)))
    rows = [leaves[path].reshape(count, -1) for path, _ in group.layout.paths]
    if group.free:
        own = [images.leaves(place, theta) for place in group.places]
        rows += [jnp.stack([jnp.ravel(leaf[name]) for leaf in own]) for name, _ in group.free]
    return jnp.concatenate([jnp.zeros((count, 0), dtype), *rows], axis=1)


def _pixels(group, image, ready, constant, rough):
    """Function of one image's vector: what its likelihood judges, for most the pixels drawn."""

    def pixels(vector):
        own, at = ready, group.layout.size
        if group.free:
            leaves = {}
            for name, shape in group.free:
                size = int(np.prod(shape))
                leaves[name], at = vector[at : at + size].reshape(shape), at + size
            own = prepare(with_leaves(image, leaves), group.sampling)
        params = update(constant, group.layout.unflatten(vector[: group.layout.size]))
        return compared(group.likelihood, group.model, params, apply(own, group.model, params, rough), image)

    return pixels


def _each(group, stack, prepared, constants, vectors, rough):
    """Normal equations of every image of a group in its own parameters: an `Evaluation` with a leading axis."""

    def one(items):
        image, ready, constant, vector = items
        loss = partial(group.likelihood.terms, image=image)
        return normal_equations(_pixels(group, image, ready, constant, rough), vector, loss)

    items = (stack, prepared, constants, vectors)
    if len(group.places) == 1:
        alone = one(jax.tree.map(lambda leaf: leaf[0], items))
        return jax.tree.map(lambda leaf: leaf[None], alone)
    # a core has its cache for one image at a time (1.7 times faster at 48²); an accelerator wants many
    return jax.lax.map(one, items, batch_size=None if jax.default_backend() == "cpu" else _TOGETHER)


def _assembled(parts, jacobians, size):
    """The `Evaluation` of the whole set in the shared parameters."""
    gradient, hessian, sums = 0, 0, 0
    for part, jacobian in zip(parts, jacobians, strict=True):
        flat = jacobian.reshape(-1, size)
        weighted = jnp.matmul(part.hessian, jacobian, precision=_EXACT).reshape(-1, size)
        gradient = gradient + jnp.matmul(part.gradient.reshape(-1), flat, precision=_EXACT)
        hessian = hessian + jnp.matmul(flat.T, weighted, precision=_EXACT)
        sums = sums + jnp.stack([jnp.sum(leaf) for leaf in (part.loss, part.rounding, part.count, part.signal)])
    return Evaluation(sums[0], gradient, (hessian + hessian.T) / 2, *sums[1:])


def _rescaled(group, old, new, part):
    """By how much the loss changes with the amplitudes of a group's images, and their equations then."""
    if group.amplitudes is None:
        return jnp.zeros_like(part.loss[0]), part, jnp.ones((), bool)
    at = np.asarray(group.amplitudes.linear)
    delta = new[:, at] - old[:, at]
    step = jnp.einsum("kpa,ka->kp", part.hessian[:, :, at], delta, precision=_EXACT)
    change = jnp.sum((part.gradient[:, at] + 0.5 * step[:, at]) * delta)
    scale = jnp.ones_like(old)
    if group.amplitudes.scales:
        rows, own = np.asarray(group.amplitudes.scales).T
        scale = scale.at[:, rows].set(new[:, own] / jnp.where(old[:, own] == 0, 1, old[:, own]))
    hessian = scale[:, :, None] * part.hessian * scale[:, None, :]
    scaled = part._replace(gradient=scale * (part.gradient + step), hessian=hessian)
    return change, scaled, jnp.all(jnp.abs(scale) < _TRUSTED)
