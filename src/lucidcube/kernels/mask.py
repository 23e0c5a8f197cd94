"""Mask bad pixels: a cut that depends on the channel, dilation by the score, growth along faint wings."""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage


class Mark(IntEnum):
    """Values of the variable `mask`: why a pixel is not trusted."""

    NO = 0
    ARTEFACT = 1
    """Its score reaches the cut, or it is next to such a pixel or inside a region."""
    GROWN = 2
    """It belongs to the faint surroundings of an artefact."""


def grow(mask: NDArray[np.uint8], amplitude: NDArray[np.floating], low: float) -> NDArray[np.uint8]:
    """Grow marks into the connected pixels whose amplitude reaches a low threshold.

    This is thresholding with hysteresis (Canny 1986, IEEE PAMI 8, 679): a pixel is reached from a marked one
    by steps to the four nearest neighbours, over marked pixels and those with an amplitude of at least `low`.

    The mask (y, x) is not zero where a pixel is marked; `low` is in the units of the amplitude (y, x), and
    pixels with NaN are not reached. The result holds the values of `Mark`: 1 where the mask is not zero, 2
    where it has grown. ValueError is raised if the shapes differ.
    """
    if mask.shape != amplitude.shape:
        raise ValueError(f"the mask {mask.shape} and the amplitude {amplitude.shape} differ in shape")
    marked = mask != 0
    grown = np.where(marked, np.uint8(Mark.ARTEFACT), np.uint8(Mark.NO))
    if marked.any():
        reached = ndimage.binary_propagation(marked, mask=marked | (amplitude >= low))
        grown[reached & ~marked] = Mark.GROWN
    return grown


def cut_by_channel(cuts: Sequence[tuple[float, float]], channels: ArrayLike) -> NDArray[np.float64]:
    """Return the cut at each channel: linear between the given channels, constant outside them.

    The cuts are pairs (channel index, cut in units of the artefact score), in any order, and `channels` the
    indices (n,). ValueError is raised if there is no cut, a number is not finite, or a channel has two cuts.
    """
    index, value = np.array(sorted(cuts), dtype=np.float64).reshape(-1, 2).T
    if index.size == 0:
        raise ValueError("at least one (channel, cut) pair is needed")
    if not (np.isfinite(index).all() and np.isfinite(value).all()):
        raise ValueError(f"cuts must be finite numbers: {list(cuts)}")
    if (np.diff(index) == 0).any():
        raise ValueError(f"a channel has two cuts: {list(cuts)}")
    return np.interp(np.asarray(channels, dtype=np.float64), index, value)


def bad_pixel_mask(score: NDArray[np.floating], cut: float, *, max_dilation: int | None) -> NDArray[np.uint8]:
    """Mark the pixels at or above the cut, and dilate each by one step per whole unit above the cut.

    A step adds the four nearest neighbours. A pixel is therefore marked if a bad pixel, n whole units above
    the cut, is no further away than n in city-block distance. Two sweeps over the plane (Rosenfeld & Pfaltz
    1966, J. ACM 13, 471) find these pixels, however high the score of the worst pixel.

    NaN pixels of the artefact score (y, x) are never marked, but bad pixels are dilated across them. The cut
    is the lowest score of a bad pixel, and `max_dilation` the maximum number of steps, None for no limit.
    The mask (y, x) is 1 where a pixel is bad. ValueError is raised if the plane is not two-dimensional, the
    cut is not finite or `max_dilation` is negative.
    """
    if score.ndim != 2 or not np.isfinite(cut):
        raise ValueError(f"the score {score.shape} must be two-dimensional and the cut {cut} finite")
    if max_dilation is not None and max_dilation < 0:
        raise ValueError(f"max_dilation must not be negative: {max_dilation}")
    # No two pixels are further apart than this, so it changes nothing and keeps the steps small integers.
    farthest = score.shape[0] + score.shape[1]
    limit = farthest if max_dilation is None else min(max_dilation, farthest)
    steps = np.full((score.shape[0] + 2, score.shape[1] + 2), -1, np.int32)
    mask = np.empty(score.shape, np.uint8)
    _dilate(score, float(cut), limit, steps, mask)
    return mask


@njit(cache=True, nogil=True, error_model="numpy")
def _dilate(
    score: NDArray[np.floating], cut: float, limit: int, steps: NDArray[np.int32], mask: NDArray[np.uint8]
) -> None:
    """Write the mask by a forward and a backward sweep; see `bad_pixel_mask`.

    `steps` receives the number of further steps of each pixel; it has a rim of one pixel, and is -1 where a
    pixel is not bad, as everywhere at first.
    """
    ny, nx = score.shape
    for y in range(ny):
        for x in range(nx):
            units = np.float64(score[y, x]) - cut  # float64: a whole unit must not be lost to rounding
            here = np.int32(units if units < limit else limit) if units >= 0 else -1
            steps[y + 1, x + 1] = _reached(here, steps[y, x + 1], steps[y + 1, x])
    for y in range(ny - 1, -1, -1):
        for x in range(nx - 1, -1, -1):
            here = _reached(steps[y + 1, x + 1], steps[y + 2, x + 1], steps[y + 1, x + 2])
            steps[y + 1, x + 1] = here
            mask[y, x] = here >= 0 and not np.isnan(score[y, x])


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _reached(here: int, one: int, other: int) -> int:
    """Return the steps of a pixel with two neighbours; the built-in maximum takes longer to compile."""
    here = here if here > one - 1 else one - 1
    return here if here > other - 1 else other - 1
