"""Bad pixel mask against repeated dilation and the recorded mask; cuts by channel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from locations import ORACLE
from lucidcube.kernels.mask import bad_pixel_mask, cut_by_channel, grow

RECORDED = ORACLE / "mask_reference.npz"


def repeated_dilation(badness: np.ndarray, cut: float, max_dilation: int | None = None) -> np.ndarray:
    """Dilate every bad pixel separately, step by step."""
    mask = np.zeros(badness.shape, bool)
    for y, x in np.argwhere(badness >= cut):
        alone = np.zeros(badness.shape, bool)
        alone[y, x] = True
        steps = int(np.floor(float(badness[y, x]) - cut))
        for _ in range(steps if max_dilation is None else min(steps, max_dilation)):
            alone = ndimage.binary_dilation(alone)
        mask |= alone
    return mask & ~np.isnan(badness)


@settings(deadline=None, max_examples=80)
@given(
    badness=arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        elements=st.sampled_from([0.0, 1.5, 2.9999998, 3.0, 3.99, 4.0, 5.5, 7.0, np.nan]),
        fill=st.just(0.5),
    ),
    cut=st.sampled_from([3.0, 2.5, -1.0]),
    max_dilation=st.sampled_from([None, 0, 1, 3]),
)
def test_equals_repeated_dilation(badness, cut, max_dilation):
    np.testing.assert_array_equal(
        bad_pixel_mask(badness, cut, max_dilation=max_dilation), repeated_dilation(badness, cut, max_dilation)
    )


def test_equals_repeated_dilation_on_a_larger_noisy_plane():
    badness = np.random.default_rng(0).exponential(1.2, (60, 45)).astype(np.float32)
    ours = bad_pixel_mask(badness, 3, max_dilation=None)
    assert 0.05 < ours.mean() < 0.95
    np.testing.assert_array_equal(ours, repeated_dilation(badness, 3))


@pytest.mark.parametrize(("value", "count"), [(2.9999998, 0), (3.0, 1), (3.9999998, 1), (4.0, 5), (5.0, 13)])
def test_one_bad_pixel_grows_into_a_diamond(value, count):
    badness = np.zeros((11, 11), np.float32)
    badness[5, 5] = value
    mask = bad_pixel_mask(badness, 3, max_dilation=None)
    assert mask.dtype == np.uint8
    assert mask.sum() == count


def test_a_huge_score_marks_the_whole_plane_except_missing_pixels():
    badness = np.zeros((20, 30), np.float32)
    badness[0, 0] = 3e38
    badness[:, 10] = np.nan
    np.testing.assert_array_equal(bad_pixel_mask(badness, 3, max_dilation=None), ~np.isnan(badness))


@pytest.mark.slow
def test_strided_and_read_only_planes_are_accepted():
    whole = np.random.default_rng(1).exponential(2, (30, 40)).astype(np.float32)
    whole.flags.writeable = False
    part = whole[::2, ::-3]
    np.testing.assert_array_equal(
        bad_pixel_mask(part, 3, max_dilation=None), bad_pixel_mask(part.copy(), 3, max_dilation=None)
    )


def test_equals_the_recorded_mask():
    recorded = np.load(RECORDED)
    for badness, mask in zip(recorded["badness"], recorded["mask"], strict=True):
        assert 0.01 < mask.mean() < 0.2
        np.testing.assert_array_equal(bad_pixel_mask(badness, 3.0, max_dilation=None), mask)


def test_cut_is_linear_between_channels_and_constant_outside():
    cuts = [(10, 5.0), (2, 3.0), (20, 0.0)]
    wanted = cut_by_channel(cuts, [0, 2, 6, 10, 15, 20, 99])
    np.testing.assert_allclose(wanted, [3, 3, 4, 5, 2.5, 0, 0])
    np.testing.assert_array_equal(cut_by_channel([(0, 3)], np.arange(4)), 3.0)


@pytest.mark.parametrize(
    ("cuts", "text"),
    [
        ([], "at least one"),
        ([(1, 3), (1, 4)], "two cuts"),
        ([(0, np.nan)], "finite"),
        ([(np.inf, 1)], "finite"),
    ],
)
def test_invalid_cuts_are_errors(cuts, text):
    with pytest.raises(ValueError, match=text):
        cut_by_channel(cuts, [0])


@pytest.mark.parametrize(
    ("shape", "cut", "limit"),
    [((3,), 3, None), ((3, 3), np.nan, None), ((3, 3), np.inf, None), ((3, 3), 3, -1)],
)
def test_invalid_arguments_are_errors(shape, cut, limit):
    with pytest.raises(ValueError):
        bad_pixel_mask(np.zeros(shape, np.float32), cut, max_dilation=limit)


# Growth


def labelled(mask: np.ndarray, amplitude: np.ndarray, low: float) -> np.ndarray:
    """Grow a mask by way of the connected components of everything that may be reached."""
    labels, _ = ndimage.label((mask != 0) | (amplitude >= low))
    return np.where(mask != 0, 1, 2 * np.isin(labels, np.unique(labels[mask != 0])))


@settings(deadline=None, max_examples=60)
@given(
    mask=arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 0, 0, 0, 0, 1, 2])),
    amplitude=arrays(np.float32, (9, 11), elements=st.sampled_from([0.0, 1.0, 1.5, 2.0, np.nan])),
    low=st.sampled_from([0.5, 1.5]),
)
def test_growth_reaches_the_connected_components_of_the_marks(mask, amplitude, low):
    before = mask.copy()
    mask.flags.writeable = amplitude.flags.writeable = False
    grown = grow(mask, amplitude, low)
    assert grown.dtype == np.uint8
    np.testing.assert_array_equal(grown, labelled(before, amplitude, low))


def test_marks_grow_along_the_wings_of_a_ghost():
    y, x = np.indices((41, 41)) - 20
    amplitude = (20 * np.exp(-(y**2 + x**2) / (2 * 4.0**2))).astype(np.float32)
    amplitude[2, 2] = 3  # not connected to the ghost
    grown = grow((amplitude >= 5).astype(np.uint8), amplitude, 1.5)
    reached = np.hypot(y, x) <= 4 * np.sqrt(2 * np.log(20 / 1.5))
    np.testing.assert_array_equal(grown != 0, reached)
    np.testing.assert_array_equal(grown == 1, amplitude >= 5)


def test_growth_needs_planes_of_the_same_shape():
    with pytest.raises(ValueError, match="differ in shape"):
        grow(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.float32), 1.5)
