"""Crowded fields: stamps against whole frames, sparse against dense, twins, padded catalogues, forced photometry."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxphot as jp
from jaxphot.fitting import blocks, crowded, lm, problem, scenes, solve
from jaxphot.fitting.equations import half_squares, normal_equations
from jaxphot.fitting.neighbours import BlockCovariance
from jaxphot.pytree import leaves_with_names, update
from jaxphot.render import apply, prepare
from jaxphot.source_table import _variances

SIDE = (60, 70)
STARS = jp.scene(stars=jp.many(jp.models.point_source, stamp=25), sky=jp.models.flat_sky)


def blank(shape=SIDE, dtype=None):
    y, x = np.mgrid[-8:9, -8:9]
    psf = jp.make_psf(np.exp(-(x**2 + y**2) / 2 / 1.3**2))
    return jp.make_image(np.zeros(shape), std=1.0, psf=psf, pixelscale=0.5, dtype=dtype)


def star_truth(count, seed=3):
    """Stars on a jittered grid, 8 pixels apart, so that stamps overlap with many others."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(8, 66, 8), np.arange(8, 56, 8)), -1).reshape(-1, 2)[:count]
    center = 0.5 * (grid + rng.uniform(-2, 2, grid.shape))
    return {"stars": {"center": center, "flux": rng.uniform(200, 2000, count)}, "sky": {"I0": 4.0}}


def noisy(model, truth, image, seed=0):
    data = jp.render(model, truth, image) + np.random.default_rng(seed).standard_normal(image.shape)
    return replace(image, data=data)


def off(truth):
    """A start: 0.2 arcsec and 20 % off."""
    stars = {"center": truth["stars"]["center"] + 0.15, "flux": truth["stars"]["flux"] * 0.8}
    return {**truth, "stars": stars}


@pytest.fixture(scope="module")
def field():
    truth = star_truth(12)
    return truth, noisy(STARS, truth, blank())


def as_sparse(monkeypatch):
    """Keep no normal matrix as a whole; programs compiled so far know nothing of it."""
    monkeypatch.setattr(scenes, "LARGEST_DENSE", 0)
    jax.clear_caches()


@pytest.fixture
def sparse(monkeypatch):
    as_sparse(monkeypatch)
    yield
    jax.clear_caches()


@pytest.mark.full
def test_stamps_hold_what_the_whole_frame_does():
    count = 3
    rows = {"q": np.full(count, 0.7), "PA": np.arange(3.0), "n": np.full(count, 1.0), "Re": np.full(count, 0.8)}
    truth = star_truth(count)
    galaxies = {**rows, "center": truth["stars"]["center"][::-1], "Ie": np.arange(1.0, 4.0)}
    params = {"stars": truth["stars"], "galaxies": galaxies}
    point, sersic = jp.models.point_source, jp.models.sersic
    whole = jp.render(jp.scene(stars=jp.many(point), galaxies=jp.many(sersic)), params, blank())
    model = jp.scene(stars=jp.many(point, stamp=(31, 29)), galaxies=jp.many(sersic, stamp=59))
    stamps, error = jp.render(model, params, blank(), with_error=True)
    np.testing.assert_allclose(stamps, whole, atol=2e-7 * float(whole.max()))
    assert np.all(error >= 0)
    assert float(error.max()) < 1e-2 * float(whole.max())
    gradient = jax.grad(lambda own: jp.render(model, own, blank()).sum())(params)
    np.testing.assert_allclose(gradient["stars"]["flux"], 1, atol=1e-3)


def test_stamps_on_pixels_that_are_distorted_or_sensitive_in_part():
    truth = star_truth(4)
    transform = jp.make_cmos(
        jp.make_sip(SIDE, a={(2, 0): 2e-4}, b={(0, 2): -1e-4}, pixelscale=0.5, crpix=(30, 30)), scale=0.8
    )
    image = replace(blank(), transform=transform)
    own = {**truth["stars"], "center": truth["stars"]["center"] - 12}
    whole = jp.render(jp.many(jp.models.point_source), own, image)
    stamps = jp.render(jp.many(jp.models.point_source, stamp=31), own, image)
    np.testing.assert_allclose(stamps, whole, atol=1e-6 * float(whole.max()))


@pytest.mark.full
def test_normal_equations_are_those_of_the_frame(field):
    truth, image = field
    setup, lane = make_problem(STARS, off(truth), image)
    prepared, coordinates = prepare(lane.image, setup.sampling), setup.coordinates
    firsts = scenes.all_first_pixels(STARS, lane.start, image.transform, image.shape)

    def residuals(z):
        params = update(lane.start, coordinates.unflatten(coordinates.from_internal(z)))
        return (apply(prepared, STARS, params, firsts=firsts) - image.data) * jnp.sqrt(image.ivar)

    z = coordinates.to_internal(coordinates.flatten(lane.start, image.dtype))
    expected = jax.jit(lambda z: normal_equations(residuals, z, half_squares))(z)
    layout = crowded.layout_of(setup, lane)
    found = jax.jit(
        lambda z: scenes.make_equations(STARS, coordinates, layout, prepared, lane.start)(
            None, z, lambda value: setup.likelihood.terms(value, lane.image)
        )
    )(z)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-12)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-9, atol=1e-9)
    scale = np.sqrt(np.diagonal(expected.hessian))
    np.testing.assert_allclose(
        found.hessian / np.outer(scale, scale), expected.hessian / np.outer(scale, scale), atol=1e-11
    )


def make_problem(model, start, image, **options):
    return problem.make_problem(model, start, image, **solve.complete_options("test", options))


def random_matrix(seed=0, sources=5, width=3, shared=2):
    """A positive definite `BlockMatrix` of sources of which one has a parameter less."""
    rng = np.random.default_rng(seed)
    size = sources * width + shared - 1
    index = np.arange(sources * width).reshape(sources, width)
    index[-1, -1] = size
    where = np.arange(size - shared, size)
    pairs = np.asarray([[0, 1], [1, 2], [0, 2], [3, 4], [sources, sources]])
    couplings = 0.4 * rng.standard_normal((len(pairs), width, width))
    couplings[3, :, -1] = couplings[-1] = 0
    own = rng.standard_normal((sources, width, 2 * width))
    full = own @ np.swapaxes(own, 1, 2) + 6 * np.eye(width)
    cross = 0.3 * rng.standard_normal((sources, width, shared))
    full[-1, -1, :] = full[-1, :, -1] = cross[-1, -1] = 0
    corner = np.eye(shared) * 9 + 0.5
    leaves = (full, pairs, couplings, cross, corner, index, where)
    return blocks.BlockMatrix(*(jnp.asarray(leaf) for leaf in leaves), size)


def test_block_matrix_is_the_matrix_that_it_stands_for():
    matrix, rng = random_matrix(), np.random.default_rng(1)
    dense, size = np.asarray(matrix.dense()), matrix.size
    np.testing.assert_allclose(dense, dense.T)
    vector, held = jnp.asarray(rng.standard_normal(size)), jnp.arange(size) == 4
    np.testing.assert_allclose(matrix @ vector, dense @ vector, rtol=1e-12)
    np.testing.assert_allclose(matrix.diagonal(), np.diagonal(dense))
    damping = jnp.full(size, 0.3)
    found = blocks.solve_blocks(matrix, vector, damping, held)
    np.testing.assert_allclose(found, lm.solve_scaled(matrix.dense(), vector, damping, held), rtol=1e-5, atol=1e-8)
    turn, _ = np.linalg.qr(rng.standard_normal((5, 3, 3)))
    turn[-1, -1, :2] = turn[-1, :2, -1] = 0
    turn[-1, :2, :2] = np.linalg.qr(turn[-1, :2, :2])[0]
    basis = blocks.BlockBasis(jnp.asarray(turn), jnp.eye(2), matrix.index, matrix.shared)
    whole = np.stack([np.asarray(basis @ row) for row in np.eye(size)], axis=1)
    np.testing.assert_allclose(matrix.congruent(basis).dense(), whole.T @ dense @ whole, atol=1e-12)
    np.testing.assert_allclose(basis.T @ vector, whole.T @ vector, atol=1e-12)


def test_sparse_fit_is_the_dense_one(field, sparse, monkeypatch):
    truth, image = field
    start = off(truth)
    fit = jp.fit(STARS, start, image)
    monkeypatch.undo()
    jax.clear_caches()
    dense = jp.fit(STARS, start, image)
    assert int(fit.status) == int(dense.status) == 0
    assert int(fit.steps) <= 6
    np.testing.assert_allclose(fit.chi2, dense.chi2, rtol=1e-8)
    for (_, found), (name, expected) in zip(*(leaves_with_names(f.stderr) for f in (fit, dense)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, err_msg=name)
    for (name, found), (_, expected) in zip(*(leaves_with_names(f.params) for f in (fit, dense)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=name)
    block = np.asarray(dense.covariance)[np.ix_(fit.covariance.index[0], fit.covariance.index[0])]
    np.testing.assert_allclose(fit.covariance.blocks[0], block, rtol=1e-3, atol=1e-9)
    pull = (np.asarray(fit.params["stars"]["flux"]) - truth["stars"]["flux"]) / fit.stderr["stars"]["flux"]
    assert np.max(np.abs(pull)) < 4


@pytest.mark.parametrize("is_sparse", [False, True])
def test_twins_are_named_and_the_rest_is_solved(field, is_sparse, monkeypatch):
    truth, image = field
    if is_sparse:
        as_sparse(monkeypatch)
    stars = {key: np.concatenate([leaf, leaf[:1]]) for key, leaf in truth["stars"].items()}
    fit = jp.fit(STARS, {**truth, "stars": stars}, image)
    assert int(fit.status) == lm.SINGULAR
    message = jp.status_message(fit)
    assert "stars.flux[0]" in message
    assert "stars.flux[12]" in message
    assert "stars.flux[5]" not in message
    error = np.asarray(fit.stderr["stars"]["flux"])
    assert np.all(np.isnan(error[[0, 12]]))
    assert np.all(np.isfinite(error[1:12]))
    pull = (np.asarray(fit.params["stars"]["flux"])[1:12] - truth["stars"]["flux"][1:]) / error[1:12]
    assert np.max(np.abs(pull)) < 4
    if is_sparse:
        monkeypatch.undo()
        jax.clear_caches()


def test_padded_catalogue_is_the_same_fit_in_one_program(field):
    truth, image = field
    padded = jp.scene(stars=jp.many(jp.models.point_source, stamp=25, padded=True), sky=jp.models.flat_sky)
    plain = jp.fit(STARS, off(truth), image)
    before = solve._quick_program._cache_size()
    for count in (12, 9):
        start = {**off(truth), "stars": jp.pad_sources({k: v[:count] for k, v in off(truth)["stars"].items()}, 14)}
        fit = jp.fit(padded, start, image)
        assert solve._quick_program._cache_size() == before + 1
        assert int(fit.dof) == image.data.size - 3 * count - 1
        if count == 12:
            assert int(fit.status) == 0, jp.status_message(fit)
            np.testing.assert_allclose(fit.params["stars"]["flux"][:12], plain.params["stars"]["flux"], rtol=1e-5)
            assert np.all(np.isnan(fit.stderr["stars"]["flux"][12:]))


def test_a_group_of_one_beside_another(field):
    truth, image = field
    stars = {
        name: {k: v[part] for k, v in truth["stars"].items()} for name, part in (("a", np.s_[:1]), ("b", np.s_[1:]))
    }
    point = jp.models.point_source
    model = jp.scene(a=jp.many(point, stamp=25), b=jp.many(point, stamp=27), sky=jp.models.flat_sky)
    fit = jp.fit(model, {**stars, "sky": {"I0": 3.0}}, image)
    assert int(fit.status) == 0, jp.status_message(fit)
    for name in "ab":
        pull = (np.asarray(fit.params[name]["flux"]) - stars[name]["flux"]) / fit.stderr[name]["flux"]
        assert np.max(np.abs(pull)) < 4


def test_forced_photometry_is_one_linear_solve(field, sparse):
    truth, image = field
    fit = jp.fit(
        STARS,
        off(truth) | {"stars": {**truth["stars"], "flux": np.zeros(12)}},
        image,
        fixed={"stars": {"center": None}},
    )
    assert int(fit.status) == 0
    assert int(fit.steps) <= 1
    pull = (np.asarray(fit.params["stars"]["flux"]) - truth["stars"]["flux"]) / fit.stderr["stars"]["flux"]
    assert np.max(np.abs(pull)) < 4


def test_pairs_found_outside_are_those_found_inside():
    rng = np.random.default_rng(5)
    first = rng.integers(0, 400, (300, 2))
    found = crowded._touching(first, first, (20, 30), (20, 30), True)
    shift = first[None] - first[:, None]
    touching = (np.abs(shift[..., 0]) < 30) & (np.abs(shift[..., 1]) < 20)
    assert {tuple(pair) for pair in found.tolist()} == set(zip(*np.nonzero(np.triu(touching, 1)), strict=True))
    others = rng.integers(0, 400, (100, 2))
    found = crowded._touching(first, others, (20, 30), (50, 10), False)
    shift = others[None] - first[:, None]
    low, high = np.asarray([-10, -50]), np.asarray([30, 20])
    expected = np.nonzero(np.all((shift > low) & (shift < high), axis=-1))
    assert {tuple(pair) for pair in found.tolist()} == set(zip(*expected, strict=True))


def test_bad_input():
    truth = star_truth(2)["stars"]
    with pytest.raises(ValueError, match=r"stamp: 65 × 65 pixels .* do not fit into the frame of 60 × 70"):
        jp.render(jp.many(jp.models.point_source, stamp=65), truth, blank())
    for stamp in (0, 2.5, (3, 4, 5), True):
        with pytest.raises(ValueError, match="stamp: expected a positive integer"):
            jp.many(jp.models.point_source, stamp=stamp)
    with pytest.raises(ValueError, match="padded=True needs a stamp"):
        jp.many(jp.models.point_source, padded=True)
    with pytest.raises(ValueError, match="expected leaves with one leading axis, from 1 to 1 long"):
        jp.pad_sources(truth, 1)
    with pytest.raises(ValueError, match="stamps need a parameter `center`"):
        jp.render(jp.many(jp.models.flat_sky, stamp=9), {"I0": np.ones(2)}, blank())
    with pytest.raises(ValueError, match="one leading axis"):
        jp.render(jp.many(jp.models.point_source, stamp=9), {"center": np.zeros((2, 2)), "flux": np.ones(3)}, blank())


def test_fields_of_different_numbers_in_one_batch_in_float32():
    model = jp.scene(stars=jp.many(jp.models.point_source, stamp=21, padded=True), sky=jp.models.flat_sky)
    images, starts, truths = [], [], []
    for count in (3, 2):
        truth = star_truth(count, seed=count)
        data = noisy(STARS, truth, blank(), seed=count).data
        images.append(jp.make_image(data, std=1.0, psf=blank().psf, pixelscale=0.5, dtype=np.float32))
        starts.append({**off(truth), "stars": jp.pad_sources(off(truth)["stars"], 4)})
        truths.append(truth)
    starts = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), np.float32), *starts)
    fits = jax.jit(jax.vmap(lambda p, im: jp.fit(model, p, im)))(starts, jp.stack_images(images))
    assert fits.chi2.dtype == np.float32
    assert fits.status.tolist() == [0, 0]
    for lane, truth in enumerate(truths):
        count = len(truth["stars"]["flux"])
        flux, error = (np.asarray(tree["stars"]["flux"])[lane, :count] for tree in (fits.params, fits.stderr))
        assert np.max(np.abs(flux - truth["stars"]["flux"]) / error) < 4


def test_files_and_tables_of_large_fields(field, sparse, tmp_path):
    """A covariance of blocks comes back exactly; what needs all of it says so."""
    truth, image = field
    fit = jp.fit(STARS, truth, image, fixed={"stars": {"center": None}})
    for name in ("fit.fits", "fit.ecsv"):
        jp.save_fit(tmp_path / name, fit)
        again = jp.load_fit(tmp_path / name)
        assert again.covariance.size == fit.covariance.size == 13
        for ours, theirs in zip(jax.tree.leaves(fit), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(again.covariance.diagonal(), fit.covariance.diagonal())
    table = jp.to_table(fit)
    np.testing.assert_allclose(table["stars.flux[3]_err"], fit.stderr["stars"]["flux"][3])
    jp.write_table(tmp_path / "fit.csv", table)
    for use in (jp.to_arviz, jp.plot.corner, lambda own: jp.propagate(lambda p: p["sky"]["I0"], own)):
        with pytest.raises(ValueError, match="BlockCovariance"):
            use(fit)


def test_error_of_a_flux_from_blocks():
    """The same from the block of the source as from all of the covariance."""
    root = np.random.default_rng(2).normal(size=(6, 6))
    whole, index, shared = root @ root.T, np.array([[0, 2], [1, 6], [3, 4]]), np.array([5])
    padded = np.pad(whole, (0, 1))
    of_sources = np.stack([padded[np.ix_(row, row)] for row in index])
    names = tuple("abcdef")
    fits = [
        SimpleNamespace(names=names, at_bound={"all": np.zeros(6, bool)}, covariance=covariance)
        for covariance in (whole, BlockCovariance(of_sources, whole[5:, 5:], index, shared, 6))
    ]
    for own, slopes in ((["a", "c"], [0.3, -2.0]), (["b", "x"], [1.5, 1.0]), (["d", "e"], [0.0, 2.0])):
        dense, sparse = (_variances(fit)(np.array(own, object), np.array(slopes)) for fit in fits)
        np.testing.assert_allclose(sparse, dense)
        assert dense > 0
