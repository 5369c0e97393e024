"""How the flux of a pixel is integrated from the brightness.

A rule is a hashable value made by a factory here; ``rule(model, params, cells) → (ny, nx)`` is the mean brightness over
each cell.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.numerics import gauss_legendre, on_cpu, sum_together
from jaxphot.pointwise import brightness, linearize_tree
from jaxphot.pytree import pytree, static_field
from jaxphot.refine import integrate


@pytree
class Cells:
    """A regular grid of rectangles in pixel coordinates over which brightness is integrated.

    Attributes
    ----------
    transform : transform
        With pixels sensitive all over.
    start : (2,) array
        Pixel coordinates (i, j) of the first cell's centre.
    size : (2,) array
        Sides (along i, j) of a cell, in pixels.
    shape : (int, int)
        (ny, nx) cells (static).
    step : float
        Distance of neighbouring centres, in pixels (static).
    rough : bool scalar, optional
        Where a fit is far from its end: one sample a cell will do.
    """

    transform: object
    start: jax.Array
    size: jax.Array
    shape: tuple[int, int] = static_field()
    step: float = static_field(default=1.0)
    rough: jax.Array | None = None

    def centers(self):
        """Pixel coordinates of the centres: i as (1, nx), j as (ny, 1)."""
        ny, nx = self.shape
        i = self.start[0] + self.step * jnp.arange(nx, dtype=self.start.dtype)
        j = self.start[1] + self.step * jnp.arange(ny, dtype=self.start.dtype)
        return i[None, :], j[:, None]

    def area(self):
        """Area of every cell, arcsec²."""
        return self.transform.pixel_area(*self.centers()) * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Quadrature:
    """A fixed set of samples a cell; made by `midpoint`, `simpsons`, `quad` or `upsample`.

    Attributes
    ----------
    nodes : tuple of (oi, oj, weight)
        Offsets from the cell's centre in units of its sides, and weights that sum to 1.
    """

    nodes: tuple

    def __call__(self, model, params, cells):
        """Mean brightness over each cell, (ny, nx)."""
        layout = (*cells.shape, cells.step)
        return _add_up(model, self.nodes, layout, params, cells.transform, (cells.start, cells.size), cells.rough)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _add_up(model, nodes, layout, params, transform, place, rough):
    """Weighted sum of samples of every cell: (ny, nx) array."""

    def sample(weight, *places):
        return [weight * _at_node(model, layout[2], (params, transform, place), *places)]

    return _scan(sample, 1, nodes, layout, place[0].dtype, rough)[0]


@partial(_add_up.defjvp, symbolic_zeros=True)
def _add_up_jvp(model, nodes, layout, primals, tangents):
    linearized = linearize_tree(partial(_at_node, model, layout[2]), primals[:3], tangents[:3], places=4)
    if linearized is None:
        value = _add_up(model, nodes, layout, *primals)
        return value, jnp.zeros_like(value)
    sums = _scan(linearized.sample, linearized.count, nodes, layout, primals[2][0].dtype, primals[3])
    return sums[0], linearized.contract(jnp.stack(sums))


def _at_node(model, step, arguments, column, row, oi, oj):
    """Brightness of the cells in given columns and rows, at an offset in units of their sides."""
    params, transform, (start, size) = arguments
    i, j = start[0] + step * column + oi * size[0], start[1] + step * row + oj * size[1]
    return brightness(model, params, transform, i, j)


def _scan(sample, planes, nodes, layout, dtype, rough):
    """Sums of all planes of ``sample(weight, column, row, oi, oj)`` over the nodes, or at the centre if `rough`."""
    ny, nx, _ = layout
    # flat, because in two dimensions XLA's loops are not always vectorised
    column = jnp.tile(jnp.arange(nx, dtype=dtype), ny)
    row = jnp.repeat(jnp.arange(ny, dtype=dtype), nx)

    # One sample of all pixels at a time, added up as it comes: an axis of samples would not fit into the cache,
    # and is 6 to 10 times slower.
    def add(totals, node):
        oi, oj, weight = (jnp.broadcast_to(number, column.shape) for number in node)
        planes = sample(weight, column, row, oi, oj)
        return [total + plane for total, plane in zip(totals, planes, strict=True)], None

    if not on_cpu():
        return [total.reshape(ny, nx) for total in _at_once(sample, nodes, column, row, rough)]
    totals = [jnp.zeros(ny * nx, dtype)] * planes
    if rough is None or len(nodes) == 1:
        totals, _ = jax.lax.scan(add, totals, jnp.asarray(nodes, dtype))
    else:
        table = jnp.asarray(((0.0, 0.0, 1.0), *nodes), dtype)
        first, end = jnp.where(rough, 0, 1), jnp.where(rough, 1, len(table))
        totals = jax.lax.fori_loop(first, end, lambda k, totals: add(totals, table[k])[0], totals)
    return [total.reshape(ny, nx) for total in totals]


def _at_once(sample, nodes, column, row, rough):
    """`_scan` for accelerators: one kernel samples and sums. Where one sample would do, all lie at the centre."""
    oi, oj, weight = jnp.asarray(nodes, column.dtype).T[:, :, None]
    if rough is not None:
        oi, oj = jnp.where(rough, 0, oi), jnp.where(rough, 0, oj)
    shape = (len(nodes), column.size)
    places = [jnp.broadcast_to(place, shape).ravel() for place in (weight, column, row, oi, oj)]
    return sum_together([plane.reshape(shape) for plane in sample(*places)])


@dataclass(frozen=True)
class Adaptive:
    """Samples where the source needs them; made by `adaptive`.

    Attributes
    ----------
    tol : float
        Accuracy, relative to the larger of the cell and 1e-4 of the brightest.
    """

    tol: float

    def __call__(self, model, params, cells):
        """Mean brightness over each cell, (ny, nx)."""
        layout = (*cells.shape, cells.step)
        return integrate(model, self.tol, layout, params, cells.transform, (cells.start, cells.size), cells.rough)


def _tensor(nodes, weights):
    pairs = list(zip(np.asarray(nodes).tolist(), np.asarray(weights).tolist(), strict=True))
    return Quadrature(tuple((oi, oj, wi * wj) for oj, wj in pairs for oi, wi in pairs))


def midpoint():
    """One sample at the centre: error second order in the pixel's size."""
    return _tensor([0.0], [1.0])


def simpsons():
    """Simpson's rule, 3 × 3 samples with those on the borders: fourth order."""
    return _tensor([-0.5, 0.0, 0.5], [1 / 6, 4 / 6, 1 / 6])


def quad(n):
    """Gauss–Legendre with n × n samples: order 2n.

    Examples
    --------
    >>> len(quad(3).nodes)
    9
    """
    return _tensor(*gauss_legendre(_check_count(n)))


def upsample(n):
    """The mean of n × n equal sub-pixels' midpoints: what sub-sampling in other tools does."""
    n = _check_count(n)
    return _tensor((np.arange(n) + 0.5) / n - 0.5, np.full(n, 1 / n))


def adaptive(tol=1e-4):
    """As many samples as the source needs in every pixel: one far out, integrals along pixel edges at its centre.

    Parameters
    ----------
    tol : float
        Largest error wanted, relative to the larger of the pixel and 1e-4 of the brightest pixel.

    Examples
    --------
    >>> adaptive(1e-3).tol
    0.001
    """
    if isinstance(tol, bool) or not 0 < tol < 1:
        raise ValueError(f"tol: expected a number between 0 and 1, got {tol!r}")
    return Adaptive(float(tol))


def mean_and_error(sampling, model, params, cells):
    """Mean brightness over each cell by a rule, and how far off it may be.

    The rule is compared with `adaptive` at a hundredth of its tolerance (1e-6 for other rules); what that one may be
    off itself is added. Costs three times as much as the rule alone.

    Returns
    -------
    mean, error : (ny, nx) arrays
    """
    tol = max(getattr(sampling, "tol", 1e-4) / 100, 30 * float(jnp.finfo(cells.start.dtype).eps))
    mean, finer = (rule(model, params, cells) for rule in (sampling, Adaptive(tol)))
    brightness = jnp.abs(finer)
    return mean, jnp.abs(mean - finer) + 2 * tol * jnp.maximum(brightness, 1e-4 * jnp.max(brightness))


def _check_count(n):
    if isinstance(n, bool) or int(n) != n or not 1 <= n <= 100:
        raise ValueError(f"n: expected an integer from 1 to 100, got {n!r}")
    return int(n)


def check_sampling(sampling):
    """Refuse a bare factory (``sampling.quad`` instead of ``sampling.quad(3)``) and other things that are no rule."""
    if isinstance(sampling, Quadrature | Adaptive):
        return
    if callable(sampling) and hasattr(sampling, "__name__"):
        name = sampling.__name__
        raise TypeError(f"sampling: {name} is a function that makes a rule: call it, as in sampling.{name}(…)")
    raise TypeError(f"sampling: expected a rule such as sampling.quad(3), got {type(sampling).__name__}")
