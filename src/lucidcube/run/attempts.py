"""Computing blocks so that one that fails costs no other: every block is a task that cannot fail.

Executors know lazy arrays of one item per block and stop at the first exception. What they are given
here is the same work, but each of its blocks is a single task, which computes the block's part of the graph
from start to end and returns what came of it: the item, or what went wrong.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, cast

import dask
import dask.array as da
import numpy as np

from lucidcube.cluster.executors import Executor, WorkerLost
from lucidcube.errors import StageError, UserError
from lucidcube.run.graphs import BlockGraph, SegmentGraph
from lucidcube.run.signals import Stop

LOG = logging.getLogger(__name__)

ATTEMPTS = 2
"""Times that a block is tried."""


class Outcome(NamedTuple):
    """What came of a block.

    Attributes
    ----------
    item
        Its item of the work.
    error
        Or what went wrong: a stage, or in words anything else.
    peak, process
        Largest resident memory that the computing process has had so far, in bytes, and its number.
    skipped
        Whether the block was not even begun, because the run is to stop.
    """

    item: Any = None
    error: StageError | str | None = None
    peak: int = 0
    process: int = 0
    skipped: bool = False


def attempt(
    workers: Executor,
    work: da.Array,
    blocks: Sequence[int],
    unexpected: Callable[[int, str], StageError],
    stop: Stop,
    note: Callable[[int, Outcome], None],
) -> Generator[tuple[int, Any], None, None]:
    """Compute blocks; one that fails is tried again after the others.

    Parameters
    ----------
    workers
        Where.
    work
        Lazy array of one item per block.
    blocks
        Numbers.
    unexpected
        Makes the error for a block and the text of an exception that came from no stage.
    stop
        When asked, no more blocks are begun and those in flight finished.
    note
        Told what came of each block in the end.

    Yields
    ------
    tuple
        (block, item) of those that were done.

    Raises
    ------
    UserError
        At once, if a block finds a mistake of the user's: trying again would not help.
    WorkerLost
        If nothing is left that could compute.
    Stopped
        After the blocks in flight.
    """
    todo, again, left = [*blocks], list[int](), ATTEMPTS - 1
    while todo:
        tasks = Tasks(work, stop)
        back = set[int]()
        try:
            with stop.finishing(), closing(_compute(workers, tasks, todo)) as results:
                for block, outcome in results:
                    back.add(block)
                    if outcome.error is not None and left:
                        again.append(block)
                        continue
                    if isinstance(outcome.error, str):
                        outcome = outcome._replace(error=unexpected(block, outcome.error))
                    note(block, outcome)
                    if outcome.error is None:
                        yield block, outcome.item
        except WorkerLost as lost:
            if lost.block is None:
                raise
            # The executor gave it to one worker after the other: that was trying enough.
            note(lost.block, Outcome(error=unexpected(lost.block, lost.cause)))
            back.add(lost.block)
        todo = [block for block in todo if block not in back]
        if not todo and left:
            todo, again, left = again, [], left - 1


def _compute(
    workers: Executor, tasks: Tasks, blocks: Sequence[int]
) -> Generator[tuple[int, Outcome], None, None]:
    with closing(cast(Generator[tuple[int, Outcome], None, None], workers.compute(tasks, blocks))) as results:
        for block, outcome in results:
            tasks.came_back(block)
            if not outcome.skipped:
                yield block, outcome
            if tasks.drained:
                return


def shielded() -> Any:
    """While this context lasts, worker processes that are started ignore Ctrl-C, as do their replacements."""
    preload = [*dask.config.get("distributed.worker.preload", []), "lucidcube.cluster.worker_preload"]
    return dask.config.set({"distributed.worker.preload": preload})


class Tasks:
    """Work that an executor can compute block by block as if it were a dask array.

    Parameters
    ----------
    work
        Lazy array of one item per block.
    stop
        When asked, the blocks that are then taken do nothing.
    """

    def __init__(self, work: da.Array, stop: Stop) -> None:
        self._graph, self._stop = SegmentGraph(work), stop
        self._out: set[int] = set()
        self._lock = threading.Lock()
        self.shape = work.shape

    @property
    def blocks(self) -> Tasks:
        """Itself, to be indexed by the number of a block."""
        return self

    def __getitem__(self, block: int) -> da.Array:
        with self._lock:
            if self._stop.asked is None:
                self._out.add(block)
                task: Any = dask.delayed(_done, pure=False)(_Part(self._graph.block(block)))
            else:
                task = dask.delayed(_skipped, pure=False)()
        return da.from_delayed(task, (1,), dtype=object, meta=np.empty(0, object))

    def came_back(self, block: int) -> None:
        """A block that was taken is done."""
        with self._lock:
            self._out.discard(block)

    @property
    def drained(self) -> bool:
        """Whether the run is to stop, and nothing is in flight."""
        with self._lock:
            return self._stop.asked is not None and not self._out


class _Part:
    """A part of a graph that dask takes for a plain value (into a tuple it would look)."""

    def __init__(self, graph: BlockGraph) -> None:
        self.graph = graph


def _done(part: _Part) -> np.ndarray:
    """Compute a block here and now; what goes wrong is returned."""
    try:
        outcome = Outcome(part.graph.compute())
    except UserError:
        raise
    except Exception as error:  # whatever it is, it may not take the other blocks down
        LOG.debug("a block failed\n%s", traceback.format_exc())
        kept = StageError(*error.args) if isinstance(error, StageError) else None  # without its traceback
        outcome = Outcome(error=kept or f"{type(error).__name__}: {error}")
    return _boxed(outcome._replace(peak=resident_peak(), process=os.getpid()))


def _skipped() -> np.ndarray:
    return _boxed(Outcome(skipped=True))


def _boxed(outcome: Outcome) -> np.ndarray:
    box = np.empty(1, object)
    box[0] = outcome
    return box


def resident_peak() -> int:
    """Largest resident memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count what the parent had before this process was started from it.
        lines = status.read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak << 10)
