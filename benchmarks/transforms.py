"""How long SIP frames take to build and to look up, and how exact they are, beside astropy and AstroPhot.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/transforms.py

Builds are given for the first call and the best of five: the first includes the operating system's handing out memory.
"""

import argparse
import resource
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from jaxphot.transforms.sip import make_sip

A = {(2, 0): 2e-6, (1, 1): 5e-7, (0, 2): -3e-7, (3, 0): 2e-10, (1, 2): 1e-10, (4, 0): 1e-14, (2, 2): 1e-14}
B = {(q, p): -value for (p, q), value in A.items()}
SCALE = 0.2


def build(side, dtype, step=1):
    options = {"pixelscale": SCALE, "crpix": (side / 2, side / 2), "crval": (150.0, 2.0)}
    return make_sip((side, side), A, B, dtype=dtype, step=step, **options)


def timed(function, repeat=5):
    """First and best time of a call, seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
        del result
    return times[0], min(times)


def astropy_wcs(side):
    header = fits.Header({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 4, "B_ORDER": 4})
    header.update({"CRPIX1": side / 2 + 1, "CRPIX2": side / 2 + 1, "CRVAL1": 150.0, "CRVAL2": 2.0})
    header.update({"CD1_1": SCALE / 3600, "CD2_2": SCALE / 3600, "CD1_2": 0.0, "CD2_1": 0.0})
    header.update({f"{name}_{p}_{q}": c for name, poly in (("A", A), ("B", B)) for (p, q), c in poly.items()})
    return WCS(header)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--points", type=int, default=10**6)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"device: {jax.devices()[0].platform}, {arguments.points} points; seconds")
    for side in arguments.sides:
        for dtype, step in ((np.float64, 1), (np.float32, 1), (np.float64, 8)):
            first, best = timed(lambda: build(side, dtype, step))  # noqa: B023
            transform = build(side, dtype, step)
            name = f"{side}² {np.dtype(dtype).name} step={step}"
            print(f"{name:24s} build first {first:.3f} best {best:.3f}, accuracy {float(transform.accuracy):.1e} px")
            look_ups(transform, side, dtype, arguments.points)
        print(f"{'':24s} peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    beside_astropy(arguments.sides[0], arguments.points)
    beside_astrophot()


def look_ups(transform, side, dtype, count):
    rng = np.random.default_rng(0)
    row = int(np.sqrt(count))
    j, i = np.indices((row, row)).reshape(2, -1) * (side - 1.0) / row
    cases = {"in order": (i, j), "at random": rng.uniform(-0.5, side - 0.5, (2, count))}
    for name, positions in cases.items():
        i, j = (jnp.asarray(v, dtype) for v in positions)
        forward, backward = (
            jax.jit(lambda t, i, j: t.pixel_to_plane(i, j)),
            jax.jit(lambda t, x, y: t.plane_to_pixel(x, y)),
        )
        x, y = forward(transform, i, j)
        back = backward(transform, x, y)
        error = float(jnp.max(jnp.hypot(back[0] - i, back[1] - j)))
        to_plane, to_pixel = timed(lambda: forward(transform, i, j))[1], timed(lambda: backward(transform, x, y))[1]  # noqa: B023
        print(f"  {name:22s} to plane {to_plane:.3f}, to pixel {to_pixel:.3f}, round trip {error:.1e} px")


def beside_astropy(side, count):
    wcs = astropy_wcs(side)
    i, j = np.random.default_rng(0).uniform(-0.5, side - 0.5, (2, count))
    _, forward = timed(lambda: wcs.all_pix2world(i, j, 0), 1)
    few = slice(0, count // 20)
    sky = wcs.all_pix2world(i[few], j[few], 0)
    _, backward = timed(lambda: wcs.all_world2pix(*sky, 0), 1)
    print(f"astropy {side}²: to sky {forward:.3f}, to pixel {20 * backward:.1f} (extrapolated from 1/20 of the points)")


def beside_astrophot():
    try:
        import astrophot
    except ImportError:
        print("AstroPhot is not installed here; on the machine of the prototype it took 13 s at 2048²")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = np.zeros((2048, 2048))
        options = {"data": data, "pixelscale": SCALE, "crpix": (1024, 1024), "sipA": A, "sipB": B}
        _, seconds = timed(lambda: astrophot.SIPTargetImage(**options).pixel_area_map, 1)
    print(f"AstroPhot {astrophot.__version__} 2048²: build {seconds:.1f}")


if __name__ == "__main__":
    main()
