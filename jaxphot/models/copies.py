"""Many copies of one model: stars and galaxies of a field."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.models.combinators import check_part, components
from jaxphot.parameters import Parameter, parameters
from jaxphot.pytree import is_concrete, leaves_with_names


@dataclass(frozen=True)
class Many:
    """Copies of a model, summed; made by `many`."""

    model: Callable
    stamp: tuple | None = None
    padded: bool = False

    @property
    def kind(self):
        """`stamped`: drawn by `render` as a whole, each copy in its own stamp."""
        return "extended" if self.stamp is None else "stamped"

    def parameters(self):
        """The model's, with a leading axis of any length."""
        return _with_axis(parameters(self.model)) | ({"valid": _VALID} if self.padded else {})

    def split(self, params):
        """Parameters of the model itself, and (N,) bools: which rows are sources."""
        own = {key: value for key, value in params.items() if key != "valid"} if self.padded else params
        valid = params["valid"] > 0 if self.padded else np.ones(self._count(own), bool)
        return own, valid

    def components(self, params):
        """Those of every copy; in stamps, they stay together."""
        if self.stamp is not None:
            self._count(params)
            return [(self, params)]
        rows = (jax.tree.map(lambda leaf, k=k: leaf[k], params) for k in range(self._count(params)))
        return [pair for own in rows for pair in components(self.model, own)]

    def _count(self, params):
        lengths = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(params)}
        if len(lengths) != 1 or None in lengths:
            found = ", ".join(f"{name} {np.shape(leaf)}" for name, leaf in leaves_with_names(params))
            raise ValueError(f"many: expected params with one leading axis, as long as there are copies, got {found}")
        return lengths.pop()

    def __call__(self, params, x, y):
        """Summed brightness (flux/arcsec²) of all copies."""
        own, valid = self.split(params)
        brightness = jax.vmap(lambda one: self.model(one, x, y))(own)
        return jnp.sum(jnp.where(valid.reshape(-1, *[1] * (brightness.ndim - 1)), brightness, 0), axis=0)


_VALID = Parameter(
    "", (0.0, 1.0), (-1,), "1 where the row is a source, 0 where it only fills up", coordinate="constant"
)


def _with_axis(declared):
    if isinstance(declared, Parameter):
        return replace(declared, shape=(-1, *declared.shape))
    return {name: _with_axis(child) for name, child in declared.items()}


def many(model, stamp=None, *, padded=False):
    """A number of copies of one model, each with its own parameters, summed.

    Every parameter has a leading axis; its length says how many copies there are. Without `stamp`, `render` draws them
    one by one over the whole frame, so that compiling takes the longer the more there are. With it, one compiled
    program draws each copy in its own stamp: cost grows with their number times the stamp, not with the frame, and a
    fit assembles its normal equations from stamps that overlap.

    Parameters
    ----------
    model : model
    stamp : int or (int, int), optional
        Side, or (ny, nx), in pixels, of the part of the frame about its centre in which a copy is drawn; its light
        beyond is left out. At the frame's edge the stamp is moved inside. Copies of different sizes are best kept in
        several `many`, each with its own stamp.
    padded : bool
        There is a parameter ``valid`` (N,): 1 where a row is a source, 0 where it only fills up and draws nothing,
        so that fields with different numbers of sources share one compiled program (see `pad_sources`). It is never
        fitted.

    Returns
    -------
    Many

    Raises
    ------
    ValueError
        A stamp that is no positive integer or pair of them; `padded` without a stamp.

    Examples
    --------
    >>> import jaxphot as jp
    >>> stars = many(jp.models.point_source, stamp=25)
    >>> jp.parameters(stars)["center"].shape  # (N, 2)
    (-1, 2)
    """
    check_part("many", model)
    if stamp is None and padded:
        raise ValueError("many: padded=True needs a stamp: copies over the whole frame are compiled one by one")
    return Many(model, None if stamp is None else _check_stamp(stamp), bool(padded))


def _check_stamp(stamp):
    sides = stamp if isinstance(stamp, tuple | list) else (stamp, stamp)
    if len(sides) != 2 or any(isinstance(side, bool) or side != int(side) or side < 1 for side in sides):
        raise ValueError(f"stamp: expected a positive integer or a pair (ny, nx) of them, got {stamp!r}")
    return tuple(int(side) for side in sides)


def pad_sources(params, count):
    """Rows added to the parameters of a `many` that is `padded`, so that fields of all sizes have the same shapes.

    Parameters
    ----------
    params : dict
        With a leading axis of N on every leaf; ``valid`` may be missing, and then all of them are.
    count : int
        Rows wanted, at least N and 1.

    Returns
    -------
    dict
        The last row is repeated, as not valid. Leaves are NumPy arrays.

    Examples
    --------
    >>> import numpy as np
    >>> padded = pad_sources({"center": np.zeros((2, 2)), "flux": np.ones(2)}, 4)
    >>> padded["center"].shape, padded["valid"].tolist()
    ((4, 2), [1.0, 1.0, 0.0, 0.0])
    """
    lengths = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(params)}
    if len(lengths) != 1 or not 0 < max(lengths) <= count:
        raise ValueError(
            f"params: expected leaves with one leading axis, from 1 to {count} long, got {sorted(lengths)}"
        )
    size = lengths.pop()
    dtypes = [getattr(leaf, "dtype", np.float64) for leaf in jax.tree.leaves(params)]
    params = {"valid": np.ones(size, np.result_type(np.float32, *dtypes)), **params}
    rows = np.minimum(np.arange(count), size - 1)
    padded = jax.tree.map(lambda leaf: (np if is_concrete(leaf) else jnp).asarray(leaf)[rows], params)
    where = (np if is_concrete(padded["valid"]) else jnp).where
    return {**padded, "valid": where(np.arange(count) < size, padded["valid"], 0.0)}
