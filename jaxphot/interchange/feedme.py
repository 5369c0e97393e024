"""GALFIT's feedme files written."""

import math
from pathlib import Path

import numpy as np

from jaxphot import models
from jaxphot.interchange.frames import Field, local_frame, scene_parts, sky_level, total
from jaxphot.interchange.galfit_parts import _SOFTNESS, OTHERS, PROFILES, WINDINGS
from jaxphot.models import metrics
from jaxphot.models.combinators import Radial, radial
from jaxphot.models.metrics import Bend, Fourier
from jaxphot.models.modifiers import Truncated
from jaxphot.models.spirals import Spiral
from jaxphot.pytree import refuse_tracers

_CONTROL = (
    ("A", "data", "input image"), ("B", "output", "output image block"), ("C", "sigma", "sigma image"),
    ("D", "psf", "PSF"), ("E", None, "cells a pixel of the PSF"), ("F", "mask", "bad pixels"),
    ("G", "constraints", "constraints"), ("H", None, "region to fit"), ("I", None, "convolution box"),
    ("J", None, "zero point"), ("K", None, "plate scale"), ("O", None, "display"), ("P", None, "what to do"),
)  # fmt: skip


def write_galfit(
    path,
    model,
    params,
    image,
    *,
    fixed=None,
    zeropoint=None,
    files=None,
    window=None,
    psf_oversample=1,
    exptime=1.0,
    overwrite=False,
):
    """Write a model as a feedme of GALFIT.

    Parameters
    ----------
    path : str or path-like
    model : model
        A scene, or one component.
    params : dict
        As `fit` takes or returns them.
    image : Image
        The whole frame that GALFIT will read: its transform, shape and zero point are used.
    fixed : dict, optional
        As `fit` takes it: those parameters get the flag 0.
    zeropoint : float, optional
        Magnitude of flux 1, where the image does not know it.
    files : dict, optional
        Paths to be written: data, output, sigma, psf, mask, constraints.
    window : (i0, i1, j0, j1), optional
        The region to fit, as `crop` takes it; by default the image.
    psf_oversample : int
    exptime : float
        EXPTIME in the header of the data that GALFIT will read, by which it divides; 1 where there is none.
    overwrite : bool

    Raises
    ------
    ValueError
        A component without counterpart, pixels that are no squares, a brightness ≤ 0, or no zero point.
    FileExistsError

    Notes
    -----
    `read_galfit` of the file gives the same model at the same `transform`. Bounds are not written.
    """
    refuse_tracers("files are written outside", params=params, image=image)
    zeropoint = float(image.zeropoint if zeropoint is None else zeropoint)
    if not math.isfinite(zeropoint):
        raise ValueError("zeropoint: the image does not know it; GALFIT needs one")
    height, width = image.shape
    i0, i1, j0, j1 = (0, width, 0, height) if window is None else window
    transform, middle = image.transform, ((i0 + i1 - 1) / 2, (j0 + j1 - 1) / 2)
    blocks, edges = [], []
    parts = scene_parts(model, params, fixed or {})
    for name, part, own, held in parts:
        center = own.get("center")
        at = middle if center is None else [float(v) for v in transform.plane_to_pixel(*np.asarray(center, float))]
        writer = _Writer(name, held, at, local_frame(transform, *at), zeropoint, len(parts) + len(edges))
        blocks.append(writer.component(part, own))
        edges += writer.edges
    scale = local_frame(transform, *middle).scale
    control = {
        "E": psf_oversample, "H": f"{i0 + 1} {i1} {j0 + 1} {j1}", "I": f"{i1 - i0} {j1 - j0}",
        "J": f"{zeropoint - 2.5 * math.log10(exptime):.10g}", "K": f"{scale:.10g} {scale:.10g}", "O": "regular", "P": 0,
    }  # fmt: skip
    named = files or {}
    lines = [f"{key}) {named.get(role, 'none') if role else control[key]}   # {what}" for key, role, what in _CONTROL]
    for block in (*blocks, *edges):
        lines += ["", *block]
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; overwrite=True replaces it")
    path.write_text("\n".join(lines) + "\n")


class _Writer:
    """One component's rows; `edges` are the truncations that it refers to."""

    def __init__(self, name, held, at, local, zeropoint, count):
        self.name, self.held, self.at = name, held, at
        self.local, self.zeropoint, self.count = local, zeropoint, count
        self.edges = []

    def component(self, part, own):
        """Rows of a component."""
        if part in (models.flat_sky, models.plane_sky):
            return self.sky(own)
        for kind, (model, fields) in OTHERS.items():
            if part == model:
                return [f"0) {kind}   # {self.name}", self.position(), *self.fields(fields, own), "Z) 0"]
        if not isinstance(part, Radial):
            raise self.none(part)
        profile = part.profile.profile if isinstance(part.profile, Truncated) else part.profile
        kinds = [kind for kind, (known, _, _) in PROFILES.items() if profile == known]
        if not kinds:
            raise self.none(part)
        _, amplitude, fields = PROFILES[kinds[0]]
        if isinstance(own.get("q"), type(None)):
            own = {**own, "q": 1.0, "PA": 0.0}
            self.held = {"q": None, "PA": None, **self.held}
        metric = part.metric
        rows = self.metric(metric, own, fields)
        if any(item.kind == "mag" for item in fields):
            steady = radial(profile, metric.metric if isinstance(metric, Spiral) else metric)
            whole = total(steady, {key: own[key] for key in steady.parameters()})
            own = {**own, amplitude: whole}
        head = [f"0) {kinds[0]}   # {self.name}", self.position(), *self.fields(fields, own)]
        return [*head, *rows, *self.truncations(part.profile, own), "Z) 0"]

    def none(self, part):
        """The error of a component without counterpart."""
        return ValueError(f"{self.name}: GALFIT has no counterpart of {part!r}")

    def flag(self, name):
        """1 where a parameter is free."""
        return int(name not in self.held)

    def position(self):
        """Row 1)."""
        flag = self.flag("center")
        return f"1) {self.at[0] + 1:.10g} {self.at[1] + 1:.10g} {flag} {flag}"

    def fields(self, fields, own, prefix=""):
        """Rows of single numbers."""
        try:
            values = [(item, item.theirs(own[item.name], self.local, self.zeropoint, own)) for item in fields]
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        return [f"{prefix}{item.key}) {value:.12g} {self.flag(item.name)}" for item, value in values]

    def sky(self, own):
        """Rows of a sky: its level in the middle of the region, and slopes."""
        level, slope = sky_level(float(own["I0"]), own.get("delta", (0.0, 0.0)), self.local)
        tilt = self.flag("delta") if "delta" in own else 0
        rows = [f"1) {level:.12g} {self.flag('I0')}", f"2) {slope[0]:.12g} {tilt}", f"3) {slope[1]:.12g} {tilt}"]
        return [f"0) sky   # {self.name}", *rows, "Z) 0"]

    def metric(self, metric, own, fields):
        """Rows of C0, modes and rotation, from the outermost metric inwards."""
        if isinstance(metric, Spiral):
            return [*self.metric(metric.metric, own, fields), *self.rotation(metric, own)]
        if isinstance(metric, Bend):
            size = next(float(own[item.name]) for item in fields if item.kind == "length")
            turned, flag = self.local.scale * self.local.sense, self.flag("bm")
            # their x is in the effective radius, ours in the bend's own scale
            rows = [
                f"B{m}) {float(b) * (size / metric.scale) ** m / turned:.12g} {flag}"
                for m, b in zip(metric.modes, np.asarray(own["bm"]), strict=True)
            ]
            return [*self.metric(metric.metric, own, fields), *rows]
        if isinstance(metric, Fourier):
            phases = np.degrees(np.asarray(own["phim"], float)) * self.local.sense
            flags = f"{self.flag('am')} {self.flag('phim')}"
            rows = [
                f"F{m}) {float(a):.12g} {phase:.12g} {flags}"
                for m, a, phase in zip(metric.modes, np.asarray(own["am"]), phases, strict=True)
            ]
            return [*self.metric(metric.metric, own, fields), *rows]
        if metric is metrics.superellipse:
            return [f"C0) {float(own['C0']):.12g} {self.flag('C0')}"]
        if metric in (metrics.ellipse, metrics.circle):
            return []
        raise ValueError(f"{self.name}: GALFIT has no counterpart of {metric!r}")

    def rotation(self, metric, own):
        """Rows R0) to R10)."""
        laws = {law: (kind, name, unit) for kind, (law, name, unit) in WINDINGS.items()}
        if metric.winding not in laws:
            raise ValueError(f"{self.name}: GALFIT has no counterpart of {metric.winding!r}")
        kind, fourth, unit = laws[metric.winding]
        lengths = (Field("1", "R_bar", "length"), Field("2", "R_arm", "length"), Field("4", fourth, unit))
        turn, inclination = (math.degrees(float(own[name])) for name in ("turn", "inclination"))
        return [
            f"R0) {kind}",
            *self.fields(lengths, own, "R"),
            f"R3) {turn * self.local.sense:.12g} {self.flag('turn')}",
            f"R9) {inclination:.12g} {self.flag('inclination')}",
            *self.fields((Field("10", "PA_sky", "angle"),), own, "R"),
        ]

    def truncations(self, profile, own):
        """Rows To) and Ti), and the components that they mean."""
        rows = []
        for suffix, key, sign in (("in", "Ti", -1), ("out", "To", 1)):
            if f"R_{suffix}" not in own or not isinstance(profile, Truncated):
                continue
            middle, half = (float(own[name]) / self.local.scale for name in (f"R_{suffix}", f"w_{suffix}"))
            half *= _SOFTNESS
            self.edges.append(
                [
                    f"T0) radial   # of {self.name}",
                    f"T4) {middle - sign * half:.12g} {self.flag(f'R_{suffix}')}",
                    f"T5) {2 * half:.12g} {self.flag(f'w_{suffix}')}",
                ]
            )
            rows.append(f"{key}) {self.count + len(self.edges)}")
        return rows
