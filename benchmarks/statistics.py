"""Are errors right, and fits unbiased? Pulls of sets of simulated galaxies under every kind of noise.

    python benchmarks/statistics.py [--count 1000] [--only gaussian poisson correlated variance nuts]

Every set is the first that its seed gives. A pull is (fit − truth) / error; means should be 0 and standard deviations
1, within 4 standard errors of a set of this size (marked * where not). Where they are not, the likelihood ratio of the
fit and the truth says whose fault it is: if it follows a χ² distribution with P degrees of freedom, the fits are at the
maximum of the likelihood, and the rest is this estimator's own.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from scipy import stats

import jaxphot as jp

QUAD = jp.sampling.quad(2)
MODEL = jp.scene(galaxy=jp.models.exponential, sky=jp.models.flat_sky)
SHAPE = (28, 30)
GALAXY = {"center": np.array([14.3, 13.8]), "q": 0.6, "PA": 0.7, "Re": 3.5, "Ie": 1.0}


def truth(ie, sky):
    return {"galaxy": {**GALAXY, "Ie": ie}, "sky": {"I0": sky}}


def draw(likelihood, params, blank, count, seed=1):
    """A stack of images of one galaxy with noise of their own."""
    one = lambda key: jp.simulate(MODEL, params, blank, key, likelihood, QUAD).data  # noqa: E731
    data = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), count))
    return replace(jp.stack_images([blank] * count), data=data)


def pulls_of(fits, params):
    """(lanes, P) and names; position angles modulo π."""
    columns = []
    for name in fits.names:
        part, _, rest = name.partition(".")
        key, _, index = rest.partition("[")
        at = (slice(None), int(index[:-1])) if index else slice(None)
        wanted = params[part][key][int(index[:-1])] if index else params[part][key]
        off = np.asarray(fits.params[part][key])[at] - wanted
        if key == "PA":
            off = (off + np.pi / 2) % np.pi - np.pi / 2
        columns.append(off / np.asarray(fits.stderr[part][key])[at])
    return np.stack(columns, 1)


def report(label, fits, params, images, likelihood):
    """Means and standard deviations of pulls; a likelihood-ratio test of the truth."""
    good = np.asarray(fits.status) == 0
    pull = pulls_of(fits, params)
    whole = good & np.all(np.isfinite(pull), axis=1)
    pull = pull[whole]
    count = len(pull)
    print(f"\n{label}: {count} of {len(good)} with all errors known")
    for name, mean, std in zip(fits.names, pull.mean(0), pull.std(0, ddof=1), strict=True):
        far = abs(mean) > 4 / np.sqrt(count), abs(std - 1) > 4 / np.sqrt(2 * count)
        print(f"  {name:18}{mean:+7.3f}{'*' if far[0] else ' '} ± {std:.3f}{'*' if far[1] else ' '}")
    density = lambda own, image: jp.log_likelihood(MODEL, own, image, likelihood, QUAD)  # noqa: E731
    best = jax.jit(jax.vmap(density))(fits.params, images)
    there = jax.jit(jax.vmap(lambda image: density(params, image)))(images)
    ratio = 2 * np.asarray(best - there)[good]
    p = stats.kstest(ratio, stats.chi2(len(fits.names)).cdf).pvalue
    print(f"  2 Δ log L of the truth: mean {ratio.mean():.2f} of {len(fits.names)} expected; KS p = {p:.2f}")
    return pull


def fitted(likelihood, params, images):
    start = {"galaxy": {**params["galaxy"], "q": 0.8, "Re": 3.0}, "sky": params["sky"]}
    return jp.fit_batch(MODEL, start, images, likelihood=likelihood, sampling=QUAD, progress=False)


def kind_of_noise(name, count):
    """Pulls of one set."""
    blank = jp.make_image(np.zeros(SHAPE), std=0.2, gain=1.0)
    likelihood, params = {
        "gaussian": (jp.likelihood.gaussian(), truth(1.0, 0.5)),
        "poisson": (jp.likelihood.poisson(), truth(20.0, 3.0)),  # a sky of 3 counts a pixel
        "correlated": (jp.likelihood.correlated([[1, 2, 1], [2, 4, 2], [1, 2, 1]]), truth(3.0, 0.5)),
    }[name]
    images = draw(likelihood, params, blank, count)
    report(name, fitted(likelihood, params, images), params, images, likelihood)


def variance_of_the_data(count):
    """Poisson data of 3 counts a pixel, fitted by its likelihood, and by χ² with the variance of the data."""
    poisson, params = jp.likelihood.poisson(), truth(20.0, 3.0)
    blank = jp.make_image(np.zeros(SHAPE), std=1.0, gain=1.0)
    images = draw(poisson, params, blank, count, seed=2)
    weighted = replace(images, ivar=1 / jnp.maximum(images.data, 1.0))
    print("\nmean pull, in single errors      poisson     χ² with max(data, 1) as variance")
    ours, theirs = (pulls_of(fits, params) for fits in (
        fitted(poisson, params, images), fitted(jp.likelihood.gaussian(), params, weighted)))  # fmt: skip
    names = fitted(poisson, params, jax.tree.map(lambda leaf: leaf[:2], images)).names
    for name, a, b in zip(names, np.nanmean(ours, 0), np.nanmean(theirs, 0), strict=True):
        print(f"  {name:28}{a:+8.3f}    {b:+8.3f}")


def nuts_and_laplace(draws):
    """Standard deviations at a signal-to-noise ratio of 50, by a sampler of BlackJAX and by `laplace`."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks" / "recipes"))
    import blackjax_nuts
    import galaxy

    image = galaxy.observe()
    fit = galaxy.fit(image)
    sampled, _ = blackjax_nuts.nuts(galaxy.density(image), fit.params, jax.random.key(0), draws)
    options = {"priors": galaxy.PRIORS, "sampling": galaxy.SAMPLING}
    laplace = jp.laplace(galaxy.MODEL, fit, image, jax.random.key(1), 20000, **options)
    print(f"\nS/N 50, {draws} draws: standard deviations, NUTS ÷ Laplace")
    for part, names in fit.stderr.items():
        for name in names:
            ratio = np.std(sampled[part][name], axis=0) / np.std(laplace[part][name], axis=0)
            print(f"  {part}.{name:10}", np.round(ratio, 3))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    everything = ["gaussian", "poisson", "correlated", "variance", "nuts"]
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    arguments = parser.parse_args()
    for name in arguments.only:
        if name == "variance":
            variance_of_the_data(arguments.count)
        elif name == "nuts":
            nuts_and_laplace(5 * arguments.count)
        else:
            kind_of_noise(name, arguments.count)


if __name__ == "__main__":
    main()
