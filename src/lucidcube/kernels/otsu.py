"""Thresholds that split brightness values into classes (Otsu 1979; Liao, Chen & Chung 2001)."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

BINS = 256
COUNTERS, TOGETHER = 4, 256


def multi_otsu(values: NDArray[np.floating], classes: int = 3, bins: int = BINS) -> NDArray[np.float64]:
    """
    Thresholds that separate values into classes of the largest between-class variance.

    The values are histogrammed in equal bins between their minimum and maximum; every way of cutting the
    histogram into `classes` consecutive parts is compared, by dynamic programming.

    Parameters
    ----------
    values : array of float, any shape
        NaN is left out.
    classes : int
        Number of classes, at least 2.
    bins : int
        Number of histogram bins.

    Returns
    -------
    array of float64, shape (classes - 1,)
        Ascending. The class of a value is the number of thresholds that are <= it, which is
        ``numpy.digitize(values, thresholds)``. A threshold is the upper edge of the last bin of the class
        below. When fewer than `classes` bins are occupied (constant or missing input, a few distinct
        values), each occupied bin is a class of its own, counted from the lowest, and the thresholds left
        over are +inf: the highest classes stay empty.

    Raises
    ------
    ValueError
        If `classes` is less than 2 or `bins` is less than `classes`.

    References
    ----------
    Liao, Chen & Chung 2001, J. Inf. Sci. Eng. 17, 713 (the criterion: sum of S_k^2 / P_k over the classes).
    """
    if classes < 2 or bins < classes:
        raise ValueError(f"need 2 <= classes <= bins, got classes={classes} and bins={bins}")
    thresholds: NDArray[np.float64] = _multi_otsu(np.ravel(values), classes, bins)
    return thresholds


def nested_otsu(values: NDArray[np.floating], levels: int = 10, bins: int = BINS) -> float:
    """
    The maximum-fractional-difference Otsu threshold, which isolates few and bright pixels.

    The values are split in two by Otsu's criterion, the part above is split again, and so on, `levels` times
    at most. Of the thresholds met, that with the largest (f_range - f_pix) / (f_range + f_pix) is chosen,
    where f_range is how far up the range of the values being split the threshold lies, and f_pix the fraction
    of them above it. Parts of fewer values than bins are not split any further: the histogram of a handful
    says nothing about classes, and the best of ten such thresholds singles out pixels by chance.

    Parameters
    ----------
    values : array of float, any shape
        NaN is left out.
    levels : int
        Largest number of splits, at least 1.
    bins : int
        Number of histogram bins of each split, at least 2.

    Returns
    -------
    float
        A value is selected when it is above or at the threshold. -inf when no split is possible (constant or
        missing input): everything is selected.

    Raises
    ------
    ValueError
        If `levels` or `bins` is too small.
    """
    if levels < 1 or bins < 2:
        raise ValueError(f"need levels >= 1 and bins >= 2, got levels={levels} and bins={bins}")
    flat = np.ravel(values)
    finite = flat[np.isfinite(flat)]
    return float(nested_otsu_inplace(finite, finite.size, levels, bins))


@njit(cache=True, nogil=True)
def _multi_otsu(values: NDArray[np.floating], classes: int, bins: int) -> NDArray[np.float64]:
    thresholds = np.full(classes - 1, np.inf)
    low, high = np.inf, -np.inf
    for value in values:
        if not math.isnan(value):
            low = min(low, float(value))
            high = max(high, float(value))
    if not high > low:
        return thresholds
    counts = np.zeros(bins, np.int64)
    for value in values:
        if not math.isnan(value):
            counts[min(int((value - low) / (high - low) * bins), bins - 1)] += 1

    # Only occupied bins can change a class, so that the search runs over those; `bin_of` leads back.
    bin_of = np.flatnonzero(counts)
    occupied = bin_of.size
    if occupied <= classes:
        for k in range(occupied - 1):
            thresholds[k] = low + (bin_of[k] + 1) * ((high - low) / bins)
        return thresholds
    weight = np.zeros(occupied + 1)
    moment = np.zeros(occupied + 1)
    for i in range(occupied):
        weight[i + 1] = weight[i] + counts[bin_of[i]]
        moment[i + 1] = moment[i] + counts[bin_of[i]] * float(bin_of[i])

    # best[k, j]: the largest criterion of the first j occupied bins in k + 1 classes.
    # cut[k, j]: where the last of those classes begins.
    best = np.full((classes, occupied + 1), -np.inf)
    cut = np.zeros((classes, occupied + 1), np.int64)
    for j in range(1, occupied + 1):
        best[0, j] = moment[j] ** 2 / weight[j]
    for k in range(1, classes):
        for j in range(k + 1, occupied + 1):
            for i in range(k, j):
                score = best[k - 1, i] + (moment[j] - moment[i]) ** 2 / (weight[j] - weight[i])
                if score > best[k, j]:
                    best[k, j] = score
                    cut[k, j] = i
    end = occupied
    for k in range(classes - 1, 0, -1):
        end = cut[k, end]
        thresholds[k - 1] = low + (bin_of[end - 1] + 1) * ((high - low) / bins)
    return thresholds


@njit(cache=True, nogil=True)
def nested_otsu_inplace(values: NDArray[np.floating], size: int, levels: int, bins: int) -> float:
    """
    `nested_otsu` of the first `size` entries of a 1-D array without NaN, which is scratch and is reordered.

    Compiled, for callers that are compiled themselves and hold the values in a buffer of their own.
    """
    chosen, best = -np.inf, -np.inf
    bin_of = np.empty(size, np.int32)
    for level in range(levels):
        if size < 2 or (level > 0 and size < bins):
            break
        low, high = _extremes(values[:size])
        width = high - low
        if not (width > 0 and math.isfinite(width) and math.isfinite(bins / width)):
            break
        counts = _histogram(values[:size], low, bins / width, bins, bin_of)
        last = _two_class_split(counts)
        above = 0
        for i in range(size):
            # Without a condition, which the processor would have to guess.
            values[above] = values[i]
            above += bin_of[i] > last
        f_range = (last + 1) / bins
        f_pix = above / size
        score = (f_range - f_pix) / (f_range + f_pix)
        if score > best:
            best = score
            chosen = low + f_range * width
        size = above
    return chosen


@njit(cache=True, nogil=True)
def _extremes(values: NDArray[np.floating]) -> tuple[float, float]:
    """Least and largest of values without NaN."""
    lows, highs = np.full(TOGETHER, values[0]), np.full(TOGETHER, values[0])
    whole = values.size // TOGETHER * TOGETHER
    for begin in range(0, whole, TOGETHER):
        _widen(lows, highs, values[begin : begin + TOGETHER])
    _widen(lows, highs, values[whole:])
    return np.float64(lows.min()), np.float64(highs.max())


@njit(cache=True, nogil=True)
def _widen(lows: NDArray[np.floating], highs: NDArray[np.floating], values: NDArray[np.floating]) -> None:
    """Extremes number by number: unlike those of all, these can be found by vector instructions."""
    for k in range(values.size):
        lows[k] = values[k] if values[k] < lows[k] else lows[k]
        highs[k] = values[k] if values[k] > highs[k] else highs[k]


@njit(cache=True, nogil=True)
def _histogram(
    values: NDArray[np.floating], low: float, scale: float, bins: int, bin_of: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Count values by equal bins from `low` on, and note the bin of each."""
    last = np.int32(bins - 1)
    for i in range(values.size):
        bin_of[i] = min(np.int32((float(values[i]) - low) * scale), last)
    # Values next to each other are alike: adding to one counter again and again would wait for itself.
    # Numbers without sign spare the question whether an index counts from the end.
    counts = np.zeros(COUNTERS * bins, np.int64)
    for i in range(0, values.size - COUNTERS + 1, COUNTERS):
        for k in range(COUNTERS):
            counts[np.uint64(bin_of[i + k]) + np.uint64(k * bins)] += 1
    for i in range(values.size // COUNTERS * COUNTERS, values.size):
        counts[np.uint64(bin_of[i])] += 1
    return counts.reshape(COUNTERS, bins).sum(axis=0)


@njit(cache=True, nogil=True)
def _two_class_split(counts: NDArray[np.int64]) -> int:
    """Index of the last bin of the lower class by Otsu's criterion; the first of equals."""
    total, total_moment = 0, 0
    for i in range(counts.size):
        total += counts[i]
        total_moment += counts[i] * i
    below, below_moment = 0, 0
    split, best = 0, -1.0
    for i in range(counts.size - 1):
        below += counts[i]
        below_moment += counts[i] * i
        if counts[i] == 0 or below == total:
            continue
        contrast = below_moment / below - (total_moment - below_moment) / (total - below)
        score = float(below) * float(total - below) * contrast**2
        if score > best:
            best = score
            split = i
    return split
