"""Identify the input of a track by the content of its file and the part of it that is read."""

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from lucidcube.config.track import Track
from lucidcube.io.reader import file_identity
from lucidcube.io.work_files import DAMAGE, read_checked, write_checked

CACHE = "inputs.json"
SHA256 = re.compile("[0-9a-f]{64}")


def input_identity(track: Track, work: Path | None = None) -> dict[str, Any]:
    """Return the name, size and SHA-256 of a track's file, and how it is read; fingerprints start from it.

    Checksums are cached in the folder `work`, in a file with a checksum of its own. An input with the same
    path, size, inode and time of modification is not read again, because that takes as long as a stage for
    large cubes. An input that cannot be read raises CubeError.
    """
    specifier = track.specifier()
    size, digest = _checksum(specifier.file, work)
    reading = track.model_dump(mode="json", exclude={"stages", "input"}, exclude_none=True)
    part = hashlib.sha256(str(specifier).removeprefix(specifier.path).encode()).hexdigest()[:16]
    return {"file": specifier.file.name, "size": size, "sha256": digest, "part": part, **reading}


def _checksum(file: Path, work: Path | None) -> tuple[int, str]:
    if work is None or not work.is_dir() or not file.exists():
        return file_identity(file)
    now = file.stat()
    key, state = str(file.resolve()), [now.st_size, now.st_mtime_ns, now.st_ino]
    cached: dict[str, Any] = {}
    with suppress(OSError, *DAMAGE):
        cached = read_checked(work / CACHE)
    match cached.get(key):
        case [*known, str(digest)] if known == state and SHA256.fullmatch(digest):
            return now.st_size, digest
    size, digest = file_identity(file)
    with suppress(OSError):  # the cache only saves time
        write_checked(work / CACHE, {**cached, key: [*state, digest]})
    return size, digest
