"""Derivatives taken a sample at a time agree with JAX's own, for every kind of function a user may write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxphot as jp
from jaxphot.pointwise import linearize, split
from jaxphot.render import apply, prepare

SIDE = 9


def _plain(x, y, *, a, b):
    return a * jnp.exp(-jnp.abs(b) * jnp.hypot(x - 0.31, y + 0.17))


@jax.jit
def _jitted(x, y, *, a, b):
    return _plain(x, y, a=a, b=b) * jnp.cos(a)


def _with_while(x, y, *, a, b):
    """Newton's square root, until it no longer changes: a loop that cannot be differentiated backwards."""
    radius2 = (x - 0.31) ** 2 + (y + 0.17) ** 2 + 0.1

    def better(state):
        return 0.5 * (state[0] + radius2 / state[0]), state[1] + 1

    root = jax.lax.while_loop(lambda s: s[1] < 12, better, (0 * radius2 + 1.0, 0))[0]
    return a / (1 + b * root)


def _with_scan(x, y, *, a, b):
    total, _ = jax.lax.scan(lambda t, k: (t + a * jnp.exp(-k * b * (x**2 + y**2)), None), 0 * x, jnp.arange(1.0, 4.0))
    return total


def _with_branches(x, y, *, a, b):
    radius2 = x * x + y * y
    inside = jnp.where(radius2 < 2.0, a * radius2, 2.0 * a)
    return jax.lax.cond(a > b, lambda: a * inside, lambda: b - inside) + jnp.zeros_like(x)


def _of_vector(x, y, *, a, b):
    scales = jnp.geomspace(0.5, 4.0, 12) * b
    terms = jax.vmap(lambda scale: a * jnp.exp(-(x**2 + y**2) / scale**2))(scales)
    return jnp.sum(terms, axis=0)


def _constant(x, y, *, a, b):
    return a * b


FUNCTIONS = [_plain, _jitted, _with_while, _with_scan, _with_branches, _of_vector, _constant]
PARAMS = {"a": 1.3, "b": 0.6}


def _model(function):
    """Parameters in a dictionary, so that the functions above need no declarations."""
    return jp.extended(lambda params, x, y: function(x, y, **params))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("rule", [jp.sampling.quad(2), jp.sampling.adaptive(1e-3)], ids=["quad", "adaptive"])
def test_jacobian_of_any_function(function, rule):
    image = jp.make_image(np.zeros((SIDE, SIDE)), std=1.0, pixelscale=0.4)
    prepared = prepare(image, rule)
    model = _model(function)
    nodes = np.asarray(jp.sampling.quad(2).nodes)

    def plain_sum(params):
        i, j = jnp.meshgrid(jnp.arange(SIDE, dtype=float), jnp.arange(SIDE, dtype=float))
        samples = []
        for oi, oj, weight in nodes:
            x, y = image.transform.pixel_to_plane(i + oi, j + oj)
            samples.append(weight * jnp.broadcast_to(function(x, y, **params), i.shape))
        return sum(samples) * prepared.area

    params = {name: jnp.asarray(value) for name, value in PARAMS.items()}
    jacobian = jax.jit(jax.jacfwd(lambda p: apply(prepared, model, p)))(params)
    expected = jax.jit(jax.jacfwd(plain_sum))(params)
    for name in PARAMS:
        # the adaptive rule integrates better than the plain sum: the same only to the sum's own error
        tolerance = 1e-12 if rule == jp.sampling.quad(2) else 0.02
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(jacobian[name], expected[name], atol=tolerance * scale + 1e-14, rtol=0)


def test_what_needs_no_place_is_done_once():
    def function(arguments, x):
        (n,) = arguments
        return jnp.exp(-jnp.sin(n) * x) * jnp.sqrt(jnp.cosh(n))

    n = jnp.asarray(0.7)
    parts = split(function, [n], places=1)
    assert len(parts.residuals) == 2  # what is multiplied with x, and the factor in front
    text = str(jax.make_jaxpr(lambda x: parts.late(parts.residuals, x))(0.3))
    assert "cosh" not in text
    assert "sin" not in text
    np.testing.assert_allclose(parts.late(parts.residuals, 0.3), function([n], 0.3), rtol=1e-15)


def test_one_plane_a_parameter_where_it_is_needed_in_several_ways():
    def function(arguments, x):
        angle, size, both = arguments
        return jnp.exp(-((x * jnp.cos(angle) + jnp.sin(angle)) ** 2) / size) + x * angle * both

    arguments = [jnp.asarray(value) for value in (0.7, 1.3, 0.4)]
    x = jnp.linspace(-1.0, 2.0, 5)
    planes = linearize(function, arguments, [jnp.asarray(t) for t in (1.0, 2.0, 3.0)], places=1)
    assert planes.count == 4  # the value, by the angle, by the size, by the product
    value, slope = jax.jvp(lambda *a: function(a, x), arguments, [jnp.asarray(t) for t in (1.0, 2.0, 3.0)])
    found = jnp.stack(planes.sample(jnp.ones(5), x))
    np.testing.assert_allclose(found[0], value, rtol=1e-14)
    np.testing.assert_allclose(planes.contract(found), slope, rtol=1e-13)


def test_choice_of_direction():
    def loop(arguments, x):
        return jax.lax.while_loop(lambda v: v < 3, lambda v: 2 * v + arguments[0], x)

    def many(arguments, x):
        return jnp.sum(jnp.arange(1.0, 40.0) * arguments[0] * x)

    one = [jnp.asarray(0.7)]
    assert not split(loop, one, places=1).is_reversible
    for function in (loop, many):
        planes = linearize(function, one, [jnp.ones(())], places=1)
        assert planes.count == 2  # the value, and forwards with respect to the only argument


def test_second_derivatives():
    image = jp.make_image(np.zeros((SIDE, SIDE)), std=1.0, pixelscale=0.4)
    prepared = prepare(image, jp.sampling.quad(2))
    model = _model(_plain)

    def total(b):
        return jnp.sum(apply(prepared, model, {"a": jnp.asarray(1.3), "b": b}) ** 2)

    b, step = jnp.asarray(0.6), 1e-4
    gradient = jax.jit(jax.grad(total))
    numeric = (gradient(b + step) - gradient(b - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.grad(total)))(b), numeric, rtol=1e-6)


def test_derivative_with_respect_to_the_footprint():
    """Of fixed rules: the sensitive area of a CMOS pixel may be a parameter of somebody's."""

    def total(side):
        frame = jp.make_image(np.zeros((SIDE, SIDE)), std=1.0, pixelscale=0.4)
        cells = jp.sampling.Cells(frame.transform, jnp.zeros(2), jnp.stack([side, side]), (SIDE, SIDE))
        return jnp.sum(jp.sampling.quad(3)(_model(_plain), {"a": jnp.asarray(1.3), "b": jnp.asarray(0.6)}, cells))

    side, step = jnp.asarray(0.8), 1e-4
    numeric = (total(side + step) - total(side - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(side), numeric, rtol=1e-5)
