"""What a pixel's value costs: half its deviance, the derivative, and the Fisher information it carries.

A likelihood is a hashable value made by a factory here. All that solvers and samplers see of it is

- ``terms(value, image) → Terms``: loss, gradient and Fisher weight of every value;
- ``log_normalization(image)``: what makes ``−Σ loss`` a log-likelihood; of the data only;
- ``draw(key, value, image, noise)``: data with this noise about the model's pixels;

and if it has them, ``compare(value, image, noise)``, which turns the model's pixels into the independent values that
`terms` judges (`noise` are the parameters of the scene's noise part), and ``check(model, params, image)``, which raises
at the door. One of your own needs `terms` and `log_normalization`.
"""

import jax.numpy as jnp
import numpy as np

from jaxphot import correlation
from jaxphot.noise_models import (
    Correlated,
    FractionalFloor,
    Gaussian,
    Huber,
    ModelVariance,
    Poisson,
    StudentT,
    Terms,
    noise_parameters,
)

__all__ = [
    "Terms",
    "correlated",
    "fractional_floor",
    "gaussian",
    "huber",
    "model_variance",
    "poisson",
    "student_t",
]


def compared(likelihood, model, params, value, image):
    """What the likelihood's `terms` take: the model's pixels, or what it makes of them."""
    compare = getattr(likelihood, "compare", None)
    return value if compare is None else compare(value, image, noise_parameters(model, params))


def log_density(likelihood, model, params, value, image):
    """Log-likelihood of an image, given the pixels of the model with these parameters."""
    terms = likelihood.terms(compared(likelihood, model, params, value, image), image)
    return likelihood.log_normalization(image) - jnp.sum(terms.loss)


def gaussian():
    """Gaussian noise of variance 1/ivar: least squares."""
    return Gaussian()


def poisson():
    """Poisson noise of counts ``data · gain``; the image needs `gain`, and its data must contain the sky.

    The deviance is that of Cash 1979 (ApJ 228, 939); its Fisher weights are those of the model, not of the data, so
    that pixels without counts count. ivar serves as a mask only.
    """
    return Poisson()


def student_t(dof=4.0):
    """Student's t with `dof` degrees of freedom and scale 1/√ivar: a fit that outliers hardly pull."""
    if not dof > 0:
        raise ValueError(f"dof: expected a positive number, got {dof!r}")
    return StudentT(float(dof))


def huber(threshold=1.345):
    """Gaussian within `threshold` standard deviations 1/√ivar, exponential beyond (Huber 1964, AnnMathStat 35, 73).

    Outliers pull with a force that no longer grows. 1.345 keeps 95 % of the efficiency of least squares.
    """
    if not threshold > 0:
        raise ValueError(f"threshold: expected a positive number, got {threshold!r}")
    return Huber(float(threshold))


def model_variance(read_noise=0.0):
    """Gaussian noise of variance ``read_noise² + model / gain``: photons of the *model*, and the read-out.

    A variance estimated from the data favours pixels that scattered down, and biases fluxes low; this one does not,
    and allows for read noise, which Poisson's does not. The logarithm of the variance is part of the likelihood.

    Parameters
    ----------
    read_noise : float
        Standard deviation, in the unit of the data.

    Returns
    -------
    likelihood
        The image needs `gain`, and its data must contain the sky; its ivar serves as a mask only.
    """
    if not read_noise >= 0:
        raise ValueError(f"read_noise: expected a number ≥ 0, got {read_noise!r}")
    return ModelVariance(float(read_noise))


def fractional_floor():
    """Gaussian noise of variance ``1/ivar + (f · model)²``: a systematic error that is a fraction of the model.

    f is a parameter like any other (free, fixed, bounded, with a prior), in a part of the scene that emits nothing:
    ``scene(galaxy=jp.models.sersic, noise=jp.models.noise_floor)``, with start ``{"noise": {"f": 0.03}}``.
    """
    return FractionalFloor()


def correlated(kernel=None, *, autocorrelation=None, power=None):
    """Gaussian noise of variance 1/ivar that is correlated between pixels, as in drizzled or resampled images.

    Residuals, scaled by their standard deviations, are whitened by Fourier transforms; masked pixels and edges of the
    image are treated exactly. Power below 1e-3 of the mean (bilinear interpolation leaves none at the highest
    frequency) is raised to it.

    Parameters
    ----------
    kernel : (h, w) array-like, optional
        What white noise was convolved with, such as the drop of a drizzle. One of the three.
    autocorrelation : (h, w) array-like, optional
        Correlation of pixels by their offset, odd sides, offset 0 in the middle.
    power : (ny, nx) array-like, optional
        Power spectrum in the order of ``np.fft.fft2``, such as the mean ``|FFT|²`` of source-free stamps.

    Returns
    -------
    likelihood
        Only the correlation is taken from the arguments; the variance is the image's.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> noise = correlated([[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    >>> round(noise.rows[2][3], 3)  # of neighbours
    0.667
    """
    given = {"kernel": kernel, "autocorrelation": autocorrelation, "power": power}
    names = [name for name, values in given.items() if values is not None]
    if len(names) != 1:
        raise ValueError(f"correlated: expected one of {', '.join(given)}, got {' and '.join(names) or 'none'}")
    (name,), values = names, np.asarray(given[names[0]], np.float64)
    if values.ndim != 2 or not np.all(np.isfinite(values)) or not np.any(values):
        raise ValueError(f"{name}: expected a finite (h, w) array, not all zero, got shape {values.shape}")
    if name == "kernel":
        values = correlation.autocorrelation_of_kernel(values)
    elif name == "power":
        if np.any(values < 0):
            raise ValueError("power: expected values ≥ 0")
        values = correlation.autocorrelation_of_power(values)
    else:
        middle = values[values.shape[0] // 2, values.shape[1] // 2]
        if values.shape[0] % 2 == 0 or values.shape[1] % 2 == 0 or not middle > 0 or np.any(np.abs(values) > middle):
            raise ValueError("autocorrelation: expected odd sides and the largest value in the middle")
        if not np.allclose(values, values[::-1, ::-1], atol=1e-6 * middle):
            raise ValueError("autocorrelation: expected the same value at opposite offsets")
        values = values / middle
    return Correlated(tuple(map(tuple, values.tolist())))


def check_likelihood(likelihood):
    """Refuse a bare factory (``likelihood.gaussian``, not ``likelihood.gaussian()``) and what is no likelihood."""
    if hasattr(likelihood, "terms") and not isinstance(likelihood, type):
        return
    if callable(likelihood):
        name = getattr(likelihood, "__name__", repr(likelihood))
        raise TypeError(f"likelihood: {name} is a function that makes one: call it, as in likelihood.{name}()")
    raise TypeError(f"likelihood: expected one such as likelihood.gaussian(), got {type(likelihood).__name__}")


def check_usable(likelihood, model, params, image):
    """Refuse a model or an image that lacks what the likelihood needs."""
    check = getattr(likelihood, "check", None)
    if check is not None:
        check(model, params, image)
