"""Write the picture of `lucidcube view`, and open files with the programs of the desktop."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lucidcube.errors import UserError
from lucidcube.io.atomic import write_atomically
from lucidcube.io.output_path import INPUT, expanded, path_problems
from lucidcube.io.specifier import parse_specifier
from lucidcube.plotting.panels import columns_of, rows_of
from lucidcube.plotting.sheet import SIGNATURE, Scale, draw_sheet


class Chosen(NamedTuple):
    """What is drawn: white light, numbers and wavelengths of planes, and names of HDUs, as typed."""

    white: bool
    channels: Sequence[str]
    waves: Sequence[str]
    hdus: Sequence[str]


def write_view(
    cube: str,
    chosen: Chosen,
    output: Path | None,
    scale: Scale,
    *,
    overwrite: bool,
    message: Callable[[str], None],
) -> Path:
    """Write the picture and return its path; see `lucidcube.cli.file_commands.view`."""
    specifier = parse_specifier(cube)
    path = expanded(output or specifier.file.with_suffix(".png"))
    problems = path_problems(
        path, {specifier.file: INPUT}, overwrite or _is_picture_of_ours(path), "--overwrite"
    )
    if found := [*problems]:
        raise UserError(*found)
    wrong = [text for text in chosen.channels if not text.isdecimal()]
    if wrong:
        raise UserError(f"--channel {wrong[0]}: the number of a plane is a whole number from 0")
    columns, matrix = columns_of(specifier, chosen.hdus, message)
    rows = rows_of(columns[0].cube, chosen.white, [*map(int, chosen.channels)], chosen.waves)
    with np.errstate(over="ignore"):  # sums of numbers near the limit of float64
        panels = [(row.title, [column.panel(row, matrix) for column in columns]) for row in rows]
        picture = draw_sheet(specifier.file.name, panels, scale)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, picture)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def _is_picture_of_ours(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return SIGNATURE in file.read(4096)
    except OSError:
        return False


def why_not_open() -> str | None:
    """Return the reason why this session cannot open a file with a program of the desktop, or None."""
    program = _opener()
    if program != "open" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display to open it on"
    return None if shutil.which(program) else f"there is no {program} to open it with"


def open_with_desktop(path: Path) -> None:
    """Open a file with the program of the desktop for its kind; UserError if that is impossible."""
    if (reason := why_not_open()) is not None:
        raise UserError(f"{path} is written, but {reason}: leave out --open")
    # No shell reads the path, which is absolute and thus no option.
    command = [_opener(), str(path.absolute())]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def _opener() -> str:
    return "open" if sys.platform == "darwin" else "xdg-open"
