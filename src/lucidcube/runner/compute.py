"""Compute blocks with a `concurrent.futures.Executor`: a bounded window, one retry, a stop flag.

A block is one task, which computes the block from the first stage of a segment to the last in one worker, so
that a cluster does not store or transfer intermediate results.
"""

import logging
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import dask
import dask.array as da
from dask.optimization import cull

from lucidcube.cluster import Workers, WorkersDied, WorkersLost
from lucidcube.errors import BlocksFailed, Failure, StageError, UserError
from lucidcube.runner.engines import Engines
from lucidcube.runner.monitor import Monitor, Summary, Work
from lucidcube.runner.signals import Stop

LOG = logging.getLogger(__name__)

ATTEMPTS = 2
"""Number of times that a block is computed before it counts as failed."""
AUTO = Engines()
CHECK_INTERVAL = 5.0
"""Seconds between checks of the workers."""


class BlockGraph:
    """The part of a graph that one block needs, as an opaque object that dask does not traverse."""

    def __init__(self, graph: dict[Any, Any], key: tuple[str, int]) -> None:
        self.graph, self.key = graph, key


class SegmentGraph:
    """The graph of a lazy array of one item per block, which is materialised once and culled for each block.

    Indexing the array with dask would traverse the graph of all blocks for each of them.
    """

    def __init__(self, work: da.Array) -> None:
        # No optimisation: the tasks of a block run one after another in one thread, so fusing has no benefit.
        self._name, self._graph = work.name, dict(work.__dask_graph__())

    def block(self, number: int) -> BlockGraph:
        """Return the part of the graph that one block needs."""
        key = (self._name, number)
        graph, _ = cull(self._graph, [key])
        return BlockGraph(dict(graph), key)


def compute_block(block: BlockGraph, engines: Engines, report_memory: bool) -> tuple[Any, int, float]:
    """Compute a block in this thread, with these engines.

    The item of the block is returned, the peak resident memory of this process in bytes, or 0 if it need not
    be reported, and the CPU time of this thread in seconds.
    """
    start = time.thread_time()
    with engines.chosen():
        (item,) = dask.get(block.graph, block.key)
    return item, resident_peak() if report_memory else 0, time.thread_time() - start


class BlockComputer:
    """Compute the blocks of a run by the workers, and count them in the summary.

    The monitor is informed about progress. Once a stop is requested, no more blocks are submitted and those
    in flight are finished.
    """

    def __init__(
        self, workers: Workers, monitor: Monitor, stop: Stop, summary: Summary, engines: Engines = AUTO
    ) -> None:
        self.workers, self.monitor, self.stop, self.summary = workers, monitor, stop, summary
        self.engines = engines

    def compute(
        self,
        name: str,
        work: da.Array,
        blocks: Sequence[int],
        describe: Callable[[int], str] = "block {}".format,
    ) -> Iterator[tuple[int, Any]]:
        """Compute blocks, a bounded number of them at a time; a block that fails is retried after the others.

        Parameters
        ----------
        name
            Description of the work for the log, the dashboard and messages.
        work
            One-dimensional lazy array with one item per block.
        blocks
            Numbers of the blocks to compute; the others are counted as reused.
        describe
            Function that describes the planes of a block.

        Yields
        ------
        tuple
            (block, item) in the order of completion.

        Raises
        ------
        UserError
            Immediately, if a block raises it: a mistake of the user is not retried.
        WorkersLost
            If there are no workers left.
        Stopped
            After the blocks in flight, if a stop was requested.
        BlocksFailed
            At the end, if some blocks failed in every attempt.
        """
        self.monitor.segment(name, work.shape[0], work.shape[0] - len(blocks))
        self.summary.reused += work.shape[0] - len(blocks)
        part, start = Work(name, work.shape[0]), time.monotonic()
        self.summary.parts.append(part)
        window = _Window(self.workers, SegmentGraph(work), name, self.engines)
        waiting = deque((block, 1) for block in blocks)
        failures: list[Failure] = []
        try:
            with self.stop.finishing():
                while True:
                    while waiting and window.free and self.stop.requested is None:
                        window.submit(*waiting.popleft())
                    if not window.running:
                        break
                    block, attempt, future = window.next_finished()
                    try:
                        item, peak, cpu = self.workers.result(future)
                    except (UserError, WorkersLost):
                        raise
                    except Exception as error:
                        LOG.debug("block %d failed", block, exc_info=error)
                        if attempt < ATTEMPTS and not isinstance(error, WorkersDied):
                            waiting.append((block, attempt + 1))
                        else:
                            failures.append(Failure(name, block, _stage_error(error, name, describe(block))))
                            self.summary.failed += 1
                        continue
                    self.summary.computed += 1
                    part.computed += 1
                    part.cpu_seconds += cpu
                    self.summary.worker_memory = max(self.summary.worker_memory, peak)
                    self.monitor.block(block)
                    yield block, item
        finally:
            window.cancel()
            part.seconds = time.monotonic() - start
        if failures:
            raise BlocksFailed(sorted(failures, key=lambda f: f.block))


class _Window:
    """The blocks that are submitted and not yet finished."""

    def __init__(self, workers: Workers, graph: SegmentGraph, name: str, engines: Engines) -> None:
        self._workers, self._graph, self._name, self._engines = workers, graph, name, engines
        self._finished: SimpleQueue[Future[Any]] = SimpleQueue()
        self._checked = time.monotonic()
        self._alone = workers.cold
        self.running: dict[Future[Any], tuple[int, int]] = {}

    @property
    def free(self) -> bool:
        # The first block compiles the kernels; the workers would otherwise all compile them at once.
        return len(self.running) < (1 if self._alone else self._workers.window)

    def submit(self, block: int, attempt: int) -> None:
        arguments = self._graph.block(block), self._engines, self._workers.remote
        future = self._workers.submit(self._name, block, compute_block, *arguments)
        self.running[future] = block, attempt
        future.add_done_callback(self._finished.put)

    def next_finished(self) -> tuple[int, int, Future[Any]]:
        while True:
            # The workers are checked at intervals even if blocks are finished all the time.
            if time.monotonic() - self._checked >= CHECK_INTERVAL:
                self._workers.check()
                self._checked = time.monotonic()
            with suppress(Empty):
                future = self._finished.get(timeout=CHECK_INTERVAL)
                self._alone = False
                return *self.running.pop(future), future

    def cancel(self) -> None:
        """Cancel the blocks that have not started, and wait for those that run in this process."""
        started = [future for future in self.running if not future.cancel()]
        if not self._workers.remote:
            wait(started)


def _stage_error(error: Exception, name: str, where: str) -> StageError:
    """Return the error without its traceback, which would keep arrays alive."""
    if isinstance(error, StageError):
        return StageError(*error.args)
    cause = str(error) if isinstance(error, WorkersDied) else f"{type(error).__name__}: {error}"
    return StageError(name, where, cause)


def resident_peak() -> int:
    """Return the peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would include the memory of the parent process before the fork.
        lines = status.read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak << 10)
