"""One fit: Levenberg–Marquardt from a start, and what the result says of itself."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import crowded, lm
from jaxphot.fitting.amplitudes import find_amplitudes
from jaxphot.fitting.covariance import physical_covariance
from jaxphot.fitting.implicit import solution_tangent
from jaxphot.fitting.penalty import penalized, penalty
from jaxphot.fitting.problem import make_problem
from jaxphot.fitting.result import Outcome, unpack
from jaxphot.likelihood import compared
from jaxphot.noise_models import Correlated, Gaussian
from jaxphot.pytree import is_concrete, leaves_with_names, update
from jaxphot.render import DEFAULT_SAMPLING, apply, prepare

_ROUGH_FROM = 25  # steps allowed: with fewer, none are taken on roughly integrated pixels
_QUICK = 128**2  # pixels up to which a single fit takes longer to compile than to run


def fit(
    model,
    params,
    image,
    *,
    fixed=None,
    bounds=None,
    window=None,
    likelihood=None,
    sampling=DEFAULT_SAMPLING,
    max_steps=100,
    rtol=None,
    scale_covariance=False,
    priors=None,
):
    """Fit a model to an image by Levenberg–Marquardt.

    A pure function: ``jax.vmap(lambda p, im: fit(model, p, im))(starts, images)`` fits a batch.

    Parameters
    ----------
    model : model
    params : dict
        Where to start, as `initialize` makes it.
    image : Image
    fixed : dict, optional
        A partial tree of parameters that do not vary: a value fixes the parameter there (it may then be missing from
        `params`), None holds it at its start; None for a branch, ``{"psf": None}``, all of it.
    bounds : dict, optional
        A partial tree of (lowest, highest), instead of the default bounds in ``parameters(model)``.
    window : (i0, i1, j0, j1), optional
        Fit only these columns and rows (see `crop`).
    likelihood : likelihood, optional
        Such as ``likelihood.poisson()``; Gaussian by default.
    sampling : rule
        How pixels are integrated.
    max_steps : int
        Trials at most.
    rtol : float, optional
        Converged where the step to the solution is shorter than this many standard errors, 0.005; it is still taken.
    scale_covariance : bool
        Multiply the covariance by χ²/dof.
    priors : dict or callable, optional
        A partial tree with a prior for each leaf, such as ``priors.normal(2.0, 0.5)`` or any function that returns a
        log density; or one function of the whole tree. The fit is then that of the largest posterior density (of the
        physical parameters), its covariance that of the posterior; `chi2` is still that of the data alone.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError, TypeError
        Bad concrete input; the message names the argument or the parameter's key path. What happens during the fit is
        told by `Fit.status`.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.full((8, 8), 3.0), std=1.0)
    >>> result = fit(jp.models.flat_sky, {"I0": 0.0}, image)
    >>> round(float(result.params["I0"]), 3), round(float(result.stderr["I0"]), 3)
    (3.0, 0.125)
    """
    setup, lane = make_problem(**locals())  # every argument under its own name
    return unpack(setup.coordinates, lane.start, run_fit(setup, lane))


def complete_options(function, given):
    """All options of `fit` from those given to another function; a TypeError names unknown ones."""
    known = {name: p.default for name, p in inspect.signature(fit).parameters.items() if p.kind is p.KEYWORD_ONLY}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(f"{function}: unknown {', '.join(unknown)}; beside its own, it takes fit's {', '.join(known)}")
    return {**known, **given}


def run_fit(setup, lane):
    """Solve a problem that `make_problem` checked.

    Parameters
    ----------
    setup : Setup
    lane : Lane

    Returns
    -------
    Outcome
    """
    if crowded.is_scene(setup):
        lane = crowded.with_pairs(setup, lane)
    if not is_concrete(*jax.tree.leaves(lane)):
        return _differentiable(setup, lane)
    return _program(setup, lane) if _is_long(lane) else _quickly_compiled(setup, lane)


def _solve(setup, lane):
    return judge(setup, lane, advance(setup, lane, begin(setup, lane), lane.max_steps))


_program = jax.jit(_solve, static_argnums=0)
_quick_program = jax.jit(_solve, static_argnums=0, compiler_options={"xla_cpu_use_fusion_emitters": False})


def compile_ahead(setup, lane):
    """The compiled program of a problem, from a lane of arrays or of their shapes: ``program(lane) → Outcome``."""
    return _program.lower(setup, lane).compile()


def _is_long(lane):
    """Running takes longer than compiling."""
    return lane.image.data.size > _QUICK or jax.default_backend() != "cpu"


def _quickly_compiled(setup, lane):
    """Compiled by XLA's older code generator for CPUs: in half the time, to a slower program.

    A single fit of a small image is over in milliseconds, its compilation in seconds. A jaxlib that no longer knows the
    option says so; then the usual program is compiled.
    """
    try:
        return _quick_program(setup, lane)
    except jax.errors.JaxRuntimeError as error:
        if "compile option" not in str(error):
            raise
        return _program(setup, lane)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _differentiable(setup, lane):
    """A fit inside of somebody's program: its derivatives are those of the solution, not of the steps towards it."""
    return _program(setup, lane)


@_differentiable.defjvp
def _differentiate(setup, primals, tangents):
    (lane,), (tangent,) = primals, tangents
    outcome = _differentiable(setup, lane)
    leaves, structure = jax.tree.flatten(lane)
    floats = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]
    moving = [leaf for leaf, is_float in zip(leaves, floats, strict=True) if is_float]
    change = [leaf for leaf, is_float in zip(jax.tree.leaves(tangent), floats, strict=True) if is_float]
    moved = _tangent(setup, structure, tuple(floats), leaves, outcome, moving, change)
    still = jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), outcome)
    return outcome, still._replace(**moved)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _tangent(setup, structure, floats, leaves, outcome, moving, change):
    """Tangents of the outcome's floating-point numbers."""

    def lane_of(moving):
        rest = iter(moving)
        own = [next(rest) if is_float else leaf for leaf, is_float in zip(leaves, floats, strict=True)]
        return jax.tree.unflatten(structure, own)

    def evaluate(moving, z):
        lane = lane_of(moving)
        loss = partial(setup.likelihood.terms, image=lane.image)
        return equations_of(setup, lane)(values_of(setup, lane), z, loss)

    def results(moving, z):
        new = evaluate(moving, z)
        state = lm.init(z)._replace(loss=new.loss, hessian=new.hessian, held=outcome.held)
        new = describe_end(setup, lane_of(moving), state)
        return {name: getattr(new, name) for name in ("physical", "stderr", "covariance", "chi2")}

    z = setup.coordinates.to_internal(outcome.physical)
    if z.size == 0:
        return jax.jvp(lambda own: results(own, z), (moving,), (change,))[1]
    gradient = lambda own, point: evaluate(own, point).gradient  # noqa: E731
    domain = lambda own: domain_of(setup, lane_of(own))  # noqa: E731
    dz = solution_tangent(gradient, domain, z, outcome.held, moving, change)
    return jax.jvp(results, (moving, z), (change, dz))[1]


def begin(setup, lane):
    """State of the solver at the start, before any evaluation.

    Parameters
    ----------
    setup : Setup
    lane : Lane

    Returns
    -------
    lm.State
    """
    coordinates = setup.coordinates
    z = domain_of(setup, lane).project(_lit(setup, lane.image, coordinates.to_internal(start_of(setup, lane))))
    if crowded.is_scene(setup):
        return crowded.begin(setup, lane, z)
    rough = lane.max_steps >= _ROUGH_FROM
    return lm.init(z, rough if coordinates.size else None)


def start_of(setup, lane):
    """The start's free parameters as a flat physical vector."""
    return setup.coordinates.flatten(_take(lane.start, setup.coordinates.paths), lane.image.dtype)


def _lit(setup, image, z):
    """A start whose amplitudes are not 0: there a component's other parameters would have no derivatives.

    Any other value will do, as amplitudes are solved for at the first evaluation; this has the unit of the data.
    """
    amplitudes = amplitudes_of(setup)
    if amplitudes is None or not amplitudes.scales:
        return z
    own = np.unique([number for _, number in amplitudes.scales])
    good = ~image.mask
    count = jnp.maximum(jnp.sum(good, dtype=z.dtype), 1)
    level = jnp.sum(jnp.where(good, jnp.abs(image.data), 0)) / count
    return z.at[own].set(jnp.where(z[own] == 0, level, z[own]))


def amplitudes_of(setup):
    """The `Amplitudes` that are solved exactly, or None."""
    if not isinstance(setup.likelihood, (Gaussian, Correlated)) or setup.has_priors:
        return None
    return find_amplitudes(setup.model, setup.coordinates, setup.bounded)


def advance(setup, lane, state, steps):
    """Go on for at most so many more trials.

    Returns
    -------
    lm.State
    """
    if setup.coordinates.size == 0:
        return state
    options = {
        "max_steps": jnp.minimum(state.steps + steps, lane.max_steps),
        "loss": partial(setup.likelihood.terms, image=lane.image),
        "domain": domain_of(setup, lane),
        "rtol": lane.rtol,
    }
    if crowded.is_scene(setup):
        return lm.resume(None, state, **options, **crowded.solver(setup, lane))
    return lm.resume(
        values_of(setup, lane),
        state,
        **options,
        amplitudes=amplitudes_of(setup),
        evaluate=equations_of(setup, lane),
    )


def values_of(setup, lane):
    """``function(physical, rough=None)`` → what the likelihood judges: the model's pixels, for most."""
    prepared = prepare(lane.image, setup.sampling)

    def values(physical, rough=None):
        params = update(lane.start, setup.coordinates.unflatten(physical))
        pixels = apply(prepared, setup.model, params, rough)
        return compared(setup.likelihood, setup.model, params, pixels, lane.image)

    return values


def equations_of(setup, lane):
    """How normal equations are assembled, in internal coordinates; priors take part."""
    data = partial(lm.normal_equations, coordinates=setup.coordinates)
    return penalized(data, lane.priors, setup.coordinates, lane.start)


def judge(setup, lane, state):
    """The `Outcome` of a state."""
    return describe_end(setup, lane, lm.settle(state, domain_of(setup, lane)))


def describe_end(setup, lane, state):
    """The `Outcome` of a state that was settled."""
    coordinates = setup.coordinates
    good = jnp.sum(~lane.image.mask, dtype=jnp.int32)
    if coordinates.size == 0:
        return _nothing_free(setup, lane, good)
    physical, loss = coordinates.from_internal(state.params), state.loss
    if setup.has_priors:
        loss = loss - penalty(lane.priors, coordinates, lane.start, physical)
    dof = good - coordinates.size
    if crowded.is_scene(setup):
        covariance, undetermined, is_round, left_out = crowded.covariance(setup, lane, state)
        dof = dof + jnp.sum(left_out, dtype=jnp.int32)
    else:
        covariance, undetermined, is_round = physical_covariance(state, coordinates, domain_of(setup, lane))
    if setup.scale_covariance:
        covariance = covariance * (2 * loss / jnp.maximum(dof, 1).astype(state.loss.dtype))
    status = jnp.where(state.status == lm.RUNNING, lm.MAX_STEPS, state.status)
    singular = (status == lm.CONVERGED) & jnp.any(undetermined)
    return Outcome(
        physical=physical,
        stderr=_root(covariance.diagonal()),
        held=state.held,
        undetermined=undetermined,
        covariance=covariance,
        chi2=2 * loss,
        dof=dof,
        steps=state.steps,
        evaluations=state.evaluations,
        status=jnp.where(singular, lm.SINGULAR, status),
        round=is_round,
    )


def _root(variance):
    """Square root; where there is none, NaN whose derivative is 0."""
    known = variance > 0
    return jnp.where(known, jnp.sqrt(jnp.where(known, variance, 1)), jnp.where(variance == 0, 0, jnp.nan))


def finish(setup, lane, state):
    """The `Fit` of a state."""
    return unpack(setup.coordinates, lane.start, judge(setup, lane, state))


def domain_of(setup, lane):
    """Bounds in internal coordinates: the `Domain` of a lane."""
    if crowded.is_scene(setup):
        return crowded.domain_of(setup, lane)
    return setup.coordinates.domain(lane.limits)


def _take(tree, paths):
    """The leaves with the given key paths, as a nested dictionary."""
    wanted = {path for path, _ in paths}
    pruned = {}
    for name, leaf in leaves_with_names(tree):
        if name in wanted:
            *branch, key = name.split(".")
            node = pruned
            for part in branch:
                node = node.setdefault(part, {})
            node[key] = leaf
    return pruned


def _nothing_free(setup, lane, good):
    value = values_of(setup, lane)(jnp.zeros(0, lane.image.dtype))
    total = 2 * jnp.sum(setup.likelihood.terms(value, lane.image).loss)
    status = jnp.where(jnp.isfinite(total), lm.CONVERGED, lm.NON_FINITE)
    zero, none = jnp.zeros((), jnp.int32), jnp.zeros(0, total.dtype)
    return Outcome(
        physical=none,
        stderr=none,
        held=none > 0,
        undetermined=none > 0,
        covariance=jnp.zeros((0, 0), total.dtype),
        chi2=total,
        dof=good,
        steps=zero,
        evaluations=zero + 1,
        status=jnp.where(good == 0, lm.NO_DATA, status).astype(jnp.int32),
        round=jnp.zeros((), bool),
    )
