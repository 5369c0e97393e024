"""The affine-invariant ensemble of emcee, all walkers in one vmapped call of the density."""

import emcee
import galaxy
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def sample(density, params, seed, steps=1500, walkers=32, discard=500):
    """Draws of the posterior; walkers start from the Laplace approximation.

    Returns
    -------
    dict
        Complete trees of parameters with a leading axis.
    """
    vector, unravel = ravel_pytree(density.unconstrain(params))
    of_many = jax.jit(jax.vmap(lambda v: density(unravel(v))))
    rng = np.random.default_rng(seed)
    covariance = np.linalg.inv(density.fisher(unravel(vector)))
    start = rng.multivariate_normal(vector, covariance, walkers)
    sampler = emcee.EnsembleSampler(
        walkers, len(vector), lambda vectors: np.asarray(of_many(jnp.asarray(vectors))), vectorize=True
    )
    sampler.random_state = np.random.RandomState(seed).get_state()
    sampler.run_mcmc(start, steps)
    flat = jnp.asarray(sampler.get_chain(discard=discard, flat=True))
    return jax.jit(jax.vmap(lambda v: density.constrain(unravel(v))))(flat)


if __name__ == "__main__":
    image = galaxy.observe()
    draws = sample(galaxy.density(image), galaxy.fit(image).params, 0)
    for name, (mean, std) in galaxy.summary(draws).items():
        print(f"{name:3} {mean:8.4f} ± {std:.4f}")
