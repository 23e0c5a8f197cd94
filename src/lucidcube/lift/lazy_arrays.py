"""Lazy cubes that remember their source, so that a stage can read ranges of planes past dask's chunks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import getitem
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from lucidcube.cube import DIMS
from lucidcube.lift.layers import BlockLayer, ResultOf, planes_of

SOURCE_KEY = "lucidcube_source"
"""Key of a variable's encoding for the name of its lazy array and the source of that array."""


@dataclass(frozen=True)
class Window:
    """A range of planes of an array-like source; nothing is read until the window is sliced.

    The source is picklable, has a shape, and can be sliced along its first axis; `lo` and `hi` are the first
    plane and the plane after the last.
    """

    source: Any
    lo: int
    hi: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Planes, rows and columns."""
        return (self.hi - self.lo, *self.source.shape[1:])

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, _ = key.indices(self.hi - self.lo)
        planes: np.ndarray = self.source[self.lo + start : self.lo + stop]
        return planes


def from_source(source: Any, block: int, name: str, dims: Sequence[str] = DIMS) -> xr.Variable:
    """Make a lazy cube of an array-like source, in blocks of whole planes.

    The source is picklable and has a shape and a dtype; slicing it reads only the requested planes. `block`
    is the number of planes in a block, and `name` that of the dask array: the same for the same content. The
    variable has these dimensions, wavelength first, and `source_of` returns its source.
    """
    planes = source.shape[0]
    (sizes,) = da.core.normalize_chunks((min(block, planes),), (planes,))
    lazy = planes_of(source, sizes, name)
    return xr.Variable(dims, lazy, encoding={SOURCE_KEY: (lazy.name, source)})


def source_of(variable: xr.Variable) -> Any:
    """Return the source that a variable is read from, or None if it has none or was changed since."""
    name, source = variable.encoding.get(SOURCE_KEY, (None, None))
    return source if getattr(variable.data, "name", None) == name else None


def rechunk_sources(cube: xr.Dataset, block: int) -> xr.Dataset:
    """Return a cube whose variables with a source have this number of planes in a block."""
    changed = {}
    for name, variable in cube.variables.items():
        source = source_of(variable)
        if source is not None and variable.chunks and variable.chunks[0][0] != min(block, variable.shape[0]):
            dims = [str(dim) for dim in variable.dims]
            changed[name] = from_source(source, block, f"{variable.data.name}-{block}", dims)
            changed[name].attrs = variable.attrs
    return cube.assign(changed)


def from_ranges(
    stage: str,
    calls: Sequence[Callable[..., Any]],
    planes: Sequence[int],
    ranges: Sequence[tuple[int, int]],
    variables: Sequence[xr.Variable],
    results: Sequence[tuple[tuple[int, ...], str]],
) -> list[da.Array]:
    """Make lazy arrays, each block of which is computed from a range of planes of some variables.

    There is a function for each block, which returns the block of each result. It is called with the range
    (first plane, last + 1) of every variable (wavelength, ...), as an array, or as a `Window` of its source
    if it has one, past dask's chunks. `planes` are the numbers of planes of the blocks, and `results` the
    shape within a plane and the dtype of each result. Names of tasks begin with the stage.
    """
    name = f"{stage}-{tokenize(calls, [getattr(v.data, 'name', v.data) for v in variables])}"
    known: list[Any] = []
    slabs: list[da.Array] = []
    for number, variable in enumerate(variables):
        data, source = variable.data, source_of(variable)
        if source is None and isinstance(data, da.Array):
            known.append(None)
            slabs.append(_slabs(f"{name}-planes-{number}", data, ranges))
        else:
            known.append(data if source is None else source)
    rule = _Calls(tuple(calls), tuple(ranges), tuple(known), tuple(slab.name for slab in slabs))
    graph = HighLevelGraph.from_collections(name, BlockLayer(name, len(calls), rule), slabs)
    arrays = []
    for i, (shape, dtype) in enumerate(results):
        own = f"{name}-{i}"
        items = BlockLayer(own, len(calls), ResultOf(name, getitem, (i,)), 1 + len(shape))
        whole = HighLevelGraph({**graph.layers, own: items}, {**graph.dependencies, own: {name}})
        arrays.append(da.Array(whole, own, (tuple(planes), *((n,) for n in shape)), dtype))
    return arrays


def _slabs(name: str, lazy: da.Array, ranges: Sequence[tuple[int, int]]) -> da.Array:
    """Return an array of one chunk for each range of planes of a lazy array."""
    lazy = lazy.rechunk(dict.fromkeys(range(1, lazy.ndim), -1))
    rule = _Slab(lazy.name, lazy.ndim, np.cumsum([0, *lazy.chunks[0]]), tuple(ranges))
    graph = HighLevelGraph.from_collections(name, BlockLayer(name, len(ranges), rule), [lazy])
    return da.Array(graph, name, ((1,) * len(ranges),), lazy.dtype)


@dataclass(frozen=True)
class _Slab:
    """The task that joins the planes of a range, from the chunks of a lazy array with these borders."""

    name: str
    ndim: int
    borders: np.ndarray
    ranges: tuple[tuple[int, int], ...]

    def __call__(self, number: int) -> Any:
        lo, hi = self.ranges[number]
        first, last = self.borders.searchsorted([lo, hi - 1], "right") - 1
        chunks = [(self.name, int(n), *(0,) * (self.ndim - 1)) for n in range(first, last + 1)]
        start = int(self.borders[first])
        return partial(_join, lo - start, hi - start), chunks


def _join(lo: int, hi: int, chunks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the planes lo to hi (exclusive) of chunks that follow each other."""
    if len(chunks) == 1:
        return chunks[0][lo:hi]
    inner = [chunks[0][lo:], *chunks[1:-1], chunks[-1][: hi - sum(map(len, chunks[:-1]))]]
    return np.concatenate(inner)


@dataclass(frozen=True)
class _Calls:
    """The task that computes a block, from sources and arrays in memory, and from slabs in place of None."""

    functions: tuple[Callable[..., Any], ...]
    ranges: tuple[tuple[int, int], ...]
    known: tuple[Any, ...]
    slabs: tuple[str, ...]

    def __call__(self, number: int) -> Any:
        lo, hi = self.ranges[number]
        call = _Call(self.functions[number], tuple(_planes(given, lo, hi) for given in self.known))
        return call, *((slab, number) for slab in self.slabs)


def _planes(given: Any, lo: int, hi: int) -> Any:
    """Return the planes lo to hi (exclusive) of an array, or a window of a source."""
    return (
        given if given is None else given[lo:hi] if isinstance(given, np.ndarray) else Window(given, lo, hi)
    )


@dataclass(frozen=True)
class _Call:
    """Call a function with what is known, and with computed arrays in place of None."""

    function: Callable[..., Any]
    known: tuple[Any, ...]

    def __call__(self, *computed: np.ndarray) -> Any:
        arrays = iter(computed)
        return self.function(*(next(arrays) if value is None else value for value in self.known))
