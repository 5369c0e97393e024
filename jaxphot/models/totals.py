"""How much light a model has in all."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.models.combinators import Component, Radial, check_model, components, kind
from jaxphot.models.metrics import own_parameters
from jaxphot.models.modifiers import Sectors

_STEPS = 3200, 800  # in log radius: of a profile alone, and where angles come on top
_ANGLES = 96


def total_flux(model, params):
    """Total flux: in closed form where profile and metric have one, else by quadrature. Pure and differentiable.

    The closed form is a profile's ``flux(**parameters)`` times the metric's ``area(**parameters)``; or that which a
    function of the plane carries, such as those in `special` and `grids`; or the parameter `flux` of a profile.
    Otherwise brightness is integrated over log radius from 1e-7 to 1e7 arcsec, and over angle where the metric has no
    area: to 1e-6 or better for smooth profiles with sizes from 1e-4 to 1e4 arcsec, to 1e-3 for those with sharp edges.
    Where a total is infinite, so is the closed form; the quadrature then says nothing.

    Parameters
    ----------
    model : model
    params : dict

    Returns
    -------
    scalar array
        Flux. Scenes give the sum of their parts without backgrounds (skies), whose total is infinite.

    Raises
    ------
    ValueError
        A background alone; a part that has neither a closed form nor a parameter `center`.

    Examples
    --------
    >>> import jax.numpy as jnp, jaxphot as jp
    >>> params = {"center": jnp.zeros(2), "q": 0.5, "PA": 0.0, "Re": 1.0, "Ie": 1.0}
    >>> round(float(total_flux(jp.models.exponential, params)), 4)
    5.9742
    """
    check_model(model)
    pairs = [pair for pair in components(model, params) if kind(pair[0]) in ("extended", "point")]
    if not pairs:
        raise ValueError("model: a background has no total flux")
    fluxes = [_flux_of_one(*pair) for pair in pairs]
    return sum(fluxes[1:], jnp.asarray(fluxes[0]))


def _flux_of_one(model, params):
    if kind(model) == "point":
        return model.position_and_flux(params)[1]
    if isinstance(model, Component) and hasattr(model.function, "flux"):
        return model.function.flux(**params)
    if isinstance(model, Radial) and hasattr(model.metric, "area"):
        return _flux_of_radial(model, params)
    if isinstance(model, Sectors) and getattr(model.metric, "keeps_shape", True):
        return _flux_of_sectors(model, params)
    if not isinstance(params, dict) or np.shape(params.get("center", ())) != (2,):
        raise ValueError("model: its total flux is not known, nor where its centre is, to integrate about")
    return _integrate(model, params)


def _flux_of_radial(model, params):
    """2π ∫ I r dr times the metric's area."""
    of_profile = own_parameters(params, model.profile)
    flux = _flux_of_profile(model.profile, of_profile)
    return flux if "flux" in of_profile else flux * model.metric.area(**own_parameters(params, model.metric))


def _flux_of_profile(profile, params):
    """2π ∫ I r dr."""
    flux = getattr(profile, "flux", None)
    return _integrate_radius(profile, params) if flux is None else flux(**params)


def _flux_of_sectors(model, params):
    """Each sector's 2π ∫ I r dr times its share of the area within r = 1, by Gauss–Legendre between its borders."""
    of_profile, of_metric = (own_parameters(params, part) for part in (model.profile, model.metric))
    fluxes = jax.vmap(lambda own: _flux_of_profile(model.profile, own))(of_profile)
    angle, weight = model.quadrature(16)
    share = model.shares(params, jnp.asarray(angle, fluxes.dtype)) * jnp.asarray(weight, fluxes.dtype)[None, :]
    total = jnp.sum(fluxes @ share) / (2 * np.pi)
    if "flux" in of_profile and hasattr(model.metric, "area"):
        total = total / model.metric.area(**of_metric)
    return total


def _radii(params, steps):
    """Radii, and weights such that the sum of I times them is ∫ I r dr: a trapezoid rule in log r."""
    dtype = jnp.result_type(float, *jax.tree.leaves(params))
    log_r, step = np.linspace(-16, 16, steps + 1, retstep=True)
    return jnp.asarray(np.exp(log_r), dtype), jnp.asarray(np.exp(2 * log_r) * step, dtype)


def _integrate_radius(profile, params):
    r, weight = _radii(params, _STEPS[0])
    return 2 * jnp.pi * jnp.sum(profile(r, **params) * weight)


def _integrate(model, params):
    """Polar quadrature about the centre."""
    r, weight = _radii(params, _STEPS[1])
    angle = jnp.asarray(2 * np.pi * np.arange(_ANGLES) / _ANGLES, r.dtype)
    x, y = jnp.outer(r, jnp.cos(angle)), jnp.outer(r, jnp.sin(angle))
    at_origin = {**params, "center": jnp.zeros(2, r.dtype)}  # where float32 resolves the smallest radii
    return 2 * jnp.pi / _ANGLES * jnp.sum(model(at_origin, x, y) * weight[:, None])
