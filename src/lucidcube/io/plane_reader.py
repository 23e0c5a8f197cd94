"""Read the planes of an uncompressed array in a file by their positions."""

import logging
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BufferedReader
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.errors import CubeError

_log = logging.getLogger(__name__)

Meaning = Literal["data", "variance", "error", "weight"]
"""Meaning of the numbers of a file: data, variance, standard deviation, or inverse variance."""


class Encoding(NamedTuple):
    """Stored representation of numbers: dtype with byte order, BSCALE, BZERO, and BLANK."""

    dtype: str
    scale: float = 1.0
    zero: float = 0.0
    blank: int | None = None


@dataclass(frozen=True)
class PlaneReader:
    """An array (wavelength, y, x) in a file that can be sliced like a NumPy array.

    It is small and picklable and holds no open file: each slicing opens the file, reads the bytes it needs,
    and closes it; a file of another `size` or `mtime_ns` is refused. Every plane must lie in one piece:
    `offset` bytes before the first one, `stride` bytes from one to the next, `slow` and `fast` elements along
    its axes in the file; the fast axis is y if it is `swapped`. The array holds some `planes`, `rows` and
    `columns` of the `count` planes. Standard deviations and weights are read as variances. The data are
    multiplied by 2**exponent and the variance by its square, which is exact.
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

    ndim = 3
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of planes, rows and columns."""
        return len(self.planes), len(self.rows), len(self.columns)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > 3 or not all(isinstance(k, slice | int | np.integer) for k in keys):
            raise TypeError(f"only slices and integers can index the planes of a file, not {key!r}")
        slices = [k if isinstance(k, slice) else slice(k, k + 1 or None) for k in keys]
        slices += [slice(None)] * (3 - len(keys))
        axes = (self.planes, self.rows, self.columns)
        planes, rows, columns = (axis[part] for axis, part in zip(axes, slices, strict=True))
        block = replace(self, planes=planes, rows=rows, columns=columns).read()
        return block[tuple(slice(None) if isinstance(k, slice) else 0 for k in keys)]

    def read(self) -> NDArray[np.float32]:
        """Read the whole array (wavelength, y, x) by `to_float32`.

        A file that was removed, changed since it was opened, or is too short raises CubeError.
        """
        slow, fast = (self.columns, self.rows) if self.swapped else (self.rows, self.columns)
        dtype = np.dtype(self.encoding.dtype)
        if not all(self.shape):
            return np.empty(self.shape, np.float32)
        low, high = min(slow[0], slow[-1]), max(slow[0], slow[-1]) + 1
        block = np.empty((len(self.planes), high - low, self.fast), dtype)
        start = self.offset + low * self.fast * dtype.itemsize
        try:
            with open(self.path, "rb") as file:
                now = os.fstat(file.fileno())
                if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns):
                    raise CubeError(f"{self.path} was changed after it was opened; start again")
                for plane, number in zip(block, self.planes, strict=True):
                    fill(file, plane, start + number * self.stride)
        except OSError as error:
            raise CubeError(f"{self.path} cannot be read: {error.strerror or error}") from None
        if not dtype.isnative:
            block = block.byteswap(inplace=True).view(dtype.newbyteorder("="))
        block = block[:, _relative(slow, low), _relative(fast, 0)]
        stored = block.transpose(0, 2, 1) if self.swapped else block
        return to_float32(stored, self.encoding, self.meaning, self.exponent, name=self.path)


def fill(file: BufferedReader, block: NDArray[Any], offset: int) -> None:
    """Fill a C-contiguous array with the bytes from `offset` of a file; OSError if it ends too early."""
    file.seek(offset)
    if file.readinto(block.reshape(-1).view(np.uint8).data) < block.nbytes:
        raise OSError("it ends too early")


def to_float32(
    stored: NDArray[Any],
    encoding: Encoding,
    meaning: Meaning = "data",
    exponent: int = 0,
    *,
    name: str = "an array",
) -> NDArray[np.float32]:
    """Turn stored numbers, in native byte order, into data or variances; they may be overwritten.

    BSCALE, BZERO and BLANK are applied in float64. The result is C-contiguous, and NaN where blank, infinite,
    or beyond float32, and for a weight that is not positive. A value that is too small for float32 becomes 0.
    The first time that float32 cannot hold values of the file `name`, a warning is logged.
    """
    plain = (encoding.scale, encoding.zero, encoding.blank) == (1.0, 0.0, None)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if plain and stored.dtype == np.float32 and meaning in ("data", "variance"):
            values = np.ascontiguousarray(stored)
            result = np.ldexp(values, exponent * (1 + (meaning == "variance"))) if exponent else values
        else:
            values = physical(stored, encoding)
            result = np.ascontiguousarray(_scaled(values, meaning, exponent), np.float32)
    infinite = np.isinf(result)
    if result is not values and np.any(np.isfinite(values[infinite])):
        verb = "data hold" if meaning == "data" else "variance holds"
        _warn_once(f"{name}: the {verb} numbers too large for float32; they are read as NaN")
    if result is not values and meaning != "data" and np.isfinite(values[(result == 0) & (values > 0)]).any():
        _warn_once(f"{name}: the variance holds numbers too small for float32; they are read as 0")
    if infinite.any():
        result[infinite] = np.nan
    return result


def physical(stored: NDArray[Any], encoding: Encoding) -> NDArray[np.float64]:
    """Apply BLANK, BSCALE and BZERO in float64; what is too large for it is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):  # invalid: signalling NaNs
        values = stored.astype(np.float64)
        if encoding.blank is not None:
            values[stored == encoding.blank] = np.nan
        if (encoding.scale, encoding.zero) != (1.0, 0.0):
            values *= encoding.scale
            values += encoding.zero
    return values


def _scaled(values: NDArray[np.float64], meaning: Meaning, exponent: int) -> NDArray[np.float64]:
    """Return data multiplied by 2**exponent, or a variance multiplied by its square."""
    if exponent:
        values = np.ldexp(values, exponent * {"data": 1, "variance": 2, "error": 1, "weight": -2}[meaning])
    if meaning == "error":
        return values * values
    if meaning == "weight":
        return np.divide(1.0, values, out=np.full(values.shape, np.nan), where=values > 0)
    return values


@lru_cache(maxsize=256)
def _warn_once(text: str) -> None:
    _log.warning(text)


def _relative(kept: range, first: int) -> slice:
    """Return the slice that selects a range from an array whose first element has the number `first`."""
    stop = kept.stop - first
    return slice(kept.start - first, None if stop < 0 else stop, kept.step)
