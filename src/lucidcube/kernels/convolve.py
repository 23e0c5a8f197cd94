"""Fourier transforms and convolution: every FFT of the package goes through here, as calls to `scipy.fft`.

`scipy.fft` picks its implementation by the backend protocol, so that ``scipy.fft.set_backend`` or
``set_global_backend`` (mkl_fft, pyfftw) speeds up everything here without a change.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

SIZE_STEPS = 6
"""Sizes of transform between the smallest and the largest, along each axis; see `Convolver.convolve_part`."""
TRANSFERS_KEPT = 4
"""Transforms of the PSF that are remembered, of 8 bytes for two points each."""
DIRECT_COST = 0.03
"""Cost of adding one pixel of the PSF, as a fraction of that of one point of a pair of transforms."""


class Support(NamedTuple):
    """
    Where a plane is not zero.

    Attributes
    ----------
    top, bottom, left, right : int
        Rows top <= y < bottom and columns left <= x < right hold all such pixels.
    pixels : int
        Their number.
    """

    top: int
    bottom: int
    left: int
    right: int
    pixels: int


def rfft2(plane: NDArray[np.floating], shape: tuple[int, int] | None = None) -> NDArray[np.complexfloating]:
    """Half-plane transform of a real plane (y, x), zero-padded at its end to `shape`; keeps the precision."""
    transform: NDArray[np.complexfloating] = scipy.fft.rfft2(plane, s=shape)
    return transform


def irfft2(transform: NDArray[np.complexfloating], shape: tuple[int, int]) -> NDArray[np.floating]:
    """Real plane of the given `shape` (y, x) from its half-plane transform; keeps the precision."""
    plane: NDArray[np.floating] = scipy.fft.irfft2(transform, s=shape)
    return plane


def good_length(least: int) -> int:
    """Smallest length >= `least` for which a real transform is fast."""
    return int(scipy.fft.next_fast_len(least, real=True))


def trim_psf(psf: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.float32]:
    """
    Cut a centred PSF to what can matter: no wings of zeros, and nothing that reaches across the whole plane.

    Parameters
    ----------
    psf : array of float, (y, x)
        Odd in both axes, its centre the central pixel, finite.
    shape : (int, int)
        Shape of the planes to be convolved.

    Returns
    -------
    array of float32, (y, x)
        Odd, with the same centre. Its convolution with a plane of `shape`, seen on that plane, is the same.

    Raises
    ------
    ValueError
        If the PSF is not a plane of odd size, or not finite.
    """
    if psf.ndim != 2 or psf.shape[0] % 2 == 0 or psf.shape[1] % 2 == 0:
        raise ValueError(
            f"the PSF must be a plane with an odd number of pixels along y and x, not {psf.shape}"
        )
    if not np.isfinite(psf).all():
        raise ValueError("the PSF must be finite: NaN or infinite values found")
    bounds = []
    for axis, size in enumerate(psf.shape):
        centre = size // 2
        used = np.flatnonzero(np.any(psf != 0, axis=1 - axis))
        half = int(np.abs(used - centre).max()) if used.size else 0
        half = min(half, shape[axis] - 1)
        bounds.append(slice(centre - half, centre + half + 1))
    return np.ascontiguousarray(psf[bounds[0], bounds[1]], dtype=np.float32)


class Convolver:
    """
    Convolution of planes of one shape with one PSF; outside of the plane is zero, and nothing wraps round.

    The PSF is transformed once. The transforms are as long as the plane plus half the PSF, which is all that
    a result on the plane itself needs, and rows that are known to be zero, or are not wanted, are not
    transformed. Where the light is known to lie in a part of the plane, `convolve_part` does with less.

    Parameters
    ----------
    psf : array of float, (y, x)
        Odd in both axes, centred, finite, of any size.
    shape : (int, int)
        Shape (y, x) of the planes.

    Attributes
    ----------
    shape : (int, int)
        Shape of the planes.
    padded_width : int
        Length of a padded row, see `convolve_padded`.
    reach : (int, int)
        How far the PSF spreads light along y and x.

    Raises
    ------
    ValueError
        From `trim_psf`.

    Notes
    -----
    float32 throughout: the error is about 3e-7 of the largest value of the result. One object may be used
    by several threads: what it remembers are transforms of the PSF, and the results do not depend on them.
    """

    def __init__(self, psf: NDArray[np.floating], shape: tuple[int, int]) -> None:
        stamp = trim_psf(psf, shape)
        half_y, half_x = stamp.shape[0] // 2, stamp.shape[1] // 2
        self.shape = shape
        self.reach = (half_y, half_x)
        self.padded_width = good_length(shape[1] + half_x)
        self._height = good_length(shape[0] + half_y)
        self._stamp = stamp
        self._transfers: dict[tuple[int, int], NDArray[np.complexfloating]] = {}
        self._transfer = self._transform_psf(self._height, self.padded_width)
        self._heights = _size_ladder(shape[0], half_y, self._height)
        self._widths = _size_ladder(shape[1], half_x, self.padded_width)

    def convolve(self, plane: NDArray[np.floating]) -> NDArray[np.float32]:
        """Plane (y, x) convolved with the PSF: float32, of the same shape. The plane must be finite."""
        return self._unpadded(self.convolve_padded(self.pad(plane)))

    def correlate(self, plane: NDArray[np.floating]) -> NDArray[np.float32]:
        """Plane (y, x) correlated with the PSF (the transpose of `convolve`): float32, of the same shape."""
        return self._unpadded(self.correlate_padded(self.pad(plane)))

    def pad(self, plane: NDArray[np.floating] | NDArray[np.bool_]) -> NDArray[np.float32]:
        """New plane of rows of `padded_width`, zero beyond the plane's own width."""
        padded = np.zeros((self.shape[0], self.padded_width), np.float32)
        padded[:, : self.shape[1]] = plane
        return padded

    def convolve_padded(self, padded: NDArray[np.float32]) -> NDArray[np.float32]:
        """
        As `convolve`, without copies, for loops: rows are `padded_width` long.

        Parameters
        ----------
        padded : array of float32, (y, padded_width)
            Zero beyond the width of the plane (see `pad`).

        Returns
        -------
        array of float32, (y, padded_width)
            New and contiguous; what lies beyond the width of the plane is meaningless.
        """
        return self._filter(padded, slice(None, self.shape[0]), self._transfer, _multiply)

    def correlate_padded(self, padded: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `convolve_padded`, for `correlate`."""
        return self._filter(padded, slice(None, self.shape[0]), self._transfer, _multiply_conjugate)

    def convolve_part(self, padded: NDArray[np.float32], support: Support) -> NDArray[np.float32]:
        """
        As `convolve_padded`, for planes that are zero outside of a known part.

        A few pixels are summed directly. Otherwise the transforms need to be so long only that what wraps
        round does not come back to the plane: light from between `left` and `right` of a plane N wide
        reaches no further than half a PSF, so that the larger of N - left and right, plus half a PSF, will
        do. Lengths are taken from a short ladder, so that the PSF is transformed for a few of them only.

        Parameters
        ----------
        padded : array of float32, (y, padded_width)
            Zero outside of the support.
        support : Support

        Returns
        -------
        array of float32, (y, at least x)
            New and contiguous; what lies beyond the width of the plane is meaningless.
        """
        height = _least_of(self._heights, max(self.shape[0] - support.top, support.bottom) + self.reach[0])
        width = _least_of(self._widths, max(self.shape[1] - support.left, support.right) + self.reach[1])
        if support.pixels * self._stamp.size * DIRECT_COST <= height * width:
            return _sum_stamps(padded, self._stamp, *support[:4])
        lit = slice(support.top, support.bottom)
        return self._filter(padded[:, :width], lit, self._transfer_of(height, width), _multiply)

    def _transfer_of(self, height: int, width: int) -> NDArray[np.complexfloating]:
        """The transform of the PSF, from memory if it was wanted not long ago."""
        if (height, width) == (self._height, self.padded_width):
            return self._transfer
        size = height, width
        transfer = self._transfers.pop(size, None)
        if transfer is None:
            transfer = self._transform_psf(height, width)
        for oldest in list(self._transfers)[: 1 - TRANSFERS_KEPT]:
            self._transfers.pop(oldest, None)
        self._transfers[size] = transfer
        return transfer

    def _transform_psf(self, height: int, width: int) -> NDArray[np.complexfloating]:
        """Transform of the PSF about the pixel (0, 0). A stamp that is longer than that wraps round."""
        half_y, half_x = self.reach
        kernel = np.zeros((height, width), np.float32)
        kernel[: self._stamp.shape[0], : self._stamp.shape[1]] = self._stamp
        return rfft2(np.roll(kernel, (-half_y, -half_x), axis=(0, 1)))

    def _filter(
        self,
        padded: NDArray[np.float32],
        lit: slice,
        transfer: NDArray[np.complexfloating],
        multiply: Callable[[NDArray[np.complexfloating], NDArray[np.complexfloating]], None],
    ) -> NDArray[np.float32]:
        """Filter a plane that is zero outside of the rows `lit`, of the width of the transform."""
        # Padded by hand, because mkl_fft cannot overwrite what it has to lengthen.
        spectrum: NDArray[np.complexfloating] = np.zeros(transfer.shape, np.complex64)
        spectrum[lit] = scipy.fft.rfft(padded[lit], axis=1)
        spectrum = scipy.fft.fft(spectrum, axis=0, overwrite_x=True)
        multiply(spectrum, transfer)
        rows = scipy.fft.ifft(spectrum, axis=0, overwrite_x=True)[: self.shape[0]]
        result: NDArray[np.float32] = scipy.fft.irfft(rows, n=padded.shape[1], axis=1, overwrite_x=True)
        return result

    def _unpadded(self, padded: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(padded[:, : self.shape[1]])


def _size_ladder(size: int, reach: int, largest: int) -> list[int]:
    """Rising lengths of transform, from the least that any part of a plane can do with to the largest."""
    least = max(size, size // 2 + reach + 1, 2 * reach + 1)
    steps = np.linspace(least, largest, SIZE_STEPS).astype(int)
    return sorted({min(good_length(int(step)), largest) for step in steps if step < largest} | {largest})


def _least_of(ladder: list[int], wanted: int) -> int:
    """The first length that is enough; the last one always is."""
    return next((length for length in ladder if length >= wanted), ladder[-1])


@njit(cache=True, nogil=True)
def _sum_stamps(
    padded: NDArray[np.float32], stamp: NDArray[np.float32], top: int, bottom: int, left: int, right: int
) -> NDArray[np.float32]:
    """Sum of PSFs about the pixels of a part that are not zero."""
    half_y, half_x = stamp.shape[0] // 2, stamp.shape[1] // 2
    ny, nx = padded.shape
    lit = np.nonzero(padded[top:bottom, left:right])
    total = np.zeros_like(padded)
    # Row by row of the result, which then stays next to the processor.
    for y in range(ny):
        row = total[y]
        for k in range(lit[0].size):
            source_y, source_x = lit[0][k] + top, lit[1][k] + left
            line = y - source_y + half_y
            if 0 <= line < stamp.shape[0]:
                light = padded[source_y, source_x]
                first, last = max(0, source_x - half_x), min(nx, source_x + half_x + 1)
                part, profile = row[first:last], stamp[line, first - source_x + half_x :]
                for x in range(part.size):
                    part[x] += light * profile[x]
    return total


def _multiply(spectrum: NDArray[np.complexfloating], transfer: NDArray[np.complexfloating]) -> None:
    np.multiply(spectrum, transfer, out=spectrum)


@njit(cache=True, nogil=True)
def _multiply_conjugate(spectrum: NDArray[np.complexfloating], transfer: NDArray[np.complexfloating]) -> None:
    """Multiply by the conjugate in place, without keeping or making it."""
    for y in range(spectrum.shape[0]):
        for x in range(spectrum.shape[1]):
            spectrum[y, x] *= transfer[y, x].conjugate()
