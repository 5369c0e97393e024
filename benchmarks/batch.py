"""Our batches beside AstroPhot, imfit and scipy: how many fits a second on one core, how good, at what memory?

    python benchmarks/batch.py [nopsf psf large starts statistics cores memory] [--peers astrophot imfit scipy]

| workload | what it measures |
|---|---|
| nopsf, psf | 64×64 Sérsic without PSF and through a 25×25 one, in interleaved rounds on one core |
| large | one 512×512 Sérsic + plane sky, without PSF and with a 51×51 one |
| starts | steps, and lanes that reach the maximum-likelihood χ² (+1), from crude starts and from `initialize` |
| statistics | pulls, and reported errors against the Cramér–Rao bound, at S/N ≥ 100 |
| cores, memory | two cores against one; peak memory for growing N, both in processes of their own |

Data are exact, with noise of 1: `adaptive(1e-6)`, light convolved where it is; with `--cells` integrals over whole
pixels convolved with the stamp's values, which is how AstroPhot, imfit and our `quad` define an image with a PSF. χ² is
judged for all tools by that same exact model, not by the approximation that each fits. Peers fit the first `--few`
cutouts only, as they are slow; AstroPhot uses the block size that is fastest for it, one thread, and memory that glibc
does not hand back in between.
Starts are crude: centre off by 3 px, PA by 40°, Re and brightness by 30 %, n = 1.5, q = 0.7.
"""

import argparse
import os
import sys

import numpy as np
from peers import with_kept_memory

if __name__ == "__main__":
    with_kept_memory()

CORES = sorted(os.sched_getaffinity(0))
if "--child" not in sys.argv:
    os.sched_setaffinity(0, CORES[-1:])  # before JAX and torch count cores

import jax

jax.config.update("jax_enable_x64", True)

import judge
import peers
from judge import GALAXY, Ours, cut

import jaxphot as jp

WORKLOADS = ("nopsf", "psf", "large", "starts", "statistics", "cores", "memory")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)}; all")
    parser.add_argument("--count", type=int, default=1000, help="cutouts that we fit")
    parser.add_argument("--few", type=int, default=32, help="cutouts that the peers fit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block", type=int, default=0, help="AstroPhot's images at once; 0: the fastest of some")
    parser.add_argument("--peers", nargs="*", default=["astrophot", "imfit", "scipy"])
    parser.add_argument("--cells", action="store_true", help="judge by whole pixels convolved with the stamp")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(namespace=argparse.Namespace(cores=CORES))
    if unknown := set(options.workloads) - set(WORKLOADS):
        parser.error(f"unknown workload {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    judge.CONVOLVE_CELLS = options.cells
    options.few = min(options.few, options.count)
    if options.child:
        return judge.child(options.child, options.count)
    options.peers = peers.available(options.peers)
    print(f"jax {jax.__version__}, jaxphot {jp.__version__}, core {CORES[-1]} of {CORES}", flush=True)
    for name in options.workloads or WORKLOADS:
        {"nopsf": throughput, "psf": throughput, "large": large, "starts": starts, "statistics": statistics,
         "cores": judge.cores, "memory": judge.memory}[name](name, options)  # fmt: skip


# ---------------------------------------------------------------------------------------------- many 64×64 cutouts


def throughput(workload, options):
    """Fits a second of every tool, in interleaved rounds, and the quality of the first round's fits."""
    stamp = None if workload == "nopsf" else judge.moffat_stamp()
    data, start, truth, _ = judge.cutouts(options.count, stamp)
    tools = _ours() | _peers(options, data, start, stamp)
    seconds, outcomes, compiled = {name: [] for name in tools}, {}, {}
    for name, tool in tools.items():
        few = options.count if isinstance(tool, Ours) else options.few
        warm = tool.fit(data[:few], cut(start, few), stamp)  # compiles; imports and caches of the peers
        compiled[name] = warm.seconds
    for _ in range(options.rounds):
        for name, tool in tools.items():
            few = options.count if isinstance(tool, Ours) else options.few
            outcome = outcomes[name] = tool.fit(data[:few], cut(start, few), stamp)
            seconds[name].append(outcome.seconds / few)
    rate = {name: 1 / np.median(values) for name, values in seconds.items()}
    print(f"\n## {workload}: {options.count} × 64×64 Sérsic, peers {options.few}; one core, {options.rounds} rounds\n")
    rivals = [name for name in tools if not isinstance(tools[name], Ours)]
    head = ["tool", "fits/s", *(f"÷ {name}" for name in rivals), "spread", "compile s", "steps mean / max"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, tool in tools.items():
        spread = (max(seconds[name]) - min(seconds[name])) / np.median(seconds[name])
        ratios = [f"{rate[name] / rate[rival]:.1f}" for rival in rivals]
        own = isinstance(tool, Ours)
        compile_s = f"{compiled[name] - options.count / rate[name]:.1f}" if own else "–"
        steps = outcomes[name].steps
        row = [f"{rate[name]:.4g}", *ratios, f"{spread:.0%}", compile_s, f"{steps.mean():.1f} / {steps.max()}"]
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)
    judge.quality(outcomes, data, truth, start, stamp, options.few)


def _ours():
    """Our variants: the peers' 3×3 sampling, and the default; each in the precisions there are."""
    rules = {"quad(3)": jp.sampling.quad(3), "adaptive()": jp.sampling.adaptive()}
    tools = {}
    for words, rule in rules.items():
        tools[f"jaxphot {words} float64"] = Ours(GALAXY, sampling=rule)
        tools[f"jaxphot {words} float32"] = Ours(GALAXY, dtype=np.float32, sampling=rule)
        if judge.understands("precision"):
            tools[f"jaxphot {words} mixed"] = Ours(GALAXY, sampling=rule, precision="mixed")
    return tools


def _peers(options, data, start, stamp):
    tools = {}
    if "astrophot" in options.peers:
        for dtype in ("float64", "float32"):
            tool = tools[f"AstroPhot 3×3 {dtype}"] = peers.AstroPhot(dtype=dtype, block=options.block or 16)
            if not options.block:
                few = options.few
                tried = tool.best_block(data[:few], cut(start, few), stamp)
                words = ", ".join(f"{size}: {1 / value:.2f}" for size, value in tried.items())
                print(f"AstroPhot {dtype}, fits/s by block size: {words}", flush=True)
    if "imfit" in options.peers:
        tools["imfit"] = peers.Imfit()
    if "scipy" in options.peers:
        tools["scipy 3×3"] = peers.Scipy()
    return tools


def starts(_, options):
    """How many lanes reach the best χ² anyone finds, with and without PSF, from one start and from several."""
    print(
        "\n## starts: steps, and lanes within +1 of the maximum-likelihood χ², from crude starts if nothing is said\n"
    )
    print("| PSF | fit | lanes | steps mean / max | reached | converged | converged, not reached |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for stamp in (None, judge.moffat_stamp()):
        data, start, truth, _ = judge.cutouts(options.count, stamp)
        tools = {"from the truth": Ours(GALAXY), "one start": Ours(GALAXY), "from `initialize`": Ours(GALAXY)}
        if judge.understands("starts"):
            tools["starts=4"] = Ours(GALAXY, starts=4)
        others = {"from the truth": truth, "from `initialize`": judge.measured_starts(data, stamp)}
        outcomes = {name: tool.fit(data, others.get(name, start), stamp) for name, tool in tools.items()}
        chi2 = {name: judge.common_chi2(outcome.params, data, stamp) for name, outcome in outcomes.items()}
        best = np.nanmin(np.stack(list(chi2.values())), axis=0)
        for name, outcome in outcomes.items():
            reached, done = chi2[name] <= best + 1, outcome.status == 0
            steps = f"{outcome.steps.mean():.2f} / {outcome.steps.max()}"
            words = "none" if stamp is None else f"{len(stamp)}×{len(stamp)}"
            print(
                f"| {words} | {name} | {len(data)} | {steps} | {reached.mean():.2%} | {done.mean():.2%} |"
                f" {np.mean(done & ~reached):.2%} |",
                flush=True,
            )


def statistics(_, options):
    """Pulls, and errors against the Cramér–Rao bound, of lanes with S/N ≥ 100."""
    for stamp in (None, judge.moffat_stamp()):
        data, start, truth, signal_to_noise = judge.cutouts(int(1.6 * options.count), stamp, seed=5)
        outcome = Ours(GALAXY).fit(data, start, stamp)
        chosen = (signal_to_noise >= 100) & (outcome.status == 0)
        words = "no PSF" if stamp is None else "with PSF"
        print(
            f"\n## statistics, {words}: {chosen.sum()} converged fits of {np.sum(signal_to_noise >= 100)}, S/N ≥ 100\n"
        )
        judge.pulls(outcome, truth, data.shape[1:], stamp, chosen)


# ------------------------------------------------------------------------------------------------ one large image


def large(_, options):
    """One 512×512 image: Sérsic + plane sky, three galaxies."""
    for size in (0, 51):
        stamp = judge.moffat_stamp(size, 4.0) if size else None
        data, start, truth = judge.large_images(stamp)
        tools = {
            "jaxphot quad(3)": Ours(judge.WITH_SKY, sampling=jp.sampling.quad(3), single=True),
            "jaxphot adaptive()": Ours(judge.WITH_SKY, single=True),
        }
        if "astrophot" in options.peers:
            # its default for an image of this size: midpoints, the brightest pixels refined
            tools["AstroPhot LM"] = peers.AstroPhot(sampling="auto", integrate="bright", block=None, sky="plane")
        if "imfit" in options.peers:
            tools["imfit"] = peers.Imfit(sky="plane")
        first = {name: tool.fit(data[:1], cut(start, 1), stamp).seconds for name, tool in tools.items()}
        times, outcomes = {name: [] for name in tools}, {}
        for _ in range(options.rounds):
            for name, tool in tools.items():
                outcomes[name] = tool.fit(data, start, stamp)
                times[name].append(outcomes[name].seconds / len(data))
        each = {name: np.median(values) for name, values in times.items()}
        chi2 = {name: judge.common_chi2(outcome.params, data, stamp) for name, outcome in outcomes.items()}
        best = np.min(list(chi2.values()), axis=0)
        print(f"\n## large: 512×512 Sérsic + plane sky, PSF {f'{size}×{size}' if size else 'none'}, one core\n")
        rivals = [name for name in tools if not isinstance(tools[name], Ours)]
        head = [
            "tool",
            "s a fit",
            *(f"÷ {name}" for name in rivals),
            "first s",
            "steps",
            "χ² − best, each",
            "n − truth",
        ]
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for name, outcome in outcomes.items():
            ratios = [f"{each[rival] / each[name]:.2f}" for rival in rivals]
            worse = ", ".join(f"{value:.2g}" for value in chi2[name] - best)
            off = ", ".join(f"{value:+.4f}" for value in outcome.params["galaxy"]["n"] - truth["galaxy"]["n"])
            row = [f"{each[name]:.3f}", *ratios, f"{first[name]:.1f}", str(outcome.steps.tolist()), worse, off]
            print(f"| {name} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
