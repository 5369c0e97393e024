"""Fits a second on an accelerator: 64×64 Sérsic + sky from crude starts, with and without a 25×25 PSF.

    python benchmarks/gpu.py [--counts 1000 10000 100000] [--rules quad3 adaptive] [--precisions float32 float64 mixed]

The first call compiles; the second is timed. More than 10⁴ cutouts repeat the first 10⁴. Phases are those of one chunk
whose data are on the device already, and the copying of its data. The floor is the larger of two times: of moving value
and derivatives of every pixel once (at the measured bandwidth), and of the arithmetic of their samples (about 250
operations each, at the measured rate of a chain of multiply-adds).
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from cutouts import MODEL, make_cutouts

import jaxphot as jp
from jaxphot.fitting import schedules

RULES = {"quad3": jp.sampling.quad(3), "adaptive": jp.sampling.adaptive()}
SAMPLES = {"quad3": 9, "adaptive": 7}  # a pixel, on average
OPERATIONS = 250  # of value and 7 derivatives at a sample
UNIQUE = 10_000


def timed(run, *arguments, repeat=3):
    """Median seconds of calls after the first."""
    jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def ceilings(dtype):
    """Bytes a second of a large copy, and operations a second of a chain of multiply-adds."""
    block = jnp.ones(1 << 27, dtype)
    copy = timed(jax.jit(lambda x: x + 1), block)
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, 16, lambda _, y: _many(y), x))
    return 2 * block.nbytes / copy, 16 * 2 * 64 * block.size / timed(chain, block)


def _many(y):
    for _ in range(64):
        y = y * 0.999 + 0.001
    return y


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--precisions", nargs="+", default=["float32", "float64", "mixed"])
    parser.add_argument("--psf", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no further row is begun")
    arguments = parser.parse_args()
    began = time.perf_counter()
    jax.config.update("jax_enable_x64", True)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}", flush=True)
    limits = {name: ceilings(name) for name in ("float32", "float64")}
    for name, (speed, rate) in limits.items():
        print(f"{name}: copies {speed / 1e12:.2f} TB/s, computes {rate / 1e12:.1f} T operations/s", flush=True)
    print("| precision | rule | PSF | fits | fits/s | compile s | steps mean / max | converged | phases, ms | floor |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for precision in arguments.precisions:
        for psf in arguments.psf:
            dtype = np.dtype("float64" if precision == "mixed" else precision)
            unique = min(UNIQUE, max(arguments.counts))
            for rule in arguments.rules:
                data = make_cutouts(unique, dtype=dtype, psf=bool(psf), sampling=RULES[rule])[:2]
                data = jax.tree.map(np.asarray, data)
                for count in arguments.counts:
                    if time.perf_counter() - began < arguments.budget:
                        row(precision, rule, bool(psf), count, data, limits)


def row(precision, rule, psf, count, data, limits):
    images, start = (jax.tree.map(lambda leaf: np.resize(leaf, (count, *leaf.shape[1:])), tree) for tree in data)
    dtype = images.data.dtype

    def run():
        began = time.perf_counter()
        own = {"precision": "mixed"} if precision == "mixed" else {}
        fits = jp.fit_batch(MODEL, start, images, progress=False, sampling=RULES[rule], **own)
        return time.perf_counter() - began, fits

    first, _ = run()
    second, fits = run()
    steps, status = np.asarray(fits.steps), np.asarray(fits.status)
    phases = "–" if precision == "mixed" or count != len(data[0].data) else time_phases(rule, images, start)
    speed, rate = limits["float32" if precision == "mixed" else precision]
    pixels = images.data[0].size
    moved, computed = pixels * 2 * 9 * dtype.itemsize / speed, pixels * SAMPLES[rule] * OPERATIONS / rate
    floor = 1 / (np.mean(np.asarray(fits.evaluations)) * max(moved, computed))
    print(
        f"| {precision} | {rule} | {'25×25' if psf else 'none'} | {count} | {count / second:.0f} |"
        f" {first - second:.1f} | {steps.mean():.2f} / {steps.max()} | {np.mean(status == 0):.4f} | {phases} |"
        f" {floor:.0f} |",
        flush=True,
    )


def time_phases(rule, images, start, size=4096):
    """Milliseconds of the phases of one chunk of `size` lanes."""
    lanes = {
        "params": start, "fixed": {}, "bounds": {}, "image": images, "real": np.ones(len(images.data), bool),
        "rtol": np.full(len(images.data), 5e-3), "max_steps": np.full(len(images.data), 100, np.int32),
    }  # fmt: skip
    lanes = jax.device_put(jax.tree.map(lambda leaf: leaf[:size], lanes))
    options = {"likelihood": None, "sampling": RULES[rule], "scale_covariance": False, "window": None}
    task = schedules.Task(MODEL, tuple(sorted(options.items())), (images.data.dtype.name,), 1)
    begin = timed(schedules._begin, task, lanes)

    def three_steps():
        return schedules._advance(task, 0, lanes, schedules._begin(task, lanes), np.int32(3))

    steps = timed(three_steps) - begin
    whole = timed(schedules.run_stepped, task, lanes)
    copy = timed(lambda: jax.device_put(jax.tree.map(np.asarray, images.data[:size])))
    return f"{size}: begin {1e3 * begin:.1f}, 3 steps {1e3 * steps:.1f}, all {1e3 * whole:.1f}, copy {1e3 * copy:.1f}"


if __name__ == "__main__":
    main()
