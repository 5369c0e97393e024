"""imfit's configuration files (Erwin 2015, ApJ 799, 226) in and out."""

import re
from pathlib import Path

import numpy as np

from jaxphot import models
from jaxphot.interchange.frames import (
    Field,
    Setup,
    decode,
    local_frame,
    scene_parts,
    sky_level,
    sky_parameters,
    warn_all,
)
from jaxphot.models import metrics, modifiers, profiles
from jaxphot.models.combinators import radial
from jaxphot.pytree import refuse_tracers
from jaxphot.transforms.linear import make_linear

_AXES = (Field("PA", "PA", "angle"), Field("ell", "q", "ellipticity"))
_BOXY = (*_AXES, Field("c0", "C0"))
_EXPONENTIAL = (
    # with the exact factors by which a Sérsic profile of n = 1 is an exponential
    Field("I_0", "Ie", "brightness", float(np.exp(-1.6783469900166612))),
    Field("h", "Re", "length", 1.6783469900166612),
)
_SERSIC = (Field("n", "n"), Field("I_e", "Ie", "brightness"), Field("r_e", "Re", "length"))
_KING = (Field("I_0", "I0", "brightness"), Field("r_c", "Rc", "length"), Field("alpha", "alpha"))
_RING = (Field("A", "Ie", "brightness", 0.5), Field("R_ring", "R_ring", "length"))
_HALF = 1.1774100225154747  # half-light radius of a Gaussian profile over its σ


def _moffat_radius(params, scale):
    return 0.5 / np.sqrt(2 ** (1 / float(params["n"])) - 1)


# name of the function: our model, and its numbers in imfit's order
_FUNCTIONS = {
    "Sersic": (models.sersic, (*_AXES, *_SERSIC)),
    "Sersic_GenEllipse": (radial(profiles.sersic, metrics.superellipse), (*_BOXY, *_SERSIC)),
    "Exponential": (models.exponential, (*_AXES, *_EXPONENTIAL)),
    "Exponential_GenEllipse": (radial(profiles.exponential, metrics.superellipse), (*_BOXY, *_EXPONENTIAL)),
    "Gaussian": (
        models.gaussian,
        (
            *_AXES,
            Field("I_0", "flux", "brightness", lambda p, s: 2 * np.pi * p["q"] * p["sigma"] ** 2),
            Field("sigma", "sigma", "length"),
        ),
    ),
    "Moffat": (
        models.moffat,
        (
            *_AXES,
            Field("I_0", "I0", "brightness"),
            Field("fwhm", "Rd", "length", _moffat_radius),
            Field("beta", "n"),
        ),
    ),
    "Core-Sersic": (
        models.core_sersic,
        (
            *_AXES,
            Field("n", "n"),
            Field("I_b", "Ib", "brightness"),
            Field("r_e", "Re", "length"),
            Field("r_b", "Rb", "length"),
            Field("alpha", "alpha"),
            Field("gamma", "gamma"),
        ),
    ),
    "BrokenExponential": (
        models.broken_exponential,
        (
            *_AXES,
            Field("I_0", "I0", "brightness"),
            Field("h1", "h1", "length"),
            Field("h2", "h2", "length"),
            Field("r_break", "Rb", "length"),
            Field("alpha", "alpha", "number", lambda p, s: 1 / s),
        ),
    ),
    "EdgeOnDisk": (
        models.edge_on,
        (
            Field("PA", "PA", "angle"),
            Field("L_0", "I0", "brightness", lambda p, s: 2 * p["rs"] / s),
            Field("h", "rs", "length"),
            Field("z_0", "hs", "length", 2.0),
        ),
    ),
    "ModifiedKing": (models.king, (*_AXES, *_KING, Field("r_t", "Rt", "length"))),
    "ModifiedKing2": (models.king, (*_AXES, *_KING, Field("c", "Rt", "number", lambda p, s: p["Rc"]))),
    "FerrersBar2D": (
        radial(profiles.ferrer, metrics.superellipse),
        (*_BOXY, Field("n", "alpha"), Field("I_0", "I0", "brightness"), Field("a_bar", "Rout", "length")),
    ),
    "GaussianRing": (
        radial(modifiers.ring(profiles.sersic)),
        (*_AXES, *_RING, Field("sigma_r", "Re", "length", _HALF)),
    ),
    "GaussianRing2Side": (
        radial(modifiers.ring(profiles.sersic, two_sided=True)),
        (
            *_AXES,
            *_RING,
            Field("sigma_r_in", "side_ratio", "number", lambda p, s: s * _HALF / p["Re"]),
            Field("sigma_r_out", "Re", "length", _HALF),
        ),
    ),
    "PointSource": (models.point_source, (Field("I_tot", "flux", "flux"),)),
    "FlatSky": (models.flat_sky, (Field("I_sky", "I0", "brightness"),)),
}
# what their functions have beyond ours: the value that ours is for
_ONLY = {"EdgeOnDisk": {"n": 1.0}}
# and what ours have beyond theirs
_OURS = {"FerrersBar2D": {"beta": 0.0}, "GaussianRing": {"n": 0.5}, "GaussianRing2Side": {"n": 0.5}}
_ORDER = {
    "EdgeOnDisk": ("PA", "L_0", "h", "n", "z_0"),
    "ModifiedKing": ("PA", "ell", "I_0", "r_c", "r_t", "alpha"),
    "ModifiedKing2": ("PA", "ell", "I_0", "r_c", "c", "alpha"),
    "TiltedSkyPlane": ("I_0", "m_x", "m_y"),
}
_WRITTEN = {name: value for name, value in _FUNCTIONS.items() if name != "ModifiedKing2"}
_LINE = re.compile(r"^\s*(\S+)\s+([-+.\deE]+)\s*(.*?)\s*$")
_LIMITS = re.compile(r"^([-+.\deE]+)\s*,\s*([-+.\deE]+)$")


def read_imfit(path, *, transform=None, pixelscale=1.0, zeropoint=np.nan):
    """Read a configuration of imfit, makeimage or pyimfit.

    Parameters
    ----------
    path : str or path-like
        Functions, starts, limits and ``fixed``. Also a best-fit file that imfit wrote.
    transform : transform, optional
        Of the frame that X0 and Y0 count in, such as ``jp.read_fits(…).transform``. By default pixels × `pixelscale`,
        where our position angle runs from up to the right.
    pixelscale : float
        arcsec, without a transform.
    zeropoint : float
        Only passed on.

    Returns
    -------
    Setup
        ``jp.fit(setup.model, setup.params, image, fixed=setup.fixed, bounds=setup.bounds)``.

    Raises
    ------
    ValueError
        A line that is not understood, or a function without counterpart; the line is named.

    Notes
    -----
    imfit counts pixels from 1, PA in degrees from up counter-clockwise, ell = 1 − q, brightness a pixel. X0 and Y0 are
    held if both are; a centre's limits hold where pixel axes are those of the plane. Image descriptions (GAIN,
    READNOISE, ORIGINAL_SKY, …) are in `Setup.info`.
    """
    transform = make_linear(pixelscale=pixelscale) if transform is None else transform
    info, sets = _parse(Path(path))
    parts, params, fixed, bounds, notes = {}, {}, {}, {}, []
    for center, functions in sets:
        local = local_frame(transform, *(center[key].value - 1 for key in ("X0", "Y0")))
        for number, function, rows in functions:
            name = re.sub(r"\W", "_", function).lower() + str(len(parts) + 1)
            model, own = _component(path, number, function, rows, local)
            declared = model.parameters()
            parts[name], params[name] = model, own
            fixed[name], bounds[name] = _toggles(function, rows, local, own, notes, name)
            if "center" in declared:
                own["center"] = local.center
                _center_toggles(center, transform, local, fixed[name], bounds[name], notes, name)
    fixed, bounds = ({name: tree for name, tree in of.items() if tree} for of in (fixed, bounds))
    warn_all(notes, path)
    return Setup(models.scene(**parts), params, fixed, bounds, transform, zeropoint, notes=tuple(notes), info=info)


class _Row:
    """A parameter's line: value, whether it is fixed, and its limits."""

    def __init__(self, path, number, value, rest):
        self.number = number
        try:
            self.value = float(value)
        except ValueError:
            raise ValueError(f"{path}:{number}: expected a number, got {value!r}") from None
        self.fixed = rest.lower() == "fixed"
        limits = _LIMITS.match(rest)
        if rest and not self.fixed and not limits:
            raise ValueError(f"{path}:{number}: expected limits 'low,high' or 'fixed', got {rest!r}")
        self.limits = tuple(float(side) for side in limits.groups()) if limits else None


def _parse(path):
    """(image description, [({"X0": row, "Y0": row}, [(line, function, {key: row})])])."""
    info, sets = {}, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        word, *rest = line.split()
        if word.upper() == "FUNCTION":
            if not sets or len(rest) != 1:
                raise ValueError(f"{path}:{number}: expected X0, Y0 and then FUNCTION and a name, got {line!r}")
            sets[-1][1].append((number, rest[0], {}))
            continue
        match = _LINE.match(line)
        if not match and (sets or len(rest) != 1):
            raise ValueError(f"{path}:{number}: expected 'NAME value [limits]', got {line!r}")
        if word == "X0":
            sets.append(({}, []))
        if not sets:
            info[word] = rest[0]
            continue
        target = sets[-1][1][-1][2] if sets[-1][1] else sets[-1][0]
        # +/- errors of best-fit files are comments, which are gone by now
        target[word] = _Row(path, number, match[2], match[3])
    if not sets or any(set(center) != {"X0", "Y0"} or not functions for center, functions in sets):
        raise ValueError(f"{path}: expected sets of X0, Y0 and at least one FUNCTION each")
    return info, sets


def _component(path, number, function, rows, local):
    """(model, params without centre)."""
    known = {**_FUNCTIONS, "TiltedSkyPlane": None}
    if function not in known:
        raise ValueError(f"{path}:{number}: {function} has no counterpart; there are {', '.join(known)}")
    keys = _ORDER.get(function) or tuple(item.key for item in _FUNCTIONS[function][1])
    if set(rows) != set(keys):
        raise ValueError(f"{path}:{number}: {function}: expected {', '.join(keys)}, got {', '.join(rows) or 'nothing'}")
    for key, value in _ONLY.get(function, {}).items():
        if not rows[key].value == value:
            raise ValueError(f"{path}:{rows[key].number}: {function} has a counterpart for {key} = {value:g} only")
    values = {key: row.value for key, row in rows.items()}
    if function == "TiltedSkyPlane":
        I0, delta = sky_parameters(values["I_0"], (values["m_x"], values["m_y"]), local)
        return models.plane_sky, {"I0": I0, "delta": delta}
    model, fields = _FUNCTIONS[function]
    return model, {**decode(fields, values, local, np.nan), **_OURS.get(function, {})}


def _toggles(function, rows, local, own, notes, name):
    """(fixed, bounds) of a component but for its centre."""
    fixed, bounds = dict.fromkeys(_OURS.get(function, {})), {}
    if function == "TiltedSkyPlane":
        held = {"I0": rows["I_0"].fixed, "delta": rows["m_x"].fixed and rows["m_y"].fixed}
        return {key: None for key, is_held in held.items() if is_held}, {}
    for item in _FUNCTIONS[function][1]:
        row = rows[item.key]
        if row.fixed:
            fixed[item.name] = None
        elif row.limits and item.kind == "angle":
            if row.limits[1] - row.limits[0] < 180:
                notes.append(f"{name}: limits of {item.key}: a position angle has a period of 180°")
        elif row.limits and callable(item.factor):
            notes.append(f"{name}: limits of {item.key}: our {item.name} depends on other parameters as well")
        elif row.limits:
            ends = sorted(item.ours(end, local, np.nan, own) for end in row.limits)
            low, high = (0.01, 1.0) if item.name == "q" else (-np.inf, np.inf)
            bounds[item.name] = (max(ends[0], low), min(ends[1], high))
    return fixed, bounds


def _center_toggles(center, transform, local, fixed, bounds, notes, name):
    held = [center[key].fixed for key in ("X0", "Y0")]
    if all(held):
        fixed["center"] = None
    elif any(held):
        notes.append(f"{name}: X0 and Y0 can only be held together; both are free")
    elif all(center[key].limits for key in ("X0", "Y0")):
        if np.abs(local.jacobian[[0, 1], [1, 0]]).max() > 1e-9 * local.scale:
            notes.append(f"{name}: limits of X0, Y0: the pixel grid is turned against the plane")
            return
        corners = [
            [float(v) for v in transform.pixel_to_plane(center["X0"].limits[k] - 1, center["Y0"].limits[k] - 1)]
            for k in (0, 1)
        ]
        bounds["center"] = (np.min(corners, axis=0), np.max(corners, axis=0))


def write_imfit(path, model, params, transform, *, fixed=None, overwrite=False):
    """Write a model as a configuration of imfit or makeimage.

    Parameters
    ----------
    path : str or path-like
    model : model
        A scene, or one component.
    params : dict
        As `fit` takes or returns them.
    transform : transform
        Of the whole frame that imfit will read, ``image.transform`` for an uncropped image.
    fixed : dict, optional
        As `fit` takes it: those parameters get ``fixed``.
    overwrite : bool

    Raises
    ------
    ValueError
        A component without counterpart; it is named.
    FileExistsError
    """
    refuse_tracers("files are written outside", params=params, transform=transform)
    lines, at = [], None
    for name, part, own, held in scene_parts(model, params, fixed or {}):
        function = _function_of(name, part, own)
        center = np.asarray(own["center"], float) if "center" in own else None
        pixel = (0.0, 0.0) if center is None else tuple(float(v) for v in transform.plane_to_pixel(*center))
        local = local_frame(transform, *pixel)
        lines += [] if at is None else [""]
        at = pixel
        for key, value in zip(("X0", "Y0"), pixel, strict=True):
            lines.append(_written(key, value + 1, center is None or "center" in held))
        lines.append(f"FUNCTION {function}   # {name}")
        lines += _numbers(function, own, held, local)
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; overwrite=True replaces it")
    path.write_text("\n".join(lines) + "\n")


def _function_of(name, part, own):
    if part == models.plane_sky:
        return "TiltedSkyPlane"
    if part == models.de_vaucouleurs:
        raise ValueError(f"{name}: imfit has no de Vaucouleurs function; write a sersic with n = 4 held")
    if part in (radial(profiles.ferrer), radial(profiles.ferrer, metrics.superellipse)) and float(own["beta"]) == 0:
        return "FerrersBar2D"
    for function, (known, _) in _WRITTEN.items():
        if part == known and all(float(own[key]) == value for key, value in _OURS.get(function, {}).items()):
            return function
    raise ValueError(f"{name}: imfit has no counterpart of {part!r}; there are {', '.join(_WRITTEN)}")


def _numbers(function, own, held, local):
    if function == "TiltedSkyPlane":
        level, slope = sky_level(float(own["I0"]), own["delta"], local)
        pairs = (("I_0", level, "I0"), ("m_x", slope[0], "delta"), ("m_y", slope[1], "delta"))
        return [_written(key, value, name in held) for key, value, name in pairs]
    held = held if "C0" in own else {"C0": None, **held}
    own = {"C0": 0.0, **own}
    fields = {item.key: item for item in _FUNCTIONS[function][1]}
    lines = []
    for key in _ORDER.get(function, tuple(fields)):
        if key in fields:
            item = fields[key]
            lines.append(_written(key, item.theirs(own[item.name], local, np.nan, own), item.name in held))
        else:
            lines.append(_written(key, _ONLY[function][key], True))
    return lines


def _written(key, value, fixed):
    return f"{key:<10} {float(value):.12g}" + ("   fixed" if fixed else "")
