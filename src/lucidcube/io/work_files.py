"""Folders that only the present user can change, and the small files in them, which are checked when read.

Whatever is read must be a regular file: links are not followed, and pipes, which would wait for a writer, are
not opened. JSON files contain a checksum of their own.
"""

import errno
import json
import logging
import os
import shutil
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from lucidcube.io.atomic import write_atomically
from lucidcube.io.limits import open_regular

LOG = logging.getLogger(__name__)

LARGEST = 16 << 20
"""Largest size of a JSON file in bytes; those of thousands of blocks and stages are far smaller."""
SUM = "crc32c"
"""Key of the checksum in a JSON file."""
DAMAGE = (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, RecursionError)
"""Exceptions for a file that is missing or not what it should be, as opposed to errors of the disk."""


def own_folder(path: Path) -> None:
    """Make a folder that only the present user can use, or check an existing one.

    An existing folder must belong to the present user and be no symbolic link, else OSError is raised, as it
    is for a folder of temporary files of all users. If other users can write in it, they are denied it,
    because they could put links into it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link", str(path))
    if found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "it belongs to another user", str(path))
    if found.st_mode & stat.S_ISVTX:
        raise OSError(errno.EPERM, "it is a folder for temporary files of all users", str(path))
    if found.st_mode & 0o022:
        LOG.warning("removed the permission of other users to write in %s", path)
        path.chmod(stat.S_IMODE(found.st_mode) & ~0o022)


def is_private(folder: Path) -> bool:
    """Return whether a path is a folder, not a link, that only the present user can read and write."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def read_regular(path: Path, largest: int = LARGEST) -> bytes:
    """Return the content of a regular file; ValueError if it is not one, or has more bytes than `largest`."""
    with open_regular(path, follow=False) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"{path} has more than {largest} bytes")
    return content


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; one of `DAMAGE` is raised if it cannot be read."""
    return json.loads(read_regular(path))


def write_checked(path: Path, contents: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write a JSON file that contains a checksum of its contents; see `write_atomically`."""
    plain = json.loads(json.dumps(contents, default=str))
    text = json.dumps({**plain, SUM: _sum(plain)}, indent=1)
    write_atomically(path, text, durable=durable)


def read_checked(path: Path) -> dict[str, Any]:
    """Return the contents that `write_checked` wrote; one of `DAMAGE` is raised if they are not the same."""
    contents = read_json(path)
    if not isinstance(contents, dict) or contents.pop(SUM, None) != _sum(contents):
        raise ValueError(f"{path} does not have its checksum")
    return contents


def check_files(folder: Path, folders: Collection[str] = ()) -> None:
    """Raise ValueError unless a folder consists of regular files and of real folders with these names."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise ValueError(f"{folder} is not a folder")
    with os.scandir(folder) as entries:
        for entry in entries:
            inside = entry.name in folders
            if not (entry.is_dir if inside else entry.is_file)(follow_symlinks=False):
                raise ValueError(f"{entry.path} is not a {'folder' if inside else 'regular file'}")


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with everything in it, if it exists; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checksum(content: bytes | memoryview | NDArray[np.uint8]) -> int:
    """Return the CRC-32C of bytes."""
    return int(google_crc32c.value(content))


def _sum(contents: Mapping[str, Any]) -> int:
    return checksum(json.dumps(contents, sort_keys=True).encode())
