"""Crowded fields: time and memory of a step and of a fit, and how a step grows with the number of sources.

    python benchmarks/crowded.py galaxies            # 50 Sérsics, 50 stars, sky: 501 parameters, 1024 × 1024, with PSF
    python benchmarks/crowded.py stars               # 2000 stars (positions and fluxes) and sky
    python benchmarks/crowded.py forced              # 10 000 fluxes at known positions and sky: one linear solve
    python benchmarks/crowded.py scaling             # time a step from 100 to 4000 stars at constant density
    python benchmarks/crowded.py galaxies --sources 10 --side 256

Run with OMP_NUM_THREADS=1 and ``taskset -c 0`` for one core. Every mode prints one line of JSON for each measurement.
"""

import argparse
import json
import resource
import time
from dataclasses import replace

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import jaxphot as jp
from jaxphot.fitting.crowded import with_pairs
from jaxphot.fitting.problem import make_problem
from jaxphot.fitting.solve import compile_ahead, complete_options


def psf(sigma=1.5, half=12):
    """A Gaussian of FWHM 3.5 pixels."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return jp.make_psf(np.exp(-(x**2 + y**2) / 2 / sigma**2))


def stars(rng, count, side, apart=2.0):
    """Positions over a frame, at least 2 pixels (half a FWHM) from each other, and fluxes over a factor of 30."""
    kept = np.zeros((0, 2))
    while len(kept) < count:
        new = rng.uniform(3, side - 4, (1, 2))
        if not len(kept) or np.min(np.sum((kept - new) ** 2, axis=1)) > apart**2:
            kept = np.concatenate([kept, new])
    return {"center": kept, "flux": 10 ** rng.uniform(2.5, 4, count)}


def galaxies(rng, count, side):
    """Sérsics of 2 to 5 pixels."""
    return {
        "center": rng.uniform(20, side - 21, (count, 2)),
        "q": rng.uniform(0.4, 0.9, count),
        "PA": rng.uniform(0, np.pi, count),
        "n": rng.uniform(0.8, 3, count),
        "Re": rng.uniform(2, 5, count),
        "Ie": 10 ** rng.uniform(1, 2, count),
    }


def simulate(model, truth, side, rng):
    """An image of a scene with noise of 1 a pixel."""
    blank = jp.make_image(np.zeros((side, side)), std=1.0, psf=psf())
    data = jp.render(model, truth, blank) + rng.standard_normal((side, side))
    return replace(blank, data=data)


def shifted(truth, rng):
    """A start: positions off by 0.3 pixel, fluxes and sizes by 20 %."""

    def change(key, leaf):
        if key == "center":
            return leaf + 0.3 * rng.standard_normal(leaf.shape)
        return leaf * (1 + 0.2 * rng.uniform(-1, 1, np.shape(leaf))) if key in ("flux", "Ie", "Re") else leaf

    return {name: {key: change(key, leaf) for key, leaf in part.items()} for name, part in truth.items()}


def measure(label, model, start, image, **options):
    """Time a whole fit with compilation, one without, and so a step; print what came out."""
    begin = time.perf_counter()
    fit = jax.block_until_ready(jp.fit(model, start, image, **options))
    whole = time.perf_counter() - begin
    begin = time.perf_counter()
    jax.block_until_ready(jp.fit(model, start, image, **options))
    again = time.perf_counter() - begin
    setup, lane = make_problem(model, start, image, **complete_options("measure", options))
    needs = compile_ahead(setup, with_pairs(setup, lane)).memory_analysis()
    row = {
        "case": label,
        "parameters": len(fit.names),
        "status": jp.status_message(int(fit.status)),
        "steps": int(fit.steps),
        "chi2/dof": round(float(fit.chi2 / fit.dof), 4),
        "first fit (s)": round(whole, 2),
        "second fit (s)": round(again, 2),
        "a step (s)": round(again / int(fit.evaluations), 3),
        "memory of the program (MB)": round((needs.temp_size_in_bytes + needs.argument_size_in_bytes) / 1e6),
        "peak of the process with its compiler (MB)": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)
    return fit


def run_galaxies(count, side):
    rng = np.random.default_rng(1)
    truth = {"galaxies": galaxies(rng, count, side), "stars": stars(rng, count, side), "sky": {"I0": 10.0}}
    model = jp.scene(
        galaxies=jp.many(jp.models.sersic, stamp=64),
        stars=jp.many(jp.models.point_source, stamp=31),
        sky=jp.models.flat_sky,
    )
    image = simulate(model, truth, side, rng)
    return measure(f"{count} galaxies, {count} stars", model, shifted(truth, rng), image)


def run_stars(count, side, label="stars", **options):
    rng = np.random.default_rng(2)
    truth = {"stars": stars(rng, count, side), "sky": {"I0": 10.0}}
    model = jp.scene(stars=jp.many(jp.models.point_source, stamp=27), sky=jp.models.flat_sky)
    image = simulate(model, truth, side, rng)
    start = shifted(truth, rng)
    if options:
        start["stars"]["center"] = truth["stars"]["center"]
    fit = measure(f"{count} {label}", model, start, image, **options)
    pull = (np.asarray(fit.params["stars"]["flux"]) - truth["stars"]["flux"]) / np.asarray(fit.stderr["stars"]["flux"])
    width = 1.4826 * np.median(np.abs(pull - np.median(pull)))
    pulls = {
        "median": float(np.median(pull)),
        "robust scatter": float(width),
        "beyond 5": int(np.sum(np.abs(pull) > 5)),
    }
    print(json.dumps({"flux pulls": pulls}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("galaxies", "stars", "forced", "scaling"))
    parser.add_argument("--sources", type=int)
    parser.add_argument("--side", type=int, default=1024)
    given = parser.parse_args()
    if given.mode == "galaxies":
        run_galaxies(given.sources or 50, given.side)
    elif given.mode == "stars":
        run_stars(given.sources or 2000, given.side)
    elif given.mode == "forced":
        run_stars(given.sources or 10_000, given.side, "fluxes", fixed={"stars": {"center": None}})
    else:
        for count in (100, 200, 500, 1000, 2000, 4000):
            run_stars(count, max(64, round(given.side * np.sqrt(count / 4000))), max_steps=6)


if __name__ == "__main__":
    main()
