"""Strict JAX for every test: ranks never broadcast by accident, dtypes never mix, warnings are errors."""

import gc
import itertools
import json
import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# these tests compile more than they compute: as single fits are compiled (`solve._QUICKLY`); `make full` runs the other
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1",
)

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

gc.set_threshold(50_000, 10, 4)  # tracing makes so many objects that a tenth of the time went into looking at them

DATA = Path(__file__).parent / "data"
MAPS, TESTS = Path("/proc/self/maps"), itertools.count(1)


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    # once a day, to whoever imports it first
    config.addinivalue_line("filterwarnings", r"ignore:\s*ArviZ is undergoing a major refactor:FutureWarning")


@pytest.fixture(autouse=True)
def _few_programs():
    """Forget compiled programs before the pieces of memory that they are mapped to are more than Linux allows."""
    yield
    if next(TESTS) % 10 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the bundled data; see its README for origins and licences."""
    return DATA


@pytest.fixture(scope="session")
def truth():
    """``truth(name)`` → (cases by name, arrays by name) of exactly integrated images in data/truth."""

    def load(name):
        cases = json.loads((DATA / "truth" / f"{name}.json").read_text())["cases"]
        with np.load(DATA / "truth" / f"{name}.npz") as arrays:
            return {case["name"]: case for case in cases}, dict(arrays)

    return load
