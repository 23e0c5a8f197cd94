"""Executors: what computes the blocks of a segment, a few at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import dask
import dask.array as da
from dask.utils import format_bytes
from distributed import Client
from distributed.scheduler import KilledWorker

from lucidcube.cluster.grants import cores
from lucidcube.errors import StageError

LOOK = 5.0
"""Seconds between looks at workers that are waited for."""


class WorkerLost(StageError):
    """What computed the blocks is gone; what was done is kept.

    Parameters
    ----------
    block
        Number of the block that was being computed, if it was one block's fault.
    cause
        In words.
    """

    def __init__(self, block: int | None, cause: str) -> None:
        super().__init__("", "" if block is None else f"block {block}", cause)
        self.block = block

    def __str__(self) -> str:
        return f"{self.where}: {self.cause}" if self.where else self.cause


class Executor(Protocol):
    """Computes the items of a one-dimensional lazy array of one item per block."""

    @property
    def workers(self) -> int:
        """How many blocks are computed at a time."""
        ...

    @property
    def dashboard(self) -> str | None:
        """Address of a page that shows the work, if there is one."""
        ...

    def compute(self, work: da.Array, blocks: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Compute these blocks, a few at a time; yields (block, item) as they are done."""
        ...


@dataclass
class Threads:
    """Blocks on threads of this process, one per thread, each computed from start to end by its own."""

    workers: int = field(default_factory=cores)
    dashboard: str | None = None

    def compute(self, work: da.Array, blocks: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Compute these blocks; see `Executor`."""
        if self.workers == 1:
            for block in blocks:
                yield block, _compute(work, block)
            return
        waiting, running = list(reversed(blocks)), dict[Future[Any], int]()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="block") as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < self.workers + 1:
                        block = waiting.pop()
                        running[pool.submit(_compute, work, block)] = block
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield running.pop(future), future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Distributed:
    """Blocks on the workers of a dask cluster, never many more at a time than there are workers.

    Attributes
    ----------
    client
        Connected to the cluster.
    memory
        Limit of each worker in bytes, if it has one.
    patience
        Seconds without any worker after which the work is given up; those that are lost may be replaced.
    reason
        Says why there is none.
    tend
        Looks after the workers, every few seconds while there is work.
    """

    client: Client
    memory: int | None = None
    patience: float = 300.0
    reason: Callable[[], str] = lambda: "they ended and did not come back"
    tend: Callable[[], None] = lambda: None
    _lonely: float | None = field(default=None, init=False)

    @property
    def workers(self) -> int:
        """Threads of all workers now."""
        return max(1, self._threads())

    def _threads(self) -> int:
        try:
            return sum(self.client.nthreads().values())
        except OSError as error:
            raise WorkerLost(None, f"the dask scheduler is gone: {error}") from error

    @property
    def dashboard(self) -> str | None:
        """Address of dask's own page, if bokeh is there to draw it."""
        if find_spec("bokeh") is None:
            return None
        try:
            return self.client.dashboard_link or None
        except KeyError:
            return None  # the scheduler was started without one

    def compute(self, work: da.Array, blocks: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Compute these blocks; see `Executor`.

        Raises
        ------
        WorkerLost
            If the workers that computed a block died one after the other, or all are gone.
        """
        waiting, running = list(reversed(blocks)), dict[Any, tuple[int, Any]]()
        finished: SimpleQueue[Any] = SimpleQueue()
        tended = -LOOK

        def submit() -> None:
            nonlocal tended
            if time.monotonic() - tended >= LOOK:
                self.tend()
                tended = time.monotonic()
            room = 2 * self.workers - len(running)
            while waiting and room > 0:
                block, room = waiting.pop(), room - 1
                future = self.client.compute(work.blocks[block], optimize_graph=True)
                running[future.key] = block, future
                future.add_done_callback(finished.put)

        try:
            submit()
            while running:
                block, future = running.pop(self._next(finished).key)
                item = self._result(block, future)
                future.release()
                self._lonely = None
                yield block, item
                submit()
        finally:
            for _, future in running.values():
                future.release()

    def _result(self, block: int, future: Any) -> Any:
        while True:
            try:
                return future.result(timeout=LOOK)[0]
            except TimeoutError:
                if future.status == "error":
                    raise  # the block's own
                # What a worker held was lost with it, and is being computed again.
                self._look_after()
            except KilledWorker as error:
                limit = f"{format_bytes(self.memory)} of memory each" if self.memory else "no limit of memory"
                raise WorkerLost(
                    block,
                    f"{error.allowed_failures + 1} workers died on it, one after the other, with {limit}: "
                    "give them more memory, or fewer threads each",
                ) from error
            except CancelledError as error:
                raise WorkerLost(None, "the dask scheduler is gone") from error

    def _next(self, finished: SimpleQueue[Any]) -> Any:
        """The next future that is done."""
        while True:
            try:
                return finished.get(timeout=LOOK)
            except Empty:
                self._look_after()

    def _look_after(self) -> None:
        """Tend the workers; give up when there has been none for too long."""
        there, now = bool(self._threads()), time.monotonic()
        self.tend()
        self._lonely = None if there else self._lonely or now
        if self._lonely is not None and now - self._lonely > self.patience:
            raise WorkerLost(None, f"no workers left: {self.reason()}")


def _compute(work: da.Array, block: int) -> Any:
    (item,) = dask.compute(work.blocks[block], scheduler="synchronous")
    return item[0]
