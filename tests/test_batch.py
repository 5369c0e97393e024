"""Batches: the same results whatever the schedule, chunk, order or company, and nothing lost when something fails."""

import functools
import signal
import threading
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxphot as jp
from jaxphot.fitting import batch as module
from jaxphot.fitting import lm
from jaxphot.fitting.batch import BatchError

MODEL = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
SKY = jp.models.flat_sky
RULE = jp.sampling.midpoint()
SHAPE = (24, 24)
SNR = np.repeat([10.0, 100.0, 1000.0], 16)
N = len(SNR)


@functools.cache
def cutouts():
    """Truth, starts and images of 48 galaxies of S/N 10, 100 and 1000."""
    rng = np.random.default_rng(1)
    galaxy = {
        "center": 11.5 + rng.uniform(-1, 1, (N, 2)),
        "q": rng.uniform(0.4, 0.9, N),
        "PA": rng.uniform(0, np.pi, N),
        "n": rng.uniform(0.8, 2.0, N),
        "Re": rng.uniform(2.5, 3.5, N),
        "Ie": np.ones(N),
    }
    blank = jp.make_image(np.zeros(SHAPE), std=1.0)
    shapes = np.asarray(jax.jit(jax.vmap(lambda p: jp.render(jp.models.sersic, p, blank, RULE)))(galaxy))
    galaxy["Ie"] = SNR / np.sqrt(np.sum(shapes**2, axis=(1, 2)))
    data = galaxy["Ie"][:, None, None] * shapes + 0.5 + rng.normal(size=shapes.shape)
    starts = {
        "center": galaxy["center"] + rng.uniform(-0.7, 0.7, (N, 2)),
        "q": np.full(N, 0.7),
        "PA": galaxy["PA"] + rng.uniform(-0.7, 0.7, N),
        "n": np.full(N, 1.5),
        "Re": galaxy["Re"] * rng.uniform(0.7, 1.3, N),
        "Ie": galaxy["Ie"] * rng.uniform(0.7, 1.3, N),
    }
    images = jp.stack_images([jp.make_image(d, std=1.0) for d in data])
    truth = {"galaxy": galaxy, "sky": {"I0": np.full(N, 0.5)}}
    return truth, {"galaxy": starts, "sky": {"I0": np.zeros(N)}}, images


def fit_all(params=None, images=None, **options):
    _, own, stack = cutouts()
    options = {"sampling": RULE, "progress": False, "chunk": 8, "model": MODEL} | options
    return jp.fit_batch(options.pop("model"), own if params is None else params,
                        stack if images is None else images, **options)  # fmt: skip


@functools.cache
def reference():
    return fit_all()


def rows(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def flat(tree):
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def assert_identical(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.array_equal(x, y, equal_nan=True)


def assert_same_solutions(a, b, close=1e-10):
    """Equal to rounding where they took the same steps, which nearly all did, and within tolerance everywhere."""
    stderr = np.where(np.isfinite(flat(b.stderr)), flat(b.stderr), 1)
    distance = np.abs(flat(a.params) - flat(b.params))
    equal = np.asarray(a.steps) == np.asarray(b.steps)
    assert np.mean(equal) >= 0.95
    assert np.all(distance[equal] <= close * (np.abs(flat(b.params)) + stderr)[equal])
    assert np.array_equal(a.status, b.status)
    good = np.asarray(a.status) == lm.CONVERGED
    assert np.all(distance[good] <= 1e-2 * stderr[good])
    assert np.all(np.abs(np.asarray(a.chi2) - np.asarray(b.chi2))[good] <= 1e-4)


# --- what may not change a result -----------------------------------------------------------------------------------


def test_fits_are_good():
    truth, _, _ = cutouts()
    fits = reference()
    good = SNR >= 100
    assert np.all(np.asarray(fits.status)[good] == lm.CONVERGED)
    assert np.mean(np.asarray(fits.status) == lm.CONVERGED) > 0.95
    pull = (flat(fits.params) - flat(truth)) / flat(fits.stderr)
    pull = np.delete(pull[good], 1, axis=1)  # PA is modulo π
    assert np.max(np.abs(pull)) < 5
    assert abs(pull.std() - 1) < 0.2
    assert fits.covariance.shape == (N, 8, 8)


def test_bit_identical_whatever_the_chunk_order_and_container():
    _, starts, images = cutouts()
    fits = reference()
    assert_identical(fits, fit_all(chunk=5))
    order = np.random.default_rng(2).permutation(N)
    assert_identical(rows(fits, order), fit_all(rows(starts, order), rows(images, order)))
    listed = jp.unstack_images(images)
    assert_identical(fits, fit_all(images=listed))
    assert_identical(fits, fit_all(images=iter(listed)))
    assert_identical(rows(fits, slice(0, 1)), fit_all(rows(starts, slice(0, 1)), listed[:1]))  # N = 1
    shared = fit_all(rows(starts, 3), rows(images, slice(0, 5)))
    assert_identical(rows(fits, 3), rows(shared, 3))


def test_both_schedules_and_fit_alone_agree():
    _, starts, images = cutouts()
    together = fit_all(schedule="vmap", chunk=None)
    assert_same_solutions(rows(together, SNR >= 100), rows(reference(), SNR >= 100))
    assert_same_solutions(together, reference(), close=1e-8)  # 30 steps at S/N 10 add up to more rounding than 6
    order = np.random.default_rng(2).permutation(N)
    assert_identical(
        rows(together, order), fit_all(rows(starts, order), rows(images, order), schedule="vmap", chunk=20)
    )
    listed = jp.unstack_images(images)
    alone = [jp.fit(MODEL, rows(starts, k), listed[k], sampling=RULE) for k in range(16, N, 2)]
    alone = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    assert_same_solutions(alone, rows(reference(), slice(16, N, 2)))


def test_leaves_without_a_lane_axis_are_shared():
    _, starts, images = cutouts()
    few = rows(images, slice(0, 6))
    levels = np.linspace(0.3, 0.6, 6)
    fixed = {"sky": {"I0": levels}, "galaxy": {"q": 0.6}}
    bounds = {"galaxy": {"Re": (np.full(6, 0.5), 40.0), "center": ([0.0, 0.0], np.full((6, 2), 30.0))}}
    fits = fit_all(rows(starts, slice(0, 6)), few, fixed=fixed, bounds=bounds)
    np.testing.assert_allclose(fits.params["sky"]["I0"], levels)
    np.testing.assert_allclose(fits.params["galaxy"]["q"], 0.6)
    assert "galaxy.Re" in fits.names
    assert "galaxy.q" not in fits.names
    repeated = {"sky": {"I0": levels}, "galaxy": {"q": np.full(6, 0.6)}}
    assert_identical(fits, fit_all(rows(starts, slice(0, 6)), few, fixed=repeated, bounds=bounds))


# --- lanes that cannot be fitted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["map", "vmap"])
def test_hopeless_lanes_say_so_and_touch_nobody(schedule):
    _, starts, images = cutouts()
    data, ivar = np.array(images.data), np.array(images.ivar)
    data[16] = np.nan
    ivar[18] = 0
    data[20] = 0
    i = np.arange(24)
    data[22] = 300 * np.exp(-0.5 * np.add.outer((i - 11.3) ** 2, (i - 12.2) ** 2) / 0.6**2) + data[0] - 0.5  # a star
    data[24, 12, 12] += 1e4  # a cosmic ray
    spoiled = jax.tree.map(np.copy, starts)
    spoiled["galaxy"]["Re"][26] = np.nan
    bad = [16, 18, 20, 22, 24, 26]
    fits = fit_all(spoiled, replace(images, data=jnp.asarray(data), ivar=jnp.asarray(ivar)), schedule=schedule)
    good = fit_all(schedule=schedule)
    others = np.setdiff1d(np.arange(N), bad)
    assert_identical(rows(fits, others), rows(good, others))
    assert list(fits.status[np.array([16, 18, 26])]) == [lm.NO_DATA, lm.NO_DATA, lm.NON_FINITE]
    words = jp.status_message(fits)
    assert words[16].startswith("no data")
    assert "non-finite" in words[26]
    for lane in (20, 22, 24):  # whatever came out: finite, no worse than the start, and with a status
        assert np.all(np.isfinite(flat(fits.params)[lane]))
        assert int(fits.status[lane]) in (lm.CONVERGED, lm.MAX_STEPS, lm.STALLED, lm.SINGULAR)
        image = jp.make_image(data[lane], std=1.0)
        residual = data[lane] - np.asarray(jp.render(MODEL, rows(fits.params, lane), image, RULE))
        np.testing.assert_allclose(fits.chi2[lane], np.sum(residual**2), rtol=1e-6, atol=1e-20)
        start = data[lane] - np.asarray(jp.render(MODEL, rows(starts, lane), image, RULE))
        assert fits.chi2[lane] <= np.sum(start**2)
        assert fits.steps[lane] > 0 or lane == 20
    assert int(fits.status[20]) == lm.SINGULAR  # no light: its first amplitude is the best one, and says nothing more
    assert "galaxy.n" in words[20]


def test_a_lane_that_is_cut_short_keeps_its_best_point():
    _, starts, images = cutouts()
    fits = fit_all(max_steps=2)
    assert np.all(fits.steps <= 2)
    cut = np.asarray(fits.status) == lm.MAX_STEPS
    assert cut.sum() > N // 2
    assert np.all(np.isfinite(flat(fits.params)))
    start = jax.vmap(lambda p, im: jnp.sum((im.data - jp.render(MODEL, p, im, RULE)) ** 2))(starts, images)
    assert np.all(fits.chi2 < start)
    assert np.all(fits.chi2 >= reference().chi2 - 1e-6)


def test_none_is_reported_as_converged_that_did_not_move():
    """Zero steps only where the start is the solution."""
    fits = reference()
    done = np.asarray(fits.status) == lm.CONVERGED
    assert np.all(fits.steps[done] > 0)
    again = fit_all(jax.tree.map(np.asarray, fits.params))
    same = done & (np.asarray(again.status) == lm.CONVERGED)
    assert np.all(np.abs(np.asarray(again.chi2 - fits.chi2))[same] < 1e-4)
    assert np.all(again.steps[same] <= 5)  # begun anew, how fast it converges has to be seen first
    # no light to begin with: the shape has no derivatives there, and yet is found
    _, starts, _ = cutouts()
    dark = {**starts, "galaxy": {**starts["galaxy"], "Ie": np.zeros(N)}}
    lit = fit_all(dark)
    assert np.all(np.asarray(lit.status)[SNR >= 100] == lm.CONVERGED)
    assert np.all(np.abs(np.asarray(lit.chi2 - fits.chi2))[SNR >= 100] < 1e-4)


# --- several models -------------------------------------------------------------------------------------------------


def test_a_model_for_each_image():
    """Grouped by model and by kind of image; results in the order of the images."""
    _, starts, images = cutouts()
    listed = jp.unstack_images(images)[:9]
    listed[4] = jp.crop(listed[4], (0, 12, 0, 10))
    models = [SKY if k in (1, 4, 7) else MODEL for k in range(9)]
    own = [{"I0": 0.0} if model is SKY else rows(starts, k) for k, model in enumerate(models)]
    fits = fit_all(own, listed, model=models)
    for k, fit in enumerate(fits):
        if models[k] is MODEL:
            assert_identical(fit, rows(reference(), k))
        else:
            assert fit.names == ("I0",)
            np.testing.assert_allclose(fit.params["I0"], np.mean(listed[k].data), rtol=1e-9)
    with pytest.raises(
        ValueError, match="params: with 9 models, one for each image, expected a list as long, got 8 of them"
    ):
        fit_all(own[:8], listed, model=models)
    with pytest.raises(ValueError, match=r"images: .* got generator"):
        fit_all(own, (image for image in listed), model=models)


# --- reading, failing, stopping: with a stub in the place of the fit ------------------------------------------------


@pytest.fixture
def stub(monkeypatch):
    """Replace the compiled fit by one that hands back the level of each image's first pixel; it can be told to fail."""

    class Stub:
        largest = None
        sizes = ()
        gate = None

        def __call__(self, task, lanes):
            size = len(lanes["real"])
            self.sizes += (size,)
            if self.gate is not None:
                self.gate.wait(10)
            if self.largest is not None and size > self.largest:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
            return {"level": lanes["image"].data[:, 0, 0]}

    stub = Stub()
    monkeypatch.setattr(module, "run_mapped", stub)
    return stub


def skies(count, bad=None, how=None):
    """Images of levels 0, 1, 2, …; at one of them something happens."""
    for level in range(count):
        if level == bad:
            how()
        yield jp.make_image(np.full((4, 4), float(level)), std=1.0)


def levels(images, chunk=4, params=None, **options):
    options = {"chunk": chunk, "progress": False} | options
    return np.asarray(jp.fit_batch(SKY, {"I0": 0.0} if params is None else params, images, **options)["level"])


def fail():
    raise OSError("disk is gone")


def test_an_iterator_that_raises(stub):
    with pytest.raises(BatchError, match=r"images\[10\]: reading it raised OSError: disk is gone") as caught:
        levels(skies(20, 10, fail))
    assert np.array_equal(caught.value.fits["level"], np.arange(10))
    assert np.array_equal(caught.value.items, np.arange(10))
    assert isinstance(caught.value.__cause__.__cause__, OSError)
    with pytest.raises(BatchError, match=r"images\[0\]: reading it raised OSError") as caught:
        levels(skies(20, 0, fail))
    assert caught.value.fits is None


def test_an_item_that_is_none(stub):
    def mixed(wrong):
        yield from skies(6)
        yield wrong

    with pytest.raises(BatchError, match=r"images\[6\]: expected an Image, got ndarray") as caught:
        levels(mixed(np.ones((4, 4))))
    assert len(caught.value.fits["level"]) == 6
    with pytest.raises(BatchError, match=r"images\[6\] cannot be stacked with images\[0\]: data is \(5, 5\)"):
        levels(mixed(jp.make_image(np.ones((5, 5)), std=1.0)))
    ragged = [*skies(3), jp.make_image(np.ones((5, 5)), std=1.0)]
    with pytest.raises(ValueError, match=r"images\[3\] cannot be stacked .* stack_images\(images, pad=True\)"):
        levels(ragged)
    assert len(stub.sizes) == 4, "a list is checked before the first fit"
    for nothing in ([], iter([]), rows(jp.stack_images(list(skies(2))), slice(0, 0))):
        with pytest.raises(ValueError, match="images: expected at least one"):
            levels(nothing)
    for wrong in (3.0, {"g": 1}):
        with pytest.raises(TypeError, match="images: expected a stack or an iterable"):
            levels(wrong)


def test_an_iterator_and_its_starts_must_be_as_long(stub):
    assert len(levels(skies(7), params={"I0": np.zeros(7)})) == 7
    for count in (5, 12):
        with pytest.raises(BatchError, match=r"params: I0 has 7 lanes, but the images"):
            levels(skies(count), params={"I0": np.zeros(7)})


@pytest.fixture
def interruptible():
    """Ctrl-C as at a prompt: what a shell runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupted(stub, interruptible):
    """Ctrl-C: what was begun is finished and kept."""

    def once_begun():
        while len(stub.sizes) < 2:
            time.sleep(1e-3)
        signal.raise_signal(signal.SIGINT)

    with pytest.warns(RuntimeWarning, match="interrupted: 8 fits were finished"):
        assert np.array_equal(levels(skies(20, 10, once_begun)), np.arange(8))
    with pytest.raises(KeyboardInterrupt):
        levels(skies(20, 2, lambda: signal.raise_signal(signal.SIGINT)))


def test_a_chunk_that_does_not_fit(stub):
    stub.largest = 3
    device = jax.local_devices()[:1]
    assert np.array_equal(levels(skies(30), chunk=16, devices=device * 1, schedule="map"), np.arange(30))
    assert stub.sizes.count(16) <= 2, "what does not fit is not tried again"
    stub.largest = 0
    with pytest.raises(BatchError, match="no memory for a single fit"):
        levels(skies(8))


def test_the_next_chunk_is_read_while_the_last_is_computed(stub):
    """One is ready for whoever is free first, and no more: memory stays bounded."""
    read, stub.gate = [], threading.Event()

    def watched():
        for image in skies(40):
            read.append(image)
            if len(read) == 12:
                stub.gate.set()  # were nothing read ahead, it would not come to this
            yield image

    devices = jax.local_devices()[:1] * 2
    assert np.array_equal(levels(watched(), devices=devices), np.arange(40))
    stub.gate, most = None, 0

    def counted():
        nonlocal most
        for number, image in enumerate(skies(60)):
            most = max(most, number - 4 * len(stub.sizes))
            yield image

    stub.sizes = ()
    levels(counted(), devices=devices)
    assert most <= 4 * 4


def test_options(stub):
    for name, value in (("starts", 0), ("starts", 1.5), ("chunk", 0), ("max_steps", 0), ("rtol", -1.0)):
        with pytest.raises(ValueError, match=name):
            levels(skies(3), **{name: value})
    with pytest.raises(TypeError, match="fit_batch: unknown max_iter; beside its own, it takes fit's fixed, bounds"):
        levels(skies(3), max_iter=3)
    with pytest.raises(TypeError, match="sampling: quad"):
        levels(skies(3), sampling=jp.sampling.quad)
    with pytest.raises(ValueError, match="schedule"):
        levels(skies(3), schedule="pmap")
    with pytest.raises(ValueError, match="devices"):
        levels(skies(3), devices=[])


def test_progress(stub, capsys):
    levels(skies(6), progress=True)
    assert "6fit" in capsys.readouterr().err
    levels(list(skies(6)), progress=True)
    assert "6/6" in capsys.readouterr().err
    levels(skies(6))
    assert capsys.readouterr().err == ""
