"""Where the numbers of a cube lie in a file, and how large they are."""

from __future__ import annotations

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

_SAFE_EXPONENT = 96
_SAMPLES = 16_384
_TOO_GOOD = -27.0


def locate(
    path: Path,
    hdu: Hdu,
    meaning: Meaning,
    axes: Axes,
    kept: Sequence[range],
    folder: ScratchFolder,
    name: str,
) -> PlaneReader:
    """Find where the planes of an array lie; rewrite it if they do not lie in one piece each.

    Parameters
    ----------
    path, hdu
        The array.
    meaning
        Of its numbers.
    axes, kept
        What its axes are, and which elements of each are wanted; one of those that are in no cube.
    folder
        Where to rewrite it.
    name
        Of the file, for messages.

    Raises
    ------
    CubeError
        If it must be rewritten and cannot.
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
        path = folder.transposed(
            path,
            offset,
            encoding.dtype,
            shape,
            (stride, strides[slow], strides[fast]),
            name,
        )
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
    """Power of two that brings the data near one, if float32 cannot hold their squares or variance well.

    Parameters
    ----------
    readers
        Of the data and what tells their variance.

    Returns
    -------
    int
        Exponent for `PlaneReader`; 0 unless a typical square lies beyond 2**-96 to 2**96 (float32 ends at
        2**-126 and 2**128). It depends on the file, not on the slice.
    """
    squares: dict[Meaning, float] = {}
    for reader in readers:
        sizes = _sample(reader) * {"data": 2, "variance": 1, "error": 2, "weight": -1}[reader.meaning]
        if len(sizes):
            squares[reader.meaning] = float(np.median(sizes))
    if all(abs(size) < _SAFE_EXPONENT for size in squares.values()):
        return 0
    return -round(squares.get("data", next(iter(squares.values()))) / 2)


def is_rather_variance(data: PlaneReader, error: PlaneReader) -> bool:
    """Whether numbers called standard deviations are variances.

    Some files call them ERR all the same (the GMOS cube of NGC 3081 that comes with ifscube does). No float32
    number is known to 1e-8 of itself, so errors that are typically smaller than that, but whose square roots
    are plausible errors, are variances.
    """
    if error.meaning != "error":
        return False
    sizes, errors = _sample(data), _sample(error)
    if not len(sizes) or not len(errors):
        return False
    size, deviation = float(np.median(sizes)), float(np.median(errors))
    return deviation - size < _TOO_GOOD < deviation / 2 - size < -_TOO_GOOD


def _sample(reader: PlaneReader) -> NDArray[np.float64]:
    """Binary logarithms of the sizes of some numbers other than 0, from all over the array."""
    dtype = np.dtype(reader.encoding.dtype)
    plane = reader.slow * reader.fast
    last = reader.count - 1
    logarithms = []
    try:
        with open(reader.path, "rb", buffering=0) as file:
            for tenth in (2, 5, 8):
                number = last * tenth // 10
                first = plane * tenth // 10
                raw = np.empty(min(_SAMPLES, plane - first), dtype)
                fill(file.fileno(), raw, reader.offset + number * reader.stride + first * dtype.itemsize)
                values = physical(raw, reader.encoding)
                values = np.abs(values[np.isfinite(values) & (values != 0)])
                logarithms.append(np.log2(values))
    except OSError as error:
        raise CubeError(f"{reader.path} cannot be read: {error.strerror or error}") from None
    return np.concatenate(logarithms)
