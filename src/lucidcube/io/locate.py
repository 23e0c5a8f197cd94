"""Locate the planes of a cube in a file, and estimate the magnitude of its numbers."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.axes import Axes
from lucidcube.io.hdus import Hdu
from lucidcube.io.plane_reader import Encoding, Meaning, PlaneReader, fill, physical
from lucidcube.io.staging import ScratchFolder

_SAMPLES = 1 << 17  # values of a plane that are sampled before the cube is read
_ROUNDING = -27.0  # binary logarithm of 1e-8, less than the relative precision of float32
_SQUARE = {"data": 2, "variance": 1, "error": 2, "weight": -1}  # powers that turn numbers into squared fluxes


def locate(
    path: Path,
    hdu: Hdu,
    meaning: Meaning,
    axes: Axes,
    kept: Sequence[range],
    folder: ScratchFolder,
    name: str,
) -> PlaneReader:
    """Locate the planes of an array; rewrite the array in `folder` if its planes are not contiguous.

    `kept` holds the selected elements of each axis: exactly one for an axis that is not in `axes`. `name` is
    the name of the file for messages. An array that cannot be rewritten raises CubeError.
    """
    offset, encoding = hdu.offset, hdu.encoding
    if hdu.kind == "tiled":
        path, dtype = folder.untiled(path, hdu.number, f"{name}{{{hdu.name or hdu.number}}}")
        offset, encoding = 0, Encoding(dtype)
    item = np.dtype(encoding.dtype).itemsize
    strides = [math.prod(hdu.shape[axis + 1 :]) * item for axis in range(len(hdu.shape))]
    offset += sum(kept[axis].start * strides[axis] for axis in range(len(hdu.shape)) if axis not in axes)
    swapped = axes.y > axes.x
    slow, fast = (axes.x, axes.y) if swapped else (axes.y, axes.x)
    count = 1 if axes.spectral is None else hdu.shape[axes.spectral]
    shape = (count, hdu.shape[slow], hdu.shape[fast])
    stride = 0 if axes.spectral is None else strides[axes.spectral]
    plane_bytes = shape[1] * shape[2] * item
    scattered = strides[fast] != item or (shape[1] > 1 and strides[slow] != shape[2] * item)
    if scattered:
        steps = (stride, strides[slow], strides[fast])
        path = folder.transposed(path, offset, encoding.dtype, shape, steps, name)
        offset, stride = 0, plane_bytes
    stat = path.stat()
    return PlaneReader(
        path=str(path.absolute()),
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        offset=offset,
        stride=stride or plane_bytes,
        slow=shape[1],
        fast=shape[2],
        swapped=swapped,
        encoding=encoding,
        meaning=meaning,
        exponent=0,
        count=count,
        planes=range(1) if axes.spectral is None else kept[axes.spectral],
        rows=kept[axes.y],
        columns=kept[axes.x],
    )


def scale_exponent(readers: Iterable[PlaneReader]) -> int:
    """Return the power of two by which a cube is scaled so that float32 holds its data, squares and variance.

    Most cubes are not scaled. Scaling is needed if the brightest data are outside 2**-32 to 2**48 (such as
    fluxes of 1e-20), or if a variance is too small or too large for float32; it brings the brightest data to
    about 1. The scale is that of the brightest data and not of a typical value, because values fainter than
    2**-40 of them, such as the wings of a PSF or of a planet in float64, are beyond the precision of float32.
    Fill values such as -3.4e38, which a wide gap separates from the data, are ignored. The exponent depends
    on the file and not on the slice.
    """
    squares = {reader.meaning: _log_sizes(reader) * _SQUARE[reader.meaning] for reader in readers}
    data = squares.pop("data", np.empty(0))
    variance = np.concatenate([*squares.values(), np.empty(0)])
    if not data.size and not variance.size:
        return 0
    largest = _largest(data if data.size else variance)
    matters = variance[(variance > largest - 80) & (variance < largest + 40)]
    fits_as_it_is = -64 <= largest <= 96 and np.all(np.abs(matters) < 112)
    return 0 if fits_as_it_is else -round(largest / 2)


def _largest(squares: NDArray[np.float64]) -> float:
    """Return the largest logarithm, ignoring those beyond float32 that a wide gap separates from the rest."""
    largest = float(squares.max())
    if largest < 126:
        return largest
    ordered = np.sort(squares)
    gaps = np.flatnonzero((np.diff(ordered) > 80) & (ordered[1:] > 126))
    return float(ordered[gaps[0]]) if gaps.size else largest


def is_rather_variance(data: PlaneReader, error: PlaneReader) -> bool:
    """Return whether numbers that a file labels as standard deviations are variances.

    Some files store variances under the name ERR, such as the GMOS cube of NGC 3081 that comes with ifscube.
    Errors that are typically smaller than 1e-8 of the data, but whose square roots are plausible errors, are
    taken as variances, because no float32 number is that precise.
    """
    if error.meaning != "error":
        return False
    sizes, errors = _log_sizes(data), _log_sizes(error)
    if not sizes.size or not errors.size:
        return False
    size, deviation = float(np.median(sizes)), float(np.median(errors))
    return deviation - size < _ROUNDING < deviation / 2 - size < -_ROUNDING


def _log_sizes(reader: PlaneReader) -> NDArray[np.float64]:
    """Return the binary logarithms of the nonzero numbers in evenly spaced rows of three planes."""
    dtype = np.dtype(reader.encoding.dtype)
    width = min(reader.fast, _SAMPLES)
    count = min(reader.slow, _SAMPLES // width)
    rows = [reader.slow * (2 * i + 1) // (2 * count) for i in range(count)]
    planes = sorted({(reader.count - 1) * tenth // 10 for tenth in (2, 5, 8)})
    raw = np.empty((len(planes), count, width), dtype)
    try:
        with open(reader.path, "rb") as file:
            for i, plane in enumerate(planes):
                for j, row in enumerate(rows):
                    offset = reader.offset + plane * reader.stride + row * reader.fast * dtype.itemsize
                    fill(file, raw[i, j], offset)
    except OSError as error:
        raise CubeError(f"{reader.path} cannot be read: {error.strerror or error}") from None
    values = physical(raw, reader.encoding)
    sizes = np.abs(values) if reader.meaning == "data" else values
    return np.log2(sizes[np.isfinite(sizes) & (sizes > 0)])
