"""How biased are faint galaxies? Ours beside scipy's optimiser on the same data and model.

    python benchmarks/bias.py [--count 300]

64×64 Sérsic + sky through a 25×25 PSF, S/N 30–1000. A maximum-likelihood fit of a faint galaxy is biased by the model's
curvature whoever finds it; both optimisers should find the same one. The table has, for each range of S/N, the mean and
standard deviation of (fit − truth) / error, and how often the two χ² agree.
"""

import argparse
from functools import partial

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from cutouts import MODEL, make_cutouts
from jax.flatten_util import ravel_pytree
from scipy.optimize import least_squares

import jaxphot as jp

RULE = jp.sampling.adaptive()


@partial(jax.jit, static_argnums=0)
def residual(unravel, vector, image):
    pixels = jp.render(MODEL, unravel(vector), image, RULE)
    return ((pixels - image.data) * jnp.sqrt(image.ivar)).ravel()


def scipy_fit(start, image):
    """Trust-region reflective in the physical parameters, with our bounds and an exact Jacobian."""
    vector, unravel = ravel_pytree(start)
    unravel = _hashable(unravel, start)
    limits = jax.tree.map(lambda p: np.broadcast_to(np.reshape(p.bounds, (2, *[1] * len(p.shape))), (2, *p.shape)),
                          jp.parameters(MODEL))  # fmt: skip
    low, high = (ravel_pytree(jax.tree.map(lambda pair, k=k: pair[k], limits))[0] for k in (0, 1))
    solution = least_squares(
        lambda v: np.asarray(residual(unravel, v, image)),
        np.asarray(vector),
        jac=lambda v: np.asarray(jacobian(unravel, v, image)),
        bounds=(np.asarray(low), np.asarray(high)),
        x_scale="jac",
        max_nfev=300,
    )
    covariance = np.linalg.pinv(solution.jac.T @ solution.jac)
    return unravel(jnp.asarray(solution.x)), unravel(jnp.sqrt(np.diag(covariance))), 2 * solution.cost


@partial(jax.jit, static_argnums=0)
def jacobian(unravel, vector, image):
    return jax.jacfwd(lambda v: residual(unravel, v, image))(vector)


_CACHE = {}


def _hashable(unravel, start):
    """One function for all starts of one structure, so that nothing compiles twice."""
    return _CACHE.setdefault(jax.tree.structure(start), unravel)


def pulls(params, stderr, truth):
    """(fit − truth) / error of n, Re, q, Ie and the sky."""
    galaxy = [(params["galaxy"][k] - truth["galaxy"][k]) / stderr["galaxy"][k] for k in ("n", "Re", "q", "Ie")]
    return np.asarray([*galaxy, (params["sky"]["I0"] - truth["sky"]["I0"]) / stderr["sky"]["I0"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    count = parser.parse_args().count
    images, start, truth, signal_to_noise = make_cutouts(count, psf=True, sampling=RULE)
    fits = jp.fit_batch(MODEL, start, images, sampling=RULE, progress=False)
    ours = np.moveaxis(pulls(fits.params, fits.stderr, truth), 0, 1)
    theirs, chi2 = [], []
    for k, image in enumerate(jp.unstack_images(images)):
        params, stderr, value = scipy_fit(jax.tree.map(lambda leaf, k=k: leaf[k], start), image)
        theirs.append(pulls(params, stderr, jax.tree.map(lambda leaf, k=k: leaf[k], truth)))
        chi2.append(value)
    theirs, difference = np.asarray(theirs), np.asarray(fits.chi2) - np.asarray(chi2)
    free = ~np.asarray(fits.at_bound["galaxy"]["n"]) & np.isfinite(ours).all(1) & (np.asarray(fits.status) == 0)
    print(f"our χ² − scipy's: higher by > 0.01 in {np.sum(difference > 0.01)}, lower in {np.sum(difference < -0.01)}")
    print("| S/N | fits | whose | n | Re | q | Ie | sky |\n|---|---|---|---|---|---|---|---|")
    for low, high in ((30, 100), (100, 1000)):
        chosen = free & (signal_to_noise >= low) & (signal_to_noise < high) & np.isfinite(theirs).all(1)
        for name, values in (("jaxphot", ours), ("scipy", theirs)):
            kept = values[chosen]
            # the middle of the distribution: a handful of scipy's fits end elsewhere
            columns = [f"{np.mean(c):+.2f} ± {np.std(c):.2f}" for c in np.clip(kept, -10, 10).T]
            print(f"| {low}–{high} | {chosen.sum()} | {name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
