"""Every notebook runs from its first cell to its last, on what the repository brings along."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
QUICK = ("quickstart",)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the client and its sockets
@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in NOTEBOOKS]
)
def test_executes(name, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))  # the kernel imports this tree's package
    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures go into the notebook
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in str(output)]
    assert pictures


def test_index_has_every_notebook():
    """The list in the folder's README, which the documentation follows; a title begins with its number there."""
    listed = re.findall(r"^(\d+)\. \[.*\]\((\w+)\.ipynb\)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    numbers = {name: number for number, name in listed}
    assert set(NOTEBOOKS) <= set(numbers)
    for name in NOTEBOOKS:
        title = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells[0].source.splitlines()[0]
        stated = re.match(r"# (\d+)\. ", title)
        assert stated is not None, title
        assert stated[1] == numbers[name], title
