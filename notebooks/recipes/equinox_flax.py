"""A network that guesses unconstrained parameters from pixels, trained through the density: by equinox, and by flax.

Nobody tells the network what is right: it learns from how well the galaxy that it guesses explains the pixels.
"""

import equinox as eqx
import flax.linen as nn
import galaxy
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jax.flatten_util import ravel_pytree

import jaxphot as jp


def galaxies(count, key, spread=0.3):
    """A stack of images of galaxies that scatter about the recipes' one, and what training needs to know of them.

    Returns
    -------
    images : Image
        With a leading axis.
    loss : callable
        ``loss(offsets, image)`` → −log density a pixel, of unconstrained parameters that are off the recipes' galaxy.
    offsets : (count, P) array
        The true ones.
    """
    blank = galaxy.observe()
    of_blank = galaxy.density(blank)
    middle, unravel = ravel_pytree(of_blank.unconstrain(galaxy.TRUTH))
    shape, noise = jax.random.split(key)
    offsets = spread * jax.random.normal(shape, (count, len(middle)), middle.dtype)

    def draw(offsets, key):
        params = of_blank.constrain(unravel(middle + offsets))
        return jp.simulate(galaxy.MODEL, params, blank, key, sampling=galaxy.SAMPLING)

    def loss(guess, image):
        return -galaxy.density(image)(unravel(middle + guess)) / image.data.size

    return jax.jit(jax.vmap(draw))(offsets, jax.random.split(noise, count)), loss, offsets


def features(image):
    """What a network sees: pixels of order one."""
    return jnp.arcsinh(image.data).ravel()


def train_equinox(images, loss, size, steps, rate=3e-3):
    """A multi-layer perceptron of equinox, and its losses; images are arguments of a filter_jit-ted function."""
    network = eqx.nn.MLP(images.data[0].size, size, 32, 1, key=jax.random.key(1))
    network = eqx.tree_at(lambda net: net.layers[-1].weight, network, replace_fn=jnp.zeros_like)  # begin in the middle
    network = eqx.tree_at(lambda net: net.layers[-1].bias, network, replace_fn=jnp.zeros_like)
    optimizer = optax.adam(rate)
    state = optimizer.init(eqx.filter(network, eqx.is_array))

    @eqx.filter_jit
    def step(network, state, images):
        def mean_loss(network):
            return jnp.mean(jax.vmap(lambda image: loss(network(features(image)), image))(images))

        value, gradient = eqx.filter_value_and_grad(mean_loss)(network)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(network, updates), state, value

    losses = []
    for _ in range(steps):
        network, state, value = step(network, state, images)
        losses.append(float(value))
    return network, losses


class Guess(nn.Module):
    """One hidden layer."""

    size: int

    @nn.compact
    def __call__(self, pixels):
        """Offsets of unconstrained parameters; none before training."""
        hidden = nn.relu(nn.Dense(32)(pixels))
        return nn.Dense(self.size, kernel_init=nn.initializers.zeros)(hidden)


def train_flax(images, loss, size, steps, rate=3e-3):
    """A flax train state, and its losses."""
    network = Guess(size)
    weights = network.init(jax.random.key(1), images.data[0].ravel())
    state = TrainState.create(apply_fn=network.apply, params=weights, tx=optax.adam(rate))

    @jax.jit
    def step(state, images):
        def mean_loss(weights):
            guess = lambda image: state.apply_fn(weights, features(image)).astype(image.dtype)  # noqa: E731
            return jnp.mean(jax.vmap(lambda image: loss(guess(image), image))(images))

        value, gradient = jax.value_and_grad(mean_loss)(state.params)
        return state.apply_gradients(grads=gradient), value

    losses = []
    for _ in range(steps):
        state, value = step(state, images)
        losses.append(float(value))
    return state, losses


if __name__ == "__main__":
    images, loss, offsets = galaxies(500, jax.random.key(0))
    print(f"−log density a pixel with the true parameters: {jnp.mean(jax.vmap(loss)(offsets, images)):.3f}")
    for train in (train_equinox, train_flax):
        _, losses = train(images, loss, offsets.shape[1], 300)
        print(f"{train.__name__}: from {losses[0]:.3f} to {losses[-1]:.3f}")
