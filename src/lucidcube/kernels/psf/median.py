"""Medians by one selection.

NumPy's own, which looks for NaN by a second one, takes ten times as long on a plane, and numba's own more
than twice as long on an annulus; the star needs half a dozen of the former and hundreds of the latter.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def median(values: NDArray[np.floating]) -> float:
    """Return the median of finite values of any shape, at least one; the mean of the middle two if even.

    Parameters
    ----------
    values
        Left as they are.

    Returns
    -------
    float
    """
    middle = values.size // 2
    ordered = np.partition(values, middle, axis=None)
    upper = float(ordered[middle])
    return upper if values.size % 2 else 0.5 * (float(ordered[:middle].max()) + upper)


@njit(cache=True, nogil=True)
def median_inplace(values: NDArray[np.floating]) -> float:
    """`median` of a one-dimensional array, which is scratch and is reordered. For compiled callers."""
    middle = values.size // 2
    upper = _select(values, middle)
    if values.size % 2:
        return float(upper)
    lower = values[0]
    for k in range(1, middle):
        lower = max(lower, values[k])
    return 0.5 * (float(lower) + float(upper))


@njit(cache=True, nogil=True)
def _select(values: NDArray[np.floating], k: int) -> float:
    """Return the value of rank k (from 0), none greater before it and none smaller after it (Hoare 1961)."""
    low, high = 0, values.size
    while high - low > 1:
        first, middle, last = values[low], values[(low + high) // 2], values[high - 1]
        pivot = max(min(first, middle), min(max(first, middle), last))
        # The exchange is made whether or not it is needed: that is cheaper than to ask.
        less = low
        for i in range(low, high):
            value = values[i]
            values[i] = values[less]
            values[less] = value
            less += value < pivot
        if k < less:
            high = less
            continue
        same = less
        for i in range(less, high):
            value = values[i]
            values[i] = values[same]
            values[same] = value
            same += value == pivot
        if k < same:
            return pivot
        low = same
    return values[k]
