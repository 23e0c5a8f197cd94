"""Does the segments of a run, block by block, and keeps count."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from os import getpid
from pathlib import Path
from typing import Any

import xarray as xr

from lucidcube.cluster import Executor
from lucidcube.cube import CHANNEL, UNITS, WAVELENGTH, block_sizes, describe_planes
from lucidcube.errors import StageError
from lucidcube.run.attempts import Outcome, attempt
from lucidcube.run.failures import BlocksFailed, Failure
from lucidcube.run.monitor import Done, Watch
from lucidcube.run.segments import Segment, make
from lucidcube.run.signals import Stop


@dataclass
class Worker:
    """What a run works with.

    Attributes
    ----------
    workers
        Compute blocks.
    watch
        Told what happens.
    stop
        When asked, no more blocks are begun.
    done
        The count.
    """

    workers: Executor
    watch: Watch
    stop: Stop
    done: Done

    def segment(self, segment: Segment, cube: xr.Dataset, key: str, work: Path) -> tuple[xr.Dataset, str]:
        """Make sure that a segment's checkpoint is whole; returns its cube and its key.

        Raises
        ------
        BlocksFailed
            If it cannot be, after all its blocks were tried.
        """
        made = make(segment, cube, key)
        if not made.variables:
            return made.cube, made.key
        checkpoint = made.prepare(work)
        missing = checkpoint.missing()
        if missing:
            self._look(segment, cube)
        writes = checkpoint.writes(made.cube, made.variables)
        total = len(checkpoint.starts)
        with closing(self.each(segment.label, writes, missing, total, _planes(made.cube))) as results:
            for _, nbytes in results:
                self.done.nbytes += int(nbytes)
        return made.kept(checkpoint), made.key

    def products(self, work: Any, blocks: Sequence[int]) -> Generator[tuple[int, Any], None, None]:
        """Compute the blocks of a product; see `each`."""
        return self.each("products", work, blocks, len(blocks), "block {}".format)

    def each(
        self, label: str, work: Any, blocks: Sequence[int], total: int, where: Callable[[int], str]
    ) -> Generator[tuple[int, Any], None, None]:
        """Compute blocks, telling the watch.

        Parameters
        ----------
        label
            What is being done.
        work, blocks
            A lazy array of one item per block, and the numbers of those to compute.
        total
            How many there are with those that need not be computed.
        where
            Describes the planes of a block.

        Yields
        ------
        tuple
            (block, item).

        Raises
        ------
        BlocksFailed
            In the end, if some failed twice.
        """
        self.watch.segment(label, total, total - len(blocks))
        self.done.reused += total - len(blocks)
        failures: list[Failure] = []

        def note(block: int, outcome: Outcome) -> None:
            if outcome.process != getpid():
                self.done.worker_memory = max(self.done.worker_memory, outcome.peak)
            if isinstance(outcome.error, StageError):
                self.done.failed += 1
                failures.append(Failure(label, block, outcome.error))
            else:
                self.done.computed += 1

        def unexpected(block: int, cause: str) -> StageError:
            return StageError(label, where(block), cause)

        with closing(attempt(self.workers, work, blocks, unexpected, self.stop, note)) as results:
            for block, item in results:
                self.watch.block(block)
                yield block, item
        if failures:
            raise BlocksFailed(sorted(failures, key=lambda f: f.block))

    def _look(self, segment: Segment, cube: xr.Dataset) -> None:
        """Let the stages that work on what is there already look at it before anything is computed."""
        for stage in segment.stages:
            if {*stage.requires} <= {*cube.variables}:
                stage.check(cube)
                for text in stage.warnings(cube):
                    self.watch.message(f"{segment.track}, {stage.name}: {text}")


def _planes(cube: xr.Dataset) -> Callable[[int], str]:
    """Describes the planes of each block of a cube."""
    ends = [*accumulate(block_sizes(cube))]
    units = str(cube[WAVELENGTH].attrs.get(UNITS, "m"))

    def where(block: int) -> str:
        planes = slice(ends[block - 1] if block else 0, ends[block])
        return describe_planes(cube[CHANNEL].values[planes], cube[WAVELENGTH].values[planes], units)

    return where
