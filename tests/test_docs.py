"""What the documentation shows is what happens."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxphot as jp

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
