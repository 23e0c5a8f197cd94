"""Find blocks that take so long that their worker must have stopped, as where a node or its disk hangs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

Key = tuple[str, int, int]
"""Key of the task that computes a block, or several: a name, the first block, and the number of the task."""

GROWTH = 4
"""Factor by which a block that was given up may take longer the next time."""
ATTEMPTS = 3
"""Number of times that a block may take too long before it counts as failed."""
LONGEST_STEP = 15.0
"""Seconds between two checks that count at most: this process may have been stopped itself."""


BATCH_SECONDS = 5.0
"""Seconds after which a task of several blocks begins no further one, see `runner.compute`."""


class Overdue(NamedTuple):
    """A task that takes too long, the worker that computes it, and the seconds that it was given."""

    key: Key
    worker: str
    limit: float
    blocks: int = 1
    """Number of blocks that the task computes."""


@dataclass
class SlowBlocks:
    """Times of the blocks of a segment, those that were finished and those that are being computed.

    A block takes too long after `factor` times the median of its segment, and not before `least` seconds. As
    long as no block of the segment is finished, nothing is known and none takes too long. A task that
    computes several blocks may take as many times as long, but no more than `BATCH_SECONDS` longer.
    """

    factor: float
    least: float
    given_up: dict[Key, int] = field(default_factory=dict)
    """How many times each block took too long."""
    _submitted: dict[Key, tuple[float, int]] = field(default_factory=dict)
    _segment: str = ""
    _finished: list[float] = field(default_factory=list)
    _computed_since: dict[Key, tuple[str, float]] = field(default_factory=dict)
    _checked: float = 0.0
    _clock: float = 0.0

    def submitted(self, segment: str, key: Key, now: float, blocks: int = 1) -> None:
        """Note that a task of some blocks was submitted; another segment has another median."""
        if segment != self._segment:
            self._segment = segment
            self._submitted.clear()
            self._finished.clear()
        self._submitted[key] = now, blocks

    def finished(self, key: Key, now: float, blocks: int = 1) -> int:
        """Note that a task has computed some blocks, 0 if it failed; return how many times it was given up.

        Its time includes that in which it waited for a worker. That of a task that failed does not count.
        """
        start, _ = self._submitted.pop(key, (now, 0))
        if blocks and now > start:
            self._finished.append((now - start) / blocks)
        return self.given_up.pop(key, 0)

    def overdue(
        self, processing: Mapping[str, Sequence[Key]], threads: Mapping[str, int], now: float
    ) -> list[Overdue]:
        """Return the blocks that take too long, and count that they did.

        Parameters
        ----------
        processing
            Keys of the tasks that the scheduler has given to each worker.
        threads
            Number of tasks that each worker computes at once; the others wait for them.
        now
            Time in seconds.
        """
        self._clock += min(now - self._checked, LONGEST_STEP)
        self._checked = now
        computed = {}
        for worker, keys in processing.items():
            if not all(key in self._submitted for key in keys):
                continue  # another client uses this worker, too, and may be what the block waits for
            for key in sorted(keys, key=self._submitted.__getitem__)[: threads.get(worker, 0)]:
                before, since = self._computed_since.get(key, ("", 0.0))
                computed[key] = worker, since if before == worker else self._clock
        self._computed_since = computed
        if not self._finished:
            return []
        usual = self.factor * median(self._finished)
        found = []
        for key, (worker, since) in computed.items():
            _, blocks = self._submitted[key]
            longest = min(blocks * usual, usual + BATCH_SECONDS)
            limit = max(self.least, longest) * GROWTH ** self.given_up.get(key, 0)
            if self._clock - since > limit:
                self.given_up[key] = self.given_up.get(key, 0) + 1
                found.append(Overdue(key, worker, limit, blocks))
        return found
