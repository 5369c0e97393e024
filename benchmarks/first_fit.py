"""How long does a newcomer wait? First and second fit of a 64×64 Sérsic + sky, in a fresh process.

python benchmarks/first_fit.py
"""

import subprocess
import sys

PROGRAM = """
import time
began = time.perf_counter()
import jax
jax.config.update("jax_enable_x64", {x64})
import numpy as np
import jaxphot as jp
from cutouts import MODEL, make_cutouts
imported = time.perf_counter() - began
images, start, truth, _ = make_cutouts(1, dtype=np.{dtype}, psf={psf})
image = jp.unstack_images(images)[0]
begin = jp.initialize(MODEL, image)
def fit():
    began = time.perf_counter()
    result = jax.block_until_ready(jp.fit(MODEL, begin, image))
    return time.perf_counter() - began, result
first, result = fit()
second, result = fit()
print(f"{dtype} psf={psf!s:5}  import {{imported:.2f}} s  first fit {{first:.2f}} s  second {{1e3 * second:.1f}} ms"
      f"  {{int(result.steps)}} steps, {{jp.status_message(result.status)}}")
"""


def main():
    for dtype in ("float64", "float32"):
        for psf in (False, True):
            program = PROGRAM.format(x64=dtype == "float64", dtype=dtype, psf=psf)
            subprocess.run([sys.executable, "-c", program], check=True, cwd=__file__.rpartition("/")[0] or ".")


if __name__ == "__main__":
    main()
