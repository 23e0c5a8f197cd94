"""Thresholds that split brightness values into classes (Otsu 1979; Liao, Chen & Chung 2001)."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

BINS = 256
"""Number of bins of the histograms."""


def multi_otsu(values: NDArray[np.floating], classes: int, bins: int = BINS) -> NDArray[np.float64]:
    """Compute the thresholds that separate values into classes of the largest between-class variance.

    The values are histogrammed in equal bins between their minimum and maximum; NaN is ignored. All ways to
    cut the histogram into `classes` consecutive parts are compared, by dynamic programming; the criterion is
    the sum of S_k^2 / P_k over the classes (Liao, Chen & Chung 2001, J. Inf. Sci. Eng. 17, 713).

    The ``classes - 1`` thresholds are in ascending order, each the upper edge of the last bin of the class
    below. The class of a value is ``numpy.digitize(value, thresholds)``. If fewer than `classes` bins are
    occupied (constant or missing input, a few distinct values), each of them is a class, counted from the
    lowest, and the remaining thresholds are +inf: the highest classes stay empty. ValueError is raised unless
    2 <= classes <= bins.
    """
    if classes < 2 or bins < classes:
        raise ValueError(f"need 2 <= classes <= bins, got classes={classes} and bins={bins}")
    known = values[~np.isnan(values)]
    if not known.size or known.min() == known.max():
        return np.full(classes - 1, np.inf)
    thresholds: NDArray[np.float64] = _multi_otsu(
        known, float(known.min()), float(known.max()), classes, bins
    )
    return thresholds


def nested_otsu(values: NDArray[np.floating], levels: int) -> float:
    """Compute the maximum-fractional-difference Otsu threshold, which isolates few and bright pixels.

    The values are split in two by Otsu's criterion, the part above is split again, and so on, at most
    `levels` times. Of these thresholds the one with the largest (f_range - f_pix) / (f_range + f_pix) is
    chosen: f_range is its position in the range of the values being split, from 0 to 1, and f_pix the
    fraction of them above it. Parts of fewer values than bins are not split: their histograms say nothing
    about classes.

    Values at or above the threshold are selected; it is -inf if no split is possible (fewer than two distinct
    values). The values are finite and one-dimensional, and are used as scratch memory.
    """
    size, chosen, best = values.size, -math.inf, -math.inf
    bin_of = np.empty(size, np.int32)
    for level in range(levels):
        if size < 2 or (level > 0 and size < BINS):
            break
        low = float(values[:size].min())
        width = float(values[:size].max()) - low
        if not (width > 0 and math.isfinite(width) and math.isfinite(BINS / width)):
            break
        last, above = _split(values[:size], low, BINS / width, bin_of)
        f_range, f_pix = (last + 1) / BINS, above / size
        score = (f_range - f_pix) / (f_range + f_pix)
        if score > best:
            best, chosen = score, low + f_range * width
        size = above
    return chosen


@njit(cache=True, nogil=True)
def _multi_otsu(
    values: NDArray[np.floating], low: float, high: float, classes: int, bins: int
) -> NDArray[np.float64]:
    """Return the thresholds of `multi_otsu` for values from `low` to `high`, of which not all are equal."""
    thresholds = np.full(classes - 1, np.inf)
    counts = np.zeros(bins, np.int64)
    for value in values:
        counts[min(int((value - low) / (high - low) * bins), bins - 1)] += 1

    # Only occupied bins can change a class, so that the search runs over those; `bin_of` holds their indices.
    bin_of = np.flatnonzero(counts)
    occupied = bin_of.size
    if occupied <= classes:
        for k in range(occupied - 1):
            thresholds[k] = low + (bin_of[k] + 1) * ((high - low) / bins)
        return thresholds
    weight, moment = np.zeros(occupied + 1), np.zeros(occupied + 1)
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
                    best[k, j], cut[k, j] = score, i
    end = occupied
    for k in range(classes - 1, 0, -1):
        end = cut[k, end]
        thresholds[k - 1] = low + (bin_of[end - 1] + 1) * ((high - low) / bins)
    return thresholds


@njit(cache=True, nogil=True)
def _split(
    values: NDArray[np.floating], low: float, scale: float, bin_of: NDArray[np.int32]
) -> tuple[int, int]:
    """Split values by Otsu's criterion, and move the upper ones to the front; of equal splits take the first.

    Return the last bin of the lower values, and the number of the upper ones.
    """
    total, total_moment = values.size, 0
    counts = np.zeros(BINS, np.int64)
    for i in range(total):
        bin_of[i] = min(np.int32((float(values[i]) - low) * scale), np.int32(BINS - 1))
    for i in range(total):
        counts[bin_of[i]] += 1
    for i in range(counts.size):
        total_moment += counts[i] * i
    below, below_moment, last, best = 0, 0, 0, -1.0
    for i in range(counts.size - 1):
        below += counts[i]
        below_moment += counts[i] * i
        if counts[i] > 0 and below < total:
            contrast = below_moment / below - (total_moment - below_moment) / (total - below)
            score = float(below) * float(total - below) * contrast**2
            if score > best:
                best, last = score, i
    above = 0
    for i in range(total):
        # A condition would cost more, because the processor could not predict it.
        values[above] = values[i]
        above += bin_of[i] > last
    return last, above
