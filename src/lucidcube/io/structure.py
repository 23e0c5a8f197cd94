"""Check that the headers of a FITS file account for all of its bytes, before anything relies on them."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from astropy.io import fits

from lucidcube.errors import CubeError
from lucidcube.io.hdu_bytes import BLOCK
from lucidcube.io.header_cards import MALFORMED, number, text

LARGEST_HEADER = 400 * BLOCK
"""Largest header in bytes; it has 14 400 cards."""
_TABLE = {"BITPIX": (8,), "NAXIS": (2,), "GCOUNT": (1,)}
KINDS: Mapping[str, Mapping[str, Sequence[int]]] = {
    "IMAGE": {"PCOUNT": (0,), "GCOUNT": (1,)},
    "BINTABLE": _TABLE,
    "TABLE": _TABLE,
    **{kind: {} for kind in ("A3DTABLE", "IUEIMAGE", "FOREIGN", "DUMP")},
}
"""Types of extensions, and the values that the standard allows for their cards."""
MOST_AXES = 999
"""Largest NAXIS of the FITS standard."""


def check_structure(path: Path, name: str) -> None:
    """Check that each HDU ends where the next one begins, and the last one where the file ends.

    A damaged BITPIX or NAXIS card otherwise makes readers take other bytes for pixels without a word, or
    run for hours. Zeros and spaces at the end of a file are allowed, and files that are cut short pass: they
    are found when the HDUs are listed. `name` is the name of the file for messages. CubeError is raised for
    other files.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = extension = 0
        while (header := _header(file, start, f"{name}: extension {extension}")) is not None:
            what = f"{name}: extension {extension}"
            if extension:
                _check_kind(header, what)
            end = file.tell() + _padded(_data_size(header, what))
            if end > size:
                return
            file.seek(end)
            if file.read(8) != b"XTENSION":
                _check_rest(file, end, what)
                return
            start, extension = end, extension + 1


def _header(file: BinaryIO, start: int, what: str) -> fits.Header | None:
    """Return the header at an offset, and leave the file at its end; None if it is cut short."""
    file.seek(start)
    content = file.read(LARGEST_HEADER)
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # those of the cards are logged when the HDUs are listed
            header = fits.Header.fromfile(stream)
    except MALFORMED:
        if len(content) == LARGEST_HEADER:
            raise CubeError(
                f"{what}: the header has no end, or more than {LARGEST_HEADER // 80} cards"
            ) from None
        return None
    file.seek(start + stream.tell())
    return header


def _check_kind(header: fits.Header, what: str) -> None:
    """Check the type of an extension; otherwise an image with a damaged card would be passed over."""
    kind = text(header, "XTENSION")
    if kind not in KINDS:
        raise CubeError(f"{what}: XTENSION is {kind!r}, which is no type of extension")
    for keyword, values in KINDS[kind].items():
        if number(header, keyword, values[0]) not in values:
            raise CubeError(
                f"{what}: {keyword} is {text(header, keyword)}, which the type {kind} does not allow"
            )


def _data_size(header: fits.Header, what: str) -> int:
    """Return the number of bytes of the data of an HDU (FITS standard 4.0, equations 2 and 4)."""
    axes = int(number(header, "NAXIS", 0))
    if not 0 <= axes <= MOST_AXES:
        raise CubeError(f"{what}: NAXIS is {axes}")
    lengths = [int(number(header, f"NAXIS{n}", 0)) for n in range(1, axes + 1)]
    if text(header, "GROUPS") == "True" and lengths[:1] == [0]:
        lengths = lengths[1:]
    values = math.prod(lengths) if lengths else 0
    groups, parameters = int(number(header, "GCOUNT", 1)), int(number(header, "PCOUNT", 0))
    return max(abs(int(number(header, "BITPIX", 0))) // 8 * groups * (parameters + values), 0)


def _check_rest(file: BinaryIO, end: int, what: str) -> None:
    """Check that nothing but zeros and spaces follow the data of the last HDU."""
    file.seek(end)
    while content := file.read(1 << 20):
        if content.strip(b"\0 "):
            raise CubeError(
                f"{what} should end at byte {end}, but what follows is no extension: its BITPIX, NAXIS or "
                "PCOUNT, or the header of the next extension, may be damaged"
            )


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
