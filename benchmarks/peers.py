"""AstroPhot, imfit and scipy behind one face: `fit(data, start, stamp)` of images with unit noise, for batch.py.

Trees of parameters are jaxphot's, as NumPy arrays with a leading axis; pixel scale 1, so the plane is the pixel grid.
Only the tools' public interfaces are called. A tool that is not installed is left out by `available`.
"""

import contextlib
import logging
import os
import sys
import time
import warnings
from dataclasses import dataclass

import numpy as np

# glibc gives every large array fresh pages, which costs AstroPhot a factor of 2 to 3: let it keep them.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "67108864"}
GALAXY = ("center", "q", "PA", "n", "Re", "Ie")


def with_kept_memory():
    """Start this program again with `MALLOC` in its environment, which is read only at the start."""
    if any(name not in os.environ for name in MALLOC):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})


@dataclass
class Outcome:
    """Parameters and standard errors (trees of (N, …) arrays), iterations (N,) and the seconds that it took."""

    params: dict
    stderr: dict
    steps: np.ndarray
    seconds: float


def empty_like(start):
    """A tree of NaN arrays, to be filled."""
    return {part: {key: np.full(np.shape(leaf), np.nan) for key, leaf in own.items()} for part, own in start.items()}


def available(wanted=("astrophot", "imfit", "scipy")):
    """Names of the tools that can be imported."""
    modules = {"astrophot": "astrophot", "imfit": "pyimfit", "scipy": "scipy", "galsim": "galsim"}
    found = []
    logging.getLogger().addHandler(logging.NullHandler())  # else AstroPhot opens a log file in the working folder
    for name in wanted:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                __import__(modules[name])
            found.append(name)
        except ImportError as error:
            print(f"({name} is left out: {error})")
    return found


class AstroPhot:
    """BatchLM in blocks of images, or LM one by one; its own defaults but for the sampling.

    Its position angle runs from +y towards −x on a plane without a WCS.
    """

    def __init__(self, *, dtype="float64", sampling="quad:3", integrate="none", block=16, sky=None):
        import astrophot
        import torch

        warnings.filterwarnings("ignore", module="(torch|caskade|astrophot)")
        torch.set_num_threads(1)
        astrophot.config.set_logging_output(stdout=False)
        self.api, self.dtype, self.block, self.sky = astrophot, getattr(torch, dtype), block, sky
        self.options = {"sampling_mode": sampling, "integrate_mode": integrate}

    def _model(self, target):
        make = self.api.Model
        galaxy = make(name="galaxy", model_type="sersic galaxy model", target=target, **self.options)
        if self.sky is None:
            return galaxy, {"galaxy": galaxy}
        sky = make(name="sky", model_type=f"{self.sky} sky model", target=target)
        return make(name="both", model_type="group model", models=[galaxy, sky], target=target), {
            "galaxy": galaxy,
            "sky": sky,
        }

    def _target(self, pixels, stamp, name="image", oversample=1):
        psf = {}
        if stamp is not None:
            psf["psf"] = self.api.PSFImage(data=np.array(stamp / np.sum(stamp)), upsample=oversample)
        return self.api.TargetImage(data=np.array(pixels), variance=np.ones(pixels.shape), name=name, **psf)

    def _set(self, parts, start, rows):
        for part, model in parts.items():
            for key, leaf in start[part].items():
                value = np.array(leaf[rows], float)
                getattr(model, key).value = -value % np.pi if key == "PA" else value

    def _get(self, parts, outcome, rows):
        for part, model in parts.items():
            for key in outcome.params[part]:
                parameter = getattr(model, key)
                value = parameter.value.detach().numpy()
                outcome.params[part][key][rows] = -value % np.pi if key == "PA" else value
                if parameter.uncertainty is not None:
                    outcome.stderr[part][key][rows] = np.asarray(parameter.uncertainty)

    def fit(self, data, start, stamp=None):
        """Fit all images; building AstroPhot's objects is not timed."""
        self.api.config.DTYPE = self.dtype
        outcome = Outcome(empty_like(start), empty_like(start), np.zeros(len(data), int), 0.0)
        targets = [self._target(pixels, stamp, f"image{k}") for k, pixels in enumerate(data)]
        for first in range(0, len(data), self.block or 1):
            rows = np.arange(first, min(first + (self.block or 1), len(data)))
            fitter, parts = self._fitter([targets[k] for k in rows], start, rows)
            began = time.perf_counter()
            fitter.fit()
            outcome.seconds += time.perf_counter() - began
            outcome.steps[rows] = len(fitter.loss_history) - 1
            self._get(parts, outcome, rows if self.block else rows[0])
        return outcome

    def _fitter(self, targets, start, rows):
        model, parts = self._model(targets[0])
        self._set(parts, start, rows if self.block else rows[0])
        if not self.block:
            return self.api.fit.LM(model, verbose=0), parts
        batch = self.api.TargetImageBatch(targets)
        window = self.api.WindowBatch(list(batch.window.windows))
        return self.api.fit.BatchLM(model, batch, window, verbose=0), parts

    def best_block(self, data, start, stamp=None, sizes=(4, 8, 16, 32)):
        """Set the fastest block size; seconds an image for each, of those that the data fill."""
        seconds = {}
        for size in [size for size in sizes if size <= len(data)] or [len(data)]:
            self.block = size
            cut = {part: {key: leaf[:size] for key, leaf in own.items()} for part, own in start.items()}
            seconds[size] = self.fit(data[:size], cut, stamp).seconds / size
        self.block = min(seconds, key=seconds.get)
        return seconds

    def render(self, params, shape, stamp=None, oversample=1):
        """One model image."""
        self.api.config.DTYPE = self.dtype
        model, parts = self._model(self._target(np.zeros(shape), stamp, oversample=oversample))
        batched = {part: {key: np.asarray(leaf)[None] for key, leaf in own.items()} for part, own in params.items()}
        self._set(parts, batched, 0)
        return model().data.detach().numpy()


class Imfit:
    """imfit's Levenberg–Marquardt through pyimfit, with its sub-pixel integration and numerical derivatives."""

    def __init__(self, sky=None):
        import pyimfit

        self.api, self.sky = pyimfit, sky

    def _description(self, params, limits=True):
        """Model with the parameters as starts; imfit counts pixels from 1 and angles in degrees from +y to −x."""
        values = params["galaxy"]
        galaxy = self.api.make_imfit_function("Sersic")
        limited = {
            "PA": (-np.rad2deg(values["PA"]), (-360, 360)),
            "ell": (1 - values["q"], (0, 0.99)),
            "n": (values["n"], (0.2, 10)),
            "I_e": (values["Ie"], (0, 1e6)),
            "r_e": (values["Re"], (0.05, 1e4)),
        }
        for name, (value, bounds) in limited.items():
            getattr(galaxy, name).setValue(float(value), list(bounds))
        x, y = np.asarray(values["center"], float) + 1
        description = self.api.ModelDescription()
        block = self.api.FunctionSetDescription("galaxy")
        block.x0.setValue(x, [x - 20, x + 20])
        block.y0.setValue(y, [y - 20, y + 20])
        block.addFunction(galaxy)
        description.addFunctionSet(block)
        if self.sky == "plane":
            plane = self.api.make_imfit_function("TiltedSkyPlane")
            plane.I_0.setValue(float(params["sky"]["I0"]))
            plane.m_x.setValue(float(params["sky"]["delta"][0]))
            plane.m_y.setValue(float(params["sky"]["delta"][1]))
            origin = self.api.FunctionSetDescription("sky")
            origin.x0.setValue(1.0, fixed=True)
            origin.y0.setValue(1.0, fixed=True)
            origin.addFunction(plane)
            description.addFunctionSet(origin)
        return description

    def render(self, params, shape, stamp=None, oversample=1):
        """One model image; an oversampled stamp is used as such over the whole frame."""
        if oversample == 1:
            fitter = self.api.Imfit(self._description(params), psf=stamp, maxThreads=1)
            return _silently(fitter.getModelImage, shape=shape)
        middle = (stamp.shape[0] // oversample) // 2 * oversample + oversample // 2
        native = stamp[middle % oversample :: oversample, middle % oversample :: oversample]
        fitter = self.api.Imfit(self._description(params), psf=np.ascontiguousarray(native), maxThreads=1)
        fine = self.api.MakePsfOversampler(stamp, oversample, [1, shape[1], 1, shape[0]])
        ones = np.ones(shape)
        fitter.loadData(ones, error=ones, error_type="sigma", psf_oversampling_list=[fine])
        return _silently(fitter.getModelImage)

    def fit(self, data, start, stamp=None):
        """Fit all images one by one."""
        outcome = Outcome(empty_like(start), empty_like(start), np.zeros(len(data), int), 0.0)
        noise = np.ones(data.shape[1:])
        for k, pixels in enumerate(np.asarray(data, float)):
            own = {part: {key: leaf[k] for key, leaf in tree.items()} for part, tree in start.items()}
            began = time.perf_counter()
            fitter = self.api.Imfit(self._description(own), psf=stamp, maxThreads=1)
            result = fitter.fit(pixels, error=noise, error_type="sigma")
            outcome.seconds += time.perf_counter() - began
            outcome.steps[k] = result.nIter
            _from_imfit(outcome.params, k, np.asarray(result.params), True)
            if result.paramErrs is not None:
                _from_imfit(outcome.stderr, k, np.asarray(result.paramErrs), False)
        return outcome


def _silently(function, **options):
    with contextlib.redirect_stdout(None):
        return function(**options)


def _from_imfit(tree, k, vector, values):
    """The order of imfit's vector: X0, Y0, PA, ell, n, I_e, r_e (X0, Y0, I_0, m_x, m_y of a sky)."""
    x, y, angle, ell, n, Ie, Re = vector[:7]
    angle = np.deg2rad(angle)
    own = {"center": (x - 1, y - 1), "q": 1 - ell, "PA": -angle % np.pi, "n": n, "Re": Re, "Ie": Ie}
    if not values:
        own.update(center=(x, y), q=ell, PA=angle)
    for key in GALAXY:
        tree["galaxy"][key][k] = own[key]
    if "sky" in tree:
        tree["sky"]["I0"][k], tree["sky"]["delta"][k] = vector[9], vector[10:12]


class Scipy:
    """What one writes oneself: `least_squares` with bounds on a NumPy model, 3×3 Gauss nodes a pixel."""

    def fit(self, data, start, stamp=None):
        """Fit all images one by one; derivatives are scipy's finite differences."""
        from scipy.optimize import least_squares

        outcome = Outcome(empty_like(start), empty_like(start), np.zeros(len(data), int), 0.0)
        ny, nx = data.shape[1:]
        low = [-10, -10, 0.02, -10, 0.3, 0.1, 0]
        high = [nx + 10, ny + 10, 1, 10, 8, 10 * nx, np.inf]
        for k, pixels in enumerate(data):
            first = np.concatenate([np.ravel(start["galaxy"][key][k]) for key in GALAXY])
            began = time.perf_counter()
            result = least_squares(
                lambda p, pixels=pixels: (numpy_sersic(p, (ny, nx), stamp) - pixels).ravel(),
                np.clip(first, np.add(low, 1e-6), np.subtract(high, 1e-6)),
                bounds=(low, high),
                x_scale=[1, 1, 0.3, 0.3, 1, first[5], first[6]],
            )
            error = np.sqrt(np.diag(np.linalg.pinv(result.jac.T @ result.jac)))
            outcome.seconds += time.perf_counter() - began
            outcome.steps[k] = result.njev
            for tree, vector in ((outcome.params, result.x), (outcome.stderr, error)):
                tree["galaxy"]["center"][k] = vector[:2]
                for key, value in zip(GALAXY[1:], vector[2:], strict=True):
                    tree["galaxy"][key][k] = value
        outcome.params["galaxy"]["PA"] %= np.pi
        return outcome


def numpy_sersic(vector, shape, stamp=None):
    """A Sérsic image by 3×3 Gauss–Legendre nodes, convolved with a stamp."""
    from scipy.signal import fftconvolve

    x, y, q, PA, n, Re, Ie = vector
    pad = 0 if stamp is None else stamp.shape[0] // 2
    j, i = np.indices((shape[0] + 2 * pad, shape[1] + 2 * pad)) - pad
    b = 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2)
    nodes, weights = np.polynomial.legendre.leggauss(3)
    image = np.zeros(i.shape)
    for di, wi in zip(nodes / 2, weights / 2, strict=True):
        for dj, wj in zip(nodes / 2, weights / 2, strict=True):
            u, v = i + di - x, j + dj - y
            r = np.hypot(np.sin(PA) * u + np.cos(PA) * v, (np.cos(PA) * u - np.sin(PA) * v) / q)
            image += wi * wj * np.exp(-b * ((r / Re) ** (1 / n) - 1))
    return Ie * (image if stamp is None else fftconvolve(image, stamp / stamp.sum(), "valid"))
