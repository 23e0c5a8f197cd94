"""Sharp peaks of an object, as the point sources that they may be."""

import numpy as np
from scipy import ndimage

from lucidcube.kernels.deconvolution.map_points import RING
from lucidcube.kernels.deconvolution.moments import Doubles

BETWEEN_PEAKS = 5
"""Side, in pixels, of the square in which a peak is the largest value."""
PART = 0.4
"""Least part of the light of a point source that is in the pixel of its peak."""
CONTRAST = 2.0
"""Least height of a peak above its surroundings, in units of these."""

_ring = np.zeros((2 * max(map(max, RING)) + 1,) * 2, bool)
_ring[tuple(np.transpose(RING) + len(_ring) // 2)] = True


def as_points(image: Doubles) -> tuple[Doubles, Doubles]:
    """Return an object in which the light of each sharp peak is in a single pixel.

    A deconvolution spreads the light of a point source over a few pixels. What it does with a source as wide
    as that does not tell how far its result is from a point. A peak is sharp if it is the largest of 5 x 5
    pixels, has more than three times the light of its surroundings, the median 3 to 4 pixels away, and more
    than two fifths of the light above them in 3 x 3 pixels, while no other of these has as much light. This
    light is moved into its pixel.

    Parameters
    ----------
    image : array of float64, (y, x)
        The object, finite. Negative light belongs to no peak.

    Returns
    -------
    array of float64, (y, x)
        The object with points, of the same total.
    array of float64, (y, x)
        These points alone.
    """
    around = np.maximum(ndimage.median_filter(image, footprint=_ring, mode="nearest"), 0)
    peak = image >= ndimage.maximum_filter(image, BETWEEN_PEAKS)
    wide, points = np.pad(image, 1), np.zeros_like(image)
    for y, x in zip(*np.nonzero(peak & (image > (1 + CONTRAST) * around)), strict=True):
        square = wide[y : y + 3, x : x + 3]
        light = np.maximum(square - around[y, x], 0)
        *_, second, largest = np.sort(light, axis=None)
        if largest > max(PART * light.sum(), second):
            # One after the other, because equal peaks may share a pixel.
            square -= light
            points[y, x] = light.sum()
    return wide[1:-1, 1:-1] + points, points
