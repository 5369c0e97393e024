"""Fits a second on an accelerator: 64×64 Sérsic + sky from crude starts, with and without a 25×25 PSF.

    python benchmarks/gpu.py [--counts 1000 10000 100000] [--rules quad3 adaptive] [--precisions float32 float64]

The first call compiles; the second is timed, and once more with the data on the device already. `floor` is the time
that reading and writing (pixels × (parameters + 1)) values once an evaluation takes at the measured bandwidth.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxphot as jp


def bandwidth():
    """Bytes a second of a large copy on the device."""
    block = jnp.zeros(1 << 28, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(block).block_until_ready()
    began = time.perf_counter()
    for _ in range(10):
        block = copy(block)
    block.block_until_ready()
    return 10 * 2 * block.nbytes / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--rules", nargs="+", default=["quad3", "adaptive"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "float64"])
    parser.add_argument("--psf", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    device = jax.devices()[0]
    speed = bandwidth()
    print(f"{device.device_kind}, jax {jax.__version__}, copy {speed / 1e12:.2f} TB/s", flush=True)
    print(
        "| dtype | rule | PSF | fits | fits/s | on device | compile s | steps mean / max | converged | floor fits/s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for precision in arguments.precisions:
        with jax.enable_x64(precision == "float64"):
            for rule in arguments.rules:
                for psf in arguments.psf:
                    for count in arguments.counts:
                        row(np.dtype(precision), rule, bool(psf), count, speed)


def row(dtype, rule, psf, count, speed):
    from cutouts import MODEL, make_cutouts

    sampling = {"quad3": jp.sampling.quad(3), "adaptive": getattr(jp.sampling, "adaptive", lambda: None)()}[rule]
    images, start, _, _ = make_cutouts(count, dtype=dtype, psf=psf, sampling=jp.sampling.quad(3))
    on_host = jax.tree.map(np.asarray, (start, images))

    def run(start, images):
        began = time.perf_counter()
        fits = jp.fit_batch(MODEL, start, images, progress=False, sampling=sampling)
        return time.perf_counter() - began, fits

    first, _ = run(*on_host)
    second, fits = run(*on_host)
    stepping = on_device(MODEL, start, images, sampling, fits)
    steps, status = np.asarray(fits.steps), np.asarray(fits.status)
    pixels = images.data[0].size
    floor = speed / (np.mean(np.asarray(fits.evaluations)) * pixels * 2 * 9 * dtype.itemsize)
    print(
        f"| {dtype} | {rule} | {'25×25' if psf else 'none'} | {count} | {count / second:.0f} | {stepping} |"
        f" {first - second:.1f} | {steps.mean():.1f} / {steps.max()} | {np.mean(status == 0):.4f} | {floor:.0f} |",
        flush=True,
    )


def on_device(model, start, images, sampling, fits):
    """Fits a second of one chunk whose data are on the device already."""
    from jaxphot.fitting.schedules import Task, run_stepped

    size = min(len(images.data), 16384)
    cut = jax.tree.map(lambda leaf: leaf[:size], (start, images))
    lanes = {
        "params": cut[0], "fixed": {}, "bounds": {}, "image": cut[1], "real": jnp.ones(size, bool),
        "rtol": jnp.full(size, 1e-3), "max_steps": jnp.full(size, 100, jnp.int32),
    }  # fmt: skip
    options = {"likelihood": None, "sampling": sampling, "scale_covariance": False, "window": None}
    task = Task(model, tuple(options.items()), (images.data.dtype.name,), 1)
    try:
        jax.block_until_ready(run_stepped(task, lanes))
        began = time.perf_counter()
        jax.block_until_ready(run_stepped(task, lanes))
    except jax.errors.JaxRuntimeError:
        return "–"
    return f"{size / (time.perf_counter() - began):.0f}"


if __name__ == "__main__":
    main()
