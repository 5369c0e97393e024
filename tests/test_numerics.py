"""Small numerical pieces against SciPy and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import gammainc, gammaincinv

from jaxphot import numerics, units

DENSE = np.unique(np.concatenate([np.linspace(0.1, 12, 2381), np.geomspace(0.1, 1.2, 500), [0.5, 1.0, 4.0, 10.0]]))


def exact_b_n(n):
    """SciPy's inverse, with one Newton step on γ(2n, b)/Γ(2n) = ½ that must change nothing."""
    from scipy.special import gammaln

    b = gammaincinv(2 * n, 0.5)
    slope = np.exp((2 * n - 1) * np.log(b) - b - gammaln(2 * n))
    refined = b - (gammainc(2 * n, b) - 0.5) / slope
    assert_allclose(refined, b, rtol=1e-13)
    return refined


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logarithm(dtype):
    info = np.finfo(dtype)
    x = np.concatenate([np.geomspace(2 * info.tiny, info.max / 2, 20001), np.linspace(0.5, 2, 20001)]).astype(dtype)
    x = np.concatenate([x, np.nextafter(dtype(1), dtype(2), dtype=dtype)[None], [info.max]])
    logarithm, slope = numerics.safe_log(x), jax.vmap(jax.grad(numerics.safe_log))(jnp.asarray(x, dtype))
    assert logarithm.dtype == dtype
    assert_allclose(logarithm, np.log(x.astype(np.longdouble)).astype(float), rtol=4 * info.eps)
    usual = 1 / x > 2 * info.tiny  # smaller ones are flushed to zero
    assert_allclose(slope[usual], 1 / x[usual], rtol=2 * info.eps)


def test_b_n_is_the_root():
    assert_allclose(numerics.b_n(DENSE), exact_b_n(DENSE), rtol=1.5e-9)
    assert_allclose(numerics.b_n(0.5), np.log(2), rtol=1.5e-9)
    assert numerics.b_n(DENSE[:20].reshape(10, 2)).shape == (10, 2)


def test_b_n_float32():
    n = DENSE.astype(np.float32)
    got = numerics.b_n(n)
    assert got.dtype == np.float32
    assert_allclose(got, exact_b_n(n.astype(float)), rtol=2e-6)


def test_b_n_derivative():
    slope = jax.vmap(jax.grad(numerics.b_n))(DENSE)
    assert np.all(np.isfinite(slope))
    step = 1e-4 * DENSE
    reference = (exact_b_n(DENSE + step) - exact_b_n(DENSE - step)) / (2 * step)
    assert_allclose(slope, reference, rtol=2e-6)
    # where a fit may stray: finite far outside
    odd = jnp.asarray([1e-6, 0.01, 0.05, 50.0, 1e6])
    assert np.all(np.isfinite(numerics.b_n(odd)))
    assert np.all(np.isfinite(jax.vmap(jax.grad(numerics.b_n))(odd)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_safe_roots_and_logarithms(dtype):
    x = jnp.asarray([-1.0, 0.0, 1e-30, 1.0, 4.0, 1e30], dtype)
    root, slope = numerics.safe_sqrt(x), jax.vmap(jax.grad(numerics.safe_sqrt))(x)
    assert root.dtype == slope.dtype == dtype
    assert_allclose(root, [0, 0, 1e-15, 1, 2, 1e15], rtol=1e-6)
    assert_allclose(slope, [0, 0, 5e14, 0.5, 0.25, 5e-16], rtol=1e-6)
    logarithm, slope = numerics.safe_log(x), jax.vmap(jax.grad(numerics.safe_log))(x)
    assert logarithm.dtype == dtype
    assert_allclose(logarithm[2:], np.log([1e-30, 1, 4, 1e30]), rtol=1e-6)
    assert_allclose(logarithm[:2], np.log(np.finfo(dtype).tiny), rtol=1e-6)
    assert_allclose(slope, [0, 0, 1e30, 1, 0.25, 1e-30], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_exp_of_power(dtype):
    def through(log_x):
        return numerics.exp_of_power(log_x, jnp.asarray(0.25, dtype), jnp.asarray(7.67, dtype))

    x = np.array([1e-30, 1e-3, 1.0, 30.0])
    log_x = jnp.asarray(np.log(x), dtype)
    assert through(log_x).dtype == dtype
    assert_allclose(through(log_x), np.exp(-7.67 * x**0.25), rtol=1e-5)
    huge = jnp.asarray([50.0, 500.0, 1e30], dtype)
    assert_allclose(through(huge), 0, atol=2 * np.finfo(dtype).tiny)
    slope = jax.vmap(jax.grad(through))(jnp.concatenate([log_x, huge]))
    assert_allclose(slope[:4], -7.67 * 0.25 * x**0.25 * np.exp(-7.67 * x**0.25), rtol=1e-5)
    assert_allclose(slope[4:], 0, atol=1e-30)


def test_fast_length():
    smooth = sorted(2**a * 3**b * 5**c for a in range(13) for b in range(8) for c in range(6))
    for n in range(1, 2000):
        assert numerics.fast_length(n) == next(m for m in smooth if m >= n)


def test_gauss_legendre():
    for n in (1, 2, 5, 12):
        nodes, weights = numerics.gauss_legendre(n)
        for power in range(2 * n):
            exact = 0 if power % 2 else 0.5**power / (power + 1)  # mean of x^power over [−½, ½]
            assert_allclose(np.sum(weights * nodes**power), exact, atol=1e-15)


def test_array_namespace():
    assert numerics.array_namespace(1.0, np.ones(3)) is np
    assert numerics.array_namespace(1.0, jnp.ones(3)) is jnp
    assert numerics.array_namespace({"a": [np.ones(2), jnp.ones(2)]}) is jnp


@pytest.mark.parametrize(
    "positions", [[], [4], [2, 3, 4], [1, 4, 7], [5, 2], [3, 3, 0], [9, 0, 8, 1, 7, 2, 6, 3, 5], range(10)]
)
def test_entries_at_known_positions(positions):
    vector = np.arange(10.0) ** 2
    at = np.asarray(positions, int)
    assert_allclose(numerics.take(jnp.asarray(vector), positions), vector[at], rtol=0)
    if len(set(at)) == len(at):
        expected = vector.copy()
        expected[at] = -1.0 - np.arange(len(at))
        assert_allclose(numerics.put(jnp.asarray(vector), positions, jnp.asarray(expected[at])), expected, rtol=0)


def test_what_is_put_does_not_spoil_its_neighbours():
    vector = numerics.put(jnp.asarray([jnp.nan, 1.0, 2.0]), [0, 2], jnp.asarray([5.0, jnp.inf]))
    assert_allclose(vector, [5.0, 1.0, np.inf])
    held = numerics.put(jnp.zeros(3, bool), [1], jnp.asarray([True]))
    assert held.dtype == bool
    assert held.tolist() == [False, True, False]


@pytest.mark.parametrize("size", [1, 2, 8, 24, 25])
@pytest.mark.parametrize("condition", [1.0, 1e6, 1e12])
def test_positive_systems(size, condition):
    """As exact as the matrix allows, with a residual of rounding alone; NaN if it is not positive definite."""
    rng = np.random.default_rng(size)
    axes, _ = np.linalg.qr(rng.normal(size=(size, size)))
    matrix = (axes * np.geomspace(1, 1 / condition, size)) @ axes.T
    scale = 1 / np.sqrt(np.diag(matrix))
    matrix = (matrix + matrix.T) / 2 * scale[:, None] * scale[None, :]
    truth = rng.normal(size=size)
    rhs = matrix @ truth
    found = np.asarray(jax.jit(numerics.solve_positive)(matrix, rhs))
    eps = np.finfo(float).eps
    assert_allclose(found, truth, rtol=0, atol=100 * eps * condition * np.max(np.abs(truth)))
    assert_allclose(matrix @ found, rhs, rtol=0, atol=100 * eps * np.max(np.abs(found)))
    lanes = jax.vmap(numerics.solve_positive)(np.stack([matrix, -matrix]), np.stack([rhs, rhs]))
    assert_allclose(lanes[0], found, rtol=0, atol=100 * eps * condition * np.max(np.abs(truth)))
    assert np.all(np.isnan(lanes[1]))


def test_diagonal():
    matrix = np.arange(9.0).reshape(3, 3)
    assert_allclose(numerics.diagonal(jnp.asarray(matrix)), [0, 4, 8], rtol=0)
    assert_allclose(jax.vmap(numerics.diagonal)(jnp.stack([matrix, 2 * matrix]))[1], [0, 8, 16], rtol=0)


def test_magnitudes():
    assert_allclose(units.flux_to_mag(100.0, 25.0), 20.0)
    assert_allclose(units.mag_to_flux(units.flux_to_mag(37.0, 25.0), 25.0), 37.0)
    assert np.isnan(units.flux_to_mag(-1.0, 25.0))
    assert np.isnan(units.flux_to_mag(0.0, 25.0))
    step = units.flux_to_mag(100.0, 25.0) - units.flux_to_mag(100.1, 25.0)
    assert_allclose(units.flux_err_to_mag_err(100.0, 0.1), step, rtol=1e-3)
    assert_allclose(units.ARCSEC_PER_RAD, np.rad2deg(1) * 3600)
