"""The folder of checkpoints and rewritten inputs, in which only the user of a run can write."""

import os
from pathlib import Path

from lucidcube.errors import UserError
from lucidcube.io.work_files import own_folder


def own_work_folder(folder: Path) -> None:
    """Make a work folder, or check an existing one; UserError if it is a link or belongs to another user."""
    try:
        own_folder(folder)
    except OSError as error:
        raise UserError(
            f"cannot write checkpoints to {folder}: {error.strerror or error}; set checkpoints.dir"
        ) from error


def scratch_folder(folder: Path) -> Path:
    """Return the folder for rewritten inputs within a work folder, which is checked if it exists."""
    if os.path.lexists(folder):
        own_work_folder(folder)
    return folder / "scratch"
