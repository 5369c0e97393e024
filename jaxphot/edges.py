"""Quadrature about a source's centre: nodes along the edges of cells next to a cusp, or in which light ends.

By two rules: a gentle one, where brightness falls by little between the centre and the cell, and a hard one.
"""

import jax.numpy as jnp
import numpy as np

from jaxphot.isophotes import farthest, hardness, nearest, radius
from jaxphot.numerics import safe_log

_TIP = 0.1  # of a source's reach: the hard rule's triangles of cells farther out go outwards
_FARTHEST = 10.0  # light that ends nearer, in distances of an edge's foot, is followed along all of the edge
_POWERS = (2.5, 3.0)  # of the variable from the centre, of the gentle and of the hard rule
# s and ds of the gentle rule of 8 nodes: the least errors of ∫ s f(s) ds for Sérsic profiles f of n = ½ to 8 that fall
# by up to e^7.5 (n < 1) to e^9.5, their derivatives with respect to place, n and Re, cusps s^(−γ) and Moffat profiles.
# Those of Sérsic profiles are 6e-6 to 1e-6 of the integral (of 8 Gauss nodes of a power up to 2e-4).
_FITTED = (
    (0.000212554641, 0.00468488219, 0.0304355491, 0.106660947, 0.255117732, 0.472444874, 0.725777485, 0.93811109),
    (0.000890356115, 0.0108656321, 0.0459041465, 0.110510644, 0.185831467, 0.24356043, 0.250753072, 0.151683428),
)


def edge_tables(along, radial, parts, edge_block):
    """What `edge_nodes` has to know of its blocks: of the gentle rule on four edges and the first one again (two are
    found next to each other, whichever is the first), then of the hard one on four.

    Parameters
    ----------
    along : pair of (nodes, weights)
        Of both, rules on [−½, ½].
    radial : pair of (nodes, weights)
        Of both, from the centre, on [−½, ½]; the second one has `parts` times as many.
    parts : int
    edge_block : int
        Nodes along an edge a block.

    Returns
    -------
    (blocks, 5 + 4 edge_block) array
        An edge's start and direction (±1 or 0 along i, j), counted from the lower one; which nodes from the centre;
        then nodes along the edge on [0, 1], weights, and 1 for its first and for its last node.
    (1 + parts, 2, radial) array
        s and s ds on [0, 1], of the gentle rule and of the hard one's parts.
    """
    start = np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]])
    step = np.array([[2, 0, -2, 0], [0, 2, 0, -2]])

    def columns(nodes, weights, first, parts):
        count, number = len(nodes) // edge_block, np.arange(len(nodes))
        rows = nodes + 0.5, weights, number == 0, number == len(nodes) - 1
        rules = np.concatenate([row.reshape(count, edge_block).T for row in rows])
        edges = np.repeat(np.concatenate([start, step]), count * parts, axis=1)
        part = np.tile(first + np.arange(parts), 4 * count)
        return np.concatenate([edges, part[None], np.tile(np.repeat(rules, parts, axis=1), 4)])

    def powers(nodes, weights, power):
        w = nodes + 0.5
        return np.stack([w**power, power * w ** (power - 1) * weights])

    gentle, hard = (powers(*rule, power) for rule, power in zip(radial, _POWERS, strict=True))
    if gentle.shape == np.shape(_FITTED):
        gentle = np.array(_FITTED)
    on_edges = columns(*along[0], 0, 1)
    again = on_edges[:, : on_edges.shape[1] // 4]
    table = np.concatenate([on_edges, again, columns(*along[1], 1, parts)], axis=1)
    return table.T, np.stack([gentle, *np.split(hard, parts, axis=1)])


def first_edge(frame, centers):
    """Number of the first edge with an area, of cells with the centre on a corner: it and the next one have any."""
    right, above = centers > frame.center[:, None]
    return jnp.where(above, jnp.where(right, 1, 2), jnp.where(right, 0, 3))


def edge_nodes(frame, light, centers, half, block, radial):
    """Nodes and weights of an integral over cells, about a source's centre: part of one edge of each a call.

    For any f, F(r) = r ∫ s f(s r) ds has div F = f, so that a cell's integral is the sum over its edges of signed
    triangles (centre, edge), s from 0 to 1. s, a power of the variable, removes the cusp; l = d sinh(t), from the foot
    of the perpendicular in the frame where isophotes are circles, the near-singularity of an edge that passes close to
    the centre.

    Of a cell that is far from the centre compared with the source's reach, most of these triangles' light would cancel.
    There those of the hard rule go outwards, s from 1 to where R is that of the farthest corner (any R does, the same
    for all edges), and an edge is as long as there is light on it.

    Parameters
    ----------
    frame : Frame
    light : Light
    centers : (2, W) array
        Of the cells.
    half : (2,) array
        Half the cells' sides.
    block : (5 + 4 E, W) array
        Rows of the first of `edge_tables`.
    radial : (1 + parts, 2, N) array
        The second one.

    Returns
    -------
    (E, N, W) arrays
        i, j and weights; these sum to the mean over the cell when all edges' are added up, of both rules where
        `hardness` lies between 0 and 1.
    """
    offset = centers - frame.center[:, None]
    corner, edge = offset + half[:, None] * block[:2], half[:, None] * block[2:4]
    is_gentle, hard = block[4] == 0, hardness(frame, light, *centers, half)
    outside, end = _exterior(frame, light, offset, half)
    outside &= ~is_gentle
    part, weight = _along(frame.metric, light.reach, outside, corner, edge, block[5:])
    point = corner[:, None] + part[None] * edge[:, None]

    rule = radial[0][..., None]
    for number in range(1, len(radial)):
        rule = jnp.where((block[4] == number)[None, None], radial[number][..., None], rule)
    far = radius(frame.metric, point)
    begin = outside.astype(far.dtype)
    reach = jnp.minimum(jnp.where(outside[None], end[None], far), light.reach) / far  # no light beyond its reach
    length = reach - begin[None]
    # a cell is 4 half[0] half[1]
    weight *= length * (jnp.where(is_gentle, 1 - hard, hard) * (1 - 2 * begin) / (4 * half[0] * half[1]))[None]
    # stacked, as XLA then computes them once, not for every node
    begin, length, weight = jnp.stack([jnp.broadcast_to(begin, length.shape), length, weight])[:, :, None]
    s = begin + length * rule[0][None]
    i, j = (frame.center[k] + s * point[k][:, None] for k in range(2))
    return i, j, weight * (s * rule[1][None])


def _along(metric, reach, outside, corner, edge, rules):
    """Nodes along edges, parts of their length, and weights: the triangles' heights times the parts they stand for.

    Only the part where there is light is looked at. Triangles from the centre are full of light beyond it: there the
    last node stands for the angle that is left.
    """
    a, b, c = metric
    along, weight, is_first, is_last = jnp.split(rules, 4)
    normal = a * edge[0] + b * edge[1], b * edge[0] + c * edge[1]
    length2, before = (point[0] * normal[0] + point[1] * normal[1] for point in (edge, corner))
    cross = corner[0] * edge[1] - corner[1] * edge[0]  # twice the triangle's area, signed
    height = jnp.maximum(jnp.abs(cross) * jnp.sqrt(a * c - b * b), 1e-10)  # distance of the foot times length
    ends = jnp.stack([before, before + length2]) / height[None, :]  # sinh(t)
    bright = reach * jnp.sqrt(length2) / height
    bright = jnp.where(outside, jnp.sqrt(jnp.maximum(bright * bright - 1, 0)), jnp.maximum(bright, _FARTHEST))
    lit = jnp.clip(ends, -bright[None, :], bright[None, :])
    left = jnp.where(outside, 0, _arctan_left(lit) - _arctan_left(ends))
    first, last = _arcsinh(lit)
    growth = jnp.exp(first[None, :] + (last - first)[None, :] * along)
    sinh, cosh = (growth - 1 / growth) / 2, (growth + 1 / growth) / 2
    angle = (last - first)[None, :] * weight / cosh + is_last * left[1:] - is_first * left[:1]
    part = (height[None, :] * sinh - before[None, :]) / length2[None, :]
    return part, (cross * height / length2)[None, :] * (cosh * cosh) * angle


def _exterior(frame, light, offset, half):
    """Whether a cell is one whose triangles go outwards, and the R at which these end."""
    end = farthest(frame.metric, offset, half)
    return nearest(frame.metric, offset, half) > _TIP * light.reach, end


def _arcsinh(x):
    size = jnp.abs(x)
    return jnp.sign(x) * safe_log(size + jnp.sqrt(size * size + 1))


def _arctan_left(x):
    """±π/2 − arctan(x) to 1e-10 for |x| ≥ `_FARTHEST`; anything elsewhere."""
    inverse = jnp.where(jnp.abs(x) > 1, 1 / x, 0)
    square = inverse * inverse
    return inverse * (1 - square * (1 / 3 - square * (1 / 5 - square / 7)))
