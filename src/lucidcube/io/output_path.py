"""Check where a file is to be written, before anything is computed."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lucidcube.errors import UserError
from lucidcube.io.headers import is_product

INPUT = "one of the inputs"
"""What a message calls a file with pixels that are read."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~user`` expanded; UserError is raised if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}") from None


def path_problems(path: Path, reads: Mapping[Path, str], overwrite: bool, hint: str) -> Iterator[str]:
    """Yield a line for each reason why a file cannot be written to a path.

    Only regular files are replaced, also where the path is a link. None of the files in `reads`, with what a
    message calls them, is replaced. Any other file may be replaced if `overwrite`, and products always;
    `hint` is the option that allows it, for the message.
    """
    try:
        there = path.exists()
        kind = path.stat().st_mode if there else 0
    except (OSError, ValueError) as error:
        yield f"{path} cannot be used: {getattr(error, 'strerror', None) or error}"
        return
    if read := [*files_replaced(path, reads)]:
        yield from (f"{problem}; give another name" for problem in read)
    elif stat.S_ISDIR(kind):
        yield f"{path} is a folder; give the name of a file in it"
    elif there and not stat.S_ISREG(kind):
        yield f"{path} is not a regular file; give another name"
    elif there and not may_replace(path, overwrite):
        yield f"{path} exists and was not made by lucidcube; give another name, or {hint}"
    for folder in path.parents:
        if folder.exists():
            if not folder.is_dir():
                yield f"{folder} is a file, not a folder"
            elif not os.access(folder, os.W_OK):
                yield f"there is no permission to write in {folder}"
            break


def new_file_problems(
    path: Path, reads: Mapping[Path, str], overwrite: bool, hint: str = ""
) -> Iterator[str]:
    """Yield what `path_problems` does, and a line if the file exists and may not be replaced.

    The `hint` is empty where nothing allows it.
    """
    found = [*path_problems(path, reads, True, hint)]
    yield from found
    if not found and path.exists() and not overwrite:
        yield f"{path} exists; give another name" + (f", or {hint}" if hint else "")


def files_replaced(path: Path, reads: Mapping[Path, str]) -> Iterator[str]:
    """Yield a line for each of the files in `reads` that is the same file as `path`, also through links."""
    for what in {what: None for file, what in reads.items() if _same(path, file)}:
        yield f"{path} is {what}"


def may_replace(path: Path, overwrite: bool) -> bool:
    """Return whether a file may be replaced: any file if `overwrite`, else only products of lucidcube."""
    return overwrite or is_product(path)


def files_in(values: Any, what: str) -> dict[Path, str]:
    """Return the files that are named anywhere in plain data, such as the parameters of a stage."""
    if isinstance(values, Mapping):
        values = [*values.values()]
    if isinstance(values, (list, tuple)):
        return {file: what for value in values for file in files_in(value, what)}
    if isinstance(values, str) and os.path.isfile(os.path.expanduser(values)):
        return {Path(values): what}
    return {}


def _same(path: Path, other: Path) -> bool:
    try:
        return path.absolute() == other.expanduser().absolute() or path.samefile(other.expanduser())
    except (OSError, ValueError, RuntimeError):  # one of them does not exist
        return False
