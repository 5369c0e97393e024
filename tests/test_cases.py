"""Every model of the table in `cases.py` against the same questions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, QUADRATURE
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot.pytree import leaves_with_names, update


@functools.partial(jax.jit, static_argnums=0)
def everything(model, params, x, y):
    """Values, derivatives in parameters and positions, and the same values through vmap; compiled once a model."""
    value = model(params, x, y)
    in_params, in_x, in_y = jax.jacfwd(model, argnums=(0, 1, 2))(params, x, y)
    diagonals = [jnp.diagonal(matrix) for matrix in (in_x, in_y)]
    mapped = jax.vmap(model, in_axes=(None, 0, 0))(params, x, y)
    return value, in_params, diagonals, mapped


@functools.partial(jax.jit, static_argnums=0)
def only_value(model, params, x, y):
    return model(params, x, y)


# a point near the centre, one near the major axis, one far out, and some between
X = np.array([0.45, 1.68, -6.0, 1.2, -0.5, 0.9, 2.4])
Y = np.array([-0.25, 1.05, 5.0, -1.9, 0.6, -0.4, 1.1])

every_model = pytest.mark.parametrize("name", CASES)


@every_model
def test_jit_eager_vmap_and_loop_agree(name):
    case = CASES[name]
    params = case.values()
    value, _, _, mapped = everything(case.model, params, X, Y)
    assert value.shape == X.shape
    assert value.dtype == np.float64
    tiny = 1e-13 * np.max(np.abs(value))
    assert_allclose(value, case.model(params, jnp.asarray(X), jnp.asarray(Y)), rtol=1e-12, atol=tiny)
    assert_allclose(
        value[:3], [case.model(params, x, y) for x, y in zip(X[:3], Y[:3], strict=True)], rtol=1e-12, atol=tiny
    )
    assert_allclose(value, mapped, rtol=1e-12, atol=tiny)


def finite_difference(function, at, step):
    """Fourth-order central difference."""
    near = function(at + step) - function(at - step)
    far = function(at + 2 * step) - function(at - 2 * step)
    return (8 * near - far) / (12 * step)


def scalars(params):
    """(key path, index, value) of every number in a tree."""
    for name, leaf in leaves_with_names(params):
        for index in np.ndindex(leaf.shape):
            yield name, index, float(leaf[index])


def nested(name, value):
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


@every_model
def test_gradients_are_finite_differences(name):
    case = CASES[name]
    params = case.values()
    _, in_params, in_plane, _ = everything(case.model, params, X, Y)
    leaves, gradients = dict(leaves_with_names(params)), dict(leaves_with_names(in_params))
    for key, index, at in scalars(params):

        def along(t, key=key, index=index):
            changed = update(params, nested(key, leaves[key].at[index].set(t)))
            return np.asarray(everything(case.model, changed, X, Y)[0])

        reference = finite_difference(along, at, 5e-4 * max(1, abs(at)))
        assert np.max(np.abs(reference)) > 1e-4, (key, index)
        assert_allclose(
            gradients[key][(..., *index)], reference,
            rtol=1e-6, atol=1e-7 * np.max(np.abs(reference)), err_msg=f"{key}{index}",
        )  # fmt: skip
    if any(np.any(gradient) for gradient in in_plane):
        shifts = (lambda t: (X + t, Y)), (lambda t: (X, Y + t))
        for gradient, shift in zip(in_plane, shifts, strict=True):
            reference = finite_difference(
                lambda t, s=shift: np.asarray(everything(case.model, params, *s(t))[0]), 0.0, 5e-4
            )
            assert np.max(np.abs(reference)) > 1e-4
            assert_allclose(gradient, reference, rtol=1e-6, atol=1e-7 * np.max(np.abs(reference)))
    else:
        assert case.frame is None, "only a flat sky has no gradient"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.flux is not None])
def test_total_flux(name):
    """Integral in polar coordinates: trapezoids in angle and in log radius converge exponentially."""
    case = CASES[name]
    params = case.values()
    center = np.asarray(params[case.frame]).reshape(-1, 2)[0]
    log_r, angle = np.linspace(np.log(1e-6), np.log(1e5), 1500), 2 * np.pi * np.arange(96) / 96
    r, angle = np.exp(log_r)[:, None], angle[None, :]
    x, y = center[0] + r * np.cos(angle), center[1] + r * np.sin(angle)
    brightness = np.asarray(only_value(case.model, params, x, y))
    integral = np.sum(brightness * r**2) * (log_r[1] - log_r[0]) * (2 * np.pi / 96)
    assert abs(integral) > 0.5
    tolerance = 3e-3 if case.jumps else 1e-3 if case.kinks else 1e-4
    assert_allclose(jp.total_flux(case.model, params), integral, rtol=tolerance)
    if case.flux is not QUADRATURE:
        assert_allclose(integral, case.flux, rtol=tolerance)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.frame])
def test_translation_and_rotation(name):
    """The model moves and turns with its centre and its angles."""
    case = CASES[name]
    params = case.values()
    centers = np.asarray(params[case.frame])
    center = centers.reshape(-1, 2)[0]
    value = np.asarray(everything(case.model, params, X, Y)[0])
    shift = np.array([0.37, -1.21])
    moved = {**params, case.frame: jnp.asarray(centers + shift)}
    scale = np.max(np.abs(value))
    assert_allclose(everything(case.model, moved, X + shift[0], Y + shift[1])[0], value, rtol=1e-8, atol=1e-8 * scale)
    if case.angles is None:
        return
    phi = 0.83

    def turn(x, y):
        dx, dy = x - center[0], y - center[1]
        return (
            center[0] + dx * np.cos(phi) + dy * np.sin(phi),
            center[1] + dy * np.cos(phi) - dx * np.sin(phi),
        )

    x, y = turn(X, Y)
    turned = {**params, case.frame: jnp.asarray(np.stack(turn(*centers.T), axis=-1))}
    turned |= {key: params[key] + phi for key in case.angles if key in params}
    if "e1" in params:
        e = complex(params["e1"], params["e2"]) * np.exp(2j * phi)
        turned |= {"e1": jnp.asarray(e.real), "e2": jnp.asarray(e.imag)}
    assert_allclose(everything(case.model, turned, x, y)[0], value, rtol=1e-8, atol=1e-8 * scale)


def edge_cases(case):
    """Changes to a row's parameters at which something may divide by zero."""
    declared = jp.parameters(case.model)
    edges = [{}, *case.edges]
    for key, parameter in declared.items():
        if not hasattr(parameter, "bounds"):
            continue
        full = functools.partial(np.full, np.shape(case.params[key]))
        edges += [{key: full(bound)} for bound in parameter.bounds if np.isfinite(bound) and bound != 0]
        if parameter.linear:
            edges += [{key: full(0.0)}, {key: full(-2.0)}]
        if parameter.coordinate == "angle":
            edges += [{key: full(angle)} for angle in (0.0, np.pi / 2, np.pi, -100.0)]
        if parameter.coordinate == "ratio":
            edges += [{key: full(1.0)}]
        if (parameter.unit, parameter.coordinate) == ("arcsec", "log"):
            edges += [{key: full(size)} for size in (1e-4, 1e5)]
            if "q" in declared and not declared["q"].shape:
                edges += [{key: full(1e-3), "q": 0.01}]
    return edges


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@every_model
def test_values_and_gradients_are_finite_at_every_edge(name, dtype):
    case = CASES[name]
    cx, cy = np.asarray(case.params[case.frame] if case.frame else np.zeros(2)).reshape(-1, 2)[0]
    x = np.array([cx, cx, cx + 1e-12, 1e3, -30.0, cx + 1e-3, 0.0], dtype)  # the first is r = 0
    y = np.array([cy, cy + 1e-6, cy, 1e3, 0.0, cy, 40.0], dtype)
    for edge in edge_cases(case):
        value, in_params, in_plane, _ = everything(case.model, case.values(dtype, edge), x, y)
        for leaf in jax.tree.leaves((value, in_params, in_plane)):
            assert leaf.dtype == dtype
            assert np.all(np.isfinite(leaf)), (edge, value, in_params, in_plane)


@every_model
def test_float32_values(name):
    case = CASES[name]
    got = everything(case.model, case.values(np.float32), X.astype(np.float32), Y.astype(np.float32))[0]
    wanted = everything(case.model, case.values(), X, Y)[0]
    assert_allclose(got, wanted, rtol=case.loose32, atol=case.loose32 * 1e-3 * np.max(np.abs(wanted)))
