"""Rebinning against analytic truth and an independent implementation."""

import hypothesis
import numpy as np
import pytest
import spectres
from hypothesis import strategies as st

from lucidcube.kernels.rebin import bins, channel_widths, rebin_block, weights


def rebinned(axis, data, step, width, response="triangle", operation="mean", variance=None):
    grid = bins(axis, step, width, response)
    table = channel_widths(axis) * weights(axis, grid.centre, width, response)
    return grid.centre, *rebin_block(table, data, variance, operation=operation)


def planes(spectrum):
    return np.asarray(spectrum, np.float32)[:, None, None] * np.ones((1, 3, 2), np.float32)


def test_output_channels_start_at_the_first_input() -> None:
    axis = 7.05e-7 + 1.25e-10 * np.arange(241)  # ends at 735 nm, exactly 30 steps on
    grid = bins(axis, 1e-9, 2e-9, "triangle")
    assert grid.centre.size == 31
    np.testing.assert_allclose(grid.centre, 7.05e-7 + 1e-9 * np.arange(31), rtol=1e-12)


def test_weights_are_a_triangle_of_the_right_width() -> None:
    axis = np.linspace(-5, 5, 1001)
    (w,) = weights(axis, np.array([0.0]), 2.0, "triangle")
    assert w.max() == pytest.approx(1)
    above = axis[w >= 0.5]
    assert above[-1] - above[0] == pytest.approx(2.0, abs=0.02)
    assert axis[w > 0][[0, -1]] == pytest.approx([-2, 2], abs=0.02)


def test_neighbouring_rectangles_share_every_channel_once() -> None:
    axis = np.arange(101) * 0.5
    centre = np.arange(2, 49, 2.0)
    w = weights(axis, centre, 2.0, "rectangle")
    inside = (axis > 2) & (axis < 48)
    np.testing.assert_allclose(w.sum(0)[inside], 1)


@pytest.mark.parametrize("response", ["triangle", "rectangle"])
@hypothesis.given(slope=st.floats(-1, 1), offset=st.floats(2, 5))
def test_a_straight_line_stays_a_straight_line(response: str, slope: float, offset: float) -> None:
    axis = 100 + 0.25 * np.arange(161)
    centre, out = rebinned(axis, planes(offset + slope * (axis - 100) / 40), 1.0, 2.0, response)
    inside = slice(2, -2)
    expected = offset + slope * (centre - 100) / 40
    np.testing.assert_allclose(out[inside, 0, 0], expected[inside], rtol=2e-6)


def test_a_gaussian_line_is_broadened_by_the_width_of_the_triangle() -> None:
    axis = np.arange(0, 80, 0.05)
    sigma, width = 4.0, 3.0
    centre, out = rebinned(axis, planes(np.exp(-((axis - 40) ** 2) / (2 * sigma**2))), 0.5, width)
    line = out[:, 0, 0].astype(float)
    variance = ((centre - 40) ** 2 * line).sum() / line.sum()
    # A triangle of full width at half maximum W has the variance W^2 / 6.
    assert variance == pytest.approx(sigma**2 + width**2 / 6, rel=1e-3)


def test_sum_counts_and_mean_err_squares() -> None:
    axis = np.arange(41) * 0.25
    data = planes(np.full(41, 2.0))
    _, total = rebinned(axis, data, 1.0, 2.0, operation="sum")
    _, error = rebinned(axis, data, 1.0, 2.0, operation="mean_err")
    # Samples every quarter under a triangle of unit peak and area 2.
    np.testing.assert_allclose(total[3:-3], 2.0 * 2 / 0.25, rtol=1e-6)
    np.testing.assert_allclose(error, 2.0, rtol=1e-6)
    _, tiny = rebinned(axis, data * np.float32(1e-30), 1.0, 2.0, operation="mean_err")
    np.testing.assert_allclose(tiny, 2e-30, rtol=1e-6)


def test_missing_channels_are_left_out() -> None:
    axis = np.arange(41) * 0.25
    data = planes(np.full(41, 3.0))
    data[10:13, 0, 0] = np.nan
    data[:, 1, 1] = np.nan
    _, mean = rebinned(axis, data, 1.0, 2.0)
    _, total = rebinned(axis, data, 1.0, 2.0, operation="sum")
    np.testing.assert_allclose(mean[:, 0, 0], 3.0, rtol=1e-6)
    np.testing.assert_allclose(total[2:-2, 0, 0], 3.0 * 8, rtol=1e-6)
    assert np.isnan(mean[:, 1, 1]).all()
    assert np.isnan(total[:, 1, 1]).all()


@pytest.mark.slow
def test_variance_is_the_scatter_of_many_noisy_cubes() -> None:
    rng = np.random.default_rng(3)
    axis = np.arange(33) * 0.25
    sigma = 1 + axis / 8
    draws = (5 + sigma[:, None, None] * rng.normal(size=(33, 200, 200))).astype(np.float32)
    variance = np.broadcast_to((sigma**2).astype(np.float32)[:, None, None], draws.shape)
    for operation in ("mean", "sum", "mean_err"):
        data = draws if operation != "mean_err" else 50 + draws
        _, out, predicted = rebinned(axis, data, 1.0, 2.0, operation=operation, variance=variance)
        np.testing.assert_allclose(out.var((1, 2)), predicted.mean((1, 2)), rtol=0.05)


def test_a_decreasing_axis_gives_the_mirror_image() -> None:
    rng = np.random.default_rng(1)
    axis = np.arange(41) * 0.25
    data = rng.random((41, 3, 2), np.float32)
    up, one = rebinned(axis, data, 1.0, 2.0)
    down, two = rebinned(axis[::-1], data[::-1], 1.0, 2.0)
    np.testing.assert_allclose(up, down[::-1])
    np.testing.assert_allclose(one, two[::-1], rtol=1e-6)


def test_an_uneven_axis_weights_by_channel_width() -> None:
    axis = np.exp(np.linspace(np.log(500), np.log(600), 2001))
    centre, out = rebinned(axis, planes(axis / 550), 5.0, 10.0)
    np.testing.assert_allclose(out[3:-3, 0, 0], centre[3:-3] / 550, rtol=1e-5)


def test_agrees_with_spectres_on_adjoining_rectangles() -> None:
    rng = np.random.default_rng(5)
    axis = 1000 + 1.0 * np.arange(300)
    flux = (10 + np.cumsum(rng.normal(size=300))).astype(np.float32)
    centre, out = rebinned(axis, planes(flux), 10.0, 10.0, "rectangle")
    theirs = spectres.spectres(centre[1:-1], axis, flux.astype(float), verbose=False)
    # A channel on the border of two bins counts half in each, in both programs.
    np.testing.assert_allclose(out[1:-1, 0, 0], theirs, rtol=1e-5)


def test_a_single_channel_is_returned_unchanged() -> None:
    centre, out = rebinned(np.array([7e-7]), planes([4.0]), 1e-9, 2e-9)
    assert centre == pytest.approx([7e-7])
    np.testing.assert_array_equal(out, 4.0)
