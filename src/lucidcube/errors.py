"""The exceptions: mistakes of the user, and failures of stages."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple


class UserError(Exception):
    """A mistake that the user can correct: one line per problem is printed, with exit code 2.

    Each of the `problems`, at least one, says what is wrong, where, and what to type instead.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems: Sequence[str] = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class ConfigError(UserError):
    """The config file, an override or a command-line option is wrong."""


class CubeError(UserError):
    """A file or a cube does not have what is needed."""


class StageError(Exception):
    """A stage failed on some planes, such as ``"planes 3 to 5 (7.051e-07 to 7.053e-07 m)"``.

    `cause` describes the error, as text so that it can be sent between processes.
    """

    def __init__(self, stage: str, where: str, cause: str) -> None:
        super().__init__(stage, where, cause)
        self.stage, self.where, self.cause = stage, where, cause

    def __str__(self) -> str:
        return f"stage {self.stage} failed on {self.where}: {self.cause}"


class Failure(NamedTuple):
    """A block that failed in every attempt: the label of its segment, its number, and the last error."""

    label: str
    block: int
    error: StageError


class BlocksFailed(Exception):
    """Some blocks failed, at least one; all the others were computed."""

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


def closest(name: str, known: Iterable[str], *, files: bool = False) -> str | None:
    """Return the known name that is so similar that it was probably meant, or None.

    Case does not matter. Less similarity is enough if a name contains the other, if both begin with the same
    letter, or if they are names of `files`, of which what follows the first dot is left out.
    """

    def likeness(one: str, other: str) -> float:
        return SequenceMatcher(None, one.lower(), other.lower()).ratio()

    def stem(file: str) -> str:
        return (file.partition(".")[0] or file if files else file).lower()

    def near(other: str) -> bool:
        one, two = stem(name), stem(other)
        similar = likeness(one, two)
        if files or one in two or two in one:
            return similar > 0.65
        return similar > (0.68 if one[:1] == two[:1] else 0.8)

    return max(filter(near, known), key=lambda other: likeness(name, other), default=None)


def did_you_mean(name: str, known: Iterable[str], *, others: bool = True) -> str:
    """Return the end of a message about an unknown name: the closest known one, else all `others`."""
    known = list(known)
    near = closest(name, known)
    if near is not None:
        return f"; did you mean {near!r}?"
    return f"; there are: {', '.join(known)}" if others and known else ""


def printable(text: str) -> str:
    """Return a text with all control characters escaped: those that move the cursor or the order of letters.

    Surrogates, by which Python represents the bytes of odd file names, are escaped as well.
    """
    if text.isprintable():  # the pictures of a report have millions of letters
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return a text as `printable` does, with its line breaks kept."""
    return "\n".join(map(printable, text.split("\n")))
