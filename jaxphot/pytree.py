"""Frozen dataclasses as pytrees, and nested dictionaries of parameters as trees with readable key paths."""

import dataclasses
from collections.abc import Iterator
from typing import dataclass_transform

import jax


def static_field(**kwargs):
    """Mark a dataclass field as part of the pytree's structure (hashable, compared by `jit`) rather than a leaf."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static_field))
def pytree(cls):
    """Make a class a frozen dataclass whose fields are pytree leaves, except those made by `static_field`.

    Equality and hash are by identity: comparing two arrays has no single answer.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    static = [f.name for f in dataclasses.fields(cls) if f.metadata.get("static", False)]
    leaves = [f.name for f in dataclasses.fields(cls) if f.name not in static]
    return jax.tree_util.register_dataclass(cls, data_fields=leaves, meta_fields=static)


def is_concrete(*trees):
    """True where no leaf is a tracer: only then can values be checked."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


_BUILD_OUTSIDE = "builders check values; dataclasses.replace a leaf of what was built outside"


def refuse_tracers(reason=_BUILD_OUTSIDE, /, **arguments):
    """TypeError that names the arguments that have no values, as `jax.jit`, `jax.vmap` or `jax.grad` traces them."""
    trees = {name: value for name, value in arguments.items() if not isinstance(value, Iterator)}
    traced = [name for name, value in trees.items() if not is_concrete(value)]
    if traced:
        raise TypeError(f"{', '.join(traced)}: traced by jax.jit, vmap or grad, so there are no values; {reason}")


def leaves_with_names(tree, prefix=""):
    """Pairs (key path such as ``galaxy.n``, leaf) of a nested dictionary, keys sorted as `jax.tree` sorts them."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    join = f"{prefix}." if prefix else ""
    return [pair for key in sorted(tree) for pair in leaves_with_names(tree[key], f"{join}{key}")]


def update(base, changes):
    """A copy of a nested dictionary with the leaves of another put in; branches that `base` lacks are added."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return {**base, **{key: update(base.get(key), value) for key, value in changes.items()}}


def subtree(tree, names):
    """The leaves of a nested dictionary with the given key paths, nested as they were."""
    pruned = {}
    for name, leaf in leaves_with_names(tree):
        if name in names:
            *branch, key = name.split(".")
            node = pruned
            for part in branch:
                node = node.setdefault(part, {})
            node[key] = leaf
    return pruned


def branch(path, leaf):
    """The nested dictionary of one leaf with a key path such as ``galaxy.n``."""
    for key in reversed(path.split(".")):
        leaf = {key: leaf}
    return leaf
