"""What the documentation shows is what happens."""

import doctest
import functools
import importlib
import inspect
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from cases import ELLIPSE, Case
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot.cli import main as cli

ROOT = Path(__file__).parents[1]
MODULES = ["jaxphot", *(module.name for module in pkgutil.walk_packages(jp.__path__, "jaxphot."))]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name, monkeypatch, tmp_path):
    """Run where nothing is strict, as a reader would."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        failed, _ = doctest.testmod(module, optionflags=flags)
    assert failed == 0


def public_functions():
    for name in MODULES:
        module = importlib.import_module(name)
        yield name, module
        for key, value in vars(module).items():
            if key.startswith("_") or getattr(value, "__module__", None) != name:
                continue
            if inspect.isfunction(value):
                yield f"{name}.{key}", value
            elif inspect.isclass(value):
                yield f"{name}.{key}", value
                for method, function in vars(value).items():
                    if not method.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                        yield f"{name}.{key}.{method}", function


def test_everything_public_has_a_docstring():
    missing = [name for name, value in public_functions() if not (inspect.getdoc(value) or "").strip()]
    assert missing == []


def test_every_example_is_run():
    """An Examples section without a prompt would show what nobody checks."""
    for name, value in public_functions():
        doc = inspect.getdoc(value) or ""
        if "Examples\n---" in doc:
            assert ">>>" in doc, name


def test_reference_has_every_public_name():
    named = set(re.findall(r"^   ([\w.]+)$", (ROOT / "docs" / "api.rst").read_text(), re.MULTILINE))
    public = {name for name in jp.__all__ if not inspect.ismodule(getattr(jp, name))}
    assert public <= named, public - named
    assert all(functools.reduce(getattr, name.split("."), jp) is not None for name in named)


README = ROOT / "README.md"


def test_readme_runs_as_printed(tmp_path):
    """The python blocks, one after the other in one fresh process, in a folder with what the demo brings."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    for folder in ("tests/data", "data", "examples", "demo/data"):
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in (ROOT / "tests" / "data").rglob("*.fits"):
        shutil.copy(file, tmp_path / file.name)
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def _guide_files():
    """What the pages of the guide read: a frame of three galaxies and their cutouts, noise, PSF, tables, a feedme."""
    rng = np.random.default_rng(5)
    places = [(20.0, 21.0), (60.0, 25.0), (30.0, 62.0)]
    parts = {f"g{n}": jp.models.sersic for n in range(3)} | {"sky": jp.models.flat_sky}
    shape = {"q": 0.7, "PA": 0.5, "n": 1.5, "Re": 4.0, "Ie": 20.0}
    truth = {f"g{n}": {"center": place, **shape} for n, place in enumerate(places)} | {"sky": {"I0": 5.0}}
    stamp = np.exp(-0.5 * np.hypot(*np.mgrid[-3:4, -3:4]) ** 2)
    empty = jp.make_image(np.zeros((84, 84)), std=1.0, psf=jp.make_psf(stamp))
    frame = np.asarray(jp.render(jp.scene(**parts), truth, empty)) + rng.normal(size=(84, 84))
    fits.writeto("frame.fits", frame)
    fits.writeto("psf.fits", stamp)
    fits.writeto("sigma.fits", np.ones((32, 32)))
    for name, (x, y) in zip(("galaxy", "second", "third"), places, strict=True):
        i, j = int(x) - 16, int(y) - 16
        fits.writeto(f"{name}.fits", frame[j : j + 32, i : i + 32])
    Path("catalogue.csv").write_text("id,x,y\n" + "\n".join(f"s{n},{x},{y}" for n, (x, y) in enumerate(places)) + "\n")
    image = jp.read_fits("galaxy.fits", std="sigma.fits", zeropoint=25.0)
    model = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
    start = {"galaxy": {"center": (16.0, 16.0), **shape}, "sky": {"I0": 5.0}}
    files = {"data": "galaxy.fits", "sigma": "sigma.fits"}
    jp.write_galfit("galfit.feedme", model, start, image, files=files)


@pytest.mark.full
@pytest.mark.parametrize("page", ["start", "many", "translation"])
def test_guide_runs_as_printed(page, tmp_path, monkeypatch, capsys):
    """Commands and Python in the pages' order, but for what needs a cluster; tables in them are files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxphot.fitting.compiled.enable_compilation_cache", lambda: None)
    _guide_files()
    text = (ROOT / "docs" / "start.md").read_text()
    Path("cutouts.csv").write_text(re.search(r"^```\n(id,.*?)^```", text, re.DOTALL | re.MULTILINE)[1])
    text = (ROOT / "docs" / f"{page}.md").read_text()
    ran, names = 0, {"jp": jp}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            if language == "python":
                program = compile(block, page, "exec")
                if "Client(" not in block:
                    exec(program, names)
                continue
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["jaxphot"] and "--coordinator" not in words:
                    assert cli.main(words[1:]) == 0, (line, capsys.readouterr())
                    ran += 1
    assert ran == {"start": 6, "many": 2, "translation": 0}[page]
    if page == "start":
        for folder in ("results", "from_frame"):
            table = QTable.read(f"{folder}/catalogue.ecsv")
            assert_allclose(table["galaxy.Re"].value, 4.0, atol=0.8)
            assert list(table["message"]) == ["converged"] * 3
        assert {"triptych.png", "images.fits", "catalogue.ecsv"} <= set(os.listdir("galaxy"))
        assert Path("results.html").stat().st_size > 10_000


def test_contributing_adds_what_it_says():
    """The lines that its diffs add make a profile and a transform that work."""
    diffs = re.findall(r"^```diff\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE)
    profile, row, transform = (
        "\n".join(line[1:] for line in diff.splitlines() if re.match(r"\+(?!\+\+)", line)) for diff in diffs
    )
    names = {**vars(jp.profiles), "np": np, "jp": jp, "Case": Case, "ELLIPSE": ELLIPSE}
    exec(profile, names)
    jp_with_it = types.SimpleNamespace(radial=jp.radial, profiles=types.SimpleNamespace(plummer=names["plummer"]))
    (case,) = eval("{" + row + "}", {**names, "jp": jp_with_it}).values()
    assert_allclose(jp.total_flux(case.model, case.values()), case.flux, rtol=1e-12)
    params = case.values()
    blank = jp.make_image(np.zeros((24, 24)), std=1e-3, transform=jp.make_linear(pixelscale=0.5, crpix=(11.5, 11.5)))
    seen = jp.make_image(jp.render(case.model, params, blank), std=1e-3, transform=blank.transform)
    start = jp.initialize(case.model, seen)
    assert_allclose([start["Rs"], start["I0"]], [1.3, 2.0], rtol=0.5)
    of_profile = {name: float(params[name]) for name in ("Rs", "I0")}
    assert_allclose(names["plummer"](0.7, **of_profile), jp.profiles.moffat(0.7, n=2.0, Rd=1.3, I0=2.0), rtol=1e-12)

    exec(transform, names)
    bowed = names["make_bowed"](jp.make_linear(pixelscale=0.5, crpix=(8, 8)), 0.02, 8.0)
    i, j = np.mgrid[:16.0, :16.0]
    assert_allclose(bowed.plane_to_pixel(*bowed.pixel_to_plane(i, j)), (i, j), atol=1e-12)
    image = jp.make_image(np.zeros((16, 16)), std=1.0, transform=bowed)
    star = {"center": [0.3, -0.2], "q": 0.8, "PA": 0.4, "sigma": 1.0, "flux": 7.0}
    assert_allclose(np.sum(jp.render(jp.models.gaussian, star, image)), 7.0, rtol=1e-3)
    window = jp.crop(image, (2, 14, 3, 13))
    assert_allclose(
        jp.render(jp.models.gaussian, star, window), jp.render(jp.models.gaussian, star, image)[3:13, 2:14], atol=1e-6
    )


def test_gallery_shows_every_model():
    """Executed without errors, small, and no model is left out."""
    text = ""
    for name in ("model_zoo", "custom_models"):
        path = ROOT / "notebooks" / f"{name}.ipynb"
        assert path.stat().st_size < 1.5e6
        cells = json.loads(path.read_text())["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(output["output_type"] != "error" for cell in code for output in cell["outputs"])
        assert sum("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"]) >= 4
        text += "".join("".join(cell["source"]) for cell in cells)
    modules = jp.models.modifiers, jp.metrics, jp.models.spirals, jp.models.views, jp.psf_models, jp.profiles
    helpers = {"to_axes", "from_axes", "own_parameters", "check_metric", "check_stamp", "airy_profile"}
    helpers |= {"by_wavelength", "noise_floor"}  # several images, and no light: other notebooks have them
    makers = {*jp.models.__all__, "psf_from_model", "total_flux", "initialize", "spline"}
    for module in modules:
        functions = inspect.getmembers(module, inspect.isfunction)
        makers |= {name for name, value in functions if value.__module__ == module.__name__ and name[0] != "_"}
    missing = {key for key in makers if not re.search(rf"\b{key}\b", text)} - helpers
    assert missing == set()
