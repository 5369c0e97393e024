"""Compiling ahead of time, and keeping what was compiled for the next process."""

import os
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jaxphot.fitting.problem import make_problem
from jaxphot.fitting.result import unpack
from jaxphot.fitting.solve import compile_ahead, complete_options
from jaxphot.image import crop, difference
from jaxphot.models.combinators import check_model
from jaxphot.parameters import Parameter, parameters
from jaxphot.pytree import refuse_tracers
from jaxphot.render import check_image

_WORTH_KEEPING = 0.1  # seconds of compilation


class CompiledFit:
    """A fit that is compiled already; made by `compile_fit`."""

    def __init__(self, model, like, options, setup, program):
        self._model, self._like, self._options, self._setup, self._program = model, like, options, setup, program

    def __call__(self, params, image):
        """Fit an image.

        Parameters
        ----------
        params : dict
            Where to start.
        image : Image
            Of the kind, shape and dtype that this was compiled for.

        Returns
        -------
        Fit

        Raises
        ------
        ValueError, TypeError
            Another kind of image, which would need another compilation; what `fit` refuses.
        """
        check_image(image)
        problem = difference(self._like, image)
        if problem:
            raise ValueError(f"image: {problem}, which this fit was compiled for; use compile_fit(model, like=image)")
        setup, lane = make_problem(self._model, params, image, **self._options)
        if setup != self._setup:
            raise ValueError("params: their names and shapes are not those that this fit was compiled for")
        return unpack(setup.coordinates, lane.start, self._program(lane))


def compile_fit(model, *, like, params=None, **options):
    """Compile a fit ahead of time, for a service that must answer at once.

    Parameters
    ----------
    model : model
    like : Image
        Gives shape, dtype and kind of transform and PSF; its pixels do not matter.
    params : dict, optional
        Gives the names and shapes of parameters that the model does not declare (``many``, a plain function).
    **options
        Those of `fit`.

    Returns
    -------
    CompiledFit
        Called as ``fit(params, image)``. It never compiles again: another shape or kind of image is an error.

    Examples
    --------
    >>> import numpy as np, jaxphot as jp
    >>> image = jp.make_image(np.full((8, 8), 3.0), std=1.0)
    >>> fit_sky = compile_fit(jp.models.flat_sky, like=image)
    >>> round(float(fit_sky({"I0": 0.0}, image).params["I0"]), 3)
    3.0
    """
    check_model(model)
    check_image(like)
    refuse_tracers("fit compiles with the program around it", like=like)
    options = complete_options("compile_fit", options)
    example = params if params is not None else parameters(model)
    if not example:
        raise ValueError("params: the model does not declare its parameters; pass an example of them")
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape if isinstance(leaf, Parameter) else np.shape(leaf), like.dtype),
        example,
        is_leaf=lambda leaf: isinstance(leaf, (Parameter, list, tuple)),
    )
    setups = []

    def split(params, image):
        setup, lane = make_problem(model, params, image, **options)
        setups.append(setup)
        return lane

    lane = jax.eval_shape(split, shapes, like)
    if options["window"] is not None:
        crop(like, options["window"])  # cutting is not part of the program: have its few operations compiled too
    program = compile_ahead(setups[0], lane)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    return CompiledFit(model, abstract, options, setups[0], program)


def enable_compilation_cache(path=None):
    """Keep compiled programs on disk, so that the next process need not compile the same fit again.

    Switches on JAX's persistent compilation cache, for all that this process compiles from now on. Call it before the
    first fit. Deleting the folder is safe.

    Parameters
    ----------
    path : str or path-like, optional
        A folder, made if it is missing; by default ``jaxphot`` in the user's folder for caches.

    Returns
    -------
    pathlib.Path
        The folder.

    Examples
    --------
    >>> folder = enable_compilation_cache("compiled")  # doctest: +SKIP
    """
    folder = _default_folder() if path is None else Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"path: {folder} cannot be made a folder: {error}") from error
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
    compilation_cache.reset_cache()  # JAX looks at the settings once, when it first compiles
    return folder


def _default_folder():
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "jaxphot"
