"""One table of all that is public: under jit, grad, vmap, pmap, shard_map and checkpoint it is what it is without.

`ROWS` has a function of some arrays for every public name that computes; `EXEMPT` says why a name is in no row. A new
public function without either fails here.
"""

import functools
import inspect
import os
import pickle
import subprocess
import sys
import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from jax.sharding import Mesh, PartitionSpec
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot.fitting import lm

SKY, MIDPOINT = jp.models.flat_sky, jp.sampling.midpoint()
MODEL = jp.scene(galaxy=jp.models.gaussian, sky=SKY)
NOISY = jp.scene(galaxy=jp.models.gaussian, sky=SKY, noise=jp.models.noise_floor)
LIVE = jp.with_psf(MODEL, jp.psf_models.round_gaussian, (5, 5))
RNG = np.random.default_rng(0)
TRANSFORM = jp.make_linear(cd=[[-0.3, 0.01], [0.01, 0.3]], crpix=(2.4, 2.6), crval=(150.0, 2.0))
IMAGE = jp.make_image(
    RNG.normal(3, 0.5, (6, 6)), std=0.5, gain=2.0, zeropoint=25.0, transform=TRANSFORM, psf=np.ones((3, 3))
)
# what rows are functions of: an image, a positive number, a random key's seed is fixed
X = {"image": IMAGE, "v": jnp.asarray(0.7)}
KEY = jax.random.key(3)


def params(x):
    galaxy = {"center": jnp.zeros(2, x["v"].dtype), "q": 0.6, "PA": 0.5, "sigma": x["v"], "flux": 5.0}
    return {"galaxy": galaxy, "sky": {"I0": 1.5}}


def rendered(x, sampling=MIDPOINT, model=MODEL, **more):
    return jp.render(model, params(x) | more, x["image"], sampling)


def likely(likelihood, model=MODEL, **more):
    return lambda x: jp.log_likelihood(model, params(x) | more, x["image"], likelihood, MIDPOINT)


def sky_fit(x, **options):
    return jp.fit(SKY, {"I0": x["v"]}, x["image"], rtol=1e-9, **options)


def numbers_of(fit):
    return fit.params, fit.stderr, fit.covariance, fit.chi2


def residuals(x):
    return lambda p: jnp.concatenate(
        [x["image"].data[0] - p[0] * jnp.exp(-p[1] * jnp.arange(6, dtype=p.dtype)), x["v"] * p[1:]]
    )


def plane(x):
    return jp.fitting.lm.run(residuals(x), jnp.asarray([3.0, 0.1], x["v"].dtype)).loss


ROWS = {
    "crop": lambda x: jp.crop(x["image"], (1, 5, 0, 4)).data,
    "rebin": lambda x: jp.rebin(x["image"], 2).data,
    "stack_images": lambda x: jp.stack_images([x["image"], jp.crop(x["image"], (0, 6, 0, 6))]).data,
    "share_plane": lambda x: jp.share_plane({"a": x["image"], "b": x["image"]})["b"].data,
    "estimate_variance": lambda x: jp.estimate_variance(x["image"]),
    "pixel_to_sky": lambda x: jp.pixel_to_sky(x["image"].transform, x["v"], x["v"]),
    "sky_to_pixel": lambda x: jp.sky_to_pixel(x["image"].transform, 150 + x["v"] / 3600, 2 + 0 * x["v"]),
    "plane_to_sky": lambda x: jp.plane_to_sky(x["v"], 2 * x["v"], x["image"].transform.crval),
    "sky_to_plane": lambda x: jp.sky_to_plane(150 + x["v"] / 3600, 2 + 0 * x["v"], x["image"].transform.crval),
    "total_flux": lambda x: jp.total_flux(MODEL, params(x)) * x["v"],
    "psf_from_model": lambda x: (
        jp.psf_from_model(jp.models.gaussian, params(x)["galaxy"], (5, 5), image=x["image"]).data
    ),
    "unstack_images": lambda x: jp.unstack_images(jp.stack_images([x["image"]] * 2))[1].data,
    "pad_sources": lambda x: jp.pad_sources({"flux": x["image"].data[0]}, 8),
    "separate": lambda x: [own for _, own, _ in jp.separate({"a": SKY}, {"I0": x["v"]}, {"a": x["image"]}).values()],
    "render": rendered,
    "prepare": lambda x: jp.apply(jp.prepare(x["image"], MIDPOINT), MODEL, params(x)),
    "apply": lambda x: jp.apply(jp.prepare(x["image"]), MODEL, params(x)),
    "with_psf": lambda x: rendered(x, model=LIVE, psf={"sigma": 0.5 + x["v"]}),
    "sampling.midpoint": lambda x: rendered(x, jp.sampling.midpoint()),
    "sampling.simpsons": lambda x: rendered(x, jp.sampling.simpsons()),
    "sampling.quad": lambda x: rendered(x, jp.sampling.quad(2)),
    "sampling.upsample": lambda x: rendered(x, jp.sampling.upsample(3)),
    "sampling.adaptive": lambda x: rendered(x, jp.sampling.adaptive()),
    "sampling.mean_and_error": lambda x: jp.render(MODEL, params(x), x["image"], jp.sampling.quad(2), with_error=True),
    "likelihood.gaussian": likely(jp.likelihood.gaussian()),
    "likelihood.poisson": likely(jp.likelihood.poisson()),
    "likelihood.student_t": likely(jp.likelihood.student_t(4)),
    "likelihood.huber": likely(jp.likelihood.huber()),
    "likelihood.model_variance": likely(jp.likelihood.model_variance(0.3)),
    "likelihood.fractional_floor": likely(jp.likelihood.fractional_floor(), NOISY, noise={"f": 0.1}),
    "likelihood.correlated": likely(jp.likelihood.correlated([[0.2, 1.0, 0.3]])),
    "priors.normal": lambda x: jp.priors.normal(1.0, 0.5)(x["v"]),
    "priors.lognormal": lambda x: jp.priors.lognormal(1.0, 0.5)(x["v"]),
    "priors.uniform": lambda x: jp.priors.uniform(0.0, x["v"])(x["v"] / 2),
    "priors.von_mises": lambda x: jp.priors.von_mises(0.2, 0.5)(x["v"]),
    "log_likelihood": lambda x: jp.log_likelihood(MODEL, params(x), x["image"]),
    "log_density": lambda x: jp.log_density(SKY, x["image"], {"I0": jp.priors.normal(x["v"], 1.0)})({"I0": x["v"]}),
    "simulate": lambda x: jp.simulate(SKY, {"I0": x["v"]}, x["image"], KEY).data,
    "fit": lambda x: numbers_of(sky_fit(x)),
    "fit_optax": lambda x: numbers_of(jp.fit_optax(SKY, {"I0": x["v"]}, x["image"], steps=30, tolerance=1e-9)[0]),
    "laplace": lambda x: jp.laplace(SKY, sky_fit(x), x["image"], KEY, 3),
    "propagate": lambda x: jp.propagate(lambda p: p["I0"] ** 2, sky_fit(x))[:2],
    "robust_errors": lambda x: jp.robust_errors(SKY, sky_fit(x), x["image"]).stderr,
    "fitting.lm": plane,
}
UNITS = {
    "flux_to_mag": (25.0,),
    "mag_to_flux": (25.0,),
    "flux_err_to_mag_err": (3.0,),
    "surface_brightness": (25.0,),
    "intensity": (25.0,),
    "Ie_to_I0": (2.0,),
    "I0_to_Ie": (2.0,),
    "Ie_to_flux": (2.0, 0.6, 1.5),
    "flux_to_Ie": (2.0, 0.6, 1.5),
    "Re_to_scale": (2.0,),
    "scale_to_Re": (2.0,),
    "fwhm_to_sigma": (),
    "sigma_to_fwhm": (),
    "fwhm_to_Rd": (2.0,),
    "Rd_to_fwhm": (2.0,),
}
ROWS |= {
    f"units.{name}": lambda x, n=name, a=rest: getattr(jp.units, n)(
        x["v"], *(jnp.asarray(own, x["v"].dtype) for own in a)
    )
    for name, rest in UNITS.items()
}

BUILDER = "a builder: checks and canonicalises concrete input; inside jit, dataclasses.replace a leaf"
VALUE = "makes a hashable value, which is static for jit; the rows of render, fit and log_likelihood use such"
TREE = "a pytree; see the round trips below"
FILES = "reads or writes files or tables"
HOST = "a driver on the host, around compiled programs: jax.vmap(fit) is what is to be transformed"
LOOK = "looks at concrete pixels or catalogues"
EXEMPT = {
    **dict.fromkeys(("BatchError", "Parameter", "parameters", "info", "status_message"), "no arrays in it"),
    **dict.fromkeys(("Fit", "GridPSF", "Image", "PSF", "PolynomialPSF"), TREE),
    **dict.fromkeys(("background", "extended", "point", "radial", "scene", "linked", "many"), VALUE),
    **dict.fromkeys(("make_cmos", "make_grid_psf", "make_image", "make_linear", "make_polynomial_psf"), BUILDER),
    **dict.fromkeys(("make_psf", "make_sip", "transform_from_wcs"), BUILDER),
    **dict.fromkeys(
        ("fit_batch", "fit_iterative", "fit_stream", "fit_history", "compile_fit", "enable_compilation_cache"), HOST
    ),
    **dict.fromkeys(("bootstrap", "profile_likelihood", "find_modes", "refits", "inference"), HOST),
    **dict.fromkeys(("initialize", "initialize_scene", "deblend", "windows_from_segmentation"), LOOK),
    **dict.fromkeys(("read_fits", "read_psf", "read_psfex", "read_psf_grid", "write_fits", "fits", "catalog"), FILES),
    **dict.fromkeys(("from_ccddata", "to_ccddata", "to_table", "to_source_table", "save_fit", "load_fit"), FILES),
    **dict.fromkeys(("from_photutils", "read_astrophot", "read_galfit", "read_imfit", "write_galfit"), FILES),
    **dict.fromkeys(("write_imfit", "to_arviz", "to_xarray", "write_table"), FILES),
    "plot": "draws",
    "sampling.check_sampling": "raises at the door",
}
OF_MODELS = {"models", "profiles", "metrics", "psf_models"}  # each has rows in the table of `cases.py`


def public_names():
    """Top-level names, and the functions of modules of values."""
    for name in jp.__all__:
        value = getattr(jp, name)
        if not isinstance(value, types.ModuleType) or name in EXEMPT or name in OF_MODELS or name == "fitting":
            yield name
            continue
        for key, function in inspect.getmembers(value, inspect.isfunction):
            helper = name == "priors" and key in ("as_priors", "as_pytree", "bounds_of", "log_prior")
            listed = name != "likelihood" or key in value.__all__
            if key[0] != "_" and not helper and listed and function.__module__ == value.__name__:
                yield f"{name}.{key}"


def test_nothing_public_is_left_out():
    covered = set(ROWS) | set(EXEMPT) | OF_MODELS | {"fitting"}
    assert set(public_names()) - covered == set()
    assert set(ROWS) - set(public_names()) - {"fitting.lm"} == set(), "rows of what is not public"
    assert len(CASES) > 40


STARS = jp.many(jp.models.point_source, stamp=3)
SOURCES = {"center": np.zeros((2, 2)), "flux": np.ones(2)}
SKY_PARAMS = {"I0": 1.0}
# what works on values, of the image and a fit of it: (arguments' names that an error has to have, call)
OUTSIDE = {
    "initialize": ("image", lambda image, fit: jp.initialize(SKY, image)),
    "initialize_scene": ("image", lambda image, fit: jp.initialize_scene(image, np.ones((6, 6), int))),
    "windows_from_segmentation": ("segmentation", lambda image, fit: jp.windows_from_segmentation(image.data > 3)),
    "deblend": ("image", lambda image, fit: jp.deblend(SKY, SKY_PARAMS, image)),
    "fit_batch": ("images", lambda image, fit: jp.fit_batch(SKY, SKY_PARAMS, [image, image])),
    "fit_iterative": ("image", lambda image, fit: jp.fit_iterative(STARS, SOURCES, image)),
    "fit_history": ("image", lambda image, fit: jp.fit_history(SKY, SKY_PARAMS, image)),
    "compile_fit": ("like", lambda image, fit: jp.compile_fit(SKY, like=image)),
    "bootstrap": ("fit, image", lambda image, fit: jp.bootstrap(SKY, fit, image, KEY, 2)),
    "profile_likelihood": ("fit, image", lambda image, fit: jp.profile_likelihood(SKY, fit, image, "I0")),
    "find_modes": ("image", lambda image, fit: jp.find_modes(SKY, SKY_PARAMS, image, 2)),
    "make_image": ("data, std", lambda image, fit: jp.make_image(image.data, std=image.data)),
    "make_psf": ("data", lambda image, fit: jp.make_psf(image.data)),
    "make_grid_psf": ("stamps", lambda image, fit: jp.make_grid_psf([image.data], [(0, 0)])),
    "make_polynomial_psf": ("basis", lambda image, fit: jp.make_polynomial_psf([image.data], 0)),
    "make_linear": ("pixelscale", lambda image, fit: jp.make_linear(pixelscale=image.data[0, 0])),
    "make_sip": ("a", lambda image, fit: jp.make_sip((6, 6), {(2, 0): image.data[0, 0]}, {}, pixelscale=1.0)),
    "make_cmos": ("scale", lambda image, fit: jp.make_cmos(TRANSFORM, scale=image.data[0, 0])),
    "to_table": ("fit", lambda image, fit: jp.to_table(fit)),
    "to_source_table": ("fit", lambda image, fit: jp.to_source_table(fit)),
    "to_xarray": ("fit", lambda image, fit: jp.to_xarray(fit)),
    "save_fit": ("fit", lambda image, fit: jp.save_fit("never.fits", fit)),
    "status_message": ("fit", lambda image, fit: jp.status_message(fit)),
    "write_fits": ("image", lambda image, fit: jp.write_fits("never.fits", image)),
    "write_imfit": ("params, transform", lambda image, fit: jp.write_imfit("never", SKY, fit.params, image.transform)),
    "write_galfit": ("params, image", lambda image, fit: jp.write_galfit("never", SKY, fit.params, image)),
    "plot.image": ("image", lambda image, fit: jp.plot.image(image)),
}


def test_what_needs_values_says_so():
    """Within jit: one error each, that names the arguments, and no message of NumPy's about arrays."""

    def try_all(image):
        fit = jp.fit(SKY, SKY_PARAMS, image)
        for arguments, call in OUTSIDE.values():
            with pytest.raises(TypeError, match=f"^{arguments}: traced by jax.jit"):
                call(image, fit)
        return image.data

    jax.jit(try_all)(IMAGE)


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def total(function):
    """A number that depends on all that a function returns."""
    return lambda x: sum(jnp.sum(jnp.arcsinh(leaf)) for leaf in floats(function(x)))


def moved(x, h):
    """Along a direction in the data and the number."""
    image = x["image"]
    wave = jnp.asarray(np.sin(np.arange(36.0)).reshape(6, 6))
    return {"image": replace(image, data=image.data + h * wave), "v": x["v"] + 0.3 * h}


def stacked(items):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)


@pytest.fixture(autouse=True)
def as_pmap_is():
    """It compares devices' arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def group_of(name):
    """Rows that are compiled together: compilation is what these tests cost."""
    head = name.partition(".")[0]
    if head in ("units", "priors"):
        return "numbers"
    if head in ("likelihood", "log_likelihood", "log_density", "simulate", "fitting"):
        return "densities"
    if head in ("sampling", "render", "prepare", "apply", "with_psf"):
        return "pixels"
    return "fits" if head in ("fit", "fit_optax", "laplace", "propagate", "robust_errors") else "images"


def rows_of(group):
    return {name: function for name, function in ROWS.items() if group_of(name) == group}


FORWARDS_ONLY = ("fitting.lm",)  # a loop of unknown length, as it says
LONG = [pytest.param(group, marks=pytest.mark.full) for group in ("densities", "pixels", "fits")]


@pytest.mark.parametrize("group", ["numbers", "images", *LONG])
def test_transformations(group):
    """Under vmap and shard_map values are those of a loop, and slopes, forwards and backwards, finite differences."""
    rows, h = rows_of(group), 1e-4
    one = lambda x: {name: function(x) for name, function in rows.items()}  # noqa: E731
    sums = lambda x: {name: total(function)(x) for name, function in rows.items()}  # noqa: E731
    weights = {name: RNG.uniform(0.5, 1.5) for name in rows if name not in FORWARDS_ONLY}
    weighted = lambda x: sum(own * total(rows[name])(x) for name, own in weights.items())  # noqa: E731
    direction = jax.tree.map(lambda a, b: (a - b) / 2, moved(X, 1.0), moved(X, -1.0))

    def everything(x):
        slopes = jax.jvp(sums, (x,), (direction,))[1]
        return one(x), slopes, jax.grad(jax.checkpoint(weighted))(x)

    mesh, spec = Mesh(np.array(jax.devices()[:1]), ("lanes",)), PartitionSpec("lanes")
    shared_out = jax.shard_map(jax.vmap(everything), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    lanes = [X, moved(X, h), moved(X, -h)]
    values, slopes, gradient = jax.jit(shared_out)(stacked(lanes[:2]))

    alone = jax.jit(lambda x: (one(x), sums(x)))
    results = [alone(x) for x in lanes]
    for name in rows:
        want = stacked([own[0][name] for own in results[:2]])
        for got, number in zip(jax.tree.leaves(values[name]), jax.tree.leaves(want), strict=True):
            assert_allclose(got, number, rtol=1e-7, atol=1e-8, err_msg=name)
        difference = (results[1][1][name] - results[2][1][name]) / (2 * h)
        assert_allclose(slopes[name][0], difference, rtol=2e-4, atol=2e-5, err_msg=name)
    backwards = jnp.sum(gradient["image"].data[0] * direction["image"].data) + gradient["v"][0] * direction["v"]
    assert_allclose(backwards, sum(own * slopes[name][0] for name, own in weights.items()), rtol=1e-8)


@pytest.mark.full
@pytest.mark.parametrize("name", ROWS)
def test_eager_and_pmap(name):
    """Row by row: values without any transformation are those of jit and of pmap."""
    function = ROWS[name]
    devices = jax.devices()[:2]
    lanes = [moved(X, 0.1 * k) for k in range(len(devices))]
    want = stacked([function(x) for x in lanes])
    got = jax.pmap(function, devices=devices)(stacked(lanes))
    compiled = stacked([jax.jit(function)(x) for x in lanes])
    for a, b, c in zip(*map(jax.tree.leaves, (got, compiled, want)), strict=True):
        assert_allclose(a, c, rtol=1e-8, atol=1e-9)
        assert_allclose(b, c, rtol=1e-8, atol=1e-9)


@pytest.mark.full
def test_pmap_of_a_fit():
    """Several devices, if there are, each their own lanes."""
    devices = jax.devices()[:2]
    lanes = stacked([moved(X, 0.1 * k) for k in range(len(devices))])
    got = jax.pmap(lambda x: sky_fit(x).params["I0"], devices=devices)(lanes)
    assert_allclose(got, jax.vmap(lambda x: sky_fit(x).params["I0"])(lanes), rtol=1e-9)


@pytest.mark.parametrize("name", ROWS)
def test_no_hidden_float64(name):
    """From float32 comes float32, though 64 bits are allowed; no array of pixels is float64 on the way."""
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), X)
    closed = jax.make_jaxpr(ROWS[name])(single)
    assert {leaf.dtype for leaf in closed.out_avals if jnp.issubdtype(leaf.dtype, jnp.floating)} == {
        np.dtype("float32")
    }
    wide = set()
    search(closed.jaxpr, wide)
    if name != "estimate_variance":  # jnp.nanmedian goes by float64 of its own accord
        assert wide == set()


def search(jaxpr, wide):
    """Arrays of float64 that a program and those within it make."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            if getattr(variable.aval, "dtype", None) == np.float64 and variable.aval.size > 16:
                wide.add((equation.primitive.name, variable.aval.shape))
        for value in equation.params.values():
            for item in value if isinstance(value, tuple) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns"):
                    search(inner, wide)


@functools.cache
def trees():
    corners = [(0, 0), (5, 0), (0, 5), (5, 5)]
    return {
        "image": IMAGE,
        "no psf": jp.make_image(np.ones((4, 4)), std=1.0),
        "sip": jp.make_image(
            np.ones((6, 6)), std=1.0,
            transform=jp.make_sip((6, 6), {(2, 0): 1e-4}, {(0, 2): 1e-4}, pixelscale=0.5, crpix=(2.5, 2.5)),
        ),
        "cmos": jp.make_image(np.ones((6, 6)), std=1.0, transform=jp.make_cmos(TRANSFORM, scale=0.8)),
        "psf": jp.make_psf(np.ones((4, 4)), oversample=2),
        "grid psf": jp.make_grid_psf(np.ones((4, 3, 3)), corners),
        "polynomial psf": jp.make_polynomial_psf(np.ones((3, 3, 3)), 1),
        "fit": jp.fit(SKY, {"I0": 1.0}, IMAGE),
        "density": jp.log_density(SKY, IMAGE, {"I0": jp.priors.normal(1.0, 2.0)}),
    }  # fmt: skip


TREES = "image", "no psf", "sip", "cmos", "psf", "grid psf", "polynomial psf", "fit", "density"


@pytest.mark.parametrize("name", TREES)
def test_trees_survive(name, tmp_path):
    """`jax.tree` round trips, pickles, and Orbax, which keeps leaves: the same structure and leaves come back."""
    import orbax.checkpoint as ocp

    tree = trees()[name]
    leaves, structure = jax.tree.flatten(tree)
    copies = [jax.tree.unflatten(structure, leaves), pickle.loads(pickle.dumps(tree)), jax.jit(lambda t: t)(tree)]
    if name in ("image", "fit"):  # each takes a while
        with ocp.StandardCheckpointer() as checkpointer, jax.numpy_dtype_promotion("standard"):
            checkpointer.save(tmp_path / "tree", leaves)
            checkpointer.wait_until_finished()
            copies.append(jax.tree.unflatten(structure, checkpointer.restore(tmp_path / "tree", leaves)))
    for copy in copies:
        assert type(copy) is type(tree)
        assert jax.tree.structure(copy) == structure
        for a, b in zip(jax.tree.leaves(copy), leaves, strict=True):
            assert np.array_equal(a, b, equal_nan=True)
            assert jnp.asarray(a).dtype == jnp.asarray(b).dtype


@pytest.mark.full
def test_on_two_devices():
    """The same table where pmap and shard_map have something to share out."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-k", "pmap", __file__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout
    assert lm.CONVERGED == 0
