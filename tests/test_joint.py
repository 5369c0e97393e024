"""Several images fitted as one: shared, per-image and per-band parameters, planes, transforms, linear amplitudes."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_fit import names_and_values, pulls

import jaxphot as jp
from jaxphot.fitting import lm
from jaxphot.transforms.reprojected import reproject
from jaxphot.transforms.sky import pixel_to_sky

QUAD = jp.sampling.quad(2)
SIMPLE = jp.scene(star=jp.models.gaussian, sky=jp.models.flat_sky)
BANDS = {"g": 477.0, "r": 623.0, "i": 763.0, "z": 913.0, "y": 1020.0}
PER_IMAGE = ("sky", "star.flux")


def turned(k, shape=(18, 20), std=0.3, **options):
    """An empty image turned, moved, and about its own tangent point."""
    angle = 0.4 * k
    cd = 0.3 * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    transform = jp.make_linear(cd=cd, crpix=(9.5 + 0.3 * k, 8.7), crval=(150.0 + 2e-4 * k, 2.0 - 1e-4 * k))
    return jp.make_image(np.zeros(shape), std=std, transform=transform, **options)


def observed(model, params, images, seed, per_image=None):
    """The images with what the model makes of them, and noise."""
    noise = np.random.default_rng(seed)

    def add(image, triple):
        clean = np.asarray(jp.render(*triple, QUAD))
        return replace(image, data=jnp.asarray(clean + noise.normal(size=clean.shape) / np.sqrt(image.ivar)))

    triples = jp.separate(model, params, images, per_image=per_image)
    if isinstance(images, dict):
        return {key: add(images[key], triple) for key, triple in triples.items()}
    return jp.stack_images([add(*pair) for pair in zip(jp.unstack_images(images), triples, strict=True)])


STAR = {"center": np.array([0.2, -0.1]), "q": 0.6, "PA": 0.7, "sigma": 0.8}
DITHERS = {"star": {**STAR, "flux": np.array([50.0, 60.0, 70.0])}, "sky": {"I0": np.array([1.0, 2.0, 3.0])}}
DITHER_START = {"star": {"center": np.zeros(2), "q": 0.8, "PA": 0.4, "sigma": 1.0, "flux": 40.0}, "sky": {"I0": 0.5}}


@functools.cache
def dithers():
    return observed(SIMPLE, DITHERS, jp.stack_images([turned(k) for k in range(3)]), 3, PER_IMAGE)


@functools.cache
def banded():
    """Models of five bands with a linear run of sigma, their truth, and images of two shapes."""
    models = jp.models.by_wavelength(SIMPLE, BANDS, {"star.sigma": 1})
    own = dict(zip(BANDS, (30.0, 50.0, 60.0, 70.0, 40.0), strict=True))
    truth = {"star": {**STAR, "sigma": np.array([0.8, -0.1]), "flux": own}, "sky": {"I0": dict.fromkeys(BANDS, 1.0)}}
    shapes = [(18, 20), (18, 20), (18, 20), (20, 17), (20, 17)]
    images = {band: turned(k, shapes[k], std=0.2 + 0.05 * k) for k, band in enumerate(BANDS)}
    return models, truth, images


def assert_good(fit, truth, largest=3.5):
    assert fit.status == lm.CONVERGED
    assert np.max(np.abs(pulls(fit, truth))) < largest
    assert abs(float(fit.chi2) / int(fit.dof) - 1) < 5 * np.sqrt(2 / int(fit.dof))


# --- planes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crval", [(359.999, -45.3), (20.0, 89.99), (150.0, 0.0)])
def test_another_plane_is_the_same_sky(crval):
    """Against the way over the sky; the homography has no other input than the two tangent points."""
    transform = jp.make_linear(cd=[[-0.2, 0.03], [0.02, 0.21]], crpix=(30, 40), crval=crval)
    other = (crval[0] + 0.02, crval[1] + 0.005)
    moved = reproject(transform, other)
    i, j = np.array([3.0, 500, -200]), np.array([10.0, -300, 900])
    x, y = moved.pixel_to_plane(i, j)
    assert_allclose(jp.plane_to_sky(x, y, other), pixel_to_sky(transform, i, j), rtol=0, atol=1e-10)
    assert_allclose(moved.plane_to_pixel(x, y), (i, j), atol=1e-9)
    jacobian = jax.vmap(jax.jacfwd(lambda p: jnp.stack(moved.pixel_to_plane(p[0], p[1]))))(jnp.stack([i, j], -1))
    assert_allclose(moved.pixel_area(i, j), np.abs(np.linalg.det(jacobian)), rtol=1e-12)
    small = transform.astype(jnp.float32)
    single = jax.jit(lambda t, high, low: reproject(t, high, low))(small, *_two_parts(other))
    assert single.matrix.dtype == jnp.float32
    # 1e-4 arcsec in an offset of 72, where the sum of a float32 would lose 0.05
    assert_allclose(single.matrix[:2, 2], moved.matrix[:2, 2], atol=1e-4)
    assert moved.crop(1, 2, (5, 6)).pixel_to_plane(0.0, 0.0) == moved.pixel_to_plane(1.0, 2.0)
    assert reproject(transform, crval) is transform


def _two_parts(position):
    high = np.asarray(position, np.float32)
    return jnp.asarray(high), jnp.asarray((np.asarray(position) - high).astype(np.float32))


def test_share_plane_of_sets_and_stacks():
    images = [turned(k) for k in range(3)]
    moved = jp.share_plane(images)
    stack = jp.share_plane(jp.stack_images(images))
    for k, image in enumerate(jp.unstack_images(stack)):
        assert_allclose(
            image.transform.pixel_to_plane(2.0, 3.0), moved[k].transform.pixel_to_plane(2.0, 3.0), rtol=1e-12
        )
    alike = [images[0], images[0]]
    assert jp.share_plane(alike) is alike
    with pytest.raises(ValueError, match=r"images\[1\].*other has none"):
        jp.share_plane([images[0], jp.make_image(np.zeros((3, 3)), std=1.0)])


# --- bands ----------------------------------------------------------------------------------------------------------


def test_five_bands_share_their_geometry():
    """Two shapes, five tangent points; χ², derivatives and covariance from their definitions."""
    models, truth, empty = banded()
    images = observed(models, truth, empty, 8)
    start = jp.initialize(models, images)
    fit = jp.fit(models, start, images, sampling=QUAD)
    assert_good(fit, truth)
    assert fit.names[:2] == ("sky.I0.g", "sky.I0.i")
    assert "star.sigma[1]" in fit.names

    names, flat = fit.names, names_and_values(fit.params)

    def residuals(vector):
        tree, at = {}, 0
        for name, leaf in flat.items():
            *branch, key = name.split(".")
            node = functools.reduce(lambda node, part: node.setdefault(part, {}), branch, tree)
            node[key], at = vector[at : at + leaf.size].reshape(leaf.shape), at + leaf.size
        triples = jp.separate(models, tree, images)
        return np.concatenate([
            np.ravel((images[k].data - jp.render(*one, QUAD)) * np.sqrt(images[k].ivar)) for k, one in triples.items()
        ])  # fmt: skip

    best = np.concatenate([np.ravel(leaf) for leaf in flat.values()])
    assert_allclose(np.sum(residuals(best) ** 2), fit.chi2, rtol=1e-6)
    steps = 1e-5 * np.maximum(np.abs(best), 0.1)
    columns = [
        (residuals(best + e) - residuals(best - e)) / (2 * s) for e, s in zip(np.diag(steps), steps, strict=True)
    ]
    inverse = np.linalg.inv(np.asarray(columns) @ np.transpose(columns))
    assert len(names) == len(best)
    assert_allclose(np.sqrt(np.diag(fit.covariance)), np.sqrt(np.diag(inverse)), rtol=1e-3)


def test_a_set_is_fitted_as_its_images_alone_where_nothing_is_shared():
    models = jp.models.by_wavelength(SIMPLE, {"g": 1.0, "r": 2.0}, {"star": None})
    empty = banded()[2]
    one = {"star": {**STAR, "flux": 50.0}, "sky": {"I0": 1.0}}
    images = {key: observed({key: SIMPLE}, one, {key: empty[key]}, 5)[key] for key in ("g", "r")}
    fixed, moved = {"star": {"q": None, "PA": None}}, jp.share_plane(images)
    apart = {key: jp.fit(SIMPLE, one, moved[key], fixed=fixed, sampling=QUAD) for key in images}
    start = jax.tree.map(lambda leaf: {"g": leaf, "r": leaf}, one)
    fixed = {"star": {"q": {"g": None, "r": None}, "PA": {"g": None, "r": None}}}
    both = jp.fit(models, start, images, fixed=fixed, sampling=QUAD)
    assert_allclose(both.chi2, apart["g"].chi2 + apart["r"].chi2, rtol=1e-6)
    for key in images:
        for name in ("sigma", "flux"):
            own, error = apart[key].params["star"][name], apart[key].stderr["star"][name]
            assert abs(both.params["star"][name][key] - own) < 0.01 * error
            assert_allclose(both.stderr["star"][name][key], error, rtol=1e-3)


def test_windows_likelihoods_fixed_and_bounds():
    models, truth, empty = banded()
    images = observed(models, truth, empty, 9)
    options = {
        "window": {"g": (2, 18, 1, 17)},
        "likelihood": {"r": jp.likelihood.student_t(5.0)},
        "fixed": {"star": {"sigma": None}, "sky": {"I0": {"z": 1.0}}},
        "bounds": {"star": {"q": (0.3, 0.5)}},
        "sampling": QUAD,
    }
    start = {**truth, "star": {**truth["star"], "q": 0.45}}
    fit = jp.fit(models, start, images, **options)
    assert fit.status == lm.CONVERGED
    assert bool(fit.at_bound["star"]["q"])
    assert "sky.I0.z" not in fit.names
    assert int(fit.dof) == 16 * 16 + 2 * 18 * 20 + 2 * 20 * 17 - len(fit.names)
    assert_allclose(fit.params["star"]["sigma"], truth["star"]["sigma"])


def test_log_likelihood_of_a_set():
    models, truth, empty = banded()
    images = observed(models, truth, empty, 9)
    apart = [jp.log_likelihood(*one, sampling=QUAD) for one in jp.separate(models, truth, images).values()]
    assert_allclose(jp.log_likelihood(models, truth, images, sampling=QUAD), np.sum(apart), rtol=1e-10)
    stack, per_image = dithers(), PER_IMAGE
    apart = [jp.log_likelihood(*one, sampling=QUAD) for one in jp.separate(SIMPLE, DITHERS, stack, per_image)]
    joint = functools.partial(jp.log_likelihood, SIMPLE, image=stack, sampling=QUAD, per_image=per_image)
    assert_allclose(joint(DITHERS), np.sum(apart), rtol=1e-10)
    assert np.all(np.isfinite(jax.grad(joint)(jax.tree.map(jnp.asarray, DITHERS))["star"]["center"]))


def test_compile_time_does_not_grow_with_the_number_of_images():
    """Images of one kind are one group, whatever their views; the program's size hardly changes."""
    sizes = []
    for count in (2, 6):
        bands = {str(k): float(k + 1) for k in range(count)}
        models = jp.models.by_wavelength(SIMPLE, bands)
        images = {band: turned(k, shape=(8, 8)) for k, band in enumerate(bands)}
        start = {"star": {**STAR, "flux": dict.fromkeys(bands, 1.0)}, "sky": {"I0": dict.fromkeys(bands, 1.0)}}
        fit = functools.partial(jp.fit, models, sampling=QUAD)
        sizes.append(len(jax.jit(fit).lower(start, image=images).as_text()))
    assert sizes[1] < 2 * sizes[0]


# --- dithers --------------------------------------------------------------------------------------------------------


def test_dithers_with_shared_and_own_parameters():
    fit = jp.fit(SIMPLE, DITHER_START, dithers(), per_image=PER_IMAGE, sampling=QUAD)
    assert_good(fit, DITHERS)
    assert fit.params["star"]["flux"].shape == (3,)
    assert "star.flux[2]" in fit.names
    start = jp.initialize(SIMPLE, dithers(), per_image=PER_IMAGE)
    again = jp.fit(SIMPLE, start, dithers(), per_image=PER_IMAGE, sampling=QUAD)
    assert_allclose(again.chi2, fit.chi2, rtol=1e-6)

    # the same images and parameters, as a dictionary
    images = {str(k): image for k, image in enumerate(jp.unstack_images(dithers()))}
    models = jp.models.by_wavelength(SIMPLE, {key: float(key) + 1 for key in images})
    tree = {
        "star": {**DITHER_START["star"], "flux": dict.fromkeys(images, 40.0)},
        "sky": {"I0": dict.fromkeys(images, 0.5)},
    }
    other = jp.fit(models, tree, images, sampling=QUAD)
    assert_allclose(other.chi2, fit.chi2, rtol=1e-7)
    assert_allclose(other.stderr["star"]["sigma"], fit.stderr["star"]["sigma"], rtol=1e-3)


def test_a_batch_of_scenes():
    """vmap of a joint fit, and fit_batch, give what the fits give one by one."""
    stacks = [
        observed(SIMPLE, DITHERS, jp.stack_images([turned(k) for k in range(3)]), seed, PER_IMAGE) for seed in (3, 4)
    ]
    fit = functools.partial(jp.fit, SIMPLE, DITHER_START, per_image=PER_IMAGE, sampling=QUAD)
    apart = [fit(stack) for stack in stacks]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stacks)
    for fits in (
        jax.jit(jax.vmap(lambda stack: fit(stack)))(both),
        jp.fit_batch(SIMPLE, DITHER_START, both, per_image=PER_IMAGE, sampling=QUAD, progress=False),
    ):
        for k, one in enumerate(apart):
            assert fits.status[k] == lm.CONVERGED
            assert_allclose(fits.chi2[k], one.chi2, rtol=1e-6)
            assert_allclose(fits.params["star"]["flux"][k], one.params["star"]["flux"], rtol=1e-4)


@pytest.mark.parametrize("way", ["float32", "images", pytest.param("mixed", marks=pytest.mark.full)])
def test_sets_in_other_precisions_and_from_several_starts(way):
    """Tangent points that differ by less than one float32 resolves (0.05 arcsec at 150°) are kept apart in two."""
    models, truth, empty = banded()
    images = observed(models, truth, empty, 21)
    one = jp.fit(models, truth, images, sampling=QUAD)
    if way == "images":
        single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), images)
        small = {k: replace(single[k], transform=image.transform.astype(jnp.float32)) for k, image in images.items()}
        fits = jax.tree.map(lambda leaf: leaf[None], jp.fit(models, truth, small, sampling=QUAD))
    else:
        sets = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), images)
        starts = 2 if way == "mixed" else 1
        fits = jp.fit_batch(models, truth, sets, precision=way, starts=starts, sampling=QUAD, progress=False)
    assert np.all(np.asarray(fits.status) == lm.CONVERGED)
    for key in ("center", "sigma", "q"):
        off = np.asarray(fits.params["star"][key][0]) - np.asarray(one.params["star"][key])
        assert np.max(np.abs(off / np.asarray(one.stderr["star"][key]))) < 0.03, key
    table = jp.to_table(one, model=models)
    assert table["star.sigma[1]"].unit == "arcsec"
    assert "star.flux.g_err" in table.colnames


@pytest.mark.full
def test_errors_of_shared_parameters_are_honest():
    """200 sets of five bands: pulls are N(0, 1), and what is found scatters as the Fisher matrix predicts."""
    models, truth, empty = banded()
    count, noise = 200, np.random.default_rng(77)
    sets, triples = {}, jp.separate(models, truth, empty)
    for band, triple in triples.items():
        image, clean = empty[band], np.asarray(jp.render(*triple, QUAD))
        noisy = clean + noise.normal(size=(count, *clean.shape)) / np.sqrt(np.asarray(image.ivar))
        stack = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *leaf.shape)), image)
        sets[band] = replace(stack, data=noisy)
    fits = jp.fit_batch(models, truth, sets, sampling=QUAD, progress=False)
    assert np.all(np.asarray(fits.status) == lm.CONVERGED)
    found, errors, true = (names_and_values(tree) for tree in (fits.params, fits.stderr, truth))
    clean = {key: replace(empty[key], data=jp.render(*one, QUAD)) for key, one in triples.items()}
    predicted = names_and_values(jp.fit(models, truth, clean, sampling=QUAD).stderr)
    for name, error in errors.items():
        pull = (found[name] - true[name]) / error
        assert np.all(np.abs(np.mean(pull, axis=0)) < 0.15), name
        assert np.all(np.abs(np.std(pull, axis=0) - 1) < 0.15), name
        assert_allclose(np.mean(error, axis=0), predicted[name], rtol=0.05, err_msg=name)


# --- transforms -----------------------------------------------------------------------------------------------------


def test_images_are_aligned_with_the_first():
    shift = np.array([[0.0, 0.0], [0.12, -0.05], [-0.08, 0.1]])
    images = dithers()
    wrong = replace(images, transform=replace(images.transform, crtan=images.transform.crtan + shift))
    fit = jp.fit(SIMPLE, DITHER_START, wrong, per_image=PER_IMAGE, sampling=QUAD, transform_free=("crtan",))
    assert fit.status == lm.CONVERGED
    assert fit.names[0] == "_image.1.crtan[0]"
    for key in ("1", "2"):
        pull = fit.params["_image"][key]["crtan"] / fit.stderr["_image"][key]["crtan"]
        assert np.max(np.abs(pull)) < 3.5  # the true crtan is 0
    assert "0" not in fit.params["_image"]
    triple = jp.separate(SIMPLE, fit.params, wrong, PER_IMAGE)[1]
    assert_allclose(triple[2].transform.inner.crtan, fit.params["_image"]["1"]["crtan"])
    chi2 = sum(
        np.sum((image.data - jp.render(*one, QUAD)) ** 2 * image.ivar)
        for image, one in zip(jp.unstack_images(wrong), jp.separate(SIMPLE, fit.params, wrong, PER_IMAGE), strict=True)
    )
    assert_allclose(chi2, fit.chi2, rtol=1e-6)


def test_a_transform_from_stars_with_known_places():
    field = jp.scene(**{f"s{k}": jp.models.gaussian for k in range(4)})
    places = [(-3.0, -2.0), (3.0, -2.2), (-2.5, 2.4), (2.0, 2.0)]
    truth = {
        f"s{k}": {"center": np.array(c), "q": 0.9, "PA": 0.2, "sigma": 0.6, "flux": 90.0} for k, c in enumerate(places)
    }
    transform = jp.make_linear(cd=[[-0.3, 0.02], [0.01, 0.31]], crpix=(15, 14), crtan=(0.1, -0.2))
    empty = jp.make_image(np.zeros((30, 32)), std=0.2, transform=transform)
    image = observed({"a": field}, truth, {"a": empty}, 2)["a"]
    wrong = replace(image, transform=jp.make_linear(cd=[[-0.295, 0.0], [0.0, 0.305]], crpix=(15, 14)))
    shape = {"center": None, "q": None, "PA": None, "sigma": None}
    fit = jp.fit(field, truth, wrong, fixed=dict.fromkeys(truth, shape), transform_free=("crtan", "cd"), sampling=QUAD)
    assert fit.status == lm.CONVERGED
    for name, true in (("crtan", transform.crtan), ("cd", transform.cd)):
        assert np.max(np.abs((fit.params["_image"][name] - true) / fit.stderr["_image"][name])) < 3.5


# --- linear amplitudes ----------------------------------------------------------------------------------------------


def test_linear_amplitudes_reach_the_same_minimum_in_fewer_steps():
    models, truth, empty = banded()
    steps = {}
    start = {"star": {**STAR, "center": np.array([0.6, 0.3]), "sigma": np.array([1.4, 0.0])}, "sky": {}}
    start["star"]["flux"], start["sky"]["I0"] = dict.fromkeys(BANDS, 10.0), dict.fromkeys(BANDS, 0.0)
    images = observed(models, truth, empty, 12)
    for linear in (None, ()):
        fit = jp.fit(models, start, images, sampling=QUAD, linear=linear, rtol=1e-6)
        assert fit.status == lm.CONVERGED
        steps[linear] = int(fit.steps), float(fit.chi2)
    assert steps[None][0] < steps[()][0]
    assert_allclose(steps[None][1], steps[()][1], rtol=1e-8)


def test_forced_photometry_is_one_linear_solve():
    """Signed fluxes at known places, against NumPy's least squares on the rendered templates."""
    rng = np.random.default_rng(4)
    stars = jp.scene(**{f"s{k}": jp.models.point_source for k in range(6)}, sky=jp.models.flat_sky)
    params = {f"s{k}": {"center": rng.uniform(3, 22, 2), "flux": 1.0} for k in range(6)} | {"sky": {"I0": 0.0}}
    psf = np.exp(-0.5 * np.add.outer(np.arange(-5, 6) ** 2, np.arange(-5, 6) ** 2) / 1.4**2)
    image = jp.make_image(rng.normal(size=(25, 26)), std=1.0, psf=psf)
    fixed = {f"s{k}": {"center": None} for k in range(6)}
    names = (*(f"s{k}.flux" for k in range(6)), "sky")
    fit = jp.fit(stars, params, image, fixed=fixed, linear=names)
    assert fit.status == lm.CONVERGED
    assert int(fit.steps) <= 1
    dark = jax.tree.map(lambda leaf: 0.0 * leaf, params)
    columns = []
    for name in fit.names:
        part, key = name.split(".")
        lit = {own: {**params[own], **{k: dark[own][k] for k in dark[own] if k != "center"}} for own in params}
        lit[part] = {**lit[part], key: 1.0}
        columns.append(np.ravel(jp.render(stars, lit, image)))
    design = np.stack(columns, axis=1)
    best = np.linalg.lstsq(design, np.ravel(image.data), rcond=None)[0]
    found = names_and_values(fit.params)
    assert_allclose([found[name] for name in fit.names], best, rtol=1e-8, atol=1e-9)
    assert np.any(best < 0)
    assert_allclose(fit.covariance, np.linalg.inv(design.T @ design), rtol=1e-8)

    copies = jp.scene(stars=jp.many(jp.models.point_source), sky=jp.models.flat_sky)
    centers = np.stack([params[f"s{k}"]["center"] for k in range(6)])
    together = {"stars": {"center": centers, "flux": np.ones(6)}, "sky": {"I0": 0.0}}
    many = jp.fit(copies, together, image, fixed={"stars": {"center": None}}, linear=("stars", "sky"))
    assert many.status == lm.CONVERGED
    assert int(many.steps) <= 2
    assert_allclose(many.params["stars"]["flux"], [found[f"s{k}.flux"] for k in range(6)], rtol=1e-4, atol=1e-4)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_bad_input_is_named():
    models, truth, images = banded()
    two = {key: images[key] for key in ("g", "r")}

    def error(text, models=models, theta=truth, images=images, kind=ValueError, **options):
        with pytest.raises(kind, match=text):
            jp.fit(models, theta, images, sampling=QUAD, **options)

    error("r has no model", {"g": SIMPLE}, STAR, two)
    error("expected a dictionary of models with a dictionary", SIMPLE, truth, two, TypeError)

    def extra(theta):
        return {**theta, "halo": theta["star"]}

    def absent(theta):
        return {"star": theta["stars"], "sky": theta["sky"]}

    plain = {"star": {**STAR, "flux": 1.0}, "sky": {"I0": 0.0}}
    error("image 'r'.*\n.*halo: unknown", {"g": SIMPLE, "r": jp.linked(SIMPLE, extra)}, plain, two)
    error("image 'r': its view asks for 'stars'", {"g": SIMPLE, "r": jp.linked(SIMPLE, absent)}, plain, two)
    far = replace(two["r"], transform=replace(two["r"].transform, crval=jnp.asarray([150.5, 2.0])))
    same = {"g": SIMPLE, "r": SIMPLE}
    error("image 'r' does not overlap the model", same, plain, {**two, "r": far})
    error("image: r is float32", same, plain, {**two, "r": jp.make_image(np.zeros((3, 3), np.float32), std=1.0)})
    error("unknown image u", same, plain, two, transform_free={"u": ("crtan",)})
    error("no parameter 'crota'", same, plain, two, transform_free=("crota",))
    error("window: unknown image u", same, plain, two, window={"u": (0, 5, 0, 5)})
    error("linear: star.q is no amplitude", same, plain, two, linear=("star.q",))
    error("linear: unknown star.brightness", same, plain, two, linear=("star.brightness",))
    error("Gaussian noise without priors", same, plain, two, linear=("sky",), likelihood=jp.likelihood.student_t())
    error("per_image: is for a stack", same, plain, two, per_image=("sky",))
    error("per_image: unknown skies", SIMPLE, DITHERS, dithers(), per_image=("skies",))
    error("per_image=", SIMPLE, plain, two["g"], per_image=("sky",))
    for orders, text in (({"star.sigma": 5}, "star.sigma expects"), ({"star.n": 1}, "unknown star.n")):
        with pytest.raises(ValueError, match=text):
            jp.models.by_wavelength(SIMPLE, BANDS, orders)
    with pytest.raises(ValueError, match="different positive numbers"):
        jp.models.by_wavelength(SIMPLE, {"g": 1.0, "r": 1.0})
    with pytest.raises(ValueError, match="no inverse"):
        jp.initialize({"g": SIMPLE, "r": jp.linked(SIMPLE, lambda theta: theta)}, two)


def test_what_no_image_sees_is_singular():
    model = jp.linked(SIMPLE, lambda theta: {"star": theta["star"], "sky": theta["sky"]})
    one = observed({"a": SIMPLE}, {"star": {**STAR, "flux": 50.0}, "sky": {"I0": 1.0}}, {"a": turned(0)}, 1)
    start = {"star": {**STAR, "flux": 50.0}, "sky": {"I0": 1.0}, "idle": 1.0}
    fit = jp.fit({"a": model}, start, one, sampling=QUAD)
    assert fit.status == lm.SINGULAR
    assert bool(fit.undetermined["idle"])
    assert np.isfinite(fit.stderr["star"]["flux"])
