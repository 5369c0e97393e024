"""Seeded 64×64 Sérsic cutouts with known truth, for the other benchmarks."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxphot as jp

BATCH = 256 if jax.default_backend() != "cpu" else 1
MODEL = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)


def moffat_stamp(size=25, fwhm=3.0, beta=2.5):
    """A round Moffat, sampled at the centres of its cells."""
    v, u = np.indices((size, size)) - size // 2
    width = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    return (1 + (u**2 + v**2) / width**2) ** -beta


def make_cutouts(count, *, dtype=np.float64, psf=False, side=64, seed=1, sampling=None):
    """A stack of images, crude starts, and the truth.

    Centres within 2 px of the middle, q 0.2–1, n 0.6–5, Re 2–9 px, S/N 30–1000; the starts are off by 3 px, 40° and
    30 % in size and brightness, with n = 1.5 and q = 0.7.
    """
    rng = np.random.default_rng(seed)
    stamp = jp.make_psf(moffat_stamp(), dtype=dtype) if psf else None
    blank = jp.make_image(np.zeros((side, side)), std=1.0, psf=stamp, dtype=dtype)
    middle = (side - 1) / 2
    galaxy = {
        "center": middle + rng.uniform(-2, 2, (count, 2)),
        "q": rng.uniform(0.2, 1, count),
        "PA": rng.uniform(0, np.pi, count),
        "n": np.exp(rng.uniform(np.log(0.6), np.log(5), count)),
        "Re": np.exp(rng.uniform(np.log(2), np.log(9), count)),
        "Ie": np.ones(count),
    }
    signal_to_noise = np.exp(rng.uniform(np.log(30), np.log(1000), count))
    truth = {"galaxy": galaxy, "sky": {"I0": np.zeros(count)}}
    options = {} if sampling is None else {"sampling": sampling}
    draw = jax.jit(
        lambda params: jax.lax.map(lambda own: jp.render(MODEL, own, blank, **options), params, batch_size=BATCH)
    )
    as_arrays = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)  # noqa: E731
    pixels = np.asarray(draw(as_arrays(truth)), np.float64)
    galaxy["Ie"] = signal_to_noise / np.sqrt((pixels**2).sum((1, 2)))
    truth["sky"]["I0"] = np.full(count, 0.5)
    pixels = galaxy["Ie"][:, None, None] * pixels + 0.5
    data = pixels + rng.normal(size=pixels.shape)
    one = jnp.ones((count, side, side), dtype)
    images = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), blank)
    images = jp.Image(jnp.asarray(data, dtype), one, images.transform, images.psf, images.zeropoint, images.gain)
    angle = rng.uniform(0, 2 * np.pi, count)
    sign = lambda: rng.choice([-1, 1], count)  # noqa: E731
    start = {
        "galaxy": {
            "center": galaxy["center"] + 3 * np.stack([np.cos(angle), np.sin(angle)], 1),
            "q": np.full(count, 0.7),
            "PA": (galaxy["PA"] + np.deg2rad(40) * sign()) % np.pi,
            "n": np.full(count, 1.5),
            "Re": galaxy["Re"] * np.exp(0.3 * sign()),
            "Ie": galaxy["Ie"] * np.exp(0.3 * sign()),
        },
        "sky": {"I0": np.full(count, 0.3)},
    }
    return images, as_arrays(start), as_arrays(truth), signal_to_noise
