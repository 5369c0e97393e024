"""Reading the command line; what users get wrong is answered by one line and an exit code, never by a stack trace."""

import argparse
import os
import re
import signal
import sys
import warnings

import jax

from jaxphot.about import info, version
from jaxphot.cli.expressions import model_names

OK, WRONG, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

_EPILOG = """\
exit codes:
  0  all went well
  1  an input was wrong; the message says which and why
  2  the command line itself was wrong
  3  finished, but some fits failed: see the columns status and message
  130, 143  interrupted; the same command goes on from there (batch)

Angles are in degrees, East of North; positions and sizes in arcsec; pixels count from 0.
"""

_FIT_EXAMPLES = """\
examples:
  jaxphot fit galaxy.fits --psf psf.fits --sigma sigma.fits --out galaxy
  jaxphot fit galaxy.fits --ivar INVVAR --psf PSF --zeropoint 22.5 --model "bulge=sersic + disk=exponential + flat_sky"
  jaxphot fit galaxy.fits --sigma auto --fix galaxy.n=4 --bounds galaxy.q=0.2:1 --start galaxy.center=1.5,-0.7
"""

_BATCH_EXAMPLES = """\
a manifest has a row for each fit, and any of these columns:
  id                      a name; by default the row's number
  image, hdu              a file (also file.fits[SCI]); a cube gives one image a plane (column plane)
  psf, sigma, variance, ivar, mask    an extension of the image's file, another file, or a number; sigma may be auto
  zeropoint, gain, pixelscale
  x, y or ra, dec; size   cut this many pixels out of the image about a position
  galaxy.n, ...           where a parameter starts: the names are those of the results

examples:
  jaxphot batch cutouts.csv --psf psf.fits --out results
  jaxphot batch catalogue.ecsv --image frame.fits --sigma auto --size 64 --model "sersic + flat_sky"
  jaxphot batch cutouts.csv --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT --out results
  srun jaxphot batch cutouts.csv --distributed --out results
  jaxphot show results --html results.html
"""

_SHOW_EXAMPLES = """\
examples:
  jaxphot show results
  jaxphot show results --html page.html
  jaxphot show results --catalogue galaxies.parquet
  jaxphot show galaxy --plot galaxy.pdf
"""


def main(arguments=None):
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        The exit code.
    """
    options = _parser().parse_args(arguments)
    if not hasattr(options, "command"):
        _parser().print_help()
        return USAGE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # astropy's remarks on headers; what matters is an error or a message
            return options.command(options)
    except KeyboardInterrupt as interrupt:
        more = "; the same command goes on from here" if options.command is _batch else ""
        print(f"jaxphot: interrupted{more}", file=sys.stderr)
        return interrupt.args[0] if interrupt.args else INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has had enough
        return OK
    except Exception as error:
        if options.traceback:
            raise
        print(f"jaxphot: error: {_in_a_line(error)}", file=sys.stderr)
        return WRONG


def _in_a_line(error):
    expected = isinstance(error, (ValueError, TypeError, OSError, ImportError, MemoryError))
    text = str(error) if str(error) else type(error).__name__
    return text if expected else f"{type(error).__name__}: {text} (with --traceback it says where)"


def _parser():
    parser = argparse.ArgumentParser(
        "jaxphot",
        description="Fit galaxies, stars and sky to the pixels of astronomical images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jaxphot {version('jaxphot')}")
    commands = parser.add_subparsers(title="commands", metavar="{fit,batch,show,info}")
    _add_fit(commands)
    _add_batch(commands)
    _add_show(commands)
    info = commands.add_parser("info", help="versions, devices and precision, for bug reports")
    info.set_defaults(command=_info, traceback=False)
    return parser


def _command(commands, name, help, examples, command):
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=examples + "\n" + _EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(command=command)
    return parser


def _add_model(parser):
    names = ", ".join(model_names())
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="sersic + flat_sky", metavar="EXPRESSION",
        help=f"sum of models, each [name=]model (default: %(default)s); models: {names}; also radial(profile, metric),"
        " mge(n), poly_sky(order), by_flux(model), many(model), and the modifiers truncate, ring, fourier, ...",
    )  # fmt: skip
    group.add_argument("--start", action="append", default=[], metavar="NAME=VALUE", help="where a parameter starts")
    group.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="hold a parameter at a value, or at its start",
    )
    group.add_argument("--bounds", action="append", default=[], metavar="NAME=LOW:HIGH", help="bounds of a parameter")
    group.add_argument(
        "--starts", type=_positive, default=1, metavar="N", help="fit from N starts and keep the best end"
    )
    group.add_argument(
        "--max-steps", type=_positive, default=100, metavar="N", help="of one fit (default: %(default)s)"
    )
    group.add_argument("--precision", choices=("float64", "float32", "mixed"), default="float64")


def _add_data(parser, image_option):
    group = parser.add_argument_group("data")
    if image_option:
        group.add_argument("--image", metavar="FILE", help="the image, or cube, of all rows that name none")
    group.add_argument("--hdu", metavar="NAME", help="extension of the image, by name or number")
    group.add_argument("--psf", metavar="FILE", help="file or extension with the PSF")
    group.add_argument("--psf-oversample", type=_positive, metavar="K", help="the PSF has K×K cells a pixel")
    group.add_argument("--sigma", metavar="FILE", help="noise: file, extension, number, or auto")
    group.add_argument("--variance", metavar="FILE")
    group.add_argument("--ivar", metavar="FILE", help="inverse variance; 0 = ignored")
    group.add_argument("--mask", metavar="FILE", help="bad where not 0")
    group.add_argument("--zeropoint", type=float, metavar="MAG", help="magnitude of flux 1")
    group.add_argument("--gain", type=float, metavar="G", help="counts = data * gain")
    group.add_argument("--pixelscale", type=float, metavar="ARCSEC", help="instead of the header's WCS")


def _add_fit(commands):
    parser = _command(commands, "fit", "fit one image", _FIT_EXAMPLES, _fit)
    parser.add_argument("image", help="a FITS file, or file.fits[EXTENSION]")
    parser.add_argument("--window", metavar="I0,I1,J0,J1", help="fit these columns and rows only")
    parser.add_argument("--plane", type=_index, default=0, metavar="K", help="of a cube, from 0 (default: 0)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for catalogue, fit, images and picture (default: the image's name)"
    )
    parser.add_argument("--no-plot", action="store_true", help="make no picture")
    _add_model(parser)
    _add_data(parser, image_option=False)


def _add_batch(commands):
    parser = _command(commands, "batch", "fit every row of a manifest", _BATCH_EXAMPLES, _batch)
    parser.add_argument("manifest", help="a table: .csv, .ecsv, .fits or .parquet")
    parser.add_argument("--out", default="results", metavar="DIR", help="folder of the results (default: %(default)s)")
    parser.add_argument(
        "--catalogue",
        default="catalogue.ecsv",
        metavar="NAME",
        help="its file in there; .ecsv, .fits, .csv or .parquet (default: %(default)s)",
    )
    parser.add_argument("--size", type=int, metavar="N", help="side of the cutouts about positions, pixels")
    parser.add_argument(
        "--part", metavar="K/N", help="fit the K-th of N parts only (K from 0), for N processes or machines"
    )
    parser.add_argument(
        "--distributed", action="store_true", help="take K and N from jax.distributed (TPU pods, Slurm, Open MPI)"
    )
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="with --part: join through jax.distributed; process 0 listens there"
    )
    parser.add_argument("--chunk", type=_positive, metavar="N", help="images in one compiled call")
    parser.add_argument("--retry", action="store_true", help="read again what could not be read before")
    parser.add_argument("--restart", action="store_true", help="forget what was fitted before")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    _add_model(parser)
    _add_data(parser, image_option=True)


def _add_show(commands):
    parser = _command(commands, "show", "print and draw results", _SHOW_EXAMPLES, _show)
    parser.add_argument("results", help="folder that jaxphot batch or fit made")
    parser.add_argument("--html", metavar="FILE", help="write a page: table, filters, thumbnails")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw data, model and residual of the first rows: .png, .pdf, .svg"
    )
    parser.add_argument("--catalogue", metavar="FILE", help="write the table: .ecsv, .fits, .csv or .parquet")
    parser.add_argument(
        "--limit", type=_positive, default=200, metavar="N", help="thumbnails on the page (default: %(default)s)"
    )


def _positive(text):
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number ≥ 1, got {text!r}")
    return int(text)


def _index(text):
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number ≥ 0, got {text!r}")
    return int(text)


def _task(options):
    """The batch's `Task`; sets JAX's precision, which is this process's own."""
    jax.config.update("jax_enable_x64", options.precision != "float32")
    from jaxphot.cli.batch import Task
    from jaxphot.fitting.compiled import enable_compilation_cache

    if not jax.config.jax_compilation_cache_dir:
        enable_compilation_cache()
    names = ("image", "hdu", "psf", "psf_oversample", "sigma", "variance", "ivar", "mask")
    given = {name: getattr(options, name, None) for name in (*names, "zeropoint", "gain", "pixelscale", "size")}
    noises = [name for name in ("sigma", "variance", "ivar") if given[name] is not None]
    if len(noises) > 1:
        raise ValueError(f"--{' and --'.join(noises)}: give one of them")
    more = {"starts": options.starts, "max_steps": options.max_steps}
    return Task.from_options(
        options.model, options.start, options.fix, options.bounds, given, options.precision, **more
    )


def _fit(options):
    from jaxphot.cli.single import run_fit

    task = _task(options)
    window = None if options.window is None else _window(options.window)
    converged = run_fit(task, options.image, options.out, window, draw=not options.no_plot, plane=options.plane)
    return OK if converged else SOME_FAILED


def _window(text):
    parts = text.split(",")
    if len(parts) != 4 or not all(re.fullmatch(r"\s*-?\d{1,9}\s*", part) for part in parts):
        raise ValueError(f"--window: expected four whole numbers I0,I1,J0,J1, got {text!r}")
    return tuple(int(part) for part in parts)


def _batch(options):
    part = _part(options.part)
    if options.distributed or options.coordinator:
        part = _joined(options)
    task = _task(options)
    from jaxphot.cli.batch import part_store, run_batch
    from jaxphot.cli.catalogue import check_name, read_catalogue, write_catalogue

    check_name(options.catalogue)  # before hours of fitting
    signal.signal(signal.SIGTERM, _stop)
    numbers = run_batch(
        task, options.manifest, options.out, part=part, chunk=options.chunk, retry=options.retry,
        restart=options.restart, quiet=options.quiet,
    )  # fmt: skip
    store = part_store(options.out, part)
    table = read_catalogue(store)
    name = options.catalogue
    if part[1] > 1:
        stem, dot, suffix = name.partition(".")
        name = f"{stem}.{part[0]:05d}-of-{part[1]:05d}{dot}{suffix}"
    write_catalogue(store.parent / name, table)
    bad = int(table["failed"].sum()) if len(table) else 0
    rate = numbers["fitted"] / max(numbers["seconds"], 1e-9)
    print(
        f"{len(table)} rows, {bad} failed; {numbers['fitted']} fitted now, {rate:.1f} a second; {store.parent / name}"
    )
    return SOME_FAILED if bad else OK


def _part(text):
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise ValueError(f"--part: expected K/N with K from 0 to N − 1, such as 0/4, got {text!r}")
    return int(match[1]), int(match[2])


def _joined(options):
    """(K, N) of this process among those that `jax.distributed` brings together.

    They part again at once: a process that dies would otherwise take the others with it, and the quickest would wait.
    """
    known = {}
    if options.coordinator:
        if not re.fullmatch(r"[^\s:]+:\d{1,5}|\[[\da-fA-F:.]+\]:\d{1,5}", options.coordinator):
            raise ValueError(f"--coordinator: expected HOST:PORT, got {options.coordinator!r}")
        k, n = _part(options.part)
        if options.part is None or options.distributed:
            raise ValueError("--coordinator: give --part K/N with it, and no --distributed")
        known = {"coordinator_address": options.coordinator, "num_processes": n, "process_id": k}
    elif options.part is not None:
        raise ValueError("--part: --distributed finds K and N by itself; give one of them")
    try:
        jax.distributed.initialize(**known)
        found = jax.process_index(), jax.process_count()
        jax.distributed.shutdown()
    except Exception as error:
        hint = "" if known else "; no cluster was found, --coordinator HOST:PORT and --part K/N tell it"
        raise ValueError(f"--distributed: {' '.join(str(error).split())[:300]}{hint}") from None
    return found


def _stop(*_):
    raise KeyboardInterrupt(128 + signal.SIGTERM)


def _show(options):
    jax.config.update("jax_enable_x64", True)
    from jaxphot.cli.show import show

    return OK if show(options.results, options.html, options.plot, options.catalogue, options.limit) else SOME_FAILED


def _info(_):
    print(info())
    return OK
