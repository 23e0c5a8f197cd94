"""The part of a segment's graph that one block needs, as one task.

Written out once for all blocks, then cut block by block: asking dask for one block of an array walks the
graph of all of them. As a single task a block has no intermediate results that a cluster could move between
workers, keep for longer than it needs, or lose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import dask
import dask.array as da
from dask.optimization import cull


class BlockGraph(NamedTuple):
    """What computes one block.

    Attributes
    ----------
    graph
        Tasks by key.
    key
        Of the block's item.
    """

    graph: dict[Any, Any]
    key: tuple[str, int]

    def compute(self) -> Any:
        """Compute the item in this thread."""
        return dask.get(self.graph, self.key)[0]


class SegmentGraph:
    """The graph of a one-dimensional array of one item per block.

    Parameters
    ----------
    work
        Lazy.
    """

    def __init__(self, work: da.Array) -> None:
        # Not optimised: a block runs in one place, one task after the other, so fusing wins nothing.
        self._name, self._graph = work.name, dict(work.__dask_graph__())

    def block(self, number: int) -> BlockGraph:
        """The part that block `number` needs."""
        key = (self._name, number)
        graph, _ = cull(self._graph, [key])
        return BlockGraph(dict(graph), key)
