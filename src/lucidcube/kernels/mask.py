"""Bad pixels from a badness map: a cut that follows the channel, and spreading around the worst ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray


def cut_by_channel(cuts: Sequence[tuple[float, float]], channels: ArrayLike) -> NDArray[np.float64]:
    """Cut at each channel: linear between the given ones, constant outside them.

    Parameters
    ----------
    cuts
        Pairs (channel index, cut in units of badness), in any order, each channel once.
    channels : (n,) array
        Channel indices wanted.

    Returns
    -------
    (n,) float64 array

    Raises
    ------
    ValueError
        If there is no cut, a number is not finite, or a channel has two cuts.
    """
    index, value = np.array(sorted(cuts), dtype=np.float64).reshape(-1, 2).T
    if index.size == 0:
        raise ValueError("at least one (channel, cut) pair is needed")
    if not (np.isfinite(index).all() and np.isfinite(value).all()):
        raise ValueError(f"cuts must be finite numbers: {list(cuts)}")
    if (np.diff(index) == 0).any():
        raise ValueError(f"a channel has two cuts: {list(cuts)}")
    return np.interp(np.asarray(channels, dtype=np.float64), index, value)


def bad_pixel_mask(
    badness: NDArray[np.floating], cut: float, *, max_dilation: int | None = None
) -> NDArray[np.uint8]:
    """Mark the pixels at or above the cut, and around each as many steps as whole units it lies above it.

    A step adds the four nearest neighbours. A pixel is therefore marked if a bad one, n whole units above
    the cut, lies no further than n in city-block distance: two sweeps over the plane (Rosenfeld & Pfaltz
    1966, J. ACM 13, 471) find that, whatever the badness of the worst pixel.

    Parameters
    ----------
    badness : (y, x) array
        NaN is not bad and is never marked, but bad pixels spread across it.
    cut
        Badness from which on a pixel is bad.
    max_dilation
        Largest number of steps, None for no limit.

    Returns
    -------
    (y, x) uint8 array
        1 is bad.

    Raises
    ------
    ValueError
        If the plane is not two-dimensional, the cut is not finite or ``max_dilation`` is negative.
    """
    if badness.ndim != 2 or not np.isfinite(cut):
        raise ValueError(f"badness {badness.shape} must be two-dimensional and the cut {cut} finite")
    if max_dilation is not None and max_dilation < 0:
        raise ValueError(f"max_dilation must not be negative: {max_dilation}")
    # No two pixels are further apart than this, so it limits nothing and keeps the steps small integers.
    farthest = badness.shape[0] + badness.shape[1]
    limit = farthest if max_dilation is None else min(max_dilation, farthest)
    return _spread(badness, float(cut), limit)


@njit(cache=True, nogil=True)
def _spread(badness: NDArray[np.floating], cut: float, limit: int) -> NDArray[np.uint8]:
    ny, nx = badness.shape
    steps = np.empty((ny, nx), dtype=np.int32)  # by how many steps a pixel spreads further; -1: not bad
    for y in range(ny):
        for x in range(nx):
            units = np.float64(badness[y, x]) - cut  # float64: a whole unit must not be lost to rounding
            here = int(min(units, limit)) if units >= 0 else -1
            if y > 0:
                here = max(here, steps[y - 1, x] - 1)
            if x > 0:
                here = max(here, steps[y, x - 1] - 1)
            steps[y, x] = here
    mask = np.empty((ny, nx), dtype=np.uint8)
    for y in range(ny - 1, -1, -1):
        for x in range(nx - 1, -1, -1):
            here = steps[y, x]
            if y < ny - 1:
                here = max(here, steps[y + 1, x] - 1)
            if x < nx - 1:
                here = max(here, steps[y, x + 1] - 1)
            steps[y, x] = here
            mask[y, x] = here >= 0 and not np.isnan(badness[y, x])
    return mask
