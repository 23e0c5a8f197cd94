"""Compare a FITS file with its cards DATASUM and CHECKSUM while it is read for another purpose."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lucidcube.errors import ConfigError, CubeError
from lucidcube.io.hdu_bytes import checksum, fold
from lucidcube.io.header_cards import text
from lucidcube.io.structure import hdu_places

DATASUM = "LUCIDCUBE_DATASUM"
"""Environment variable: ``verify``, the default, or ``ignore`` for files whose cards were not updated."""
PIECE = 1 << 22
"""Number of bytes to read at a time; a multiple of four."""
_RIGHT = (0, 0xFFFFFFFF)


class _Unit(NamedTuple):
    """An HDU: its number, its first byte, those of its data and of the next HDU, and what its cards state."""

    number: int
    start: int
    data: int
    end: int
    datasum: str
    checksum: str


class StatedSums:
    """The sums of the HDUs of a file, to which its bytes are added in pieces of `PIECE`, in order.

    Nothing is compared for a file without these cards, for one that is compressed as a whole or no FITS file,
    and if the environment says so.
    """

    def __init__(self, path: Path) -> None:
        self._units = [*_stated(path)] if _wanted() else []
        self._starts = [unit.start for unit in self._units]
        self._sums = {unit.number: [0, 0] for unit in self._units}  # of header and data
        self._at = 0

    def add(self, piece: bytes) -> None:
        """Add the next piece."""
        first, last = self._at, self._at + len(piece)
        view = memoryview(piece)
        for unit in self._units[max(bisect_right(self._starts, first) - 1, 0) :]:
            if unit.start >= last:
                break
            sums = self._sums[unit.number]
            for part, (start, end) in enumerate(((unit.start, unit.data), (unit.data, unit.end))):
                inside = view[max(start - first, 0) : max(end - first, 0)]
                sums[part] = fold(sums[part] + checksum(inside))
        self._at = last

    def check(self, name: str) -> list[str]:
        """Return warnings about headers that were changed, and raise CubeError if data were.

        `name` is the name of the file.
        """
        warnings = []
        for unit in self._units:
            header, data = self._sums[unit.number]
            what = f"of extension {unit.number} "
            if unit.datasum and fold(int(unit.datasum)) % 0xFFFFFFFF != data % 0xFFFFFFFF:
                raise CubeError(
                    f"{name}: the data {what}do not have the sum in their card DATASUM: they are damaged, "
                    f"or it was not updated; get the file again, or set {DATASUM}=ignore in the environment"
                )
            if unit.checksum and fold(header + data) not in _RIGHT:
                warnings.append(f"{name}: the header {what}was changed after its CHECKSUM was written")
        return warnings


def _wanted() -> bool:
    value = os.environ.get(DATASUM, "verify")
    if value not in ("verify", "ignore"):
        raise ConfigError(f"{DATASUM}={value!r} in the environment must be verify or ignore")
    return value == "verify"


def _stated(path: Path) -> Iterator[_Unit]:
    """Yield the HDUs that have one of the cards."""
    try:
        for number, (header, start, data, end) in enumerate(hdu_places(path)):
            datasum, total = text(header, "DATASUM"), text(header, "CHECKSUM")
            unit = _Unit(number, start, data, end, datasum if datasum.isdecimal() else "", total)
            if unit.datasum or unit.checksum:
                yield unit
    except (CubeError, OSError):
        return  # such a file cannot be read, which is said where it is opened
