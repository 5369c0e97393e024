"""Models and values of parameters as text: ``bulge=sersic + disk=exponential + flat_sky``, ``galaxy.n=4``.

Text is parsed by the few rules below; nothing is ever evaluated as Python.
"""

import difflib
import re

import numpy as np

from jaxphot import models
from jaxphot.models import grids, metrics, modifiers, profiles, spirals, views
from jaxphot.models.combinators import kind
from jaxphot.parameters import Parameter, parameters
from jaxphot.pytree import leaves_with_names

_TOKEN = re.compile(r"\s*(?:(-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|([A-Za-z]\w*)|([+=:(),\[\]])|(\S))")
_LARGEST = 1e4
_MOST_PARTS = 100
_DEPTH = 20  # of brackets in brackets

_PROFILE_MAKERS = {"truncate": modifiers.truncate, "ring": modifiers.ring, "spline": profiles.spline}
_METRIC_MAKERS = {
    "fourier": metrics.fourier, "warp": metrics.warp, "bend": metrics.bend, "inclined": modifiers.inclined,
    "spiral": spirals.spiral,
}  # fmt: skip
_OF_PROFILES = {"radial": models.radial, "wedge": modifiers.wedge, "ray": modifiers.ray}
_MODEL_MAKERS = {
    "many": models.many, "mge": models.mge, "poly_sky": models.poly_sky, "bilinear_sky": models.bilinear_sky,
    "zernike": grids.zernike, "pixelated": grids.pixelated, "basis": grids.basis, "by_flux": views.by_flux,
    "by_magnitude": views.by_magnitude, "by_ellipticity": views.by_ellipticity,
}  # fmt: skip
_READY = {name: getattr(models, name) for name in models.__all__ if hasattr(getattr(models, name), "kind")}
_PROFILES = {name: getattr(profiles, name) for name, model in _READY.items() if hasattr(profiles, name)}
_METRICS = {name: getattr(metrics, name) for name in ("circle", "ellipse", "superellipse")}
_WORDS = {"true": True, "false": False}
_USUAL_NAMES = {"background": "sky", "point": "star"}


def model_names():
    """Names of the models that an expression may use as they are, sorted."""
    return sorted(_READY)


def parse_model(text):
    """The scene that an expression means.

    Parameters
    ----------
    text : str
        A sum of models, each ``model`` or ``name=model``: ``sersic + flat_sky``, ``bulge=sersic + disk=exponential +
        sky=plane_sky``. A model is one of `model_names`, or made by a call: ``radial(sersic, superellipse)``,
        ``radial(truncate(exponential))``, ``mge(4)``, ``poly_sky(2)``, ``by_flux(sersic)``, ``many(point_source)``.
        Parts without a name are called galaxy, star or sky by their kind, the second of a kind galaxy2, …

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        What is not understood, and where.

    Examples
    --------
    >>> import jaxphot as jp
    >>> parse_model("sersic + flat_sky") == jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
    True
    """
    return _Parser(text).scene()


class _Parser:
    """Recursive descent; one method a rule."""

    def __init__(self, text):
        if not isinstance(text, str) or not text.strip():
            raise ValueError("model: expected an expression such as 'sersic + flat_sky', got nothing")
        self.text, self.at, self.depth = text, 0, 0
        self.tokens = [(match.lastindex, match.group(match.lastindex)) for match in _TOKEN.finditer(text)]

    def scene(self):
        """Sum of parts."""
        parts = {}
        while True:
            name, model = self.part()
            if name is None:
                base = _USUAL_NAMES.get(kind(model), "galaxy")
                name = next(f"{base}{n}" if n > 1 else base for n in range(1, 1000) if self.free(base, n, parts))
            elif name in parts:
                raise self.error(f"two parts are called {name}")
            parts[name] = model
            if len(parts) > _MOST_PARTS:
                raise self.error(f"more than {_MOST_PARTS} parts; many(model) is for sources of one kind")
            if self.next() is None:
                return models.scene(**parts)
            self.take("+")

    @staticmethod
    def free(base, n, parts):
        """Whether the n-th name is not in use."""
        return (f"{base}{n}" if n > 1 else base) not in parts

    def part(self):
        """A model with or without a name."""
        name = None
        if len(self.tokens) > self.at + 1 and self.tokens[self.at + 1][1] in ("=", ":"):
            name = self.word()
            self.at += 1
        model = self.named({**_READY, **_OF_PROFILES, **_MODEL_MAKERS}, "model")
        return name, model

    def named(self, table, what):
        """What a word means, called where brackets follow."""
        word = self.word()
        if word not in table:
            close = difflib.get_close_matches(word, table, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(table))}"
            raise self.error(f"{word!r} is no {what}{hint}")
        value = table[word]
        makes = word in _OF_PROFILES or word in _MODEL_MAKERS or word in _PROFILE_MAKERS or word in _METRIC_MAKERS
        if self.next() != "(":
            if makes:
                raise self.error(f"{word} expects its settings in brackets")
            return value
        if not makes:
            raise self.error(f"{word} takes no settings; values of parameters are given by --start and --fix")
        return self.called(word, value)

    def called(self, word, maker):
        """A maker with its settings."""
        self.deeper()
        self.take("(")
        given, named = [], {}
        while self.next() != ")":
            if len(self.tokens) > self.at + 1 and self.tokens[self.at + 1][1] == "=":
                key = self.word()
                self.take("=")
                named[key] = self.value(word)
            else:
                given.append(self.value(word))
            if self.next() != ")":
                self.take(",")
        self.take(")")
        self.depth -= 1
        try:
            return maker(*given, **named)
        except (TypeError, ValueError, OverflowError, MemoryError) as error:
            raise self.error(f"{word}: {error}") from None

    def value(self, of):
        """A number, a list, or a word that the maker `of` understands."""
        token = self.next()
        if token in ("(", "["):
            return self.sequence(of, {"(": ")", "[": "]"}[token])
        if token is not None and self.tokens[self.at][0] == 1:
            self.at += 1
            number = float(token)
            if abs(number) > _LARGEST:
                raise self.error(f"{token} is more than anything here may be")
            return int(number) if token.lstrip("-").isdigit() and abs(number) < 2**53 else number
        if token in _WORDS:
            self.at += 1
            return _WORDS[token]
        if of in _OF_PROFILES or of in _PROFILE_MAKERS or of in _METRIC_MAKERS:
            return self.named({**_PROFILES, **_PROFILE_MAKERS, **_METRICS, **_METRIC_MAKERS}, "profile or metric")
        return self.named({**_READY, **_OF_PROFILES, **_MODEL_MAKERS}, "model")

    def sequence(self, of, end):
        """Values in brackets."""
        self.deeper()
        self.at += 1
        values = []
        while self.next() != end:
            values.append(self.value(of))
            if self.next() != end:
                self.take(",")
        self.take(end)
        self.depth -= 1
        return tuple(values)

    def deeper(self):
        """Another bracket; a limit keeps hostile text from exhausting the stack."""
        self.depth += 1
        if self.depth > _DEPTH:
            raise self.error("too many brackets in brackets")

    def word(self):
        """The next token, which must be a name."""
        token = self.next()
        if token is None or self.tokens[self.at][0] != 2:
            raise self.error(f"expected a name, got {'the end' if token is None else repr(token)}")
        self.at += 1
        return token

    def take(self, mark):
        """Pass over a mark that must be here."""
        if self.next() != mark:
            got = self.next()
            raise self.error(f"expected {mark!r}, got {'the end' if got is None else repr(got)}")
        self.at += 1

    def next(self):
        """The next token; None at the end."""
        return self.tokens[self.at][1] if self.at < len(self.tokens) else None

    def error(self, problem):
        """The exception to raise."""
        shown = self.text if len(self.text) <= 200 else self.text[:200] + "…"
        return ValueError(f"model {shown!r}: {problem}")


def declared_leaves(model):
    """`Parameter` by key path."""
    return {name: leaf for name, leaf in leaves_with_names(parameters(model)) if isinstance(leaf, Parameter)}


def parse_values(argument, texts, declared):
    """A partial tree of parameters from ``galaxy.n=4`` and ``galaxy.PA`` (held at its start: None).

    Parameters
    ----------
    argument : str
        What to call them in errors, such as "--fix".
    texts : sequence of str
        Values as the tables have them: angles in degrees, positions as ``galaxy.center=1.5,-2``.
    declared : dict
        From `declared_leaves`.
    """
    tree = {}
    for text in texts:
        path, is_given, value = text.partition("=")
        parameter = _declared(argument, path.strip(), declared)
        put(tree, path.strip(), _numbers(argument, text, value, parameter) if is_given else None)
    return tree


def parse_bounds(texts, declared):
    """A partial tree of (low, high) from ``galaxy.n=0.5:8``; a side that is left empty is not bounded."""
    tree = {}
    for text in texts:
        path, _, value = text.partition("=")
        parameter = _declared("--bounds", path.strip(), declared)
        low, is_pair, high = value.partition(":")
        if not is_pair:
            raise ValueError(f"--bounds: expected name=low:high, such as galaxy.n=0.5:8, got {text!r}")
        sides = [
            _numbers("--bounds", text, side, parameter) if side.strip() else np.full(parameter.shape, end)
            for side, end in ((low, -np.inf), (high, np.inf))
        ]
        if not np.all(sides[0] < sides[1]):
            raise ValueError(f"--bounds: the lower side is not below the upper one in {text!r}")
        put(tree, path.strip(), tuple(sides))
    return tree


def _declared(argument, path, declared):
    if path in declared:
        return declared[path]
    close = difflib.get_close_matches(path, declared, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(declared)}"
    raise ValueError(f"{argument}: the model has no parameter {path!r}; {hint}")


def _numbers(argument, text, value, parameter):
    try:
        numbers = np.asarray([float(part) for part in value.strip().strip("[]()").split(",")])
        shape = tuple(-1 if n < 0 else n for n in parameter.shape)
        numbers = numbers.reshape(shape)
    except ValueError:
        wanted = f"{parameter.shape} numbers separated by commas" if parameter.shape else "a number"
        raise ValueError(f"{argument}: expected {wanted} in {text!r}") from None
    if np.any(np.isnan(numbers)):
        raise ValueError(f"{argument}: NaN is no value, in {text!r}")
    return from_shown(numbers, parameter)


def from_shown(numbers, parameter):
    """Values in the units of parameters from those of tables and of the command line, where angles are in degrees."""
    return np.deg2rad(numbers) if parameter.unit == "rad" else np.asarray(numbers)


def put(tree, path, value):
    """Set the leaf at a key path."""
    *branches, last = path.split(".")
    for branch in branches:
        tree = tree.setdefault(branch, {})
    tree[last] = value
