"""One fit: Levenberg–Marquardt from a start, and what the result says of itself."""

import inspect
from functools import lru_cache, partial
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import crowded, lm
from jaxphot.fitting.implicit import solution_tangent
from jaxphot.fitting.problem import make_problem
from jaxphot.fitting.result import unpack
from jaxphot.fitting.stages import advance, begin, describe_end, domain_of, evaluation_of, judge
from jaxphot.pytree import is_concrete
from jaxphot.render import DEFAULT_SAMPLING

# pixels up to which a fit takes longer to compile than to run: of one image, and of several, which compile more slowly
_QUICK, _QUICK_SET = 128**2, 512**2
_LOOP = 150  # such fits, of one image, after which the program that is slow to compile would have been the better one


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
    priors=None,
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
        `params`), None holds it at its start; None for a branch, ``{"psf": None}``, all of it.
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
        are declared as linear and stand alone in their component, under Gaussian noise without priors; ``()`` steps in
        them like in the others. They are signed. Where all else is fixed, a fit is one linear solve: forced photometry.
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
    return _program(setup, lane) if _is_long(setup, lane) else _quickly_compiled(setup, lane)


def _solve(setup, lane):
    return judge(setup, lane, advance(setup, lane, begin(setup, lane), lane.max_steps))


_program = jax.jit(_solve, static_argnums=0)
# XLA's older code generator for CPUs, and machine code as it comes: compiled in two thirds of the time, slower.
# In one piece: in 32, as by default, jax 0.10 gets some derivatives wrong (`test_quick_programs_are_right`).
_QUICKLY = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
}
_quick_program = jax.jit(_solve, static_argnums=0, compiler_options=_QUICKLY)


def compile_ahead(setup, lane):
    """The compiled program of a problem, from a lane of arrays or of their shapes: ``program(lane) → Outcome``."""
    return _program.lower(setup, lane).compile()


def _is_long(setup, lane):
    """Running takes longer than compiling: of a large image, or of many fits one after the other."""
    sizes = tuple(image.data.size for image in lane.images)
    is_one = len(sizes) == 1 and lane.images[0].data.ndim == 2
    if sum(sizes) > (_QUICK if is_one else _QUICK_SET) or jax.default_backend() != "cpu":
        return True
    before = next(_calls(setup, sizes))
    return before >= _LOOP or before * sum(sizes) > _LOOP * _QUICK


@lru_cache(maxsize=256)
def _calls(setup, sizes):
    return count()


def _quickly_compiled(setup, lane):
    """A single fit of a small image is over in milliseconds, its usual compilation in seconds.

    A jaxlib that no longer knows the options says so; then the usual program is compiled.
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
    return outcome, solution_change(setup, lane, tangent, outcome)


def solution_change(setup, lane, tangent, outcome):
    """Tangent of an outcome that is a minimum, of the lane's: by the implicit function theorem."""
    leaves, structure = jax.tree.flatten(lane)
    floats = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]
    moving = [leaf for leaf, is_float in zip(leaves, floats, strict=True) if is_float]
    change = [leaf for leaf, is_float in zip(jax.tree.leaves(tangent), floats, strict=True) if is_float]
    moved = _tangent(setup, structure, tuple(floats), leaves, outcome, moving, change)
    still = jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), outcome)
    return still._replace(**moved)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _tangent(setup, structure, floats, leaves, outcome, moving, change):
    """Tangents of the outcome's floating-point numbers."""

    def lane_of(moving):
        rest = iter(moving)
        own = [next(rest) if is_float else leaf for leaf, is_float in zip(leaves, floats, strict=True)]
        return jax.tree.unflatten(structure, own)

    def evaluate(moving, z):
        return evaluation_of(setup, lane_of(moving))(z)

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
