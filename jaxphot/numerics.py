"""Small numerical pieces that need care at an edge: roots and powers at zero, Sérsic's b_n, look-ups, FFT sizes."""

import functools

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

_SMALL_SYSTEM = 24  # unknowns

# Bessel functions: Chebyshev interpolants of exact values, written in powers of a variable in [−1, 1].
_K1_LARGE = (
    1.363151890371343, 1.033497377538618e-1, -5.566729880181961e-3, 7.35724155154905e-4, -1.39590216115811e-4,
    3.284386038812149e-5, -8.961249966141308e-6, 2.730090664389364e-6, -9.064448911098883e-7, 3.227270041303412e-7,
    -1.229528363054785e-7, 4.92334165346621e-8, -1.792857143205822e-8, 7.000417622736051e-9, -6.558344305641008e-9,
    3.663603232872061e-9, 1.198981637267927e-9, -9.151326398946587e-10, -9.201040869575582e-10,
    5.344338028107821e-10,
)  # fmt: skip
_J1_SMALL = (
    -5.814382795599107e-2, 8.105866038589795e-2, 1.515166514380663e-1, -2.595948652859303e-1, 1.585837643272194e-1,
    -5.474581821284722e-2, 1.245681439225544e-2, -2.0290394945706e-3, 2.494945813909099e-4, -2.404574865968694e-5,
    1.868452537195087e-6, -1.196708186787801e-7, 6.431268798327607e-9, -2.943013798001659e-10, 1.161059017581958e-11,
    -4.004572842588646e-13, 1.209554796476148e-14,
)  # fmt: skip
_J1_COS = (
    1.000907026278082, 8.988049416716917e-4, -7.959694699684787e-6, 2.453676398677532e-7, -1.470849844893216e-8,
    1.360428351317683e-9, -1.713727958599797e-10, 2.693411055735371e-11, -5.071495295696752e-12,
    1.395884773387448e-12, -3.697244591244297e-13,
)  # fmt: skip
_J1_SIN = (
    3.742149922195917e-1, -7.69716705773066e-4, 1.45696148195215e-5, -6.63356684929497e-7, 5.136094936941044e-8,
    -5.721826524724097e-9, 8.320654486240071e-10, -1.461147114890723e-10, 3.016651046029507e-11,
    -9.341444905118305e-12, 2.665792699508074e-12,
)  # fmt: skip


def on_cpu():
    """Whether what is traced now will run on processor cores, where a loop that fits the cache is quickest.

    An accelerator would rather do everything at once, in few large kernels.
    """
    return jax.default_backend() == "cpu"


def sum_together(arrays):
    """Sums of arrays of one shape over their first axis, in one kernel of an accelerator with what computes them."""
    zeros = [jnp.zeros((), array.dtype) for array in arrays]
    add = lambda a, b: [x + y for x, y in zip(a, b, strict=True)]  # noqa: E731
    return list(jax.lax.reduce(list(arrays), zeros, add, (0,)))


def computed_once(function, *arguments):
    """``function(*arguments)`` of arrays of floats, as it is, but on a CPU computed once.

    Otherwise XLA may compute it again for everything that needs it. It is put under a condition that is always true,
    which XLA does not foresee.
    """
    if not on_cpu():
        return function(*arguments)
    first = jnp.ravel(jax.tree.leaves(arguments)[0])[0]
    none = lambda *_: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *arguments))  # noqa: E731
    return jax.lax.cond(for_any((first <= first) | (first != first)), function, none, *arguments)


@jax.custom_batching.custom_vmap
def for_all(count):
    """The largest count of all lanes of a `vmap`: a loop of that length runs without masks, the same for every lane."""
    return count


@for_all.def_vmap
def _largest_of_all(_, is_batched, count):
    return (jnp.max(count, axis=0) if is_batched[0] else count), False


def for_any(flag):
    """On a CPU whether a flag is set in any lane of a `vmap`: a condition of it computes one branch, not both for each.

    An accelerator would rather compute both than wait.
    """
    return for_all(flag.astype(jnp.int32)) > 0 if on_cpu() else flag


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


def smoothstep(x):
    """From 0 for x ≤ 0 to 1 for x ≥ 1, with a slope that is 0 at both."""
    x = jnp.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def safe_sqrt(x):
    """√x with gradient 0, not NaN, where x ≤ 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_log(x):
    """Logarithm with gradient 0 where x ≤ 0; there it returns the logarithm of the smallest positive number."""
    tiny = jnp.finfo(jnp.result_type(x)).tiny
    positive = x > tiny
    return jnp.where(positive, _log(jnp.where(positive, x, 1)), np.log(tiny))


@jax.custom_jvp
def _log(x):
    """Logarithm of normal positive numbers, to two units in the last place.

    In float64 on processors, where most of a Sérsic profile's time is XLA's own, this one takes a quarter as long: it
    is arithmetic that vectorises. x = 2^k m with m in [√½, √2), log m = 2 artanh((m − 1)/(m + 1)).
    """
    if jnp.result_type(x) != jnp.float64 or not on_cpu():
        return jnp.log(x)
    bits = jax.lax.bitcast_convert_type(x, jnp.int64)
    exponent = (bits - np.float64(np.sqrt(0.5)).view(np.int64)) >> 52
    mantissa = jax.lax.bitcast_convert_type(bits - (exponent << 52), jnp.float64)
    s = (mantissa - 1) / (mantissa + 1)
    series = jnp.full_like(s, 1 / 23)
    for odd in range(21, 1, -2):
        series = series * s**2 + 1 / odd
    return exponent.astype(jnp.float64) * np.log(2) + (2 * s + 2 * s**3 * series)


@_log.defjvp
def _log_jvp(primals, tangents):
    return _log(*primals), tangents[0] / primals[0]


def exp_of_power(log_x, exponent, factor):
    """exp(−factor · x^exponent) from log x, without overflow: where the power is huge, 0 with zero gradient."""
    log_power = jnp.log(factor) + exponent * log_x
    highest = np.log(-np.log(np.finfo(jnp.result_type(log_power)).tiny)).item()
    # not a minimum: its derivative would divide by the number of equal arguments
    return jnp.exp(-jnp.exp(jnp.where(log_power < highest, log_power, highest)))


def bessel_xk1(x):
    """``x K1(x)``, K1 the modified Bessel function of the second kind; even in x, 1 at x = 0, 0 far out.

    Below |x| = 2 the ascending series (DLMF 10.31.1), beyond it ``√x e^x K1(x)`` as a polynomial in 1/x: relative error
    ≤ 1e-14 in float64 wherever the value is not subnormal. The derivative, ``−x K0(x)``, is as good and 0 at x = 0.

    Examples
    --------
    >>> round(float(bessel_xk1(1.0)), 7)
    0.6019072
    """
    x = jnp.abs(x)
    small = x < 2
    t = jnp.where(small, x, 1) ** 2 / 4
    weights, digammas, weight, digamma = [], [], 1.0, 1 - 2 * np.euler_gamma
    for k in range(14):  # Σ t^k / (k! (k+1)!) · (log t − ψ(k+1) − ψ(k+2))
        weights.append(weight)
        digammas.append(weight * digamma)
        weight /= (k + 1) * (k + 2)
        digamma += 1 / (k + 1) + 1 / (k + 2)
    near = 1 + t * (safe_log(t) * _horner(weights, t) - _horner(digammas, t))
    far = jnp.where(small, 2, x)
    return jnp.where(small, near, jnp.sqrt(far) * jnp.exp(-far) * _horner(_K1_LARGE, 4 / far - 1))


def bessel_j1_over_x(x):
    """``J1(x) / x``, J1 the Bessel function of the first kind; even in x, ½ at x = 0.

    Below |x| = 8 a polynomial in x², beyond it Hankel's form with its two slowly varying factors as polynomials in
    1/x². Absolute error in float64 ≤ 4e-16, far out smaller in proportion to the envelope, x^(−3/2).

    Examples
    --------
    >>> round(float(bessel_j1_over_x(2.0)), 7)
    0.2883624
    """
    x = jnp.abs(x)
    small = x < 8
    near = _horner(_J1_SMALL, jnp.where(small, x, 0) ** 2 / 32 - 1)
    far = jnp.where(small, 8, x)
    phase, s = far - 0.75 * np.pi, 128 / far**2 - 1
    wave = _horner(_J1_COS, s) * jnp.cos(phase) - _horner(_J1_SIN, s) * jnp.sin(phase) / far
    return jnp.where(small, near, np.sqrt(2 / np.pi).item() * wave / (far * jnp.sqrt(far)))


def _horner(coefficients, x):
    """Σ c_k x^k; written out, which compiles to one chain of multiplications and additions."""
    return functools.reduce(lambda total, c: total * x + c, coefficients[::-1])


def pchip(knots, values, t, *, flat_ends=False):
    """Monotone piecewise cubic through (knots, values): it never overshoots. Straight on beyond the ends.

    Slopes at the knots are those of Fritsch & Butland 1984 (SIAM J. Sci. Stat. Comput. 5, 300), the weighted harmonic
    mean of both sides', zero at a local extremum; scipy's ``PchipInterpolator`` is the same between the knots.

    Parameters
    ----------
    knots : sequence of float
        Rising, two or more; static.
    values : (K,) array
    t : array
    flat_ends : bool
        Slope zero at both ends, so that the curve is constant beyond them.

    Returns
    -------
    array
        Shaped like `t`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(pchip((0.0, 1.0, 2.0), jnp.array([0.0, 1.0, 2.0]), 2.5))
    2.5
    """
    values = jnp.asarray(values)
    knots = np.asarray(knots, np.float64)
    place, width = jnp.asarray(knots, values.dtype), jnp.asarray(np.diff(knots), values.dtype)
    slope = _pchip_slopes(width, jnp.diff(values) / width, flat_ends)
    inside = jnp.clip(t, place[0], place[-1])
    left = jnp.sum(jnp.expand_dims(inside, -1) >= place[1:-1].reshape((1,) * jnp.ndim(t) + (-1,)), axis=-1)
    h, y0, y1, m0, m1 = width[left], values[left], values[left + 1], slope[left], slope[left + 1]
    u = (inside - place[left]) / h
    cubic = y0 + u * (h * m0 + u * (3 * (y1 - y0) - h * (2 * m0 + m1) + u * (2 * (y0 - y1) + h * (m0 + m1))))
    return cubic + jnp.where(t < inside, slope[0], slope[-1]) * (t - inside)


def _pchip_slopes(width, rise, flat_ends):
    if len(rise) == 1:
        return 0 * jnp.stack([rise[0], rise[0]]) if flat_ends else jnp.stack([rise[0], rise[0]])
    (w0, w1), (d0, d1) = (width[:-1], width[1:]), (rise[:-1], rise[1:])
    same = jnp.sign(d0) * jnp.sign(d1) > 0
    d0, d1 = jnp.where(same, d0, 1), jnp.where(same, d1, 1)
    inner = jnp.where(same, 3 * (w0 + w1) / ((2 * w1 + w0) / d0 + (w1 + 2 * w0) / d1), 0)
    ends = [_end_slope(*width[:2], *rise[:2]), _end_slope(*width[:-3:-1], *rise[:-3:-1])]
    first, last = (jnp.zeros_like(end) if flat_ends else end for end in ends)
    return jnp.concatenate([first[None], inner, last[None]])


def _end_slope(w0, w1, d0, d1):
    """Three-point slope, kept from overshooting."""
    slope = ((2 * w0 + w1) * d0 - w0 * d1) / (w0 + w1)
    slope = jnp.where((jnp.sign(d0) * jnp.sign(d1) < 0) & (jnp.abs(slope) > 3 * jnp.abs(d0)), 3 * d0, slope)
    return jnp.where(jnp.sign(slope) * jnp.sign(d0) > 0, slope, 0)


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


def along_last(values, x):
    """A vector as an array that broadcasts against ``x[..., None]``, in x's dtype."""
    return jnp.reshape(jnp.asarray(values, jnp.result_type(x)), (1,) * jnp.ndim(x) + (-1,))


def interpolate(values, u, v, kernel):
    """A grid of values between its nodes, values beyond it counting as 0.

    Parameters
    ----------
    values : (ny, nx) array
    u, v : arrays of one shape
        Index of the column and of the row; any numbers.
    kernel : function
        Weight of a node by its distance; 0 beyond ``kernel.reach`` nodes, which is an attribute of it.

    Returns
    -------
    array like u
    """
    taps = np.arange(1 - kernel.reach, kernel.reach + 1)
    indices, weights = [], []
    for at, size in ((v, values.shape[0]), (u, values.shape[1])):
        at = jnp.clip(at, -kernel.reach - 1, size + kernel.reach)
        index = jax.lax.stop_gradient(jnp.floor(at))[..., None] + along_last(taps, at)
        inside = (index >= 0) & (index < size)
        weights.append(jnp.where(inside, kernel(at[..., None] - index), 0))
        indices.append(jnp.clip(index, 0, size - 1).astype(jnp.int32))
    flat = indices[0][..., :, None] * values.shape[1] + indices[1][..., None, :]
    near = jnp.ravel(values)[flat]
    return jnp.sum(near * weights[0][..., :, None] * weights[1][..., None, :], axis=(-2, -1))


def array_namespace(*values):
    """NumPy where every value is NumPy's or Python's own (float64 kept, whatever JAX is set to), else jax.numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in jax.tree.leaves(values)) else np


_FEW = 8  # entries of a vector that are taken or put one by one: gathers and scatters are slow to compile


def take(vector, positions):
    """Entries of a vector at known positions: ``vector[positions]``, as slices where that is possible."""
    positions = np.asarray(positions, int)
    steps = np.unique(np.diff(positions)) if len(positions) != 1 else np.ones(1, int)
    if len(steps) == 1 and steps[0] > 0:
        return jax.lax.slice(vector, positions[:1], positions[-1:] + 1, steps)
    if len(positions) > _FEW:
        return vector[positions]
    return jnp.concatenate([vector[:0], *(jax.lax.slice_in_dim(vector, at, at + 1) for at in positions)])


def put(vector, positions, values):
    """A vector with other values at known positions, each once: ``vector.at[positions].set(values)``."""
    positions = np.asarray(positions, int)
    if len(positions) > _FEW:
        return vector.at[positions].set(values)
    for number, at in enumerate(positions):
        value = jax.lax.slice_in_dim(values, number, number + 1).astype(vector.dtype)
        here = jnp.asarray(np.arange(vector.size) == at)
        vector = jax.lax.select(here, jax.lax.broadcast_in_dim(value, vector.shape, (0,)), vector)
    return vector


def solve_positive(matrix, rhs):
    """Solve a symmetric positive definite system: (P, P) and (P,) give (P,); NaN where the matrix is not.

    Small ones by elimination in a loop, which needs no pivots (Peters & Wilkinson 1975, Comm. ACM 18, 20): lanes share
    it on accelerators, and LAPACK's first use takes half a second.
    """
    size = rhs.size
    if size > _SMALL_SYSTEM:
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix, lower=True), rhs)
    number = jnp.arange(size + 1, dtype=jnp.int32)

    def eliminate(k, system):
        column, row = system[:, k], jnp.where(number > k, system[k], 0)  # what is behind is not looked at again
        factors = jnp.where(number[:size] == k, 0, column / jnp.where(column[k] > 0, column[k], jnp.nan))
        return system - factors[:, None] * row[None, :]

    system = jax.lax.fori_loop(0, size, eliminate, jnp.concatenate([matrix, rhs[:, None]], axis=1))
    pivots = diagonal(system[:, :size])
    return system[:, size] / jnp.where(pivots > 0, pivots, jnp.nan)


def diagonal(matrix):
    """Of a square array, as a slice (`jax.numpy.diagonal` gathers); or of what has a ``diagonal()``."""
    if not isinstance(matrix, jax.Array):
        return matrix.diagonal()
    side = len(matrix)
    return jax.lax.slice(matrix.reshape(-1), (0,), (side * side,), (side + 1,))


def gauss_legendre(n):
    """Nodes on [−½, ½] and weights that sum to 1 of the n-point Gauss–Legendre rule (NumPy, float64)."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return nodes / 2, weights / 2
