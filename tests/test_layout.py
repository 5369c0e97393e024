"""The house rules that a machine can check: who imports whom, how long files are, what importing does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxphot as jp

ROOT = Path(jp.__file__).parent

# A file imports only from files above it. `jaxphot` itself (its __init__) may be imported by none of them.
ORDER = [
    "pytree",
    "numerics",
    "units",
    "parameters",
    "shared",
    "transforms",
    "transforms.protocol",
    "transforms.linear",
    "transforms.polynomial",
    "transforms.tables",
    "transforms.grid",
    "transforms.sip",
    "transforms.cmos",
    "transforms.shifted",
    "transforms.sky",
    "transforms.wcs",
    "transforms.reprojected",
    "transforms.leaves",
    "psf",
    "varying_psf",
    "noise",
    "image",
    "models.splines",
    "models.profiles",
    "models.metrics",
    "models.spirals",
    "models.combinators",
    "models.copies",
    "models.modifiers",
    "models.grids",
    "models.skies",
    "models.special",
    "models.totals",
    "models.views",
    "models.wavelength",
    "models.psf_models",
    "models",
    "isophotes",
    "edges",
    "pointwise",
    "midpoint",
    "orders",
    "plan",
    "refine",
    "sampling",
    "stamps",
    "convolution",
    "windows",
    "render",
    "correlation",
    "noise_models",
    "likelihood",
    "priors",
    "moments",
    "measure",
    "psf_start",
    "planes",
    "image_sets",
    "joint_start",
    "initialize",
    "detections",
    "scene_start",
    "deblend",
    "fitting.equations",
    "fitting.lm",
    "fitting.blocks",
    "fitting.coordinates",
    "fitting.bijections",
    "fitting.amplitudes",
    "fitting.groups",
    "fitting.joint",
    "fitting.covariance",
    "fitting.problem",
    "fitting.regions",
    "fitting.scenes",
    "fitting.neighbours",
    "fitting.crowded",
    "fitting.result",
    "fitting.penalty",
    "fitting.implicit",
    "fitting.stages",
    "fitting.solve",
    "fitting.iterative",
    "fitting.multistart",
    "fitting.schedules",
    "fitting.chunks",
    "fitting.batch",
    "fitting.stream",
    "fitting.compiled",
    "fitting.history",
    "fitting.gradient",
    "fitting",
    "density",
    "inference",
    "refits",
    "hdus",
    "fits",
    "psf_files",
    "ccddata",
    "catalog",
    "source_table",
    "export",
    "interchange",
    "interchange.frames",
    "interchange.imfit",
    "interchange.galfit_parts",
    "interchange.galfit",
    "interchange.feedme",
    "interchange.astrophot",
    "interchange.photutils",
    "drawing",
    "plot.marks",
    "plot.triptychs",
    "plot.maps",
    "plot.curves",
    "plot.corners",
    "plot.sheets",
    "plot.scenes",
    "plot",
    "about",
    "cli",
    "cli.expressions",
    "cli.manifest",
    "cli.sources",
    "cli.store",
    "cli.batch",
    "cli.single",
    "cli.catalogue",
    "cli.page",
    "cli.show",
    "cli.main",
    "__init__",
    "__main__",
]

LONGEST = 400
ASTROPY_ALLOWED = {
    "fits",
    "psf_files",
    "hdus",
    "ccddata",
    "catalog",
    "source_table",
    "export",
    "drawing",
}  # and interchange, the command line
MATPLOTLIB_ALLOWED = {"drawing"}  # and plot


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(path):
    """Every (name, line) that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                known = node.module.startswith("jaxphot") and name.removeprefix("jaxphot.") in FILES
                yield (name if known else node.module), node.lineno


def test_every_file_has_its_place():
    assert sorted(set(FILES) - set(ORDER)) == []


@pytest.mark.parametrize("module", FILES)
def test_imports_point_upwards(module):
    place = {name: number for number, name in enumerate(ORDER)}
    for name, line in imported(FILES[module]):
        if name.partition(".")[0] != "jaxphot" or module == "__init__":
            continue
        source = name.removeprefix("jaxphot").lstrip(".") or "__init__"
        assert source in place, f"{module}:{line} imports {name}"
        assert place[source] < place[module], f"{module}:{line} imports {source}, which is below it"


@pytest.mark.parametrize("module", FILES)
def test_heavy_packages_stay_in_their_files(module):
    for name, line in imported(FILES[module]):
        package = name.partition(".")[0]
        assert package != "astropy" or module in ASTROPY_ALLOWED or module.startswith(("cli.", "interchange.")), (
            f"{module}:{line}"
        )
        assert package != "matplotlib" or module in MATPLOTLIB_ALLOWED or module.startswith("plot"), f"{module}:{line}"


@pytest.mark.parametrize("module", FILES)
def test_files_are_short(module):
    assert len(FILES[module].read_text().splitlines()) <= LONGEST


def test_jax_config_is_left_alone():
    """But for the one function whose purpose it is to set it, and the command line, whose process is its own."""
    for module, path in FILES.items():
        if module == "cli.main":
            continue
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if getattr(node, "name", None) != "enable_compilation_cache"]
        called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not any(name.endswith("config.update") for name in called), module


PROBE = """
import logging, os, sys
import jax
before = dict(jax.config.values), logging.getLogger().level, list(logging.getLogger().handlers), os.getcwd()
import jaxphot
after = dict(jax.config.values), logging.getLogger().level, list(logging.getLogger().handlers), os.getcwd()
assert before == after, "importing jaxphot changed a setting"
for heavy in ("astropy", "matplotlib", "optax", "scipy.optimize"):
    assert heavy not in sys.modules, heavy
missing = []
@jax.jit
def load():  # inside somebody's program: what a module computes while it loads must not become a part of that
    missing.extend(name for name in jaxphot.__all__ if not hasattr(jaxphot, name))
load()
assert not missing, missing
assert "astropy" in sys.modules
try:
    jaxphot.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError
"""


def test_importing_loads_and_changes_nothing():
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_public_names():
    """What is promised is there, and `dir` shows it before it is loaded."""
    for name in jp.__all__:
        assert name in dir(jp)
    assert len(jp.__all__) == len(set(jp.__all__))
