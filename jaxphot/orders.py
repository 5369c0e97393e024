"""Which rules refined cells have, by tolerance, and the lists of cells that need them."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

_NEVER = 1e9  # an error beyond which nothing is


class CellList(NamedTuple):
    """Cells that need one rule.

    Attributes
    ----------
    size : int
        Blocks a cell.
    column : int
        Of the first block in the table of its rules (of Gauss, or along edges; see `Orders.corner_column`).
    rule : int
        Its number.
    kinds : (int, int)
        First and last kind of the cells, see `Orders.kinds_of`.
    """

    size: int
    column: int
    rule: int
    kinds: tuple[int, int]


@dataclass(frozen=True)
class Orders:
    """How many nodes: by Gauss rules in a cell, or along its edges times from the centre.

    All come in blocks of one size, as many nodes as the first rule has. (A node in the middle of a cell is a sample
    already.) Rules are numbered: 0 the far rule, then those of Gauss, then those along edges, of which there are two: a
    gentle and a hard one, for brightness that falls by little and by much between the centre and the cell.

    Attributes
    ----------
    gauss : tuple of int
        p of the p × p rules.
    unresolved : tuple of (float, float)
        Of all but the last: the far rule's error, relative to the cell, from which on they are blended with the next;
        of sources whose brightness falls evenly, and of others.
    nearest : tuple of (float, float)
        Of all: ρ^(−2p) times the growth next to a steep cusp from which on they are, relative to the tolerance; and up
        to what this growth counts squared.
    bent : tuple of float
        Of all but the last: the far rule's error, relative to the cell and squared, times ρ^(−8), from which on they
        are; of the first one times ρ^(−6). Empty if that is not looked at.
    along : (int, int)
        Nodes along an edge, of the gentle and of the hard rule.
    radial : int
        Nodes from the centre in a block.
    parts : int
        Blocks of them of the hard rule.
    """

    gauss: tuple[int, ...]
    unresolved: tuple[tuple[float, float], ...]
    nearest: tuple[tuple[float, float], ...]
    bent: tuple[float, ...]
    along: tuple[int, int]
    radial: int
    parts: int

    @property
    def block(self):
        """Nodes a block."""
        return _count(self.gauss[0])

    @property
    def edge_block(self):
        """Nodes along an edge a block."""
        return self.block // self.radial

    @property
    def blocks(self):
        """Blocks a cell of every Gauss rule."""
        return tuple(-(-_count(p) // self.block) for p in self.gauss)

    @property
    def columns(self):
        """Blocks of the coarsest Gauss rules, of more, and of all: in a table of few they are found sooner."""
        return sorted({sum(self.blocks[:rules]) for rules in (3, 5, len(self.gauss))})

    @property
    def edges(self):
        """Number of the rules along edges."""
        return len(self.gauss) + 1

    @property
    def last_kind(self):
        """See `kinds_of`."""
        return 2 * self.edges + 5

    @property
    def edge_blocks(self):
        """Blocks of one edge by the gentle rule, and by the hard one."""
        gentle, hard = (nodes // self.edge_block for nodes in self.along)
        return gentle, hard * self.parts

    @property
    def corner_column(self):
        """Of cells with the centre on a corner, in place of the first column of their first edge with an area."""
        gentle, hard = self.edge_blocks
        return 5 * gentle + 4 * hard  # the table ends before it

    def kinds_of(self, needs, hard, at_corner):
        """Which rules cells need, as a number: so that those that need the same one lie together in their order.

        Of Gauss and far rules 2k stands for rule k alone, 2k + 1 for rules k and k + 1. Then come blends of the last
        Gauss rule with the gentle rule along edges, with both, and with the hard one; then the hard one, both, and the
        gentle one alone, last of all in cells with the centre on a corner: two of their edges have no area. (Only cells
        of the gentle rule lie in two places.)

        Parameters
        ----------
        needs : array
            Numbers of rules; between two numbers, a blend of both.
        hard : array
            The hard rule's part in those along edges.
        at_corner : bool array
            Whether the centre is.

        Returns
        -------
        int array
        """
        by_need, by_hardness = ((jnp.floor(x) + jnp.ceil(x)).astype(jnp.int32) for x in (needs, hard))
        alone = 2 * self.edges
        blended = jnp.where(by_need == alone - 1, alone - 1 + by_hardness, by_need)
        kinds = jnp.where(by_need == alone, alone + 4 - by_hardness, blended)
        return jnp.where(at_corner & (kinds == alone + 4), self.last_kind, kinds)

    @property
    def lists(self):
        """`CellList` of all rules but the far one: first those along edges, then those of Gauss, the finest first."""
        edges, (gentle, hard) = self.edges, self.edge_blocks
        lists = [
            CellList(2 * gentle, self.corner_column, edges, (2 * edges + 5, 2 * edges + 5)),
            CellList(4 * gentle, 0, edges, (2 * edges + 3, 2 * edges + 4)),
            CellList(4 * hard, 5 * gentle, edges, (2 * edges, 2 * edges + 3)),
            CellList(4 * gentle, 0, edges, (2 * edges - 1, 2 * edges)),
        ]
        for k in range(edges - 1, 0, -1):
            last = 2 * k + (3 if k == edges - 1 else 1)
            lists.append(CellList(self.blocks[k - 1], sum(self.blocks[: k - 1]), k, (2 * k - 1, last)))
        return lists


def _count(p):
    """Nodes of a p × p rule, but for one in the middle."""
    return p * p - p % 2


def choose_orders(tol):
    """Orders that go with a tolerance."""
    if tol >= 1e-2:
        return Orders((3, 5), ((0.1, 0.002),), ((0.3, 1), (1, 1)), (1e-8,), (6, 10), 8, 2)
    if tol >= 3e-5:
        unresolved = (0.1, 0.0002), (0.5, 0.001), (1.0, 0.002), (3.0, 0.005), (_NEVER, 0.01)
        bent = tuple(min(tol / 1e-4, 1) ** 2 * limit for limit in (1.4e-10, 3e-7, 4.6e-6, 1e-3, _NEVER))
        nearest = (0.3, 1), (1, 1), (4, 4), (12, 12), (24, 24), (24, 24)
        return Orders((3, 4, 5, 7, 9, 12), unresolved, nearest, bent, (10, 16), 8, 2)
    if tol >= 3e-7:
        return Orders((6, 12), ((0.005, 0.005),), ((0.5, 1), (0.5, 1)), (), (14, 20), 18, 2)
    return Orders((8, 16), ((0.005, 0.005),), ((0.5, 1), (0.5, 1)), (), (20, 28), 32, 2)
