"""Many copies, and models seen through other parameters: everything must take them as it takes any model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot.models import views

TRUTH = {"center": [14.6, 17.3], "q": 0.6, "PA": 0.7, "n": 1.5, "Re": 4.0, "Ie": 3.0}
SMALL = jp.sampling.quad(3)


def image_of(model, params, noise=0.05, seed=3):
    grid = jp.make_image(np.zeros((32, 32)), std=noise)
    params = jax.tree.map(np.asarray, params, is_leaf=lambda leaf: isinstance(leaf, list))
    data = jp.render(model, params, grid, SMALL)
    return jp.make_image(data + noise * np.random.default_rng(seed).normal(size=data.shape), std=noise)


def bulge_and_disk(theta):
    return {name: {**theta[name], "center": theta["center"]} for name in ("bulge", "disk")}


GALAXY = jp.scene(bulge=jp.models.gaussian, disk=jp.models.exponential)
SHARED = {
    "center": [14.6, 17.3],
    "bulge": {"q": 0.9, "PA": 0.2, "sigma": 1.5, "flux": 90.0},
    "disk": {"q": 0.6, "PA": 0.7, "Re": 5.0, "Ie": 2.0},
}


def test_parameters_behind_a_view_are_checked_and_described():
    declared = {"center": jp.parameters(jp.models.sersic)["center"]}
    model = jp.linked(GALAXY, bulge_and_disk, declared)
    assert jp.parameters(model) == declared
    grid = jp.make_image(np.zeros((8, 8)), std=1.0)
    with pytest.raises(ValueError, match=r"center: missing.*position"):
        jp.render(model, {key: SHARED[key] for key in ("bulge", "disk")}, grid)
    with pytest.raises(ValueError, match=r"center: expected shape \(2,\)"):
        jp.render(model, {**SHARED, "center": 3.0}, grid)
    with pytest.raises(ValueError, match=r"disk\.Ie: missing"):  # what the view makes of it is checked, too
        jp.render(model, {**SHARED, "disk": {"q": 0.6, "PA": 0.7, "Re": 5.0}}, grid)
    with pytest.raises(TypeError, match="view"):
        jp.linked(GALAXY, {"center": 1.0})
    with pytest.raises(TypeError, match="Parameter"):
        jp.linked(GALAXY, bulge_and_disk, {"center": (0, 1)})


def test_linked_models_compare_by_value():
    assert jp.linked(GALAXY, bulge_and_disk) == jp.linked(GALAXY, bulge_and_disk)
    assert hash(views.by_flux(jp.models.king)) == hash(views.by_flux(jp.models.king))
    assert views.by_magnitude(jp.models.king, 25.0) != views.by_magnitude(jp.models.king, 26.0)


def test_a_shared_centre_is_fitted():
    model = jp.linked(GALAXY, bulge_and_disk, {"center": jp.parameters(jp.models.sersic)["center"]})
    image = image_of(model, SHARED)
    fit = jp.fit(model, SHARED, image, sampling=SMALL)
    assert int(fit.status) == jp.fitting.lm.CONVERGED
    assert fit.names[:3] == ("bulge.PA", "bulge.flux", "bulge.q")
    assert abs(float(fit.chi2) / int(fit.dof) - 1) < 0.15
    assert_allclose(fit.params["center"], SHARED["center"], atol=5 * np.max(fit.stderr["center"]))
    same = jp.fit(model, SHARED, image, sampling=SMALL, fixed={"bulge": {"q": None}}, bounds={"disk": {"Re": (1, 5)}})
    assert_allclose(same.params["bulge"]["q"], 0.9)


def test_linked_needs_an_inverse_to_initialize():
    image = image_of(jp.models.sersic, TRUTH)

    def twice(theta):
        return {**theta, "Re": 2 * theta["Re"]}

    with pytest.raises(ValueError, match="linked without inverse"):
        jp.initialize(jp.linked(jp.models.sersic, twice), image)

    def half(params):
        return {**params, "Re": params["Re"] / 2}

    start = jp.initialize(jp.linked(jp.models.sersic, twice, inverse=half), image)
    plain = jp.initialize(jp.models.sersic, image)
    assert_allclose(start["Re"], plain["Re"] / 2, rtol=1e-12)
    known = jp.initialize(jp.linked(jp.models.sersic, twice, inverse=half), image, {"n": 3.3})
    assert_allclose(known["n"], 3.3)


@pytest.mark.parametrize("make", [views.by_flux, lambda m: views.by_magnitude(m, 25.0), views.by_ellipticity])
def test_views_find_the_same_minimum(make):
    image = image_of(jp.models.sersic, TRUTH)
    plain = jp.fit(jp.models.sersic, TRUTH, image, sampling=SMALL)
    model = make(jp.models.sersic)
    fit = jp.fit(model, jp.initialize(model, image), image, sampling=SMALL)
    assert int(fit.status) == jp.fitting.lm.CONVERGED
    assert_allclose(fit.chi2, plain.chi2, rtol=1e-5)
    found = model.params(fit.params)
    for name, value in plain.params.items():
        assert_allclose(found[name], value, atol=0.02 * np.max(plain.stderr[name]), err_msg=name)
    assert_allclose(jp.total_flux(model, fit.params), jp.total_flux(jp.models.sersic, plain.params), rtol=1e-4)


def test_the_error_of_a_flux_is_that_of_the_flux():
    """Propagated through the view by the fit itself, as it would be by hand from the full covariance."""
    image = image_of(jp.models.sersic, TRUTH)
    plain = jp.fit(jp.models.sersic, TRUTH, image, sampling=SMALL)
    model = views.by_flux(jp.models.sersic)
    fit = jp.fit(model, model.inverse(plain.params), image, sampling=SMALL)
    gradient = jax.grad(lambda p: jp.total_flux(jp.models.sersic, p))(plain.params)
    vector = np.concatenate([np.ravel(gradient[name]) for name in sorted(gradient)])
    assert_allclose(fit.stderr["flux"], np.sqrt(vector @ plain.covariance @ vector), rtol=1e-3)


@pytest.mark.parametrize("model", [jp.models.king, jp.models.core_sersic, jp.models.nuker, jp.models.ferrer])
def test_views_are_undone_by_their_inverse(model):
    values = {"center": [1.0, 2.0], "q": 0.5, "PA": 0.4, "n": 2.0, "Re": 3.0}
    values |= {"Rb": 1.2, "Rc": 1.1, "Rt": 9.0, "Rout": 7.0}
    values |= {"Ib": 2.5, "I0": 2.5, "alpha": 1.7, "beta": 0.5 if model is jp.models.ferrer else 3.5, "gamma": 0.3}
    params = {name: jnp.asarray(values[name]) for name in jp.parameters(model)}
    for view in (views.by_flux(model), views.by_magnitude(model, 25.0), views.by_ellipticity(model)):
        back = view.params(view.inverse(params))
        for name, value in params.items():
            assert_allclose(back[name], value, rtol=1e-12, err_msg=name)
    assert_allclose(views.by_flux(model).inverse(params)["flux"], jp.total_flux(model, params))


def test_a_round_galaxy_is_harmless_by_ellipticity():
    """The derivative at e = 0 is that of a smooth function: the same from both sides."""
    model = views.by_ellipticity(jp.models.sersic)
    theta = {"center": jnp.zeros(2), "e1": 0.0, "e2": 0.0, "n": 2.0, "Re": 2.0, "Ie": 1.0}

    def value(e1, e2):
        return model({**theta, "e1": e1, "e2": e2}, 0.7, 1.9)

    for axis, (de1, de2) in enumerate(((1e-4, 0.0), (0.0, 1e-4))):
        slope = jax.grad(value, axis)(0.0, 0.0)
        assert abs(slope) > 0.1
        assert_allclose(slope, (value(de1, de2) - value(-de1, -de2)) / 2e-4, rtol=1e-6)


STARS = {"center": [[8.2, 9.1], [21.4, 18.3], [10.0, 24.6]], "flux": [100.0, 60.0, 80.0]}


def test_many_stars_are_a_scene_of_stars():
    y, x = np.mgrid[-7:8, -7:8]
    grid = jp.make_image(np.zeros((32, 32)), std=1.0, psf=np.exp(-0.5 * (x**2 + y**2) / 1.7**2))
    scene = jp.scene(a=jp.models.point_source, b=jp.models.point_source, c=jp.models.point_source)
    single = {name: {key: STARS[key][k] for key in STARS} for k, name in enumerate("abc")}
    drawn = jp.render(jp.many(jp.models.point_source), STARS, grid)
    assert_allclose(drawn, jp.render(scene, single, grid), atol=1e-12)
    assert_allclose(jp.total_flux(jp.many(jp.models.point_source), {k: jnp.asarray(v) for k, v in STARS.items()}), 240)


def test_many_are_initialized_and_fitted():
    y, x = np.mgrid[-7:8, -7:8]
    psf = np.exp(-0.5 * (x**2 + y**2) / 1.7**2)
    model = jp.scene(stars=jp.many(jp.models.point_source), sky=jp.models.flat_sky)
    truth = {"stars": STARS, "sky": {"I0": 2.0}}
    grid = jp.make_image(np.zeros((32, 32)), std=0.1, psf=psf)
    params = jax.tree.map(np.asarray, truth, is_leaf=lambda leaf: isinstance(leaf, list))
    data = jp.render(model, params, grid) + 0.1 * np.random.default_rng(1).normal(size=(32, 32))
    image = jp.make_image(data, std=0.1, psf=psf)
    with pytest.raises(ValueError, match=r"stars\.center"):
        jp.initialize(model, image)
    start = jp.initialize(model, image, {"stars": {"center": np.asarray(STARS["center"]) + 0.3}})
    assert start["stars"]["flux"].shape == (3,)
    fit = jp.fit(model, start, image)
    assert int(fit.status) == jp.fitting.lm.CONVERGED
    assert "stars.center[2,1]" in fit.names
    for name, value in STARS.items():
        pull = (np.asarray(fit.params["stars"][name]) - value) / np.asarray(fit.stderr["stars"][name])
        assert np.max(np.abs(pull)) < 4, name


def test_copies_must_be_equally_many():
    model = jp.many(jp.models.gaussian)
    assert jp.parameters(model)["center"].shape == (-1, 2)
    params = {"center": np.zeros((3, 2)), "q": np.ones(3), "PA": np.ones(3), "sigma": np.ones(2), "flux": np.ones(3)}
    grid = jp.make_image(np.zeros((8, 8)), std=1.0)
    with pytest.raises(ValueError, match=r"many.*sigma \(2,\)"):
        jp.render(model, params, grid)
    with pytest.raises(ValueError, match=r"sigma: expected shape \(-1,\)"):
        jp.render(model, {**params, "sigma": 1.0}, grid)


def test_total_flux_of_a_scene_leaves_out_its_sky():
    scene = jp.scene(galaxy=jp.models.gaussian, star=jp.models.point_source, sky=jp.models.flat_sky)
    params = {
        "galaxy": {"center": jnp.zeros(2), "q": 0.5, "PA": 0.1, "sigma": 2.0, "flux": 7.0},
        "star": {"center": jnp.zeros(2), "flux": 3.0},
        "sky": {"I0": 1.0},
    }
    assert_allclose(jp.total_flux(scene, params), 10)
    with pytest.raises(ValueError, match="background"):
        jp.total_flux(jp.models.flat_sky, params["sky"])
    blob = jp.extended(lambda x, y, *, center, w: jnp.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / w))
    assert_allclose(jp.total_flux(blob, {"center": jnp.ones(2), "w": 2.0}), 2 * np.pi, rtol=1e-9)
    glow = jp.extended(lambda x, y, *, w: jnp.exp(-(x**2 + y**2) / w))
    with pytest.raises(ValueError, match="centre"):
        jp.total_flux(glow, {"w": 2.0})
    dull = {"center": jnp.zeros(2), "q": 0.5, "PA": 0.1, "n": 0.9, "Rd": 1.0, "I0": 1.0}
    assert jp.total_flux(jp.models.moffat, dull) == np.inf
