"""From a WCS object to a transform. Works on the object's attributes alone: astropy is not imported."""

import warnings
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxphot.transforms.grid import look_up_error, make_grid, node_positions
from jaxphot.transforms.linear import Linear, make_linear
from jaxphot.transforms.polynomial import dense_coefficients, on_grid
from jaxphot.transforms.protocol import check_shape, check_step, default_dtype
from jaxphot.transforms.sip import SIP, fit_coefficients, make_sip
from jaxphot.transforms.sky import plane_to_sky, sky_to_plane
from jaxphot.units import ARCSEC_PER_DEG

_AGREEMENT = 1e-9  # deg, on the sphere
_WORTH_A_WARNING = 1e-3  # pixels


def transform_from_wcs(wcs, shape, *, step=1):
    """The transform of a WCS.

    Parameters
    ----------
    wcs : astropy.wcs.WCS, or another object with ``pixel_to_world_values`` such as a gWCS
        With a celestial part; a cube's celestial part is taken. Sky positions are in its own frame (ICRS, galactic …).
    shape : (ny, nx)
        Of the image.
    step : int
        Distance in pixels of the nodes of the displacement grid, where there is one: see `make_sip`.

    Returns
    -------
    Linear
        From a gnomonic (TAN) projection without distortion: CD, PC + CDELT or CROTA. Agrees with the WCS to 1e-9 deg.
    SIP
        From a gnomonic projection with SIP coefficients; and from everything else (TPV, look-up tables, other
        projections, gWCS): then its plane touches the sky at the image's centre, and its grid is computed from the
        WCS itself. ``transform.accuracy`` is the largest error (pixels) between nodes; above 1e-3 a warning says so.

    Raises
    ------
    ValueError
        No celestial part, or a pixel without a sky position in the hemisphere about the image's centre.
    """
    shape, step = check_shape(shape), check_step(step)
    if hasattr(wcs, "wcs"):
        celestial = _celestial_part(wcs)
        exact = _gnomonic(celestial, shape, step)
        return _from_sky(_astropy_sky(celestial), shape, step) if exact is None else exact
    if hasattr(wcs, "pixel_to_world_values"):
        return _from_sky(_duck_sky(wcs), shape, step)
    raise ValueError(
        f"wcs: expected an astropy.wcs.WCS or an object with pixel_to_world_values, got {type(wcs).__name__}"
    )


def _celestial_part(wcs):
    """The two celestial axes of a WCS, without axes of other kinds."""
    if not wcs.has_celestial:
        raise ValueError(f"wcs: it has no celestial part; CTYPE is {[str(name) for name in wcs.wcs.ctype]}")
    celestial = wcs if wcs.naxis == 2 else wcs.celestial
    celestial.wcs.set()  # fills in lng and lat, turns CROTA into PC, units into degrees
    return celestial


def _gnomonic(celestial, shape, step):
    """Linear or SIP where the WCS is exactly one of them, else None."""
    lng, lat = celestial.wcs.lng, celestial.wcs.lat
    ctype = [str(name) for name in celestial.wcs.ctype]
    tables = [getattr(celestial, name, None) for name in ("cpdis1", "cpdis2", "det2im1", "det2im2")]
    if not ctype[lng].removesuffix("-SIP").endswith("TAN") or any(table is not None for table in tables):
        return None
    cd = ARCSEC_PER_DEG * _native_rotation(celestial) @ np.asarray(celestial.pixel_scale_matrix)[[lng, lat]]
    crpix = np.asarray(celestial.wcs.crpix) - 1
    crval = np.asarray(celestial.wcs.crval)[[lng, lat]]
    linear = Linear(cd, crpix, np.zeros(2), crval, np.zeros(2))
    sip = getattr(celestial, "sip", None)
    a, b, ap, bp = [None if sip is None else getattr(sip, name) for name in ("a", "b", "ap", "bp")]
    if (sip is not None and not np.array_equal(sip.crpix, celestial.wcs.crpix)) or not _agrees(
        celestial, linear, a, b, shape
    ):
        return None
    if a is None and b is None:
        return make_linear(cd=cd, crpix=crpix, crval=crval)
    if not all(name.endswith("-SIP") for name in ctype):
        warnings.warn(
            f"wcs: CTYPE {ctype} lacks -SIP, but there are SIP coefficients: they are used, as astropy does",
            stacklevel=3,
        )
    return make_sip(shape, a, b, ap=ap, bp=bp, cd=cd, crpix=crpix, crval=crval, step=step)


def _native_rotation(celestial):
    """Rotation from native projection coordinates to East and North: the identity for LONPOLE = 180."""
    angle = np.deg2rad(celestial.wcs.lonpole - 180.0)
    return np.asarray([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _agrees(celestial, linear, a, b, shape):
    """Whether formula and WCS agree at the corners, the sides and the middle: a wrong sky must not pass in silence."""
    i, j = [np.asarray([0, side / 2, side - 1]) for side in shape[::-1]]
    u, v = i - linear.crpix[0], j - linear.crpix[1]
    di, dj = [on_grid(dense_coefficients(c, name), u, v) for c, name in ((a, "a"), (b, "b"))]
    i, j = np.meshgrid(i, j)
    ours_ra, ours_dec = plane_to_sky(*linear.pixel_to_plane(i + di, j + dj), linear.crval)
    ra, dec = _astropy_sky(celestial)(i, j)
    d_ra = (ours_ra - ra + 180) % 360 - 180
    return np.max(np.hypot(d_ra * np.cos(np.deg2rad(dec)), ours_dec - dec)) <= _AGREEMENT


def _astropy_sky(celestial):
    """Function from pixel coordinates to (longitude, latitude), deg, all distortions included."""

    def sky(i, j):
        world = celestial.all_pix2world(i, j, 0)
        return np.asarray(world[celestial.wcs.lng]), np.asarray(world[celestial.wcs.lat])

    return sky


def _duck_sky(wcs):
    """The same of an object of astropy's shared WCS interface (APE 14)."""
    kinds = getattr(wcs, "world_axis_physical_types", None) or ("pos.eq.ra", "pos.eq.dec")
    units = getattr(wcs, "world_axis_units", None) or ("deg",) * len(kinds)
    names = [str(kind or "").rpartition(".")[2] for kind in kinds]
    axes = [
        next((n for n, name in enumerate(names) if name in wanted), None) for wanted in (("ra", "lon"), ("dec", "lat"))
    ]
    if None in axes or getattr(wcs, "pixel_n_dim", 2) != 2:
        raise ValueError(f"wcs: it has no celestial part of two pixel axes; its world axes are {list(kinds)}")
    factors = [180 / np.pi if str(units[axis]) in ("rad", "radian") else 1.0 for axis in axes]

    def sky(i, j):
        world = wcs.pixel_to_world_values(i, j)
        return tuple(factor * np.asarray(world[axis], np.float64) for axis, factor in zip(axes, factors, strict=True))

    return sky


def _from_sky(sky, shape, step):
    """A displacement grid about the image's centre, from the sky positions of pixels."""
    ny, nx = shape
    crpix = np.asarray([(nx - 1) / 2, (ny - 1) / 2])
    crval = np.stack(sky(crpix[0], crpix[1]))
    if not np.all(np.isfinite(crval)):
        raise ValueError(f"wcs: the image's centre, pixel {tuple(crpix.tolist())}, has no position on the sky")

    def plane(i, j):
        """On the grid of all (i, j): plane positions less those of the linear part, in pixels."""
        i, j = np.meshgrid(i, j)
        x, y = sky_to_plane(*sky(i, j), crval)
        return x, y, i - crpix[0], j - crpix[1]

    cd = _central_cd(plane, crpix)
    inverse = np.linalg.inv(cd)

    def displacement(i, j):
        x, y, u, v = plane(i, j)
        return np.stack([inverse[0, 0] * x + inverse[0, 1] * y - u, inverse[1, 0] * x + inverse[1, 1] * y - v])

    i, j = node_positions(nx, step), node_positions(ny, step)
    table = displacement(i, j)
    _check_finite(table, i, j)
    accuracy = look_up_error(table, displacement, shape, step)
    area = _quadrilaterals(displacement, i, j, shape)
    if accuracy > _WORTH_A_WARNING:
        warnings.warn(f"wcs: positions between pixel centres are good to {accuracy:.2g} pixels only", stacklevel=3)
    grid = make_grid(table, area, shape, step, accuracy, default_dtype())
    none = jnp.zeros((10, 10), grid.area.dtype)
    transform = SIP(make_linear(cd=cd, crpix=crpix, crval=crval), grid, none, none, none, none)
    a, b, _ = fit_coefficients(transform)
    return replace(transform, a=jnp.asarray(a, none.dtype), b=jnp.asarray(b, none.dtype))


def _central_cd(plane, crpix):
    """CD of the pixel at the image's centre."""
    x, y, _, _ = plane(crpix[0] + np.asarray([-0.5, 0.5]), crpix[1] + np.asarray([-0.5, 0.5]))
    cd = np.asarray(
        [[values[:, 1].mean() - values[:, 0].mean(), values[1].mean() - values[0].mean()] for values in (x, y)]
    )
    if not np.all(np.isfinite(cd)) or abs(np.linalg.det(cd)) <= 1e-12 * np.sum(cd**2):
        raise ValueError(f"wcs: the pixel at the image's centre has no extent on the sky: CD would be {cd.tolist()}")
    return cd


def _check_finite(table, i, j):
    bad = np.argwhere(~np.all(np.isfinite(table), axis=0))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"wcs: {len(bad)} pixels, the first (i, j) = ({i[column]:g}, {j[row]:g}), have no position in the"
            " hemisphere about the image's centre; crop the image"
        )


def _quadrilaterals(displacement, i, j, shape):
    """Area of the pixel about each node ÷ that of the central one, from its exact corners."""
    j_last, i_last = shape[0] - 1, shape[1] - 1
    (i_edges, left, right), (j_edges, low, high) = _edges(i), _edges(j)
    w = displacement(i_edges, j_edges)
    w[0] += i_edges[None, :]
    w[1] += j_edges[:, None]
    along = w[:, high][:, :, right] - w[:, low][:, :, left]
    across = w[:, high][:, :, left] - w[:, low][:, :, right]
    area = (along[0] * across[1] - along[1] * across[0]) / 2
    inside = (abs(2 * i - i_last) <= i_last)[None, :] & (abs(2 * j - j_last) <= j_last)[:, None]  # not the ring
    if not np.min(area, where=inside, initial=np.inf) > 0:
        row, column = np.unravel_index(np.argmin(np.where(inside, area, np.inf)), area.shape)
        raise ValueError(f"wcs: its distortion folds the frame at pixel (i, j) = ({i[column]:g}, {j[row]:g})")
    return abs(area)


def _edges(nodes):
    """Positions half a pixel before and after each node, without doubles, and the indices of the two."""
    edges, index = np.unique(np.concatenate([nodes - 0.5, nodes + 0.5]), return_inverse=True)
    return edges, index[: len(nodes)], index[len(nodes) :]
