"""Lazy cubes that remember their source, so that a stage can read ranges of planes past dask's chunks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from lucidcube.cube import DIMS

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


def from_source(source: Any, block: int, name: str) -> xr.Variable:
    """Make a lazy cube of an array-like source, in blocks of whole planes.

    The source is picklable and has a shape and a dtype; slicing it reads only the requested planes. `block`
    is the number of planes in a block, and `name` that of the dask array: the same for the same content. The
    variable has the dimensions (wavelength, y, x), and `source_of` returns its source.
    """
    planes, rows, columns = source.shape
    lazy = da.from_array(
        source,
        chunks=(min(block, planes), rows, columns),
        name=name,
        lock=False,
        asarray=False,
        fancy=False,
        meta=np.empty((0, 0, 0), source.dtype),
        inline_array=True,
    )
    return xr.Variable(DIMS, lazy, encoding={SOURCE_KEY: (lazy.name, source)})


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
            read = from_source(source, block, f"{variable.data.name}-{block}")
            changed[name] = xr.Variable(variable.dims, read.data, variable.attrs, read.encoding)
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
    sources, tasks, slabs = [source_of(v) for v in variables], {}, []
    for number, (call, (lo, hi)) in enumerate(zip(calls, ranges, strict=True)):
        given = [
            v.data[lo:hi] if source is None else Window(source, lo, hi)
            for v, source in zip(variables, sources, strict=True)
        ]
        lazy = [slab.rechunk(-1) for slab in given if isinstance(slab, da.Array)]
        known = tuple(None if isinstance(slab, da.Array) else slab for slab in given)
        tasks[name, number] = (_Call(call, known), *((slab.name, *(0,) * slab.ndim) for slab in lazy))
        slabs += lazy
    graph, arrays = HighLevelGraph.from_collections(name, tasks, slabs), []
    for i, (shape, dtype) in enumerate(results):
        own = f"{name}-{i}"
        items = {(own, n, *(0,) * len(shape)): (itemgetter(i), (name, n)) for n in range(len(calls))}
        whole = HighLevelGraph({**graph.layers, own: items}, {**graph.dependencies, own: {name}})
        arrays.append(da.Array(whole, own, (tuple(planes), *((n,) for n in shape)), dtype))
    return arrays


@dataclass(frozen=True)
class _Call:
    """Call a function with what is known, and with computed arrays in place of None."""

    function: Callable[..., Any]
    known: tuple[Any, ...]

    def __call__(self, *computed: np.ndarray) -> Any:
        arrays = iter(computed)
        return self.function(*(next(arrays) if value is None else value for value in self.known))
