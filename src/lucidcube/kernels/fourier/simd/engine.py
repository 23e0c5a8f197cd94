"""The engine that other modules see, and the compiled steps behind it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.fourier.direct_sums import Floats, Support
from lucidcube.kernels.fourier.engines import Engine
from lucidcube.kernels.fourier.simd import fft
from lucidcube.kernels.fourier.simd.fft import Plan, Transfer, Workspace, plan, spectrum, workspace
from lucidcube.kernels.fourier.simd.panels import multiply_by_power, subtract_columns
from lucidcube.kernels.fourier.simd.vectors import LANES, ROW


class SimdEngine(Engine):
    """See `Engine`."""

    name = "simd"
    direct_cost = 0.07

    def __init__(self, shape: tuple[int, int], largest: tuple[int, int]) -> None:
        self.padded_width = fft.padded_length(shape[1])
        self._whole_plane = Support(0, shape[0], 0, shape[1], shape[0] * shape[1])
        self._columns = shape[1]
        self._space = workspace(*largest, largest[1])

    @staticmethod
    def good_length(least: int) -> int:
        return fft.good_length(least)

    def pad(self, plane: NDArray[np.generic]) -> Floats:
        return fft.padded(plane)

    def transfer(self, psf: Floats) -> Transfer:
        height, width = psf.shape
        # Twice this transform multiplies twice that of the plane, and the inverse transform has no factor.
        factors = spectrum(psf, (height, width), self._space).reshape(-1)
        factors /= np.float32(4 * psf.size)
        return Transfer(plan(height), plan(width), factors, self._columns)

    def filter(self, plane: Floats, transfer: Any, conjugate: bool) -> Floats:
        result = np.empty_like(plane)
        _filter_all(plane, self._whole_plane, transfer, int(conjugate), self._space, result)
        return result

    def subtract_filtered(
        self, plane: Floats, support: Support, transfer: Any, residual: Floats, valid: Floats
    ) -> tuple[float, float, float]:
        return _subtract_filtered(plane, support, transfer, self._space, residual, valid)

    @staticmethod
    def autocorrelation_filter(plane: Floats, window: tuple[int, int]) -> Callable[[Floats], Floats]:
        (ny, nx), (height, width) = plane.shape, window
        plan_y, plan_x = plan(fft.good_length(ny)), plan(fft.good_length(nx))
        given = spectrum(plane, (plan_y.length, plan_x.length)).reshape(-1)
        # Twice the transform, the factor of the inverse one, and the number of pixels of the window.
        given /= np.float32(2 * plan_y.length * plan_x.length * height * width)
        space, result = workspace(plan_y.length, plan_x.length, nx), fft.padded(plane)
        along_x = np.exp(-2j * np.pi * np.outer(np.arange(width), np.arange(plan_x.length)) / plan_x.length)
        along_x = along_x.astype(np.complex64)
        phases = _phases_about_centre(plan_y.length, height)

        def filtered(vector: Floats) -> Floats:
            pairs = _pairs_about_centre(vector @ along_x)
            _filter_by_power(given, pairs, phases, plan_y, plan_x, space, result)
            return np.ascontiguousarray(result[:, :nx])

        return filtered


def _phases_about_centre(length: int, height: int) -> Floats:
    """Return the `phases` of `multiply_by_power` for a window of a height, by block of frequencies."""
    frequencies = np.arange(fft.blocks_of(length) * LANES)
    distances = (height - 1) / 2 - np.arange((height + 1) // 2)
    angles = 2 * np.pi / length * np.multiply.outer(distances, frequencies).reshape(len(distances), -1, LANES)
    phases = np.stack([np.cos(angles), np.sin(angles)], axis=2).astype(np.float32)
    return np.ascontiguousarray(phases.transpose(1, 0, 2, 3)).reshape(-1)


def _pairs_about_centre(rows: NDArray[np.complexfloating]) -> Floats:
    """Return the `pairs` of `multiply_by_power` for the rows of a window, transformed along x."""
    half = (len(rows) + 1) // 2
    upper, lower = rows[:half], rows[::-1][:half]
    sums, differences = upper + lower, upper - lower
    if len(rows) % 2:
        sums[-1] = upper[-1]
    parts = [sums.real, sums.imag, differences.real, differences.imag]
    return np.stack(parts, axis=-1).astype(np.float32).reshape(-1)


@njit(cache=True, nogil=True)
def _filter_by_power(
    given: Floats, pairs: Floats, phases: Floats, plan_y: Plan, plan_x: Plan, space: Workspace, out: Floats
) -> None:
    """Multiply a spectrum by the power spectrum of a window, and transform it back."""
    width, blocks = plan_x.length, fft.blocks_of(plan_y.length)
    count = pairs.size // (4 * width)
    for block in range(blocks):
        first = block * count * ROW
        multiply_by_power(given, space.one, pairs, phases, width, count, block * width * ROW, first)
        fft.inverse_row(plan_x, block, out.shape[1], space)
    fft.inverse_columns(plan_y, space, out)


@njit(cache=True, nogil=True)
def _filter_all(
    plane: Floats, support: Support, transfer: Transfer, conjugate: int, space: Workspace, out: Floats
) -> None:
    """Convolve or correlate a padded plane."""
    fft.forward_columns(plane, support, transfer.y, space)
    fft.filter_rows(support, transfer, conjugate, space)
    fft.inverse_columns(transfer.y, space, out)


@njit(cache=True, nogil=True)
def _subtract_filtered(
    plane: Floats, support: Support, transfer: Transfer, space: Workspace, residual: Floats, valid: Floats
) -> tuple[float, float, float]:
    """Subtract the convolution panel by panel, while it is in the cache, and return the statistics."""
    fft.forward_columns(plane, support, transfer.y, space)
    fft.filter_rows(support, transfer, 0, space)
    height, step = residual.shape
    extremes, squares = np.empty((2, step), np.float32), np.empty(step)
    for number in range(step // ROW):
        x = fft.first_column(number)
        panel = fft.inverse_panel(x, step, transfer.y, space)
        subtract_columns(panel, residual, valid, extremes, squares, height, x, step)
    # Sums by column are the same for any length of vector.
    return float(extremes[0].max()), float(extremes[1].min()), squares.sum()
