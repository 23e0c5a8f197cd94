"""Run the notebooks, which check their numbers themselves, and the examples in docstrings."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import matplotlib
import pytest

from locations import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.md"))
MODULES = [
    "lucidcube.api.accessor",
    "lucidcube.api.bridges",
    "lucidcube.api.psf",
    "lucidcube.api.sharpen",
    "lucidcube.config.load",
    "lucidcube.cube",
    "lucidcube.io.reader",
    "lucidcube.runner.pipeline",
]
PACKAGES = {"lucidcube.api.bridges": ("ndcube", "specutils")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_runs(notebook: Path) -> None:
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = jupytext.read(notebook)
    assert "assert" in notebook.read_text(), "it does not check its numbers"
    folder = {"metadata": {"path": str(notebook.parent)}}
    nbclient.NotebookClient(book, timeout=280, kernel_name="python3", resources=folder).execute()
    pictures = [o for cell in book.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 2


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    matplotlib.use("Agg")
    (tmp_path / "example_data").symlink_to(ROOT / "example_data")
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert done.attempted > 0
    assert not done.failed
