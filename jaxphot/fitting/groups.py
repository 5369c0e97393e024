"""Sets of images sorted into groups that are drawn alike, and which of their parameters depend on which free ones."""

from typing import NamedTuple

import jax
import numpy as np

from jaxphot.fitting.amplitudes import Amplitudes, find_amplitudes
from jaxphot.fitting.coordinates import Coordinates, make_coordinates
from jaxphot.image import stack_images
from jaxphot.image_sets import ImageSet, check_views, unlinked
from jaxphot.pytree import leaves_with_names, update


class Group(NamedTuple):
    """Images of one kind that are drawn by one model. Hashable.

    Attributes
    ----------
    model : model
        Without views.
    layout : Coordinates
        Of those of its parameters that are not constant, as one vector.
    places : tuple of int
        Of the images in the set.
    likelihood : likelihood
    sampling : rule
    free : tuple of (str, shape)
        Leaves of the transforms that are parameters; in the vector they follow the model's.
    amplitudes : Amplitudes or None
        Positions in the vector of the model's separable amplitudes.
    """

    model: object
    layout: Coordinates
    places: tuple
    likelihood: object
    sampling: object
    free: tuple
    amplitudes: Amplitudes | None


class Joint(NamedTuple):
    """What is static in a fit of a set of images. Hashable.

    Attributes
    ----------
    images : ImageSet
    groups : tuple of Group
    linear : tuple of int
        Positions of the free parameters that are solved exactly at every trial.
    bounded : bool
        One of these has bounds.
    """

    images: ImageSet
    groups: tuple
    linear: tuple = ()
    bounded: bool = False

    @property
    def declared(self):
        """Nested `Parameter` of all parameters."""
        return self.images.parameters()


def make_groups(images, theta, image, free, likelihoods, samplings):
    """Sort a set of images into groups.

    Parameters
    ----------
    images : ImageSet
    theta : dict
        Complete tree of parameters.
    image : dict of Image, stack or Image
    free : dict
        The part of theta that is free.
    likelihoods, samplings : sequences
        One an image.

    Returns
    -------
    groups : tuple of Group
    stacks : tuple of Image
        With a leading axis, one a group.
    touched : dict
        For each key path of `free` the set of (number of a group, position in its vector) that depend on it.
    """
    members, leaves = {}, dict(images.free)
    views = check_views(images, theta)
    alike = images.per_image is not None  # all images of a stack
    depends, kind = (_depends(images, 0, theta, free), _kind(image)) if alike else (None, None)
    for place, (model, described) in enumerate(views):
        if not alike:
            depends, kind = _depends(images, place, theta, free), _kind(images.image(image, place))
        constant = tuple(name for name, sources in depends.items() if not sources)
        layout = make_coordinates(described, constant, ())
        key = (model, layout, likelihoods[place], samplings[place], leaves.get(images.keys[place], ()), kind)
        members.setdefault(key, []).append((place, depends))
    groups, stacks, touched = [], [], {name: set() for name, _ in leaves_with_names(free)}
    for number, ((model, layout, likelihood, sampling, names, _), items) in enumerate(members.items()):
        places = [place for place, _ in items]
        stack = _stacked(images, image, places)
        amplitudes = None if names else find_amplitudes(model, layout)
        groups.append(Group(model, layout, tuple(places), likelihood, sampling, names, amplitudes))
        stacks.append(stack)
        for path, where in positions(layout).items():
            for source in set().union(*(depends[path] for _, depends in items)):
                touched[source] |= {(number, position) for position in where}
    return tuple(groups), tuple(stacks), touched


def _depends(images, place, theta, free):
    """For each key path of an image's model the key paths of the free parameters that it may depend on."""

    def own(free):
        params = unlinked(images.models[place], images.select(place, update(theta, free)))[1]
        return [leaf for _, leaf in leaves_with_names(params)]

    params = jax.eval_shape(lambda: unlinked(images.models[place], images.select(place, theta))[1])
    closed = jax.make_jaxpr(own)(free)
    sources = [name for name, _ in leaves_with_names(free)]  # in the order of jax.tree
    found = _sources(closed.jaxpr, [frozenset([name]) for name in sources])
    return {name: own for (name, _), own in zip(leaves_with_names(params), found, strict=True)}


def _sources(jaxpr, of_inputs):
    """What the outputs of a program may depend on, given what its inputs do."""
    nothing = frozenset()
    known = dict(zip(jaxpr.invars, of_inputs, strict=True))

    def of(atom):
        return nothing if hasattr(atom, "val") else known.get(atom, nothing)

    for equation in jaxpr.eqns:
        inputs = [of(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr")
        if equation.primitive.name in ("jit", "pjit") and inner is not None:
            outputs = _sources(inner.jaxpr, inputs)
        else:
            outputs = [nothing.union(*inputs)] * len(equation.outvars)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def positions(layout):
    """Positions of every leaf in the vector."""
    found, first = {}, 0
    for path, shape in layout.paths:
        size = int(np.prod(shape))
        found[path], first = range(first, first + size), first + size
    return found


def separable(groups, touched):
    """Key paths of the free parameters that act on separable amplitudes alone: those that can be solved for exactly."""
    fine = {(g, k) for g, group in enumerate(groups) if group.amplitudes for k in group.amplitudes.linear}
    return {path for path, places in touched.items() if places and places <= fine}


def _kind(image):
    return jax.tree.structure(image), tuple((np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(image))


def _stacked(images, image, places):
    if images.per_image is None:
        return stack_images([images.image(image, place) for place in places])
    return image if len(places) == len(images.keys) else jax.tree.map(lambda leaf: leaf[np.asarray(places)], image)
