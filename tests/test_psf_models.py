"""Models of PSFs: their values, the stamps made of them, and PSFs that are fitted together with the sources."""

import functools

import galsim
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot import psf_models
from jaxphot.models import grids
from jaxphot.pytree import leaves_with_names, update

# --- the models -----------------------------------------------------------------------------------------------------

READY_MADE = {
    "gaussian": (psf_models.gaussian, {"q": 0.7, "PA": 0.5, "sigma": 0.6}),
    "round_gaussian": (psf_models.round_gaussian, {"sigma": 0.6}),
    "moffat": (psf_models.moffat, {"q": 0.7, "PA": 0.5, "n": 3.0, "Rd": 0.9}),
    "round_moffat": (psf_models.round_moffat, {"n": 3.0, "Rd": 0.9}),
    "airy": (psf_models.airy, {"lam_over_D": 1.1}),
    "mge": (
        psf_models.unit(jp.models.mge(2)),
        {"PA": 0.5, "qs": [0.8, 0.9], "sigmas": [0.5, 1.2], "fluxes": [0.3]},
    ),
    "sum": (
        psf_models.unit(jp.scene(core=jp.models.gaussian, wings=jp.models.moffat)),
        {
            "core": {"q": 0.7, "PA": 0.5, "sigma": 0.6},
            "wings": {"q": 0.9, "PA": 1.0, "n": 2.5, "Rd": 1.6, "I0": 0.2},
        },
    ),
    "pixelated": (
        psf_models.pixelated((2, 2), grids.cubic),
        {"PA": 0.3, "scale": 1.0, "values": [[1.0, 2.0], [0.5, 3.0]]},
    ),
    "basis": (
        psf_models.basis(2, (2, 2), grids.cubic),
        {"PA": 0.3, "scale": 1.0, "weights": [0.2], "images": [[[1.0, 2.0], [0.5, 3.0]], [[1.0, -1.0], [0.5, 0.3]]]},
    ),
    "zernike": (psf_models.zernike(2), {"Rd": 1.4, "weights": [0.1, 0.2, -0.3, 0.2, 0.1]}),
}


def psf_case(name, dtype=np.float64):
    model, params = READY_MADE[name]
    return model, as_arrays(params, dtype)


def as_arrays(tree, dtype=np.float64):
    return jax.tree.map(lambda v: jnp.asarray(v, dtype), tree, is_leaf=lambda v: not isinstance(v, dict))


SHAPE = (9, 11)


@functools.cache
def stamps_of(model):
    """Stamp, derivatives in parameters, and stamps of two sets of parameters through vmap; compiled once a model."""

    def stamp(params):
        return jp.psf_from_model(model, params, SHAPE, pixelscale=0.5).data

    return jax.jit(lambda params, pair: (stamp(params), jax.jacfwd(stamp)(params), jax.vmap(stamp)(pair)))


@pytest.mark.parametrize("name", READY_MADE)
def test_stamps(name):
    """Jit, eager and vmap agree, parameters have a centre and an amplitude no more, derivatives are right."""
    model, params = psf_case(name)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda p: p.shape, jp.parameters(model))
    assert "center" not in str(list(leaves_with_names(params)))
    assert psf_models.unit(model) == model
    wider = jax.tree.map(lambda leaf: 1.1 * leaf, params)
    pair = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, wider)
    value, slopes, mapped = stamps_of(model)(params, pair)
    assert_allclose(np.sum(value), 1, rtol=1e-13)
    eager = jp.psf_from_model(model, params, SHAPE, pixelscale=0.5)
    assert (eager.shape, eager.oversample, eager.integrated, eager.center.tolist()) == (SHAPE, 1, True, [5.0, 4.0])
    assert_allclose(value, eager.data, rtol=1e-11, atol=1e-15)
    assert_allclose(mapped[0], value, rtol=1e-11, atol=1e-15)
    assert_allclose(mapped[1], stamps_of(model)(wider, pair)[0], rtol=1e-11, atol=1e-15)
    leaves, slopes = dict(leaves_with_names(params)), dict(leaves_with_names(slopes))
    for key, leaf in leaves.items():
        for index in np.ndindex(leaf.shape):
            step = 1e-4
            ends = [
                stamps_of(model)(update(params, nested(key, leaf.at[index].add(t))), pair)[0] for t in (step, -step)
            ]
            reference = (np.asarray(ends[0]) - np.asarray(ends[1])) / (2 * step)
            assert np.max(np.abs(reference)) > 1e-4, key
            if name != "zernike" or key != "Rd":  # its border is a step
                assert_allclose(
                    slopes[key][(..., *index)], reference, atol=3e-6 * np.max(np.abs(reference)), err_msg=key
                )


def nested(name, value):
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize("name", READY_MADE)
def test_stamps_in_single_precision(name):
    model, params = psf_case(name)
    if name == "zernike":
        params["Rd"] = jnp.asarray(1.43)  # no node within rounding of the border
    wanted = jp.psf_from_model(model, params, SHAPE, pixelscale=0.5).data
    image = jp.make_image(np.zeros((3, 3), np.float32), std=1.0, pixelscale=0.5)
    got = jp.psf_from_model(model, params, SHAPE, image=image).data
    assert got.dtype == np.float32
    assert_allclose(got, wanted, atol=1e-5 * np.max(wanted))


def test_a_model_as_it_is_makes_the_same_stamp():
    full = {"center": [0.0, 0.0], "q": 0.7, "PA": 0.5, "n": 3.0, "Rd": 0.9, "I0": 7.0}
    own = {key: full[key] for key in ("q", "PA", "n", "Rd")}
    wanted = jp.psf_from_model(psf_models.moffat, own, SHAPE, pixelscale=0.5)
    assert_allclose(jp.psf_from_model(jp.models.moffat, full, SHAPE, pixelscale=0.5).data, wanted.data, rtol=1e-12)


PRECISE = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-6, kvalue_accuracy=1e-8, maximum_fft_size=16384)


@pytest.mark.parametrize(
    ("name", "scale", "peer"),
    [
        ("round_gaussian", 0.5, galsim.Gaussian(sigma=0.6)),
        ("round_moffat", 0.5, galsim.Moffat(beta=3.0, scale_radius=0.9)),
        ("airy", 0.3, galsim.Airy(lam_over_diam=1.1)),
        ("gaussian", 0.5, galsim.Gaussian(sigma=0.6 * 0.7**0.5).shear(q=0.7, beta=(np.pi / 2 - 0.5) * galsim.radians)),
    ],
)
def test_values_and_stamps_are_galsims(name, scale, peer):
    """Brightness at a place, then the integral over cells relative to the middle one."""
    model, params = psf_case(name)
    if name == "airy":
        x = np.array([0.0, 0.3, 1.0, 1.342, 2.5, 7.0, 20.0])
        wanted = np.array([peer.xValue(at, 0.0) for at in x])
        profile = psf_models.airy_profile(np.abs(x), lam_over_D=1.1, flux=1.0)
        assert_allclose(profile, wanted, rtol=1e-6, atol=1e-9 * wanted[0])
    shape = (15, 15)
    stamp = np.asarray(jp.psf_from_model(model, params, shape, pixelscale=scale).data)
    if name != "airy":  # for which GalSim would transform a huge image
        peer = peer.withGSParams(PRECISE)
    wanted = peer.drawImage(galsim.ImageD(*shape[::-1]), scale=scale).array
    assert_allclose(stamp / stamp[7, 7], wanted / wanted[7, 7], atol=2e-4 if name == "airy" else 2e-5)


def test_airy_is_finite_at_its_middle_and_on_dark_rings():
    r = np.array([0.0, 1e-30, 1.2196698912665045, 1e3, 1e8])
    for dtype in (np.float64, np.float32):
        profile = functools.partial(psf_models.airy_profile, flux=jnp.asarray(2.0, dtype))
        value, slopes = jax.vmap(
            jax.value_and_grad(lambda r, s, p=profile: p(r, lam_over_D=s), argnums=(0, 1)), (0, None)
        )(jnp.asarray(r, dtype), jnp.ones((), dtype))
        assert_allclose(value[:2], 2 * np.pi / 4, rtol=1e-6)
        assert_allclose(value[2:], 0, atol=1e-8)
        assert np.all(np.isfinite(np.stack(slopes)))


def test_airy_holds_its_flux():
    """Up to the light beyond r, 2/(π² r) for λ/D = 1 (from the envelope of J0² + J1²)."""
    r = np.linspace(0, 60, 120001)
    inside = np.trapezoid(2 * np.pi * r * np.asarray(psf_models.airy_profile(r, lam_over_D=1.0, flux=3.0)), r)
    assert_allclose(inside, 3 * (1 - 2 / np.pi**2 / 60), rtol=1e-5)


# --- stamps on images -----------------------------------------------------------------------------------------------


def test_stamp_follows_the_image():
    """A PSF elongated to the East lies along the image's own East, whatever its orientation and scale."""
    angle, scale = 0.6, 0.4
    cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    image = jp.make_image(np.zeros((20, 30)), std=1.0, transform=jp.make_linear(cd=cd, crpix=(3.0, 4.0)))
    params = {"q": 0.5, "PA": np.pi / 2, "sigma": 1.2}
    stamp = np.asarray(jp.psf_from_model(psf_models.gaussian, params, (41, 41), image=image, integrated=False).data)
    v, u = np.mgrid[:41, :41] - 20.0
    moments = np.array([[np.sum(stamp * a * b) for a in (u, v)] for b in (u, v)])
    wanted = np.linalg.inv(cd) @ np.diag([1.2, 0.6]) ** 2 @ np.linalg.inv(cd).T
    assert_allclose(moments, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("oversample", [1, 3])
def test_stars_and_galaxies_through_a_stamp_are_galsims(oversample):
    """Integrated stamps serve both; samples on native pixels would make the star 5e-2 of the peak too sharp."""
    peer = galsim.Gaussian(sigma=1.3)
    shape = (25 * oversample // 2 * 2 + 1,) * 2
    psf = jp.psf_from_model(psf_models.round_gaussian, {"sigma": 1.3}, shape, oversample)
    image = jp.make_image(np.zeros((31, 31)), std=1.0, psf=psf)
    star = jp.render(jp.models.point_source, {"center": [15.3, 14.8], "flux": 1.0}, image)
    wanted = peer.shift(0.3, -0.2).drawImage(galsim.ImageD(31, 31), scale=1.0).array
    assert_allclose(star, wanted, atol=1e-3 * np.max(wanted))
    galaxy = {"center": [15.3, 14.8], "q": 0.6, "PA": np.pi / 2, "sigma": 3.0, "flux": 1.0}
    wanted = galsim.Convolve(galsim.Gaussian(sigma=3.0 * 0.6**0.5).shear(q=0.6, beta=0 * galsim.radians), peer)
    wanted = wanted.shift(0.3, -0.2).drawImage(galsim.ImageD(31, 31), scale=1.0).array
    assert_allclose(jp.render(jp.models.gaussian, galaxy, image), wanted, atol=1e-3 * np.max(wanted))


# --- PSFs that are fitted -------------------------------------------------------------------------------------------

SCENE = jp.scene(
    a=jp.models.point_source,
    b=jp.models.point_source,
    c=jp.models.point_source,
    galaxy=jp.models.sersic,
    sky=jp.models.flat_sky,
)
LIVE = jp.with_psf(SCENE, psf_models.moffat, (21, 21))
TRUTH = as_arrays(
    {
        "a": {"center": [-3.1, -2.6], "flux": 900.0},
        "b": {"center": [3.3, -3.0], "flux": 500.0},
        "c": {"center": [-2.9, 3.2], "flux": 700.0},
        "galaxy": {"center": [1.3, 1.2], "q": 0.6, "PA": 0.9, "n": 1.5, "Re": 1.1, "Ie": 120.0},
        "sky": {"I0": 20.0},
        "psf": {"q": 0.85, "PA": 2.0, "n": 2.8, "Rd": 0.75},
    }
)
TRANSFORM = jp.make_linear(pixelscale=0.3, crpix=(17.5, 17.5))
DARK = jp.make_image(np.zeros((36, 36)), std=1.0, transform=TRANSFORM)
STD = 0.8


@functools.cache
def live_pixels():
    return np.asarray(jp.render(LIVE, TRUTH, DARK))


def noisy(seed):
    noise = np.random.default_rng(seed).normal(size=DARK.shape)
    return jp.make_image(live_pixels() + STD * noise, std=STD, transform=TRANSFORM)


def starting(image, seed):
    """From `initialize`, told where the sources roughly are, as a catalogue would."""
    rng = np.random.default_rng(seed)
    known = {name: own["center"] + rng.normal(scale=0.1, size=2) for name, own in TRUTH.items() if "center" in own}
    return jp.initialize(LIVE, image, {name: {"center": center} for name, center in known.items()})


@pytest.mark.full
def test_a_live_psf_draws_as_a_stamp_of_it_would():
    psf = jp.psf_from_model(psf_models.moffat, TRUTH["psf"], (21, 21), image=DARK)
    fixed = jp.make_image(np.zeros(DARK.shape), std=1.0, transform=TRANSFORM, psf=psf)
    sources = {name: own for name, own in TRUTH.items() if name != "psf"}
    assert_allclose(live_pixels(), jp.render(SCENE, sources, fixed), rtol=1e-10)
    # an image's own PSF is not used
    delta = jp.make_image(np.zeros(DARK.shape), std=1.0, transform=TRANSFORM, psf=[[1.0]])
    assert_allclose(jp.render(LIVE, TRUTH, delta), live_pixels(), rtol=1e-10)
    value, error = jp.render(LIVE, TRUTH, DARK, with_error=True)
    assert_allclose(value, live_pixels(), rtol=1e-10)
    assert np.max(error) < 1e-2 * np.max(value)


@pytest.mark.full
def test_fit_with_a_live_psf():
    assert list(jp.parameters(LIVE)) == ["a", "b", "c", "galaxy", "sky", "psf"]
    image = noisy(1)
    fit = jp.fit(LIVE, starting(image, 1), image)
    assert jp.status_message(fit.status) == "converged"
    assert abs(float(fit.chi2) / int(fit.dof) - 1) < 4 * np.sqrt(2 / int(fit.dof))
    truth, errors = dict(leaves_with_names(TRUTH)), dict(leaves_with_names(fit.stderr))
    pulls = {}
    for name, value in leaves_with_names(fit.params):
        pulls[name] = np.abs((np.asarray(value) - np.asarray(truth[name])) / np.asarray(errors[name]))
    assert np.all(np.concatenate([np.ravel(pull) for pull in pulls.values()]) < 4), pulls
    assert errors["psf.Rd"] < 0.05 * truth["psf.Rd"]  # it is determined well, so the pull means something
    assert errors["a.flux"] < 0.05 * truth["a.flux"]


@pytest.mark.full
def test_many_fits_with_live_psfs():
    """A batch by vmap, from starts far off: pulls have the scatter that the errors promise."""
    count = 12
    images = jp.stack_images([noisy(seed) for seed in range(10, 10 + count)])
    starts = [starting(noisy(seed), seed) for seed in range(10, 10 + count)]
    for number, start in enumerate(starts):
        start["psf"] = as_arrays({"q": 0.95, "PA": 0.3, "n": 4.0, "Rd": 0.75 * (1.5 if number % 2 else 0.7)})
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    fits = jax.jit(jax.vmap(lambda params, image: jp.fit(LIVE, params, image)))(starts, images)
    assert [jp.status_message(status) for status in fits.status] == ["converged"] * count
    for path in (("psf", "Rd"), ("psf", "n"), ("psf", "q"), ("psf", "PA"), ("a", "flux"), ("galaxy", "Ie")):
        value, error, truth = (
            np.asarray(functools.reduce(lambda t, k: t[k], path, tree)) for tree in (fits.params, fits.stderr, TRUTH)
        )
        pulls = (value - truth) / error
        assert abs(np.mean(pulls)) < 4 / np.sqrt(count), (path, pulls)
        assert 0.3 < np.std(pulls) < 2, (path, pulls)
    alone = jp.fit(LIVE, jax.tree.map(lambda leaf: leaf[3], starts), noisy(13))
    for got, wanted in zip(jax.tree.leaves(alone.params), jax.tree.leaves(fits.params), strict=True):
        assert_allclose(got, wanted[3], rtol=1e-5, atol=1e-6)


@pytest.mark.full
def test_a_live_psf_in_single_precision():
    single = noisy(1)
    single = jp.make_image(np.asarray(single.data, np.float32), std=STD, transform=TRANSFORM)
    drawn = jp.render(LIVE, TRUTH, single)
    assert drawn.dtype == np.float32
    assert_allclose(drawn, live_pixels(), atol=1e-4 * np.max(live_pixels()))
    fit = jp.fit(LIVE, starting(single, 1), single)
    assert jp.status_message(fit.status) == "converged"
    wanted = jp.fit(LIVE, starting(noisy(1), 1), noisy(1))
    for key, error in wanted.stderr["psf"].items():
        assert abs(float(fit.params["psf"][key]) - float(wanted.params["psf"][key])) < 0.1 * float(error), key


@pytest.mark.full
def test_many_stars_share_a_live_psf():
    """A number of stars in one array, from `initialize` with their rough places; and shared by a view."""
    stars = jp.scene(stars=jp.models.many(jp.models.point_source))
    live = jp.with_psf(stars, psf_models.round_moffat, (15, 15))
    centers = np.array([[-1.7, -1.8], [1.5, -1.1], [0.2, 1.7]])
    truth = as_arrays({"stars": {"center": centers, "flux": [90.0, 60.0, 120.0]}, "psf": {"n": 3.0, "Rd": 0.7}})
    dark = jp.make_image(np.zeros((20, 20)), std=0.05, transform=jp.make_linear(pixelscale=0.4, crpix=(9.5, 9.5)))
    data = np.asarray(jp.render(live, truth, dark)) + 0.05 * np.random.default_rng(3).normal(size=dark.shape)
    image = jp.make_image(data, std=0.05, transform=dark.transform)
    start = jp.initialize(live, image, {"stars": {"center": centers + 0.05}})
    fit = jp.fit(live, start, image)
    assert jp.status_message(fit.status) == "converged"
    for own, error, true in zip(*(jax.tree.leaves(tree) for tree in (fit.params, fit.stderr, truth)), strict=True):
        assert np.all(np.abs(own - true) < 4 * error)

    tied = jp.models.linked(
        live, lambda theta: {**theta, "psf": {"n": jnp.full_like(theta["psf"]["Rd"], 3.0), **theta["psf"]}}
    )
    drawn = jp.render(tied, {**truth, "psf": {"Rd": truth["psf"]["Rd"]}}, dark)
    assert_allclose(drawn, jp.render(live, truth, dark), rtol=1e-12)


@pytest.mark.full
def test_pictures_show_components_through_the_live_psf():
    ax = jp.plot.profile(LIVE, TRUTH, image=noisy(1), part="galaxy")
    labels = {line.get_label(): np.asarray(line.get_ydata()) for line in ax.get_lines()}
    assert "psf" not in labels
    assert {"a", "galaxy"} <= set(labels)
    plt.close(ax.figure)


def test_derivatives_through_a_live_psf():
    """Of all pixels with respect to every parameter of the PSF, with stars and a cuspy galaxy on an oversampled one."""
    live = jp.with_psf(jp.scene(star=jp.models.point_source, galaxy=jp.models.sersic), psf_models.moffat, (31, 31),
                       oversample=3)  # fmt: skip
    image = jp.make_image(np.zeros((14, 15)), std=1.0, transform=jp.make_linear(pixelscale=0.3, crpix=(7.0, 6.0)))
    params = as_arrays(
        {
            "star": {"center": [0.5, -0.8], "flux": 9.0},
            "galaxy": {"center": [-0.4, 0.3], "q": 0.7, "PA": 0.4, "n": 3.0, "Re": 1.0, "Ie": 3.0},
            "psf": {"q": 0.8, "PA": 1.0, "n": 2.8, "Rd": 0.7},
        }
    )
    drawn = jax.jit(lambda psf: jp.render(live, {**params, "psf": psf}, image))
    slopes = jax.jit(jax.jacfwd(lambda psf: jp.render(live, {**params, "psf": psf}, image)))(params["psf"])
    for key, at in params["psf"].items():
        ends = [np.asarray(drawn({**params["psf"], key: at + t})) for t in (1e-4, -1e-4)]
        reference = (ends[0] - ends[1]) / 2e-4
        assert np.max(np.abs(reference)) > 1e-2, key
        assert_allclose(slopes[key], reference, atol=1e-5 * np.max(np.abs(reference)), err_msg=key)


def test_psfs_start_and_fit():
    """From `initialize`, on noiseless stars: the PSF comes out as it went in."""
    scene = jp.scene(a=jp.models.point_source, b=jp.models.point_source)
    stars = {"a": {"center": [-1.2, -1.4], "flux": 50.0}, "b": {"center": [1.5, 1.0], "flux": 80.0}}
    image = jp.make_image(np.zeros((24, 24)), std=0.01, transform=jp.make_linear(pixelscale=0.4, crpix=(11.5, 11.5)))
    for name in ("mge", "sum", "airy", "zernike"):
        model, psf = psf_case(name)
        live = jp.with_psf(scene, model, (15, 15))
        truth = as_arrays({**stars, "psf": psf})
        data = jp.make_image(np.asarray(jp.render(live, truth, image)), std=0.01, transform=image.transform)
        known = {key: {"center": own["center"]} for key, own in stars.items()}
        hold = {"psf": {"Rd": psf["Rd"]}} if name == "zernike" else {}
        start = jp.initialize(live, data, update(known, hold))
        assert jax.tree.map(np.shape, start) == jax.tree.map(np.shape, truth)
        if name == "mge":  # the fit is as that of the sum
            assert_allclose(np.sum(start["psf"]["sigmas"]), 1.8, rtol=0.5)
            continue
        fit = jp.fit(live, start, data, fixed=hold)
        drawn = jp.render(live, fit.params, image)
        assert_allclose(drawn, data.data, atol=2e-3 * float(jnp.max(data.data)), err_msg=name)
        assert_allclose(fit.params["b"]["flux"], 80.0, rtol=1e-3, err_msg=name)


def test_linked_images_and_nested_scenes_share_the_psf():
    """The PSF is a part of the scene: it works from within another one, and twice is an error."""
    inner = jp.with_psf(jp.scene(star=jp.models.point_source), psf_models.round_moffat, (15, 15))
    model = jp.scene(stars=inner, galaxy=jp.models.gaussian)
    psf = {"n": 3.0, "Rd": 0.7}
    star, galaxy = {"center": [0.0, 0.5], "flux": 3.0}, {
        "center": [0.0, 0.0], "q": 0.7, "PA": 0.0, "sigma": 0.8, "flux": 5.0,
    }  # fmt: skip
    image = jp.make_image(np.zeros((12, 12)), std=1.0, transform=jp.make_linear(pixelscale=0.4, crpix=(5.5, 5.5)))
    flat = jp.with_psf(jp.scene(star=jp.models.point_source, galaxy=jp.models.gaussian), psf_models.round_moffat,
                       (15, 15))  # fmt: skip
    wanted = jp.render(flat, {"star": star, "galaxy": galaxy, "psf": psf}, image)
    got = jp.render(model, {"stars": {"star": star, "psf": psf}, "galaxy": galaxy}, image)
    assert_allclose(got, wanted, rtol=1e-12)
    twice = jp.scene(one=inner, two=inner)
    both = {"star": star, "psf": psf}
    with pytest.raises(ValueError, match="one PSF"):
        jp.render(twice, {"one": both, "two": both}, image)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: jp.with_psf(jp.models.sersic, psf_models.moffat, (9, 9)), TypeError, "^scene: expected"),
        (lambda: jp.with_psf(SCENE, jp.models.flat_sky, (9, 9)), TypeError, "^psf_model: expected"),
        (lambda: jp.with_psf(LIVE, psf_models.moffat, (9, 9)), ValueError, "called psf already"),
        (lambda: jp.with_psf(SCENE, psf_models.moffat, (9, 0)), ValueError, "^shape: expected"),
        (lambda: jp.with_psf(SCENE, psf_models.moffat, (9, 9), oversample=0), ValueError, "^oversample: expected"),
        (lambda: jp.psf_from_model(psf_models.moffat, {"n": 3.0}, (9, 9)), ValueError, "Rd: missing"),
    ],
)
def test_bad_input(build, error, message):
    with pytest.raises(error, match=message):
        build()
