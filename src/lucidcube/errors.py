"""What can go wrong, by whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class UserError(Exception):
    """A mistake that the user can mend: shown as one line per problem, exit code 2.

    Parameters
    ----------
    problems
        One sentence, or several: what is wrong, where, and what to type instead.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems: Sequence[str] = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class ConfigError(UserError):
    """The config file, an override or a command-line option is wrong."""


class CubeError(UserError):
    """A file or a cube is not what the work needs."""


class StageError(Exception):
    """A stage failed on some planes; carries which, so that the report can say it.

    Parameters
    ----------
    stage
        Name of the stage.
    where
        The planes, in words: ``"planes 3 to 5 (7.051e-07 to 7.053e-07 m)"``.
    cause
        The error, in words (kept as text so that it travels between processes).
    """

    def __init__(self, stage: str, where: str, cause: str) -> None:
        super().__init__(stage, where, cause)
        self.stage, self.where, self.cause = stage, where, cause

    def __str__(self) -> str:
        return f"stage {self.stage} failed on {self.where}: {self.cause}"


class Failure(NamedTuple):
    """A block that failed in every attempt.

    Attributes
    ----------
    label
        Label of the segment.
    block
        Number of the block.
    error
        What went wrong: stage, planes, cause.
    """

    label: str
    block: int
    error: StageError


class BlocksFailed(Exception):
    """Some blocks failed; all the others were computed.

    Parameters
    ----------
    failures
        At least one.
    """

    listed = 20
    """Number of failures that the message lists."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(failures)
        self.failures = tuple(failures)

    def __str__(self) -> str:
        lines = [str(f.error) for f in self.failures[: self.listed]]
        if len(self.failures) > self.listed:
            lines.append(f"and {len(self.failures) - self.listed} more blocks")
        return "\n".join(lines)
