"""SIP polynomials in float64 NumPy: what the displacement grids are built from.

A polynomial Σ c[p, q] u^p v^q is a dense array of its coefficients. On a grid of pixels it is a product of three small
matrices (powers of v, coefficients, powers of u), as exact as Horner's scheme and as fast as memory.
"""

from math import comb

import numpy as np

MAX_ORDER = 9
SIZE = MAX_ORDER + 1


def dense_coefficients(coefficients, name):
    """Coefficients as a (10, 10) float64 array, zero where absent.

    Parameters
    ----------
    coefficients : dict ``{(p, q): c}``, square array-like ``c[p, q]``, or None
    name : str
        For error messages, such as ``a``.

    Raises
    ------
    ValueError
        Keys that are no pairs of powers, orders above 9, numbers that are not finite.
    """
    dense = np.zeros((SIZE, SIZE))
    if coefficients is None:
        return dense
    for (p, q), value in _pairs(coefficients, name):
        if not np.isfinite(value):
            raise ValueError(f"{name}[{p}, {q}]: expected a finite number, got {value}")
        if value != 0 and p + q > MAX_ORDER:
            raise ValueError(f"{name}[{p}, {q}]: its order {p + q} is above {MAX_ORDER}, SIP's highest")
        if value != 0:
            dense[p, q] = value
    return dense


def _pairs(coefficients, name):
    if isinstance(coefficients, dict):
        for key, value in coefficients.items():
            powers = key if isinstance(key, tuple) else ()
            if len(powers) != 2 or any(int(power) != power or power < 0 for power in powers):
                raise ValueError(f"{name}: expected keys (p, q), powers of u and v, got {key!r}")
            if np.shape(value) != ():
                raise ValueError(f"{name}[{powers[0]}, {powers[1]}]: expected a number, got shape {np.shape(value)}")
            yield (int(powers[0]), int(powers[1])), float(value)
        return
    array = np.asarray(coefficients, np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"{name}: expected a dict {{(p, q): c}} or a square array c[p, q], got shape {array.shape}")
    for p, q in np.ndindex(array.shape):
        yield (p, q), float(array[p, q])


def order_of(coefficients):
    """The highest p + q with a coefficient that is not zero; 0 without any."""
    powers = np.argwhere(np.asarray(coefficients) != 0)
    return int(powers.sum(1).max()) if len(powers) else 0


def on_grid(coefficients, u, v, out=None):
    """Values on the grid of all (u, v): (len(v), len(u)).

    Powers are taken of u / s and v / s with s the largest of them, so that none overflows.
    """
    k = 1 + int(np.max(np.argwhere(coefficients != 0), initial=0))
    scale = max(np.max(np.abs(u)), np.max(np.abs(v)), 1.0)
    powers = np.arange(k)
    scaled = coefficients[:k, :k] * scale ** (powers[:, None] + powers)
    in_u = scaled.T @ (u / scale) ** powers[:, None]
    return np.matmul((v / scale)[:, None] ** powers, in_u, out=out)


def jacobian(a, b):
    """Coefficients of the Jacobian determinant of (u + A, v + B), averaged over each pixel: its exact relative area."""
    a_u, a_v = _derivative(a, 0), _derivative(a, 1)
    b_u, b_v = _derivative(b, 0), _derivative(b, 1)
    a_u[0, 0] += 1
    b_v[0, 0] += 1
    return _pixel_mean(_product(a_u, b_v) - _product(a_v, b_u))


def _derivative(coefficients, axis):
    powers = np.arange(SIZE).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.roll(coefficients * powers, -1, axis)


def _product(first, second):
    result = np.zeros((2 * SIZE - 1, 2 * SIZE - 1))
    for p, q in np.argwhere(first != 0):
        result[p : p + SIZE, q : q + SIZE] += first[p, q] * second
    return result


def _pixel_mean(coefficients):
    """Polynomial whose value at (u, v) is the mean of the given one over the unit square about (u, v)."""
    n = len(coefficients)
    mean = np.zeros((n, n))  # of u^p over ±½: Σ over even m of C(p, m) u^(p − m) 2^−m / (m + 1)
    for p in range(n):
        for m in range(0, p + 1, 2):
            mean[p - m, p] = comb(p, m) / (2**m * (m + 1))
    return mean @ coefficients @ mean.T


def fit_polynomial(u, v, values, accuracy):
    """The polynomials of lowest order (≤ 9) that reach an accuracy at every sample.

    Parameters
    ----------
    u, v : (n,) arrays
        Samples.
    values : (n, m) array
        Of m functions there.
    accuracy : float
        Largest error allowed; when no order reaches it, the best is returned.

    Returns
    -------
    coefficients : (m, 10, 10) array
    error : float
        Largest error at the samples.
    """
    scale = max(np.max(np.abs(u)), np.max(np.abs(v)), 1.0)  # raw monomials of 4096 px would lose every digit
    best = None
    for order in range(1, MAX_ORDER + 1):
        powers = np.asarray([(p, total - p) for total in range(order + 1) for p in range(total + 1)])
        design = (u / scale)[:, None] ** powers[:, 0] * (v / scale)[:, None] ** powers[:, 1]
        solution = np.linalg.lstsq(design, values, rcond=None)[0]
        error = float(np.max(np.abs(design @ solution - values)))
        if best is None or error < best[1]:
            coefficients = np.zeros((values.shape[1], SIZE, SIZE))
            coefficients[:, powers[:, 0], powers[:, 1]] = solution.T / scale ** powers.sum(1)
            best = coefficients, error
        if error <= accuracy:
            break
    return best
