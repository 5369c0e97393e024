"""One fit: Levenberg–Marquardt from a start, and what the result says of itself."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.amplitudes import find_amplitudes
from jaxphot.fitting.covariance import physical_covariance
from jaxphot.fitting.groups import Joint
from jaxphot.fitting.joint import joint_equations
from jaxphot.fitting.problem import make_problem
from jaxphot.fitting.result import Outcome, unpack
from jaxphot.likelihood import Gaussian
from jaxphot.pytree import is_concrete, subtree, update
from jaxphot.render import DEFAULT_SAMPLING, apply, prepare

_ROUGH_FROM = 25  # steps allowed: with fewer, none are taken on roughly integrated pixels
_UNDAMPED = 1e-10  # Marquardt's λ for a model that is linear in all that is free
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
    per_image=None,
    transform_free=None,
    linear=None,
):
    """Fit a model to an image, or models to a set of images, by Levenberg–Marquardt.

    A pure function: ``jax.vmap(lambda p, im: fit(model, p, im))(starts, images)`` fits a batch.

    A set of images is fitted as one: ``fit({"g": model_g, "r": model_r}, theta, {"g": image_g, "r": image_r})``. All
    models see the one tree theta, each through its view (`linked`), such as `models.by_wavelength` makes; a model
    without a view takes the parameters that it has. The images may differ in everything but their dtype; all positions
    are in the plane of the first one (see `share_plane`). Those of one kind whose models differ in their views only are
    compiled once. `separate` gives what each image is explained by, to draw or render it.

    Parameters
    ----------
    model : model, or dict of model
    params : dict
        Where to start, as `initialize` makes it.
    image : Image, dict of Image with the same keys, or stack of Image with `per_image`
    fixed : dict, optional
        A partial tree of parameters that do not vary: a value fixes the parameter there (it may then be missing from
        `params`), None holds it at its start.
    bounds : dict, optional
        A partial tree of (lowest, highest), instead of the default bounds in ``parameters(model)``.
    window : (i0, i1, j0, j1), optional
        Fit only these columns and rows (see `crop`); for a set of images also a dictionary of them, as `likelihood` and
        `sampling` may be.
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
    per_image : sequence of str, optional
        For one model seen in a stack of N images: key paths, of leaves or branches, whose parameters are each image's
        own, such as ``("sky", "star.flux")``. They have a leading axis N; all others are shared.
    transform_free : sequence of str, or dict of them, optional
        Leaves of images' transforms that are fitted too, such as ``("crtan", "cd")``: of every image but the first, or
        by image (``{"r": ("crtan",)}``; in a stack "1" is the second). They start from what the transform says, and are
        found in `params` and `stderr` under ``_image``, by image: ``params["_image"]["r"]["crtan"]``; those of a single
        image directly. An image alone tells its place only if the positions of its sources are fixed.
    linear : sequence of str, optional
        Key paths, of leaves or branches, of amplitudes (fluxes, intensities, skies) that are solved exactly at every
        trial (variable projection; Golub & Pereyra 1973, SIAM J. Numer. Anal. 10, 413). By default these are all that
        are declared as linear and stand alone in their component, under Gaussian noise; ``()`` steps in them like in
        the others. They are signed. Where all else is fixed, a fit is one linear solve: forced photometry.

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
    return _program(setup, lane) if _is_long(lane) else _quickly_compiled(setup, lane)


def _solve(setup, lane):
    return judge(setup, lane, advance(setup, lane, begin(setup, lane), lane.max_steps))


_program = jax.jit(_solve, static_argnums=0)
_quick_program = jax.jit(_solve, static_argnums=0, compiler_options={"xla_cpu_use_fusion_emitters": False})


def compile_ahead(setup, lane):
    """The compiled program of a problem, from a lane of arrays or of their shapes: ``program(lane) → Outcome``."""
    return _program.lower(setup, lane).compile()


def _is_long(lane):
    """Running takes longer than compiling, or this is a part of somebody's program, which has its own options."""
    leaves = jax.tree.leaves(lane)
    size = sum(image.data.size for image in lane.images)
    return size > _QUICK or not is_concrete(*leaves) or jax.default_backend() != "cpu"


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
    start = coordinates.flatten(subtree(lane.start, dict(coordinates.paths)), lane.dtype)
    z = _lit(setup, lane, coordinates.to_internal(start))
    rough = lane.max_steps >= _ROUGH_FROM
    state = lm.init(domain_of(setup, lane).project(z), rough if coordinates.size else None)
    return state._replace(damping=jnp.full_like(state.damping, _UNDAMPED)) if setup.is_linear else state


def _lit(setup, lane, z):
    """A start whose amplitudes are not 0: there a component's other parameters would have no derivatives.

    Any other value will do, as amplitudes are solved for at the first evaluation; this has the unit of the data.
    """
    own = _scaling(setup)
    if not own.size:
        return z
    pairs = [(~image.mask, image.data) for image in lane.images]
    count = jnp.maximum(sum(jnp.sum(good, dtype=z.dtype) for good, _ in pairs), 1)
    level = sum(jnp.sum(jnp.where(good, jnp.abs(data), 0)) for good, data in pairs) / count
    return z.at[own].set(jnp.where(z[own] == 0, level, z[own]))


def _scaling(setup):
    """Positions of the amplitudes solved exactly that other parameters' derivatives are proportional to."""
    if isinstance(setup.model, Joint):
        return np.asarray(setup.model.linear, int)
    amplitudes = amplitudes_of(setup)
    return np.unique([] if amplitudes is None else [number for _, number in amplitudes.scales]).astype(int)


def linear_positions(setup):
    """Positions of the parameters that are solved exactly at every trial."""
    if isinstance(setup.model, Joint):
        return list(setup.model.linear)
    amplitudes = amplitudes_of(setup)
    return [] if amplitudes is None else list(amplitudes.linear)


def amplitudes_of(setup):
    """The `Amplitudes` of a single image's model that are solved exactly, or None."""
    if not isinstance(setup.likelihood, Gaussian):
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
    function, options = _joint(setup, lane) if isinstance(setup.model, Joint) else _single(setup, lane)
    return lm.resume(
        function,
        state,
        max_steps=jnp.minimum(state.steps + steps, lane.max_steps),
        domain=domain_of(setup, lane),
        rtol=lane.rtol,
        **options,
    )


def _single(setup, lane):
    """The function whose loss is lowered, and options of `lm.step`, for one image."""
    prepared = prepare(lane.image, setup.sampling)

    def pixels(physical, rough):
        return apply(prepared, setup.model, update(lane.start, setup.coordinates.unflatten(physical)), rough)

    return pixels, {
        "loss": partial(setup.likelihood.terms, image=lane.image),
        "amplitudes": amplitudes_of(setup),
        "evaluate": partial(lm.normal_equations, coordinates=setup.coordinates),
    }


def _joint(setup, lane):
    """`_single` for a set of images."""
    equations = joint_equations(setup.model, setup.coordinates, lane.start, lane.image)
    return equations.function, {"amplitudes": equations.amplitudes, "evaluate": equations.evaluate}


def judge(setup, lane, state):
    """The `Outcome` of a state."""
    coordinates = setup.coordinates
    state = lm.settle(state, domain_of(setup, lane))
    good = used_pixels(lane)
    if coordinates.size == 0:
        return _nothing_free(setup, lane, good)
    dof = good - coordinates.size
    covariance, undetermined, is_round = physical_covariance(state, coordinates, domain_of(setup, lane))
    if setup.scale_covariance:
        covariance = covariance * (2 * state.loss / jnp.maximum(dof, 1).astype(state.loss.dtype))
    status = jnp.where(state.status == lm.RUNNING, lm.MAX_STEPS, state.status)
    singular = (status == lm.CONVERGED) & jnp.any(undetermined)
    return Outcome(
        physical=coordinates.from_internal(state.params),
        stderr=jnp.sqrt(jnp.diagonal(covariance)),
        held=state.held,
        undetermined=undetermined,
        covariance=covariance,
        chi2=2 * state.loss,
        dof=dof,
        steps=state.steps,
        evaluations=state.evaluations,
        status=jnp.where(singular, lm.SINGULAR, status),
        round=is_round,
    )


def used_pixels(lane):
    """Number of pixels that are not ignored, of all images."""
    return sum(jnp.sum(~image.mask, dtype=jnp.int32) for image in lane.images)


def finish(setup, lane, state):
    """The `Fit` of a state."""
    return unpack(setup.coordinates, lane.start, judge(setup, lane, state))


def domain_of(setup, lane):
    """Bounds in internal coordinates: the `Domain` of a lane."""
    return setup.coordinates.domain(lane.limits)


def _nothing_free(setup, lane, good):
    none = jnp.zeros(0, lane.dtype)
    if isinstance(setup.model, Joint):
        total = 2 * joint_equations(setup.model, setup.coordinates, lane.start, lane.image).terms(none)[0]
    else:
        value = apply(prepare(lane.image, setup.sampling), setup.model, lane.start)
        total = 2 * jnp.sum(setup.likelihood.terms(value, lane.image).loss)
    status = jnp.where(jnp.isfinite(total), lm.CONVERGED, lm.NON_FINITE)
    zero = jnp.zeros((), jnp.int32)
    return Outcome(
        physical=none,
        stderr=none,
        held=none > 0,
        undetermined=none > 0,
        covariance=jnp.zeros((0, 0), lane.dtype),
        chi2=total,
        dof=good,
        steps=zero,
        evaluations=zero + 1,
        status=jnp.where(good == 0, lm.NO_DATA, status).astype(jnp.int32),
        round=jnp.zeros((), bool),
    )
