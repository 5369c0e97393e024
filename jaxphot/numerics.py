"""Small numerical pieces that need care at an edge: roots and powers at zero, Sérsic's b_n, look-ups, FFT sizes."""

import jax
import jax.numpy as jnp
import numpy as np

# log b_n for 0.08 ≤ n ≤ 1: n log b as a polynomial in t, which maps 1/(n + 1/2) to [−1, 1]; highest power first.
_SMALL_N = (
    2.05666017600612e-05, -2.95839060197019e-05, 2.14186357813377e-05, -2.56875828436977e-05,
    1.88529527677683e-04, -4.17990903602927e-04, 7.84812497380217e-04, -1.80381987119729e-03,
    3.74422266972133e-03, -8.63517855759852e-03, 1.75013009313576e-02, -3.85923876965786e-02,
    7.77391813523069e-02, -1.54786785232010e-01, 2.91158614654694e-01, -2.45806584488727e-01,
    -3.23447291778694e-01,
)  # fmt: skip
_SMALL_RANGE = (1 / 1.5, 1 / 0.58)

# n (b_n − 2 n + 1/3) for n ≥ 1 as a polynomial in 1/n, highest power first.
_LARGE_N = (
    1.34484202297674e-09, -4.46965696511206e-07, 2.81937427013400e-06, -7.02373774986106e-06,
    5.75883001190525e-06, 9.58019732761114e-06, -1.39150777627264e-05, -7.74354098290179e-05,
    8.15805879496864e-05, 1.80286099593332e-03, 9.87654321064402e-03,
)  # fmt: skip


def b_n(n):
    """Sérsic's b_n, the root of γ(2n, b) = Γ(2n)/2, so that half the light lies within Re.

    Two polynomials fitted to the exact root: in 1/(n + 1/2) below n = 1 (relative error ≤ 2e-9 for n ≥ 0.08) and in
    1/n above (≤ 1e-13), in the form of the asymptotic series of Ciotti & Bertin 1999 (A&A 352, 447), which alone is
    wrong by 1e-4 at n = 0.4 and useless below n = 0.3. Smooth, so gradients are finite everywhere.

    Examples
    --------
    >>> round(float(b_n(4.0)), 4)
    7.6692
    """
    n = jnp.asarray(n)
    lo, hi = _SMALL_RANGE
    n_small, n_large = jnp.clip(n, 0.05, 1.0), jnp.maximum(n, 1.0)
    t = (2 / (n_small + 0.5) - (lo + hi)) / (hi - lo)
    small = jnp.exp(_horner(_SMALL_N, t) / n_small)
    large = 2 * n_large - 1 / 3 + _horner(_LARGE_N, 1 / n_large) / n_large
    return jnp.where(n < 1, small, large)


def _horner(coefficients, x):
    total = jnp.zeros_like(x)
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


def safe_sqrt(x):
    """√x with gradient 0, not NaN, where x ≤ 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_log(x):
    """log x with gradient 0 where x ≤ 0; there it returns the logarithm of the smallest positive number."""
    tiny = jnp.finfo(jnp.result_type(x)).tiny
    positive = x > tiny
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1)), np.log(tiny))


def exp_of_power(log_x, exponent, factor):
    """exp(−factor · x^exponent) from log x, without overflow: where the power is huge, 0 with zero gradient."""
    log_power = jnp.log(factor) + exponent * log_x
    highest = np.log(-np.log(np.finfo(jnp.result_type(log_power)).tiny)).item()
    return jnp.exp(-jnp.exp(jnp.minimum(log_power, highest)))


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
