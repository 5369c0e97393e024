"""Linear amplitudes solved exactly at every trial (variable projection), from the normal equations alone.

A model is linear in the amplitude A of a component, so under a Gaussian likelihood the best A for a given shape is one
small linear solve. Golub & Pereyra 1973 (SIAM J. Numer. Anal. 10, 413). No further evaluation is needed: loss
and gradient change by exact quadratic formulas, and the derivatives with respect to a component's other parameters
are proportional to its amplitude.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting.coordinates import scalar_names
from jaxphot.fitting.lm import solve_scaled
from jaxphot.models.combinators import Component, Radial, Scene
from jaxphot.numerics import put, take
from jaxphot.parameters import parameters

_TRUSTED = 1e3  # largest change of an amplitude after which the scaled derivatives are still used


@dataclass(frozen=True)
class Amplitudes:
    """Which flat parameters are linear amplitudes; made by `find_amplitudes`.

    Attributes
    ----------
    linear : tuple of int
        Positions of the amplitudes.
    scales : tuple of (int, int)
        (position of another parameter, position of the amplitude that its derivative is proportional to).
    bounded : bool
        One of them has bounds.
    """

    linear: tuple
    scales: tuple
    bounded: bool

    def damping(self, damping, size):
        """Marquardt's λ for each parameter: none for those that are solved exactly."""
        free = np.ones(size)
        free[list(self.linear)] = 0
        return damping * jnp.asarray(free, damping.dtype)

    def resolve(self, z, new, lower, upper):
        """The point with its amplitudes replaced by the best ones inside their bounds, and the evaluation there.

        Parameters
        ----------
        z : (P,) array
        new : Evaluation
            At z, of a quadratic loss.
        lower, upper : (P,) arrays
            Bounds.

        Returns
        -------
        z : (P,) array
        new : Evaluation
        """
        at = np.asarray(self.linear)
        columns = jax.vmap(take, (0, None))(new.hessian, at)
        hessian, gradient = jax.vmap(take, (1, None), 1)(columns, at), take(new.gradient, at)
        bounds = (take(lower, at), take(upper, at)) if self.bounded else None
        delta = best_change(take(z, at), hessian, gradient, bounds, z.size)

        scale = jnp.ones_like(z)
        if self.scales:
            others, own = np.asarray(self.scales).T
            old, position = take(z, own), [self.linear.index(p) for p in own]
            scale = put(scale, others, (old + take(delta, position)) / jnp.where(old == 0, 1, old))
        usable = jnp.all(jnp.isfinite(delta)) & jnp.all(jnp.abs(scale) < _TRUSTED)
        delta, scale = jnp.where(usable, delta, 0), jnp.where(usable, scale, 1)
        change = gradient @ delta + 0.5 * delta @ (hessian @ delta)
        moved = new._replace(
            loss=jnp.maximum(new.loss + change, 0),
            gradient=scale * (new.gradient + columns @ delta),
            hessian=scale[:, None] * new.hessian * scale[None, :],
        )
        return put(z, at, take(z, at) + delta), moved


def best_change(amplitudes, hessian, gradient, bounds, size):
    """The change of amplitudes that minimises a quadratic loss.

    Parameters
    ----------
    amplitudes, gradient : (A,) arrays
    hessian : (A, A) array
    bounds : (lower, upper) or None
        One that would leave its bounds is put there, and the others are solved again.
    size : int
        Number of all parameters.
    """
    tiny = 4 * size * jnp.finfo(amplitudes.dtype).eps
    delta = solve_scaled(hessian, -gradient, tiny, jnp.zeros(amplitudes.size, bool))
    if bounds is None:
        return delta
    clipped = jnp.clip(amplitudes + delta, *bounds)
    outside = clipped != amplitudes + delta
    fixed = jnp.where(outside, clipped - amplitudes, 0)
    rest = solve_scaled(hessian, -(gradient + hessian @ fixed), tiny, outside)
    return jnp.clip(amplitudes + jnp.where(outside, fixed, rest), *bounds) - amplitudes


def find_amplitudes(model, coordinates, bounded=()):
    """The amplitudes of a model that can be solved for exactly, or None.

    A component takes part if all its free parameters are linear, or if it declares exactly one linear parameter, a
    scalar. Parameters behind a view (`linked`) do not. `bounded` are key paths with bounds of the user's.
    """
    position = {name: number for number, name in enumerate(coordinates.names)}
    linear, scales, limited = [], [], False
    for branch in _branches(model, ""):
        free = {name: [position[s] for s in scalar_names(name, p.shape) if s in position] for name, p in branch.items()}
        amplitudes = [number for name, numbers in free.items() if branch[name].linear for number in numbers]
        others = [number for name, numbers in free.items() if not branch[name].linear for number in numbers]
        declared = [parameter for parameter in branch.values() if parameter.linear]
        alone = len(declared) == 1 and declared[0].shape == ()
        if amplitudes and (alone or not others):
            linear.extend(amplitudes)
            scales.extend((other, amplitudes[0]) for other in others)
            limited |= any(
                parameter.linear and (name in bounded or np.any(np.isfinite(parameter.bounds)))
                for name, parameter in branch.items()
            )
    return Amplitudes(tuple(linear), tuple(scales), limited) if linear else None


def _branches(model, prefix):
    """Parameters by key path of every component that declares its own."""
    if isinstance(model, Scene):
        return [own for name, part in model.parts for own in _branches(part, f"{prefix}{name}.")]
    if isinstance(model, (Radial, Component)):
        return [{f"{prefix}{name}": parameter for name, parameter in parameters(model).items()}]
    return []
