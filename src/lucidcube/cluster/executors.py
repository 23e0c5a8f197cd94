"""Executors: what computes the blocks of a segment, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

import dask
import dask.array as da
from dask.optimization import cull

from lucidcube.cluster.resources import cores
from lucidcube.errors import StageError


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


def _compute(work: da.Array, block: int) -> Any:
    part = work.blocks[block]
    (key,) = part.__dask_keys__()
    # dask.compute would take three times as long, to look for what could be made better in a single task.
    graph, _ = cull(dict(part.__dask_graph__()), [key])
    return dask.get(graph, key)[0]
