"""Blocks that failed, although each was tried twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lucidcube.errors import StageError

MENTIONED = 20
"""Failures named in a message."""


class Failure(NamedTuple):
    """A block that failed, as often as it was tried.

    Attributes
    ----------
    label
        Of the segment.
    block
        Its number.
    error
        What went wrong: stage, planes, cause.
    """

    label: str
    block: int
    error: StageError


class BlocksFailed(Exception):
    """Some blocks failed, all others were done.

    Parameters
    ----------
    failures
        At least one.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(failures)
        self.failures = tuple(failures)

    def __str__(self) -> str:
        lines = [str(f.error) for f in self.failures[:MENTIONED]]
        if len(self.failures) > MENTIONED:
            lines.append(f"and {len(self.failures) - MENTIONED} more blocks")
        return "\n".join(lines)
