"""Small files are written in one step."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.partial")
"""The names of temporary files; one stays behind if its process is killed."""


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that it is there as a whole or not at all.

    Parameters
    ----------
    path
        The file; one that exists is replaced.
    content
        The bytes.

    Raises
    ------
    OSError
        If it cannot be written; then nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
