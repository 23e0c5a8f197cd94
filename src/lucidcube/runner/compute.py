"""Compute blocks with a `concurrent.futures.Executor`: a bounded window, one retry, a stop flag.

A task computes a block from the first stage of a segment to the last in one worker, so that a cluster does
not store or transfer intermediate results. On a cluster it computes several blocks, one after the other, if
these take little time.
"""

import logging
import pickle
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.sizeof import sizeof

from lucidcube.cluster import Record, Results, Workers, WorkersDied, WorkersLost
from lucidcube.cluster.slow_blocks import BATCH_SECONDS
from lucidcube.errors import BlocksFailed, Failure, StageError, UserError
from lucidcube.runner.batches import Batch, Batches
from lucidcube.runner.engines import Engines
from lucidcube.runner.monitor import Monitor, Summary, Work
from lucidcube.runner.segment_graph import BlockGraph, PackedGraph, SegmentGraph
from lucidcube.runner.signals import Stop

LOG = logging.getLogger(__name__)

ATTEMPTS = 2
"""Number of times that a block is computed before it counts as failed."""
AUTO = Engines()
CHECK_INTERVAL = 5.0
"""Seconds between checks of the workers."""
BATCH_BYTES = 1 << 20
"""Bytes of results after which a task begins no further block."""


def compute_block(block: BlockGraph, engines: Engines, report_memory: bool) -> tuple[Any, int, float]:
    """Compute a block in this thread, with these engines.

    The item of the block is returned, the peak resident memory of this process in bytes, or 0 if it need not
    be reported, and the CPU time of this thread in seconds.
    """
    start = time.thread_time()
    with engines.chosen():
        (item,) = dask.get(block.graph, block.key)
    return item, resident_peak() if report_memory else 0, time.thread_time() - start


def compute_batch(
    graph: SegmentGraph | PackedGraph, blocks: Sequence[int], engines: Engines, report_memory: bool
) -> Results:
    """Compute blocks one after the other, as `compute_block` does.

    A block that fails does not affect the others. No further block is begun after `BATCH_SECONDS`, after
    `BATCH_BYTES` of results, or after a mistake of the user.
    """
    start, cpu, nbytes, records = time.monotonic(), time.thread_time(), 0, list[Record]()
    graphs = graph.unpack() if isinstance(graph, PackedGraph) else graph
    for block, part in graphs.blocks(blocks):
        if records and (time.monotonic() - start > BATCH_SECONDS or nbytes > BATCH_BYTES):
            break
        try:
            item, _, _ = compute_block(part, engines, False)
        except Exception as error:
            records.append(Record(block, None, _portable(error), traceback.format_exc()))
            if isinstance(error, UserError):
                break
        else:
            records.append(Record(block, item))
            nbytes += _nbytes(item)
    peak = resident_peak() if report_memory else 0
    return Results(records, peak, time.thread_time() - cpu, time.monotonic() - start)


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent between processes, without its traceback, which keeps arrays alive."""
    try:
        made = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return made if isinstance(made, Exception) else RuntimeError(repr(error))


def _nbytes(item: Any) -> int:
    """Return the number of bytes of a result, which may be an array of objects that contain arrays."""
    if isinstance(item, np.ndarray) and item.dtype == object:
        return _nbytes(item.tolist())
    return sum(map(_nbytes, item)) if isinstance(item, list | tuple) else sizeof(item)


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
        """Compute blocks, a bounded number at a time; a block that fails is retried after the others.

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
            After the blocks in flight, if a stop was requested; a batch begins none after `BATCH_SECONDS`.
        BlocksFailed
            At the end, if some blocks failed in every attempt.
        """
        self.monitor.segment(name, work.shape[0], work.shape[0] - len(blocks))
        self.summary.reused += work.shape[0] - len(blocks)
        part, start = Work(name, work.shape[0]), time.monotonic()
        self.summary.parts.append(part)
        window = _Window(self.workers, SegmentGraph(work), name, self.engines)
        waiting = Batches(blocks)
        failures: list[Failure] = []
        try:
            with self.stop.finishing():
                while True:
                    while waiting and window.free and self.stop.requested is None:
                        window.submit(waiting.take(self.workers.batch_threads))
                    if not window.running:
                        break
                    batch, results = window.next_finished()
                    self._count(part, results)
                    waiting.took(len(results.records), results.seconds)
                    waiting.put_back(batch, len(results.records))
                    for block, item, error, lines in results.records:
                        if error is None:
                            self.monitor.block(block)
                            yield block, item
                            continue
                        if isinstance(error, UserError):
                            raise error
                        LOG.debug("block %d failed: %s", block, lines or error)
                        if batch.attempt < ATTEMPTS and not isinstance(error, WorkersDied):
                            waiting.again([block], batch.attempt + 1)
                        else:
                            failures.append(Failure(name, block, _stage_error(error, name, describe(block))))
                            self.summary.failed += 1
        finally:
            window.cancel()
            part.seconds = time.monotonic() - start
        if failures:
            raise BlocksFailed(sorted(failures, key=lambda f: f.block))

    def _count(self, part: Work, results: Results) -> None:
        """Add what was computed to the summary."""
        computed = sum(record.error is None for record in results.records)
        self.summary.computed += computed
        part.computed += computed
        part.cpu_seconds += results.cpu_seconds
        self.summary.worker_memory = max(self.summary.worker_memory, results.peak)


class _Window:
    """The batches that are submitted and not yet finished."""

    def __init__(self, workers: Workers, graph: SegmentGraph, name: str, engines: Engines) -> None:
        self._workers, self._graph, self._name, self._engines = workers, graph, name, engines
        self._finished: SimpleQueue[Future[Any]] = SimpleQueue()
        self._checked = time.monotonic()
        self._alone = workers.cold
        self.running: dict[Future[Any], Batch] = {}

    @property
    def free(self) -> bool:
        # The first block compiles the kernels; the workers would otherwise all compile them at once.
        return len(self.running) < (1 if self._alone else self._workers.window)

    def submit(self, batch: Batch) -> None:
        remote, blocks = self._workers.remote, batch.blocks
        graph = self._graph.packed(blocks) if remote else self._graph
        arguments = graph, blocks, self._engines, remote
        future = self._workers.submit(self._name, blocks[0], compute_batch, *arguments, blocks=len(blocks))
        self.running[future] = batch
        future.add_done_callback(self._finished.put)

    def next_finished(self) -> tuple[Batch, Results]:
        """Return a batch and what came of it: no records if a task of several blocks failed as a whole."""
        while True:
            # The workers are checked at intervals even if blocks are finished all the time.
            if time.monotonic() - self._checked >= CHECK_INTERVAL:
                self._workers.check()
                self._checked = time.monotonic()
            with suppress(Empty):
                future = self._finished.get(timeout=CHECK_INTERVAL)
                self._alone = False
                batch = self.running.pop(future)
                return batch, self._results(batch.blocks, future)

    def _results(self, blocks: Sequence[int], future: Future[Any]) -> Results:
        try:
            results: Results = self._workers.result(future)
        except (UserError, WorkersLost):
            raise
        except Exception as error:
            LOG.debug("a task of %d blocks failed", len(blocks), exc_info=error)
            return Results([Record(blocks[0], None, error)] if len(blocks) == 1 else [])
        return results

    def cancel(self) -> None:
        """Cancel the batches that have not started, and wait for those that run in this process."""
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
