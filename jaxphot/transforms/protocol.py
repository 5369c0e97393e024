"""What every transform offers, and helpers that they share.

A transform is a pytree with

- ``pixel_to_plane(i, j) → (x, y)`` and ``plane_to_pixel(x, y) → (i, j)``: pixel coordinates (column, row), 0-based,
  pixel centres at integers ↔ arcsec in the tangent plane, +x East, +y North;
- ``pixel_area(i, j)``: sensitive area (arcsec²) of the pixel at (i, j);
- ``footprint``: the sensitive part of a pixel, a `Footprint`;
- ``whole``: the same transform with pixels sensitive all over;
- ``crval``, ``crval_lo``: where the plane touches the sky, deg, split in two so that float32 keeps it (NaN: unknown);
- ``shape``: (ny, nx) of the only image it belongs to; absent or None where any will do;
- ``crop(i0, j0, shape)`` and ``rebin(k)``: the transform of the cropped or block-summed image;
- ``astype(dtype)``.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Footprint(NamedTuple):
    """The rectangle of a pixel that collects light, in pixel units: its centre from the pixel's, and its sides."""

    loc: tuple = (0.0, 0.0)
    scale: tuple = (1.0, 1.0)


WHOLE_PIXEL = Footprint()


def split_crval(crval, dtype):
    """A sky position (deg) as two arrays whose sum is it to twice the precision of `dtype`; None becomes NaN."""
    exact = np.full(2, np.nan) if crval is None else np.asarray(crval, np.float64)
    high = exact.astype(dtype)
    low = (exact - high.astype(np.float64)).astype(dtype)
    return jnp.asarray(high), jnp.asarray(low)


def recast_crval(crval, crval_lo, dtype):
    """The same two-part position in another dtype (concrete values: exactly)."""
    return split_crval(np.asarray(crval, np.float64) + np.asarray(crval_lo, np.float64), dtype)


def check_pair(value, name):
    """A pair of finite numbers as float64, or a ValueError that names the argument."""
    array = np.asarray(value, np.float64)
    if array.shape != (2,) or not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: expected two finite numbers, got {value!r}")
    return array


def check_crval(crval):
    """None, or a valid (ra, dec) in degrees as float64."""
    if crval is None:
        return None
    crval = check_pair(crval, "crval")
    if abs(crval[1]) > 90:
        raise ValueError(f"crval: expected (ra, dec) in degrees with |dec| ≤ 90, got {tuple(crval.tolist())}")
    return crval


def check_shape(shape):
    """Two positive integers (ny, nx), or a ValueError."""
    try:
        ny, nx = shape
        fine = int(ny) == ny > 0 and int(nx) == nx > 0
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise ValueError(f"shape: expected two positive integers (ny, nx), got {shape!r}")
    return int(ny), int(nx)


def check_step(step):
    """A positive integer, or a ValueError."""
    if isinstance(step, bool) or int(step) != step or step < 1:
        raise ValueError(f"step: expected a positive integer, got {step!r}")
    return int(step)


def cd_matrix(cd, pixelscale):
    """The CD matrix (arcsec/pixel, float64) from either argument of a builder; exactly one may be given."""
    if (cd is None) == (pixelscale is None):
        raise ValueError("give either cd (2×2, arcsec/pixel) or pixelscale (arcsec/pixel), not both and not neither")
    if cd is None:
        scale = np.asarray(pixelscale, np.float64)
        if scale.shape != () or not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"pixelscale: expected a positive number of arcsec/pixel, got {pixelscale!r}")
        return np.diag([scale, scale])
    cd = np.asarray(cd, np.float64)
    if cd.shape != (2, 2):
        raise ValueError(f"cd: expected shape (2, 2), got {cd.shape}")
    if not np.all(np.isfinite(cd)):
        raise ValueError(f"cd: expected finite numbers, got {cd.tolist()}")
    if abs(np.linalg.det(cd)) <= 1e-12 * np.sum(cd**2):
        raise ValueError(f"cd: the matrix is singular: {cd.tolist()}")
    return cd


def default_dtype():
    """float64 where the user has enabled it in JAX, else float32."""
    return jnp.result_type(float)  # of no array: to make one takes a call to the device
