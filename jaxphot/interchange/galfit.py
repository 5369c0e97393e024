"""GALFIT's feedme files, constraints and output images read."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from astropy.io import fits

from jaxphot import models
from jaxphot.interchange.frames import Setup, local_frame, warn_all
from jaxphot.interchange.galfit_parts import NAMES, Entry, read_part
from jaxphot.models.combinators import linked
from jaxphot.pytree import update
from jaxphot.transforms.linear import make_linear

_ROW = re.compile(r"^\s*([A-Za-z]\d*|\d{1,2}|[RFBT]\d+|To|Ti|[cC]0)\)\s*(.*)$")
_TRUNCATIONS = ("radial", "radial2", "length", "height")
_FILES = {"A": "data", "B": "output", "C": "sigma", "D": "psf", "F": "mask"}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eEdD][-+]?\d+)?$")


def read_galfit(path, *, transform=None, exptime=None):
    """Read a feedme (also ``galfit.NN``), with its constraint file, or the fit in an output image of GALFIT.

    Parameters
    ----------
    path : str or path-like
        Text, or the image block that GALFIT wrote: the fitted values in its header, and the names of the files.
    transform : transform, optional
        Of the whole frame that positions count in, such as ``jp.read_fits("galaxy.fits").transform``: parameters are
        on the sky then. By default pixels × the plate scale K), where our position angle runs from up to the right.
    exptime : float, optional
        Seconds, by which GALFIT divides the data; by default EXPTIME of the data image, or 1 without one.

    Returns
    -------
    Setup
        ``jp.fit(setup.model, setup.params, setup.read_image(), fixed=setup.fixed, bounds=setup.bounds)``. Its info has
        the rows of the file, and of an output image CHISQ, NDOF and the like.

    Raises
    ------
    ValueError
        A line that is not understood, or a component without counterpart; the line is named.

    Notes
    -----
    Components are sersic, devauc, expdisk, gaussian, moffat, king, nuker, ferrer, edgedisk, psf and sky, with C0,
    Fourier (F) and bending modes (B), radial truncation about their own centre, and power-law or logarithmic rotation.
    GALFIT counts pixels from 1, gives angles in degrees from up counter-clockwise, sizes in pixels, total magnitudes or
    mag/arcsec². Of constraints, limits (absolute, or about the start) become bounds, ``offset`` and ``ratio`` become a
    `linked` model; limits of magnitudes and of differences or ratios of components have no counterpart and are listed
    in a warning and in `Setup.notes`. x and y can only be held together. The sky's gradient is about the middle of the
    fitted region.

    Examples
    --------
    >>> import tempfile, pathlib, jaxphot as jp
    >>> text = '''
    ... H) 1 60 1 60
    ... J) 25.0
    ... K) 0.2 0.2
    ... 0) sersic
    ... 1) 31.0 29.0 1 1
    ... 3) 20.0 1
    ... 4) 10.0 1
    ... 5) 4.0 0
    ... 9) 0.5 1
    ... 10) 30.0 1
    ... '''
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "galfit.feedme"
    >>> _ = path.write_text(text)
    >>> setup = jp.read_galfit(path)
    >>> setup.params["sersic1"]["Re"], setup.fixed
    (2.0, {'sersic1': {'n': None}})
    """
    path = Path(path)
    with path.open("rb") as file:
        is_fits = file.read(9) == b"SIMPLE  ="
    control, entries, info = _of_image(path) if is_fits else _of_text(path)
    try:
        return _setup(path, control, entries, info, transform, exptime)
    except _Located as error:
        raise ValueError(f"{path}:{error}") from None


class _Located(ValueError):
    """A message that begins with a line's number."""


def _setup(path, control, entries, info, transform, exptime):
    files = {role: path.parent / control[key][0] for key, role in _FILES.items() if _named(control, key)}
    if "mask" in files and not re.search(r"\.(fits?|fit)(\.gz)?(\[.*\])?$", str(files["mask"]), re.IGNORECASE):
        raise ValueError(f"{path}: F): a mask as a list of pixels has no counterpart; give a FITS image")
    zeropoint = _numbers(control, "J", 1, path, [math.nan])[0]
    if exptime is None:
        exptime = _exposure(files.get("data"))
    zeropoint += 2.5 * math.log10(exptime)
    if transform is None:
        scales = _numbers(control, "K", 2, path, [1.0, 1.0])
        if not math.isclose(*scales, rel_tol=0.01):
            raise ValueError(f"{path}: K): pixels of {scales[0]} by {scales[1]} arcsec are no squares")
        transform = make_linear(pixelscale=scales[0])
    x0, x1, y0, y1 = _numbers(control, "H", 4, path, [math.nan] * 4)
    window = None if math.isnan(x0) else (int(x0) - 1, int(x1), int(y0) - 1, int(y1))
    middle = (0.0, 0.0) if window is None else ((x0 + x1) / 2 - 1, (y0 + y1) / 2 - 1)
    edges = {entry.number: entry for entry in entries if entry.kind in _TRUNCATIONS}
    parts, notes = {}, []
    for entry in entries:
        if entry.kind in _TRUNCATIONS:
            continue
        name = f"{entry.kind}{entry.number}"
        try:
            at = middle if entry.kind == "sky" else [v - 1 for v in entry.values("1", 2)]
            local = local_frame(transform, *at)
            if math.isnan(zeropoint) and entry.kind != "sky":
                raise ValueError(f"{entry.line}: magnitudes need the zero point J)")
            parts[name] = (entry, local, read_part(entry, local, zeropoint, edges))
        except ValueError as error:
            raise _Located(str(error)) from None
        notes += [f"{name}: {note}" for note in parts[name][2].notes]
    if not parts:
        raise ValueError(f"{path}: it has no component")
    model = models.scene(**{name: part.model for name, (_, _, part) in parts.items()})
    params = {name: part.params for name, (_, _, part) in parts.items()}
    fixed = {name: part.fixed for name, (_, _, part) in parts.items() if part.fixed}
    bounds, ties = {}, []
    if _named(control, "G"):
        bounds, ties = _constraints(path.parent / control["G"][0], parts, notes)
    if ties:
        view = _Tied(tuple(ties))
        model, params = linked(model, view, view.described(model.parameters()), view.inverse), view.inverse(params)
        fixed, bounds = ({k: v for k, v in view.inverse(tree).items() if v} for tree in (fixed, bounds))
    warn_all(notes, path)
    oversample = int(_numbers(control, "E", 1, path, [1])[0])
    place = transform, zeropoint, window
    return Setup(model, params, fixed, bounds, *place, files, oversample, tuple(notes), info)


def _named(control, key):
    return key in control and control[key] and control[key][0].lower() != "none"


def _numbers(control, key, count, path, default):
    words = control.get(key)
    if not words:
        return default
    words = words * count if len(words) < count and key == "K" else words
    if len(words) < count or not all(_NUMBER.match(word) for word in words[:count]):
        raise ValueError(f"{path}: {key}): expected {count} number(s), got {' '.join(words)!r}")
    return [float(word) for word in words[:count]]


def _exposure(data):
    name = None if data is None else Path(str(data).partition("[")[0])
    if name is None or not name.exists():
        return 1.0
    value = fits.getheader(name).get("EXPTIME", 1.0)
    return float(value) if isinstance(value, (int, float)) and value > 0 else 1.0


def _of_text(path):
    """(control rows as words, entries, rows of the file)."""
    control, entries = {}, []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line or set(line) <= set("=- "):
            continue
        match = _ROW.match(line)
        if not match:
            raise ValueError(f"{path}:{number}: expected a row such as '4) 12.0 1', got {line!r}")
        key, words = match[1], match[2].split()
        if key in ("0", "T0"):
            kind = words[0].lower() if words else ""
            if kind not in (*NAMES, *_TRUNCATIONS):
                known = ", ".join((*NAMES, *_TRUNCATIONS))
                raise ValueError(f"{path}:{number}: {kind!r} has no counterpart; there are {known}")
            entries.append(Entry(kind, len(entries) + 1, number))
        elif not entries:
            control[key] = words
        elif key != "Z":
            entries[-1].rows[key.removeprefix("T") if key[1:].isdigit() else key] = _row(path, number, key, words)
    return control, entries, {key: " ".join(words) for key, words in control.items()}


def _row(path, number, key, words):
    if key == "R0":
        return [words[0] if words else ""], [], number
    words = [word.replace("d", "e").replace("D", "e") for word in words]
    bad = [word for word in words if not _NUMBER.match(word)]
    if bad or not words:
        raise ValueError(f"{path}:{number}: {key}): expected numbers, got {' '.join(bad) or 'nothing'!r}")
    numbers = [float(word) for word in words]
    count = len(numbers) // 2 if len(numbers) > 1 else 1
    return numbers[:count], numbers[count : 2 * count], number


# keywords of an output image's header, by kind and row
_KEYWORDS = {
    "sersic": {"3": "MAG", "4": "RE", "5": "N"}, "devauc": {"3": "MAG", "4": "RE"},
    "expdisk": {"3": "MAG", "4": "RS"}, "gaussian": {"3": "MAG", "4": "FWHM"},
    "moffat": {"3": "MAG", "4": "FWHM", "5": "C"}, "psf": {"3": "MAG"},
    "king": {"3": "MU", "4": "RC", "5": "RT", "6": "A"},
    "nuker": {"3": "MU", "4": "RB", "5": "AL", "6": "BE", "7": "GA"},
    "ferrer": {"3": "MU", "4": "RT", "5": "AL", "6": "BE"},
    "edgedisk": {"3": "MU", "4": "HS", "5": "RS"}, "sky": {"1": "SKY", "2": "DSDX", "3": "DSDY"},
}  # fmt: skip
_VALUE = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _of_image(path):
    """The same of an output image block: the header of the model's plane."""
    with fits.open(path) as hdus:
        headers = [hdu.header for hdu in hdus if "COMP_1" in hdu.header]
    if not headers:
        raise ValueError(f"{path}: no extension has COMP_1: it is no output image of GALFIT")
    header = headers[0]
    rows = {"A": "DATAIN", "C": "SIGMA", "D": "PSF", "F": "MASK", "G": "CONSTRNT", "J": "MAGZPT"}
    control = {key: str(header[name]).split() for key, name in rows.items() if str(header.get(name, "")).strip()}
    if section := re.fullmatch(r"\s*\[(\d+):(\d+),(\d+):(\d+)\]\s*", str(header.get("FITSECT", ""))):
        control["H"] = list(section.groups())
    entries = []
    for number in range(1, 1000):
        if f"COMP_{number}" not in header:
            break
        kind = str(header[f"COMP_{number}"]).strip().lower()
        if kind not in NAMES:
            raise ValueError(f"{path}: COMP_{number} = {kind!r} has no counterpart; there are {', '.join(NAMES)}")
        entries.append(_entry_of_header(path, header, kind, number))
    return control, entries, {key: header[key] for key in header if re.fullmatch(r"CHI\w*|N(DOF|FREE|FIX)", key)}


def _entry_of_header(path, header, kind, number):
    entry = Entry(kind, number, number)
    axes = {} if kind in ("sky", "psf") else {"9": "AR", "10": "PA", "C0": "C0"}
    names = {**_KEYWORDS[kind], **axes}
    if kind != "sky":
        names["1"] = "XC"
    for key in header:  # 1_F1, 1_F1PA, 1_B2
        if match := re.fullmatch(rf"{number}_([FB]\d+)", key):
            names[match[1]] = match[1]
    for row, name in names.items():
        keys = [f"{number}_{name}", *([f"{number}_YC"] if name == "XC" else [])]
        keys += [f"{number}_{name}PA"] if row[0] == "F" else []
        values = [_value_of(path, header, key) for key in keys if key in header]
        if len(values) == len(keys):
            entry.rows[row] = ([v for v, _ in values], [float(free) for _, free in values], number)
    return entry


def _value_of(path, header, key):
    """(value, whether it was free) of ``12.3 +/- 0.1``, ``[12.3]`` (held), ``{12.3}`` (tied), ``*12.3*``."""
    text = str(header[key])
    match = _VALUE.search(text)
    if not match:
        raise ValueError(f"{path}: {key}: expected a number, got {text!r}")
    return float(match[0]), "[" not in text


@dataclass(frozen=True)
class _Tied:
    """theta → params where parameters follow those of another component, by an offset or a ratio."""

    ties: tuple  # of (component, parameter, leader, "offset" or "ratio", number or tuple)

    def __call__(self, theta):
        params = {name: dict(own) for name, own in theta.items()}
        for name, leaf, leader, kind, number in self.ties:
            value = jnp.asarray(params[leader][leaf])
            shift = jnp.asarray(number, value.dtype)
            params.setdefault(name, {})[leaf] = value + shift if kind == "offset" else value * shift
        return params

    def inverse(self, params):
        """Without those that follow."""
        drop = {(name, leaf) for name, leaf, *_ in self.ties}
        return {
            name: {leaf: value for leaf, value in own.items() if (name, leaf) not in drop}
            for name, own in params.items()
        }

    def described(self, declared):
        """The same of a description."""
        return self.inverse(declared)


_LEAVES = {
    "x": "center", "y": "center", "re": "4", "rs": "4", "r": "4", "fwhm": "4", "n": "5", "q": "9", "pa": "10",
    "mag": "3", "c0": "C0",
}  # fmt: skip
_TIE = re.compile(r"^(\d+(?:_\d+)+)\s+(\w+)\s+(offset|ratio)$", re.IGNORECASE)
_LIMIT = re.compile(r"^(\d+)\s+(\w+)\s+(\S+?)\s*(?:\bto\b|,|\s)\s*(\S+)$", re.IGNORECASE)


def _constraints(path, parts, notes):
    """(bounds, ties) of a constraint file; what has no counterpart is added to the notes."""
    numbers = {str(entry.number): name for name, (entry, _, _) in parts.items()}
    bounds, ties, both = {}, [], {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        where = f"{path.name}:{number}: {line!r}"
        if tie := _TIE.match(line):
            names = [numbers.get(n) for n in tie[1].split("_")]
            if None in names:
                raise ValueError(f"{path}:{number}: a component that is not there: {line!r}")
            both.setdefault((tuple(names), tie[3].lower()), set()).add(tie[2].lower())
        elif (limit := _LIMIT.match(line)) and limit[1] in numbers:
            problem = _limit(parts[numbers[limit[1]]], numbers[limit[1]], limit, " to " in line.lower(), bounds)
            notes += [f"{where}: {problem}"] if problem else []
        else:
            notes.append(f"{where}: a relation between components that only limits it, or not understood")
    for (names, kind), keys in both.items():
        ties += _ties(names, kind, keys, parts, notes)
    return bounds, ties


def _leaf(part, key):
    """Our parameter of a constraint's, if there is one."""
    row = _LEAVES.get(key.lower(), key)
    if row in ("center", "C0"):
        return row if row in part.params else None
    return next((item.name for item in part.fields if item.key == row), None)


def _limit(place, name, match, absolute, bounds):
    """Add bounds; return what is in the way, if anything is."""
    _, local, part = place
    key, ends = match[2].lower(), (match[3], match[4])
    if not all(_NUMBER.match(end) for end in ends):
        return "expected two numbers"
    low, high = (float(end) for end in ends)
    item = next((item for item in part.fields if item.key == _LEAVES.get(key)), None)
    if item is None or item.kind in ("mag", "surface", "angle") or callable(item.factor):
        return "limits of this parameter have no counterpart"
    start = item.theirs(part.params[item.name], local, np.nan, part.params)
    low, high = (low, high) if absolute else (start + low, start + high)
    pair = tuple(item.ours(end, local, np.nan, part.params) for end in (low, high))
    allowed = part.model.parameters()[item.name].bounds
    pair = (max(pair[0], allowed[0]), min(pair[1], allowed[1]))
    bounds.update(update(bounds, {name: {**bounds.get(name, {}), item.name: pair}}))
    return None


def _ties(names, kind, keys, parts, notes):
    leader, ties = names[0], []
    if len({"x", "y"} & keys) == 1:
        notes.append(f"{'_'.join(names)}: x and y can only be tied together")
        keys = keys - {"x", "y"}
    for key in sorted(keys - {"y"}):
        first = _leaf(parts[leader][2], key)
        for name in names[1:]:
            own = _leaf(parts[name][2], key)
            if first is None or own != first or key == "mag":
                notes.append(f"{leader}, {name}: {key} {kind}: their parameters are not of one kind")
                continue
            value, lead = (np.asarray(parts[n][2].params[own], float) for n in (name, leader))
            number = value - lead if kind == "offset" else value / lead
            ties.append((name, own, leader, kind, tuple(number) if number.ndim else float(number)))
    return ties
