"""Sphinx configuration: `make docs` builds the pages, with the executed notebooks, into build/docs."""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import jaxphot

project = "jaxphot"
author = "the jaxphot developers"
version = release = jaxphot.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "myst_nb",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_title = f"jaxphot {version}"
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_heading_slug_func = "slugs.slug"
nb_execution_mode = "off"  # the notebooks are kept as they were executed; tests/test_notebooks.py executes them
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
napoleon_use_rtype = False
napoleon_use_ivar = True
toc_object_entries = False

_NOTEBOOKS = Path(__file__).parent / "notebooks"  # sphinx reads only what lies below this folder
shutil.rmtree(_NOTEBOOKS, ignore_errors=True)
_NOTEBOOKS.mkdir()
_LISTED = re.findall(r"\((\w+)\.ipynb\)", (ROOT / "notebooks" / "README.md").read_text())
_FOUND = [name for name in _LISTED if (ROOT / "notebooks" / f"{name}.ipynb").exists()]
for name in _FOUND:
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", _NOTEBOOKS)
(_NOTEBOOKS / "index.md").write_text(
    "\n".join(["# Notebooks", "", "```{toctree}", ":maxdepth: 1", "", *_FOUND, "```", ""])
)
shutil.copy(ROOT / "notebooks" / "triptych.png", _NOTEBOOKS)
