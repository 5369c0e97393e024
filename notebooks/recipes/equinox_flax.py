"""A network that guesses unconstrained parameters from pixels, trained through the density: by equinox, and by flax."""

import equinox as eqx
import flax.linen as nn
import galaxy
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jax.flatten_util import ravel_pytree

import jaxphot as jp


def images_and_density(count, key):
    """A stack of images of the recipes' galaxy with noise of their own, and the density of one as a function."""
    blank = galaxy.observe()
    draw = lambda key: jp.simulate(galaxy.MODEL, galaxy.TRUTH, blank, key, sampling=galaxy.SAMPLING)  # noqa: E731
    images = jax.vmap(draw)(jax.random.split(key, count))
    start, unravel = ravel_pytree(galaxy.density(blank).unconstrain(galaxy.TRUTH))
    loss = lambda guess, image: -galaxy.density(image)(unravel(start + guess)) / image.data.size  # noqa: E731
    return images, loss, len(start)


def train_equinox(count=8, steps=5):
    """Losses of a multi-layer perceptron of equinox; images are arguments of a filter_jit-ted function."""
    images, loss, size = images_and_density(count, jax.random.key(0))
    network = eqx.nn.MLP(images.data[0].size, size, 16, 1, key=jax.random.key(1))
    network = jax.tree.map(lambda leaf: 0.1 * leaf if eqx.is_array(leaf) else leaf, network)
    optimizer = optax.adam(1e-2)
    state = optimizer.init(eqx.filter(network, eqx.is_array))

    @eqx.filter_jit
    def step(network, state, images):
        def mean_loss(network):
            return jnp.mean(jax.vmap(lambda image: loss(network(image.data.ravel()), image))(images))

        value, gradient = eqx.filter_value_and_grad(mean_loss)(network)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(network, updates), state, value

    losses = []
    for _ in range(steps):
        network, state, value = step(network, state, images)
        losses.append(float(value))
    return losses


class Guess(nn.Module):
    """One hidden layer."""

    size: int

    @nn.compact
    def __call__(self, pixels):
        """Offsets of unconstrained parameters."""
        hidden = nn.tanh(nn.Dense(16)(pixels))
        return nn.Dense(self.size, kernel_init=nn.initializers.zeros)(hidden)


def train_flax(count=8, steps=5):
    """Losses of a flax train state."""
    images, loss, size = images_and_density(count, jax.random.key(0))
    network = Guess(size)
    weights = network.init(jax.random.key(1), images.data[0].ravel())
    state = TrainState.create(apply_fn=network.apply, params=weights, tx=optax.adam(1e-2))

    @jax.jit
    def step(state, images):
        def mean_loss(weights):
            guess = lambda image: state.apply_fn(weights, image.data.ravel()).astype(image.dtype)  # noqa: E731
            return jnp.mean(jax.vmap(lambda image: loss(guess(image), image))(images))

        value, gradient = jax.value_and_grad(mean_loss)(state.params)
        return state.apply_gradients(grads=gradient), value

    losses = []
    for _ in range(steps):
        state, value = step(state, images)
        losses.append(float(value))
    return losses


if __name__ == "__main__":
    print("equinox", train_equinox())
    print("flax", train_flax())
