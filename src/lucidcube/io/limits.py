"""Limits on what is read of files that are not trusted, and the kinds of files that are read at all."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dask.utils import parse_bytes

from lucidcube.errors import ConfigError, CubeError, closest

MOST_CARDS = "LUCIDCUBE_MOST_CARDS"
"""Environment variable: the number of cards that a header may have; 14 400 by default."""
MOST_DECOMPRESSED = "LUCIDCUBE_MOST_DECOMPRESSED"
"""Environment variable: the size that a file may have after decompression, such as ``200GB``.

By default 1 GiB, or fifty times the compressed size if that is more.
"""
RATIO = 50
"""Default limit of the decompressed size, as a multiple of the compressed one."""

_KINDS: dict[str, Callable[[int], bool]] = {
    "a folder": stat.S_ISDIR,
    "a pipe": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a symbolic link": stat.S_ISLNK,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
}


class NotRegular(OSError, ValueError):
    """What is there is no regular file, but for instance a folder, a pipe or a device."""


def open_regular(path: str | Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading; symbolic links are followed only if `follow`.

    NotRegular is raised, without waiting, for a pipe, a device or anything else.
    """
    _check_kind(os.stat(path, follow_symlinks=follow).st_mode)  # opening a device can already change it
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_kind(os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def check_readable(path: Path, name: str) -> None:
    """Raise CubeError if a file cannot be read; `name` is its name for messages."""
    try:
        open_regular(path).close()
    except FileNotFoundError:
        folder = path.parent
        if not folder.is_dir():
            raise CubeError(f"no folder {folder}") from None
        names = [other.name for other in folder.iterdir()]
        near = closest(path.name, names, files=True)
        where = (
            f"did you mean {Path(name).parent / near}?"
            if near
            else f"the folder {folder.resolve()} has {len(names)} files"
        )
        raise CubeError(f"there is no file {name}; {where}") from None
    except OSError as error:
        if os.path.isdir(path):  # which Path.is_dir answers with an error for a name that is too long
            raise CubeError(
                f"{name} is a folder and no FITS file; see lucidcube convert for zarr stores"
            ) from None
        if isinstance(error, NotRegular) and stat.S_ISFIFO(os.stat(path).st_mode):
            raise CubeError(
                f"{name} is a pipe, which cannot be read twice; write it to a file first"
            ) from None
        raise CubeError(f"{name} cannot be read: {error.strerror or error}") from None


def _check_kind(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for name, test in _KINDS.items() if test(mode)), "something else")
        raise NotRegular(f"it is {kind} and no regular file")


def most_cards() -> int:
    """Return the largest number of cards of a header."""
    return _limit(MOST_CARDS, int, 14_400)


def most_decompressed(size: int) -> int:
    """Return the largest size in bytes that a file of `size` bytes may have after decompression."""
    return _limit(MOST_DECOMPRESSED, parse_bytes, max(1 << 30, RATIO * size))


def _limit(name: str, parse: Callable[[str], int], default: int) -> int:
    given = os.environ.get(name)
    try:
        value = parse(given) if given else default
    except ValueError:
        value = 0
    if value < 1:
        raise ConfigError(f"{name}={given!r} in the environment is not a positive number")
    return value
