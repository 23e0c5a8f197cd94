"""Define the interface that receives the progress of a run, and the summary of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass
class Summary:
    """What a run did.

    Attributes
    ----------
    path
        The product.
    seconds
        Wall time.
    computed, reused, failed
        Number of blocks.
    nbytes
        Bytes written to checkpoints.
    product_bytes
        Size of the product; 0 if there is none.
    memory, worker_memory
        Peak resident memory in bytes of this process, and the largest of the worker processes.
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


class Monitor:
    """Receiver of the events of a run; this base class ignores them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release what the monitor holds."""

    def message(self, text: str) -> None:
        """Receive a message for the user."""

    def segment(self, label: str, blocks: int, reused: int) -> None:
        """Receive the start of a segment: its number of blocks, and the number of them that are reused."""

    def block(self, number: int) -> None:
        """Receive the number of a block that was finished."""

    def finished(self, summary: Summary) -> None:
        """Receive the summary at the end of the run, whether it succeeded or not."""
