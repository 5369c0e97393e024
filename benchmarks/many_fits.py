"""How many fits a second? 1, 10, 100, 1000 Sérsic + sky fits of 64×64 in one `fit_batch`.

    python benchmarks/many_fits.py [--largest 1000]

Each row runs in a process of its own, so that its peak memory is its own. The first call compiles; the second is timed.
"""

import argparse
import subprocess
import sys

PROGRAM = """
import resource, time
import jax
jax.config.update("jax_enable_x64", {x64})
import numpy as np
import jaxphot as jp
from cutouts import MODEL, make_cutouts
images, start, truth, _ = make_cutouts({count}, dtype=np.{dtype}, psf={psf})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def run():
    began = time.perf_counter()
    fits = jax.block_until_ready(jp.fit_batch(MODEL, start, images, progress=False))
    return time.perf_counter() - began, fits
first, fits = run()
second, fits = min((run() for _ in range(3 if {count} < 1000 else 1)), key=lambda pair: pair[0])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
status = np.asarray(fits.status)
print(f"| {dtype} | {psf_words} | {count} | {{{count} / second:.0f}} | {{first - second:.1f}} | "
      f"{{(peak - before) / 1024:.0f}} | "
      f"{{np.mean(np.asarray(fits.steps)):.1f}} / {{np.max(np.asarray(fits.steps))}} | "
      f"{{np.mean(status == 0):.3f}} |", flush=True)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=1000)
    largest = parser.parse_args().largest
    print("| dtype | PSF | fits | fits/s | compile s | memory MiB | steps mean / max | converged |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for dtype in ("float64", "float32"):
        for psf in (False, True):
            for count in (n for n in (1, 10, 100, 1000) if n <= largest):
                words = "25×25" if psf else "none"
                program = PROGRAM.format(x64=dtype == "float64", dtype=dtype, psf=psf, psf_words=words, count=count)
                subprocess.run([sys.executable, "-c", program], check=True, cwd=__file__.rpartition("/")[0] or ".")


if __name__ == "__main__":
    main()
