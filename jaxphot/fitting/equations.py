"""Normal equations of a loss: value and derivatives of a function, contracted to gradient and Fisher matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxphot.likelihood import Terms


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
    columns = columns.reshape(z.size, -1)
    weight = terms.weight.reshape(-1)
    weighted = columns * jnp.sqrt(weight)[None, :]
    exact = jax.lax.Precision.HIGHEST  # accelerators would multiply in less than float32
    total = jnp.sum(terms.loss)
    return Evaluation(
        total,
        jnp.matmul(columns, terms.gradient.reshape(-1), precision=exact),
        jnp.matmul(weighted, weighted.T, precision=exact),
        8 * jnp.finfo(z.dtype).eps * total,
        jnp.sum(weight > 0, dtype=z.dtype),
        jnp.sum((value.reshape(-1) * jnp.sqrt(weight)) ** 2),
    )
