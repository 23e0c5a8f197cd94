"""What a track reads: the content of its file, and the part of it. Fingerprints begin with this."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from lucidcube.config.schema import Track
from lucidcube.io.reader import file_identity

REMEMBERED = "inputs.json"


def identity(track: Track, work: Path | None = None) -> dict[str, Any]:
    """Name, size and SHA-256 of a track's file, and how it is read.

    Parameters
    ----------
    track
        Whose input.
    work
        Folder in which hashes are remembered: a file of the same path, size and time of change need not be
        read again, which for large cubes takes as long as a stage.

    Returns
    -------
    dict
        Plain data.

    Raises
    ------
    CubeError
        If the file cannot be read.
    """
    specifier = track.specifier()
    size, digest = _hashed(specifier.file, work)
    reading = track.model_dump(mode="json", exclude={"stages", "input"}, exclude_none=True)
    part = hashlib.sha256(str(specifier).removeprefix(specifier.path).encode()).hexdigest()[:16]
    return {"file": specifier.file.name, "size": size, "sha256": digest, "part": part, **reading}


def _hashed(file: Path, work: Path | None) -> tuple[int, str]:
    if work is None or not work.is_dir() or not file.exists():
        return file_identity(file)
    now = file.stat()
    key, state = str(file.resolve()), [now.st_size, now.st_mtime_ns, now.st_ino]
    known = _known(work / REMEMBERED)
    found = known.get(key)
    if isinstance(found, list) and len(found) == 4 and found[:3] == state and isinstance(found[3], str):
        return now.st_size, found[3]
    size, digest = file_identity(file)
    part = work / f".{REMEMBERED}.{os.getpid()}"
    part.write_text(json.dumps({**known, key: [*state, digest]}))
    part.replace(work / REMEMBERED)
    return size, digest


def _known(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
