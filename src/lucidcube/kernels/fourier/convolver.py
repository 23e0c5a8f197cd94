"""Convolution of planes with a PSF: by Fourier transforms (`kernels/fft.py`), or by direct sums."""

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.fourier.simd.blur import (
    Support,
    Transfer,
    filter_all,
    subtract_filtered,
    subtract_stamps,
)
from lucidcube.kernels.fourier.simd.fft import good_length, padded, padded_length, plan, spectrum, workspace

SIZE_STEPS = 8
"""Sizes of transform between the smallest and the largest, along each axis; see `Convolver.subtract_part`."""
TRANSFERS_KEPT = 4
"""Transforms of the PSF that are remembered, of 4 bytes for each point."""
DIRECT_COST = 0.07
"""Cost of adding one pixel of the PSF, as a fraction of that of one point of a pair of transforms."""


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

    The PSF is transformed once for each length. The transforms are as long as the plane plus half the PSF,
    which is all that a result on the plane itself needs, and columns that are known to be zero, or are not
    wanted, are not transformed. Where the light lies in a part of the plane, `subtract_part` does with less.

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
        Length of a padded row, see `pad`.
    reach : (int, int)
        How far the PSF spreads light along y and x.

    Raises
    ------
    ValueError
        From `trim_psf`.

    Notes
    -----
    float32 throughout: the error is about 3e-7 of the largest value of the result. One object holds scratch
    memory, and so is for one thread.
    """

    def __init__(self, psf: NDArray[np.floating], shape: tuple[int, int]) -> None:
        stamp = trim_psf(psf, shape)
        half_y, half_x = stamp.shape[0] // 2, stamp.shape[1] // 2
        self.shape = shape
        self.reach = (half_y, half_x)
        self.padded_width = padded_length(shape[1])
        self._size = good_length(shape[0] + half_y), good_length(shape[1] + half_x)
        self._stamp = stamp
        self._transfers: dict[tuple[int, int], Transfer] = {}
        self._heights = _size_ladder(shape[0], half_y, self._size[0])
        self._widths = _size_ladder(shape[1], half_x, self._size[1])
        self._space = workspace(*self._size, self._size[1])

    def convolve(self, plane: NDArray[np.floating]) -> NDArray[np.float32]:
        """Plane (y, x) convolved with the PSF: float32, of the same shape. The plane must be finite."""
        return self._unpadded(self.convolve_padded(self.pad(plane)))

    def correlate(self, plane: NDArray[np.floating]) -> NDArray[np.float32]:
        """Plane (y, x) correlated with the PSF (the transpose of `convolve`): float32, of the same shape."""
        return self._unpadded(self.correlate_padded(self.pad(plane)))

    def pad(self, plane: NDArray[np.generic]) -> NDArray[np.float32]:
        """
        New plane of rows of `padded_width`, zero beyond the plane's own width.

        Raises
        ------
        ValueError
            If the plane has not the `shape` that the convolver is made for.
        """
        if plane.shape != self.shape:
            raise ValueError(f"made for planes of {self.shape}, not {plane.shape}")
        return padded(plane)

    def _check(self, plane: NDArray[np.float32]) -> None:
        """Refuse what compiled code, which does not look, would read or write beyond."""
        if plane.shape != (self.shape[0], self.padded_width):
            raise ValueError(f"not a padded plane of {self.shape}: {plane.shape}")

    def convolve_padded(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        """
        As `convolve`, without copies, for loops: rows are `padded_width` long.

        Parameters
        ----------
        plane : array of float32, (y, padded_width)
            Finite, and zero beyond the width of the plane (see `pad`).

        Returns
        -------
        array of float32, (y, padded_width)
            New; what lies beyond the width of the plane is finite and meaningless.

        Raises
        ------
        ValueError
            If the plane is not padded or has another shape.
        """
        return self._filter_all(plane, 0)

    def correlate_padded(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `convolve_padded`, for `correlate`."""
        return self._filter_all(plane, 1)

    def subtract_part(
        self,
        plane: NDArray[np.float32],
        lit: Support,
        residual: NDArray[np.float32],
        valid: NDArray[np.float32],
    ) -> tuple[float, float, float]:
        """
        Subtract, in place, what a plane is convolved to that is zero outside of a known part.

        A few pixels are summed directly. Otherwise the transforms need to be so long only that what wraps
        round does not come back to the plane: light from between `left` and `right` of a plane N wide
        reaches no further than half a PSF, so that the larger of N - left and right, plus half a PSF, will
        do. Lengths are taken from a short ladder, so that the PSF is transformed for a few of them only.

        Parameters
        ----------
        plane : array of float32, (y, padded_width)
            Zero outside of the part.
        lit : Support
            The part.
        residual : array of float32, (y, padded_width)
            From which to subtract. What lies beyond the width of the plane becomes meaningless.
        valid : array of float32, (y, padded_width)
            1 for pixels that count, 0 for others and beyond the width.

        Returns
        -------
        highest, lowest : float
            The largest and the smallest of what is left, among the pixels that count, and of zero.
        squares : float
            The sum of their squares, in float64.

        Raises
        ------
        ValueError
            If a plane is not padded (see `pad`) or has another shape.
        """
        for given in (plane, residual, valid):
            self._check(given)
        height = _least_of(self._heights, max(self.shape[0] - lit.top, lit.bottom) + self.reach[0])
        width = _least_of(self._widths, max(self.shape[1] - lit.left, lit.right) + self.reach[1])
        if lit.pixels * self._stamp.size * DIRECT_COST <= height * width:
            return subtract_stamps(plane, self._stamp, lit, self._space, residual, valid)
        transfer = self._transfer((height, width))
        return subtract_filtered(plane, lit, self.shape[1], transfer, self._space, residual, valid)

    def _filter_all(self, plane: NDArray[np.float32], conjugate: int) -> NDArray[np.float32]:
        self._check(plane)
        result = np.empty_like(plane)
        everything = Support(0, self.shape[0], 0, self.shape[1], plane.size)
        transfer = self._transfer(self._size)
        filter_all(plane, everything, self.shape[1], transfer, conjugate, self._space, result)
        return result

    def _transfer(self, size: tuple[int, int]) -> Transfer:
        """The transform of the PSF about the pixel (0, 0), from memory if it was wanted not long ago."""
        transfer = self._transfers.pop(size, None)
        if transfer is None:
            kernel = _about_origin(self._stamp, size)
            # Twice this transform meets twice that of the plane, and nothing scales on the way back.
            factors = spectrum(kernel, size, self._space).reshape(-1)
            factors /= np.float32(4 * kernel.size)
            transfer = Transfer(plan(size[0]), plan(size[1]), factors)
        for oldest in list(self._transfers)[: 1 - TRANSFERS_KEPT]:
            self._transfers.pop(oldest)
        self._transfers[size] = transfer
        return transfer

    def _unpadded(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(plane[:, : self.shape[1]])


def _about_origin(stamp: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A stamp in a plane of zeros, its central pixel at (0, 0), what lies before it at the far ends."""
    plane = np.zeros(size, np.float32)
    y, x = stamp.shape[0] // 2, stamp.shape[1] // 2
    plane[: y + 1, : x + 1] = stamp[y:, x:]
    if y:
        plane[-y:, : x + 1] = stamp[:y, x:]
    if x:
        plane[: y + 1, -x:] = stamp[y:, :x]
    if x and y:
        plane[-y:, -x:] = stamp[:y, :x]
    return plane


def _size_ladder(size: int, reach: int, largest: int) -> list[int]:
    """Rising lengths of transform, from the least that any part of a plane can do with to the largest."""
    least = max(size, size // 2 + reach + 1, 2 * reach + 1)
    steps = np.linspace(least, largest, SIZE_STEPS).astype(int)
    return sorted({min(good_length(int(step)), largest) for step in steps if step < largest} | {largest})


def _least_of(ladder: list[int], wanted: int) -> int:
    """The first length that is enough; the last one always is."""
    return next((length for length in ladder if length >= wanted), ladder[-1])
