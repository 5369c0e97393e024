"""Posterior densities of unconstrained parameters: pure functions for other people's samplers and optimisers."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting.bijections import Unbounded
from jaxphot.fitting.problem import Lane, Setup, make_problem
from jaxphot.fitting.stages import data_terms, domain_of, evaluation_of, start_of
from jaxphot.models.combinators import check_model
from jaxphot.parameters import Parameter
from jaxphot.priors import as_priors, bounds_of, log_prior
from jaxphot.pytree import branch, is_concrete, leaves_with_names, pytree, static_field, update
from jaxphot.render import DEFAULT_SAMPLING
from jaxphot.shared import declarations


@pytree
class LogDensity:
    """The log posterior density as a function of an unconstrained pytree; made by `log_density`.

    Its argument is a nested dictionary with the names of the free parameters. Each leaf may be any real number: the
    logarithm of a scale, the two components of the shear −ln q · (cos 2PA, sin 2PA) under ``q`` and ``PA``, and so on,
    with a smooth function of it where there are bounds. These are the coordinates in which `fit` steps.

    Attributes
    ----------
    lane : Lane
        What may be traced: image, fixed parameters, bounds, numbers of the priors.
    setup : Setup
        Static.
    """

    lane: Lane
    setup: Setup = static_field()

    @property
    def names(self):
        """Names of the free scalars, in the order of `fisher` and of ``jax.flatten_util.ravel_pytree``."""
        return self.setup.coordinates.names

    def __call__(self, y):
        """Log density, with the log-Jacobian of the transforms, so that it is one of the unconstrained parameters."""
        coordinates, lane = self.setup.coordinates, self.lane
        vector = self._vector(y)
        inside = self._map.forward(vector)
        physical = coordinates.from_internal(inside)
        loss, normalization = data_terms(self.setup, lane, physical)
        prior = log_prior(lane.priors, update(lane.start, coordinates.unflatten(physical)))
        return normalization - loss + prior + coordinates.log_jacobian(inside) + self._map.log_jacobian(vector)

    def constrain(self, y):
        """Complete tree of physical parameters."""
        coordinates = self.setup.coordinates
        physical = coordinates.from_internal(self._map.forward(self._vector(y)))
        return update(self.lane.start, coordinates.unflatten(physical))

    def unconstrain(self, params):
        """The free parameters of a complete tree as an unconstrained pytree, the argument of this density."""
        own = self.lane._replace(start=params)
        inside = self.setup.coordinates.to_internal(start_of(self.setup, own))
        return self.setup.coordinates.unflatten(self._map.inverse(inside))

    def fisher(self, y):
        """Gauss–Newton matrix (P, P) of −log density: its inverse is the mass matrix (covariance) of a sampler.

        That of the likelihood and the priors; what the Jacobian of the transforms adds is left out.
        """
        vector = self._vector(y)
        hessian = evaluation_of(self.setup, self.lane)(self._map.forward(vector)).hessian
        derivative = jax.jacfwd(self._map.forward)(vector)
        return derivative.T @ hessian @ derivative

    @property
    def _map(self):
        return Unbounded(domain_of(self.setup, self.lane))

    def _vector(self, y):
        names = [name for name, _ in leaves_with_names(y)] if isinstance(y, dict) else type(y).__name__
        wanted = [path for path, _ in self.setup.coordinates.paths]
        if names != wanted:
            raise ValueError(f"y: expected a dictionary with the free parameters {', '.join(wanted)}, got {names}")
        return self.setup.coordinates.flatten(jax.tree.map(jnp.asarray, y), self.lane.dtype)


def log_density(
    model,
    image,
    priors=None,
    *,
    params=None,
    fixed=None,
    bounds=None,
    window=None,
    likelihood=None,
    sampling=DEFAULT_SAMPLING,
):
    """The log posterior density of a model's parameters as a pure function of an unconstrained pytree.

    Parameters
    ----------
    model : model, or dict of model
    image : Image, or dict of Image
    priors : dict or callable, optional
        As for `fit`. A parameter without one has a flat prior, in its physical unit, within its bounds.
    params : dict, optional
        Complete tree: gives values to what ``fixed`` holds by None, and shapes that the model does not declare.
    fixed, bounds, window, likelihood, sampling : optional
        As for `fit`.

    Returns
    -------
    LogDensity
        ``density(y)``, with ``density.unconstrain(params)``, ``density.constrain(y)`` and ``density.fisher(y)``. Pure
        and differentiable; a pytree, so that it may be an argument of one's own jitted functions.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.full((8, 8), 3.0), std=1.0)
    >>> density = log_density(jp.models.flat_sky, image, {"I0": jp.priors.normal(0.0, 10.0)})
    >>> y = density.unconstrain({"I0": 3.0})
    >>> round(float(density(y)), 3)
    -62.079
    """
    if params is None:
        params = _any_params(model, fixed, bounds, priors)
    setup, lane = make_problem(
        model, params, image,
        fixed=fixed, bounds=bounds, window=window, likelihood=likelihood, sampling=sampling,
        max_steps=1, rtol=None, scale_covariance=False, priors=priors,
    )  # fmt: skip
    return LogDensity(lane, setup)


def _any_params(model, fixed, bounds, priors):
    """A tree inside all bounds: a density is the same wherever its free parameters begin."""
    held = [name for name, value in leaves_with_names(fixed or {}) if value is None or value is True]
    for own in model.values() if isinstance(model, dict) else (model,):
        check_model(own)
    declared = declarations(model)
    unknown = [name for name, p in leaves_with_names(declared) if not isinstance(p, Parameter) or -1 in p.shape]
    if held or unknown or not declared:
        why = f"which fixed= holds {', '.join(held)} at" if held else "as the model does not declare all parameters"
        raise ValueError(f"params: expected a complete tree, {why}")
    intervals = {**dict(leaves_with_names(bounds or {})), **bounds_of(as_priors(priors))}
    tree = {}
    for name, parameter in leaves_with_names(declared):
        tree = update(tree, branch(name, _inside(parameter, intervals.get(name))))
    return tree


def _inside(parameter, interval):
    """Some value between a parameter's bounds."""
    usable = isinstance(interval, (tuple, list)) and len(interval) == 2 and is_concrete(interval)
    low, high = (np.asarray(side, np.float64) for side in (interval if usable else parameter.bounds))
    bottom = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 1, parameter.is_logarithmic - 1.0))
    top = np.where(np.isfinite(high), high, bottom + 2)
    return np.broadcast_to((bottom + top) / 2, parameter.shape)
