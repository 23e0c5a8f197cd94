"""The summary of a mask on a plane whose brightest parts are known."""

from __future__ import annotations

import numpy as np
import pytest

from lucidcube.kernels.artefacts.mask_summary import mask_summary


@pytest.fixture
def plane() -> np.ndarray:
    """Return noise with a bright square of 10 x 10 pixels, the brightest percent of 100 x 100."""
    plane = np.random.default_rng(0).normal(size=(100, 100))
    plane[40:50, 40:50] += 1000
    return plane


def test_isolated_marks_are_counted_but_are_no_groups(plane: np.ndarray) -> None:
    mask = np.zeros(plane.shape, np.uint8)
    mask[::10, ::10] = 1
    found = mask_summary(plane, mask)
    assert found.marked == pytest.approx(0.01)
    assert found.largest_group == pytest.approx(1e-4)
    assert found.brightest_marked == 0


def test_half_of_the_bright_square(plane: np.ndarray) -> None:
    mask = np.zeros(plane.shape, np.uint8)
    mask[40:50, 40:45] = 2
    found = mask_summary(plane, mask)
    assert found.largest_group == found.marked == pytest.approx(0.005)
    assert found.brightest_marked == pytest.approx(0.5, abs=0.05)


def test_a_bright_hot_pixel_is_not_a_bright_part(plane: np.ndarray) -> None:
    plane[10, 10] = 1e6
    mask = np.zeros(plane.shape, np.uint8)
    mask[9:12, 9:12] = 1
    assert mask_summary(plane, mask).brightest_marked == 0


def test_missing_pixels_do_not_count(plane: np.ndarray) -> None:
    plane[:50] = np.nan
    mask = np.zeros(plane.shape, np.uint8)
    mask[:60] = 1
    assert mask_summary(plane, mask).marked == pytest.approx(0.2)
    assert mask_summary(np.full((5, 5), np.nan), np.ones((5, 5))) == (0, 0, 0)


@pytest.mark.parametrize("part", [np.s_[3:4, 3:4], np.s_[3:4, :], np.s_[3::12, 3::12]])
def test_isolated_pixels_have_a_brightest_part(part: tuple[slice, slice]) -> None:
    plane = np.full((20, 20), np.nan, np.float32)
    plane[part] = np.arange(plane[part].size).reshape(plane[part].shape)
    found = mask_summary(plane, np.ones(plane.shape, np.uint8))
    assert found.marked == 1
    assert 0 <= found.brightest_marked <= 1
