"""What only some models do, and how models are built; what all of them must do is in `test_cases.py`."""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, sersic_flux
from numpy.testing import assert_allclose

import jaxphot as jp


def case(name):
    return CASES[name].model, CASES[name].values()


X = np.array([0.45, 0.3 + 2 * np.sin(0.7), -6.0, 1.2, -0.5, 0.9, 2.4])
Y = np.array([-0.25, -0.4 + 2 * np.cos(0.7), 5.0, -1.9, 0.6, -0.4, 1.1])


def test_shapes_broadcast():
    model, params = case("sersic")
    assert model(params, X[None, :], Y[:, None]).shape == (7, 7)
    assert model(params, 0.3, -0.4).shape == ()
    assert jp.models.flat_sky({"I0": 1.0}, X[None, :], Y[:, None]).shape == (7, 7)


# --- profiles and metrics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0.1, 0.36, 0.5, 1.0, 2.7, 4.0, 12.0])
def test_sersic_holds_half_its_light_in_Re(n):
    """By quadrature in log r, where the integrand is smooth; beyond the last node there is nothing left."""
    profile = functools.partial(jp.profiles.sersic, n=n, Re=2.0, Ie=3.0)
    assert_allclose(profile(2.0), 3.0, rtol=1e-12)
    log_r = np.linspace(-60, np.log(2.0), 20001)
    inside = np.trapezoid(np.asarray(profile(np.exp(log_r))) * np.exp(2 * log_r), log_r)
    log_r = np.linspace(np.log(2.0), 35, 40001)
    outside = np.trapezoid(np.asarray(profile(np.exp(log_r))) * np.exp(2 * log_r), log_r)
    assert_allclose(inside, outside, rtol=2e-5)
    assert_allclose(2 * np.pi * (inside + outside), sersic_flux(n, 2.0, 3.0, q=1.0), rtol=2e-5)


def test_profiles_that_are_special_cases():
    r = np.linspace(0, 12, 50)
    assert_allclose(jp.profiles.exponential(r, Re=2.0, Ie=3.0), jp.profiles.sersic(r, n=1.0, Re=2.0, Ie=3.0), rtol=1e-8)
    sigma = 2.0 / np.sqrt(2 * np.log(2))  # half the light of a Gaussian is within σ √(2 ln 2)
    flux = sersic_flux(0.5, 2.0, 3.0, q=1.0)
    assert_allclose(
        jp.profiles.gaussian(r, sigma=sigma, flux=flux), jp.profiles.sersic(r, n=0.5, Re=2.0, Ie=3.0), rtol=1e-7
    )
    beta, Rd = 3.1, 1.4
    half = Rd * np.sqrt(2 ** (1 / beta) - 1)
    assert_allclose(jp.profiles.moffat(half, n=beta, Rd=Rd, I0=4.0), 2.0, rtol=1e-13)


def test_ellipse_points_north_through_east():
    """PA = 0 is North (+y); growing PA turns towards East (+x); R is measured along the major axis."""
    center = jnp.asarray([5.0, -2.0])
    for PA in (0.0, 0.3, np.pi / 2, 2.5):
        major, minor = np.array([np.sin(PA), np.cos(PA)]), np.array([np.cos(PA), -np.sin(PA)])
        for direction, radius in ((major, 3.0), (minor, 3.0 / 0.4)):
            x, y = np.asarray(center) + 3.0 * direction
            assert_allclose(jp.metrics.ellipse(x, y, center=center, q=0.4, PA=PA), radius, rtol=1e-14)
            assert_allclose(jp.metrics.ellipse(x, y, center=center, q=0.4, PA=PA + np.pi), radius, rtol=1e-13)


# --- a user's own ---------------------------------------------------------------------------------------------------


def king(r, *, Rc, I0):
    """A profile as a user would write it, without annotations."""
    return I0 / (1 + (r / Rc) ** 2)


def test_own_profile():
    model = jp.radial(king)
    assert list(jp.parameters(model)) == ["center", "q", "PA", "Rc", "I0"]
    assert jp.parameters(model)["Rc"] == jp.Parameter()
    params = {"center": jnp.asarray([1.0, 2.0]), "q": 0.5, "PA": 0.0, "Rc": 3.0, "I0": 8.0}
    assert_allclose(model(params, 1.0, 5.0), 4.0)
    assert_allclose(model(params, 2.5, 2.0), 4.0)


def test_own_profile_with_annotations():
    Years = Annotated[jax.Array, jp.Parameter("yr", (0.0, 5.0), description="age")]

    def aging(r, *, age: Years, flux):
        return flux * jnp.exp(-r / age)

    assert jp.parameters(jp.radial(aging))["age"] == jp.Parameter("yr", (0.0, 5.0), description="age")


def test_own_metric():
    def box(x, y, *, center, side):
        return jnp.maximum(jnp.abs(x - center[0]), jnp.abs(y - center[1])) / side

    model = jp.radial(king, box)
    assert list(jp.parameters(model)) == ["center", "side", "Rc", "I0"]
    params = {"center": jnp.zeros(2), "side": 2.0, "Rc": 1.0, "I0": 8.0}
    assert_allclose(model(params, jnp.asarray([2.0, 0.5]), jnp.asarray([1.0, -2.0])), 4.0)


def test_own_plain_function_is_a_model():
    def blob(params, x, y):
        return params["a"] * jnp.exp(-(x**2) - y**2 / params["inner"]["b"])

    model = jp.scene(blob=blob, sky=jp.models.flat_sky)
    assert jp.parameters(blob) == {}
    params = {"blob": {"a": 2.0, "inner": {"b": 3.0}}, "sky": {"I0": 1.0}}
    assert_allclose(model(params, 0.0, 0.0), 3.0)
    image = jp.make_image(np.zeros((4, 5)), std=1.0)
    assert_allclose(jp.render(model, params, image, jp.sampling.midpoint())[0, 0], 3.0)
    assert_allclose(jp.render(blob, params["blob"], image, jp.sampling.midpoint())[0, 0], 2.0)


def test_background_and_point_and_extended():
    glow = jp.background(lambda x, y, *, level: level + 0 * x)
    stray = jp.background(lambda params, x, y: params["level"] + 0 * x)
    pair = jp.point(lambda params: (params["where"], 2 * params["light"]))
    disk = jp.extended(lambda x, y, *, I0: I0 * jnp.exp(-jnp.abs(x + y)))
    assert (glow.kind, stray.kind, pair.kind, disk.kind) == ("background", "background", "point", "extended")
    assert list(jp.parameters(glow)) == ["level"]
    assert jp.parameters(stray) == {}
    assert_allclose(glow({"level": 3.0}, X, Y), 3.0)
    assert_allclose(stray({"level": 3.0}, X, Y), 3.0)
    assert_allclose(disk({"I0": 2.0}, 0.0, 0.0), 2.0)
    center, flux = pair.position_and_flux({"where": (1.0, 2.0), "light": 4.0})
    assert (center, flux) == ((1.0, 2.0), 8.0)
    with pytest.raises(TypeError, match="no brightness"):
        pair({"where": (1.0, 2.0), "light": 4.0}, 0.0, 0.0)


# --- scenes ---------------------------------------------------------------------------------------------------------


def test_scene_adds_up_and_nests():
    (disk, p_disk), (bulge, p_bulge), (sky, p_sky) = case("exponential"), case("sersic"), case("flat_sky")
    model = jp.scene(galaxy=jp.scene(disk=disk, bulge=bulge), sky=sky, star=jp.models.point_source)
    params = {
        "galaxy": {"disk": p_disk, "bulge": p_bulge},
        "sky": p_sky,
        "star": {"center": jnp.zeros(2), "flux": 1e9},  # has no brightness to add
    }
    wanted = disk(p_disk, X, Y) + bulge(p_bulge, X, Y) + sky(p_sky, X, Y)
    assert_allclose(model(params, X, Y), wanted, rtol=1e-13)
    declared = jp.parameters(model)
    assert list(declared) == ["galaxy", "sky", "star"]
    assert list(declared["galaxy"]["bulge"]) == ["center", "q", "PA", "n", "Re", "Ie"]
    assert declared["galaxy"]["bulge"] == jp.parameters(jp.models.sersic)
    assert declared["star"]["center"].shape == (2,)


def test_scene_of_point_sources_alone_is_dark():
    model = jp.scene(star=jp.models.point_source)
    assert_allclose(model({"star": {"center": jnp.zeros(2), "flux": 1.0}}, X, Y), 0.0)


def test_models_compare_by_value():
    def build():
        galaxy = jp.scene(disk=jp.radial(jp.profiles.exponential), halo=jp.radial(king, jp.metrics.ellipse))
        return jp.scene(galaxy=galaxy, sky=jp.background(jp.models.skies.flat_sky))

    assert build() == build()
    assert hash(build()) == hash(build())
    assert build() != jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
    assert jp.radial(jp.profiles.sersic) == jp.models.sersic
    assert jp.radial(jp.profiles.sersic) != jp.radial(jp.profiles.exponential)
    assert jp.scene(a=jp.models.sersic) != jp.scene(b=jp.models.sersic)
    assert jp.background(king) != jp.extended(king)
    # a function redefined is another function
    assert jp.extended(lambda params, x, y: x) != jp.extended(lambda params, x, y: x)
    assert jp.sampling.quad(3) == jp.sampling.quad(3) != jp.sampling.quad(4)
    assert jp.likelihood.student_t(4) == jp.likelihood.student_t(4.0) != jp.likelihood.student_t(5)
    assert hash(jp.sampling.quad(3)) == hash(jp.sampling.quad(3))
