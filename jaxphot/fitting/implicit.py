"""How a solution moves with the problem: the implicit function theorem at a minimum, on its active bounds.

At the minimum the gradient G(u, problem) of the loss vanishes along the directions u that are free, so
``du = −(∂G/∂u)⁻¹ (∂G/∂problem) d problem``. The Hessian is the exact one: with Fisher's, derivatives would be wrong by
as much as the model curves within its residuals.
"""

import jax
import jax.numpy as jnp
import numpy as np


def chart(u, z, held, domain):
    """The point reached from z by moving u along the directions of the domain's basis; what is held follows its bound.

    Parameters
    ----------
    u, z : (P,) arrays
    held : (P,) array of bool
    domain : Domain
        Derivatives with respect to its bounds are those of what is held.

    Returns
    -------
    (P,) array
    """
    z = jax.lax.stop_gradient(z)
    u = jnp.where(held, 0, u)
    if not domain.pairs:
        return _on_bounds(z, held, domain) + u
    q, pa = np.asarray(domain.pairs).T
    size = jnp.hypot(z[q], z[pa])
    cos, sin = z[q] / size, z[pa] / size
    inner, outer = domain.inner, domain.outer
    ring = jnp.where(size - jax.lax.stop_gradient(inner) < jax.lax.stop_gradient(outer) - size, inner, outer)
    along, across = size + u[q], u[pa]
    turned = jnp.where(held[q], across / size, 0)
    along = jnp.where(held[q], ring * jnp.cos(turned), along)
    across = jnp.where(held[q], ring * jnp.sin(turned), across)
    moved = _on_bounds(z, held.at[q].set(False), domain) + u
    both = np.concatenate([q, pa])
    return moved.at[both].set(jnp.concatenate([along * cos - across * sin, along * sin + across * cos]))


def _on_bounds(z, held, domain):
    lower, upper = (jnp.where(jnp.isfinite(side), side, 0) for side in (domain.lower, domain.upper))
    low = held & (jnp.abs(z - jax.lax.stop_gradient(lower)) <= jnp.abs(z - jax.lax.stop_gradient(upper)))
    low &= jnp.isfinite(domain.lower)
    return jnp.where(held, jnp.where(low, lower, upper), z)


def free_gradient(gradient, u, z, held, domain):
    """Gradient of a loss along the free directions of the chart at u: 0 for those that are held."""
    point, pull = jax.vjp(lambda u: chart(u, z, held, domain), u)
    return pull(gradient(point))[0]


def free_hessian(gradient, z, held, domain):
    """Its derivative at u = 0: the exact Hessian along the bounds; 1 on the diagonal of what is held."""
    exact = jax.jacfwd(lambda u: free_gradient(gradient, u, z, held, domain))(jnp.zeros_like(z))
    return jnp.where(held[:, None] | held[None, :], jnp.eye(z.size, dtype=z.dtype), 0.5 * (exact + exact.T))


def solution_tangent(gradient, domain, z, held, problem, tangent):
    """Tangent of the solution of a problem.

    Parameters
    ----------
    gradient : callable
        ``gradient(problem, z)`` of the loss.
    domain : callable
        ``domain(problem) → Domain``.
    z : (P,) array
        The solution.
    held : (P,) array of bool
    problem, tangent : pytrees of floating-point arrays

    Returns
    -------
    (P,) array
        Linear in `tangent`.
    """
    none = jnp.zeros_like(z)
    hessian = free_hessian(lambda point: gradient(problem, point), z, held, domain(problem))
    along = lambda own: free_gradient(lambda point: gradient(own, point), none, z, held, domain(own))  # noqa: E731
    _, change = jax.jvp(along, (problem,), (tangent,))
    diagonal = jnp.abs(jnp.diagonal(hessian))
    scale = 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    scaled = hessian * scale[:, None] * scale[None, :]
    du = -scale * jnp.linalg.solve(scaled, scale * change)
    return jax.jvp(lambda u, own: chart(u, z, held, domain(own)), (none, problem), (du, tangent))[1]
