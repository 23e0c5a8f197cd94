"""Convolution and filtering of planes: all that other kernels know of Fourier transforms."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.fourier.direct_sums import Floats, Support, convolve_pixels, subtract
from lucidcube.kernels.fourier.engines import Engine, EngineName, current_engine, use_engine

__all__ = [
    "Convolver",
    "EngineName",
    "Floats",
    "Support",
    "autocorrelation_filter",
    "engine_name",
    "trim_psf",
    "use_engine",
]

SIZE_STEPS = 8
"""Sizes of transform between the smallest and the largest, along each axis; see `Convolver.subtract_part`."""
TRANSFERS_KEPT = 4
"""Number of transforms of the PSF that are kept, of 4 bytes for each point."""


def engine_name() -> str:
    """Return the name of the engine of this context, see `use_engine`."""
    return current_engine().name


def trim_psf(psf: NDArray[np.floating], shape: tuple[int, int]) -> Floats:
    """Cut off the parts of a PSF (y, x) that change nothing: zeros, and what is beyond planes of a shape.

    The result is C-contiguous float32 with the same central pixel. ValueError is raised if the PSF is not a
    plane of odd size, or not finite.
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


def autocorrelation_filter(plane: Floats, window: tuple[int, int]) -> Callable[[Floats], Floats]:
    """Return a function that filters a plane by the autocorrelation of a small window over its pixel count.

    The plane (y, x) is finite and C-contiguous. The function takes a window, an array of float32 of the shape
    `window`, and returns the filtered plane as a new array. The filter wraps round at the edges. The function
    is for one thread.
    """
    return current_engine().autocorrelation_filter(plane, window)


class Convolver:
    """Convolution of planes of one shape with one PSF. The plane is zero outside, and nothing wraps round.

    The transforms are as long as the plane plus half the PSF, which is all that a result on the plane itself
    needs, and the PSF is transformed once for each size. The arithmetic is float32: errors are about 3e-7 of
    the largest value of the result. The engine is that of the context in which the object is made, see
    `use_engine`. An object holds scratch memory, and so is for one thread.

    Parameters
    ----------
    psf : array of float, (y, x)
        Odd in both axes, centred, finite, of any size; ValueError is raised otherwise.
    shape : (int, int)
        Shape (y, x) of the planes.

    Attributes
    ----------
    padded_width : int
        Length of a padded row, see `pad`.
    reach, size : (int, int)
        Half the size of the trimmed PSF, and the size of the transforms of whole planes, along y and x.
    """

    def __init__(self, psf: NDArray[np.floating], shape: tuple[int, int]) -> None:
        engine = current_engine()
        self._stamp = trim_psf(psf, shape)
        self.shape = shape
        self.reach = self._stamp.shape[0] // 2, self._stamp.shape[1] // 2
        self._heights = _size_ladder(engine, shape[0], self.reach[0])
        self._widths = _size_ladder(engine, shape[1], self.reach[1])
        self.size = self._heights[-1], self._widths[-1]
        self._engine = engine(shape, self.size)
        self.padded_width = self._engine.padded_width
        self._transfers: dict[tuple[int, int], Any] = {}

    def convolve(self, plane: NDArray[np.floating]) -> Floats:
        """Return a finite plane (y, x) convolved with the PSF: float32, of the same shape."""
        return self._unpadded(self.convolve_padded(self.pad(plane)))

    def correlate(self, plane: NDArray[np.floating]) -> Floats:
        """Return a plane (y, x) correlated with the PSF, which is the transpose of `convolve`."""
        return self._unpadded(self.correlate_padded(self.pad(plane)))

    def pad(self, plane: NDArray[np.generic]) -> Floats:
        """Return a copy of a plane of `shape` with rows of `padded_width`, zero beyond the plane's width."""
        if plane.shape != self.shape:
            raise ValueError(f"made for planes of {self.shape}, not {plane.shape}")
        return self._engine.pad(plane)

    def convolve_padded(self, plane: Floats) -> Floats:
        """Convolve a padded plane, without the copies that `convolve` makes.

        The plane (y, padded_width) is finite, C-contiguous and zero beyond its width (see `pad`). In the
        result, a new array, what lies beyond that is finite and meaningless.
        """
        self._check(plane)
        return self._engine.filter(plane, self._transfer(self.size), conjugate=False)

    def correlate_padded(self, plane: Floats) -> Floats:
        """Correlate a padded plane, see `convolve_padded`."""
        self._check(plane)
        return self._engine.filter(plane, self._transfer(self.size), conjugate=True)

    def subtract_part(
        self, plane: Floats, support: Support, residual: Floats, valid: Floats
    ) -> tuple[float, float, float]:
        """Convolve a plane that is zero outside of a known part, and subtract the result in place.

        A few pixels are summed directly. Otherwise the transforms need to be so long only that what wraps
        round does not return to the plane: light from between `left` and `right` of a plane N wide reaches
        half a PSF further, so that the larger of N - left and right, plus half a PSF, is enough. Sizes are
        taken from a short ladder, so that the PSF is transformed for a few of them only.

        All arrays are (y, padded_width); `valid` is 1 for pixels that count, 0 for others and beyond the
        width of the plane, where the residual becomes meaningless. For the result see `direct_sums.subtract`.
        """
        for given in (plane, residual, valid):
            self._check(given)
        least_y = max(self.shape[0] - support.top, support.bottom) + self.reach[0]
        least_x = max(self.shape[1] - support.left, support.right) + self.reach[1]
        height = self._heights[bisect_left(self._heights, least_y)]
        width = self._widths[bisect_left(self._widths, least_x)]
        if support.pixels * self._stamp.size * self._engine.direct_cost <= height * width:
            return subtract(convolve_pixels(plane, self._stamp, support), residual, valid)
        return self._engine.subtract_filtered(
            plane, support, self._transfer((height, width)), residual, valid
        )

    def _check(self, plane: Floats) -> None:
        """Refuse planes of another shape, beyond which compiled code would read and write."""
        if plane.shape != (self.shape[0], self.padded_width):
            raise ValueError(f"not a padded plane of {self.shape}: {plane.shape}")

    def _transfer(self, size: tuple[int, int]) -> Any:
        """Return the transform of the PSF, kept from before if its size was used recently."""
        transfer = self._transfers.pop(size, None)
        if transfer is None:
            transfer = self._engine.transfer(_about_origin(self._stamp, size))
        for oldest in list(self._transfers)[: 1 - TRANSFERS_KEPT]:
            self._transfers.pop(oldest)
        self._transfers[size] = transfer
        return transfer

    def _unpadded(self, plane: Floats) -> Floats:
        return np.ascontiguousarray(plane[:, : self.shape[1]])


def _about_origin(stamp: Floats, size: tuple[int, int]) -> Floats:
    """Return a plane of zeros with a stamp about the pixel (0, 0), wrapped round to the far ends."""
    plane = np.zeros(size, np.float32)
    plane[: stamp.shape[0], : stamp.shape[1]] = stamp
    return np.roll(plane, (-(stamp.shape[0] // 2), -(stamp.shape[1] // 2)), (0, 1))


def _size_ladder(engine: type[Engine], size: int, reach: int) -> list[int]:
    """Return rising lengths of transform, from the least that any part of a plane needs to the largest."""
    largest = engine.good_length(size + reach)
    least = max(size, size // 2 + reach + 1, 2 * reach + 1)
    steps = np.linspace(least, largest, SIZE_STEPS).astype(int)
    lengths = {min(engine.good_length(int(step)), largest) for step in steps if step < largest}
    return sorted(lengths | {largest})
