"""Define the interface that receives the progress of a run, and the summary of a run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass
class Work:
    """Time that a part of a run took: the stages of a segment, or writing the product.

    `cpu_seconds` is the time of the threads that computed its blocks, also in other processes; `nbytes` were
    written.
    """

    label: str
    blocks: int
    computed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    nbytes: int = 0


@dataclass
class Summary:
    """What a run did: the path of its product, the wall time, and how many blocks were computed or reused.

    `parts` are the segments in the order of computation, and the product. `nbytes` were written to
    checkpoints and `product_bytes` to the product. `memory` and `worker_memory` are the peak resident memory
    in bytes of this process, and the largest of the worker processes. `warnings` say why the result may not
    be trusted.
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
    warnings: list[str] = field(default_factory=list)
    parts: list[Work] = field(default_factory=list)


class Monitor:
    """Receiver of the events of a run; this base class ignores them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Release what the monitor holds."""

    def starts(self, product: Path) -> None:
        """Receive the path of the product, after the checks and before anything is computed."""

    def message(self, text: str) -> None:
        """Receive a message for the user."""

    def segment(self, label: str, blocks: int, reused: int) -> None:
        """Receive the start of a segment: its number of blocks, and the number of them that are reused."""

    def block(self, number: int) -> None:
        """Receive the number of a block that was finished."""

    def finished(self, summary: Summary) -> None:
        """Receive the summary at the end of the run, whether it succeeded or not."""
