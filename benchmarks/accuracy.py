"""How exact are pixels, by which rule, at what cost? Beside other tools, where they are installed.

    python benchmarks/accuracy.py [--parts plain anywhere psf cost] [--quick] [--full] [--csv benchmarks/accuracy.csv]

Without PSF, exact pixels come from `exact.py`; the pixel error is the largest, relative to the larger of the pixel and
1e-4 of the brightest, the flux error that of the sum. With a PSF (Moffat, β = 3.5, FWHM 3 px, as samples three a pixel
unless the row says otherwise) the truth is GalSim with tight parameters, the error relative to the brightest pixel. It
reaches n = 6.2 only, so n = 8 is left out. Sources: n ∈ {0.5 … 8} × q ∈ {1 … 0.05} × Re ∈ {0.5 … 30 px}, each at
two places of the centre (one with a PSF; many for `anywhere`), 48×48 pixels. Tables show the worst of a group; `--full`
prints every row.
"""

import argparse
import csv
import itertools
import time
import warnings
from functools import cache

import exact
import jax
import jax.numpy as jnp
import numpy as np
import peers
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
GROUPS = {
    "n ≤ 2.5, q ≥ 0.2": lambda n, q: n <= 2.5 and q >= 0.2,
    "n = 4, 6, q ≥ 0.2": lambda n, q: 2.5 < n <= 6 and q >= 0.2,
    "n = 8, q ≥ 0.2": lambda n, q: n > 6 and q >= 0.2,
    "q = 0.05": lambda n, q: q < 0.2,
}
PARTS = ["plain", "anywhere", "psf", "cost"]
TYPICAL = (2.5, 0.6, 6, *PLACES[0])  # the source of the times


def sources(quick):
    """(n, q, Re) of the grid."""
    if quick:
        return list(itertools.product((0.5, 4), (0.6, 0.05), (0.5, 10)))
    return list(itertools.product((0.5, 1, 2.5, 4, 6, 8), (1, 0.6, 0.2, 0.05), (0.5, 3, 10, 30)))


def params_of(n, q, Re, x, y, PA):
    return {"center": np.array([x, y]), "q": q, "PA": PA, "n": n, "Re": Re, "Ie": 1.0}


def total_flux(n, q, Re):
    """Of a Sérsic with Ie = 1."""
    b = gammaincinv(2 * n, 0.5)
    return 2 * np.pi * n * Re**2 * q * np.exp(b) * b ** (-2 * n) * gamma(2 * n)


def moffat(oversample, reach=24, fwhm=3.0, beta=3.5, integrated=False):
    """Stamp of a Moffat, `oversample` cells a pixel, sampled at their centres or integrated over them."""
    side = 2 * reach * oversample + 1
    fine = 9 if integrated else 1
    position = (np.arange(side * fine) - (side * fine - 1) / 2) / (oversample * fine)
    width = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    values = (1 + (position[:, None] ** 2 + position**2) / width**2) ** -beta
    values = values.reshape(side, fine, side, fine).sum((1, 3))
    return values / values.sum()


# ---------------------------------------------------------------------------- tools: (n, q, Re, x, y, PA) → an image


def ours(rule, psf=None):
    blank = jp.make_image(np.zeros((SIDE, SIDE)), std=1.0, psf=psf)
    return lambda *place: np.asarray(jp.render(jp.models.sersic, params_of(*place), blank, rule))


def astropy_10(n, q, Re, x, y, PA):
    """10 × 10 samples a pixel."""
    from astropy.modeling.models import Sersic2D

    model = Sersic2D(amplitude=1, r_eff=Re, n=n, x_0=x, y_0=y, ellip=1 - q, theta=np.pi / 2 - PA)
    nodes = (np.arange(10) - 4.5) / 10
    j, i = np.indices((SIDE, SIDE)).astype(float)
    return sum(model(i + di, j + dj) for di in nodes for dj in nodes) / 100


def galsim_by_fft(thresholds, psf=False):
    """GalSim's image, with the first of the folding thresholds that its memory allows."""
    import galsim

    oversize = getattr(galsim.errors, "GalSimFFTSizeWarning", galsim.GalSimFFTSizeError)  # 2.8 only warns, and goes on

    def draw(n, q, Re, x, y, PA):
        middle = (SIDE - 1) / 2
        for threshold in thresholds:
            fine = {"folding_threshold": threshold, "maxk_threshold": min(threshold, 1e-4) if psf else threshold}
            fine = galsim.GSParams(**fine, kvalue_accuracy=1e-7, maximum_fft_size=8192)
            light = galsim.Sersic(n=n, half_light_radius=Re * np.sqrt(q), flux=total_flux(n, q, Re), gsparams=fine)
            light = light.shear(q=q, beta=(np.pi / 2 - PA) * galsim.radians)
            if psf:
                light = galsim.Convolve(light, galsim.Moffat(beta=3.5, fwhm=3.0, gsparams=fine))
            try:
                with warnings.catch_warnings():
                    if issubclass(oversize, Warning):
                        warnings.simplefilter("error", oversize)
                    return light.drawImage(
                        nx=SIDE, ny=SIDE, scale=1, offset=(x - middle, y - middle), dtype=float
                    ).array
            except (galsim.GalSimFFTSizeError, oversize, MemoryError):
                continue
        return np.full((SIDE, SIDE), np.nan)

    return lambda n, *rest: draw(n, *rest) if n <= 6.2 else np.full((SIDE, SIDE), np.nan)


def astrophot(stamp=None, oversample=1, **options):
    tool = peers.AstroPhot(**options)
    return lambda *place: tool.render({"galaxy": params_of(*place)}, (SIDE, SIDE), stamp, oversample)


def imfit(stamp=None, oversample=1):
    tool = peers.Imfit()
    return lambda *place: tool.render({"galaxy": params_of(*place)}, (SIDE, SIDE), stamp, oversample)


def tools_without_psf():
    """Every rule of ours, and of the peers that are installed."""
    tools = {name: ours(rule) for name, rule in RULES.items()} | {"astropy, 10×10": astropy_10}
    found = peers.available(("galsim", "imfit", "astrophot"))
    if "galsim" in found:
        tools["GalSim, FFT"] = galsim_by_fft([5e-3])
        tools["GalSim, FFT, tight"] = galsim_by_fft([1e-3])
    if "imfit" in found:
        tools["imfit"] = imfit()
    if "astrophot" in found:
        tools["AstroPhot"] = astrophot(sampling="auto", integrate="bright")
        tools["AstroPhot quad:3"] = astrophot()
    return tools


def tools_with_psf():
    """The same through a PSF; the peers get the stamp as they take it."""
    fine = jp.make_psf(moffat(3), oversample=3)
    tools = {name: ours(rule, fine) for name, rule in RULES.items()}
    tools["adaptive(), ×5"] = ours(RULES["adaptive()"], jp.make_psf(moffat(5), oversample=5))
    cells = jp.make_psf(moffat(3, integrated=True), oversample=3, integrated=True)
    tools["adaptive(), ×3, integrated cells"] = ours(RULES["adaptive()"], cells)
    tools["adaptive(), native"] = ours(RULES["adaptive()"], jp.make_psf(moffat(1)))
    found = peers.available(("galsim", "imfit", "astrophot"))
    if "galsim" in found:
        tools["GalSim, its defaults"] = galsim_by_fft([5e-3], psf=True)
    if "imfit" in found:
        tools["imfit, native"] = imfit(moffat(1))
        tools["imfit, ×3"] = imfit(moffat(3), 3)
    if "astrophot" in found:
        tools["AstroPhot, ×3"] = astrophot(moffat(3), 3, sampling="auto", integrate="bright")
        tools["AstroPhot, ×3, quad:3"] = astrophot(moffat(3), 3)
    return tools


# ------------------------------------------------------------------------------------------------------- the tables


def errors(image, truth, by_peak):
    """Largest pixel error and error of the sum."""
    scale = truth.max() if by_peak else np.maximum(truth, 1e-4 * truth.max())
    return np.max(np.abs(image - truth) / scale), abs(image.sum() - truth.sum()) / truth.sum()


@cache
def plain_truth(n, q, Re, x, y, PA):
    return exact.sersic_pixels(SIDE, n=n, q=q, Re=Re, x=x, y=y, PA=PA)


def measure(tools, truth, cases, places, by_peak):
    """{case: {tool: (pixel error, flux error)}}, the worse of the places; NaN where a tool cannot."""
    rows = {}
    for case in cases:
        rows[case] = {}
        for name, tool in tools.items():
            try:
                pairs = [errors(np.asarray(tool(*case, *p), float), truth(*case, *p), by_peak) for p in places]
                rows[case][name] = tuple(np.max(pairs, axis=0))
            except Exception as error:  # a peer's limits are a result, too
                print(f"({name} at n, q, Re = {case}: {type(error).__name__})", flush=True)
                rows[case][name] = (np.nan, np.nan)
    return rows


def seconds(tool):
    """Of one image of the typical source, after a first one; NaN where the tool cannot."""
    try:
        tool(*TYPICAL)
    except Exception:
        return np.nan
    times = []
    for _ in range(7):
        began = time.perf_counter()
        tool(*TYPICAL)
        times.append(time.perf_counter() - began)
    return min(times)


def show(title, tools, rows, full):
    """Worst of every group and time; with `full`, every row."""
    print(f"\n## {title}\n")
    groups = {name: [case for case in rows if chosen(*case[:2])] for name, chosen in GROUPS.items()}
    groups = {name: cases for name, cases in groups.items() if cases}
    print("| rule | time ÷ quad(3) | " + " | ".join(groups) + " |\n|---|---|" + "---|" * len(groups))
    unit = seconds(tools["quad(3)"])
    for name, tool in tools.items():
        cells = [f"{seconds(tool) / unit:.2g}"]
        for cases in groups.values():
            pairs = np.array([rows[case][name] for case in cases])
            if np.isnan(pairs).all():
                cells.append("–")
                continue
            missing = np.isnan(pairs[:, 0]).sum()
            cells.append("{:.0e} / {:.0e}".format(*np.nanmax(pairs, axis=0)) + (f" ({missing} not)" if missing else ""))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if full:
        print("\n| n, q, Re (px) | " + " | ".join(tools) + " |\n|---|" + "---|" * len(tools))
        for case, row in rows.items():
            cells = ["{:.0e} / {:.0e}".format(*row[name]) for name in tools]
            print("| {:g}, {:g}, {:g} | ".format(*case) + " | ".join(cells) + " |")


def anywhere(count):
    """Worst pixel and flux of our adaptive rules at random places and angles, many near borders, corners and axes."""
    draw, groups = np.random.default_rng(7), {name: [] for name in GROUPS}
    tools = {name: ours(rule) for name, rule in RULES.items() if name.startswith("adaptive")}
    for case in itertools.product((0.5, 1, 2.5, 4, 8), (1, 0.2, 0.05), (0.5, 3)):
        places, angles = draw.uniform(22, 26, (count, 2)), draw.uniform(0, np.pi, count)
        places[::3] = np.round(2 * places[::3]) / 2 + draw.normal(0, 0.03, places[::3].shape)
        angles[::4] = np.pi / 2 * draw.integers(0, 2, angles[::4].shape) + draw.normal(0, 0.01, angles[::4].shape)
        at = [(*place, angle) for place, angle in zip(places, angles, strict=True)]
        row = measure(tools, plain_truth, [case], at, by_peak=False)[case]
        groups[next(name for name, chosen in GROUPS.items() if chosen(*case[:2]))].append(row)
    print(f"\n## {count} random places and angles each: worst pixel error / flux error\n")
    print("| rule | " + " | ".join(groups) + " |\n|---|" + "---|" * len(groups))
    for name in tools:
        worst = [np.max([row[name] for row in rows], axis=0) for rows in groups.values()]
        print(f"| {name} | " + " | ".join("{:.0e} / {:.0e}".format(*pair) for pair in worst) + " |", flush=True)


def write(path, parts):
    """Every row of every part as CSV."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["psf", "n", "q", "Re", "rule", "pixel_error", "flux_error"])
        for part, rows in parts.items():
            for case, row in rows.items():
                for name, pair in row.items():
                    writer.writerow([part, *case, name, *(f"{value:.1e}" for value in pair)])


def cost(dtype, side, case):
    """Time of value + Jacobian by quad(3) and by adaptive(), interleaved."""
    middle = side / 2
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params_of(*case, middle + 0.13, middle - 0.31, 1.0))
    flat, unravel = ravel_pytree(params)
    blank = jp.make_image(np.zeros((side, side)), std=1.0, dtype=dtype)

    def columns(rule):
        prepared = jp.prepare(blank, rule)

        def value(z):
            return jp.apply(prepared, jp.models.sersic, unravel(z))

        eye = jnp.eye(flat.size, dtype=dtype)
        return jax.jit(lambda z: jax.vmap(lambda t: jax.jvp(value, (z,), (t,)), out_axes=(None, 0))(eye))

    functions = [columns(RULES["quad(3)"]), columns(RULES["adaptive()"])]
    best = [np.inf, np.inf]
    for _ in range(21):
        for k, function in enumerate(functions):
            began = time.perf_counter()
            jax.block_until_ready(function(flat))
            best[k] = min(best[k], time.perf_counter() - began)
    return best


def costs():
    """Markdown table of run times."""
    print("\n## Value + 7 derivatives: time of quad(3), and of adaptive() relative to it\n")
    print("| dtype | pixels | n, q, Re | quad(3) | adaptive() ÷ quad(3) |\n|---|---|---|---|---|")
    small = [(64, case) for case in ((2.5, 0.6, 6), (4, 0.6, 6), (2.5, 0.2, 6), (2.5, 0.05, 6))]
    for dtype in (jnp.float64, jnp.float32):
        for side, case in [*small, (256, (2.5, 0.6, 6))]:
            unit, own = cost(dtype, side, case)
            place = "{:g}, {:g}, {:g}".format(*case)
            print(f"| {dtype.__name__} | {side}² | {place} | {1e3 * unit:.2f} ms | {own / unit:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="8 sources instead of 96")
    parser.add_argument("--full", action="store_true", help="print every row")
    parser.add_argument("--csv", help="write every row here")
    options = parser.parse_args()
    parts, cases = {}, sources(options.quick)
    if "plain" in options.parts:
        tools = tools_without_psf()
        parts["none"] = measure(tools, plain_truth, cases, PLACES, by_peak=False)
        show("Without PSF: pixel error / flux error", tools, parts["none"], options.full)
    if "anywhere" in options.parts:
        anywhere(4 if options.quick else 20)
    if "psf" in options.parts and peers.available(("galsim",)):
        tools, truth = tools_with_psf(), cache(galsim_by_fft([1e-5, 1e-4, 1e-3], psf=True))
        cases = [case for case in cases if case[0] <= 6 and np.isfinite(truth(*case, *PLACES[0])).all()]
        parts["moffat"] = measure(tools, truth, cases, PLACES[:1], by_peak=True)
        show("With PSF: pixel error ÷ peak / flux error", tools, parts["moffat"], options.full)
    if options.csv:
        write(options.csv, parts)
    if "cost" in options.parts:
        costs()


if __name__ == "__main__":
    main()
