"""Sets of images fitted as one: what more exposures cost, and what solving amplitudes exactly saves.

python benchmarks/joint.py [--epochs 2 8 32] [--starts 40] [--side 48] [--dtype float64]
"""

import argparse
import resource
import time

import jax
import numpy as np

import jaxphot as jp

GALAXY = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
SHAPE = {"center": np.array([0.3, -0.2]), "q": 0.6, "PA": 0.7, "n": 1.8, "Re": 1.6}
BANDS = {"g": 477.0, "r": 623.0, "i": 763.0, "z": 913.0, "y": 1020.0}


def blank(k, side, dtype):
    """An empty image, turned and moved, about its own tangent point."""
    angle = 0.3 * k
    cd = 0.25 * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (side - 1) / 2 + np.array([0.3, -0.2]) * np.cos(k)
    transform = jp.make_linear(cd=cd, crpix=middle, crval=(150.0 + 1e-5 * k, 2.0))
    psf = np.exp(-0.5 * np.add.outer(np.arange(-7, 8) ** 2, np.arange(-7, 8) ** 2) / (1.4 + 0.02 * (k % 5)) ** 2)
    return jp.make_image(np.zeros((side, side)), std=0.2, transform=transform, psf=psf, dtype=dtype)


def filled(image, triple, rng):
    """The image with what the model makes of it, and noise."""
    clean = np.asarray(jp.render(*triple))
    noisy = (clean + 0.2 * rng.normal(size=clean.shape)).astype(clean.dtype)
    return jp.make_image(noisy, std=0.2, transform=image.transform, psf=image.psf, dtype=image.dtype)


def epochs(counts, side, dtype):
    """Compilation and running of one model in N exposures, each with its own brightness and sky."""
    own, rng = ("sky", "galaxy.Ie"), np.random.default_rng(3)
    print("exposures  parameters  first fit [s]  later fits [s]  a step and image [ms]  steps")
    for count in counts:
        truth = {"galaxy": {**SHAPE, "Ie": rng.uniform(20, 40, count)}, "sky": {"I0": rng.uniform(0, 2, count)}}
        images = [blank(k, side, dtype) for k in range(count)]
        triples = jp.separate(GALAXY, truth, jp.stack_images(images), own)
        stack = jp.stack_images([filled(*pair, rng) for pair in zip(images, triples, strict=True)])
        start = {"galaxy": {**SHAPE, "Re": 2.0, "n": 1.2, "q": 0.8, "Ie": 15.0}, "sky": {"I0": 0.0}}
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            fit = jax.block_until_ready(jp.fit(GALAXY, start, stack, per_image=own))
            times.append(time.perf_counter() - begun)
        step = 1e3 * min(times) / count / int(fit.evaluations)
        words = f"{times[0]:13.1f}  {min(times):14.3f}  {step:21.2f}  {int(fit.steps):5}"
        print(f"{count:9}  {len(fit.names):10}  {words}  {jp.status_message(fit)}", flush=True)


def amplitudes(count, side, dtype):
    """Steps from many starts, with amplitudes solved exactly and with none."""
    rng = np.random.default_rng(5)
    models = jp.models.by_wavelength(GALAXY, BANDS)
    levels = dict(zip(BANDS, (15.0, 25.0, 30.0, 35.0, 20.0), strict=True))
    truth = {"galaxy": {**SHAPE, "Ie": levels}, "sky": {"I0": dict.fromkeys(BANDS, 1.0)}}
    images = {band: blank(k, side, dtype) for k, band in enumerate(BANDS)}
    triples = jp.separate(models, truth, images)
    images = {band: filled(images[band], triples[band], rng) for band in BANDS}
    steps, chi2 = {"exact": [], "stepped": []}, {"exact": [], "stepped": []}
    for _ in range(count):
        factor = np.exp(0.3 * rng.normal(size=7))
        galaxy = {
            "center": SHAPE["center"] + 0.3 * rng.normal(size=2),
            "q": min(0.6 * factor[0], 0.95),
            "PA": 0.7 + 0.3 * rng.normal(),
            "n": 1.8 * factor[1],
            "Re": 1.6 * factor[2],
            "Ie": {band: 20.0 * factor[3] for band in BANDS},
        }
        start = {"galaxy": galaxy, "sky": {"I0": dict.fromkeys(BANDS, 0.0)}}
        for name, linear in (("exact", None), ("stepped", ())):
            fit = jp.fit(models, start, images, linear=linear, rtol=1e-4)
            steps[name].append(int(fit.steps))
            chi2[name].append(float(fit.chi2))
    for name, values in steps.items():
        print(f"amplitudes {name:8} {np.mean(values):6.2f} steps on average, {np.max(values)} at most")
    apart = np.abs(np.asarray(chi2["exact"]) / np.asarray(chi2["stepped"]) - 1)
    print(f"relative difference of χ²: {np.median(apart):.1e} (median), {np.max(apart):.1e} (largest)")


def main():
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, nargs="*", default=[2, 8, 32])
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    print(f"jax {jax.__version__}, {jax.default_backend()}, {options.dtype}, {options.side}² pixels")
    epochs(options.epochs, options.side, options.dtype)
    if options.starts:
        amplitudes(options.starts, options.side, options.dtype)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
