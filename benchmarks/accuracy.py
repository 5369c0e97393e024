"""How exact are pixels, by which rule, at what cost? Beside other tools, where they are installed.

python benchmarks/accuracy.py [--full]

Pixel error: the largest, relative to the larger of the pixel and 1e-4 of the brightest; flux error: of the sum. Exact
pixels come from `benchmarks/exact.py`. Each number is the worse of two places of the centre.
"""

import argparse
import time

import exact
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import gamma, gammaincinv

import jaxphot as jp

jax.config.update("jax_enable_x64", True)

RULES = {
    "midpoint": jp.sampling.midpoint(),
    "simpsons": jp.sampling.simpsons(),
    "quad(3)": jp.sampling.quad(3),
    "quad(5)": jp.sampling.quad(5),
    "upsample(10)": jp.sampling.upsample(10),
    "adaptive(1e-3)": jp.sampling.adaptive(1e-3),
    "adaptive()": jp.sampling.adaptive(),
    "adaptive(1e-6)": jp.sampling.adaptive(1e-6),
}
SIDE = 48
PLACES = [(23.13, 24.31, 1.0), (22.4999, 24.5001, 0.3)]


def sources(full):
    """(n, q, Re) of the grid."""
    if full:
        return [(n, q, Re) for n in (0.5, 1, 2.5, 4, 6, 8) for q in (1, 0.6, 0.2, 0.05) for Re in (0.5, 3, 10, 30)]
    return [(1, 0.6, 6), (2.5, 0.6, 6), (4, 0.6, 3), (4, 0.2, 10), (2.5, 0.2, 0.5), (8, 0.6, 10), (2.5, 0.05, 6)]


def params_of(n, q, Re, x, y, PA):
    return {"center": np.array([x, y]), "q": q, "PA": PA, "n": n, "Re": Re, "Ie": 1.0}


def errors(image, truth):
    image = np.asarray(image, float)
    pixel = np.max(np.abs(image - truth) / np.maximum(truth, 1e-4 * truth.max()))
    return pixel, abs(image.sum() - truth.sum()) / truth.sum()


def total_flux(n, q, Re):
    """Of a Sérsic with Ie = 1."""
    b = gammaincinv(2 * n, 0.5)
    return 2 * np.pi * n * Re**2 * q * np.exp(b) * b ** (-2 * n) * gamma(2 * n)


def peers():
    """Other tools' images, as functions of (n, q, Re, x, y, PA)."""
    found = {}
    try:
        from astropy.modeling.models import Sersic2D

        def astropy_(n, q, Re, x, y, PA):
            model = Sersic2D(amplitude=1, r_eff=Re, n=n, x_0=x, y_0=y, ellip=1 - q, theta=np.pi / 2 - PA)
            nodes = (np.arange(10) - 4.5) / 10
            j, i = np.indices((SIDE, SIDE)).astype(float)
            return sum(model(i + di, j + dj) for di in nodes for dj in nodes) / 100

        found["astropy 10×10"] = astropy_
    except ImportError:
        pass
    try:
        import pyimfit

        def imfit(n, q, Re, x, y, PA):
            values = {"X0": x + 1, "Y0": y + 1, "PA": np.rad2deg(-PA), "ell": 1 - q, "n": n, "I_e": 1, "r_e": Re}
            model = pyimfit.make_imfit_function("Sersic")
            description = pyimfit.SimpleModelDescription()
            description.x0.setValue(values.pop("X0"))
            description.y0.setValue(values.pop("Y0"))
            for name, value in values.items():
                getattr(model, name).setValue(value)
            description.addFunction(model)
            return pyimfit.Imfit(description).getModelImage(shape=(SIDE, SIDE))

        found["imfit"] = imfit
    except ImportError:
        pass
    try:
        import galsim

        def galsim_(n, q, Re, x, y, PA):
            if not 0.3 <= n <= 6.2:
                return np.full((SIDE, SIDE), np.nan)
            fine = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-4, maximum_fft_size=16384)
            galaxy = galsim.Sersic(n=n, half_light_radius=Re * np.sqrt(q), flux=total_flux(n, q, Re), gsparams=fine)
            galaxy = galaxy.shear(q=q, beta=(np.pi / 2 - PA) * galsim.radians)
            middle = (SIDE - 1) / 2
            return galaxy.drawImage(nx=SIDE, ny=SIDE, scale=1, offset=(x - middle, y - middle), dtype=float).array

        found["GalSim (FFT)"] = galsim_
    except ImportError:
        pass
    return found


def accuracy(full):
    """Markdown table of the errors of every rule and tool."""
    cases = sources(full)
    truth = {case: [exact.sersic_pixels(SIDE, n=case[0], q=case[1], Re=case[2], x=x, y=y, PA=PA) for x, y, PA in PLACES]
             for case in cases}  # fmt: skip
    blank = jp.make_image(np.zeros((SIDE, SIDE)), std=1.0)

    def by_rule(rule):
        return lambda *place: jp.render(jp.models.sersic, params_of(*place), blank, rule)

    tools = {name: by_rule(rule) for name, rule in RULES.items()}
    print("Pixel error / flux error without PSF\n")
    print("| n, q, Re (px) | " + " | ".join([*tools, *peers()]) + " |")
    print("|---|" + "---|" * (len(tools) + len(peers())))
    for case in cases:
        cells = []
        for tool in [*tools.values(), *peers().values()]:
            try:
                pairs = [errors(tool(*case, *place), true) for place, true in zip(PLACES, truth[case], strict=True)]
                cells.append("{:.0e} / {:.0e}".format(*np.max(pairs, axis=0)))
            except Exception as error:  # a peer's limits are a result, too
                cells.append(type(error).__name__)
        print("| {:g}, {:g}, {:g} | ".format(*case) + " | ".join(cells) + " |", flush=True)


def with_psf():
    """Integration error after convolution with a Moffat (FWHM 3 px, ×3 oversampled), against adaptive(1e-7)."""
    v, u = np.indices((121, 121)) - 60
    stamp = (1 + (u**2 + v**2) / (3 * 3 / (2 * np.sqrt(2 ** (1 / 3.5) - 1))) ** 2) ** -3.5
    blank = jp.make_image(np.zeros((SIDE, SIDE)), std=1.0, psf=jp.make_psf(stamp, oversample=3))
    print("\nLargest error ÷ peak with PSF (Moffat, FWHM 3 px, ×3), of the integration alone\n")
    print("| n, q, Re (px) | " + " | ".join(list(RULES)[:-1]) + " |\n|---|" + "---|" * (len(RULES) - 1))
    for case in [(1, 0.6, 6), (2.5, 0.6, 6), (4, 0.6, 6), (6, 0.2, 3)]:
        p = params_of(*case, *PLACES[0])
        best = np.asarray(jp.render(jp.models.sersic, p, blank, jp.sampling.adaptive(1e-7)))
        got = [np.asarray(jp.render(jp.models.sersic, p, blank, rule)) for rule in list(RULES.values())[:-1]]
        worst = " | ".join(f"{np.max(abs(image - best)) / best.max():.0e}" for image in got)
        print("| {:g}, {:g}, {:g} | {} |".format(*case, worst))


def cost(dtype, side, case):
    """Time (ms) of value + Jacobian by quad(3) and by adaptive(), interleaved."""
    middle = side / 2
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params_of(*case, middle + 0.13, middle - 0.31, 1.0))
    flat, unravel = ravel_pytree(params)
    cells = jp.sampling.Cells(
        jp.make_linear(pixelscale=1.0, dtype=dtype), jnp.zeros(2, dtype), jnp.ones(2, dtype), (side, side)
    )

    def columns(rule):
        def value(z):
            return rule(jp.models.sersic, unravel(z), cells)

        eye = jnp.eye(flat.size, dtype=dtype)
        return jax.jit(lambda z: jax.vmap(lambda t: jax.jvp(value, (z,), (t,)), out_axes=(None, 0))(eye))

    functions = [columns(RULES["quad(3)"]), columns(RULES["adaptive()"])]
    best = [np.inf, np.inf]
    for _ in range(20):
        for k, function in enumerate(functions):
            began = time.perf_counter()
            jax.block_until_ready(function(flat))
            best[k] = min(best[k], time.perf_counter() - began)
    return best


def costs():
    """Markdown table of run times."""
    print("\nValue + 7 derivatives: time of quad(3), and of adaptive() relative to it\n")
    print("| dtype | pixels | n, q, Re | quad(3) | adaptive() ÷ quad(3) |\n|---|---|---|---|---|")
    small = [(64, case) for case in ((2.5, 0.6, 6), (4, 0.6, 6), (2.5, 0.2, 6), (2.5, 0.05, 6))]
    for dtype in (jnp.float64, jnp.float32):
        for side, case in [*small, (256, (2.5, 0.6, 6))]:
            quad3, adaptive = cost(dtype, side, case)
            place = "{:g}, {:g}, {:g}".format(*case)
            print(
                f"| {dtype.__name__} | {side}² | {place} | {1e3 * quad3:.2f} ms | {adaptive / quad3:.2f} |", flush=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all of n, q and Re: minutes")
    full = parser.parse_args().full
    accuracy(full)
    with_psf()
    costs()
