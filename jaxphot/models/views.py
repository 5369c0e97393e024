"""The same models by other parameters: total flux or magnitude instead of brightness, (e1, e2) instead of q and PA.

These are views (`linked`) of any model, not other models, and combine: ``by_ellipticity(by_flux(models.sersic))``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp

from jaxphot.models.combinators import linked
from jaxphot.models.totals import total_flux
from jaxphot.numerics import safe_sqrt
from jaxphot.parameters import Parameter, parameters
from jaxphot.pytree import is_concrete
from jaxphot.units import flux_to_mag, mag_to_flux


@dataclass(frozen=True)
class _FromFlux:
    """theta with a total flux → params with an amplitude."""

    model: Callable
    name: str

    def __call__(self, theta):
        rest = {key: value for key, value in theta.items() if key != "flux"}
        unit = total_flux(self.model, {**rest, self.name: jnp.ones_like(theta["flux"])})
        finite = jnp.isfinite(unit)
        return {**rest, self.name: jnp.where(finite, theta["flux"] / jnp.where(finite, unit, 1), 0)}


@dataclass(frozen=True)
class _ToFlux:
    model: Callable
    name: str

    def __call__(self, params):
        rest = {key: value for key, value in params.items() if key != self.name}
        return {**rest, "flux": total_flux(self.model, params)}


def by_flux(model):
    """A model whose amplitude (Ie, I0, Ib, …) is its total `flux`, whatever its shape.

    The flux is that of `total_flux`: in closed form where there is one. Where the total is infinite (a Moffat profile
    of n ≤ 1, say) the model has no light.

    Parameters
    ----------
    model : model
        With exactly one linear parameter, a scalar.

    Returns
    -------
    Linked
        With `flux` in place of that parameter.

    Examples
    --------
    >>> import jax.numpy as jnp, jaxphot as jp
    >>> model = by_flux(jp.models.sersic)
    >>> list(jp.parameters(model))
    ['center', 'q', 'PA', 'n', 'Re', 'flux']
    >>> theta = {"center": jnp.zeros(2), "q": 0.5, "PA": 0.0, "n": 4.0, "Re": 2.0, "flux": 90.0}
    >>> round(float(model(theta, 0.0, 2.0)), 4)  # Ie
    1.9854
    """
    declared = parameters(model)
    name = _amplitude(declared)
    if name == "flux":
        return model
    described = {key: parameter for key, parameter in declared.items() if key != name}
    described["flux"] = Parameter("flux", description="total flux", linear=True)
    return linked(model, _FromFlux(model, name), described, _ToFlux(model, name))


def _amplitude(declared):
    """The name of the one linear parameter."""
    linear = [key for key, p in declared.items() if isinstance(p, Parameter) and p.linear]
    if len(linear) != 1 or declared[linear[0]].shape:
        raise ValueError(f"model: expected one with one linear scalar such as Ie, got {', '.join(linear) or 'none'}")
    return linear[0]


@dataclass(frozen=True)
class _FromMagnitude:
    """theta with a magnitude → params; `from_flux` takes those with a flux further."""

    zeropoint: float
    from_flux: Callable | None

    def __call__(self, theta):
        params = {key: value for key, value in theta.items() if key != "mag"}
        params["flux"] = mag_to_flux(theta["mag"], self.zeropoint)
        return params if self.from_flux is None else self.from_flux(params)


@dataclass(frozen=True)
class _ToMagnitude:
    zeropoint: float
    to_flux: Callable | None

    def __call__(self, params):
        params = params if self.to_flux is None else self.to_flux(params)
        rest = {key: value for key, value in params.items() if key != "flux"}
        return {**rest, "mag": flux_to_mag(params["flux"], self.zeropoint)}


def by_magnitude(model, zeropoint):
    """A model whose amplitude is its total magnitude, ``zeropoint − 2.5 log10(total flux)``.

    Flux is positive then: not for sources that may vanish in the noise.

    Parameters
    ----------
    model : model
        With exactly one linear parameter, a scalar.
    zeropoint : float
        Magnitude of a source of flux 1; static.

    Returns
    -------
    Linked
        With `mag` in place of that parameter.

    Examples
    --------
    >>> import jax.numpy as jnp, jaxphot as jp
    >>> model = by_magnitude(jp.models.gaussian, 25.0)
    >>> theta = {"center": jnp.zeros(2), "q": 1.0, "PA": 0.0, "sigma": 1.0, "mag": 20.0}
    >>> round(float(model(theta, 0.0, 0.0)), 4)  # 100 / 2π
    15.9155
    """
    if not is_concrete(zeropoint) or not jnp.isfinite(zeropoint):
        raise ValueError(f"zeropoint: expected a number, got {zeropoint!r}")
    declared, zeropoint = parameters(model), float(zeropoint)
    name = _amplitude(declared)
    described = {key: parameter for key, parameter in declared.items() if key != name}
    described["mag"] = Parameter("mag", description="total magnitude")
    views = (None, None) if name == "flux" else (_FromFlux(model, name), _ToFlux(model, name))
    return linked(model, _FromMagnitude(zeropoint, views[0]), described, _ToMagnitude(zeropoint, views[1]))


@dataclass(frozen=True)
class _FromEllipticity:
    radii: tuple

    def __call__(self, theta):
        rest = {key: value for key, value in theta.items() if key not in ("e1", "e2")}
        e1, e2 = jnp.asarray(theta["e1"]), jnp.asarray(theta["e2"])
        # an exactly round one is taken as hardly flattened: else its derivatives would be 0 · ∞
        roundest = float(jnp.finfo(jnp.result_type(e1, float)).eps) ** 0.5 / 8
        e1 = e1 + jnp.where(e1**2 + e2**2 < roundest**2, 2 * roundest, 0)
        size = jnp.sqrt(e1**2 + e2**2)
        q = (1 - size) / (1 + size)
        stretched = {name: rest[name] / safe_sqrt(q) for name in self.radii}
        return {**rest, **stretched, "q": q, "PA": 0.5 * jnp.arctan2(e2, e1)}


@dataclass(frozen=True)
class _ToEllipticity:
    radii: tuple

    def __call__(self, params):
        rest = {key: value for key, value in params.items() if key not in ("q", "PA")}
        q, angle = params["q"], 2 * params["PA"]
        size = (1 - q) / (1 + q)
        circles = {name: rest[name] * jnp.sqrt(q) for name in self.radii}
        return {**rest, **circles, "e1": size * jnp.cos(angle), "e2": size * jnp.sin(angle)}


def by_ellipticity(model, *, circularized=True):
    """A model with (e1, e2) instead of q and PA, so that a round source is a point like any other.

    ``e1 + i e2 = (1 − q)/(1 + q) · exp(2 i PA)``, the ellipticity that a reduced shear adds to; PA is from North to
    East. ``|e| < 1``; each component is bounded by ±0.7, so that q stays above 0.005.

    Parameters
    ----------
    model : model
        With parameters q and PA.
    circularized : bool
        Radii (Re, sigma, …) are those of the circle of the same area, ``R √q``; then the model has derivatives at
        e = 0. With False they stay along the major axis, and a round source is an edge, because its major axis grows
        whichever way it is flattened. Static.

    Returns
    -------
    Linked
        With `e1` and `e2` in place of q and PA.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, jaxphot as jp
    >>> model = by_ellipticity(jp.models.gaussian)
    >>> theta = {"center": jnp.zeros(2), "e1": 0.0, "e2": 0.0, "sigma": 1.0, "flux": 1.0}
    >>> slope = jax.grad(lambda e1: model({**theta, "e1": e1}, 0.0, 1.0))(0.0)  # towards North
    >>> round(float(slope), 4)
    0.0965
    """
    declared = parameters(model)
    if not {"q", "PA"} <= set(declared):
        raise ValueError(f"model: expected one with parameters q and PA, got {', '.join(declared) or 'none declared'}")
    radii = tuple(key for key, p in declared.items() if circularized and _is_radius(p))
    described = {key: p for key, p in declared.items() if key not in ("q", "PA")}
    for key in radii:
        described[key] = replace(described[key], description="radius of the circle of the same area")
    for key, text in (("e1", "towards North"), ("e2", "towards North-East")):
        described[key] = Parameter("", (-0.7, 0.7), description=f"ellipticity (1 − q)/(1 + q) {text}")
    return linked(model, _FromEllipticity(radii), described, _ToEllipticity(radii))


def _is_radius(parameter):
    return isinstance(parameter, Parameter) and (parameter.unit, parameter.coordinate) == ("arcsec", "log")
