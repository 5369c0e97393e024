"""NUTS and MALA from BlackJAX. The mass matrix is Gauss–Newton's at the best fit: there is nothing to adapt."""

import blackjax
import galaxy
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def nuts(density, params, key, count, step_size=0.7, discard=50):
    """Draws of the posterior by the no-U-turn sampler.

    Parameters
    ----------
    density : LogDensity
        From ``jp.log_density``.
    params : dict
        Where to start: the best fit.
    key : JAX random key
    count : int
        Draws kept.
    step_size : float
        In standard deviations of the posterior, since the mass matrix is its Fisher matrix.
    discard : int
        First draws that are not kept.

    Returns
    -------
    draws : dict
        Complete trees of parameters with a leading axis.
    acceptance : scalar
        Mean rate.
    """
    vector, unravel = ravel_pytree(density.unconstrain(params))
    covariance = jnp.linalg.inv(density.fisher(unravel(vector)))
    sampler = blackjax.nuts(lambda v: density(unravel(v)), step_size, covariance)
    return _run(sampler, vector, key, count, discard, density, unravel)


def mala(density, params, key, count, step_size=0.6, discard=200):
    """Draws by the Metropolis-adjusted Langevin algorithm, in coordinates whitened by the same matrix.

    A step has a standard deviation of √(2 step_size), in those of the posterior. Draws are most independent where
    about 57 % of the steps are taken (Roberts & Rosenthal 1998, J. R. Stat. Soc. B 60, 255): short steps are nearly all
    taken, and lead nowhere.
    """
    vector, unravel = ravel_pytree(density.unconstrain(params))
    root = jnp.linalg.inv(jnp.linalg.cholesky(density.fisher(unravel(vector)))).T
    to_y = lambda white: unravel(vector + root @ white)  # noqa: E731
    sampler = blackjax.mala(lambda white: density(to_y(white)), step_size)
    return _run(sampler, jnp.zeros_like(vector), key, count, discard, density, to_y)


def _run(sampler, start, key, count, discard, density, to_y):
    @jax.jit
    def run(key):
        def step(state, key):
            state, info = sampler.step(key, state)
            return state, (state.position, info.acceptance_rate)

        keys = jax.random.split(key, count + discard)
        _, (positions, rates) = jax.lax.scan(step, sampler.init(start), keys)
        return jax.vmap(lambda v: density.constrain(to_y(v)))(positions[discard:]), jnp.mean(rates[discard:])

    return run(key)


if __name__ == "__main__":
    image = galaxy.observe()
    fit = galaxy.fit(image)
    for sampler, count in ((nuts, 2000), (mala, 20000)):
        draws, rate = sampler(galaxy.density(image), fit.params, jax.random.key(0), count)
        print(f"{sampler.__name__}: {rate:.0%} accepted")
        for name, (mean, std) in galaxy.summary(draws).items():
            part = "sky" if name == "I0" else "galaxy"
            best, error = fit.params[part][name], fit.stderr[part][name]
            print(f"  {name:3} {mean:8.4f} ± {std:.4f}; best fit {best:8.4f} ± {error:.4f}")
