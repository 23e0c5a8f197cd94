"""Identify the input of a track by the content of its file and the part of it that is read."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from lucidcube.config.track import Track
from lucidcube.io.atomic import write_atomically
from lucidcube.io.reader import file_identity

CACHE = "inputs.json"


def input_identity(track: Track, work: Path | None = None) -> dict[str, Any]:
    """Return the name, size and SHA-256 of a track's file, and how it is read; fingerprints start from it.

    Checksums are cached in the folder `work`. A file with the same path, size, inode and time of modification
    is not read again, because that takes as long as a stage for large cubes. A file that cannot be read
    raises CubeError.
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
    with suppress(OSError, ValueError, TypeError):
        cached = dict(json.loads((work / CACHE).read_text()))
    found = cached.get(key)
    if isinstance(found, list) and len(found) == 4 and found[:3] == state and isinstance(found[3], str):
        return now.st_size, found[3]
    size, digest = file_identity(file)
    with suppress(OSError):  # the cache only saves time
        write_atomically(work / CACHE, json.dumps({**cached, key: [*state, digest]}))
    return size, digest
