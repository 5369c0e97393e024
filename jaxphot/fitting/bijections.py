"""From the whole of ℝᴾ into the bounds of a fit's internal coordinates: for samplers and gradient optimisers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting.coordinates import SMALLEST_RING

_CLOSEST = 1e-6  # to a bound, as a part of the interval: where an inverse of what lies on it begins


class Unbounded(NamedTuple):
    """A smooth map of ℝᴾ onto the inside of a `Domain`, the identity where there is no bound.

    One side: an exponential; two: a logistic function; shears, whose domain is a ring or disk: a hyperbolic tangent
    of their size, which leaves the direction alone.

    Attributes
    ----------
    domain : Domain
    """

    domain: object

    def forward(self, y):
        """The point inside the domain."""
        low, high, has_low, has_high = self._sides(y)
        both, one = has_low & has_high, has_low ^ has_high
        logistic = low + (high - low) * jax.nn.sigmoid(jnp.where(both, y, 0))
        distance = jnp.exp(jnp.where(one, jnp.where(has_low, y, -y), 0))
        z = jnp.where(both, logistic, jnp.where(one, jnp.where(has_low, low + distance, high - distance), y))
        if not self.domain.pairs:
            return z
        radius, inner, width, both = self._rings(y)
        factor = (inner + width * jnp.tanh(radius / width)) / radius
        return z.at[both].set(y[both] * jnp.concatenate([factor, factor]))

    def inverse(self, z):
        """The point of ℝᴾ; what lies on a bound is moved inside by a millionth of the interval."""
        low, high, has_low, has_high = self._sides(z)
        both, one = has_low & has_high, has_low ^ has_high
        share = jnp.clip(jnp.where(both, (z - low) / jnp.where(both, high - low, 1), 0.5), _CLOSEST, 1 - _CLOSEST)
        distance = jnp.where(one, jnp.where(has_low, z - low, high - z), 1)
        logarithm = jnp.log(jnp.maximum(distance, jnp.finfo(z.dtype).tiny)) * jnp.where(has_low, 1, -1)
        y = jnp.where(both, jnp.log(share) - jnp.log1p(-share), jnp.where(one, logarithm, z))
        if not self.domain.pairs:
            return y
        size, inner, width, both = self._rings(z)
        share = jnp.clip((size - inner) / width, _CLOSEST, 1 - _CLOSEST)
        factor = width * jnp.arctanh(share) / size
        return y.at[both].set(z[both] * jnp.concatenate([factor, factor]))

    def log_jacobian(self, y):
        """Value of log |det dz / dy|."""
        low, high, has_low, has_high = self._sides(y)
        both, one = has_low & has_high, has_low ^ has_high
        inside = jnp.where(both, y, 0)
        logistic = jnp.log(high - low) + jax.nn.log_sigmoid(inside) + jax.nn.log_sigmoid(-inside)
        total = jnp.sum(jnp.where(both, logistic, jnp.where(one, jnp.where(has_low, y, -y), 0)))
        if not self.domain.pairs:
            return total
        radius, inner, width, _ = self._rings(y)
        scaled = radius / width
        grown = jnp.log(inner + width * jnp.tanh(scaled)) - jnp.log(radius)
        log_cosh = scaled + jnp.log1p(jnp.exp(-2 * scaled)) - np.log(2).item()
        return total + jnp.sum(grown - 2 * log_cosh)

    def _sides(self, y):
        """Finite bounds, and where there are any."""
        paired = np.isin(np.arange(y.size), self.domain.pairs)
        has_low, has_high = jnp.isfinite(self.domain.lower) & ~paired, jnp.isfinite(self.domain.upper) & ~paired
        low = jnp.where(has_low, self.domain.lower, 0)
        return low, jnp.where(has_high, self.domain.upper, low + 1), has_low, has_high

    def _rings(self, vector):
        """Sizes of the shears, inner radius and width of their rings, their positions in the vector."""
        q, pa = np.asarray(self.domain.pairs).T
        size2 = vector[q] ** 2 + vector[pa] ** 2
        size = jnp.sqrt(jnp.maximum(size2, jnp.finfo(vector.dtype).tiny))
        smallest = SMALLEST_RING * float(jnp.finfo(vector.dtype).eps) ** 0.5
        inner = jnp.where(self.domain.inner > smallest, self.domain.inner, 0)  # the whole disk, but for a user's bound
        return size, inner, self.domain.outer - inner, np.concatenate([q, pa])
