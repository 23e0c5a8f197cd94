"""Check a zarr store that may have come from somebody else, before it is opened."""

import os
import stat
from pathlib import Path
from typing import Any

from lucidcube.errors import CubeError
from lucidcube.io.work_files import DAMAGE, read_json

ARRAY = ".zarray"
"""Name of the document of an array of zarr format 2."""
CODECS = frozenset(
    ("adler32", "astype", "bitround", "blosc", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset",
     "fletcher32", "gzip", "lz4", "lzma", "packbits", "quantize", "shuffle", "vlen-utf8", "zlib", "zstd")
)  # fmt: skip
"""Codecs of numcodecs that only compute. Others, such as pickle, can run code when a chunk is read."""


def check_store(store: Path) -> None:
    """Raise CubeError if a store has anything but regular files and folders, or codecs that can run code.

    The codecs of zarr format 3 that zarr itself has only compute. Links are not followed, because they may
    lead to a device.
    """
    for folder, folders, files in os.walk(store):
        for path in (Path(folder, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise CubeError(f"{path} is neither a regular file nor a folder: copy the store without it")
            if path.name.lower() == ARRAY and (wrong := sorted(_codecs(path) - CODECS)):
                raise CubeError(f"{path}: the codec {wrong[0]!r} is not read, because it could run code")


def _codecs(path: Path) -> set[str]:
    """Return the names of the codecs of an array."""
    try:
        document: Any = read_json(path)
        given = [document.get("compressor"), *(document.get("filters") or ())]
        return {str(codec["id"]) for codec in given if codec is not None}
    except (*DAMAGE, OSError, AttributeError, KeyError, TypeError) as error:
        raise CubeError(f"{path} does not describe an array of zarr: {error}") from error
