"""Compiling ahead of time, keeping what was compiled, and several devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import monitoring

import jaxphot as jp
from jaxphot.fitting import solve

SKY = jp.models.flat_sky
RULE = jp.sampling.midpoint()


def image(level=3.0, shape=(8, 8), **options):
    return jp.make_image(np.full(shape, level), std=1.0, **options)


@pytest.fixture
def compilations():
    """Names of what was compiled since."""
    names, on = [], [True]

    def note(name, duration, **_):
        if on[0] and "backend_compile" in name:
            names.append(name)

    monitoring.register_event_duration_secs_listener(note)
    yield names
    on[0] = False  # listeners cannot be taken out one by one


def plane(params, x, y):
    """A plain function, which declares no parameters."""
    return params["a"] + params["b"][0] * x + params["b"][1] * y


def test_a_compiled_fit_never_compiles_again(compilations):
    options = {"sampling": RULE, "window": (0, 6, 1, 7), "bounds": {"a": (0.0, 9.0)}}
    start = {"a": 1.0, "b": [0.1, 0.1]}
    fit = jp.compile_fit(plane, like=image(), params=start, **options)
    assert compilations
    other = image(5.0)
    compilations.clear()
    got = fit(start, other)
    assert compilations == []
    expected = jp.fit(plane, start, other, **options)
    assert got.names == expected.names
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_a_compiled_fit_refuses_what_it_was_not_compiled_for():
    fit = jp.compile_fit(SKY, like=image(), sampling=RULE)
    with pytest.raises(ValueError, match=r"image: data is \(9, 8\), not \(8, 8\), which this fit was compiled for"):
        fit({"I0": 1.0}, image(shape=(9, 8)))
    with pytest.raises(ValueError, match=r"image: data is float32\(8, 8\), not float64\(8, 8\)"):
        fit({"I0": 1.0}, image(dtype=np.float32))
    with pytest.raises(ValueError, match="image: psf is present, not absent"):
        fit({"I0": 1.0}, image(psf=np.ones((3, 3))))
    with pytest.raises(ValueError, match="I1: unknown"):
        fit({"I1": 1.0}, image())
    with pytest.raises(TypeError, match="compile_fit: unknown precision"):
        jp.compile_fit(SKY, like=image(), precision="mixed")
    with pytest.raises(TypeError, match="image: expected an Image"):
        jp.compile_fit(SKY, like=np.ones((8, 8)))


def test_a_compiled_fit_of_a_plain_function():
    with pytest.raises(ValueError, match="params: the model does not declare its parameters"):
        jp.compile_fit(plane, like=image())
    start = {"a": 0.0, "b": [0.1, 0.1]}
    fit = jp.compile_fit(plane, like=image(), params=start, sampling=RULE)
    got = fit(start, image())
    np.testing.assert_allclose(got.params["a"], 3.0, rtol=1e-3)
    with pytest.raises(ValueError, match="params: their names and shapes"):
        fit({"a": 0.0, "b": [0.1, 0.1], "c": 1.0}, image())


CACHED = """
import sys, numpy as np, jax
from jax import monitoring
import jaxphot as jp
hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
print(jp.enable_compilation_cache(*sys.argv[1:]))
fit = jp.fit(jp.models.flat_sky, {"I0": 0.0}, jp.make_image(np.ones((8, 8)), std=1.0))
print(round(float(fit.params["I0"]), 3), len(hits))
"""


def test_compilation_cache(tmp_path):
    """The second process finds what the first compiled; the default folder is the user's."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    outputs = []
    for arguments in ([], [str(tmp_path / "jaxphot")]):
        command = [sys.executable, "-c", CACHED, *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout.split())
    if sys.platform == "linux":
        assert outputs[0][0] == outputs[1][0] == str(tmp_path / "jaxphot")
    assert outputs[0][1] == outputs[1][1] == "1.0"
    assert int(outputs[0][2]) == 0
    assert int(outputs[1][2]) > 0
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match=r"path: .* cannot be made a folder"):
        jp.enable_compilation_cache(file)


DEVICES = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import jaxphot as jp
assert len(jax.local_devices()) == 8
rng = np.random.default_rng(0)
images = [jp.make_image(rng.normal(size=(6, 7)) + level, std=1.0) for level in range(70)]
fits = [
    jp.fit_batch(jp.models.flat_sky, {"I0": 0.0}, images, devices=devices, schedule=schedule, chunk=chunk,
                 sampling=jp.sampling.midpoint(), progress=False)
    for schedule, chunk in (("map", 8), ("vmap", 64))
    for devices in (None, jax.local_devices()[:1])
]
for fit in fits:
    assert np.all(fit.status == 0)
for a, b in ((fits[0], fits[1]), (fits[2], fits[3])):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.array_equal(x, y)
np.testing.assert_allclose(fits[0].params["I0"], fits[2].params["I0"], rtol=1e-10)
np.testing.assert_allclose(fits[0].params["I0"], [np.mean(image.data) for image in images], rtol=1e-9)
print("same")
"""


@pytest.mark.full
def test_eight_devices():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    result = subprocess.run(
        [sys.executable, "-c", DEVICES], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["same"]


def test_many_single_fits_get_the_program_that_runs_fast(compilations, monkeypatch):
    """A first fit is compiled quickly; a loop of them is worth a second compilation, once, and gives the same."""
    monkeypatch.setattr(solve, "_LOOP", 3)
    model = jp.scene(sky=jp.models.flat_sky)  # of this test alone, so that its calls are counted from none
    levels = []
    for call in range(6):
        compilations.clear()
        levels.append(
            float(jp.fit(model, {"sky": {"I0": 1.0}}, image(shape=(9, 7)), sampling=RULE).params["sky"]["I0"])
        )
        assert bool(compilations) == (call in (0, 3))
    np.testing.assert_allclose(levels, 3.0, rtol=1e-10)


def test_sets_of_images_are_compiled_quickly_too(monkeypatch):
    """They compile more slowly than one image; how many fits are worth a second program depends on their pixels."""
    model = jp.scene(sky=jp.models.flat_sky)
    stack = jp.stack_images([image(shape=(50, 51), level=level) for level in range(8)])
    assert stack.data.size > solve._QUICK
    monkeypatch.setattr(solve, "_QUICK", stack.data.size // 100)  # 150 times as many pixels are in two fits
    programs = (solve._quick_program, solve._program)
    before = [program._cache_size() for program in programs]
    for call in range(4):
        fit = jp.fit(model, {"sky": {"I0": 1.0}}, stack, per_image=("sky.I0",), sampling=RULE)
        np.testing.assert_allclose(fit.params["sky"]["I0"], np.arange(8), atol=1e-10)
        assert [program._cache_size() - had for program, had in zip(programs, before, strict=True)] == [1, call > 1]


def test_quick_programs_are_right():
    """XLA's older generator, without optimisations and in 32 pieces, gets this derivative wrong by a quarter."""
    metric = jp.metrics.fourier((1,), jp.metrics.superellipse)
    model, blank = jp.radial(jp.profiles.gaussian, metric), jp.make_image(np.zeros((20, 20)), std=1.0)
    params = {"center": np.array([10.2, 9.1]), "q": 0.6, "C0": 0.5, "am": np.array([0.2]), "phim": np.array([0.4])}

    def pixels(angle):
        return jp.render(model, {**params, "sigma": 2.5, "flux": 1.0, "PA": angle}, blank, jp.sampling.quad(3))

    options = {"xla_cpu_parallel_codegen_split_count": 32, **solve._QUICKLY}  # the default, which other tests change
    slope = jax.jit(lambda a: jax.jvp(pixels, (a,), (jax.numpy.ones(()),))[1], compiler_options=options)
    difference = (pixels(0.7 + 1e-5) - pixels(0.7 - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope(0.7), difference, atol=1e-7 * np.max(np.abs(difference)))
