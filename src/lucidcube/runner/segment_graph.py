"""The graph of a segment, from which each block takes the part that it needs.

Layers that dask describes by a rule, such as `dask.blockwise.Blockwise`, stay rules: the tasks of a block are
made when the block is computed, in the worker if the whole description is small enough to send it there.
"""

import math
import pickle
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from functools import cached_property
from io import BytesIO
from typing import Any

import cloudpickle
import dask.array as da
from dask.core import get_dependencies
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from lucidcube.lift.layers import by_rule

MOST_TASKS = 4000
"""Number of tasks without a rule up to which the whole graph may be sent with each batch of blocks."""
MOST_BYTES = 32 << 10
"""Size of the compressed graph in bytes up to which this is done."""
MOST_PICKLED = 32 * MOST_BYTES
"""Its size in bytes before the compression up to which this is tried: arrays in memory may be large."""
TOGETHER = 16
"""Number of blocks whose tasks are made from rules together: each use of a rule has a cost of its own."""


class BlockGraph:
    """The part of a graph that one block needs, as an opaque object that dask does not traverse."""

    def __init__(self, graph: dict[Any, Any], key: tuple[str, int]) -> None:
        self.graph, self.key = graph, key


class SegmentGraph:
    """The graph of a lazy array of one item per block, which is cut for each block.

    Indexing the array with dask would traverse the graph of all blocks for each of them.
    """

    def __init__(self, work: da.Array) -> None:
        # No optimisation: the tasks of a block run one after another in one thread, so fusing has no benefit.
        graph = work.__dask_graph__()
        layers = graph.layers if isinstance(graph, HighLevelGraph) else {work.name: MaterializedLayer(graph)}
        self._name, self._tasks = work.name, dict[Any, Any]()
        self._rules: dict[str, Layer] = {}
        for name, layer in layers.items():  # a layer with a rule has the name of the array that it makes
            rule = copy(by_rule(name, layer))
            if isinstance(rule, MaterializedLayer):
                self._tasks.update(rule)
            else:
                # These list all chunks, and all tasks if something has asked for them.
                rule.collection_annotations = None
                vars(rule).pop("_cached_dict", None)
                self._rules[name] = rule

    def block(self, number: int) -> BlockGraph:
        """Return the part of the graph that one block needs."""
        key = (self._name, number)
        return BlockGraph(self._cut([key]), key)

    def blocks(self, numbers: Sequence[int]) -> Iterator[tuple[int, BlockGraph]]:
        """Yield the number and the graph of some blocks."""
        for first in range(0, len(numbers), TOGETHER):
            some = numbers[first : first + TOGETHER]
            part = self._part(some) if len(some) > 1 else self
            for number in some:
                yield number, part.block(number)

    def packed(self, blocks: Sequence[int]) -> "PackedGraph":
        """Return what some blocks need in a form that can be sent to another process.

        This is the whole graph if it is small, which is then pickled once only.
        """
        return self._whole or PackedGraph(self._part(blocks))

    @cached_property
    def _whole(self) -> "PackedGraph | None":
        if len(self._tasks) <= MOST_TASKS:
            with suppress(_TooLarge):
                packed = PackedGraph(self, MOST_PICKLED)
                if len(packed) <= MOST_BYTES:
                    return packed
        return None

    def _part(self, blocks: Sequence[int]) -> "SegmentGraph":
        """Return the graph of some blocks, without rules."""
        part = copy(self)
        part._tasks, part._rules = self._cut([(self._name, number) for number in blocks]), {}
        return part

    def _cut(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Return the tasks on which some keys depend, as a graph."""
        made: dict[Any, Any] = {}
        wanted = {*keys}
        while wanted:
            of_rules: defaultdict[str, set[Any]] = defaultdict(set)
            found = {}
            for key in wanted:
                if key in self._tasks:
                    found[key] = self._tasks[key]
                else:
                    of_rules[key[0]].add(key)
            for name, some in of_rules.items():  # many keys at once, since each call has a cost of its own
                part, _ = self._rules[name].cull(some, ())
                found.update(part)
            made.update(found)
            wanted = {k for task in found.values() for k in self._dependencies(task) if k not in made}
        return made

    def _dependencies(self, task: Any) -> Iterable[Any]:
        known = getattr(task, "dependencies", None)  # of the tasks of newer layers of dask
        return get_dependencies(self, task=task) if known is None else known

    def __contains__(self, key: Any) -> bool:
        """Return whether something in a task is the key of another."""
        return key in self._tasks or (isinstance(key, tuple) and bool(key) and key[0] in self._rules)


class _TooLarge(Exception):
    """Something pickled has more bytes than the limit."""


class _Limited(BytesIO):
    """A file in memory that does not become larger than a number of bytes."""

    def __init__(self, most: float) -> None:
        super().__init__()
        self._most = most

    def write(self, part: Any) -> int:
        if self.tell() + memoryview(part).nbytes > self._most:
            raise _TooLarge
        return super().write(part)


class PackedGraph:
    """The graph of a segment, or of some of its blocks, pickled and compressed.

    Workers do not keep what they unpack, because sources may hold the last chunk that was read.
    """

    def __init__(self, graph: SegmentGraph, most: float = math.inf) -> None:
        file = _Limited(most)
        cloudpickle.dump(graph, file)
        self._packed = zlib.compress(file.getbuffer(), 1)

    def __len__(self) -> int:
        """Return the size in bytes."""
        return len(self._packed)

    def unpack(self) -> SegmentGraph:
        """Return the graph."""
        graph: SegmentGraph = pickle.loads(zlib.decompress(self._packed))  # noqa: S301 - made by this run
        return graph
