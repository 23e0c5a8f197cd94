"""List and remove the contents of a work folder: checkpoints and stale temporary files."""

import re
import time
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lucidcube.errors import UserError
from lucidcube.io.work_files import is_private
from lucidcube.io.work_files import remove as remove_path
from lucidcube.runner.checkpoint import CHECKSUMS, COMPLETE, NAME, STORE, Checkpoint
from lucidcube.runner.input_checksum import CACHE
from lucidcube.runner.lock import LOCK, locked, product_locked
from lucidcube.runner.part_files import part_files

PREVIEW = "preview"
"""Folder of the checkpoints of previews, in the work folder of a run."""
OF_CHUNKS = re.compile(r".+\.[0-9a-f]{32}\.partial")
OF_FILES = re.compile(r"\..+\.[0-9a-f]{32}\.part")
"""The names of temporary files that a killed run leaves behind: of zarr's chunks, and of our own files."""
OF_KEYS = re.compile(r"tls-[a-z0-9_]{8}")
"""The names of folders with keys, see `lucidcube.cluster.credentials.for_jobs`."""


@dataclass(frozen=True)
class Entry:
    """A checkpoint in a work folder: `stage` is the last one of its segment, `nbytes` its size on disk.

    Its `age` is the number of seconds since its last block was written, and it is `current` if the config
    uses it (None if no config was given).
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
    """List the checkpoints in a work folder, with those of previews, oldest first.

    `current` names those that a config uses.

    Only folders (not links) with the name of a checkpoint and a ``checkpoint.json`` are listed.
    """
    entries = []
    folders = [work, *([work / PREVIEW] if not (work / PREVIEW).is_symlink() else [])]
    for path in sorted(chain(*(f.iterdir() for f in folders if f.is_dir()))):
        name = NAME.fullmatch(path.name)
        if name is None or path.is_symlink() or not (path / COMPLETE).is_file():
            continue
        written = max(p.stat().st_mtime for p in (path / COMPLETE, path / CHECKSUMS) if p.exists())
        age, used = time.time() - written, None if current is None else path.name in current
        size = Checkpoint(path).nbytes()
        entries.append(Entry(path, name["track"], name["stage"], size, age, *_blocks(path), used))
    return sorted(entries, key=lambda e: -e.age)


def stale_files(work: Path) -> list[Path]:
    """Return the temporary files, and the folders with keys, that killed runs left in a work folder.

    The list is empty if the folder is no work folder. Keys are listed if no run uses the folder.
    """
    return _stale_files(work) if any((work / name).is_file() for name in (LOCK, CACHE)) else []


def stale_part_files(product: Path) -> list[Path]:
    """Return the temporary files of a product that no run writes."""
    parts = part_files(product)
    return parts if parts and _is_free(product_locked(product)) else []


def _stale_files(work: Path) -> list[Path]:
    folders = [p for p in work.iterdir() if p.is_dir() and not p.is_symlink()]
    found = [p for p in work.iterdir() if OF_FILES.fullmatch(p.name)]
    for folder in folders:
        checkpoint = NAME.fullmatch(folder.name)
        if checkpoint or folder.name == "scratch":
            names = (OF_CHUNKS, OF_FILES) if checkpoint else (OF_FILES,)
            found += [p for p in folder.rglob("*") if any(name.fullmatch(p.name) for name in names)]
    found = [p for p in found if p.is_file() and not p.is_symlink()]
    keys = [p for p in folders if OF_KEYS.fullmatch(p.name) and is_private(p)]
    found += keys if keys and _is_free(locked(work)) else []
    previews = work / PREVIEW
    return found + (_stale_files(previews) if previews in folders else [])


def remove(work: Path, entries: Sequence[Entry], files: Sequence[Path], product: Path | None = None) -> None:
    """Remove checkpoints and files, among them temporary files of a product.

    UserError is raised if a run uses the folder or the product, or if something cannot be removed.
    """
    with ExitStack() as locks:
        locks.enter_context(locked(work))
        if product is not None and product.parent.is_dir():
            locks.enter_context(product_locked(product))
        if (work / PREVIEW).is_dir():
            locks.enter_context(locked(work / PREVIEW))  # previews lock their own folder only
        try:
            for file in files:
                remove_path(file)
            for entry in entries:
                # checkpoint.json is removed last; other files than those of checkpoints are kept.
                for part in (STORE, CHECKSUMS, COMPLETE):
                    remove_path(entry.path / part)
                if not any(entry.path.iterdir()):
                    entry.path.rmdir()
        except OSError as error:
            raise UserError(f"{error.filename} cannot be removed: {error.strerror}") from error


def _is_free(lock: AbstractContextManager[None]) -> bool:
    """Return whether a lock can be taken; a run that starts meanwhile waits for it."""
    try:
        with lock:
            return True
    except UserError:
        return False


def _blocks(path: Path) -> tuple[int, int]:
    """Return the number of blocks and of missing blocks, without verifying checksums."""
    checkpoint = Checkpoint(path)
    try:
        return checkpoint.blocks, len(checkpoint.missing(verify=False))
    except UserError:
        return 0, 0
