"""Kinds of noise: what a pixel's value costs under each, and data drawn with it. `likelihood` has their factories."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot import correlation
from jaxphot.models.combinators import components, kind
from jaxphot.pytree import is_concrete


class Terms(NamedTuple):
    """Per pixel, zero where it is ignored.

    Attributes
    ----------
    loss : array
        Half the deviance, so that its sum is χ²/2 for Gaussian noise.
    gradient : array
        d loss / d value.
    weight : array
        Fisher information: the expected second derivative.
    """

    loss: jax.Array
    gradient: jax.Array
    weight: jax.Array


def noise_parameters(model, params):
    """Parameters of the model's noise part (`models.noise_floor`); {} without one."""
    parts = [own for part, own in components(model, params) if kind(part) == "noise"]
    return parts[0] if parts else {}


@dataclass(frozen=True)
class Gaussian:
    """Independent Gaussian noise of variance 1/ivar; made by `gaussian`."""

    def terms(self, value, image):
        """`Terms` of a model's pixel values."""
        residual, ivar, _ = _masked(value, image)
        gradient = ivar * residual
        return Terms(0.5 * gradient * residual, gradient, ivar)

    def log_normalization(self, image):
        """What makes ``−Σ loss`` a log-likelihood: depends on the data only."""
        _, ivar, good = _masked(image.data, image)
        return 0.5 * jnp.sum(jnp.where(good, jnp.log(jnp.where(good, ivar, 1) / (2 * jnp.pi)), 0))

    def draw(self, key, value, image, noise):
        """Data with this noise."""
        return value + _sigma(image) * jax.random.normal(key, value.shape, value.dtype)


@dataclass(frozen=True)
class Poisson:
    """Counts ``data · gain`` drawn from a Poisson distribution; made by `poisson`."""

    def check(self, model, params, image):
        """Refuse an image without gain."""
        _check_gain("poisson()", image)

    def terms(self, value, image):
        """`Terms` of a model's pixel values; a value ≤ 0 where the pixel counts is infinitely bad."""
        _, _, good = _masked(value, image)
        counts = jnp.where(good, jnp.maximum(image.data * image.gain, 0), 0)
        positive = value > 0
        expected = jnp.where(good & positive, value, 1) * image.gain
        ratio = counts / expected
        deviation = expected * _excess(ratio)
        loss = jnp.where(positive, deviation, jnp.inf)
        zero = jnp.zeros_like(value)
        return Terms(
            jnp.where(good, loss, zero),
            jnp.where(good, image.gain * (1 - ratio), zero),
            jnp.where(good, image.gain**2 / expected, zero),
        )

    def log_normalization(self, image):
        """What makes ``−Σ loss`` a log-likelihood of the counts: depends on the data only."""
        good = ~image.mask
        counts = jnp.where(good, jnp.maximum(image.data * image.gain, 0), 0)
        saturated = jax.scipy.special.xlogy(counts, counts) - counts - jax.scipy.special.gammaln(counts + 1)
        return jnp.sum(jnp.where(good, saturated, 0))

    def draw(self, key, value, image, noise):
        """Data with this noise."""
        return jax.random.poisson(key, jnp.maximum(value, 0) * image.gain).astype(value.dtype) / image.gain


def _excess(ratio):
    """1 − ratio + ratio log ratio, without cancellation near 1."""
    small = jnp.abs(ratio - 1) < 0.02
    d = jnp.where(small, ratio - 1, 0)
    series = d**2 * (1 / 2 - d * (1 / 6 - d * (1 / 12 - d / 20)))
    return jnp.where(small, series, 1 - ratio + jax.scipy.special.xlogy(ratio, jnp.where(ratio > 0, ratio, 1)))


@dataclass(frozen=True)
class StudentT:
    """Student's t noise, whose scale is 1/√ivar: outliers count little; made by `student_t`."""

    dof: float

    def terms(self, value, image):
        """`Terms` of a model's pixel values."""
        residual, ivar, _ = _masked(value, image)
        scaled = ivar * residual**2 / self.dof
        factor = (self.dof + 1) / self.dof
        return Terms(
            0.5 * (self.dof + 1) * jnp.log1p(scaled),
            factor * ivar * residual / (1 + scaled),
            (self.dof + 1) / (self.dof + 3) * ivar,
        )

    def log_normalization(self, image):
        """What makes ``−Σ loss`` a log-likelihood: depends on the data only."""
        half = self.dof / 2
        gammaln = jax.scipy.special.gammaln
        constant = gammaln(half + 0.5) - gammaln(half) - 0.5 * jnp.log(self.dof * jnp.pi)
        _, ivar, good = _masked(image.data, image)
        return jnp.sum(jnp.where(good, constant + 0.5 * jnp.log(jnp.where(good, ivar, 1)), 0))

    def draw(self, key, value, image, noise):
        """Data with this noise."""
        return value + _sigma(image) * jax.random.t(key, self.dof, value.shape, value.dtype)


@dataclass(frozen=True)
class Huber:
    """Noise with a Gaussian core and exponential wings, whose scale is 1/√ivar; made by `huber`."""

    threshold: float

    def terms(self, value, image):
        """`Terms` of a model's pixel values."""
        residual, ivar, _ = _masked(value, image)
        k, root = self.threshold, jnp.sqrt(ivar)
        scaled = root * residual
        inside = jnp.clip(scaled, -k, k)
        core, total = self._shares()
        return Terms(inside * (scaled - 0.5 * inside), root * inside, core / total * ivar)

    def log_normalization(self, image):
        """What makes ``−Σ loss`` a log-likelihood: depends on the data only."""
        _, ivar, good = _masked(image.data, image)
        _, total = self._shares()
        return jnp.sum(jnp.where(good, 0.5 * jnp.log(jnp.where(good, ivar, 1)) - math.log(total), 0))

    def draw(self, key, value, image, noise):
        """Data with this noise."""
        which, inside, wing, side = jax.random.split(key, 4)
        core, total = self._shares()
        k = self.threshold
        normal = jax.random.truncated_normal(inside, -k, k, value.shape, value.dtype)
        far = k + jax.random.exponential(wing, value.shape, value.dtype) / k
        far = far * jax.random.rademacher(side, value.shape, value.dtype)
        scaled = jnp.where(jax.random.uniform(which, value.shape, value.dtype) < core / total, normal, far)
        return value + _sigma(image) * scaled

    def _shares(self):
        """Integrals of exp(−loss) over the core, and over all."""
        k = self.threshold
        core = np.sqrt(2 * np.pi).item() * math.erf(k / math.sqrt(2))
        return core, core + 2 * math.exp(-(k**2) / 2) / k


@dataclass(frozen=True)
class Correlated:
    """Gaussian noise of variance 1/ivar that is correlated between pixels; made by `correlated`.

    Attributes
    ----------
    rows : tuple of tuple of float
        Autocorrelation, odd sides, 1 in its middle.
    """

    rows: tuple

    def compare(self, value, image, noise):
        """Whitened residuals on a torus wider than the image; their squares sum to χ²."""
        residual, ivar, good = _masked(value, image)
        power, shape = self._power(image)
        return correlation.whiten(residual * jnp.sqrt(ivar), good, power, shape)

    def terms(self, value, image):
        """`Terms` of whitened residuals."""
        weight = jnp.any(~image.mask).astype(value.dtype)
        return Terms(0.5 * value**2, value, jnp.broadcast_to(weight, value.shape))

    def log_normalization(self, image):
        """What makes ``−Σ loss`` a log-likelihood; log det of the correlation is that of many pixels (Szegő)."""
        power, shape = self._power(image)
        count = jnp.sum(~image.mask, dtype=image.dtype)
        return Gaussian().log_normalization(image) - 0.5 * correlation.mean_log_power(power, shape) * count

    def draw(self, key, value, image, noise):
        """Data with this noise."""
        power, shape = self._power(image)
        ny, nx = image.shape
        return value + _sigma(image) * correlation.colour(key, power, shape, value.dtype)[:ny, :nx]

    def _power(self, image):
        stamp = np.asarray(self.rows)
        shape = correlation.torus_shape(image.shape, stamp)
        return correlation.power_on_torus(stamp, shape), shape


class _TwoMoments:
    """Gaussian noise whose variance, too, depends on parameters.

    `compare` gives mean and logarithm of the variance, (2, ny, nx): the Fisher information of the two is diagonal.
    """

    def compare(self, value, image, noise):
        """Mean and log variance of every pixel."""
        return jnp.stack([value, jnp.log(self.variance(value, image, noise) / self.usual(image))])

    def terms(self, value, image):
        """`Terms` of means and log variances (relative to the usual)."""
        mean, log_ratio = value
        residual, _, good = _masked(mean, image)
        precision = jnp.exp(-log_ratio) / self.usual(image)
        square = precision * residual**2
        usable = jnp.isfinite(log_ratio)
        zero = jnp.zeros_like(mean)
        loss = jnp.where(usable, 0.5 * (square + log_ratio), jnp.inf)
        return Terms(
            jnp.where(good, jnp.stack([loss, zero]), 0),
            jnp.where(good, jnp.stack([precision * residual, 0.5 * (1 - square)]), 0),
            jnp.where(good, jnp.stack([precision, zero + 0.5]), 0),
        )

    def log_normalization(self, image):
        """What makes ``−Σ loss`` a log-likelihood: depends on the data only."""
        return -0.5 * jnp.sum(jnp.where(image.mask, 0, jnp.log(2 * jnp.pi * self.usual(image))))

    def draw(self, key, value, image, noise):
        """Data with this noise."""
        sigma = jnp.sqrt(self.variance(value, image, noise))
        return value + sigma * jax.random.normal(key, value.shape, value.dtype)


@dataclass(frozen=True)
class ModelVariance(_TwoMoments):
    """Gaussian noise of the variance that photons of the model and the read-out make; made by `model_variance`."""

    read_noise: float

    def check(self, model, params, image):
        """Refuse an image without gain."""
        _check_gain("model_variance()", image)

    def variance(self, value, image, noise):
        """Of the model's pixels."""
        return self.read_noise**2 + jnp.maximum(value, 0) / image.gain

    def usual(self, image):
        """Variance that losses refer to: that of the data, of at least one count."""
        data = jnp.where(image.mask, 0, image.data)
        return self.read_noise**2 + jnp.maximum(data, 1 / image.gain) / image.gain


@dataclass(frozen=True)
class FractionalFloor(_TwoMoments):
    """Gaussian noise of variance ``1/ivar + (f · model)²``; made by `fractional_floor`."""

    def check(self, model, params, image):
        """Refuse a model without noise part."""
        if "f" not in noise_parameters(model, params):
            raise ValueError(
                "likelihood: fractional_floor() needs its parameter f in the model:"
                " scene(…, noise=jp.models.noise_floor)"
            )

    def variance(self, value, image, noise):
        """Of the model's pixels."""
        return self.usual(image) + (noise["f"] * value) ** 2

    def usual(self, image):
        """Variance without the floor."""
        return _sigma(image) ** 2


def _masked(value, image):
    good = ~image.mask
    residual = jnp.where(good, value - jnp.where(good, image.data, 0), 0)
    return residual, jnp.where(good, image.ivar, 0), good


def _sigma(image):
    """Standard deviation of the noise; 1 where a pixel is ignored."""
    return 1 / jnp.sqrt(jnp.where(image.mask, 1, image.ivar))


def _check_gain(name, image):
    if is_concrete(image.gain) and not np.all(np.asarray(image.gain) > 0):
        raise ValueError(f"likelihood: {name} needs the image's gain (counts = data · gain); pass gain= on building it")
