"""A small scene for tests of inference: quick to compile, and its errors are well known."""

from dataclasses import replace

import jax
import numpy as np

import jaxphot as jp

QUAD = jp.sampling.quad(2)
MODEL = jp.scene(galaxy=jp.models.gaussian, sky=jp.models.flat_sky)
TRUTH = {
    "galaxy": {"center": np.array([9.3, 8.8]), "q": 0.6, "PA": 0.7, "sigma": 2.5, "flux": 300.0},
    "sky": {"I0": 1.5},
}
START = {
    "galaxy": {"center": np.array([8.5, 9.5]), "q": 0.8, "PA": 0.3, "sigma": 2.0, "flux": 200.0},
    "sky": {"I0": 1.0},
}
SHAPE = (18, 20)
BLANK = jp.make_image(np.zeros(SHAPE), std=0.4, gain=5.0)


def observed(seed=1, likelihood=None, model=MODEL, truth=TRUTH, blank=BLANK):
    """An image with noise."""
    return jp.simulate(model, truth, blank, jax.random.key(seed), likelihood, QUAD)


def many_observed(count, likelihood=None, model=MODEL, truth=TRUTH, blank=BLANK, seed=1):
    """A stack of images with noise of their own."""
    draw = lambda key: jp.simulate(model, truth, blank, key, likelihood, QUAD).data  # noqa: E731
    data = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(seed), count))
    stacked = jp.stack_images([blank] * count)
    return replace(stacked, data=data)


def names_and_values(tree, prefix=""):
    """Leaves by key path."""
    if not isinstance(tree, dict):
        return {prefix: np.asarray(tree)}
    join = f"{prefix}." if prefix else ""
    return {name: v for key in sorted(tree) for name, v in names_and_values(tree[key], f"{join}{key}").items()}


def pulls(fits, truth):
    """(fit − truth) / stderr of all free scalars, (lanes, P); position angles modulo π."""
    free, found, wanted = (names_and_values(tree) for tree in (fits.stderr, fits.params, truth))
    columns = []
    for name, error in free.items():
        difference = found[name] - wanted[name]
        if name.endswith("PA"):
            difference = (difference + np.pi / 2) % np.pi - np.pi / 2
        columns.append((difference / error).reshape(len(np.atleast_1d(fits.status)), -1))
    return np.concatenate(columns, axis=1)
