"""Temporary files of a product that killed runs left behind."""

import re
from pathlib import Path

from lucidcube.io.atomic import hidden_name


def part_files(path: Path) -> list[Path]:
    """Return the temporary files of a product; see `lucidcube.io.writer.reserve`.

    To whoever holds the lock of the product they are stale.
    """
    path = path.expanduser().absolute()
    named = re.compile(re.escape(f"{hidden_name(path)}.") + r"[0-9a-f]{12}\.part")
    if not path.parent.is_dir():
        return []
    return sorted(p for p in path.parent.iterdir() if named.fullmatch(p.name))


def remove_part_files(path: Path) -> None:
    """Remove the temporary files of a product whose lock the caller holds."""
    for part in part_files(path):
        part.unlink(missing_ok=True)
