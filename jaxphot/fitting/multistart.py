"""Several starts an image: where they lie, which end is kept, and whether the ends disagree."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxphot.fitting import lm
from jaxphot.fitting.groups import Joint
from jaxphot.fitting.stages import domain_of, linear_positions, used_pixels
from jaxphot.parameters import describe, parameters
from jaxphot.pytree import leaves_with_names

_SEED = 1
# typical sizes of the perturbations: what crude starts are wrong by
_LOGARITHM = 0.4
_SHEAR = 0.4
_ANGLE = 0.8  # radians
_RELATIVE = 0.3
_PIXELS, _RADII = 2.0, 0.3  # a position moves by this many pixels and, added in quadrature, radii

_SAME_CHI2 = 1e-4  # of a datum's χ²: ends closer than this are equally good, and the first of them is kept
_SAME_PLACE = 0.1  # standard errors


def spread(setup, lane, state, count):
    """States of several starts: the given one, and others around it in internal coordinates, inside the bounds.

    The perturbations are the same for every lane, so that no result depends on a lane's place in the batch.

    Parameters
    ----------
    setup : Setup
    lane : Lane
    state : lm.State
        At the given start.
    count : int

    Returns
    -------
    lm.State
        With a leading axis.
    """
    if count == 1:
        return jax.tree.map(lambda leaf: leaf[None], state)
    z = state.params
    offsets = np.random.default_rng(_SEED).standard_normal((count - 1, z.size)).astype(z.dtype)
    others = jax.vmap(domain_of(setup, lane).project)(z[None, :] + offsets * scales(setup, lane, z)[None, :])
    points = jnp.concatenate([z[None, :], others])
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), state)._replace(params=points)


def scales(setup, lane, z):
    """Size of the perturbation of every internal coordinate."""
    coordinates = setup.coordinates
    own, relative = np.zeros(z.size), np.zeros(z.size)
    positions, radii, first = [], {}, 0
    described = _described(setup, lane)
    for path, shape in coordinates.paths:
        parameter, branch = described[path], path.rpartition(".")[0]
        numbers = list(range(first, first + int(np.prod(shape))))
        first += len(numbers)
        if parameter.unit == "arcsec" and not parameter.is_logarithmic:
            positions.extend((number, branch) for number in numbers)
        elif parameter.is_logarithmic:
            own[numbers] = _LOGARITHM
            if parameter.unit == "arcsec" and shape == ():
                radii.setdefault(branch, numbers[0])
        elif parameter.coordinate == "angle":
            own[numbers] = _ANGLE
        else:
            relative[numbers] = _RELATIVE
    own[np.ravel(coordinates.pairs).astype(int)] = _SHEAR
    relative[linear_positions(setup)] = 0  # solved exactly wherever they start
    scales = jnp.asarray(own, z.dtype) + jnp.asarray(relative, z.dtype) * jnp.abs(z)
    if not positions:
        return scales
    pixel = _PIXELS * _pixel_size(lane)
    lengths = [jnp.hypot(pixel, _RADII * jnp.exp(z[radii[b]])) if b in radii else pixel for _, b in positions]
    return scales.at[np.asarray([number for number, _ in positions])].set(jnp.stack(lengths))


def _described(setup, lane):
    declared = setup.model.declared if isinstance(setup.model, Joint) else parameters(setup.model)
    return dict(leaves_with_names(describe(declared, lane.start)))


def _pixel_size(lane):
    """Side of the middle pixel of the (first) image, arcsec."""
    image = lane.images[0]
    if isinstance(lane.image, tuple):
        image = jax.tree.map(lambda leaf: leaf[0], image)
    ny, nx = image.shape
    i, j = jnp.asarray((nx - 1) / 2, image.dtype), jnp.asarray((ny - 1) / 2, image.dtype)
    return jnp.sqrt(jnp.abs(image.transform.pixel_area(i, j))).astype(image.dtype)


def choose(setup, lane, states):
    """The best end of several starts, and whether another converged one lies in another minimum.

    Parameters
    ----------
    setup : Setup
    lane : Lane
    states : lm.State
        With a leading axis.

    Returns
    -------
    best : lm.State
        That with the lowest loss once settled, which it is not yet; of those within rounding and tolerance of it, the
        first that converged.
    multimodal : bool scalar
    """
    ends = jax.vmap(lm.settle, (0, None))(states, domain_of(setup, lane))
    z, size = ends.params, ends.params.shape[1]
    loss = jnp.where(jnp.isfinite(ends.loss), ends.loss, jnp.inf)
    good = used_pixels(lane)
    # χ² is measured in that of a datum, so that the scale of the weights does not matter
    unit = 2 * jnp.min(loss) / jnp.maximum(good - size, 1).astype(z.dtype)
    rounding = 4 * jnp.max(states.rounding)
    converged = states.status == lm.CONVERGED
    tied = loss <= jnp.min(loss) + 0.5 * _SAME_CHI2 * unit + rounding
    index = jnp.argmax(jnp.where(tied & converged, 2, jnp.where(tied, 1, 0)))  # the first of the largest
    best = jax.tree.map(lambda leaf: leaf[index], ends)

    delta = z - best.params[None, :]
    angles = _lone_angles(setup, lane)
    if angles.size:  # the same ellipse half a turn on
        delta = delta.at[:, angles].set(jnp.mod(delta[:, angles] + jnp.pi / 2, jnp.pi) - jnp.pi / 2)
    # an end may lie where one of the two matrices says nothing
    distance2 = jnp.maximum(
        jnp.einsum("kp,pq,kq->k", delta, best.hessian, delta), jnp.einsum("kp,kpq,kq->k", delta, states.hessian, delta)
    )
    precision = (400 * jnp.finfo(z.dtype).eps) ** 2 * jnp.sum(jnp.diagonal(best.hessian) * best.params**2)
    chi2 = 2 * (loss - best.loss)
    elsewhere = (distance2 > _SAME_PLACE**2 * unit + precision) | (chi2 > _SAME_PLACE**2 * unit + precision + rounding)
    return jax.tree.map(lambda leaf: leaf[index], states), jnp.any(converged & elsewhere)


def _lone_angles(setup, lane):
    """Positions of the position angles that do not step in a shear."""
    described, paired = _described(setup, lane), np.ravel(setup.coordinates.pairs)
    names = [path for path, shape in setup.coordinates.paths for _ in range(int(np.prod(shape)))]
    angles = [number for number, path in enumerate(names) if described[path].coordinate == "angle"]
    return np.setdiff1d(np.asarray(angles, int), paired)
