"""Otsu thresholds against scikit-image, against brute force, and at their limits."""

import itertools

import numpy as np
import pytest
from skimage.filters import threshold_multiotsu, threshold_otsu

from lucidcube.kernels.otsu import multi_otsu
from lucidcube.kernels.otsu import nested_otsu as nested_otsu_in_scratch


def nested_otsu(values: np.ndarray, levels: int = 10) -> float:
    return nested_otsu_in_scratch(values.copy(), levels)


def three_populations(seed: int, size: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.sort(rng.uniform(-50, 100, 3))
    return (rng.choice(centres, size) + rng.normal(0, rng.uniform(1, 20), size)).astype(np.float32)


@pytest.mark.parametrize("large", [1e-45, 1e-40, 1e-37, 1e-20, 1e38])
def test_any_range_of_float32(large):
    values = np.zeros(300, np.float32)
    values[5] = large
    assert 0 < nested_otsu(values) <= np.float32(large)


def test_a_range_that_cannot_be_divided_is_not_split():
    assert abs(nested_otsu(np.array([-3e38, 3e38] * 200, np.float32))) < 3e38
    assert nested_otsu(np.array([0.0, 5e-324] * 200)) == -np.inf
    assert nested_otsu(np.array([-1.7e308, 1.7e308] * 200)) == -np.inf


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_scikit_image_to_a_bin(seed, classes):
    values = three_populations(seed)
    width = np.ptp(values) / 256
    theirs = threshold_multiotsu(values, classes=classes, nbins=256)
    np.testing.assert_allclose(multi_otsu(values, classes), theirs, atol=1.01 * width)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_other_cut_has_a_larger_between_class_variance(seed):
    values = three_populations(seed, 300).astype(np.float64)
    edges = np.linspace(values.min(), values.max(), 17)
    index = np.clip(np.digitize(values, edges) - 1, 0, 15)

    def between(cuts):
        label = np.digitize(index, cuts)
        return sum((label == k).mean() * index[label == k].mean() ** 2 for k in np.unique(label))

    best = max(between(cuts) for cuts in itertools.combinations(range(1, 16), 2))
    ours = np.rint((multi_otsu(values, 3, bins=16) - edges[0]) / (edges[1] - edges[0]))
    assert between(ours) == pytest.approx(best, rel=1e-12)


def test_thresholds_follow_shift_and_scale_and_ignore_nan():
    values = three_populations(3)
    plain = multi_otsu(values, 3)
    np.testing.assert_allclose(multi_otsu(values * np.float32(2.0**-60), 3), plain * 2.0**-60, rtol=1e-12)
    with_holes = np.append(values, [np.nan] * 10).reshape(2, -1)
    with_holes.flags.writeable = False
    np.testing.assert_array_equal(multi_otsu(with_holes, 3), plain)


def test_a_threshold_belongs_to_the_class_above():
    values = np.repeat(np.array([0.0, 1.0, 2.0, 3.0], np.float32), [50, 50, 50, 50])
    low, high = multi_otsu(values, classes=3)
    assert set(np.digitize(values, [low, high])) == {0, 1, 2}
    assert multi_otsu(np.array([0, 1, 2], np.float32), 3) == pytest.approx([1 / 128, 1 + 1 / 128], abs=1 / 64)


@pytest.mark.parametrize(
    ("values", "classes_seen"),
    [([], 0), ([np.nan], 0), ([5.0], 1), ([7.0] * 9, 1), ([0.0, 1.0, 1.0], 2), ([0.0, 1.0, 2.0], 3)],
)
def test_fewer_distinct_values_than_classes(values, classes_seen):
    values = np.array(values, np.float32)
    thresholds = multi_otsu(values, classes=3)
    assert np.isfinite(thresholds).sum() == max(classes_seen - 1, 0)
    finite = values[np.isfinite(values)]
    np.testing.assert_array_equal(np.digitize(finite, thresholds), np.unique(finite, return_inverse=True)[1])


def test_invalid_arguments_are_errors():
    with pytest.raises(ValueError, match="classes=1"):
        multi_otsu(np.arange(9.0), classes=1)
    with pytest.raises(ValueError, match="bins=2"):
        multi_otsu(np.arange(9.0), classes=3, bins=2)


def nested_by_hand(values: np.ndarray, levels: int) -> float:
    """Compute the nested threshold by its definition with scikit-image's two-class Otsu."""
    current, tried = values, []
    for _ in range(levels):
        if tried and current.size < 256:
            break
        low, high = current.min(), current.max()
        threshold = threshold_otsu(current, nbins=256) + (high - low) / 512
        above = current[current >= threshold]
        f_range, f_pix = (threshold - low) / (high - low), above.size / current.size
        tried.append(((f_range - f_pix) / (f_range + f_pix), threshold))
        current = above
    return max(tried)[1]


@pytest.mark.parametrize("levels", [1, 2, 10])
@pytest.mark.parametrize("seed", range(4))
def test_nested_threshold_follows_its_definition(seed, levels):
    values = np.random.default_rng(seed).gamma(1.0, 3.0, 5000)
    ours, expected = nested_otsu(values, levels), nested_by_hand(values, levels)
    assert ours == pytest.approx(expected, abs=1.01 * np.ptp(values) / 256)


def test_nested_threshold_isolates_the_few_bright_pixels():
    rng = np.random.default_rng(1)
    values = np.abs(rng.normal(0, 1, 10000)).astype(np.float32)
    values[:20] += 500
    values[20:] += np.where(rng.random(9980) < 0.3, np.float32(30), np.float32(0))
    assert (values >= nested_otsu(values)).sum() == 20


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.0]])
def test_nested_threshold_without_a_possible_split(values):
    assert nested_otsu(np.array(values, np.float32)) == -np.inf


def test_nested_threshold_scales_with_its_input():
    values = three_populations(0)
    scaled = nested_otsu(values * np.float32(2.0**-60))
    assert scaled == pytest.approx(nested_otsu(values) * 2.0**-60, rel=1e-9)
