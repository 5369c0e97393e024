"""The corrected midpoint rule: means of cells from one sample each, fourth order, and how far off they may be."""

import jax.numpy as jnp

EXTRA = 4  # samples a row beyond the cells: two on either side


def corrected_midpoint(samples, ratio):
    """Means of cells from one sample each: fourth order.

    Parameters
    ----------
    samples : (…, ny + 4, nx + 4) array
        Of the cells, and two rings around them.
    ratio : (2,) array
        Sides of a cell ÷ distance of the samples.

    Returns
    -------
    (…, ny, nx) array
    """
    ny, nx = (side - EXTRA for side in samples.shape[-2:])

    def around(*offsets):
        return _add([samples[..., 2 + dj : 2 + dj + ny, 2 + di : 2 + di + nx] for di, dj in offsets])

    second_i, second_j, fourth_i, fourth_j, mixed = _coefficients(ratio)
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
    of_second_i, of_second_j, of_fourth_i, of_fourth_j, of_mixed = _coefficients(ratio)
    first, count = 2 * row + 2, ny * row

    def around(*offsets):
        return _add([samples[first + dj * row + di :][:count] for di, dj in offsets])

    def skew(offset):
        """Difference of the samples at an offset and at its opposite."""
        return around(offset) - around((-offset[0], -offset[1]))

    centre, near_i, near_j = around((0, 0)), around((1, 0), (-1, 0)), around((0, 1), (0, -1))
    second_i, second_j = near_i - 2 * centre, near_j - 2 * centre
    fourth_i = around((2, 0), (-2, 0)) - 4 * near_i + 6 * centre
    fourth_j = around((0, 2), (0, -2)) - 4 * near_j + 6 * centre
    mixed = around((1, 1), (-1, -1), (1, -1), (-1, 1)) - 2 * (near_i + near_j) + 4 * centre
    terms = [
        of_second_i * second_i,
        of_second_j * second_j,
        of_fourth_i * fourth_i,
        of_fourth_j * fourth_j,
        of_mixed * mixed,
    ]
    mean = centre + sum(terms)
    tiny = jnp.finfo(mean.dtype).tiny
    size = [jnp.abs(term) for term in terms]
    second, inverse = size[0] + size[1] + tiny, 1 / (jnp.abs(mean) + tiny)
    # fourth differences vanish here and there; products of lower ones are as large and do not at the same places
    right, up, corners = skew((1, 0)), skew((0, 1)), (skew((1, 1)), skew((1, -1)))
    odd = jnp.abs(of_fourth_i * right * (skew((2, 0)) - 2 * right))
    odd += jnp.abs(of_fourth_j * up * (skew((0, 2)) - 2 * up))
    # along a thin ridge that runs askew, mixed terms are most of what is left out
    askew = jnp.abs(corners[0] - corners[1] - 2 * up) + jnp.abs(corners[0] + corners[1] - 2 * right)
    fourth = size[2] + size[3] + size[4] + of_mixed / 4 * askew
    fourth += odd / 4 * inverse + second * jnp.minimum(second * inverse, 1)
    return mean, fourth * jnp.minimum(8 * fourth / second, 1)


def _coefficients(ratio):
    """Of second differences along i and j, fourth ones, and the mixed one, in the mean over a cell."""
    si, sj = ratio
    fourth_i, fourth_j = (side**4 / 1920 - side**2 / 288 for side in (si, sj))
    return si**2 / 24, sj**2 / 24, fourth_i, fourth_j, (si * sj) ** 2 / 576


def _add(parts):
    return sum(parts[1:], parts[0])
