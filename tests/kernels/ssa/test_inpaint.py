"""Filling by singular spectrum analysis on simulated truth and on signals that it must continue."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.ssa import inpaint

Fill = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]]
fill_ssa = partial(inpaint.fill_ssa, window=10)
fill_ssa_deviation = partial(inpaint.fill_ssa_deviation, window=10, value=0.5)
both = pytest.mark.parametrize("fill", [fill_ssa, fill_ssa_deviation])


def planet(seed: int = 2) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a banded disc with a soft limb: truth, and an observation with noise."""
    y, x = np.indices((60, 66))
    radius = np.hypot(y - 30, x - 33)
    truth = 1000 * (1 + 0.1 * np.cos(0.5 * y)) / (1 + np.exp((radius - 22) / 2))
    noise = np.random.default_rng(seed).normal(0, 3, truth.shape)
    return truth.astype(np.float32), (truth + noise).astype(np.float32)


def damage(plane: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Add hot and cold pixels and a stripe."""
    mask = np.zeros(plane.shape, bool)
    mask[[12, 20, 30, 41, 50], [30, 44, 20, 33, 8]] = True
    mask[25:27, 25:40] = True
    return np.where(mask, plane + 500, plane).astype(np.float32), mask


def rms(values: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


@pytest.mark.parametrize(("fill", "remains"), [(fill_ssa, 0.05), (fill_ssa_deviation, 0.3)])
def test_better_than_the_artefact(fill: Fill, remains: float) -> None:
    truth, observed = planet()
    damaged, mask = damage(observed)
    assert rms((fill(damaged, mask) - truth)[mask]) < remains * rms((damaged - truth)[mask])


def test_ssa_follows_bands_that_linear_interpolation_cuts() -> None:
    truth, observed = planet()
    mask = np.zeros(truth.shape, bool)
    mask[24:30:2, 22:46] = True
    error = {fill: rms((fill(observed, mask) - truth)[mask]) for fill in (fill_ssa, fill_linear)}
    assert error[fill_ssa] < error[fill_linear]


def test_deviation_keeps_more_of_good_pixels_masked_by_mistake() -> None:
    """Fine structure within the usual range is kept, whereas linear interpolation removes it."""
    rng = np.random.default_rng(4)
    plane = (100 + ndimage.gaussian_filter(rng.normal(size=(60, 60)), 0.7) * 30).astype(np.float32)
    mask = rng.random(plane.shape) < 0.1
    kept = rms((fill_ssa_deviation(plane, mask, value=0.9) - plane)[mask])
    assert kept < 0.7 * rms((fill_linear(plane, mask) - plane)[mask])


def test_deviation_with_value_zero_is_linear_interpolation() -> None:
    damaged, mask = damage(planet()[1])
    expected = fill_linear(damaged, mask)
    np.testing.assert_allclose(fill_ssa_deviation(damaged, mask, value=0), expected, atol=0.02)


@both
def test_other_pixels_keep_their_bits(fill: Fill) -> None:
    damaged, mask = damage(planet()[1])
    damaged[:, :4] = np.nan
    before = damaged.copy()
    damaged.setflags(write=False)
    mask.setflags(write=False)
    filled = fill(damaged, mask)
    good = ~mask & ~np.isnan(before)
    np.testing.assert_array_equal(filled[good], before[good])
    np.testing.assert_array_equal(damaged, before)
    assert np.isfinite(filled).all()
    assert filled.dtype == np.float32


@both
def test_a_complete_plane_is_not_changed(fill: Fill) -> None:
    plane = planet()[1]
    filled = fill(plane, np.zeros(plane.shape, bool))
    np.testing.assert_array_equal(filled, plane)
    assert not np.shares_memory(filled, plane)


@both
def test_constant_is_continued(fill: Fill) -> None:
    plane = np.full((30, 32), 8, np.float32)
    mask = np.zeros(plane.shape, bool)
    mask[12:15, 9:11] = True
    plane[20, 20] = np.nan
    np.testing.assert_allclose(fill(plane, mask), 8, rtol=1e-5)


@both
@pytest.mark.parametrize("shape", [(8, 6), (1, 9), (2, 2), (30, 24)])
def test_degenerate_planes(fill: Fill, shape: tuple[int, int]) -> None:
    plane = np.full(shape, np.nan, np.float32)
    plane[0, 0] = 3
    assert np.isfinite(fill(plane, np.zeros(shape, bool))).all()
    assert np.isfinite(fill(plane, np.ones(shape, bool))).all()


@both
def test_small_units(fill: Fill) -> None:
    damaged, mask = damage(planet()[1])
    scaled = fill(damaged * np.float32(2.0**-60), mask) * np.float32(2.0**60)
    np.testing.assert_allclose(scaled, fill(damaged, mask), rtol=1e-4, atol=0.05)


def test_value_must_be_a_probability() -> None:
    plane = planet()[1]
    with pytest.raises(ValueError, match="between 0 and 1, got 1.5"):
        fill_ssa_deviation(plane, plane > 500, value=1.5)
