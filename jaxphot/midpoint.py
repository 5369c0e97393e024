"""The corrected midpoint rule: means of cells from one sample each, fourth order, and how far off they may be."""

import jax.numpy as jnp

EXTRA = 4  # samples a row beyond the cells: two on either side


def corrected_midpoint(samples, ny, row, ratio):
    """Means of cells from one sample each, in rows of which the first holds the upper ring: fourth order.

    Parameters
    ----------
    samples : (…, ≥ (ny + 4) · row + `EXTRA`) array
        Flat rows: two rings more than cells, and as many numbers as are read beyond them (and mean nothing).
    ny, row : int
        Rows of cells; samples a row.
    ratio : (2,) array
        Sides of a cell ÷ distance of the samples.

    Returns
    -------
    (…, ny · row) array
        Cell (j, i) at j · row + i; the last `EXTRA` of each row mean nothing.
    """
    (si, sj), around = ratio, _neighbours(samples, ny, row)
    second_i, second_j, mixed = si**2 / 24, sj**2 / 24, (si * sj) ** 2 / 576
    fourth_i, fourth_j = (side**4 / 1920 - side**2 / 288 for side in (si, sj))
    return (
        (1 - 2 * (second_i + second_j) + 6 * (fourth_i + fourth_j) + 4 * mixed) * around((0, 0))
        + (second_i - 4 * fourth_i - 2 * mixed) * around((1, 0), (-1, 0))
        + (second_j - 4 * fourth_j - 2 * mixed) * around((0, 1), (0, -1))
        + fourth_i * around((2, 0), (-2, 0))
        + fourth_j * around((0, 2), (0, -2))
        + mixed * around((1, 1), (-1, -1), (1, -1), (-1, 1))
    )


def far_and_error(samples, ny, row, ratio):
    """`corrected_midpoint` of one plane, and how far off it may be.

    The error is the first term that is left out, as the last two that are kept foretell it.
    """
    (si, sj), around = ratio, _neighbours(samples, ny, row)
    centre, near_i, near_j = around((0, 0)), around((1, 0), (-1, 0)), around((0, 1), (0, -1))
    second_i, second_j = near_i - 2 * centre, near_j - 2 * centre
    fourth_i = around((2, 0), (-2, 0)) - 4 * near_i + 6 * centre
    fourth_j = around((0, 2), (0, -2)) - 4 * near_j + 6 * centre
    mixed = around((1, 1), (-1, -1), (1, -1), (-1, 1)) - 2 * (near_i + near_j) + 4 * centre
    terms = [
        (si**2 / 24) * second_i,
        (sj**2 / 24) * second_j,
        (si**4 / 1920 - si**2 / 288) * fourth_i,
        (sj**4 / 1920 - sj**2 / 288) * fourth_j,
        (si * sj) ** 2 / 576 * mixed,
    ]
    mean = centre + sum(terms)
    # the fourth difference vanishes here and there; the second's square is as large and does not at the same places
    size = [jnp.abs(term) for term in terms]
    tiny = jnp.finfo(mean.dtype).tiny
    second = size[0] + size[1] + tiny
    # what is left out has more mixed terms than others: along a thin ridge that runs askew they are most of it
    fourth = size[2] + size[3] + 3 * size[4] + 3 * second * jnp.minimum(second / (jnp.abs(mean) + tiny), 1)
    return mean, fourth * jnp.minimum(6 * fourth / second, 1)


def _neighbours(samples, ny, row):
    """A function: the sum of the samples at offsets (di, dj) from every cell."""
    first, count = 2 * row + 2, ny * row

    def around(*offsets):
        parts = [samples[..., first + dj * row + di :][..., :count] for di, dj in offsets]
        return sum(parts[1:], parts[0])

    return around
