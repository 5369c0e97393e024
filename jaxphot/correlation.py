"""Noise that is correlated between pixels: its power spectrum on a torus, and residuals whitened with it.

On a torus that is wider than the image by the reach of the correlation, the covariance of the image's pixels is
exactly a part of a circulant matrix, which Fourier transforms multiply with. What is masked, and the torus outside of
the image, is not known rather than zero: the covariance of the good pixels alone is solved for (conjugate gradients,
preconditioned by the circulant inverse; Chan & Ng 1996, SIAM Review 38, 427).
"""

import jax
import jax.numpy as jnp
import numpy as np

_FLOOR = 1e-3  # of the mean power: noise without power at a frequency would determine the model there exactly
_MOST_TURNS = 100


def autocorrelation_of_kernel(kernel):
    """Autocorrelation (2h − 1, 2w − 1) of white noise convolved with an (h, w) kernel; 1 in its middle."""
    shape = [2 * side - 1 for side in kernel.shape]
    power = np.abs(np.fft.fft2(kernel, shape)) ** 2
    return np.fft.fftshift(np.fft.ifft2(power).real) / np.sum(kernel**2)


def autocorrelation_of_power(power):
    """Autocorrelation, odd sides, of noise with a power spectrum in the order of ``np.fft.fft2``; 1 in its middle."""
    correlation = np.fft.ifft2(power).real
    reach = [(side - 1) // 2 for side in power.shape]
    rows, columns = (np.arange(-side, side + 1) for side in reach)
    return correlation[np.ix_(rows, columns)] / correlation[0, 0]


def torus_shape(shape, correlation):
    """Sides of the smallest torus that holds an image and the reach of the correlation, of prime factors 2, 3, 5."""
    return tuple(_smooth(side + reach // 2) for side, reach in zip(shape, correlation.shape, strict=True))


def _smooth(n):
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def power_on_torus(correlation, shape):
    """Power spectrum (`rfft2` order, mean 1) of an autocorrelation stamp on a torus; never below a floor."""
    wrapped = np.zeros(shape)
    (h, w) = correlation.shape
    rows, columns = (np.arange(side) - side // 2 for side in (h, w))
    np.add.at(wrapped, (rows[:, None] % shape[0], columns[None, :] % shape[1]), correlation)
    power = np.maximum(np.fft.fft2(wrapped).real, _FLOOR)
    return (power / power.mean())[:, : shape[1] // 2 + 1]


def mean_log_power(power, shape):
    """Mean over all frequencies of the torus: log det of the correlation a pixel, by Szegő's theorem."""
    twice = np.full(power.shape[1], 2.0)
    twice[0] = 1
    if shape[1] % 2 == 0:
        twice[-1] = 1
    return float(np.sum(np.log(power) * twice) / (shape[0] * shape[1]))


def whiten(residual, good, power, shape):
    """Independent values of unit variance from correlated ones: their squares sum to ``rᵀ C⁻¹ r`` of the good pixels.

    Parameters
    ----------
    residual : (ny, nx) array
        In units of its standard deviation.
    good : (ny, nx) array of bool
    power : array
        From `power_on_torus`.
    shape : (int, int)
        Of the torus.

    Returns
    -------
    array
        Of the torus's shape; linear in `residual`.
    """
    power = jnp.asarray(power, residual.dtype)

    def filtered(values, spectrum):
        return _filtered(values, spectrum, shape)

    def on_good(values, spectrum):
        known = jnp.where(good, values, 0)
        own = filtered(known, spectrum)[: good.shape[0], : good.shape[1]]
        return jnp.where(good, own, values)

    tol = 1e-11 if residual.dtype == jnp.float64 else 1e-6
    solution, _ = jax.scipy.sparse.linalg.cg(
        lambda values: on_good(values, power),
        jnp.where(good, residual, 0),
        M=lambda values: on_good(values, 1 / power),
        tol=tol,
        maxiter=_MOST_TURNS,
    )
    return filtered(jnp.where(good, solution, 0), jnp.sqrt(power))


def colour(key, power, shape, dtype):
    """Noise of unit variance with a power spectrum, on the torus."""
    return _filtered(jax.random.normal(key, shape, dtype), jnp.sqrt(jnp.asarray(power, dtype)), shape)


def _filtered(values, spectrum, shape):
    transform = jnp.fft.rfft2(values, shape)
    return jnp.fft.irfft2(jax.lax.complex(transform.real * spectrum, transform.imag * spectrum), shape)
