"""Fitting: `lm` the Levenberg–Marquardt step, `coordinates` what it steps in, `solve` one fit, `batch` many."""

from jaxphot.fitting import lm

__all__ = ["lm"]
