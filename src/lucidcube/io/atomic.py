"""Write files that appear under their names only when they are complete."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | Path, content: str | bytes | memoryview, *, durable: bool = False) -> None:
    """Write a small file atomically: readers see either the old content or the new one.

    The folder must exist, and a symbolic link is replaced and not followed; text is written as UTF-8. With
    `durable` the file also survives a crash of the machine, which costs two calls of fsync. If it cannot be
    written, OSError is raised, nothing is left behind, and an older file stays as it was.
    """
    with atomic_file(path, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: str | Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a new binary file that gets its name when the block ends, or is removed if the block fails."""
    part = part_path(path)
    try:
        with open(part, "x+b") as file:  # "x" refuses existing files and symbolic links
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
        if durable:
            sync_folder(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def part_path(path: str | Path, digits: int = 32) -> Path:
    """Return an unused name for a temporary file in the folder of `path`."""
    path = Path(path)
    return path.with_name(f"{hidden_name(path)}.{uuid.uuid4().hex[:digits]}.part")


def hidden_name(path: Path) -> str:
    """Return the beginning of the names of hidden files beside a file; most names have at most 255 bytes."""
    return f".{os.fsencode(path.name)[:200].decode(errors='ignore')}"


def sync_folder(path: str | Path) -> None:
    """Flush the folder of a file to disk, so that the name of the file survives a crash.

    Nothing is done on file systems that cannot flush folders.
    """
    folder = os.open(Path(path).parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)
