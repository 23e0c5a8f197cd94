"""Check that the headers of a FITS file account for all of its bytes, before anything relies on them."""

import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from astropy.io import fits

from lucidcube.errors import CubeError
from lucidcube.io.hdu_bytes import BLOCK
from lucidcube.io.header_cards import MALFORMED, number, text
from lucidcube.io.limits import MOST_CARDS, most_cards, open_regular

MOST_HDUS = 5000
"""Number of HDUs that a file may have."""
LARGEST_REST = 1 << 20
"""Number of zeros and spaces that may follow the last HDU."""
_END = re.compile(rb"(?:.{80})*?END {77}", re.DOTALL)
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
    for _ in _walk(path, name):
        pass


def hdu_places(path: Path) -> Iterator[tuple[fits.Header, int, int, int]]:
    """Yield header, first byte, first byte of the data and end of each HDU; see `check_structure` for errors.

    Nothing is yielded for a file that is not a FITS file, and for an HDU that is cut short.
    """
    with open_regular(path) as file:
        sound = file.read(9) == b"SIMPLE  ="
    return _walk(path, str(path)) if sound else iter(())


def _walk(path: Path, name: str) -> Iterator[tuple[fits.Header, int, int, int]]:
    """Yield the places of all HDUs, and check that nothing lies between them."""
    cards = most_cards()
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = extension = 0
        while (header := _header(file, start, f"{name}: extension {extension}", cards)) is not None:
            if extension == MOST_HDUS:
                raise CubeError(f"{name} has more than {MOST_HDUS} extensions")
            what = f"{name}: extension {extension}"
            if extension:
                _check_kind(header, what)
            data = file.tell()
            end = data + _padded(_data_size(header, what))
            if end > size:
                return
            yield header, start, data, end
            file.seek(end)
            if file.read(8) != b"XTENSION":
                _check_rest(file, end, what)
                return
            start, extension = end, extension + 1


def _header(file: BinaryIO, start: int, what: str, cards: int) -> fits.Header | None:
    """Return the header at an offset, and leave the file at its end; None if it is cut short."""
    file.seek(start)
    largest = -(-cards * 80 // BLOCK) * BLOCK
    content = b""
    # Most headers are short, and none needs to be read beyond the card END.
    while not _END.match(content) and len(content) < largest:
        piece = file.read(min(max(len(content), 10 * BLOCK), largest - len(content)))
        if not piece:
            break
        content += piece
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # those of the cards are logged when the HDUs are listed
            header = fits.Header.fromfile(stream)
    except MALFORMED:
        if len(content) == largest:
            raise CubeError(
                f"{what}: the header has no end, or more than {cards} cards; "
                f"{MOST_CARDS} in the environment sets this limit"
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
    """Check that nothing but some zeros and spaces follow the data of the last HDU."""
    file.seek(end)
    content = file.read(LARGEST_REST + 1)
    if content.strip(b"\0 ") or len(content) > LARGEST_REST:
        raise CubeError(
            f"{what} should end at byte {end}, but what follows is no extension: its BITPIX, NAXIS or "
            "PCOUNT, or the header of the next extension, may be damaged"
        )


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
