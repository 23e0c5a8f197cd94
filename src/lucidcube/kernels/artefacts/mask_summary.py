"""Summarise a mask: how much of a plane is marked, and whether bright parts of the object are."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BRIGHTEST = 99.0
"""Percentile of the plane, without isolated pixels, above which the object is brightest."""
_SQUARE = np.ones((3, 3), bool)


class MaskSummary(NamedTuple):
    """Fractions of the pixels of a plane that have data; all are 0 if there are none."""

    marked: float
    """Fraction of the pixels that are marked."""
    largest_group: float
    """Fraction that belongs to the largest group of connected marks."""
    brightest_marked: float
    """Fraction of the brightest percent that is marked in groups of at least 3 x 3 pixels."""


def mask_summary(plane: NDArray[np.floating], mask: NDArray[np.generic]) -> MaskSummary:
    """Summarise the mask (y, x), not zero where a pixel is marked, of a plane (y, x); NaN where no data."""
    finite = np.isfinite(plane)
    marked = (mask != 0) & finite
    number = int(np.count_nonzero(finite))
    if not marked.any():
        return MaskSummary(0.0, 0.0, 0.0)
    label, _ = ndimage.label(marked, structure=_SQUARE)
    largest = int(np.bincount(label.ravel())[1:].max())
    smooth = ndimage.median_filter(np.where(finite, plane, plane[finite].min()), 3)
    brightest = finite & (smooth >= np.percentile(smooth[finite], BRIGHTEST))
    groups = ndimage.binary_opening(marked, structure=_SQUARE)
    share = np.count_nonzero(groups & brightest) / np.count_nonzero(brightest)
    return MaskSummary(np.count_nonzero(marked) / number, largest / number, share)
