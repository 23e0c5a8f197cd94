"""Subpixel shifts: flux, position, missing pixels, variance."""

import numpy as np
import pytest

from lucidcube.kernels.psf.subpixel_shift import HALF_LENGTH, Shift, shift_weights
from star_kernels import gaussian


@pytest.mark.parametrize("offset", [0.0, 1.0, -3.0, 0.5, -0.01, 2.37])
def test_weights_keep_the_flux_and_move_the_centre(offset):
    first, weights = shift_weights(offset)
    position = first + np.arange(weights.size)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    # out[i] takes in[i + position]: a sample at 0 lands at -position.
    assert -(weights * position).sum() == pytest.approx(offset, abs=0.01)


@pytest.mark.parametrize("offset", [(0.3, -0.45), (-0.5, 0.5), (3.0, -2.0), (1.75, 0.0)])
def test_shift_agrees_with_a_star_made_in_the_right_place(offset):
    plane = gaussian((45, 51), (22, 25), 3.0, 1.0).astype(np.float32)
    truth = gaussian((45, 51), (22 + offset[0], 25 + offset[1]), 3.0, 1.0)
    moved = np.nan_to_num(Shift(plane).image(*offset))
    np.testing.assert_allclose(moved, truth, atol=2e-3 * truth.max())
    assert moved.sum() == pytest.approx(plane.sum(), rel=1e-4)


def test_shift_by_whole_pixels_is_a_copy():
    plane = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
    plane[3, 4] = np.nan
    moved = Shift(plane).image(2.0, -3.0)
    np.testing.assert_array_equal(moved[2:, :-3], plane[:-2, 3:])
    assert np.isnan(moved[:2]).all()
    assert np.isnan(moved[:, -3:]).all()
    assert np.isnan(Shift(plane).image(40.0, 0.0)).all()


def test_missing_pixels_stay_missing_and_do_not_ring():
    plane = gaussian((41, 41), (20, 20), 5.0, 1e4).astype(np.float32)
    whole = Shift(plane).image(0.4, 0.3)
    holed = plane.copy()
    holed[20, 26] = np.nan
    moved = Shift(holed).image(0.4, 0.3)
    lost = np.isnan(moved) & np.isfinite(whole)
    assert set(zip(*np.nonzero(lost), strict=True)) == {(20, 26), (20, 27), (21, 26), (21, 27)}
    kept = np.isfinite(moved)
    np.testing.assert_allclose(moved[kept], whole[kept], atol=0.01 * plane.max())


def test_variance_is_propagated_through_every_weight():
    first_y, weights_y = shift_weights(0.3)
    first_x, weights_x = shift_weights(-0.2)
    variance = np.zeros((41, 41), dtype=np.float32)
    variance[20, 20] = 4.0
    spread = Shift(np.zeros((41, 41), np.float32)).variance(variance, 0.3, -0.2)
    y, x = 20 - first_y - np.arange(weights_y.size), 20 - first_x - np.arange(weights_x.size)
    expected = np.zeros((41, 41))
    expected[np.ix_(y, x)] = 4.0 * np.outer(weights_y**2, weights_x**2)
    finite = np.isfinite(spread)
    np.testing.assert_allclose(spread[finite], expected[finite], atol=1e-6)
    assert weights_y.size == 2 * HALF_LENGTH + 1
