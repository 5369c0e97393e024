"""The vocabulary of parameters, trees of them, and the coordinates that fits step in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot import pytree
from jaxphot.fitting.coordinates import make_coordinates, scalar_names
from jaxphot.parameters import check_params, describe, keyword_parameters

MODEL = jp.scene(galaxy=jp.models.sersic, star=jp.models.point_source, sky=jp.models.plane_sky)


def test_parameters_of_a_scene():
    declared = jp.parameters(MODEL)
    assert list(declared) == ["galaxy", "star", "sky"]
    galaxy = declared["galaxy"]
    assert list(galaxy) == ["center", "q", "PA", "n", "Re", "Ie"]
    assert [p.unit for p in galaxy.values()] == ["arcsec", "", "rad", "", "arcsec", "flux / arcsec2"]
    assert [p.shape for p in galaxy.values()] == [(2,), (), (), (), (), ()]
    assert galaxy["n"].bounds == (0.1, 12.0)
    assert galaxy["Re"].bounds == (0.0, np.inf)
    assert galaxy["q"].bounds[1] == 1.0
    assert galaxy["PA"].bounds == (-np.inf, np.inf)
    assert [name for name, p in galaxy.items() if p.linear] == ["Ie"]
    assert [name for name, p in {**declared["star"], **declared["sky"]}.items() if p.linear] == ["flux", "I0", "delta"]
    for branch in declared.values():
        for parameter in branch.values():
            assert parameter.description
            assert hash(parameter) == hash(parameter)


def test_units_are_astropys():
    from astropy import units as u

    for model in (MODEL, jp.models.moffat, jp.models.gaussian, jp.models.exponential):
        for _, parameter in pytree.leaves_with_names(jp.parameters(model)):
            if "flux" not in parameter.unit:
                u.Unit(parameter.unit)
            else:
                u.Unit(parameter.unit.replace("flux", "nmgy"), parse_strict="silent")


@pytest.mark.parametrize("name", ["n", "Re", "q", "PA", "Ie", "center"])
def test_internal_coordinates(name):
    parameter = jp.parameters(jp.models.sersic)[name]
    value = jnp.full(parameter.shape, 0.7)
    z = parameter.to_internal(value)
    assert_allclose(parameter.from_internal(z), value, rtol=1e-14)
    jacobian = jax.jacfwd(parameter.from_internal)(z)
    determinant = np.linalg.slogdet(np.atleast_2d(jacobian))[1]
    assert_allclose(parameter.log_jacobian(z), determinant, atol=1e-12)
    assert (name in ("n", "Re", "q")) == (abs(determinant) > 1e-6)


def test_keyword_parameters():
    def own(r, extra=1.0, *, a, b: "jp.parameters.Nowhere" = 3.0):
        return r

    assert keyword_parameters(own) == {"a": jp.Parameter(), "b": jp.Parameter()}
    assert keyword_parameters(jp.profiles.sersic)["n"].bounds == (0.1, 12.0)


def test_check_params_makes_arrays_of_one_dtype():
    declared = jp.parameters(jp.models.sersic)
    params = {"center": (1, 2), "q": 0.5, "PA": np.float32(0.1), "n": 4, "Re": jnp.asarray(2.0), "Ie": 1}
    for dtype in (np.float32, np.float64):
        tree = check_params(declared, params, dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(dtype)}
        assert list(tree) == list(declared)
    undeclared = check_params({}, {"a": 1.0, "inner": {"b": [1, 2, 3]}}, np.float64)
    assert undeclared["inner"]["b"].shape == (3,)
    assert describe({}, undeclared) == {"a": jp.Parameter(), "inner": {"b": jp.Parameter(shape=(3,))}}


# --- coordinates ----------------------------------------------------------------------------------------------------


def sersic_coordinates(fixed=(), bounded=()):
    return make_coordinates({"galaxy": jp.parameters(jp.models.sersic)}, fixed, bounded)


PHYSICAL = {"center": [3.0, -4.0], "q": 0.4, "PA": 2.2, "n": 3.0, "Re": 2.0, "Ie": -5.0}


def vector(values):
    return jnp.concatenate([jnp.ravel(jnp.asarray(values[key], float)) for key in sorted(values)])


@pytest.mark.parametrize(
    ("fixed", "bounded"),
    [((), ()), (("galaxy.q",), ()), (("galaxy.PA",), ()), ((), ("galaxy.PA",)), ((), ("galaxy.Re",))],
)
def test_there_and_back(fixed, bounded):
    coordinates = sersic_coordinates(fixed, bounded)
    free = {k: v for k, v in PHYSICAL.items() if f"galaxy.{k}" not in fixed}
    flat = vector(free)
    assert flat.shape == (coordinates.size,)
    assert coordinates.names == tuple(
        name for key in sorted(free) for name in scalar_names(f"galaxy.{key}", np.shape(free[key]))
    )
    z = coordinates.to_internal(flat)
    assert_allclose(coordinates.from_internal(z), flat, rtol=1e-13)
    tree = coordinates.unflatten(flat)
    assert {k: v.tolist() for k, v in tree["galaxy"].items()} == free
    assert_allclose(coordinates.derivative(z), jax.jacfwd(coordinates.from_internal)(z), atol=1e-12)


def test_vectors_of_shears():
    """As `many` has them: every copy's own axis ratio, position angle, radius and centre."""
    coordinates = make_coordinates(describe(jp.parameters(jp.many(jp.models.gaussian)), COPIES), (), ())
    at = {name: number for number, name in enumerate(coordinates.names)}
    assert coordinates.pairs == tuple((at[f"q[{k}]"], at[f"PA[{k}]"]) for k in range(3))
    assert coordinates.radii == tuple((at[f"sigma[{k}]"], at[f"q[{k}]"]) for k in range(3))
    assert coordinates.centers == tuple(
        (at[f"center[{k},0]"], at[f"center[{k},1]"], at[f"sigma[{k}]"]) for k in range(3)
    )
    flat = vector(COPIES)
    z = coordinates.to_internal(flat)
    assert_allclose(coordinates.from_internal(z), flat, rtol=1e-13)
    assert_allclose(coordinates.derivative(z), jax.jacfwd(coordinates.from_internal)(z), atol=1e-12)


COPIES = {
    "center": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
    **{"q": [0.4, 0.8, 0.6], "PA": [2.2, 0.1, 1.0], "sigma": [1.0, 2.0, 3.0], "flux": [5.0, -3.0, 1.0]},
}


def test_shear_knows_no_special_angle():
    """The internal coordinates are the same for PA and PA + π, and continuous through PA = 0."""
    coordinates = sersic_coordinates()
    flat = np.asarray(vector(PHYSICAL))
    pa = coordinates.names.index("galaxy.PA")

    def internal(angle):
        changed = flat.copy()
        changed[pa] = angle
        return np.asarray(coordinates.to_internal(jnp.asarray(changed)))

    assert_allclose(internal(0.3), internal(0.3 + np.pi), atol=1e-13)
    assert_allclose(internal(1e-9), internal(np.pi - 1e-9), atol=1e-7)
    back = coordinates.from_internal(jnp.asarray(internal(-0.4)))
    assert_allclose(back[pa], np.pi - 0.4, rtol=1e-12)


def test_domain_keeps_inside():
    coordinates = sersic_coordinates()
    flat = vector(PHYSICAL)
    lower, upper = np.full(7, -np.inf), np.full(7, np.inf)
    at = {name: number for number, name in enumerate(coordinates.names)}
    lower[at["galaxy.q"]], upper[at["galaxy.q"]] = 0.3, 0.8
    lower[at["galaxy.n"]], upper[at["galaxy.n"]] = 0.1, 12.0
    lower[at["galaxy.Re"]] = 0.0
    domain = coordinates.domain(coordinates.limits(jnp.asarray(lower), jnp.asarray(upper)))
    z = coordinates.to_internal(flat)
    assert_allclose(domain.project(z), z, rtol=1e-14)
    for q, wanted in ((0.01, 0.3), (0.99, 0.8), (0.5, 0.5)):
        moved = coordinates.to_internal(flat.at[at["galaxy.q"]].set(q))
        back = coordinates.from_internal(domain.project(moved))
        assert_allclose(back[at["galaxy.q"]], wanted, rtol=1e-12)
        assert_allclose(back[at["galaxy.PA"]], 2.2, rtol=1e-12)
    moved = coordinates.to_internal(flat.at[at["galaxy.n"]].set(40.0))
    assert_allclose(coordinates.from_internal(domain.project(moved))[at["galaxy.n"]], 12.0, rtol=1e-12)
    basis = np.asarray(domain.basis(z))
    assert_allclose(basis @ basis.T, np.eye(7), atol=1e-14)


# --- trees ----------------------------------------------------------------------------------------------------------


def test_trees_by_name():
    tree = {"b": {"y": 1, "x": 2}, "a": 3}
    assert pytree.leaves_with_names(tree) == [("a", 3), ("b.x", 2), ("b.y", 1)]
    assert [leaf for _, leaf in pytree.leaves_with_names(tree)] == jax.tree.leaves(tree)
    assert pytree.update(tree, {"b": {"x": 5}, "c": {"z": 6}}) == {"b": {"y": 1, "x": 5}, "a": 3, "c": {"z": 6}}
    assert tree["b"]["x"] == 2


def test_pytrees_are_frozen_and_compare_by_identity():
    from dataclasses import FrozenInstanceError

    image = jp.make_image(np.ones((3, 3)), std=1.0)
    with pytest.raises(FrozenInstanceError):
        image.data = 3
    leaves, structure = jax.tree.flatten(image)
    again = jax.tree.unflatten(structure, leaves)
    assert again != image
    assert len({image, again}) == 2
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert structure == jax.tree.structure(again)
    assert pytree.is_concrete(image)
    assert not jax.jit(lambda im: pytree.is_concrete(im) | (im.data[0, 0] > 99))(image)
