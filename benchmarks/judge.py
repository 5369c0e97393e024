"""What batch.py shares: exact data, our fits in the peers' form, and the verdicts on everybody's fits."""

import dataclasses
import inspect
import json
import os
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cutouts import make_cutouts, moffat_stamp
from peak import peak_memory
from peers import MALLOC, Outcome

import jaxphot as jp

GALAXY = jp.scene(galaxy=jp.models.sersic)
WITH_SKY = jp.scene(galaxy=jp.models.sersic, sky=jp.models.plane_sky)
EXACT = jp.sampling.adaptive(1e-6)
CONVOLVE_CELLS = False  # set by batch.py's --cells before anything is drawn


def cut(tree, few):
    """The first lanes of a tree."""
    return jax.tree.map(lambda leaf: leaf[:few], tree)


def understands(option):
    """Whether this version of the fits has an option."""
    return any(option in inspect.signature(function).parameters for function in (jp.fit, jp.fit_batch))


class Ours:
    """`fit_batch` (or `fit`, one by one) in the peers' form."""

    def __init__(self, model, *, dtype=np.float64, single=False, **options):
        self.model, self.dtype, self.single, self.options = model, dtype, single, options

    def fit(self, data, start, stamp=None):
        """Fit all; making the images is not timed, copying them to the device is."""
        blank = jp.make_image(np.zeros(data.shape[1:]), std=1.0, psf=stamp, dtype=self.dtype)
        images = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(data), *leaf.shape)), blank)
        images = dataclasses.replace(images, data=np.asarray(data, self.dtype))
        start = jax.tree.map(lambda leaf: np.asarray(leaf, self.dtype), start)
        began = time.perf_counter()
        if self.single:
            lanes = [jax.tree.map(lambda leaf, k=k: leaf[k], (start, images)) for k in range(len(data))]
            lanes = [jax.block_until_ready(jp.fit(self.model, *lane, **self.options)) for lane in lanes]
            fits = jax.tree.map(lambda *leaves: np.stack(leaves), *lanes)
        else:
            fits = jax.block_until_ready(jp.fit_batch(self.model, start, images, progress=False, **self.options))
        outcome = Outcome(*_arrays((fits.params, fits.stderr, fits.steps)), time.perf_counter() - began)
        outcome.status = np.asarray(fits.status)
        return outcome


def _arrays(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.asarray(leaf).dtype), tree)


# ----------------------------------------------------------------------------------------------------- exact data


class Frame(NamedTuple):
    """Where exact images are drawn: a blank image with the PSF, or a wider one without and the stamp beside it."""

    image: jp.Image
    stamp: jax.Array | None


def make_frame(shape, stamp):
    """For `exact`; made outside `jit`."""
    if stamp is None or not CONVOLVE_CELLS:
        return Frame(jp.make_image(np.zeros(shape), std=1.0, psf=stamp), None)
    wide = tuple(side + stamp.shape[0] - 1 for side in shape)
    return Frame(jp.make_image(np.zeros(wide), std=1.0), jnp.asarray(stamp / stamp.sum()))


def exact(params, frame):
    """One exact image."""
    if frame.stamp is None:
        return jp.render(WITH_SKY if "sky" in params else GALAXY, params, frame.image, EXACT)
    reach = frame.stamp.shape[0] // 2
    galaxy = params["galaxy"] | {"center": params["galaxy"]["center"] + reach}
    pixels = jp.render(jp.models.sersic, galaxy, frame.image, EXACT)
    pixels = jax.scipy.signal.fftconvolve(pixels, frame.stamp, mode="valid")
    if "sky" in params:
        sky = params["sky"] | {"I0": params["sky"]["I0"] - reach * params["sky"]["delta"].sum()}
        pixels = pixels + jp.render(jp.models.plane_sky, sky, frame.image)[reach:-reach, reach:-reach]
    return pixels


@jax.jit
def _exact_images(params, frame):
    return jax.lax.map(lambda own: exact(own, frame), params)


def exact_images(params, shape, stamp):
    """Exact images of all lanes."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), params)
    return np.asarray(_exact_images(params, make_frame(shape, stamp)))


def cutouts(count, stamp, seed=1):
    """Data with unit noise (N, 64, 64), crude starts, truth, S/N: a galaxy each, without sky."""
    _, start, truth, signal_to_noise = make_cutouts(count, seed=seed, sampling=jp.sampling.quad(3))
    start, truth = ({"galaxy": _arrays(tree["galaxy"])} for tree in (start, truth))
    data = exact_images(truth, (64, 64), stamp)
    return data + np.random.default_rng(seed + 1).normal(size=data.shape), start, truth, signal_to_noise


def measured_starts(data, stamp):
    """What `initialize` makes of each image."""
    images = [jp.make_image(pixels, std=1.0, psf=stamp) for pixels in data]
    return _arrays(jp.initialize(GALAXY, images))


def large_images(stamp, side=512):
    """Three large images with unit noise, crude starts, truth."""
    galaxy = {
        "center": np.array([[250.3, 261.7], [262.1, 255.5], [255.6, 249.2]]),
        "q": np.array([0.5, 0.7, 0.85]),
        "PA": np.array([0.4, 1.5, 2.6]),
        "n": np.array([1.0, 2.5, 4.0]),
        "Re": np.array([35.0, 30.0, 25.0]),
        "Ie": np.full(3, 8.0),
    }
    truth = {"galaxy": galaxy, "sky": {"I0": np.full(3, 5.0), "delta": np.tile([2e-3, -1e-3], (3, 1))}}
    start = {
        "galaxy": {
            "center": galaxy["center"] + np.array([2.0, -2.0]),
            "q": np.full(3, 0.7),
            "PA": galaxy["PA"] + np.deg2rad(40) * np.array([1, -1, -1]),
            "n": np.full(3, 1.5),
            "Re": 1.3 * galaxy["Re"],
            "Ie": 0.7 * galaxy["Ie"],
        },
        "sky": {"I0": np.full(3, 4.0), "delta": np.zeros((3, 2))},
    }
    data = exact_images(truth, (side, side), stamp)
    return data + np.random.default_rng(3).normal(size=data.shape), start, truth


# ------------------------------------------------------------------------------------------------------- verdicts


def common_chi2(params, data, stamp):
    """χ² of everybody's parameters under the one exact model; infinite where they are not finite."""
    finite = np.all([np.isfinite(leaf.reshape(len(data), -1)).all(1) for leaf in jax.tree.leaves(params)], axis=0)
    safe = jax.tree.map(lambda leaf: np.where(finite.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0.5), params)
    chi2 = ((data - exact_images(safe, data.shape[1:], stamp)) ** 2).sum((1, 2))
    return np.where(finite & np.isfinite(chi2), chi2, np.inf)


def cramer_rao(truth, shape, stamp):
    """Smallest possible standard errors at the truth, as a tree."""
    leaves, structure = jax.tree.flatten(truth)
    sizes = [int(np.prod(leaf.shape[1:])) for leaf in leaves]

    def unravel(vector):
        pieces = jnp.split(vector, np.cumsum(sizes)[:-1])
        return jax.tree.unflatten(
            structure, [piece.reshape(leaf.shape[1:]) for piece, leaf in zip(pieces, leaves, strict=True)]
        )

    @jax.jit
    def bound(vectors, frame):
        def one(vector):
            jacobian = jax.jacfwd(lambda v: exact(unravel(v), frame).ravel())(vector)
            return jnp.sqrt(jnp.diag(jnp.linalg.inv(jacobian.T @ jacobian)))

        return jax.lax.map(one, vectors)

    vectors = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    columns = np.split(np.asarray(bound(vectors, make_frame(shape, stamp))), np.cumsum(sizes)[:-1], axis=1)
    return jax.tree.unflatten(structure, [c.reshape(leaf.shape) for c, leaf in zip(columns, leaves, strict=True)])


def difference(params, truth):
    """Parameters less truth; angles modulo π."""
    off = {key: params["galaxy"][key] - truth["galaxy"][key] for key in truth["galaxy"]}
    off["PA"] = (off["PA"] + np.pi / 2) % np.pi - np.pi / 2
    return {"galaxy": off}


def quality(outcomes, data, truth, start, stamp, few):
    """Table of every tool on the cutouts that all have fitted."""
    data, truth = data[:few], cut(truth, few)
    bound = cramer_rao(truth, data.shape[1:], stamp)
    chi2 = {name: common_chi2(cut(outcome.params, few), data, stamp) for name, outcome in outcomes.items()}
    ideal = Ours(GALAXY, sampling=EXACT).fit(data, truth, stamp)
    floor = common_chi2(ideal.params, data, stamp)
    best = np.min([floor, *chi2.values()], axis=0)
    print(f"\nThe {few} cutouts that all have fitted. The best possible |Δ|/bound is 0.67, errors/bound 1.\n")
    print("| tool | χ² − best: median / 90 % / max | within +1 | |Δ|/bound, median: shape / n, Re, Ie | errors/bound |")
    print("|---|---|---|---|---|")
    for name, outcome in outcomes.items():
        worse = chi2[name] - best
        off = jax.tree.map(lambda d, b: np.abs(d) / b, difference(cut(outcome.params, few), truth), bound)["galaxy"]
        shape = np.nanmedian([off["q"], off["PA"], *off["center"].T])
        profile = np.nanmedian([off["n"], off["Re"], off["Ie"]])
        ratio = [np.ravel(outcome.stderr["galaxy"][key][:few] / bound["galaxy"][key]) for key in ("n", "Re", "q")]
        print(
            f"| {name} | {np.median(worse):.2g} / {np.quantile(worse, 0.9):.2g} / {worse.max():.2g} |"
            f" {np.mean(worse <= 1):.1%} | {shape:.2f} / {profile:.2f} | {np.nanmedian(ratio):.3f} |",
            flush=True,
        )


def pulls(outcome, truth, shape, stamp, chosen):
    """Table of (fit − truth) / error of each parameter, and of the errors over the Cramér–Rao bound."""
    truth, params, stderr = (
        jax.tree.map(lambda leaf: leaf[chosen], t) for t in (truth, outcome.params, outcome.stderr)
    )
    bound, off = cramer_rao(truth, shape, stamp), difference(params, truth)
    # where q is not told from 1, neither it nor PA can scatter symmetrically
    clear = np.asarray(1 - truth["galaxy"]["q"] > 5 * bound["galaxy"]["q"])
    print("| parameter | fits | mean | limit | sd | limit | error / bound, median |\n|---|---|---|---|---|---|---|")
    for key in off["galaxy"]:
        kept = clear if key in ("q", "PA") else np.ones_like(clear)
        pull = (off["galaxy"][key] / stderr["galaxy"][key])[kept].reshape(kept.sum(), -1)
        ratio = (stderr["galaxy"][key] / bound["galaxy"][key])[kept].reshape(kept.sum(), -1)
        for axis in range(pull.shape[1]):
            good = np.isfinite(pull[:, axis])
            own, count = pull[good, axis], good.sum()
            name = f"{key}[{axis}]" if pull.shape[1] > 1 else key
            print(
                f"| {name} | {count} | {own.mean():+.3f} | {4 / np.sqrt(count):.3f} | {own.std():.3f} |"
                f" 1 ± {4 / np.sqrt(2 * count):.3f} | {np.nanmedian(ratio[:, axis]):.3f} |",
                flush=True,
            )


# --------------------------------------------------------------------------------------- processes of their own


def _spawn(job, count, cores):
    """Run `child` on given cores; the numbers it printed."""
    program = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "batch.py")]
    done = subprocess.run(
        [*program, "--child", job, "--count", str(count)],
        env={**os.environ, **MALLOC},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def child(job, count):
    """Fit `count` cutouts after a warm-up and print the seconds and the memory: a process of `cores` or `memory`."""
    psf, dtype, rule = job.split(",")
    stamp = moffat_stamp() if psf == "psf" else None
    data, start, _, _ = cutouts(min(count, 256), stamp)
    repeat = -(-count // len(data))
    data, start = jax.tree.map(lambda leaf: np.concatenate([leaf] * repeat)[:count], (data, start))
    sampling = jp.sampling.adaptive() if rule == "adaptive" else jp.sampling.quad(3)
    tool = Ours(GALAXY, dtype=np.dtype(dtype), sampling=sampling)
    tool.fit(data[:128], cut(start, 128), stamp)
    before = peak_memory()
    seconds = min(tool.fit(data, start, stamp).seconds for _ in range(2))
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak_memory(), "data": data.nbytes / 2**20}))


def cores(_, options):
    """Fits a second on one core and on two, alternating."""
    if len(options.cores) < 2:
        print("\n## cores: needs two")
        return
    print("\n## cores: fits/s, by `fit_batch` in a process bound to the cores, best of the rounds\n")
    print("| PSF | dtype | rule | one core | two cores | ratio |\n|---|---|---|---|---|---|")
    for job in ("nopsf,float64,adaptive", "nopsf,float32,quad", "psf,float64,adaptive"):
        best = {1: np.inf, 2: np.inf}
        for _ in range(options.rounds):
            for number in best:
                best[number] = min(best[number], _spawn(job, options.count, options.cores[-number:])["seconds"])
        one, two = (options.count / best[number] for number in (1, 2))
        print(f"| {' | '.join(job.split(','))} | {one:.4g} | {two:.4g} | {best[1] / best[2]:.2f} |", flush=True)


def memory(_, options):
    """Peak resident memory of the process, and what the fits added to it, by N."""
    print("\n## memory: MiB; `added` is what the batch's fits added to a process that had compiled\n")
    print("| PSF | dtype | rule | N | data | added | peak of the process |\n|---|---|---|---|---|---|---|")
    for job in ("nopsf,float64,adaptive", "psf,float64,adaptive", "psf,float32,adaptive"):
        for count in (options.count // 4, options.count, 4 * options.count):
            got = _spawn(job, count, options.cores)
            words = " | ".join(job.split(","))
            added = got["peak"] - got["before"]
            print(f"| {words} | {count} | {got['data']:.0f} | {added:.0f} | {got['peak']:.0f} |", flush=True)
