"""Sharp peaks of an object, as the point sources that they may be."""

import numpy as np
from scipy import ndimage

from lucidcube.kernels.deconvolution.map_points import RING
from lucidcube.kernels.deconvolution.moments import Doubles

BETWEEN_PEAKS = 5
"""Side, in pixels, of the square in which a peak is the largest value."""
PART = 0.5
"""Least part of the light of a point source that is in the pixel of its peak."""
CONTRAST = 2.0
"""Least height of a peak above its surroundings, in units of these."""

_ring = np.zeros((2 * max(map(max, RING)) + 1,) * 2, bool)
_ring[tuple(np.transpose(RING) + len(_ring) // 2)] = True
_square = np.indices((3, 3)).reshape(2, -1)


def as_points(image: Doubles) -> Doubles:
    """Return an object in which the light of each sharp peak is in a single pixel.

    A deconvolution spreads the light of a point source over a few pixels. What it does with a source as wide
    as that does not tell how far its result is from a point. A peak is sharp if it is the largest of 5 x 5
    pixels, has more than three times the light of its surroundings, the median 3 to 4 pixels away, and more
    than half of the light above them in 3 x 3 pixels. This light is moved into its pixel.

    Parameters
    ----------
    image : array of float64, (y, x)
        The object, finite. Negative light belongs to no peak.

    Returns
    -------
    array of float64, (y, x)
        The object with points, of the same total.
    """
    around = np.maximum(ndimage.median_filter(image, footprint=_ring, mode="nearest"), 0)
    peak = image >= ndimage.maximum_filter(image, BETWEEN_PEAKS)
    y, x = np.nonzero(peak & (image > (1 + CONTRAST) * around))
    wide = np.pad(image, 1)
    rows, columns = y[:, None] + _square[0], x[:, None] + _square[1]
    light = np.maximum(wide[rows, columns] - around[y, x][:, None], 0)
    light[image[y, x] - around[y, x] <= PART * light.sum(axis=1)] = 0
    np.subtract.at(wide, (rows, columns), light)
    np.add.at(wide, (y + 1, x + 1), light.sum(axis=1))
    return wide[1:-1, 1:-1]
