"""Building models from functions and models from models.

A model is called ``model(params, x, y) → flux/arcsec²``, is hashable and holds no arrays. Everything here hashes by the
value of its parts: rebuilding ``scene(galaxy=radial(profiles.sersic))`` compiles nothing anew. A function hashes by
identity, so defining a function or lambda again compiles once more.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from jaxphot.models.metrics import ellipse
from jaxphot.parameters import keyword_parameters, parameters


@dataclass(frozen=True)
class Radial:
    """Brightness that depends on a radius alone; made by `radial`."""

    profile: Callable
    metric: Callable
    kind = "extended"

    def parameters(self):
        """Parameters of the metric and the profile."""
        return {**keyword_parameters(self.metric), **keyword_parameters(self.profile)}

    def __call__(self, params, x, y):
        """Brightness (flux/arcsec²) at plane positions x, y (arcsec)."""
        of_metric = _pick(params, self.metric)
        of_profile = _pick(params, self.profile)
        brightness = self.profile(self.metric(x, y, **of_metric), **of_profile)
        if "flux" in of_profile and hasattr(self.metric, "area"):
            brightness = brightness / self.metric.area(**of_metric)
        return brightness


def radial(profile, metric=ellipse):
    """Join a profile (of radius) and a metric (from the plane to a radius) into a model.

    Parameters
    ----------
    profile : callable
        ``profile(r, *, …) → flux/arcsec²``; its keyword-only arguments are parameters.
    metric : callable
        ``metric(x, y, *, …) → r``.

    Returns
    -------
    Radial

    Raises
    ------
    ValueError
        Both have a parameter of the same name.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> def king(r, *, Rc, I0):
    ...     return I0 / (1 + (r / Rc) ** 2)
    >>> model = radial(king)
    >>> params = {"center": jnp.zeros(2), "q": 1.0, "PA": 0.0, "Rc": 2.0, "I0": 8.0}
    >>> float(model(params, 0.0, 2.0))
    4.0
    """
    for name, function in (("profile", profile), ("metric", metric)):
        if not callable(function):
            raise TypeError(f"{name}: expected a function, got {type(function).__name__}")
    shared = set(keyword_parameters(profile)) & set(keyword_parameters(metric))
    if shared:
        raise ValueError(f"profile and metric both have a parameter called {', '.join(sorted(shared))}")
    return Radial(profile, metric)


def _pick(params, function):
    return {name: params[name] for name in keyword_parameters(function)}


@dataclass(frozen=True)
class Component:
    """A user's own function as a model of a given kind; made by `extended`, `background` or `point`."""

    function: Callable
    kind: str

    def parameters(self):
        """Its keyword-only arguments; {} for a function of a parameter dictionary, which declares nothing."""
        return keyword_parameters(self.function)

    def __call__(self, params, x, y):
        """Brightness (flux/arcsec²) at plane positions x, y (arcsec)."""
        if self.kind == "point":
            raise TypeError("a point source has no brightness to call; jaxphot.render draws it with the image's PSF")
        return self._evaluate(params, x, y)

    def position_and_flux(self, params):
        """(center, flux) of a point source."""
        return self._evaluate(params)

    def _evaluate(self, params, *coordinates):
        if keyword_parameters(self.function):
            return self.function(*coordinates, **params)
        return self.function(params, *coordinates)


def extended(function):
    """A model from ``f(x, y, *, …)`` or ``f(params, x, y)``: brightness in flux/arcsec², convolved with the PSF."""
    return Component(function, "extended")


def background(function):
    """A model from ``f(x, y, *, …)`` or ``f(params, x, y)``: brightness in flux/arcsec², not convolved with the PSF."""
    return Component(function, "background")


def point(function):
    """A model from ``f(*, …)`` or ``f(params)`` that returns (center, flux) of a point source."""
    return Component(function, "point")


@dataclass(frozen=True)
class Scene:
    """The sum of named models; made by `scene`."""

    parts: tuple

    def parameters(self):
        """Nested by the parts' names."""
        return {name: parameters(model) for name, model in self.parts}

    def components(self, params):
        """Every (model, its params) that is not itself a combination."""
        return [pair for name, model in self.parts for pair in components(model, params[name])]

    def __call__(self, params, x, y):
        """Summed brightness (flux/arcsec²) of all parts but point sources."""
        pairs = self.components(params)
        values = [model(own, x, y) for model, own in pairs if kind(model) != "point"]
        return sum(values[1:], values[0]) if values else 0 * (x + y)


def scene(**parts):
    """The sum of models, each with its parameters under its own name; scenes nest.

    Returns
    -------
    Scene

    Examples
    --------
    >>> import jaxphot as jp
    >>> model = scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
    >>> list(jp.parameters(model)["sky"])
    ['I0']
    """
    if not parts:
        raise ValueError("scene: expected at least one part, such as scene(galaxy=jp.models.sersic)")
    for name, model in parts.items():
        if not callable(model):
            raise TypeError(f"{name}: expected a model such as jp.models.sersic, got {type(model).__name__}")
    return Scene(tuple(parts.items()))


def components(model, params):
    """Flatten a model into (model, its params) pairs that are not combinations."""
    own = getattr(model, "components", None)
    return own(params) if own else [(model, params)]


def kind(model):
    """One of extended (convolved), point, background (not convolved)."""
    return getattr(model, "kind", "extended")


def check_model(model):
    """Refuse what cannot be called as a model, with a hint at what was meant."""
    if not callable(model):
        raise TypeError(f"model: expected a model such as jp.models.sersic, got {type(model).__name__}")
    if not hasattr(model, "kind") and not hasattr(model, "components") and keyword_parameters(model):
        name = getattr(model, "__name__", repr(model))
        first = next(iter(inspect.signature(model).parameters), "")
        maker = "radial" if first == "r" else "extended"
        raise TypeError(f"model: {name} is a plain function with keyword parameters; wrap it: {maker}({name})")
