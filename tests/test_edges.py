"""The rules of nodes between a source's centre and the edges of cells, against exact integrals."""

import numpy as np
import pytest
from scipy.special import gamma, gammainc

from jaxphot.orders import choose_orders
from jaxphot.refine import _tables


def rules(tol):
    """s and s ds of the gentle rule and of the hard one on [0, 1]."""
    gentle, *hard = np.asarray(_tables(choose_orders(tol), np.float64)[2])
    return [(s, s * ds) for s, ds in (gentle, np.concatenate(hard, axis=1))]


def worst(rule, n, falls):
    """Relative error of ∫ s exp(−F s^(1/n)) ds, that of a Sérsic profile which falls by F."""
    s, weights = rule
    exact = n * falls ** (-2 * n) * gamma(2 * n) * gammainc(2 * n, falls)
    return np.max(np.abs(np.exp(-falls[:, None] * s ** (1 / n)) @ weights / exact - 1))


@pytest.mark.parametrize(("tol", "error"), [(1e-4, 2e-5), (1e-6, 5e-7), (1e-8, 1e-8)])
def test_from_the_centre(tol, error):
    gentle, hard = rules(tol)
    for n in (0.5, 0.6, 0.8, 1.0, 1.7, 2.5, 4.0, 8.0):
        assert worst(gentle, n, np.linspace(0.3, 7 if n < 1 else 9, 40)) < error, n
        assert worst(hard, n, np.linspace(0.3, 20 if n < 1 else 30, 80)) < tol, n


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-8])
def test_even_triangles_and_full_blocks(tol):
    """The area of a triangle is exact, and no node of an edge is left over."""
    orders = choose_orders(tol)
    for _, weights in rules(tol):
        np.testing.assert_allclose(np.sum(weights), 0.5, rtol=1e-8)
    assert orders.block == orders.radial * orders.edge_block
    assert all(nodes % orders.edge_block == 0 for nodes in orders.along)
