"""Find spikes in the spectra of the pixels: cosmic rays, which last for a few channels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.rebin import Planes

Floats = NDArray[np.float32]

HALF_MEDIAN, HALF_SCATTER = 8, 16
"""Channels on either side of the running median, and of that of the deviations from it."""
REACH = HALF_MEDIAN + HALF_SCATTER
"""Channels on either side that the test of a channel depends on."""
AT_ONCE = 24
"""Channels that are tested together: more need more memory, fewer read their surroundings more often."""
MAD_TO_SIGMA = 1.4826
"""Ratio of the standard deviation to the median absolute deviation of a normal distribution."""
ROUNDING = 1e-6
"""Smallest scatter as a fraction of the median."""


@dataclass(frozen=True)
class Despiked:
    """Planes in which the spikes are missing; they are tested when they are read.

    The data and the variance, which may be None, are arrays (channels, y, x), or objects that are sliced like
    arrays. `cut` is the number of standard deviations above which a channel of a pixel is a spike.
    """

    data: Planes
    variance: Planes | None
    cut: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, rows and columns."""
        return self.data.shape

    def __getitem__(self, key: Any) -> np.ndarray:
        first, last, _ = key.indices(self.shape[0])
        low, high = max(first - REACH, 0), min(last + REACH, self.shape[0])
        variance = None if self.variance is None else self.variance[low:high]
        wanted = slice(first - low, last - low)
        planes = self.data[low:high]
        return np.where(
            spikes(planes, variance, cut=self.cut, wanted=wanted), np.float32(np.nan), planes[wanted]
        )


def spikes(
    data: NDArray[np.floating], variance: NDArray[np.floating] | None, *, cut: float, wanted: slice
) -> NDArray[np.bool_]:
    """Return where the spectrum of a pixel rises above its surroundings for a few channels.

    The data are divided by the light of their plane, the sum of all positive values, so that absorption bands
    that the whole object has are no structure. Then the running median of 17 channels is subtracted. The unit
    of the deviation is the noise or, where that is larger, 1.4826 times the running median of 33 absolute
    deviations. At the ends, the medians are those of the channels that there are.

    The data and the variance are (channels, y, x), NaN where there are none; without variance, only the
    scatter is used. A spike exceeds `cut` units. The result (channels, y, x) is that for the `wanted`
    channels, and depends on 24 channels on either side of each.
    """
    planes = data.shape[0]
    first, last, _ = wanted.indices(planes)
    flat = np.ascontiguousarray(data, np.float32).reshape(planes, -1)
    # Without variance, one array of length zero serves the compiled function.
    noise = np.empty((0, 0), np.float32)
    if variance is not None:
        noise = np.ascontiguousarray(variance, np.float32).reshape(planes, -1)
    light = np.array([_light(plane) for plane in flat])
    found = np.zeros((last - first, flat.shape[1]), np.bool_)
    _find(flat, noise, light, np.float64(cut), first, found)
    return found.reshape(-1, *data.shape[1:])


@njit(cache=True, nogil=True, error_model="numpy")
def _light(plane: Floats) -> float:
    """Return the sum of the positive values of a plane; 1 if there are none."""
    total = 0.0
    for value in plane:
        if value > 0 and np.isfinite(value):
            total += value
    return total if total > 0 else 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _find(
    data: Floats,
    variance: Floats,
    light: NDArray[np.float64],
    cut: float,
    first: int,
    found: NDArray[np.bool_],
) -> None:
    """Test all pixels, and write the result for the channels from `first` on."""
    planes, pixels = data.shape
    value, level, scatter = np.empty(planes), np.empty(planes), np.empty(planes)
    window = np.empty(2 * HALF_SCATTER + 2)
    for p in range(pixels):
        for i in range(planes):
            value[i] = data[i, p] / light[i]
        _running_median(value, HALF_MEDIAN, window, level)
        for i in range(planes):
            value[i] -= level[i]
            scatter[i] = abs(value[i])
        _running_median(scatter, HALF_SCATTER, window, scatter)
        for i in range(found.shape[0]):
            k = first + i
            unit = max(MAD_TO_SIGMA * scatter[k], ROUNDING * abs(level[k]))
            if variance.shape[0] > 0 and variance[k, p] > 0:
                unit = max(unit, np.sqrt(variance[k, p]) / light[k])
            found[i, p] = np.isfinite(value[k]) and value[k] > cut * unit


@njit(cache=True, nogil=True, error_model="numpy")
def _running_median(
    values: NDArray[np.float64], half: int, window: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """Write the running median of the finite values, which are kept in order in `window`; NaN without any.

    The result may be written over the values, because each is read once, half a window ahead.
    """
    n, count = values.size, 0
    old = np.empty(2 * half + 2)
    for j in range(-half, n):
        leaving = j - half - 1
        if leaving >= 0 and np.isfinite(old[leaving % old.size]):
            k = 0
            while window[k] != old[leaving % old.size]:
                k += 1
            count -= 1
            for m in range(k, count):
                window[m] = window[m + 1]
        entering = j + half
        if entering < n:
            new = values[entering]
            old[entering % old.size] = new
            if np.isfinite(new):
                k = count
                while k > 0 and window[k - 1] > new:
                    window[k] = window[k - 1]
                    k -= 1
                window[k] = new
                count += 1
        if j >= 0:
            middle = count // 2
            if count == 0:
                out[j] = np.nan
            else:
                out[j] = window[middle] if count % 2 else 0.5 * (window[middle - 1] + window[middle])
