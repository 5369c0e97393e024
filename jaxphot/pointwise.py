"""Derivatives of a brightness at many samples, at little more than the cost of the brightness.

What does not depend on the place (a Sérsic's b_n, the sine of a position angle) is computed once: `split` runs through
the operations of a function of (parameters, place), does those that need no place, and keeps the others for `late`. The
numbers that pass from one to the other are its *residuals*. Derivatives with respect to residuals are taken a sample at
a time, backwards, which costs about as much as the brightness however many there are; parameters come in by the chain
rule, after the sum over samples. Where several residuals say one parameter (sine and cosine of an angle), that rule is
applied to every sample, which leaves less to sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

_INLINED = ("jit", "pjit", "closed_call", "core_call")
_MOST = 4  # residuals a parameter: with more, derivatives are taken with respect to the parameters


class Split(NamedTuple):
    """A function of (arguments, places) in two stages; made by `split`.

    Attributes
    ----------
    residuals : list of arrays
        All that the late stage needs of the arguments and that has derivatives.
    origins : list of frozensets
        Numbers of the arguments that each of them comes from.
    push : callable
        ``push(tangents) → list``: tangents of the residuals from those of the arguments.
    late : callable
        ``late(residuals, *places) → scalar`` for places that are scalars.
    is_reversible : bool
        It may be differentiated backwards: it has no loop of unknown length.
    """

    residuals: list
    origins: list
    push: object
    late: object
    is_reversible: bool


class _Late:
    """A value that depends on the place."""


class _Early(NamedTuple):
    """A value that does not, and the numbers of the arguments that it depends on."""

    value: object
    origins: frozenset


class _Ref(NamedTuple):
    """Where the late stage finds an early value: among the residuals, or among constants."""

    live: bool
    number: int


def split(function, arguments, places):
    """Take a function ``function(arguments, *places) → scalar`` apart.

    Parameters
    ----------
    function : callable
        Of scalars as places. It may close over traced values.
    arguments : list of arrays
    places : int
        Number of places.

    Returns
    -------
    Split
    """
    dtype = jnp.result_type(*arguments)
    closed = jax.make_jaxpr(function)(list(arguments), *([jnp.zeros((), dtype)] * places))
    tape = []

    def early(arguments):
        tape.clear()
        inputs = [_Early(a, frozenset({n})) for n, a in enumerate(arguments)] + [_Late() for _ in range(places)]
        (result,) = _run(closed.jaxpr, [_Early(c, frozenset()) for c in closed.consts], inputs, tape)
        found = _Found()
        steps = [
            (operation, [found.reference(value) for value in values], [id(out) for out in outs], outs)
            for operation, values, outs in tape
        ]
        recipe = (steps, found.reference(result), [id(place) for place in inputs[len(arguments) :]], inputs)
        return found.residuals, found.origins, found.constants, recipe

    residuals, origins, constants, recipe = early(arguments)

    def push(tangents):
        return jax.jvp(lambda arguments: early(arguments)[0], (list(arguments),), (list(tangents),))[1]

    def late(residuals, *places):
        steps, result, names, _ = recipe
        values = dict(zip(names, places, strict=True))

        def read(reference):
            if isinstance(reference, _Ref):
                return (residuals if reference.live else constants)[reference.number]
            return values[reference]

        for operation, references, outs, _ in steps:
            values.update(zip(outs, operation.run(*(read(r) for r in references)), strict=True))
        return read(result)

    return Split(residuals, origins, push, late, not any(_has_loop(operation.eqn) for operation, *_ in recipe[0]))


class _Found:
    """Early values that the late stage uses, each once."""

    def __init__(self):
        self.residuals, self.origins, self.constants, self.seen = [], [], [], {}

    def reference(self, value):
        if isinstance(value, _Late):
            return id(value)
        key = id(value.value)
        if key not in self.seen:
            live = bool(value.origins) and jnp.issubdtype(jnp.result_type(value.value), jnp.inexact)
            if live:
                self.origins.append(value.origins)
            into = self.residuals if live else self.constants
            self.seen[key] = (_Ref(live, len(into)), value.value)  # kept alive, so that its id stays its own
            into.append(value.value)
        return self.seen[key][0]


def _run(jaxpr, consts, inputs, tape):
    """Do what needs no place, and put the rest on the tape."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
    needed = {v for eqn in jaxpr.eqns for v in eqn.invars if not isinstance(v, Literal)} | {
        v for v in jaxpr.outvars if not isinstance(v, Literal)
    }

    def read(variable):
        return _Early(variable.val, frozenset()) if isinstance(variable, Literal) else known[variable]

    inverses = {}
    for eqn in jaxpr.eqns:
        outvars = [v for v in eqn.outvars if v in needed]
        if eqn.primitive.name in _INLINED and "jaxpr" in eqn.params:
            inner = eqn.params["jaxpr"]
            values = [read(v) for v in eqn.invars]
            outs = _run(inner.jaxpr, [_Early(c, frozenset()) for c in inner.consts], values, tape)
            known.update(zip(eqn.outvars, outs, strict=True))
            continue
        if eqn.primitive.name == "div" and isinstance(read(eqn.invars[0]), _Late):
            divisor = read(eqn.invars[1])
            if isinstance(divisor, _Early):  # divided by once, multiplied with for every sample
                inverse = inverses.setdefault(id(divisor.value), _Early(1 / divisor.value, divisor.origins))
                (out,) = outs = [_Late()]
                tape.append((_Operation(eqn, lambda a, b: [a * b]), [read(eqn.invars[0]), inverse], outs))
                known[eqn.outvars[0]] = out
                continue
        invars = list(dict.fromkeys(v for v in eqn.invars if not isinstance(v, Literal)))
        values = [read(v) for v in invars]
        names = jaxpr.debug_info._replace(arg_names=("",) * len(invars), result_paths=("",) * len(outvars))
        alone = jaxpr.replace(constvars=[], invars=invars, outvars=outvars, eqns=[eqn], debug_info=names)
        operation = _Operation(eqn, jaxpr_as_fun(ClosedJaxpr(alone, [])))
        if any(isinstance(value, _Late) for value in values):
            outs = [_Late() for _ in outvars]
            tape.append((operation, values, outs))
        else:
            origins = frozenset().union(*(value.origins for value in values))
            outs = [_Early(out, origins) for out in operation.run(*(value.value for value in values))]
        known.update(zip(outvars, outs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


class _Operation(NamedTuple):
    """One equation, and a function of its inputs that are not literals."""

    eqn: object
    run: object


def _has_loop(eqn):
    if eqn.primitive.name == "while":
        return True
    inner = [value for param in eqn.params.values() for value in (param if isinstance(param, tuple) else (param,))]
    jaxprs = [getattr(value, "jaxpr", value) for value in inner]
    return any(_has_loop(e) for jaxpr in jaxprs for e in getattr(jaxpr, "eqns", ()))


def brightness(model, params, transform, i, j):
    """Brightness of a model at pixel coordinates i, j."""
    x, y = transform.pixel_to_plane(i, j)
    return jnp.broadcast_to(model(params, x, y), i.shape).astype(i.dtype)


class Planes(NamedTuple):
    """Value and derivatives of a function at samples; made by `linearize`.

    Attributes
    ----------
    count : int
        Planes: the value, and one for each scalar that is differentiated with respect to.
    sample : callable
        ``sample(weight, *places)`` → list of `count` arrays, times the weight, for arrays of one dimension.
    weights : (count − 1,) array
        What the derivatives are multiplied with and summed to give the tangent.
    """

    count: int  # type: ignore[assignment]  # a tuple's own is not wanted
    sample: object
    weights: jax.Array

    def contract(self, planes):
        """The tangent, from sums or means of the planes: (count, …) → (…)."""
        # a product of matrices, because XLA would compute what is put into a plain sum once for every tangent
        weights = jnp.concatenate([jnp.zeros_like(self.weights, shape=1), self.weights])
        return jnp.tensordot(weights, planes, 1, precision=jax.lax.Precision.HIGHEST)


def linearize(function, arguments, tangents, places=2):
    """Value and derivatives of ``function(arguments, *places)``, pointwise in its places.

    Returns
    -------
    Planes
    """
    parts = split(function, arguments, places)
    scalars = sum(np.size(argument) for argument in arguments)
    if not parts.is_reversible or sum(np.size(r) for r in parts.residuals) > _MOST * scalars:
        return _forward(function, arguments, tangents)
    merged = _merged(parts, arguments)
    pushed = parts.push(tangents)
    kept = [k for k, _ in enumerate(parts.residuals) if not any(k in rates for rates in merged.values())]
    columns = [jnp.ravel(pushed[k]) for k in kept] + [jnp.ravel(tangents[n]) for n in merged]
    weights = jnp.concatenate([jnp.zeros(0, jnp.result_type(*arguments)), *columns])

    def one(residuals, weight, *places):
        value, pull = jax.vjp(lambda residuals: parts.late(residuals, *places), residuals)
        return weight * value, pull(jnp.asarray(weight, value.dtype))[0]

    def sample(weight, *places):
        weighted, gradients = jax.vmap(one, (None, *[0] * (1 + len(places))))(parts.residuals, weight, *places)
        columns = [gradients[k].reshape(weight.size, -1) for k in kept]
        planes = [column[:, k] for column in columns for k in range(column.shape[1])]
        return [
            weighted,
            *planes,
            *(sum(gradients[k] * rate for k, rate in rates.items()) for rates in merged.values()),
        ]

    return Planes(1 + weights.size, sample, weights)


def _merged(parts, arguments):
    """Arguments that are scalars and that several scalar residuals come from alone: their derivatives by it."""
    merged = {}
    for n, argument in enumerate(arguments):
        own = [k for k, origins in enumerate(parts.origins) if origins == {n} and np.ndim(parts.residuals[k]) == 0]
        if np.ndim(argument) == 0 and len(own) > 1:
            unit = [jnp.ones_like(a) if m == n else jnp.zeros_like(a) for m, a in enumerate(arguments)]
            rates = parts.push(unit)
            merged[n] = {k: rates[k] for k in own}
    return merged


def linearize_tree(function, tree, tangents, places):
    """`linearize` for a tree of arguments whose tangents may be symbolic zeros; None if they all are."""
    leaves, structure = jax.tree.flatten(tree)
    tangents = jax.tree.leaves(tangents, is_leaf=lambda t: isinstance(t, SymbolicZero))
    live = [n for n, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]
    if not live:
        return None

    def of_live(arguments, *places):
        full = list(leaves)
        for n, argument in zip(live, arguments, strict=True):
            full[n] = argument
        return function(jax.tree.unflatten(structure, full), *places)

    return linearize(of_live, [leaves[n] for n in live], [tangents[n] for n in live], places)


def _forward(function, arguments, tangents):
    """`linearize` with derivatives taken forwards, with respect to the arguments."""
    ends = np.cumsum([0] + [argument.size for argument in arguments])
    eye = np.eye(ends[-1])
    basis = [
        jnp.asarray(eye[:, lo:hi].reshape(-1, *argument.shape), argument.dtype)
        for argument, lo, hi in zip(arguments, ends[:-1], ends[1:], strict=True)
    ]

    def sample(weight, *places):
        def values(*arguments):
            return weight * function(list(arguments), *places)

        value, columns = jax.vmap(lambda *t: jax.jvp(values, tuple(arguments), t), out_axes=(None, 0))(*basis)
        return [value, *columns]

    return Planes(1 + len(eye), sample, jnp.concatenate([jnp.ravel(t) for t in tangents]))
