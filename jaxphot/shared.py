"""Trees of parameters that several images share."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxphot.parameters import Parameter, Partial, parameters
from jaxphot.pytree import is_concrete, leaves_with_names


def declarations(model):
    """What a model, or those of a set of images by name, declare of their parameters."""
    if not isinstance(model, dict):
        return parameters(model)
    return merged_declarations({key: parameters(own) for key, own in model.items()})


def merged_declarations(trees, prefix=""):
    """One description from those of all images; what they say of the same parameter must agree."""
    partial = any(isinstance(tree, Partial) or not tree for tree in trees.values())
    merged = {}
    for name in dict.fromkeys(name for tree in trees.values() for name in tree):
        path = f"{prefix}{name}"
        found = {key: tree[name] for key, tree in trees.items() if name in tree}
        values = list(found.values())
        if all(isinstance(value, dict) for value in values):
            merged[name] = merged_declarations(found, f"{path}.")
        elif all(value == values[0] for value in values):
            merged[name] = values[0]
        else:
            raise ValueError(f"model: {path} is not the same parameter in {' and '.join(found)}")
    return Partial(merged) if partial else merged


def pruned(declared, theta):
    """The part of a tree that a complete description names; all of it where the description is not complete."""
    if not isinstance(theta, dict) or not isinstance(declared, dict) or not declared or isinstance(declared, Partial):
        return theta
    return {key: pruned(child, theta[key]) for key, child in declared.items() if key in theta}


def check_paths(wanted, declared, argument):
    """Key paths of leaves or branches, sorted, that the model has."""
    if isinstance(wanted, str):
        raise TypeError(f"{argument}: expected a sequence of key paths, got the string {wanted!r}")
    for path in wanted:
        node, partial = declared, False
        for key in path.split("."):
            partial |= isinstance(node, Partial) or node == {}
            if not isinstance(node, dict) or (key not in node and not partial):
                known = ", ".join(name for name, _ in leaves_with_names(declared))
                raise ValueError(f"{argument}: unknown {path}; the model has {known}")
            node = node.get(key, {})
    return tuple(sorted(set(wanted)))


def is_below(name, paths):
    """A key path is one of those given or in a branch that is."""
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _mapped(function, tree, prefix=""):
    """function(key path, leaf) of all leaves of a nested dictionary."""
    if not isinstance(tree, dict):
        return function(prefix, tree)
    join = f"{prefix}." if prefix else ""
    children = {key: _mapped(function, child, f"{join}{key}") for key, child in tree.items()}
    return Partial(children) if isinstance(tree, Partial) else children


def with_axis(declared, paths, count):
    """A description whose leaves at or below some key paths have a leading axis of images."""

    def one(name, parameter):
        return replace(parameter, shape=(count, *parameter.shape)) if is_below(name, paths) else parameter

    return _mapped(one, declared)


def broadcast_leaves(params, paths, count, declared):
    """Leaves that are given once for all images, repeated."""
    shapes = {name: p.shape for name, p in leaves_with_names(declared) if isinstance(p, Parameter)}

    def one(name, leaf):
        if not is_below(name, paths) or np.ndim(leaf) > len(shapes.get(name, np.shape(leaf)[1:])):
            return leaf
        return (np if is_concrete(leaf) else jnp).broadcast_to(leaf, (count, *np.shape(leaf)))

    return _mapped(one, params)


def row(theta, paths, place):
    """The parameters of one image of a stack."""
    return _mapped(lambda name, leaf: leaf[place] if is_below(name, paths) else leaf, theta)


def average(trees, weights, declared):
    """One tree from those of several images, of which each may have only a part of the leaves.

    Values are averaged in the coordinate in which a fit steps, position angles modulo π.

    Parameters
    ----------
    trees : sequence of dict
    weights : sequence of float
    declared : dict
        Nested `Parameter`; what it does not name is averaged as it is.
    """
    merged, flat = {}, [dict(leaves_with_names(tree)) for tree in trees]
    described = dict(leaves_with_names(declared))
    for name in dict.fromkeys(name for leaves in flat for name in leaves):
        found = [(leaves[name], weight) for leaves, weight in zip(flat, weights, strict=True) if name in leaves]
        values = np.stack([np.asarray(value, np.float64) for value, _ in found])
        *branch, key = name.split(".")
        node = merged
        for part in branch:
            node = node.setdefault(part, {})
        node[key] = _average(values, np.asarray([weight for _, weight in found]), described.get(name, Parameter()))
    return merged


def _average(values, weights, parameter):
    parameter = parameter if isinstance(parameter, Parameter) else Parameter()
    if parameter.coordinate == "angle":
        return 0.5 * np.angle(np.average(np.exp(2j * values), axis=0, weights=weights)) % np.pi
    positive = parameter.is_logarithmic and np.all(values > 0)
    mean = np.average(np.log(values) if positive else values, axis=0, weights=weights)
    return np.exp(mean) if positive else mean
