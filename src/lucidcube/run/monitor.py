"""What is told about a run: while it goes on, and in the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass
class Done:
    """What a run did.

    Attributes
    ----------
    path
        The product.
    seconds
        Wall time.
    computed, reused, failed
        Blocks.
    nbytes
        Bytes written to checkpoints.
    product_bytes
        Size of the product; 0 if there is none.
    memory, worker_memory
        Largest resident memory of this process, and of any other that computed blocks, in bytes.
    """

    path: Path
    seconds: float = 0.0
    computed: int = 0
    reused: int = 0
    failed: int = 0
    nbytes: int = 0
    product_bytes: int = 0
    memory: int = 0
    worker_memory: int = 0


class Watch:
    """Told what happens during a run; this one keeps quiet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put away."""

    def message(self, text: str) -> None:
        """Something that the user should know."""

    def segment(self, label: str, blocks: int, reused: int) -> None:
        """A segment begins: so many blocks, of which so many are there already."""

    def block(self, number: int) -> None:
        """Block of this number was done."""

    def finished(self, done: Done) -> None:
        """The run is over, well or badly."""
