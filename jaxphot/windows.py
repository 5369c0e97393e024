"""Where the stamps of a crowded field lie, and how they come into the frame."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.models.combinators import components, kind

_TOGETHER = 256  # copies drawn at a time on an accelerator


def position(model, params):
    """Plane position (2,) of the first component that has a centre.

    Raises
    ------
    ValueError
        None of them has.
    """
    for part, own in components(model, params):
        if kind(part) == "point":
            return part.position_and_flux(own)[0]
        if isinstance(own, dict) and np.shape(own.get("center")) == (2,):
            return own["center"]
    raise ValueError("many: stamps need a parameter `center` (x, y), which the model does not have")


def first_pixels(copies, params, transform, shape):
    """First pixel (i, j) of every copy's stamp: about its centre, but inside the frame; (N, 2) array of int.

    Derivatives do not follow it: a stamp that moves by a pixel only trades light at its edge.
    """
    own, _ = copies.split(params)
    centers = jax.vmap(lambda row: jnp.stack(transform.plane_to_pixel(*position(copies.model, row))))(own)
    (sy, sx), (ny, nx) = copies.stamp, shape
    middle = jnp.asarray([[(sx - 1) / 2, (sy - 1) / 2]], centers.dtype)
    last = jnp.asarray([[max(nx - sx, 0), max(ny - sy, 0)]], centers.dtype)
    first = jnp.round(jax.lax.stop_gradient(centers) - middle)
    return jnp.clip(jnp.nan_to_num(first), 0, last).astype(jnp.int32)


def over_sources(function, rows):
    """A function of each row of a tree: one after another on a CPU, where that is fastest, some together elsewhere."""
    together = None if jax.default_backend() == "cpu" else _TOGETHER
    return jax.lax.map(function, rows, batch_size=together)


def add_stamps(frame, stamps, first):
    """A frame plus (N, sy, sx) stamps whose first pixels (i, j) are given."""

    def add(frame, row):
        stamp, at = row
        old = jax.lax.dynamic_slice(frame, (at[1], at[0]), stamp.shape)
        return jax.lax.dynamic_update_slice(frame, old + stamp, (at[1], at[0])), None

    return jax.lax.scan(add, frame, (stamps, first))[0]


def cut_stamps(frame, first, shape):
    """The parts (N, sy, sx) of a frame in stamps whose first pixels (i, j) are given."""
    return jax.vmap(lambda at: jax.lax.dynamic_slice(frame, (at[1], at[0]), shape))(first)
