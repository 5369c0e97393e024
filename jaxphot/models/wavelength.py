"""Parameters that change smoothly with wavelength, shared by the images of several bands."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from jaxphot.models.combinators import check_model, linked
from jaxphot.parameters import Parameter, Partial, parameters
from jaxphot.pytree import is_concrete, leaves_with_names
from jaxphot.shared import average, check_paths, is_below


@dataclass(frozen=True)
class _InBand:
    """theta → params of one band; `orders` are the (key path, order) of what is not constant, None for free."""

    band: str
    basis: tuple
    orders: tuple

    def __call__(self, theta):
        params = theta
        for path, order in self.orders:
            value = _leaf(theta, path)
            own = value[self.band] if order is None else sum(value[k] * self.basis[k] for k in range(order + 1))
            params = _with(params, path, own)
        return params


@dataclass(frozen=True)
class _FromBand:
    """params of one band → the theta of which they are part: constant where theta is a polynomial."""

    band: str
    bases: tuple
    orders: tuple
    declared: Callable

    def __call__(self, params):
        theta = params
        for path, order in self.orders:
            value = jnp.asarray(_leaf(params, path))
            own = {self.band: value} if order is None else jnp.stack([value] + [jnp.zeros_like(value)] * order)
            theta = _with(theta, path, own)
        return theta

    def together(self, found, weights):
        """Theta from the params of all bands: averages, least-squares polynomials, and each band's own values."""
        theta = average(found, weights, parameters(self.declared))
        for path, order in self.orders:
            values = np.stack([np.asarray(_leaf(params, path), np.float64) for params in found])
            if order is None:
                own = {band: values[k] for k, (band, _) in enumerate(self.bases)}
            else:
                basis = np.asarray([row[: order + 1] for _, row in self.bases])
                root = np.sqrt(np.asarray(weights))[:, None]
                flat = values.reshape(len(values), -1)
                own = np.linalg.lstsq(basis * root, flat * root, rcond=None)[0].reshape(order + 1, *values.shape[1:])
            theta = _with(theta, path, own)
        return theta


def _leaf(tree, path):
    for key in path.split("."):
        tree = tree[key]
    return tree


def _with(tree, path, value):
    """A nested dictionary with another value, a leaf or a branch, at a key path."""
    key, _, rest = path.partition(".")
    return {**tree, key: _with(tree[key], rest, value) if rest else value}


def by_wavelength(model, wavelengths, orders=None):
    """One model for several bands, whose parameters are polynomials in wavelength.

    As GALFITM does it (Häußler et al. 2013, MNRAS 430, 330): a parameter of order k is
    ``Σ_{i ≤ k} c[i] T_i(λ')``, with Chebyshev polynomials of the first kind and λ' the wavelength scaled from the range
    of all bands to [−1, 1]. Order 0 is one value for all bands, None a value for each; by default amplitudes (Ie, I0,
    flux, …) are free and all else is constant.

    Parameters
    ----------
    model : model
        Such as a `scene`.
    wavelengths : dict of float
        Of each band, in any unit.
    orders : dict of (int or None), optional
        By key path, of a leaf (``"galaxy.n"``) or a branch; the longest path that fits counts.

    Returns
    -------
    dict of Linked
        A model for each band, for `fit`. They share a tree of the model's own form: constant parameters as they are,
        polynomials of order k with a leading axis of k + 1 coefficients, free ones a dictionary by band
        (``theta["galaxy"]["Ie"]["g"]``).

    Raises
    ------
    ValueError
        An order that is not below the number of bands, equal wavelengths, unknown key paths.

    Examples
    --------
    >>> import jaxphot as jp
    >>> galaxy = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
    >>> models = by_wavelength(galaxy, {"g": 477.0, "r": 623.0, "i": 763.0}, {"galaxy.n": 1, "galaxy.Re": 2})
    >>> declared = jp.parameters(models["r"])["galaxy"]
    >>> declared["n"].shape, declared["Re"].shape, sorted(declared["Ie"])
    ((2,), (3,), ['g', 'i', 'r'])
    """
    check_model(model)
    bands = _check_bands(wavelengths)
    declared = parameters(model)
    if not declared or isinstance(declared, Partial):
        raise ValueError("model: expected one that declares all its parameters")
    chosen = _orders({} if orders is None else orders, declared, len(bands))
    described = declared
    for path, order in chosen:
        parameter = _leaf(declared, path)
        if order is None:
            own = {band: parameter for band in bands}
        else:
            text = f"{parameter.description}: Chebyshev coefficients in wavelength".removeprefix(": ")
            shape = (order + 1, *parameter.shape)
            own = Parameter(parameter.unit, shape=shape, description=text, linear=parameter.linear)
        described = _with(described, path, own)
    bases = tuple(bands.items())
    return {
        band: linked(model, _InBand(band, basis, chosen), described, _FromBand(band, bases, chosen, model))
        for band, basis in bands.items()
    }


def _check_bands(wavelengths):
    """T_0, T_1, … at each band's scaled wavelength."""
    if not isinstance(wavelengths, dict) or not wavelengths:
        raise TypeError(f"wavelengths: expected a dictionary of one for each band, got {wavelengths!r}")
    if not is_concrete(wavelengths):
        raise TypeError("wavelengths: expected numbers; they are static")
    values = np.asarray(list(wavelengths.values()), np.float64)
    if values.ndim != 1 or not np.all(np.isfinite(values) & (values > 0)) or len(set(values.tolist())) < len(values):
        raise ValueError(f"wavelengths: expected different positive numbers, got {wavelengths!r}")
    low, high = values.min(), values.max()
    scaled = (2 * values - low - high) / (high - low) if high > low else np.zeros(1)
    rows = chebyshev.chebvander(scaled, len(values) - 1)
    return {band: tuple(row.tolist()) for band, row in zip(wavelengths, rows, strict=True)}


def _orders(orders, declared, count):
    """(key path of a leaf, order) of all that are not constant."""
    if not isinstance(orders, dict):
        raise TypeError(f"orders: expected a dictionary by key path, got {type(orders).__name__}")
    check_paths(tuple(orders), declared, "orders")
    for path, order in orders.items():
        whole = isinstance(order, int) and not isinstance(order, bool)
        if order is not None and not (whole and 0 <= order < count):
            raise ValueError(
                f"orders: {path} expects None or an integer below {count}, the number of bands, got {order!r}"
            )
    chosen = []
    for name, parameter in leaves_with_names(declared):
        fitting = [path for path in orders if is_below(name, [path])]
        default = None if parameter.linear else 0
        order = orders[max(fitting, key=len)] if fitting else default
        if order != 0:
            chosen.append((name, order))
    return tuple(chosen)
