"""Distinction of holes in the field from pixels outside the field."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lucidcube.kernels.holes import outside_field

SIDE = 60


def disc(radius: float, side: int = SIDE) -> np.ndarray:
    y, x = np.indices((side, side)) - (side - 1) / 2
    return np.hypot(y, x) <= radius


def convex_field(seed: int, side: int = SIDE) -> np.ndarray:
    """Return the pixels on the inner side of a few random lines."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side)) - (side - 1) / 2
    field = np.ones((side, side), bool)
    for angle, distance in zip(rng.uniform(0, 2 * np.pi, 5), rng.uniform(6, side / 2, 5), strict=True):
        field &= x * np.cos(angle) + y * np.sin(angle) < distance
    return field


@pytest.mark.parametrize("max_hole", [0, 1, 5, 10, 25])
@pytest.mark.parametrize("field", [disc(20.4), disc(29), *map(convex_field, range(12))])
def test_everything_around_a_convex_field_is_outside(field, max_hole):
    np.testing.assert_array_equal(outside_field(~field, max_hole), ~field)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_dead_columns_are_holes_even_at_the_edge(width):
    missing = np.zeros((SIDE, SIDE), bool)
    missing[:, 20 : 20 + width] = True
    # Where a wide column reaches the edge, the corners of its end are rounded off.
    assert not outside_field(missing, 10)[1:-1].any()
    assert not outside_field(missing, 10).any() or width == 5
    missing[:, 45:] = True
    assert not outside_field(missing, 10)[1:-1, :45].any()
    assert outside_field(missing, 10)[:, 45:].all()


def test_a_dead_row_that_runs_into_the_outside_is_a_hole():
    missing = ~disc(20.4)
    missing[30] = True
    outside = outside_field(missing, 10)
    np.testing.assert_array_equal(outside, ~disc(20.4) & outside)
    assert not outside[30, 15:45].any()


# At the limit itself a disc that is centred between pixels may count as a pixel smaller than it is.
@pytest.mark.parametrize("diameter", [*range(1, 12), *range(13, 18)])
def test_a_round_hole_is_a_hole_up_to_the_largest_diameter(diameter):
    missing = disc(diameter / 2, SIDE + diameter % 2)
    outside = outside_field(missing, 10)
    np.testing.assert_array_equal(outside, missing & (diameter > 10))


@pytest.mark.parametrize("side", [13, 20, 31])
def test_a_wide_square_without_data_is_outside_up_to_its_corners(side):
    missing = np.zeros((SIDE, SIDE), bool)
    missing[12 : 12 + side, 15 : 15 + side] = True
    np.testing.assert_array_equal(outside_field(missing, 10), missing)


def test_single_pixels_at_the_edge_of_the_frame_are_holes():
    missing = np.zeros((SIDE, SIDE), bool)
    missing[0, 30] = missing[59, 20:23] = missing[31, 0] = True
    assert not outside_field(missing, 10).any()


def test_an_island_in_the_outside_changes_nothing_far_from_it():
    missing = ~disc(12)
    missing[5, 5] = False
    outside = outside_field(missing, 4)
    np.testing.assert_array_equal(outside, missing)


@pytest.mark.parametrize("missing", [True, False])
def test_completely_missing_and_complete_planes(missing):
    plane = np.full((7, 9), missing)
    plane.flags.writeable = False
    outside = outside_field(plane, 3)
    np.testing.assert_array_equal(outside, plane)
    assert not np.shares_memory(outside, plane)


@settings(deadline=None, max_examples=100)
@given(arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.integers(0, 12))
def test_only_missing_pixels_are_outside_and_orientation_does_not_matter(missing, max_hole):
    outside = outside_field(missing, max_hole)
    assert not (outside & ~missing).any()
    np.testing.assert_array_equal(outside_field(missing.T, max_hole), outside.T)
    np.testing.assert_array_equal(outside_field(missing[::-1], max_hole), outside[::-1])
    if max_hole == 0:
        np.testing.assert_array_equal(outside, missing)
