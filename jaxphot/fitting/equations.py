"""Normal equations of a loss: value and derivatives of a function, contracted to gradient and Fisher matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxphot.likelihood import Terms
from jaxphot.numerics import on_cpu

_AT_ONCE = 4096  # values: what is contracted together on a CPU stays in its cache


def half_squares(value):
    """The loss of least squares: ``value`` holds residuals."""
    return Terms(0.5 * value**2, value, jnp.ones_like(value))


class Evaluation(NamedTuple):
    """Loss and its normal equations at a point.

    `rounding` is the error of the loss in this dtype, `count` the number of values with weight > 0, `signal` their
    Σ weight · value².
    """

    loss: jax.Array
    gradient: jax.Array
    hessian: jax.Array
    rounding: jax.Array
    count: jax.Array  # type: ignore[assignment]  # a tuple's own is not wanted
    signal: jax.Array


def normal_equations(function, z, loss, coordinates=None):
    """Value and all derivatives from one linearised evaluation, contracted to g = Jᵀ·gradient and H = JᵀWJ.

    Parameters
    ----------
    function : callable
        Of a flat vector.
    z : (P,) array
    loss : callable
        value → `Terms`.
    coordinates : Coordinates, optional
        With ``from_internal(z)``, what the function takes, and ``derivative(z, physical)``, a (P, P) matrix: cheaper to
        multiply with than to differentiate through.

    Returns
    -------
    Evaluation
    """
    if coordinates is not None:
        physical = coordinates.from_internal(z)
        new = normal_equations(function, physical, loss)
        derivative = coordinates.derivative(z, physical)
        hessian = derivative.T @ new.hessian @ derivative
        return new._replace(gradient=new.gradient @ derivative, hessian=hessian)
    directions = jnp.eye(z.size, dtype=z.dtype)
    # forward mode, not `linearize`: a loop over samples then needs no storage for each of its turns
    value, columns = jax.vmap(lambda t: jax.jvp(function, (z,), (t,)), out_axes=(None, 0))(directions)
    terms = loss(value)
    weight = terms.weight.reshape(-1)
    root = jnp.sqrt(weight)
    total = jnp.sum(terms.loss)
    return Evaluation(
        total,
        *_contract(columns.reshape(z.size, -1), terms.gradient.reshape(1, -1), root[None, :]),
        8 * jnp.finfo(z.dtype).eps * total,
        jnp.sum(weight > 0, dtype=z.dtype),
        jnp.sum((value.reshape(-1) * root) ** 2),
    )


def _contract(columns, gradient, root):
    """Jᵀ·gradient and JᵀWJ from J's columns (P, N), the loss' gradient (1, N) and the roots of the weights (1, N)."""
    count = columns.shape[1]
    if not on_cpu() or count <= 2 * _AT_ONCE:
        return _contract_part(columns, gradient, root)
    turns = count // _AT_ONCE

    def add(turn, sums):
        parts = (jax.lax.dynamic_slice_in_dim(of_all, turn * _AT_ONCE, _AT_ONCE, 1) for of_all in arrays)
        return jax.tree.map(jnp.add, sums, _contract_part(*parts))

    arrays = columns, gradient, root
    rest = _contract_part(*(of_all[:, turns * _AT_ONCE :] for of_all in arrays))
    return jax.lax.fori_loop(0, turns, add, rest)


def _contract_part(columns, gradient, root):
    weighted = columns * root
    exact = jax.lax.Precision.HIGHEST  # accelerators would multiply in less than float32
    return jnp.matmul(columns, gradient[0], precision=exact), jnp.matmul(weighted, weighted.T, precision=exact)
