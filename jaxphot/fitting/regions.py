"""Domains of crowded fields: every source keeps to its own bounds, and steps no further than it can be trusted."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting.blocks import BlockBasis


class SceneDomain:
    """The `Domain` of a scene, taken apart into those of its sources.

    One source's longest step does not shorten those of all others, and no (P, P) matrix is needed for the directions
    that may be held.

    Parameters
    ----------
    layout : Layout
    coordinates : Coordinates
    limits : tuple of arrays
        As `Coordinates.limits` makes them.
    dense : bool
        Directions are to be a (P, P) matrix (static).
    """

    def __init__(self, layout, coordinates, limits, dense):
        self.whole, self.layout, self.dense = coordinates.domain(limits), layout, dense
        number = {pair: k for k, pair in enumerate(coordinates.pairs)}
        self._parts = []
        groups = [(group.coordinates, group.index) for group in layout.groups]
        for own, index in [*groups, (layout.coordinates, layout.shared[None])]:
            rings = [[number[row[q], row[pa]] for q, pa in own.pairs] for row in index.tolist()]
            rings = np.asarray(rings, int).reshape(len(index), len(own.pairs))
            lower, upper, inner, outer = limits
            self._parts.append((own, index, (lower[index], upper[index], inner[rings], outer[rings])))

    @property
    def lower(self):
        """Lower bounds, (P,)."""
        return self.whole.lower

    @property
    def upper(self):
        """Upper bounds, (P,)."""
        return self.whole.upper

    @property
    def dimensionless(self):
        """Positions of logarithms and shears."""
        return self.whole.dimensionless

    def _each(self, method, *vectors):
        """A vector put together from ``method(domain, *own vectors)`` of every source."""
        result = None
        for own, index, limits in self._parts:
            found = jax.vmap(lambda limits, *rows, own=own: method(own.domain(limits), *rows))(
                limits, *(vector[index] for vector in vectors)
            )
            result = jnp.zeros(vectors[0].shape, found.dtype) if result is None else result
            result = result.at[index].set(found)
        return result

    def outward(self, z, gradient):
        """Directions of the basis at a bound along which descent would leave."""
        return self._each(lambda domain, *rows: domain.outward(*rows), z, gradient)

    def project(self, z):
        """The nearest point inside."""
        return self._each(lambda domain, row: domain.project(row), z)

    def move(self, z, delta, held):
        """Where a step from z leads: for each source as far as its own parameters allow."""
        return self._each(lambda domain, *rows: domain.move(*rows), z, delta, held)

    def basis(self, z):
        """Axes, but for shears the radial and the tangential direction."""
        if self.dense or not self.whole.pairs:
            return self.whole.basis(z)
        blocks = [self._turns(own, z[index], limits) for own, index, limits in self._parts]
        widest = max(block.shape[1] for block in blocks[:-1])
        pads = [widest - block.shape[1] for block in blocks[:-1]]
        padded = [jnp.pad(b, ((0, 0), (0, pad), (0, pad))) for b, pad in zip(blocks[:-1], pads, strict=True)]
        index, shared = jnp.asarray(self.layout.index), jnp.asarray(self.layout.shared)
        return BlockBasis(jnp.concatenate(padded), blocks[-1][0], index, shared)

    def _turns(self, own, rows, limits):
        eye = jnp.eye(rows.shape[1], dtype=rows.dtype)
        if not own.pairs:
            return jnp.broadcast_to(eye, (len(rows), *eye.shape))
        return jax.vmap(lambda limits, row: own.domain(limits).basis(row))(limits, rows)
