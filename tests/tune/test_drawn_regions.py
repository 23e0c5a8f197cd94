"""Regions that were drawn: the file marks the pixels that were drawn, as the stage `mask` reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lucidcube.errors import UserError
from lucidcube.io.regions import const_regions
from lucidcube.tune.drawn_regions import unused_name, write_regions

NONE: dict[str, list[float]] = {"x": [], "y": [], "width": [], "height": []}
NO_POLYGON: dict[str, list[list[float]]] = {"xs": [], "ys": []}


def test_the_file_marks_what_was_drawn(tmp_path: Path) -> None:
    path = tmp_path / "drawn.reg"
    polygon = {"xs": [[1.5, 6.5, 6.5]], "ys": [[0.5, 0.5, 8.5]]}
    ellipse = {"x": [20.0], "y": [10.0], "width": [9.0], "height": [5.0]}
    box = {"x": [10.0], "y": [20.0], "width": [4.2], "height": [-2.2]}
    assert write_regions(path, polygon, ellipse, box) == 3
    (group,) = const_regions([path])
    y, x = np.mgrid[:30, :40]
    expected = (np.abs(x - 10) < 2.1) & (np.abs(y - 20) < 1.1)
    expected |= ((x - 20) / 4.5) ** 2 + ((y - 10) / 2.5) ** 2 < 1
    expected |= (x < 6.5) & (y > 0.5) & (y - 0.5 < (x - 1.5) * 8 / 5)
    np.testing.assert_array_equal(group.mask(0, (30, 40)), expected)


def test_nothing_drawn_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no regions are drawn"):
        write_regions(tmp_path / "drawn.reg", {"xs": [[1, 2]], "ys": [[1, 2]]}, NONE, NONE)
    with pytest.raises(UserError, match="cannot be written"):
        write_regions(tmp_path / "no" / "drawn.reg", NO_POLYGON, NONE, {k: [3.0] for k in NONE})
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_new_file(tmp_path: Path) -> None:
    assert unused_name(tmp_path / "run.yaml") == tmp_path / "run.reg"
    (tmp_path / "run.reg").touch()
    assert unused_name(tmp_path / "run.yaml") == tmp_path / "run-2.reg"
