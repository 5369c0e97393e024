"""Does the command line keep up with arrays in memory, and does its memory stay flat?

    python benchmarks/command_line.py [--count 2000] [--more 20000] [--kind cube|files|frame]

Synthetic 64×64 Sérsic cutouts, float64, two ways to give them: starts in the manifest, and starts measured by
`initialize`, which arrays in memory need as well: the second rate of arrays counts its time, one image after the other.
Each run is a process of its own; rates are of the fits alone, without import and compilation: from the time at which
512 rows were stored (a quarter, if there are few) to that at which all were.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)
import numpy as np
from astropy.io import fits
from cutouts import make_cutouts

HERE = Path(__file__).parent
MEMORY = """
import json, sys, time
import jax
jax.config.update("jax_enable_x64", True)
from peak import peak_memory
from jaxphot.cli.batch import Task, run_batch
import jaxphot.cli.batch as batch
times, peaks = [], []
add = batch._Run._report
def report(self, rows, fits):
    add(self, rows, fits)
    peaks.append(peak_memory())
    times.append((self.fitted, time.perf_counter()))
batch._Run._report = report
manifest, out, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
run_batch(Task.from_options("sersic + flat_sky", given=given), manifest, out, quiet=True)
(a, s), (b, t) = next(pair for pair in times if pair[0] >= min(512, times[-1][0] // 4)), times[-1]
print(json.dumps({"rate": (b - a) / (t - s), "peak": peaks[-1], "early": peaks[len(peaks) // 4]}))
"""
ARRAYS = """
import json, sys, time
import jax
jax.config.update("jax_enable_x64", True)
import jaxphot as jp
from cutouts import MODEL, make_cutouts
count, initialized = int(sys.argv[1]), sys.argv[2] == "initialize"
images, start, _, _ = make_cutouts(count)
spent = 0.0
if initialized:
    jp.initialize(MODEL, jp.unstack_images(images)[0])
    began = time.perf_counter()
    start = jp.initialize(MODEL, images)
    spent = time.perf_counter() - began
run = lambda: jax.block_until_ready(jp.fit_batch(MODEL, start, images, progress=False))
run()
began = time.perf_counter()
run()
fitting = time.perf_counter() - began
print(json.dumps({"rate": count / fitting, "with_starts": count / (fitting + spent)}))
"""


def run(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def write(folder, count, kind, with_starts):
    """Images and manifest; returns the manifest and what is given for all rows."""
    images, start, _, _ = make_cutouts(count)
    data = np.asarray(images.data)
    names = {}
    for part, tree in start.items():
        for key, leaf in tree.items():
            leaf = np.rad2deg(leaf) if key == "PA" else np.asarray(leaf)
            names |= {f"{part}.{key}[{n}]": leaf[:, n] for n in range(2)} if leaf.ndim > 1 else {f"{part}.{key}": leaf}
    names = names if with_starts else {}
    rows = [{key: repr(float(values[row])) for key, values in names.items()} for row in range(count)]
    given = {"sigma": "1.0"}
    if kind == "cube":
        fits.PrimaryHDU(data).writeto(folder / "cube.fits")
        given["image"] = str(folder / "cube.fits")
        rows = [{"id": str(row), **values} for row, values in enumerate(rows)]
    elif kind == "files":
        for row in range(count):
            fits.PrimaryHDU(data[row]).writeto(folder / f"{row:06d}.fits")
            rows[row]["image"] = f"{row:06d}.fits"
    else:
        across = int(np.ceil(np.sqrt(count)))
        frame = np.zeros((64 * across, 64 * across))
        for row in range(count):
            j, i = divmod(row, across)
            frame[64 * j : 64 * j + 64, 64 * i : 64 * i + 64] = data[row]
            rows[row] |= {"x": str(64 * i + 32), "y": str(64 * j + 32)}
        fits.PrimaryHDU(frame).writeto(folder / "frame.fits")
        given |= {"image": str(folder / "frame.fits"), "size": 64}
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv", given


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--more", type=int, default=0)
    parser.add_argument("--kind", choices=("cube", "files", "frame"), default="cube")
    options = parser.parse_args()
    print("| images | starts | fits | fit_batch, fits/s | and initialize | command line | ratios | peak memory, MiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for with_starts in (True, False) if options.kind != "frame" else (False,):
        words = "manifest" if with_starts else "initialize"
        for count in filter(None, (options.count, options.more)):
            arrays = run(ARRAYS, min(count, options.count), words)
            with tempfile.TemporaryDirectory() as folder:
                manifest, given = write(Path(folder), count, options.kind, with_starts)
                found = run(MEMORY, manifest, f"{folder}/out", json.dumps(given))
            print(
                f"| {options.kind} | {words} | {count} | {arrays['rate']:.0f} | {arrays['with_starts']:.0f} |"
                f" {found['rate']:.0f} | {found['rate'] / arrays['rate']:.2f},"
                f" {found['rate'] / arrays['with_starts']:.2f} | {found['peak']:.0f} |", flush=True
            )  # fmt: skip


if __name__ == "__main__":
    main()
