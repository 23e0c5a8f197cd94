"""What lies in a work folder: checkpoints that serve, checkpoints that no longer do, and litter."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lucidcube.errors import UserError
from lucidcube.run.checkpoint import MADE_OF, NAME, STORE, VOUCHED, Checkpoint
from lucidcube.run.lock import locked

LITTER = (
    re.compile(r"\.\d{6,}\.[0-9a-f]{32}"),
    re.compile(r"\.c(\.\d+)+\.[0-9a-f]{32}"),
    re.compile(re.escape(f".{MADE_OF}.") + "[0-9a-f]{32}"),
    re.compile(r".+\.[0-9a-f]{32}\.(partial|part)"),
)
"""Names of temporary files that a killed run leaves: of vouches, of chunks, of scratch files."""


@dataclass(frozen=True)
class Entry:
    """A checkpoint found.

    Attributes
    ----------
    path
        Its folder.
    track, stage
        What it keeps: the product of this stage.
    nbytes
        Its size on disk.
    age
        Seconds since its last block was written.
    blocks, missing
        How many it is made for, and how many of them are not there.
    current
        Whether the config uses it; None if there is no config to tell.
    """

    path: Path
    track: str
    stage: str
    nbytes: int
    age: float
    blocks: int
    missing: int
    current: bool | None


def find(work: Path, current: Collection[str] | None = None) -> list[Entry]:
    """List the checkpoints in a work folder, oldest first.

    A checkpoint is a folder (no link) with a checkpoint's name that holds what the name was made of; nothing
    else is ever listed.

    Parameters
    ----------
    work
        The folder.
    current
        Names of those that a config uses; None if there is no config.
    """
    entries = []
    for path in sorted(work.iterdir()) if work.is_dir() else []:
        name = NAME.fullmatch(path.name)
        if name is None or path.is_symlink() or not (path / MADE_OF).is_file():
            continue
        blocks, missing = _blocks(path)
        entries.append(
            Entry(
                path,
                name["track"],
                name["stage"],
                Checkpoint(path).nbytes(),
                time.time() - max(p.stat().st_mtime for p in (path / MADE_OF, path / VOUCHED) if p.exists()),
                blocks,
                missing,
                None if current is None else path.name in current,
            )
        )
    return sorted(entries, key=lambda e: -e.age)


def litter(work: Path) -> list[Path]:
    """Temporary files that killed runs left in the checkpoints and the scratch folder."""
    return [p for p in _files(work) if any(name.fullmatch(p.name) for name in LITTER)]


def remove(work: Path, entries: Sequence[Entry], files: Sequence[Path]) -> None:
    """Remove checkpoints and files.

    Raises
    ------
    UserError
        If a run is at work in the folder, or something cannot be removed.
    """
    with locked(work):
        try:
            for entry in entries:
                # What makes it a checkpoint goes last, and nothing goes that is not of one.
                for part in (STORE, VOUCHED):
                    if (entry.path / part).exists():
                        shutil.rmtree(entry.path / part)
                (entry.path / MADE_OF).unlink()
                if not any(entry.path.iterdir()):
                    entry.path.rmdir()
            for file in files:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{error.filename} cannot be removed: {error.strerror}") from error


def _blocks(path: Path) -> tuple[int, int]:
    """How many blocks there should be, and how many are not there; damage is not looked for."""
    checkpoint = Checkpoint(path)
    try:
        return len(checkpoint.starts), len(checkpoint.missing(thorough=False))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return 0, 0


def _files(work: Path) -> Iterator[Path]:
    folders = (
        [p for p in work.iterdir() if NAME.fullmatch(p.name) or p.name == "scratch"] if work.is_dir() else []
    )
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink():
            yield from (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
