"""GALFIT's components (Peng et al. 2010, AJ 139, 2097) and ours: the numbers of each, and both ways between them."""

import math
import re
from dataclasses import dataclass, field

import numpy as np

from jaxphot import models
from jaxphot.interchange.frames import Field, decode, from_total, sky_parameters
from jaxphot.models import metrics, modifiers, profiles, spirals
from jaxphot.models.combinators import radial

_SOFTNESS = 2.2975599250672945  # arctanh(0.98): the tanh leaves 99 % and 1 % this many w from the middle
_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))
_AXES = (Field("9", "q", "ratio"), Field("10", "PA", "angle"))


def _moffat_radius(params, scale):
    return 0.5 / math.sqrt(2 ** (1 / float(params["n"])) - 1)


# GALFIT's name: our profile, the amplitude, and its lines. Lines 1, 9 and 10 are position, axis ratio and angle.
PROFILES = {
    "sersic": (
        profiles.sersic,
        "Ie",
        (Field("3", "Ie", "mag"), Field("4", "Re", "length"), Field("5", "n"), *_AXES),
    ),
    "devauc": (profiles.de_vaucouleurs, "Ie", (Field("3", "Ie", "mag"), Field("4", "Re", "length"), *_AXES)),
    "expdisk": (
        profiles.exponential,
        "Ie",
        (Field("3", "Ie", "mag"), Field("4", "Re", "length", 1.6783469900166612), *_AXES),
    ),
    "gaussian": (profiles.gaussian, "flux", (Field("3", "flux", "mag"), Field("4", "sigma", "length", _FWHM), *_AXES)),
    "moffat": (
        profiles.moffat,
        "I0",
        (Field("3", "I0", "mag"), Field("4", "Rd", "length", _moffat_radius), Field("5", "n"), *_AXES),
    ),
    "king": (
        profiles.king,
        "I0",
        (
            Field("3", "I0", "surface"),
            Field("4", "Rc", "length"),
            Field("5", "Rt", "length"),
            Field("6", "alpha"),
            *_AXES,
        ),
    ),
    "nuker": (
        profiles.nuker,
        "Ib",
        (
            Field("3", "Ib", "surface"),
            Field("4", "Rb", "length"),
            Field("5", "alpha"),
            Field("6", "beta"),
            Field("7", "gamma"),
            *_AXES,
        ),
    ),
    "ferrer": (
        profiles.ferrer,
        "I0",
        (
            Field("3", "I0", "surface"),
            Field("4", "Rout", "length"),
            Field("5", "alpha"),
            Field("6", "beta"),
            *_AXES,
        ),
    ),
}
# those that are no profile with a metric
OTHERS = {
    "edgedisk": (
        models.edge_on,
        (
            Field("3", "I0", "surface"),
            Field("4", "hs", "length"),
            Field("5", "rs", "length"),
            Field("10", "PA", "angle"),
        ),
    ),
    "psf": (models.point_source, (Field("3", "flux", "mag"),)),
}
NAMES = (*PROFILES, *OTHERS, "sky")
WINDINGS: dict = {
    "powerlaw": (spirals.power_winding, "slope", "number"),
    "log": (spirals.log_winding, "R_wind", "length"),
}


@dataclass
class Entry:
    """A component of a feedme: its kind, where it begins, and by line of the file ([values], [flags], line number)."""

    kind: str
    number: int
    line: int
    rows: dict = field(default_factory=dict)

    def values(self, key, count=1, default=None):
        """The numbers of a line, `default` if it is not there, else a ValueError."""
        if key not in self.rows:
            if default is None:
                raise ValueError(f"{self.line}: {self.kind}: line {key}) is missing")
            return default
        values, _, line = self.rows[key]
        if len(values) < count:
            raise ValueError(f"{line}: line {key}) of {self.kind}: expected {count} number(s)")
        return values[:count]

    def held(self, key):
        """Whether all of a line's numbers are held; None where they disagree."""
        if key not in self.rows:
            return True
        values, flags, _ = self.rows[key]
        flags = (flags or [0.0] * len(values))[: len(values)]
        return all(flag == 0 for flag in flags) or (None if any(flag == 0 for flag in flags) else False)

    def modes(self, letter):
        """M of the rows F1), F2) … or B1) …"""
        return tuple(sorted(int(key[1:]) for key in self.rows if re.fullmatch(letter + r"\d+", key)))


@dataclass
class Part:
    """A component as ours: model, parameters, those held, and of the rest their lines (for constraints)."""

    model: object
    params: dict
    fixed: dict
    fields: tuple
    notes: list


def read_part(entry, local, zeropoint, truncations):
    """The `Part` of an entry; `truncations` are the entries by number that its To) and Ti) may mean."""
    if entry.kind == "sky":
        return _read_sky(entry, local)
    if entry.kind in OTHERS:
        model, fields = OTHERS[entry.kind]
        amplitude = None
        profile = None
    else:
        profile, amplitude, fields = PROFILES[entry.kind]
        model = None
    missing = {"9": [1.0], "10": [0.0]}
    values = {item.key: entry.values(item.key, default=missing.get(item.key))[0] for item in fields}
    params = decode(fields, values, local, zeropoint)
    fixed = {item.name: None for item in fields if entry.held(item.key)}
    part = Part(model, params, fixed, fields, [])
    params["center"] = local.center
    _hold(part, "center", entry.held("1"), "x and y")
    if profile is not None:
        metric = _read_metric(entry, local, part)
        if any(item.kind == "mag" for item in fields):
            steady = {**params, "slope": 0.0} if "turn" in params else params
            part.params = params = {**params, **_brightness(profile, metric, steady, amplitude)}
        profile = _read_edges(entry, local, part, profile, truncations)
        part.model = radial(profile, metric)
    return part


def _brightness(profile, metric, params, amplitude):
    """The amplitude of a total flux, which GALFIT gives for the component without truncation or rotation."""
    if isinstance(metric, spirals.Spiral):
        metric = metric.metric
    model = radial(profile, metric)
    own = {name: params[name] for name in model.parameters()}
    return {amplitude: from_total(model, own, amplitude)[amplitude]}


def _hold(part, name, held, what):
    if held:
        part.fixed[name] = None
    elif held is None:
        part.notes.append(f"{what} can only be held together; both are free")


def _read_metric(entry, local, part):
    """The metric of an entry; its parameters go to the part."""
    metric, params = metrics.ellipse, part.params
    if "C0" in entry.rows or "c0" in entry.rows:
        key = "C0" if "C0" in entry.rows else "c0"
        metric, params["C0"] = metrics.superellipse, entry.values(key)[0]
        _hold(part, "C0", entry.held(key), "C0")
    if modes := entry.modes("F"):
        rows = np.array([entry.values(f"F{m}", 2) for m in modes])
        metric = metrics.fourier(modes, metric)
        params["am"], params["phim"] = rows[:, 0], np.radians(rows[:, 1]) * local.sense
        held = {entry.held(f"F{m}") for m in modes}
        for name in ("am", "phim"):
            _hold(part, name, held == {True} or (False if held == {False} else None), "all Fourier modes")
    if modes := entry.modes("B"):
        size = next(params[item.name] for item in part.fields if item.kind == "length")
        metric = metrics.bend(modes, size, metric)
        params["bm"] = np.array([entry.values(f"B{m}")[0] for m in modes]) * local.scale * local.sense
        held = {entry.held(f"B{m}") for m in modes}
        _hold(part, "bm", held == {True} or (False if held == {False} else None), "all bending modes")
        part.notes.append("bending: x is measured in the starting radius, which does not follow the fit")
    return _read_rotation(entry, local, part, metric) if "R0" in entry.rows else metric


def _read_rotation(entry, local, part, metric):
    (name,), _, line = entry.rows["R0"]
    if name not in WINDINGS:
        raise ValueError(f"{line}: R0) {name} has no counterpart; there are {', '.join(WINDINGS)}")
    winding, fourth, unit = WINDINGS[name]
    fields = (
        Field("R1", "R_bar", "length"), Field("R2", "R_arm", "length"), Field("R4", fourth, unit),
        Field("R10", "PA_sky", "angle"),
    )  # fmt: skip
    values = {item.key: entry.values(item.key)[0] for item in fields}
    part.params.update(decode(fields, values, local, np.nan))
    part.params["turn"] = math.radians(entry.values("R3")[0]) * local.sense
    part.params["inclination"] = math.radians(entry.values("R9")[0])
    held = [(item.name, item.key) for item in fields] + [("turn", "R3"), ("inclination", "R9")]
    for ours, key in held:
        _hold(part, ours, entry.held(key), key)
    return spirals.spiral(metric, winding)


def _read_edges(entry, local, part, profile, truncations):
    """The profile with the edges that To) and Ti) say."""
    sides = [(key, suffix) for key, suffix in (("Ti", "in"), ("To", "out")) if key in entry.rows]
    for key, suffix in sides:
        number, line = int(entry.values(key)[0]), entry.rows[key][2]
        edge = truncations.get(number)
        if edge is None:
            raise ValueError(f"{line}: {key}) {number}: that component is no radial truncation")
        extra = sorted({"1", "9", "10"} & set(edge.rows))
        if edge.kind not in ("radial", "radial2") or extra:
            problem = f"a position or shape of its own (line {extra[0]})" if extra else f"the kind {edge.kind}"
            raise ValueError(f"{edge.line}: a truncation with {problem} has no counterpart")
        at, soft = edge.values("4")[0], edge.values("5")[0]
        soft = soft - at if edge.kind == "radial2" else soft * (1 if suffix == "out" else -1)
        part.params[f"R_{suffix}"] = (at + soft / 2) * local.scale
        part.params[f"w_{suffix}"] = abs(soft) / (2 * _SOFTNESS) * local.scale
        for name, row in (("R", "4"), ("w", "5")):
            _hold(part, f"{name}_{suffix}", edge.held(row), f"{row}) of the truncation")
        part.notes.append(f"{key}) {number}: its brightness is taken as that without the truncation")
    if not sides:
        return profile
    suffixes = [suffix for _, suffix in sides]
    return modifiers.truncate(profile, inner="in" in suffixes, outer="out" in suffixes)


def _read_sky(entry, local):
    level, slope = entry.values("1")[0], [entry.values(key, default=[0.0])[0] for key in ("2", "3")]
    held = [entry.held("2"), entry.held("3")]
    I0, delta = sky_parameters(level, slope, local)
    fixed = {"I0": None} if entry.held("1") else {}
    if all(held) and not any(slope):
        return Part(models.flat_sky, {"I0": I0}, fixed, (Field("1", "I0", "brightness"),), [])
    part = Part(models.plane_sky, {"I0": I0, "delta": delta}, fixed, (), [])
    _hold(part, "delta", all(held) or (None if any(held) else False), "the sky's gradients")
    return part
