"""Priors of parameters: log densities that are values, for maximum a posteriori fits and samplers alike.

Any function of a parameter's value that returns the logarithm of a density is a prior too, and any function of the
whole tree of parameters. Densities are those of the physical parameters, whatever coordinates a solver steps in.
"""

from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.pytree import is_concrete, leaves_with_names


def _prior(cls):
    """A frozen dataclass that hashes by value and whose numbers are pytree leaves, so that they may be traced."""
    cls = dataclass(frozen=True)(cls)
    return jax.tree_util.register_dataclass(cls, data_fields=[field.name for field in fields(cls)], meta_fields=[])


@_prior
class Normal:
    """Made by `normal`."""

    mean: object
    std: object

    def relative(self, value):
        """Log density less that at the mode."""
        return -0.5 * jnp.sum(((value - _array(self.mean, value)) / _array(self.std, value)) ** 2)

    def __call__(self, value):
        """Log density."""
        std = jnp.broadcast_to(_array(self.std, value), jnp.shape(value))
        return self.relative(value) - jnp.sum(jnp.log(std * np.sqrt(2 * np.pi).item()))


@_prior
class LogNormal:
    """Made by `lognormal`."""

    median: object
    sigma: object

    def relative(self, value):
        """Log density less that at the mode."""
        sigma = _array(self.sigma, value)
        logarithm = jnp.log(value / _array(self.median, value))
        return -0.5 * jnp.sum((logarithm / sigma + sigma) ** 2)

    def __call__(self, value):
        """Log density."""
        sigma = jnp.broadcast_to(_array(self.sigma, value), jnp.shape(value))
        peak = 0.5 * sigma**2 - jnp.log(_array(self.median, value) * sigma * np.sqrt(2 * np.pi).item())
        return self.relative(value) + jnp.sum(peak)


@_prior
class Uniform:
    """Made by `uniform`."""

    low: object
    high: object

    @property
    def bounds(self):
        """(low, high)."""
        return self.low, self.high

    def relative(self, value):
        """Zero: solvers and samplers keep to the bounds by themselves."""
        return jnp.zeros((), jnp.result_type(value, float))

    def height(self, value):
        """Log density inside."""
        width = _array(self.high, value) - _array(self.low, value)
        return -jnp.sum(jnp.broadcast_to(jnp.log(width), jnp.shape(value)))

    def __call__(self, value):
        """Log density."""
        inside = jnp.all((value >= _array(self.low, value)) & (value <= _array(self.high, value)))
        return jnp.where(inside, self.height(value), -jnp.inf)


@_prior
class VonMises:
    """Made by `von_mises`."""

    mean: object
    std: object

    def relative(self, value):
        """Log density less that at the mode."""
        kappa = 0.25 / _array(self.std, value) ** 2
        return -2 * jnp.sum(kappa * jnp.sin(value - _array(self.mean, value)) ** 2)

    def __call__(self, value):
        """Log density."""
        kappa = jnp.broadcast_to(0.25 / _array(self.std, value) ** 2, jnp.shape(value))
        return self.relative(value) - jnp.sum(jnp.log(np.pi * jax.scipy.special.i0e(kappa)))


def normal(mean, std):
    """Gaussian prior.

    Parameters
    ----------
    mean, std : float or array
        Of the parameter's shape, in its unit.

    Examples
    --------
    >>> round(float(normal(2.0, 0.5)(2.5)), 4)
    -0.7258
    """
    return Normal(_value("mean", mean), _value("std", std, above=0))


def lognormal(median, sigma):
    """Prior of a positive parameter whose natural logarithm is Gaussian.

    Parameters
    ----------
    median : float or array
    sigma : float or array
        Standard deviation of the logarithm.

    Examples
    --------
    >>> round(float(lognormal(2.0, 0.5)(2.0)), 4)
    -0.9189
    """
    return LogNormal(_value("median", median, above=0), _value("sigma", sigma, above=0))


def uniform(low, high):
    """The same density everywhere between two values; in a fit these are bounds.

    Examples
    --------
    >>> round(float(uniform(1.0, 3.0)(2.0)), 4)
    -0.6931
    """
    low, high = _value("low", low), _value("high", high)
    if is_concrete(low, high) and not np.all(np.asarray(low) < np.asarray(high)):
        raise ValueError(f"uniform: expected low < high, got {low!r} and {high!r}")
    return Uniform(low, high)


def von_mises(mean, std):
    """Prior of an axis, such as a position angle: density ∝ exp(κ cos 2(value − mean)) over a period π.

    Parameters
    ----------
    mean : float
        Radians.
    std : float
        Of a narrow one (κ = 1/(4 std²)); a large one is uniform.

    Examples
    --------
    >>> prior = von_mises(0.1, 0.2)
    >>> bool(abs(prior(0.3) - prior(0.3 + 3.14159265358979)) < 1e-5)
    True
    """
    return VonMises(_value("mean", mean), _value("std", std, above=0))


def _value(name, value, above=-np.inf):
    """A number, nested tuples of them, which hash, or a traced array."""
    if not is_concrete(value):
        return value
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number or an array, got {type(value).__name__}") from None
    if not np.all(np.isfinite(numbers)) or not np.all(numbers > above):
        raise ValueError(f"{name}: expected finite numbers{f' > {above}' if above == 0 else ''}, got {value!r}")
    return _nested(numbers.tolist())


def _nested(numbers):
    return tuple(map(_nested, numbers)) if isinstance(numbers, list) else numbers


def _array(number, value):
    return jnp.asarray(number, jnp.result_type(value, float))


def as_priors(priors):
    """Pairs (key path, prior), hashable where the priors' numbers are concrete; the path of one on all is empty.

    Parameters
    ----------
    priors : dict, callable or None
        A partial tree of parameters with a prior at each leaf, or a function of the whole tree.

    Raises
    ------
    TypeError
        A leaf that cannot be called.
    """
    if priors is None:
        return ()
    if isinstance(priors, tuple):
        return priors
    if callable(priors):
        return (("", priors),)
    if not isinstance(priors, dict):
        raise TypeError(f"priors: expected a partial tree of them or one function, got {type(priors).__name__}")
    pairs = tuple(leaves_with_names(priors))
    for name, prior in pairs:
        if not callable(prior) or isinstance(prior, type) or prior in (normal, lognormal, uniform, von_mises):
            raise TypeError(f"priors: {name} expects one such as priors.normal(1.0, 0.2), got {prior!r}")
    return pairs


def bounds_of(pairs):
    """The intervals of uniform priors, by key path."""
    return {name: prior.bounds for name, prior in pairs if isinstance(prior, Uniform)}


def as_pytree(pairs, dtype):
    """Dictionary of priors by key path, whose numbers are leaves of the given dtype and whose functions are static."""
    return {name: _cast(prior, dtype) if _is_own(prior) else jax.tree_util.Partial(prior) for name, prior in pairs}


def _cast(prior, dtype):
    numbers = {field.name: getattr(prior, field.name) for field in fields(prior)}
    return replace(
        prior,
        **{
            name: np.asarray(number, dtype) if is_concrete(number) else jnp.asarray(number, dtype)
            for name, number in numbers.items()
        },
    )


def _is_own(prior):
    return isinstance(prior, (Normal, LogNormal, Uniform, VonMises))


def log_prior(priors, params, *, relative=False):
    """Sum of the log densities of parameters that are inside the bounds of uniform priors.

    Parameters
    ----------
    priors : dict
        By key path.
    params : dict
        Complete tree.
    relative : bool
        Leave constants out: at most 0 for the priors of this module.
    """
    total = jnp.zeros((), jnp.result_type(float, *jax.tree.leaves(params)))
    leaves = dict(leaves_with_names(params))
    for name, prior in priors.items():
        function = prior
        if relative:
            function = getattr(prior, "relative", prior)
        elif isinstance(prior, Uniform):
            function = prior.height
        total = total + jnp.sum(function(leaves[name] if name else params)).astype(total.dtype)
    return total
