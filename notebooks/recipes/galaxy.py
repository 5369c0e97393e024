"""The galaxy that all recipes look at: a simulated one at a signal-to-noise ratio of about 50."""

import jax
import numpy as np

import jaxphot as jp

MODEL = jp.scene(galaxy=jp.models.exponential, sky=jp.models.flat_sky)
TRUTH = {
    "galaxy": {"center": np.array([11.6, 12.3]), "q": 0.55, "PA": 0.8, "Re": 3.5, "Ie": 1.0},
    "sky": {"I0": 0.5},
}
SAMPLING = jp.sampling.quad(2)
PRIORS = {"galaxy": {"Re": jp.priors.lognormal(3.0, 0.5), "q": jp.priors.uniform(0.1, 1.0)}}


def observe(seed=1, std=0.2):
    """An image of 24 × 24 pixels with noise."""
    blank = jp.make_image(np.zeros((24, 24)), std=std)
    return jp.simulate(MODEL, TRUTH, blank, jax.random.key(seed), sampling=SAMPLING)


def fit(image):
    """Its maximum a posteriori fit."""
    return jp.fit(MODEL, TRUTH, image, priors=PRIORS, sampling=SAMPLING)


def density(image):
    """Its posterior density."""
    return jp.log_density(MODEL, image, PRIORS, sampling=SAMPLING)


def summary(draws):
    """Mean and standard deviation of every scalar of a tree of draws, by name."""
    return {name: (float(np.mean(draws[part][name])), float(np.std(draws[part][name])))
            for part in draws for name in draws[part] if np.ndim(draws[part][name]) == 1}  # fmt: skip
