"""Layers of dask graphs whose tasks are made from the number of a block when they are needed.

A graph of such layers has the same size for any number of blocks, apart from numbers per plane.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.blockwise import BlockwiseDep
from dask.core import get_dependencies
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

Rule = Callable[[int], Any]
"""A function that makes the task of a block from its number; it can be pickled."""


class BlockLayer(Layer):  # type: ignore[misc]
    """A layer with a task for each block of an array with this name and number of dimensions."""

    has_legacy_tasks = True  # in place of an inspection of all tasks

    def __init__(self, name: str, blocks: int, rule: Rule, ndim: int = 1) -> None:
        super().__init__()
        self._name, self._blocks, self._rule, self._rest = name, blocks, rule, (0,) * (ndim - 1)

    def __getitem__(self, key: Any) -> Any:
        if key not in self:
            raise KeyError(key)
        return self._rule(key[1])

    def __contains__(self, key: Any) -> bool:
        return (
            isinstance(key, tuple)
            and key[:1] == (self._name,)
            and key[2:] == self._rest
            and key[1] in range(self._blocks)
        )

    def __iter__(self) -> Iterator[Any]:
        return ((self._name, number, *self._rest) for number in range(self._blocks))

    def __len__(self) -> int:
        return self._blocks

    def is_materialized(self) -> bool:
        """Return False: the tasks are not in memory."""
        return False

    def get_output_keys(self) -> set[Any]:
        """Return all keys."""
        return {*self}

    def cull(self, keys: Iterable[Any], all_keys: Any) -> tuple[Layer, Mapping[Any, set[Any]]]:
        """Return the tasks of some keys, and on which of `all_keys` each depends."""
        tasks = {key: self[key] for key in keys if key in self}
        needs = {k: get_dependencies(all_keys, task=t) if all_keys else set() for k, t in tasks.items()}
        return MaterializedLayer(tasks), needs


@dataclass(frozen=True)
class ResultOf:
    """The task that takes a result of another, whose key is a name and the number of the block.

    A function is called with the other's result and further arguments; without a function it is the result.
    """

    name: str
    function: Callable[..., Any] | None = None
    arguments: tuple[Any, ...] = ()

    def __call__(self, number: int) -> Any:
        other = (self.name, number)
        return other if self.function is None else (self.function, other, *self.arguments)


def by_rule(name: str, layer: Layer) -> Layer:
    """Return a layer whose tasks take results of others as one with a rule; any other as it is.

    `dask.array.apply_gufunc` makes such layers.
    """
    if not isinstance(layer, MaterializedLayer):
        return layer
    match next(iter(layer.items()), None):
        case ((_, 0, *rest), (str(other), 0)):
            rule = ResultOf(other)
        case ((_, 0, *rest), (function, (str(other), 0), int(result))):
            rule = ResultOf(other, function, (result,))
        case _:
            return layer
    made = BlockLayer(name, len(layer), rule, 1 + len(rest))
    return made if all(key in layer and layer[key] == task for key, task in made.items()) else layer


class Positions:
    """The positions of planes, as an array-like that takes no memory."""

    dtype, ndim = np.dtype(int), 1

    def __init__(self, planes: int) -> None:
        self.shape = (planes,)

    def __getitem__(self, key: Any) -> np.ndarray:
        (planes,) = key if isinstance(key, tuple) else (key,)
        return np.arange(*planes.indices(*self.shape))


@dataclass(frozen=True)
class _PlanesInMemory:
    """The task that is a block of an array in memory: these planes alone, not the array."""

    array: np.ndarray
    borders: np.ndarray

    def __call__(self, number: int) -> Any:
        return self.array[self.borders[number] : self.borders[number + 1]]


def in_memory(array: np.ndarray, sizes: tuple[int, ...], name: str) -> da.Array:
    """Return a lazy array of an array in memory, in blocks of whole planes of these sizes.

    Its blocks are views of the array.
    """
    rule = _PlanesInMemory(array, np.cumsum([0, *sizes]))
    graph = HighLevelGraph.from_collections(name, BlockLayer(name, len(sizes), rule, array.ndim), [])
    return da.Array(graph, name, (sizes, *((n,) for n in array.shape[1:])), array.dtype)


class _RegularSlices(BlockwiseDep):  # type: ignore[misc]
    """The slices of blocks of whole planes; those of dask are lists as long as the number of blocks."""

    produces_tasks = False

    def __init__(self, shape: tuple[int, ...], block: int, numblocks: tuple[int, ...]) -> None:
        self.shape, self.block, self.numblocks = shape, block, numblocks

    def __getitem__(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        first = index[0] * self.block
        last = min(first + self.block, self.shape[0])
        return slice(first, last), *(slice(0, n) for n in self.shape[1:])


def planes_of(source: Any, sizes: tuple[int, ...], name: str) -> da.Array:
    """Return a lazy array of an array-like source, in blocks of whole planes of these sizes."""
    lazy = da.from_array(
        source,
        chunks=(sizes, *source.shape[1:]),
        name=name,
        lock=False,
        asarray=False,
        fancy=False,
        meta=np.empty((0,) * len(source.shape), source.dtype),
        inline_array=True,
    )
    if sizes and {*sizes[:-1]} <= {sizes[0]} and sizes[-1] <= sizes[0]:
        (layer,) = lazy.dask.layers.values()
        slices = _RegularSlices(source.shape, sizes[0], lazy.numblocks)
        layer.io_deps = dict.fromkeys(layer.io_deps, slices)
    return lazy
