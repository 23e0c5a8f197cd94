"""Workers compute the blocks of a run, with the interface of `concurrent.futures`."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from dask.local import SynchronousExecutor

from lucidcube.errors import StageError


class WorkersLost(StageError):
    """There is nothing left that could compute blocks; the blocks that were finished are kept."""

    def __init__(self, cause: str) -> None:
        super().__init__("", "", cause)

    def __reduce__(self) -> Any:
        return type(self), (self.cause,)

    def __str__(self) -> str:
        return self.cause


class WorkersDied(RuntimeError):
    """Several workers died one after the other while they computed the same block; retrying is useless."""


class Record(NamedTuple):
    """What came of one block: its item, or the error with which it failed and the traceback as text."""

    block: int
    item: Any
    error: Exception | None = None
    traceback: str = ""


class Results(NamedTuple):
    """What a task returns: a record for each block of a batch that it came to, the others are left.

    `peak` is the peak resident memory of the process in bytes, or 0 if it need not be reported,
    `cpu_seconds` the CPU time of the thread, and `seconds` the time that the task took.
    """

    records: list[Record]
    peak: int = 0
    cpu_seconds: float = 0.0
    seconds: float = 0.0


@dataclass
class Workers:
    """Where blocks are computed: here in threads of this process, or in the calling thread.

    `DaskWorkers` computes them in other processes.
    """

    executor: Executor
    threads: int
    dashboard: str | None = None
    """Address of a page that shows the work, if there is one."""
    cold: bool = False
    """Whether the workers share compiled kernels and have none yet: one block of each kind comes first."""

    remote: ClassVar[bool] = False
    """Whether blocks are computed in other processes."""

    @property
    def window(self) -> int:
        """Number of blocks to keep submitted, so that no worker waits for work."""
        # A synchronous executor computes each block as it is submitted.
        return 1 if isinstance(self.executor, SynchronousExecutor) else self.threads + 1

    @property
    def batch_threads(self) -> int:
        """Number of threads among which batches of blocks are divided; 0 if each block is a task."""
        return 0

    def submit(
        self, name: str, block: int, function: Callable[..., Any], *arguments: Any, blocks: int = 1
    ) -> Future[Any]:
        """Submit the computation of one or several blocks.

        `name` and `block`, the number of the first, identify the task for people; `blocks` is their number.
        """
        return self.executor.submit(function, *arguments)

    def result(self, future: Future[Any]) -> Any:
        """Return the result of a finished future or raise its exception.

        It is WorkersDied if the block killed one worker after the other, and WorkersLost if nothing is left
        that could compute.
        """
        return future.result()

    def check(self) -> None:
        """Raise WorkersLost if there have been none for too long; called every few seconds during a run."""
