"""How many blocks of a segment are computed by one task of a cluster.

A task costs the client and the scheduler some milliseconds whatever it computes, so a task computes several
blocks, one after the other, if these take less than half the time of a batch: a second, or up to 2.5 s where
there are more than 200 threads. As in guided self-scheduling (Polychronopoulos
and Kuck 1987, IEEE Trans. Comput. C-36, 1425), a batch is a fixed part of the blocks that are left for each
worker: batches are large at first, and single blocks at the end, so that all workers end together.
"""

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from lucidcube.cluster.slow_blocks import BATCH_SECONDS

SECONDS = (2.0, BATCH_SECONDS)
"""Least and most seconds that a batch should take, apart from batches of one block."""
TASKS_PER_SECOND = 100
"""Tasks per second that a cluster should not exceed, if batches of the most seconds allow it."""
SHARE = 2
"""Batches for each thread into which the blocks that are left would be divided."""
MOST = 1000
"""Number of blocks in the largest batch."""
RECENT = 50
"""Number of batches from whose times the size of the next is computed."""


class Batch(NamedTuple):
    """Blocks that are computed by one task, and how many times they have been tried, this time included."""

    blocks: Sequence[int]
    attempt: int = 1


class Batches:
    """The blocks of a segment that are not submitted; those that are tried again come after all others."""

    def __init__(self, blocks: Sequence[int]) -> None:
        self._blocks, self._next = blocks, 0
        self._left: deque[int] = deque()
        self._again: deque[Batch] = deque()
        self._times: deque[float] = deque(maxlen=RECENT)

    def __len__(self) -> int:
        """Return the number of blocks that are waiting."""
        return len(self._blocks) - self._next + len(self._left) + len(self._again)

    def take(self, threads: int) -> Batch:
        """Return the next batch for this number of threads, of one block if it is 0.

        It has one block as long as no time of a block is known. IndexError is raised if there are no blocks.
        """
        size = self._size(threads)
        if self._left:
            return Batch([self._left.popleft() for _ in range(min(size, len(self._left)))])
        first, last = self._next, min(self._next + size, len(self._blocks))
        if first == last:
            return self._again.popleft()
        self._next = last
        return Batch(self._blocks[first:last])

    def _size(self, threads: int) -> int:
        if not (threads and self._times):
            return 1
        least, most = SECONDS
        seconds = min(max(threads / TASKS_PER_SECOND, least), most)
        in_time = seconds / max(median(self._times), seconds / MOST)
        share = (len(self) - len(self._again)) / (SHARE * threads)
        return max(1, int(min(in_time, share)))

    def took(self, blocks: int, seconds: float) -> None:
        """Note that a batch of so many blocks took so many seconds, 0 if its task failed as a whole."""
        if blocks and seconds:
            self._times.append(seconds / blocks)

    def put_back(self, batch: Batch, finished: int) -> None:
        """Take back the blocks of a batch that were not begun, all but the first `finished`; they are next.

        If nothing came of the batch, as where it ended its workers, each block will be computed alone.
        """
        if finished:
            self._left.extend(batch.blocks[finished:])
        else:
            self.again(batch.blocks, batch.attempt)

    def again(self, blocks: Sequence[int], attempt: int) -> None:
        """Take back blocks that shall be computed again, each of them alone."""
        self._again.extend(Batch([block], attempt) for block in blocks)
