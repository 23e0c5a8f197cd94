"""Convolution of several planes at once, each with its own PSF."""

from copy import copy
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from lucidcube.kernels.fourier.convolver import trim_psf
from lucidcube.kernels.stacked.arrays import Arrays


class StackConvolver:
    """Convolution of planes (plane, y, x) with a PSF each. Planes are zero outside, and nothing wraps round.

    The arithmetic is float32, as that of `lucidcube.kernels.fourier.convolver.Convolver`.

    Parameters
    ----------
    arrays
        The array library.
    psf : array of float, (plane, y, x)
        Odd in both axes, centred, finite; ValueError is raised otherwise. A NumPy array.
    shape : (int, int)
        Shape (y, x) of the planes.

    Attributes
    ----------
    size : (int, int)
        Size of the transforms along y and x.
    """

    def __init__(self, arrays: Arrays, psf: NDArray[np.floating], shape: tuple[int, int]) -> None:
        used = trim_psf(np.abs(psf).sum(axis=0), shape).shape
        reach = used[0] // 2, used[1] // 2
        top, left = psf.shape[1] // 2 - reach[0], psf.shape[2] // 2 - reach[1]
        stamps = psf[:, top : top + used[0], left : left + used[1]].astype(np.float32)
        self.size = _good_length(shape[0] + reach[0]), _good_length(shape[1] + reach[1])
        self._arrays, self._xp, self._shape = arrays, arrays.xp, shape
        # The centre goes to the pixel (0, 0), and what is above and to the left wraps round to the far ends.
        planes = np.zeros((len(psf), *self.size), np.float32)
        planes[:, : used[0], : used[1]] = stamps
        centred = np.roll(planes, (-reach[0], -reach[1]), (1, 2))
        self._transfer = self._transform(arrays.put(centred))

    def convolve(self, planes: Any, rows: NDArray[np.intp] | None = None) -> Any:
        """Return planes (plane, y, x), convolved; `rows` are their numbers if they are only some."""
        return self._filter(planes, self._transfer if rows is None else self._of(rows))

    def correlate(self, planes: Any) -> Any:
        """Return planes (plane, y, x), correlated, which is the transpose of `convolve`."""
        return self._filter(planes, self._xp.conj(self._transfer))

    def part(self, rows: NDArray[np.intp]) -> "StackConvolver":
        """Return the convolver of some of the planes."""
        part = copy(self)
        part._transfer = self._of(rows)
        return part

    def _of(self, rows: NDArray[np.intp]) -> Any:
        return self._xp.take(self._transfer, self._arrays.put(rows), axis=0)

    def _filter(self, planes: Any, transfer: Any) -> Any:
        height, width = self._shape
        product = self._transform(planes) * transfer
        return self._xp.fft.irfftn(product, s=self.size, axes=(1, 2))[:, :height, :width]

    def _transform(self, planes: Any) -> Any:
        return self._xp.fft.rfftn(planes, s=self.size, axes=(1, 2))


def _good_length(least: int) -> int:
    """Return a length of transform that has small factors only, for which every library is fast."""
    return int(scipy.fft.next_fast_len(least, real=True))
