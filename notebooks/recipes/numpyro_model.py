"""A NumPyro model whose image is drawn by jaxphot: priors are `numpyro.sample`, NUTS is NumPyro's."""

import galaxy
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, init_to_value

import jaxphot as jp


def scene(image):
    """Parameters drawn from priors; the data given them."""
    params = {
        "galaxy": {
            "center": numpyro.sample("center", dist.Uniform(jnp.full(2, 8.0), jnp.full(2, 16.0)).to_event(1)),
            "q": numpyro.sample("q", dist.Uniform(0.1, 1.0)),
            "PA": numpyro.sample("PA", dist.Uniform(0.0, jnp.pi)),
            "Re": numpyro.sample("Re", dist.LogNormal(jnp.log(3.0), 0.5)),
            "Ie": numpyro.sample("Ie", dist.Uniform(0.0, 10.0)),
        },
        "sky": {"I0": numpyro.sample("I0", dist.Normal(0.0, 10.0))},
    }
    numpyro.factor("data", jp.log_likelihood(galaxy.MODEL, params, image, sampling=galaxy.SAMPLING))


def sample(image, params, key, count=500, warmup=300):
    """Draws of all sites, from a start such as the best fit."""
    values = {**params["galaxy"], **params["sky"]}
    kernel = NUTS(scene, init_strategy=init_to_value(values=values), dense_mass=True)
    mcmc = MCMC(kernel, num_warmup=warmup, num_samples=count, progress_bar=False)
    mcmc.run(key, image)
    return mcmc.get_samples()


if __name__ == "__main__":
    image = galaxy.observe()
    fit = galaxy.fit(image)
    for name, values in sample(image, fit.params, jax.random.key(0)).items():
        print(f"{name:6}", values.mean(0), "±", values.std(0))
