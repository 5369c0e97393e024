"""Small numerical pieces that need care at an edge: roots and powers at zero, Sérsic's b_n, look-ups, FFT sizes."""

import jax
import jax.numpy as jnp
import numpy as np

# Chebyshev coefficients of log b_n + log(2) / (2 n) − log(n + 0.4) in 1/(n + 0.4), which runs from 0 to 1/0.475. The
# terms taken out are the leading ones for small and large n, so that one smooth curve is left for all n.
_SERSIC_B = (
    4.639029227844063e-01, -2.173846245707863e-01, 2.217619052499213e-02, 1.388078804692814e-02,
    4.432941922985782e-03, 9.671511216324192e-04, 5.022293978950955e-05, -9.297598493115641e-05,
    -6.817416763570461e-05, -3.305369692446808e-05, -1.289662286855238e-05, -4.095260575965643e-06,
    -9.250875322417421e-07, -1.422312535633278e-08, 1.448861964697484e-07, 1.133995643006703e-07,
    6.266494764689826e-08, 2.907813789754244e-08, 1.181444790887554e-08, 4.188350148648382e-09,
    1.225672907612108e-09,
)  # fmt: skip


def b_n(n):
    """Sérsic's b_n, the root of γ(2n, b) = Γ(2n)/2, so that half the light lies within Re.

    A Chebyshev series fitted to the exact root: relative error ≤ 1e-9 for n ≥ 0.1. The asymptotic series in 1/n of
    Ciotti & Bertin 1999 (A&A 352, 447) is wrong by 1e-4 at n = 0.4 and useless below n = 0.3. Smooth, so that
    gradients are finite everywhere.

    Examples
    --------
    >>> round(float(b_n(4.0)), 4)
    7.6692
    """
    n = jnp.asarray(n)
    shifted = jnp.maximum(n, 0.08) + 0.4
    # inside (−1, 1) for every n, so that the angle can be differentiated
    angle = jnp.arccos(jnp.clip(0.95 / shifted - 1, -1 + 1e-6, 1 - 1e-6))
    row = (1,) * angle.ndim + (-1,)
    order = jnp.arange(len(_SERSIC_B), dtype=angle.dtype).reshape(row)
    polynomials = jnp.cos(order * angle[..., None])  # all at once: a loop of scalar steps compiles slowly
    smooth = jnp.sum(polynomials * jnp.asarray(_SERSIC_B, angle.dtype).reshape(row), axis=-1)
    return shifted * jnp.exp(smooth - 0.5 * np.log(2).item() / jnp.maximum(n, 0.08))


def safe_sqrt(x):
    """√x with gradient 0, not NaN, where x ≤ 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_log(x):
    """Logarithm with gradient 0 where x ≤ 0; there it returns the logarithm of the smallest positive number."""
    tiny = jnp.finfo(jnp.result_type(x)).tiny
    positive = x > tiny
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1)), np.log(tiny))


def exp_of_power(log_x, exponent, factor):
    """exp(−factor · x^exponent) from log x, without overflow: where the power is huge, 0 with zero gradient."""
    log_power = jnp.log(factor) + exponent * log_x
    highest = np.log(-np.log(np.finfo(jnp.result_type(log_power)).tiny)).item()
    # not a minimum: its derivative would divide by the number of equal arguments
    return jnp.exp(-jnp.exp(jnp.where(log_power < highest, log_power, highest)))


def fast_length(n):
    """The smallest 2^a 3^b 5^c not below n: sizes that every FFT library is quick at."""
    best = 1 << max(int(n) - 1, 0).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three * (1 << max(-(-int(n) // three) - 1, 0).bit_length())
            best = min(best, two)
            three *= 3
        five *= 5
    return best


def array_namespace(*values):
    """NumPy where every value is NumPy's or Python's own (float64 kept, whatever JAX is set to), else jax.numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in jax.tree.leaves(values)) else np


def gauss_legendre(n):
    """Nodes on [−½, ½] and weights that sum to 1 of the n-point Gauss–Legendre rule (NumPy, float64)."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return nodes / 2, weights / 2
