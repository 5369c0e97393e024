"""Noise as users give it (variance, std or ivar, and a mask) → inverse variance, checked."""

import warnings

import numpy as np


def inverse_variance(data, variance, std, ivar, mask, dtype):
    """float64 inverse variance, 0 where masked; checked before and after the cast to `dtype`."""
    given = {"variance": variance, "std": std, "ivar": ivar}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: give one of variance, std, ivar")
    good = np.isfinite(data)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != data.shape:
            raise ValueError(f"mask: expected the shape of data, {data.shape}, got {mask.shape}")
        good &= ~mask.astype(bool)
    if not given:
        warnings.warn("no variance, std or ivar given: ivar is 1 everywhere; see estimate_variance", stacklevel=3)
        weights = np.ones(data.shape)
    else:
        ((name, value),) = given.items()
        weights = _to_ivar(name, value, data.shape, good)
    weights = np.where(good, weights, 0.0)
    if not np.any(weights > 0):
        raise ValueError("data: no usable pixel: all are masked, not finite or have ivar 0")
    with np.errstate(over="ignore", under="ignore"):
        cast = weights.astype(dtype, copy=False)
    if not np.all(np.isfinite(cast)) or (cast is not weights and np.any((cast == 0) & (weights > 0))):
        raise ValueError(f"{name}: its inverse variance does not fit into {np.dtype(dtype)}; rescale the data")
    return weights


def _to_ivar(name, value, shape, good):
    """The inverse variance where pixels are good, anything elsewhere; a number stays one."""
    value = np.asarray(value, np.float64)
    if value.shape not in ((), shape):
        raise ValueError(f"{name}: expected a number or the shape of data, {shape}, got {value.shape}")
    allowed = np.isfinite(value) & (value >= 0 if name == "ivar" else value > 0)
    if not np.all(allowed):
        _check_used(name, np.broadcast_to(value, shape), good & ~allowed)
        value = np.where(allowed, value, 1.0)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        return {"ivar": lambda v: v, "variance": lambda v: 1 / v, "std": lambda v: 1 / (v * v)}[name](value)


def _check_used(name, value, bad):
    if np.any(bad):
        j, i = np.argwhere(bad)[0]
        wanted = "finite and not negative" if name == "ivar" else "finite and positive"
        raise ValueError(
            f"{name}: {np.sum(bad)} unmasked pixels are not {wanted}, the first at [j, i] = [{j}, {i}]: {value[j, i]}"
        )
