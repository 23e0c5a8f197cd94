"""Stopping by the noise: chi squared of the residual at bright pixels (Lucy 1994; Starck & Murtagh 2006)."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.continuation import Plane

BRIGHT = 3.0
"""Standard deviations above which a pixel is bright: the sky would hide what is left of the object."""
LARGEST = 25.0
"""Largest contribution of a pixel, so that a missed artefact does not keep the iteration going."""
FEWEST = 30
"""Number of bright pixels below which all pixels with weight are used instead."""


class NoiseStop:
    """The test whether a residual is noise: the mean of min(residual^2 / variance, 25) over bright pixels.

    Bright pixels are those with weight that exceed 3 standard deviations of the noise; with fewer than 30 of
    them, all pixels with weight are used. A pixel has weight if it is valid and its variance is known, which
    means finite and positive.

    `plane` are the data (y, x). `variance` is an array (y, x), a number, or None if it is unknown. `valid`
    (y, x) is not zero for pixels that count. `target` is the value at which the iteration stops; None never
    stops it. `inverse_noise` (y, x) is one over the standard deviation of the pixels that are used, 0
    elsewhere.
    """

    def __init__(
        self,
        plane: NDArray[np.floating],
        variance: NDArray[np.floating] | float | None,
        valid: NDArray[np.generic],
        target: float | None,
    ) -> None:
        spread = np.broadcast_to(np.float32(np.nan if variance is None else variance), plane.shape)
        known = (valid != 0) & np.isfinite(plane) & (spread > 0) & np.isfinite(spread)
        noise = np.sqrt(spread, where=known, out=np.full(plane.shape, np.inf, np.float32))
        bright = known & (plane > BRIGHT * noise)
        used = bright if np.count_nonzero(bright) >= FEWEST else known
        self.inverse_noise: Plane = np.zeros(plane.shape, np.float32)
        np.divide(1, noise, out=self.inverse_noise, where=used)
        self.target = target if target is not None and self.inverse_noise.any() else None

    def chi2(self, residual: Plane) -> float:
        """Return chi squared of a residual (y, x), which is finite where pixels are used; NaN if none are."""
        return _clipped_chi2(residual, self.inverse_noise)

    def reached(self, residual: Plane) -> bool:
        """Return whether chi squared of a residual (y, x) is at its target or below."""
        return self.target is not None and self.chi2(residual) <= self.target


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def total(values: NDArray[np.float64]) -> float:
    """Return the sum of an array (n,) in compiled code; the method `sum` takes much longer to compile."""
    result = 0.0
    for k in range(values.size):
        result += values[k]
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _clipped_chi2(residual: Plane, inverse: Plane) -> float:
    """Return the mean of min((residual * inverse)^2, 25) over the pixels whose `inverse` is not zero."""
    height, width = inverse.shape
    most, zero = np.float32(LARGEST), np.float32(0)
    # Sums by column let the compiler use vector instructions, which a single number would not.
    squares, pixels = np.zeros(width), 0
    for y in range(height):
        for x in range(width):
            scaled = residual[y, x] * inverse[y, x]
            square = scaled * scaled
            squares[x] += np.float64(square if square < most else most) if inverse[y, x] > zero else 0.0
            pixels += inverse[y, x] > zero
    return total(squares) / pixels if pixels > 0 else math.nan
