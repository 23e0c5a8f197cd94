"""Temporary files of products: those that a killed run left behind are told from those that are in use."""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lucidcube.io.atomic import hidden_name


@contextmanager
def marked_in_use(part: str | Path) -> Iterator[None]:
    """Lock a temporary file while it is written, so that no other run takes it for a stale one.

    The operating system releases the lock when the process ends, however it ends.
    """
    with open(part, "r+b") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def stale_parts(path: Path) -> list[Path]:
    """Return the temporary files of a product that no run writes; see `lucidcube.io.writer.reserve`."""
    path = path.expanduser().absolute()
    named = re.compile(re.escape(f"{hidden_name(path)}.") + r"[0-9a-f]{12}\.part")
    if not path.parent.is_dir():
        return []
    return sorted(p for p in path.parent.iterdir() if named.fullmatch(p.name) and not _in_use(p))


def remove_stale_parts(path: Path) -> None:
    """Remove the temporary files of a product that killed runs left behind."""
    for part in stale_parts(path):
        part.unlink(missing_ok=True)


def _in_use(part: Path) -> bool:
    """Return whether another process has locked the file, or it is impossible to tell."""
    try:
        with part.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
