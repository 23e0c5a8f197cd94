"""Compiled steps of convolution: of planes of which a part is lit, by transforms or by direct sums."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.fourier.simd.fft import (
    Plan,
    Workspace,
    filter_rows,
    first_column,
    forward_columns,
    inverse_columns,
    inverse_panel,
)
from lucidcube.kernels.fourier.simd.panels import load_columns, subtract_columns
from lucidcube.kernels.fourier.simd.vectors import ROW


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


class Transfer(NamedTuple):
    """
    The transform of a PSF.

    Attributes
    ----------
    y, x : Plan
        For the lengths of the transform.
    factors : array of float32
        Flat spectrum, scaled for what `fft.forward_columns` makes.
    """

    y: Plan
    x: Plan
    factors: NDArray[np.float32]


@njit(cache=True, nogil=True)
def _filter(
    plane: NDArray[np.float32],
    lit: Support,
    width: int,
    transfer: Transfer,
    conjugate: int,
    space: Workspace,
) -> None:
    """Convolve or correlate a plane of `width` columns up to the last step, `fft.inverse_columns`."""
    y, x = transfer.y, transfer.x
    forward_columns(plane, lit.top, lit.bottom, lit.left, lit.right, y, space)
    filter_rows(lit.left, lit.right, width, y.length, x, transfer.factors, conjugate, space)


@njit(cache=True, nogil=True)
def filter_all(
    plane: NDArray[np.float32],
    lit: Support,
    width: int,
    transfer: Transfer,
    conjugate: int,
    space: Workspace,
    out: NDArray[np.float32],
) -> None:
    """
    Convolve or correlate a plane of which a part is lit.

    Parameters
    ----------
    plane : array of float32, (y, padded x)
        Zero outside of the part.
    lit : Support
        The part.
    width : int
        Columns of the plane, without those that pad it.
    transfer : Transfer
    conjugate : int
        1 to correlate, or 0.
    space : Workspace
    out : array of float32, (y, padded x)
        Takes the result.
    """
    _filter(plane, lit, width, transfer, conjugate, space)
    inverse_columns(transfer.y, space, out)


@njit(cache=True, nogil=True)
def subtract_filtered(
    plane: NDArray[np.float32],
    lit: Support,
    width: int,
    transfer: Transfer,
    space: Workspace,
    residual: NDArray[np.float32],
    valid: NDArray[np.float32],
) -> tuple[float, float, float]:
    """See `convolve.Convolver.subtract_part`: by transforms."""
    _filter(plane, lit, width, transfer, 0, space)
    height, step = residual.shape
    extremes, squares = np.empty((2, step), np.float32), np.empty(step)
    for number in range(step // ROW):
        x = first_column(number)
        panel = inverse_panel(x, step, transfer.y, space)
        subtract_columns(panel, residual, valid, extremes, squares, height, x, step)
    # Gathered column by column, which gives the same sum for any length of vector.
    return float(extremes[0].max()), float(extremes[1].min()), squares.sum()


@njit(cache=True, nogil=True)
def subtract_stamps(
    plane: NDArray[np.float32],
    stamp: NDArray[np.float32],
    lit: Support,
    space: Workspace,
    residual: NDArray[np.float32],
    valid: NDArray[np.float32],
) -> tuple[float, float, float]:
    """See `convolve.Convolver.subtract_part`: by direct sums."""
    total = np.zeros_like(plane)
    _add_stamps(plane, stamp, lit, total)
    height, step = residual.shape
    extremes, squares = np.empty((2, step), np.float32), np.empty(step)
    for number in range(step // ROW):
        x = first_column(number)
        load_columns(total, space.one, height, x, step, 0)
        subtract_columns(space.one, residual, valid, extremes, squares, height, x, step)
    return float(extremes[0].max()), float(extremes[1].min()), squares.sum()


@njit(cache=True, nogil=True)
def _add_stamps(
    plane: NDArray[np.float32], stamp: NDArray[np.float32], lit: Support, total: NDArray[np.float32]
) -> None:
    """Add PSFs about the pixels of a part of a plane that are not zero."""
    half_y, half_x = stamp.shape[0] // 2, stamp.shape[1] // 2
    ny, nx = plane.shape
    places = np.nonzero(plane[lit.top : lit.bottom, lit.left : lit.right])
    # Row by row of the result, which then stays next to the processor.
    for y in range(ny):
        row = total[y]
        for k in range(places[0].size):
            source_y, source_x = places[0][k] + lit.top, places[1][k] + lit.left
            line = y - source_y + half_y
            if 0 <= line < stamp.shape[0]:
                light = plane[source_y, source_x]
                first, last = max(0, source_x - half_x), min(nx, source_x + half_x + 1)
                part, profile = row[first:last], stamp[line, first - source_x + half_x :]
                for x in range(part.size):
                    part[x] += light * profile[x]
