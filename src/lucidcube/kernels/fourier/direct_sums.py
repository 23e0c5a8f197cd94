"""Steps of convolution that need no transform: direct sums of a few pixels, and subtraction."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Support(NamedTuple):
    """The part of a plane that is not zero: the rows and columns that hold those pixels, and their number.

    The rows are top <= y < bottom, and the columns left <= x < right.
    """

    top: int
    bottom: int
    left: int
    right: int
    pixels: int


@njit(cache=True, nogil=True)
def convolve_pixels(plane: Floats, stamp: Floats, support: Support) -> Floats:
    """Return the sum of copies of a PSF about the pixels of a plane that are not zero."""
    half_y, half_x = stamp.shape[0] // 2, stamp.shape[1] // 2
    ny, nx = plane.shape
    total = np.zeros_like(plane)
    places = np.nonzero(plane[support.top : support.bottom, support.left : support.right])
    # The sums go row by row of the result, which then stays in the cache.
    for y in range(ny):
        row = total[y]
        for k in range(places[0].size):
            source_y, source_x = places[0][k] + support.top, places[1][k] + support.left
            line = y - source_y + half_y
            if 0 <= line < stamp.shape[0]:
                value = plane[source_y, source_x]
                first, last = max(0, source_x - half_x), min(nx, source_x + half_x + 1)
                part, profile = row[first:last], stamp[line, first - source_x + half_x :]
                for x in range(part.size):
                    part[x] += value * profile[x]
    return total


@njit(cache=True, nogil=True)
def subtract(plane: Floats, residual: Floats, valid: Floats) -> tuple[float, float, float]:
    """Subtract a plane from the residual, in place.

    Return the largest and the smallest of the remaining numbers whose `valid` is 1, and of zero, and the sum
    of their squares in float64.
    """
    height, width = residual.shape
    highest, lowest = np.zeros(width, np.float32), np.zeros(width, np.float32)
    squares = np.zeros(width)
    # Statistics by column let the compiler use vector instructions, which a single number would not.
    for y in range(height):
        for x in range(width):
            left = residual[y, x] - plane[y, x]
            residual[y, x] = left
            counted = left * valid[y, x]
            highest[x] = counted if counted > highest[x] else highest[x]
            lowest[x] = counted if counted < lowest[x] else lowest[x]
            wide = np.float64(counted)
            squares[x] += wide * wide
    return float(highest.max()), float(lowest.min()), squares.sum()
