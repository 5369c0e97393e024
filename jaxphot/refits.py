"""Errors by fitting again: bootstraps, profile likelihoods, and the different minima that several starts end in.

Functions that begin from a `Fit` take in ``**options`` those with which it was fitted; what was fixed stays fixed.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.batch import fit_batch
from jaxphot.fitting.multistart import spread
from jaxphot.fitting.problem import make_problem
from jaxphot.fitting.solve import complete_options
from jaxphot.fitting.stages import begin
from jaxphot.inference import held_fixed, simulate
from jaxphot.pytree import branch, leaves_with_names, refuse_tracers, update
from jaxphot.render import check_image
from jaxphot.shared import declarations


def parametric(key, model, fit, image, likelihood, sampling):
    """A bootstrap's image: the best fit with noise drawn anew. Right if model and likelihood are."""
    return simulate(model, fit.params, image, key, likelihood, sampling)


def reweighted(key, model, fit, image, likelihood, sampling):
    """A bootstrap's image: every pixel's ivar times a Poisson(1) count, as if pixels had been drawn with replacement.

    It does not trust ivar. For likelihoods whose weight is ivar: not `poisson` or `model_variance`.
    """
    counts = jax.random.poisson(key, 1.0, image.shape)
    return replace(image, ivar=image.ivar * counts.astype(image.dtype))


def bootstrap(model, fit, image, key, count=100, *, resample=parametric, progress=False, **options):
    """Fits to images made anew, from the scatter of which errors can be read whatever the posterior's shape.

    Parameters
    ----------
    model : model
    fit : Fit
        Starts from here.
    image : Image
    key : JAX random key
    count : int
    resample : callable
        `parametric`, `reweighted` or any ``f(key, model, fit, image, likelihood, sampling) → Image``.
    progress : bool
    **options
        Those of the fit.

    Returns
    -------
    Fit
        With a leading axis, fitted by `fit_batch`.
    """
    refuse_tracers("there, jax.vmap(fit) over images made anew", fit=fit, image=image, key=key)
    check_image(image)
    given = complete_options("bootstrap", options)
    draw = lambda own: resample(own, model, fit, image, given["likelihood"], given["sampling"])  # noqa: E731
    images = jax.jit(jax.vmap(draw))(jax.random.split(key, count))
    fixed = held_fixed(fit, {path for path, _ in leaves_with_names(fit.stderr)})
    return fit_batch(model, fit.params, images, progress=progress, **{**options, "fixed": fixed})


class Profile(NamedTuple):
    """A profile likelihood; made by `profile_likelihood`.

    Attributes
    ----------
    value : (K,) array
        Of the parameter.
    delta : (K,) array
        2 (largest log-likelihood − that with the parameter fixed there and all others fitted).
    fits : Fit
        With a leading axis K.
    low, high : float
        Where `delta` reaches 1: the ends of the 68 % interval; NaN where it does not within the values.
    """

    value: jax.Array
    delta: jax.Array
    fits: object
    low: float
    high: float


def profile_likelihood(model, fit, image, name, values=None, *, progress=False, **options):
    """The likelihood of one parameter, all others fitted at each of its values: honest where errors are lopsided.

    Parameters
    ----------
    model : model
    fit : Fit
        The best one.
    image : Image
    name : str
        Key path of a scalar parameter, such as ``galaxy.n``.
    values : (K,) array, optional
        Ascending; by default 13 within ±3 standard errors and the bounds.
    progress : bool
    **options
        Those of the fit. Priors take part only in where the other parameters go.

    Returns
    -------
    Profile
    """
    refuse_tracers("there, jax.vmap(fit) over fixed=", fit=fit, image=image, values=values)
    scalars = [path for path, leaf in leaves_with_names(fit.params) if np.ndim(leaf) == 0]
    if name not in scalars:
        raise ValueError(f"name: expected one of {', '.join(scalars)}, got {name!r}")
    best = float(dict(leaves_with_names(fit.params))[name])
    if values is None:
        values = _grid(model, fit, name, best, options)
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.all(np.diff(values) > 0):
        raise ValueError("values: expected at least two, ascending")
    free = {path for path, _ in leaves_with_names(fit.stderr)} - {name}
    fixed = update(held_fixed(fit, free), branch(name, values))
    bounds = options.get("bounds")
    options = {**options, "fixed": fixed, "bounds": None if bounds is None else _without(bounds, name)}
    fits = fit_batch(model, fit.params, [image] * len(values), progress=progress, **options)
    delta = np.asarray(fits.chi2, np.float64) - float(fit.chi2)
    return Profile(values, delta, fits, *_crossings(values, delta, best))


def _grid(model, fit, name, best, options):
    error = float(dict(leaves_with_names(fit.stderr)).get(name, np.nan))
    if not error > 0:
        raise ValueError(f"values: needed, as the fit knows no error of {name}")
    users = dict(leaves_with_names(options.get("bounds") or {}))
    low, high = users.get(name, dict(leaves_with_names(declarations(model)))[name].bounds)
    inside = np.clip(best + error * np.linspace(-3, 3, 13), low, high)
    return np.unique(inside[(inside > low) | (low != 0)])


def _without(tree, name):
    return {
        key: _without(value, name[len(key) + 1 :]) if isinstance(value, dict) else value
        for key, value in tree.items()
        if key != name
    }


def _crossings(values, delta, best):
    """Where a curve reaches 1 on both sides of its minimum; between values its root is linear."""
    root = np.sqrt(np.maximum(delta, 0))
    ends = []
    for side, order in ((values < best, -1), (values > best, 1)):
        x, y = np.r_[best, values[side][::order]], np.r_[0.0, root[side][::order]]
        beyond = np.flatnonzero(y >= 1)
        if not beyond.size:
            ends.append(np.nan)
            continue
        k = beyond[0]
        ends.append(float(x[k - 1] + (1 - y[k - 1]) / (y[k] - y[k - 1]) * (x[k] - x[k - 1])))
    return ends


def find_modes(model, params, image, starts=16, *, same=1.0, **options):
    """The different minima that fits from several starts end in, the best first.

    Parameters
    ----------
    model : model
    params : dict
        The first start; the others lie around it, as those of ``fit_batch(starts=…)`` do.
    image : Image
    starts : int
    same : float
        Ends are one minimum where they differ by less than this many standard errors.
    **options
        Those of `fit`.

    Returns
    -------
    list of (Fit, int)
        A converged fit for each minimum, and from how many starts it was reached.
    """
    refuse_tracers("there, jax.vmap(fit) over starts", params=params, image=image)
    setup, lane = make_problem(model, params, image, **complete_options("find_modes", options))
    points = spread(setup, lane, begin(setup, lane), int(starts)).params
    physical = jax.vmap(setup.coordinates.from_internal)(points)
    fixed = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (int(starts), *np.shape(leaf))), lane.start)
    begins = update(fixed, jax.vmap(setup.coordinates.unflatten)(physical))
    fits = fit_batch(model, begins, [image] * int(starts), progress=False, **options)
    modes = []
    for number in np.argsort(np.asarray(fits.chi2), kind="stable"):
        end = jax.tree.map(lambda leaf, number=number: leaf[number], fits)
        if int(end.status) not in (lm.CONVERGED, lm.SINGULAR):
            continue
        known = next((k for k, (other, _) in enumerate(modes) if _distance(end, other) < same), None)
        if known is None:
            modes.append((end, 1))
        else:
            modes[known] = modes[known][0], modes[known][1] + 1
    return modes


def _distance(one, other):
    """Largest difference of two fits' free parameters in standard errors; angles modulo half a turn."""
    here, there, errors = (dict(leaves_with_names(tree)) for tree in (one.params, other.params, other.stderr))
    largest = 0.0
    for name, error in errors.items():
        difference = np.asarray(here[name]) - np.asarray(there[name])
        if name.rpartition(".")[2] == "PA":
            difference = np.mod(difference + np.pi / 2, np.pi) - np.pi / 2
        pulls = np.abs(difference) / np.where(np.asarray(error) > 0, error, np.inf)
        largest = max(largest, float(np.max(pulls, initial=0.0)))
    return largest
