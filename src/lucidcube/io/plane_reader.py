"""Reading planes of an array that lies uncompressed in a file, by position."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.errors import CubeError

Meaning = Literal["data", "variance", "error", "weight"]
"""What the numbers of a file are: the data, their variance, standard deviation, or inverse variance."""


class Encoding(NamedTuple):
    """How the numbers of a file become physical ones.

    Attributes
    ----------
    dtype
        As stored, with byte order: ``>f4``.
    scale, zero
        BSCALE and BZERO.
    blank
        The stored integer that means "no data".
    """

    dtype: str
    scale: float = 1.0
    zero: float = 0.0
    blank: int | None = None


@dataclass(frozen=True)
class PlaneReader:
    """An array (wavelength, y, x) in a file, to be sliced like NumPy: small, picklable, holds nothing open.

    Every plane must lie in one piece. Each slicing opens the file, reads the bytes it needs, and closes it.

    Attributes
    ----------
    path
        Of the file.
    size, mtime_ns
        What the file was when it was opened; a changed file is refused.
    offset
        Bytes before the first plane of the file.
    stride
        Bytes from one plane to the next.
    slow, fast
        Lengths of the two axes of a plane as it lies in the file.
    swapped
        Whether the fast axis is y.
    encoding
        Of the numbers.
    meaning
        What they are; standard deviations and inverse variances come out as variances.
    exponent
        The data are multiplied by 2**exponent, the variance by its square: exact.
    count
        Planes in the file.
    planes, rows, columns
        Which of each are in the array.
    """

    path: str
    size: int
    mtime_ns: int
    offset: int
    stride: int
    slow: int
    fast: int
    swapped: bool
    encoding: Encoding
    meaning: Meaning
    exponent: int
    count: int
    planes: range
    rows: range
    columns: range

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns."""
        return len(self.planes), len(self.rows), len(self.columns)

    @property
    def ndim(self) -> int:
        """Three."""
        return 3

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Always float32."""
        return np.dtype(np.float32)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > 3 or not all(isinstance(k, slice | int | np.integer) for k in keys):
            raise TypeError(f"slices and integers only, not {key!r}")
        wanted = [
            axis[k if isinstance(k, slice) else slice(k, k + 1 or None)]
            for axis, k in zip(self._axes, keys, strict=False)
        ]
        planes, rows, columns = (*wanted, *self._axes[len(keys) :])
        block = replace(self, planes=planes, rows=rows, columns=columns).read()
        return block[tuple(slice(None) if isinstance(k, slice) else 0 for k in keys)]

    @property
    def _axes(self) -> tuple[range, range, range]:
        return self.planes, self.rows, self.columns

    def read(self) -> NDArray[np.float32]:
        """Read it all.

        Returns
        -------
        ndarray
            (wavelength, y, x) float32, C-contiguous; NaN for blank and infinite pixels and beyond float32.

        Raises
        ------
        CubeError
            If the file is gone, has changed since it was opened, or is too short.
        """
        return to_float32(self._stored(), self.encoding, self.meaning, self.exponent)

    def _stored(self) -> NDArray[Any]:
        """The numbers as in the file but in native byte order and in the order wavelength, y, x."""
        slow, fast = (self.columns, self.rows) if self.swapped else (self.rows, self.columns)
        dtype = np.dtype(self.encoding.dtype)
        if not all(self.shape):
            return np.empty(self.shape, dtype.newbyteorder("="))
        low, high = min(slow[0], slow[-1]), max(slow[0], slow[-1]) + 1
        block = np.empty((len(self.planes), high - low, self.fast), dtype)
        start = self.offset + low * self.fast * dtype.itemsize
        together = high - low == self.slow and self.planes.step == 1 and self.stride == block[:1].nbytes
        try:
            with open(self.path, "rb", buffering=0) as file:
                self._check_unchanged(os.fstat(file.fileno()))
                if together:
                    fill(file.fileno(), block, start + self.planes[0] * self.stride)
                else:
                    for plane, number in zip(block, self.planes, strict=True):
                        fill(file.fileno(), plane, start + number * self.stride)
        except OSError as error:
            raise CubeError(f"{self.path} cannot be read: {error.strerror or error}") from None
        if dtype.byteorder == (">" if sys.byteorder == "little" else "<"):
            block = block.byteswap(inplace=True).view(dtype.newbyteorder("="))
        block = block[:, _relative(slow, low), _relative(fast, 0)]
        return block.transpose(0, 2, 1) if self.swapped else block

    def _check_unchanged(self, now: os.stat_result) -> None:
        if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns):
            raise CubeError(f"{self.path} was changed after it was opened; start again")


def fill(descriptor: int, block: NDArray[Any], offset: int) -> None:
    """Read the bytes of a C-contiguous array from a place in a file.

    Raises
    ------
    OSError
        If the file ends too early.
    """
    memory = block.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(memory):
        count = os.preadv(descriptor, [memory[done:]], offset + done)
        if count == 0:
            raise OSError("it ends too early")
        done += count


def to_float32(
    stored: NDArray[Any], encoding: Encoding, meaning: Meaning = "data", exponent: int = 0
) -> NDArray[np.float32]:
    """Turn stored numbers into physical ones.

    Parameters
    ----------
    stored
        In native byte order; may be overwritten.
    encoding
        BSCALE, BZERO and BLANK are applied in float64.
    meaning
        Of the numbers.
    exponent
        See `PlaneReader`.

    Returns
    -------
    ndarray
        Same shape, float32, C-contiguous; NaN where blank, infinite, or beyond float32, and for a weight
        that is not positive.
    """
    plain = (encoding.scale, encoding.zero, encoding.blank) == (1.0, 0.0, None)
    if plain and stored.dtype == np.float32 and meaning in ("data", "variance"):
        result = np.ascontiguousarray(stored)
        if exponent:
            with np.errstate(over="ignore", under="ignore"):  # what overflows becomes NaN below
                result = np.ldexp(result, exponent * (2 if meaning == "variance" else 1))
    else:
        values = physical(stored, encoding)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # likewise
            if exponent:
                values = np.ldexp(
                    values, exponent * {"data": 1, "variance": 2, "error": 1, "weight": -2}[meaning]
                )
            if meaning == "error":
                values = values * values
            elif meaning == "weight":
                values = np.divide(1.0, values, out=np.full(values.shape, np.nan), where=values > 0)
            result = np.ascontiguousarray(values, np.float32)
    infinite = np.isinf(result)
    if infinite.any():
        result[infinite] = np.nan
    return result


def physical(stored: NDArray[Any], encoding: Encoding) -> NDArray[np.float64]:
    """Apply BLANK, BSCALE and BZERO in float64."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values = stored.astype(np.float64)
    if encoding.blank is not None:
        values[stored == encoding.blank] = np.nan
    if (encoding.scale, encoding.zero) != (1.0, 0.0):
        values *= encoding.scale
        values += encoding.zero
    return values


def _relative(kept: range, first: int) -> slice:
    """The slice that takes a range out of an array whose first element has the number `first`."""
    stop = kept.stop - first
    return slice(kept.start - first, None if stop < 0 else stop, kept.step)
