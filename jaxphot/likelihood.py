"""What a pixel's value costs: half its deviance, the derivative, and the Fisher information it carries.

A likelihood is a hashable value made by a factory here. The solver sees only `Terms`, so Gaussian, Poisson and
Student-t share one step.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp


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


@dataclass(frozen=True)
class Poisson:
    """Counts ``data · gain`` drawn from a Poisson distribution; made by `poisson`."""

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


def _masked(value, image):
    good = ~image.mask
    residual = jnp.where(good, value - jnp.where(good, image.data, 0), 0)
    return residual, jnp.where(good, image.ivar, 0), good


def gaussian():
    """Gaussian noise of variance 1/ivar: least squares."""
    return Gaussian()


def poisson():
    """Poisson noise of counts ``data · gain``; the image needs `gain`, and its data must contain the sky.

    The deviance is that of Cash 1979 (ApJ 228, 939). ivar serves as a mask only.
    """
    return Poisson()


def student_t(dof=4.0):
    """Student's t with `dof` degrees of freedom and scale 1/√ivar: a fit that outliers hardly pull."""
    if not dof > 0:
        raise ValueError(f"dof: expected a positive number, got {dof!r}")
    return StudentT(float(dof))


def check_likelihood(likelihood):
    """Refuse a bare factory (``likelihood.gaussian``, not ``likelihood.gaussian()``) and what is no likelihood."""
    if hasattr(likelihood, "terms") and not isinstance(likelihood, type):
        return
    if callable(likelihood):
        name = getattr(likelihood, "__name__", repr(likelihood))
        raise TypeError(f"likelihood: {name} is a function that makes one: call it, as in likelihood.{name}()")
    raise TypeError(f"likelihood: expected one such as likelihood.gaussian(), got {type(likelihood).__name__}")
