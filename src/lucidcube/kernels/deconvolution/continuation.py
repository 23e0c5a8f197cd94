"""Smooth continuation of a plane over its missing pixels, made for being repeated within an iteration."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Plane = NDArray[np.float32]


class Continuation:
    """Fills planes that miss the same pixels, by pyramids ("push-pull").

    Means over ever larger squares of valid pixels are taken until nothing is missing, and come back by
    bilinear interpolation wherever a finer level has nothing better. Small holes are filled from what is
    next to them, wide ones from further away; valid pixels are not touched (Gortler, Grzeszczuk, Szeliski &
    Cohen 1996, "The Lumigraph", section 3.5.1). Planes (y, x) have values where `valid` is not zero; what is
    filled in is multiplied by `damping`. One object holds scratch memory, and so is for one thread.
    """

    def __init__(self, valid: NDArray[np.generic], damping: NDArray[np.floating] | float) -> None:
        weight = (np.asarray(valid) != 0).astype(np.float32)
        self._weights = [weight]
        while weight.size > 1 and not weight.all():
            weight = np.minimum(_sum_squares(weight), np.float32(1))
            self._weights.append(weight)
        self._levels = [np.zeros_like(weight) for weight in self._weights[1:]]
        self._lacks = [1 - weight for weight in self._weights]
        self._lacks[0] = np.where(self._weights[0] > 0, 0, damping).astype(np.float32)

    def fill(self, plane: Plane) -> None:
        """Replace the missing pixels of a plane (y, x) in place, by zeros if nothing is valid.

        Rows may be longer than those of `valid`: what follows is left alone.
        """
        if not self._levels:
            plane[:, : self._weights[0].shape[1]][self._weights[0] == 0] = 0
            return
        finer = plane
        for weight, coarse in zip(self._weights[:-1], self._levels, strict=True):
            _shrink(finer, weight, coarse)
            finer = coarse
        for k in range(len(self._levels) - 1, -1, -1):
            _grow(self._levels[k], self._weights[k], self._lacks[k], self._levels[k - 1] if k else plane)


def _sum_squares(plane: Plane) -> Plane:
    """Return sums over squares of two by two pixels, with zeros beyond odd ends."""
    even = np.pad(plane, [(0, side % 2) for side in plane.shape])
    return even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]


# The compiler turns the inner loops below into vector instructions; hence no views in them, and no conditions
# except those that choose between two numbers.
@njit(cache=True, nogil=True, error_model="numpy")
def _shrink(fine: Plane, weight: Plane, coarse: Plane) -> None:
    """Put weighted means over squares of two by two pixels into `coarse`; zero where they have no weight."""
    height, width = weight.shape
    total, share = np.empty(width + 1, np.float32), np.empty(width + 1, np.float32)
    zero = np.float32(0)
    for y in range(coarse.shape[0]):
        total[:] = 0
        share[:] = 0
        for row in range(2 * y, min(2 * y + 2, height)):
            for x in range(width):
                # Where there is no weight there may be NaN.
                total[x] += weight[row, x] * fine[row, x] if weight[row, x] > 0 else zero
                share[x] += weight[row, x]
        for x in range(coarse.shape[1]):
            both = share[2 * x] + share[2 * x + 1]
            coarse[y, x] = (total[2 * x] + total[2 * x + 1]) / both if both > 0 else zero


@njit(cache=True, nogil=True)
def _grow(coarse: Plane, weight: Plane, lack: Plane, fine: Plane) -> None:
    """Blend bilinear interpolation of the coarse level into the fine one, where the fine one lacks weight."""
    height, width = weight.shape
    last_y, columns = coarse.shape[0] - 1, coarse.shape[1]
    near, far, zero = np.float32(0.75), np.float32(0.25), np.float32(0)
    # With a column beyond either end.
    between = np.empty(columns + 2, np.float32)
    line = np.empty(2 * columns, np.float32)
    for y in range(height):
        y0 = y // 2
        y1 = min(y0 + 1, last_y) if y % 2 else max(y0 - 1, 0)
        for x in range(columns):
            between[x + 1] = near * coarse[y0, x] + far * coarse[y1, x]
        between[0], between[columns + 1] = between[1], between[columns]
        for x in range(columns):
            line[2 * x] = near * between[x + 1] + far * between[x]
            line[2 * x + 1] = near * between[x + 1] + far * between[x + 2]
        for x in range(width):
            own = weight[y, x] * fine[y, x] if weight[y, x] > 0 else zero
            fine[y, x] = own + lack[y, x] * line[x]
