"""Run the examples in docstrings."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import matplotlib
import pytest

from locations import ROOT

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
