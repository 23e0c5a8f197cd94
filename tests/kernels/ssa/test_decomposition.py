"""Singular spectrum analysis against a dense decomposition and signals of known rank."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lucidcube.kernels.ssa.decomposition import components, decompose, fill_smooth, window_shape

Y, X = np.mgrid[:30, :34].astype(np.float64)


def noise(shape: tuple[int, int], seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dense_ssa(plane: NDArray[np.float32], height: int, width: int) -> tuple[NDArray, NDArray]:
    """Return the singular values and components by the definition, in float64."""
    windows = sliding_window_view(plane.astype(np.float64), (height, width))
    rows, columns = windows.shape[:2]
    trajectory = windows.reshape(rows * columns, height * width).T
    vectors, values, scores = np.linalg.svd(trajectory, full_matrices=False)
    parts = np.zeros((values.size, *plane.shape))
    holding = np.zeros(plane.shape)
    for row in range(rows):
        for column in range(columns):
            here = slice(row, row + height), slice(column, column + width)
            holding[here] += 1
            piece = vectors * values * scores[:, row * columns + column]
            parts[(slice(None), *here)] += piece.T.reshape(-1, height, width)
    return values, parts / holding


def all_components(plane: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    basis = decompose(plane, window)
    return np.array(list(components(plane, basis, range(len(basis.vectors)))))


@pytest.mark.parametrize("shape", [(23, 31), (9, 30), (11, 11), (8, 6), (19, 7)])
def test_equals_dense_svd(shape: tuple[int, int]) -> None:
    plane = noise(shape) + np.linspace(0, 5, shape[1], dtype=np.float32)
    height, width = window_shape(shape, 5)
    values, expected = dense_ssa(plane, height, width)
    basis = decompose(plane, 5)
    np.testing.assert_allclose(basis.eigenvalues[: values.size], values**2, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(all_components(plane, 5)[: values.size], expected, atol=2e-5)


@pytest.mark.parametrize("shape", [(64, 75), (20, 21), (19, 40), (5, 60), (1, 12), (3, 2), (1, 1)])
def test_components_sum_to_plane(shape: tuple[int, int]) -> None:
    plane = 1000 + noise(shape)
    total = all_components(plane, 10).astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(total, plane, rtol=2e-6)


@pytest.mark.parametrize(
    ("signal", "rank"),
    [
        (np.full_like(X, 7.0), 1),
        (np.exp(0.05 * X - 0.02 * Y), 1),
        (np.cos(0.7 * X + 0.4 * Y + 0.3), 2),
        (np.exp(0.03 * Y) * np.cos(0.9 * X), 2),
        (1 + 0.1 * X + 0.2 * Y, 2),
        (np.cos(0.7 * X) + np.cos(1.1 * Y), 4),
    ],
    ids=["constant", "exponential", "wave", "growing wave", "ramp", "two waves"],
)
def test_rank_of_known_signals(signal: NDArray[np.float64], rank: int) -> None:
    plane = signal.astype(np.float32)
    basis = decompose(plane, 6)
    assert basis.rank >= rank
    # The rest is due to the rounding of the signal to float32.
    assert basis.eigenvalues[rank:].sum() < 1e-11 * basis.eigenvalues.sum()
    leading = sum(components(plane, basis, range(rank)))
    np.testing.assert_allclose(leading, plane, atol=3e-6 * np.abs(plane).max())


def test_constant_and_zero_planes_have_one_and_no_component() -> None:
    assert decompose(np.full((20, 20), 3, np.float32), 10).rank == 1
    assert decompose(np.zeros((20, 20), np.float32), 10).rank == 0


def test_sign_of_vectors_does_not_change_components() -> None:
    plane = noise((40, 33))
    basis = decompose(plane, 6)
    flipped = basis._replace(vectors=-basis.vectors)
    for one, other in zip(components(plane, basis, [0, 7]), components(plane, flipped, [0, 7]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_transposed_plane_has_transposed_components() -> None:
    plane = noise((28, 37))
    turned = all_components(np.ascontiguousarray(plane.T), 5).transpose(0, 2, 1)
    np.testing.assert_allclose(all_components(plane, 5), turned, atol=5e-6)


@pytest.mark.slow
def test_same_bits_for_any_layout_and_number_of_threads() -> None:
    plane = noise((60, 70))
    plane.setflags(write=False)
    spread = np.zeros((60, 140), np.float32)
    spread[:, ::2] = plane
    with threadpool_limits(1):
        expected = all_components(plane, 10)
        np.testing.assert_array_equal(all_components(spread[:, ::2], 10), expected)
    with threadpool_limits(4):
        np.testing.assert_array_equal(all_components(plane, 10), expected)


def test_window_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        decompose(noise((20, 20)), 0)


def test_fill_smooth_keeps_valid_pixels_and_continues_a_constant() -> None:
    plane = np.full((40, 90), 5, np.float32)
    plane[10:13, 20:24] = np.nan
    plane[:, 50:] = np.nan
    plane[0, 0] = 6
    filled = fill_smooth(plane, np.isnan(plane))
    valid = ~np.isnan(plane)
    np.testing.assert_array_equal(filled[valid], plane[valid])
    np.testing.assert_allclose(filled[20:, :], 5, rtol=1e-5)
    assert np.isfinite(filled).all()


def test_fill_smooth_is_the_weighted_mean() -> None:
    plane = noise((31, 33))
    missing = np.zeros(plane.shape, bool)
    missing[12:15, 14] = True
    y, x = np.mgrid[:31, :33]
    weight = np.exp(-((y - 13) ** 2 + (x - 14) ** 2) / 50) * ~missing
    inside = fill_smooth(plane, missing)[13, 14]
    # The plane is mirrored at its edges, 2.5 sigma away and more: a part in a hundred of the weight.
    assert inside == pytest.approx((weight * plane).sum() / weight.sum(), abs=0.02)


def test_fill_smooth_without_valid_pixels_is_zero() -> None:
    filled = fill_smooth(np.full((4, 5), np.nan, np.float32), np.ones((4, 5), bool))
    np.testing.assert_array_equal(filled, np.zeros((4, 5)))
