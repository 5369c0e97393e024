"""The corrected midpoint rule: means of cells from one sample each, fourth order, and how far off they may be."""

import jax.numpy as jnp

EXTRA = 6  # samples a row beyond the cells: three on either side

RING = EXTRA // 2  # before the first cell of a row


def corrected_midpoint(samples, ratio):
    """Means of cells from one sample each: fourth order.

    Parameters
    ----------
    samples : (…, ny + EXTRA, nx + EXTRA) array
        Of the cells, and three rings around them.
    ratio : (2,) array
        Sides of a cell ÷ distance of the samples.

    Returns
    -------
    (…, ny, nx) array
    """
    ny, nx = (side - EXTRA for side in samples.shape[-2:])

    def around(*offsets):
        return _add([samples[..., RING + dj : RING + dj + ny, RING + di : RING + di + nx] for di, dj in offsets])

    second_i, second_j, fourth_i, fourth_j, mixed = _coefficients(ratio)
    return (
        (1 - 2 * (second_i + second_j) + 6 * (fourth_i + fourth_j) + 4 * mixed) * around((0, 0))
        + (second_i - 4 * fourth_i - 2 * mixed) * around((1, 0), (-1, 0))
        + (second_j - 4 * fourth_j - 2 * mixed) * around((0, 1), (0, -1))
        + fourth_i * around((2, 0), (-2, 0))
        + fourth_j * around((0, 2), (0, -2))
        + mixed * around((1, 1), (-1, -1), (1, -1), (-1, 1))
    )


def level_and_error(samples, ny, row, ratio):
    """Size of one plane's samples, and how far off `corrected_midpoint` may be.

    The error is twice the terms of sixth differences, which are left out. As these vanish here and there, a sixth of
    those of the fourth is added, and what they and those of the second are more than in a series that converges.

    Parameters
    ----------
    samples : array
        As there, in flat rows.
    ny : int
    row : int
        Samples a row.
    ratio : (2,) array

    Returns
    -------
    level, error : (ny · row,) arrays
        The last `EXTRA` of each row are no cells.
    """
    of_second_i, of_second_j, of_fourth_i, of_fourth_j, of_mixed = _coefficients(ratio)
    of_sixth_i, of_sixth_j = (side**6 / 322560 - side**4 / 11520 + side**2 / 2160 for side in ratio)
    first, count = RING * (row + 1), ny * row

    def around(*offsets):
        return _add([samples[first + dj * row + di :][:count] for di, dj in offsets])

    centre, corners = around((0, 0)), around((1, 1), (-1, -1), (1, -1), (-1, 1))
    near_i, near_j = around((1, 0), (-1, 0)), around((0, 1), (0, -1))
    next_i, next_j = around((2, 0), (-2, 0)), around((0, 2), (0, -2))
    second = [of_second_i * (near_i - 2 * centre), of_second_j * (near_j - 2 * centre)]
    fourth = [
        of_fourth_i * (next_i - 4 * near_i + 6 * centre),
        of_fourth_j * (next_j - 4 * near_j + 6 * centre),
        of_mixed * (corners - 2 * (near_i + near_j) + 4 * centre),
    ]
    sixth = [
        of_sixth_i * (around((3, 0), (-3, 0)) - 6 * next_i + 15 * near_i - 20 * centre),
        of_sixth_j * (around((0, 3), (0, -3)) - 6 * next_j + 15 * near_j - 20 * centre),
    ]
    level = jnp.abs(centre)
    second, fourth, sixth = (_add([jnp.abs(term) for term in terms]) for terms in (second, fourth, sixth))
    slow = 2 * jnp.maximum(fourth - level / 10, 0) + jnp.maximum(second - level / 30, 0) / 10
    return level, 2 * sixth + fourth / 6 + slow


def _coefficients(ratio):
    """Of second differences along i and j, fourth ones, and the mixed one, in the mean over a cell."""
    si, sj = ratio
    fourth_i, fourth_j = (side**4 / 1920 - side**2 / 288 for side in (si, sj))
    return si**2 / 24, sj**2 / 24, fourth_i, fourth_j, (si * sj) ** 2 / 576


def _add(parts):
    return sum(parts[1:], parts[0])
