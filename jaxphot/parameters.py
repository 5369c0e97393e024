"""The vocabulary of parameters: what `n`, `Re` or `PA` mean, their units, bounds and internal coordinates.

A profile or metric is a plain function whose keyword-only arguments are its parameters, annotated with the names made
here: ``def sersic(r, *, n: SersicIndex, Re: Radius, Ie: Intensity)``.
"""

import functools
import inspect
import typing
from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

INF = float("inf")


@dataclass(frozen=True)
class Parameter:
    """What there is to know of one parameter; it holds no value.

    Attributes
    ----------
    unit : str
        As astropy spells it; ``flux`` stands for the image's own unit of data.
    bounds : (float, float)
        Lowest and highest value a fit may reach.
    shape : tuple of int
        () for a scalar, (2,) for a position; −1 for a length that the parameters' values decide.
    description : str
        One line for tables and error messages.
    linear : bool
        The model's brightness is proportional to it (an amplitude): signed, never logarithmic.
    coordinate : {"identity", "log", "ratio", "angle", "constant"}
        The coordinate in which a fit steps: `log` for a positive scale; what is `constant` is never fitted. A `ratio`
        and an `angle` side by side (q and PA) step together as the shear (η₁, η₂) = −ln q · (cos 2PA, sin 2PA) where
        both are free; else the ratio steps in its logarithm.
    """

    unit: str = ""
    bounds: tuple[float, float] = (-INF, INF)
    shape: tuple[int, ...] = ()
    description: str = ""
    linear: bool = False
    coordinate: str = "identity"

    @property
    def is_logarithmic(self):
        """True where the internal coordinate is the logarithm: positive scales, and q when it steps alone."""
        return self.coordinate in ("log", "ratio")

    def to_internal(self, value):
        """The coordinate in which solvers step and samplers move (of this parameter alone, not of a shear pair)."""
        return jnp.log(value) if self.is_logarithmic else jnp.asarray(value)

    def from_internal(self, value):
        """The inverse of `to_internal`."""
        return jnp.exp(value) if self.is_logarithmic else jnp.asarray(value)

    def log_jacobian(self, value):
        """``log |d physical / d internal|`` at an internal value, summed: it turns a density into the other."""
        return jnp.sum(value) if self.is_logarithmic else jnp.zeros((), jnp.result_type(value, float))


class Partial(dict):
    """A description of parameters that need not be complete: those that it does not name are unbounded."""


Center = Annotated[jax.Array, Parameter("arcsec", shape=(2,), description="position (x, y) in the tangent plane")]
AxisRatio = Annotated[
    jax.Array,
    Parameter("", (0.01, 1.0), description="axis ratio b/a", coordinate="ratio"),
]
PositionAngle = Annotated[
    jax.Array,
    Parameter("rad", description="position angle of the major axis, East of North", coordinate="angle"),
]
SersicIndex = Annotated[jax.Array, Parameter("", (0.1, 12.0), description="Sérsic index", coordinate="log")]
MoffatIndex = Annotated[jax.Array, Parameter("", (0.5, 100.0), description="Moffat's β", coordinate="log")]
Radius = Annotated[
    jax.Array,
    Parameter("arcsec", (0.0, INF), description="radius along the major axis", coordinate="log"),
]
Intensity = Annotated[jax.Array, Parameter("flux / arcsec2", description="surface brightness", linear=True)]
Flux = Annotated[jax.Array, Parameter("flux", description="total flux", linear=True)]
Length = Annotated[jax.Array, Parameter("arcsec", (0.0, INF), description="length", coordinate="log")]
EulerAngle = Annotated[jax.Array, Parameter("rad", description="Euler angle", coordinate="angle")]
Weight = Annotated[jax.Array, Parameter("", description="weight of an image", linear=True)]
Template = Annotated[jax.Array, Parameter("flux / arcsec2", description="image that is weighted")]
Gradient = Annotated[
    jax.Array,
    Parameter("flux / arcsec3", shape=(2,), description="gradient of surface brightness (x, y)", linear=True),
]
Boxiness = Annotated[
    jax.Array,
    Parameter("", (-1.5, 10.0), description="C0 of a superellipse: > 0 boxy, < 0 disky"),
]
KingSharpness = Annotated[
    jax.Array, Parameter("", (0.1, 20.0), description="exponent of a King profile, classically 2", coordinate="log")
]
FerrerAlpha = Annotated[
    jax.Array, Parameter("", (0.05, 50.0), description="sharpness of a Ferrer profile's edge", coordinate="log")
]
FerrerBeta = Annotated[jax.Array, Parameter("", (-10.0, 1.95), description="central slope of a Ferrer profile")]
Transition = Annotated[
    jax.Array,
    Parameter("", (0.05, 100.0), description="sharpness of the transition at the break", coordinate="log"),
]
InnerSlope = Annotated[jax.Array, Parameter("", (-2.0, 1.95), description="inner power-law slope, −d ln I/d ln r")]
OuterSlope = Annotated[jax.Array, Parameter("", (0.0, 50.0), description="outer power-law slope, −d ln I/d ln r")]
BreakSharpness = Annotated[
    jax.Array,
    Parameter("1 / arcsec", (1e-3, 1e3), description="sharpness of the break", coordinate="log"),
]
WindingSlope = Annotated[
    jax.Array, Parameter("", (-5.0, 5.0), description="power with which winding grows with radius")
]
NoiseFraction = Annotated[
    jax.Array, Parameter("", (1e-4, 1.0), description="systematic error ÷ model", coordinate="log")
]
Angle = Annotated[jax.Array, Parameter("rad", description="angle")]
SideRatio = Annotated[
    jax.Array, Parameter("", (1e-2, 1e2), description="width of a ring inside ÷ outside", coordinate="log")
]
Inclination = Annotated[
    jax.Array,
    Parameter("rad", (0.0, 1.5707963267948966), description="inclination, 0 face-on, π/2 edge-on"),
]


def vector(alias, *shape):
    """The `Parameter` of an array whose entries are each what an alias such as `Radius` says.

    Examples
    --------
    >>> vector(Flux, 3).shape
    (3,)
    """
    return replace(next(iter(alias.__metadata__)), shape=shape)


def keyword_parameters(function):
    """Parameters of a profile or metric: its keyword-only arguments, with their annotations' `Parameter` if any.

    What is made by a function with static settings (`metrics.fourier`, `profiles.spline`) says them itself, by a
    method ``parameters()``.

    Returns
    -------
    dict of Parameter
        An argument without annotation is a dimensionless unbounded scalar.
    """
    if callable(getattr(function, "parameters", None)):
        return function.parameters()
    return dict(_keywords_of_function(function) if inspect.isfunction(function) else _keywords(function))


def _keywords(function):
    signature = inspect.signature(function)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (AttributeError, NameError, TypeError):  # an annotation that names something out of reach says no unit
        hints = {}
    return {
        name: _from_annotation(hints.get(name))
        for name, argument in signature.parameters.items()
        if argument.kind is inspect.Parameter.KEYWORD_ONLY
    }


_keywords_of_function = functools.lru_cache(maxsize=1024)(_keywords)  # asked for at every trace and every start


def _from_annotation(annotation):
    metadata = getattr(annotation, "__metadata__", ())
    return next((item for item in metadata if isinstance(item, Parameter)), Parameter())


def parameters(model):
    """Every parameter of a model, with units and bounds.

    Parameters
    ----------
    model : model
        Anything made by `radial`, `scene`, … or a plain function ``f(params, x, y)``, which declares nothing.

    Returns
    -------
    dict
        Nested as the model's own parameters are; the leaves are `Parameter`.

    Examples
    --------
    >>> import jaxphot as jp
    >>> jp.parameters(jp.models.sersic)["n"].bounds
    (0.1, 12.0)
    """
    declared = getattr(model, "parameters", None)
    if callable(declared):
        return declared()
    if callable(model):
        return {}
    raise TypeError(f"model: expected a model such as jp.models.sersic, got {type(model).__name__}")


def describe(declared, params):
    """Declared parameters as they are for given values: shapes known, undeclared leaves a plain `Parameter`."""
    if isinstance(declared, Parameter):
        return replace(declared, shape=np.shape(params)) if -1 in declared.shape else declared
    if not isinstance(params, dict):
        return Parameter(shape=np.shape(params))
    keys = declared if declared and not isinstance(declared, Partial) else params
    return {key: describe(_child(declared, key), params[key]) for key in keys if key in params}


def _child(declared, key):
    """What is declared of a key; beneath an incomplete description all are incomplete."""
    child = declared.get(key, {})
    return Partial(child) if isinstance(declared, Partial) and isinstance(child, dict) else child


def same_shape(shape, declared):
    """True where a shape is as declared, −1 standing for any length."""
    return len(shape) == len(declared) and all(want in (-1, got) for got, want in zip(shape, declared, strict=True))


def check_params(declared, params, dtype, *, optional=()):
    """Canonical parameter tree (arrays of one dtype), or a ValueError that lists all that is wrong with it.

    Parameters
    ----------
    declared : dict
        From `parameters(model)`.
    params : dict
        Nested dictionary of numbers or arrays, concrete or traced.
    dtype : dtype
        Of the returned leaves.
    optional : tuple of str
        Key paths that may be missing.

    Raises
    ------
    ValueError
        Missing, unknown, mis-shaped or non-finite parameters; every key path is named with what was expected.
    """
    problems = []
    tree = _check(declared, params, "", dtype, problems, optional)
    if problems:
        raise ValueError("params do not fit the model:\n  " + "\n  ".join(problems))
    return tree


def _check(declared, params, prefix, dtype, problems, optional):
    if isinstance(declared, Parameter):
        return _check_leaf(declared, params, prefix, dtype, problems)
    if not isinstance(params, dict):
        keys = ", ".join(declared) or "its parameters"
        problems.append(f"{prefix or 'params'}: expected a dictionary with {keys}, got {type(params).__name__}")
        return {}
    join = f"{prefix}." if prefix else ""
    if not declared or isinstance(declared, Partial):  # a plain function declares nothing: take what is given
        declared = _completed(declared, params)
    for key in params:
        if key not in declared:
            problems.append(f"{join}{key}: unknown; the model has {', '.join(declared)}")
    tree = {}
    for key, child in declared.items():
        name = f"{join}{key}"
        if key in params:
            tree[key] = _check(child, params[key], name, dtype, problems, optional)
        else:
            missing = [path for path, _ in _declared_leaves(child, name) if path not in optional]
            problems.extend(f"{path}: missing; expected {_expectation(child, path, name)}" for path in missing)
    return tree


def _completed(declared, params):
    """An incomplete description with a plain `Parameter` for every leaf that it does not name."""
    plain = {key: {} if isinstance(value, dict) else Parameter(shape=np.shape(value)) for key, value in params.items()}
    return {**plain, **{key: _child(declared, key) for key in declared}}


def _declared_leaves(declared, prefix):
    if isinstance(declared, Parameter):
        return [(prefix, declared)]
    return [pair for key, child in declared.items() for pair in _declared_leaves(child, f"{prefix}.{key}")]


def _expectation(declared, path, prefix):
    parameter = dict(_declared_leaves(declared, prefix))[path]
    kind = f"shape {parameter.shape}" if parameter.shape else "a scalar"
    return ", ".join(text for text in (parameter.description, parameter.unit, kind) if text)


def _check_leaf(parameter, value, name, dtype, problems):
    try:  # NumPy where it can be: nothing is compiled before the fit itself
        traced = any(isinstance(part, jax.core.Tracer) for part in jax.tree.leaves(value))
        array = jnp.asarray(value, dtype) if traced else np.asarray(value, dtype)
    except (TypeError, ValueError):
        problems.append(f"{name}: expected a number or an array, got {type(value).__name__}")
        return np.zeros([max(length, 1) for length in parameter.shape], dtype)
    if not same_shape(array.shape, parameter.shape):
        problems.append(
            f"{name}: expected shape {parameter.shape}, got {array.shape}"
            + (
                "; a leading axis of many images is for fit_batch or jax.vmap"
                if array.ndim > len(parameter.shape)
                else ""
            )
        )
    elif not isinstance(array, jax.core.Tracer) and not np.all(np.isfinite(array)):
        problems.append(f"{name}: expected finite values, got {np.asarray(array)}")
    return array
