"""Building models from functions and models from models.

A model is called ``model(params, x, y) → flux/arcsec²``, is hashable and holds no arrays. Everything here hashes by the
value of its parts: rebuilding ``scene(galaxy=radial(profiles.sersic))`` compiles nothing anew. A function hashes by
identity, so defining a function or lambda again compiles once more.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxphot.models.metrics import ellipse, own_parameters
from jaxphot.parameters import Parameter, Partial, check_params, keyword_parameters, parameters


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
        of_metric = own_parameters(params, self.metric)
        of_profile = own_parameters(params, self.profile)
        brightness = self.profile(self.metric(x, y, **of_metric), **of_profile)
        area = getattr(self.metric, "area", None)
        return brightness if area is None or "flux" not in of_profile else brightness / area(**of_metric)


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
        values = [model(own, x, y) for model, own in pairs if _has_brightness(model)]
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
        check_part(name, model)
    return Scene(tuple(parts.items()))


@dataclass(frozen=True)
class Linked:
    """A model seen through other parameters; made by `linked`."""

    model: Callable
    view: Callable
    described: tuple
    inverse: Callable | None

    def parameters(self):
        """What is known of the view's parameters: those that are not named are unbounded."""
        return Partial(_thaw(self.described))

    def params(self, theta):
        """The model's own parameters."""
        dtype = jnp.result_type(float, *jax.tree.leaves(theta))
        return check_params(parameters(self.model), self.view(theta), dtype)

    def components(self, theta):
        """Those of the model."""
        return components(self.model, self.params(theta))

    def __call__(self, theta, x, y):
        """Brightness (flux/arcsec²) at plane positions x, y (arcsec)."""
        return self.model(self.params(theta), x, y)


def linked(model, view, parameters=None, inverse=None):
    """A model with other parameters: shared, tied or transformed ones, said in Python.

    Parameters
    ----------
    model : model
    view : callable
        ``view(theta) → params`` of the model, in jax.numpy. A lambda made anew compiles anew.
    parameters : dict, optional
        Nested `Parameter` of theta's leaves; those that are not named are unbounded, step as they are, and may have any
        shape.
    inverse : callable, optional
        ``inverse(params) → theta``; `initialize` needs it.

    Returns
    -------
    Linked

    Examples
    --------
    A bulge and a disk about one centre:

    >>> import jax.numpy as jnp, jaxphot as jp
    >>> galaxy = jp.scene(bulge=jp.models.sersic, disk=jp.models.exponential)
    >>> def one_centre(theta):
    ...     return {name: {**theta[name], "center": theta["center"]} for name in ("bulge", "disk")}
    >>> model = linked(galaxy, one_centre)
    >>> shape = {"q": 0.7, "PA": 0.3, "Re": 2.0, "Ie": 1.0}
    >>> theta = {"center": jnp.zeros(2), "bulge": {**shape, "n": 4.0}, "disk": shape}
    >>> float(jp.render(model, theta, jp.make_image(jnp.zeros((9, 9)), std=1.0)).sum()) > 0
    True
    """
    check_part("linked", model)
    for name, function in (("view", view), ("inverse", inverse)):
        if not callable(function) and (name, function) != ("inverse", None):
            raise TypeError(f"linked: {name}: expected a function, got {type(function).__name__}")
    return Linked(model, view, _freeze({} if parameters is None else parameters), inverse)


def _freeze(tree):
    """A dictionary as nested tuples, which are hashable."""
    if isinstance(tree, dict):
        return tuple((name, _freeze(child)) for name, child in tree.items())
    if not isinstance(tree, Parameter):
        raise TypeError(f"linked: parameters: expected Parameter in nested dictionaries, got {type(tree).__name__}")
    return tree


def _thaw(tree):
    return tree if isinstance(tree, Parameter) else {name: _thaw(child) for name, child in tree}


def check_part(name, model):
    """Refuse a part of a combination that is no model."""
    if not callable(model):
        raise TypeError(f"{name}: expected a model such as jp.models.sersic, got {type(model).__name__}")


def components(model, params):
    """Flatten a model into (model, its params) pairs that are not combinations."""
    own = getattr(model, "components", None)
    return own(params) if own else [(model, params)]


def kind(model):
    """One of extended (convolved), point, background (not convolved), stamped, psf (seen through by others), noise."""
    return getattr(model, "kind", "extended")


def _has_brightness(model):
    """Whether a model can be called: no point source, nor copies of one, nor a PSF."""
    return kind(getattr(model, "model", model)) not in ("point", "psf")


def check_model(model):
    """Refuse what cannot be called as a model, with a hint at what was meant."""
    if isinstance(model, dict):
        raise TypeError(
            "model: expected a model, got a dictionary: sets of images are for fit, fit_batch, initialize,"
            " log_likelihood, log_density and laplace; here, take one image at a time, as separate gives them"
        )
    if not callable(model):
        raise TypeError(f"model: expected a model such as jp.models.sersic, got {type(model).__name__}")
    if not hasattr(model, "kind") and not hasattr(model, "components") and keyword_parameters(model):
        name = getattr(model, "__name__", repr(model))
        first = next(iter(inspect.signature(model).parameters), "")
        maker = "radial" if first == "r" else "extended"
        raise TypeError(f"model: {name} is a plain function with keyword parameters; wrap it: {maker}({name})")
