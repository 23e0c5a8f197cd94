"""Smooth continuation of a plane over its missing pixels, made for being repeated within an iteration."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Continuation:
    """
    Fills planes that miss the same pixels, by pyramids ("push-pull").

    Means over ever larger squares of valid pixels are taken until nothing is missing, and come back by
    bilinear interpolation wherever a finer level has nothing better. Small holes are filled from what is
    next to them, wide ones from further away; valid pixels are not touched.

    Parameters
    ----------
    valid : array of bool or float, (y, x)
        True, or not zero, where planes have values.
    damping : array of float, (y, x), optional
        Factor for the values that are filled in; 1 if left out.

    Notes
    -----
    float32. One object holds scratch memory, and so is for one thread.

    References
    ----------
    Gortler, Grzeszczuk, Szeliski & Cohen 1996, "The Lumigraph", section 3.5.1.
    """

    def __init__(self, valid: NDArray[np.generic], damping: NDArray[np.floating] | None = None) -> None:
        weight = (np.asarray(valid) != 0).astype(np.float32)
        self._weights = [weight]
        while weight.size > 1 and not weight.all():
            weight = np.minimum(_sum_squares(weight), np.float32(1))
            self._weights.append(weight)
        self._levels = [np.zeros_like(weight) for weight in self._weights[1:]]
        # 1 on valid pixels, so that a product with all of the plane changes the others only.
        self._damping = None
        if damping is not None:
            self._damping = np.where(self._weights[0] > 0, 1, damping).astype(np.float32)

    def fill(self, plane: NDArray[np.float32]) -> None:
        """
        Replace the missing pixels of a plane, in place: by zeros if nothing at all is valid.

        Parameters
        ----------
        plane : array of float32, (y, x)
            Finite wherever valid, anything elsewhere.
        """
        if not self._levels:
            plane[self._weights[0] == 0] = 0
            return
        finer = plane
        for weight, coarse in zip(self._weights[:-1], self._levels, strict=True):
            _shrink(finer, weight, coarse)
            finer = coarse
        for k in range(len(self._levels) - 1, 0, -1):
            _grow(self._levels[k], self._weights[k], self._levels[k - 1])
        _grow(self._levels[0], self._weights[0], plane)
        if self._damping is not None:
            np.multiply(plane, self._damping, out=plane)


def _sum_squares(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over squares of two by two pixels, with zeros beyond odd ends."""
    height, width = plane.shape
    even = np.zeros((height + height % 2, width + width % 2), np.float32)
    even[:height, :width] = plane
    return even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]


@njit(cache=True, nogil=True)
def _shrink(fine: NDArray[np.float32], weight: NDArray[np.float32], coarse: NDArray[np.float32]) -> None:
    """Weighted means over squares of two by two pixels; zero where they have no weight."""
    height, width = weight.shape
    for y in range(coarse.shape[0]):
        for x in range(coarse.shape[1]):
            total, share = np.float32(0), np.float32(0)
            for row in range(2 * y, min(2 * y + 2, height)):
                for column in range(2 * x, min(2 * x + 2, width)):
                    if weight[row, column] > 0:
                        total += weight[row, column] * fine[row, column]
                        share += weight[row, column]
            coarse[y, x] = total / share if share > 0 else np.float32(0)


@njit(cache=True, nogil=True)
def _grow(coarse: NDArray[np.float32], weight: NDArray[np.float32], fine: NDArray[np.float32]) -> None:
    """Blend bilinear interpolation of the coarse level into the fine one, where the fine one lacks weight."""
    height, width = weight.shape
    last_y, last_x = coarse.shape[0] - 1, coarse.shape[1] - 1
    near, far = np.float32(0.75), np.float32(0.25)
    for y in range(height):
        y0 = y // 2
        y1 = min(y0 + 1, last_y) if y % 2 else max(y0 - 1, 0)
        for x in range(width):
            lack = np.float32(1) - weight[y, x]
            if lack > 0:
                x0 = x // 2
                x1 = min(x0 + 1, last_x) if x % 2 else max(x0 - 1, 0)
                first = near * coarse[y0, x0] + far * coarse[y0, x1]
                second = near * coarse[y1, x0] + far * coarse[y1, x1]
                own = weight[y, x] * fine[y, x] if weight[y, x] > 0 else np.float32(0)
                fine[y, x] = own + lack * (near * first + far * second)
