"""Leaves of transforms by name, however deep they are wrapped."""

import dataclasses
from dataclasses import replace


def _owner(transform, name):
    """Names of the attributes that lead to the part of a transform that has a leaf of a given name."""
    fields = {field.name for field in dataclasses.fields(transform)}
    if name in fields and not name.startswith("crval") and hasattr(getattr(transform, name), "dtype"):
        return ()
    for inner in ("inner", "linear"):
        if inner in fields:
            found = _owner(getattr(transform, inner), name)
            if found is not None:
                return (inner, *found)
    return None


def transform_leaf(transform, name):
    """A leaf of a transform, or of the one that it wraps, by its name.

    Raises
    ------
    ValueError
        There is none; ``crval`` is not one of them, as it only names the plane.
    """
    path = _owner(transform, name)
    if path is None:
        kind = type(transform).__name__
        raise ValueError(f"transform_free: a {kind} transform has no parameter {name!r}, such as crtan or cd")
    for part in path:
        transform = getattr(transform, part)
    return getattr(transform, name)


def with_leaf(transform, name, value):
    """A transform with another value of one of its leaves, or of one of those of the transform that it wraps."""
    path = _owner(transform, name)
    if not path:
        return replace(transform, **{name: value})
    return replace(transform, **{path[0]: with_leaf(getattr(transform, path[0]), name, value)})
