"""Lazy arrays that remember their source: windows of it, and other blocks of the same content."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from lucidcube.cube import DATA, block_sizes, from_arrays
from lucidcube.lift.lazy_arrays import Window, from_source, rechunk_sources, source_of

PLANES = 7


class Source:
    """An array-like that counts the planes that are read."""

    def __init__(self) -> None:
        self.array = np.arange(PLANES * 2 * 3, dtype=np.float32).reshape(PLANES, 2, 3)
        self.shape, self.dtype, self.ndim = self.array.shape, self.array.dtype, self.array.ndim
        self.read: list[slice] = []

    def __getitem__(self, key: slice | tuple[slice, ...]) -> np.ndarray:
        self.read.append(key[0] if isinstance(key, tuple) else key)
        return self.array[key]


def cube(source: Source, block: int) -> xr.Dataset:
    made = from_arrays(source.array, 1e-6 + 1e-9 * np.arange(PLANES))
    return made.assign({DATA: from_source(source, block, "test-name")})


@pytest.mark.parametrize("part", [slice(0, 1), slice(1, 3), slice(1, None), slice(None, -1), slice(3, 3)])
@pytest.mark.parametrize(("lo", "hi"), [(0, PLANES), (1, 6), (3, 7)])
def test_a_part_of_a_window_is_that_of_its_source(lo: int, hi: int, part: slice) -> None:
    source = Source()
    window = Window(source, lo, hi)
    assert window.shape == (hi - lo, 2, 3)
    assert not source.read
    np.testing.assert_array_equal(window[part], source.array[lo:hi][part])


def test_a_source_gets_other_blocks_without_those_that_it_has() -> None:
    source = Source()
    given = cube(source, 2)
    made = rechunk_sources(given, 3)
    assert block_sizes(given) == (2, 2, 2, 1)
    assert block_sizes(made) == (3, 3, 1)
    assert source_of(made[DATA].variable) is source
    assert made[DATA].data.name != given[DATA].data.name
    assert made[DATA].attrs == given[DATA].attrs
    source.read.clear()
    np.testing.assert_array_equal(
        made[DATA].data.blocks[1].compute(scheduler="synchronous"), source.array[3:6]
    )
    assert [(part.start, part.stop) for part in source.read] == [(3, 6)]


@pytest.mark.parametrize(("block", "other"), [(2, 2), (PLANES, PLANES + 5)])
def test_blocks_that_are_right_stay(block: int, other: int) -> None:
    given = cube(Source(), block)
    assert rechunk_sources(given, other)[DATA].data is given[DATA].data


def test_a_variable_that_was_changed_has_no_source() -> None:
    given = cube(Source(), 2)
    changed = given.assign({DATA: given[DATA] + 1})
    assert source_of(given[DATA].variable) is not None
    assert source_of(changed[DATA].variable) is None
    assert block_sizes(rechunk_sources(changed, 3)) == (2, 2, 2, 1)


def test_a_source_gives_the_same_name_again() -> None:
    names = {from_source(Source(), block, "test-name").data.name for block in (2, 3)}
    assert names == {"test-name"}
