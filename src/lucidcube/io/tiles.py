"""Check a tile-compressed image before astropy decompresses it, whose memory damaged numbers could exhaust.

The names are those of the FITS standard 4.0, section 10.1.
"""

import math
import re
import struct
import zlib
from functools import reduce
from pathlib import Path

import numpy as np
from astropy.io import fits
from dask.utils import format_bytes
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.header_cards import number, text
from lucidcube.io.limits import MOST_DECOMPRESSED, most_decompressed, open_regular

LARGEST_TILE = 1 << 26
"""Number of pixels that a tile may have."""
WIDEST = 8
"""Largest number of bytes of a pixel."""

_SIZES = {"B": 1, "I": 2, "J": 4, "K": 8, "E": 4, "D": 8}
_VARIABLE = re.compile(r"1?([PQ])([BIJKED])(\(\d*\))?")
_COLUMNS = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")
_HCOMPRESS = struct.Struct(">2sii")


def check_tiles(path: Path, extension: int, name: str) -> None:
    """Check the sizes and the places of the tiles of an image; CubeError, which says what is wrong.

    `name` is that of the image for messages. The tiles must be as many as the table has rows, lie within the
    heap, and not expand to more than their pixels.
    """
    with (
        open_regular(path) as raw,
        fits.open(raw, memmap=False, disable_image_compression=True) as file,
    ):
        table = file[extension]
        header = table.header
        pixels = _pixels(header, name, path.stat().st_size)
        rows = table.data.view(np.ndarray)
        if len(rows) != len(pixels):
            raise CubeError(f"{name}: ZNAXISn and ZTILEn describe {len(pixels)} tiles, the table {len(rows)}")
        start = int(number(header, "THEAP", 0)) or header["NAXIS1"] * header["NAXIS2"]
        heap = header["NAXIS1"] * header["NAXIS2"] + header["PCOUNT"] - start
        for column in (c for c in table.columns if c.name in _COLUMNS):
            match = _VARIABLE.match(column.format)
            if match is None:
                raise CubeError(f"{name}: the column {column.name} has the type {column.format}")
            sizes, places = (rows[column.name][:, k].astype(np.int64) for k in (0, 1))
            ends = places + sizes * _SIZES[match[2]]
            if (sizes < 0).any() or (places < 0).any() or (ends > heap).any() or start < 0:
                raise CubeError(f"{name}: a tile of the column {column.name} is not within the file")
            method = {"GZIP_COMPRESSED_DATA": "GZIP_1"}.get(column.name, text(header, "ZCMPTYPE"))
            if column.name != "UNCOMPRESSED_DATA" and method in ("GZIP_1", "GZIP_2", "HCOMPRESS_1"):
                begin = table.fileinfo()["datLoc"] + start
                for place, end, count in zip(places, ends, pixels, strict=True):
                    raw.seek(begin + int(place))
                    _check_content(raw.read(int(end - place)), method, int(count), name)


def _pixels(header: fits.Header, name: str, size: int) -> NDArray[np.int64]:
    """Return the number of pixels of each tile; `size` is that of the file."""
    axes = range(1, int(number(header, "ZNAXIS", 0)) + 1)
    lengths = [int(number(header, f"ZNAXIS{n}", 0)) for n in axes]
    tiles = [int(number(header, f"ZTILE{n}", lengths[0] if n == 1 else 1)) for n in axes]
    if not lengths or min(lengths) < 1 or min(tiles) < 1:
        raise CubeError(f"{name}: ZNAXISn are {lengths} and ZTILEn {tiles}")
    tiles = [min(pair) for pair in zip(tiles, lengths, strict=True)]
    if math.prod(tiles) > LARGEST_TILE:
        raise CubeError(f"{name}: its tiles have {math.prod(tiles)} pixels each: decompress it with funpack")
    needed, most = math.prod(lengths) * WIDEST, most_decompressed(size)
    count = math.prod(-(-length // tile) for length, tile in zip(lengths, tiles, strict=True))
    if needed > most or count > header["NAXIS2"]:
        raise CubeError(
            f"{name}: ZNAXISn describe {format_bytes(needed)} in {count} tiles, and the table has "
            f"{header['NAXIS2']}; {MOST_DECOMPRESSED} in the environment sets the limit, {format_bytes(most)}"
        )
    sides = [np.minimum(t, n - np.arange(0, n, t)) for n, t in zip(lengths, tiles, strict=True)]
    return reduce(np.multiply.outer, sides[::-1]).ravel()


def _check_content(tile: bytes, method: str, pixels: int, name: str) -> None:
    """Check that a tile does not expand to more than its pixels."""
    if method == "HCOMPRESS_1":
        if not tile:
            return
        _, rows, columns = _HCOMPRESS.unpack(tile[: _HCOMPRESS.size].ljust(_HCOMPRESS.size, b"\0"))
        if rows < 1 or columns < 1 or rows * columns != pixels:
            raise CubeError(f"{name}: a tile holds {rows} x {columns} pixels instead of {pixels}")
        return
    most = pixels * WIDEST
    if len(tile) * 1032 <= max(most, 1 << 24):  # no stream of zlib expands more
        return
    reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    if len(reader.decompress(tile, most)) == most and not reader.eof:
        raise CubeError(f"{name}: a tile has more than its {pixels} pixels after decompression")
