"""Find the blocks on which some planes of a run depend, and compute these planes."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.core import flatten
from dask.optimization import cull

from lucidcube.cube import WAVELENGTH, block_sizes, describe_blocks
from lucidcube.lift.blocks import over_blocks
from lucidcube.runner.compute import BlockComputer
from lucidcube.runner.segments import Segment


def planes_at(cube: xr.Dataset, planes: Sequence[int]) -> xr.Dataset:
    """Return some planes of a cube."""
    return cube.isel({WAVELENGTH: list(planes)})


def needed_blocks(
    segments: Sequence[Segment],
    ends: Sequence[Segment],
    wanted: Mapping[str, xr.Dataset],
    planes: Sequence[int],
) -> list[list[int]]:
    """Return, for each segment, its blocks on which the chosen planes of the wanted cubes depend.

    `segments` are those of a run that was built without checkpoints, and `ends` those of them that are not
    kept. The last segments are looked at first: what they read of a segment before are the blocks of its
    results.
    """
    arrays = _lazy_arrays([planes_at(cube, planes) for cube in wanted.values()])
    outputs = [_lazy_arrays([segment.cube[[*segment.variables]]]) for segment in segments]
    graph: dict[Any, Any] = {}
    for array in chain(arrays.values(), *(made.values() for made in outputs)):
        graph.update(array.__dask_graph__())
    of_segment = {name: number for number, made in enumerate(outputs) for name in made}
    unkept = {id(segment) for segment in ends}
    kept = {name for name, n in of_segment.items() if id(segments[n]) not in unkept}
    leaves = {key: None for key in graph if isinstance(key, tuple) and key[0] in kept}
    needed: list[set[int]] = [set() for _ in segments]

    def look_at(keys: Iterable[Any], own: Mapping[str, da.Array]) -> None:
        """Add the blocks of other segments that some results of one depend on."""
        inner = {key: task for key, task in graph.items() if key not in leaves or key[0] in own}
        used, _ = cull({**leaves, **inner}, [*keys])
        for name, block in {key[:2] for key in used if key in leaves and key[0] not in own}:
            number = of_segment[name]
            needed[number] |= _same_planes(outputs[number][name], block, segments[number].cube)

    look_at(flatten([array.__dask_keys__() for array in arrays.values()]), {})
    for number in reversed(range(len(outputs))):
        sizes = block_sizes(segments[number].cube)
        own = {n: array.rechunk({0: sizes}) for n, array in outputs[number].items()} if needed[number] else {}
        for array in own.values():
            graph.update(array.__dask_graph__())
        rows = [array.__dask_keys__() for array in own.values()]
        look_at(flatten([keys[block] for keys in rows for block in needed[number]]), outputs[number])
    return [sorted(blocks) for blocks in needed]


def _same_planes(array: da.Array, block: int, cube: xr.Dataset) -> set[int]:
    """Return the blocks of a cube with the planes of a block of one of its arrays, which may be larger."""
    first, last = (sum(array.chunks[0][:n]) for n in (block, block + 1))
    borders = [*accumulate(block_sizes(cube), initial=0)]
    return {*range(bisect_right(borders, first) - 1, bisect_left(borders, last))}


def _lazy_arrays(cubes: Sequence[xr.Dataset]) -> dict[str, da.Array]:
    """Return the lazy arrays of cubes by name."""
    arrays = (variable.data for cube in cubes for variable in cube.data_vars.values())
    return {array.name: array for array in arrays if isinstance(array, da.Array)}


def in_memory(
    cubes: Mapping[str, xr.Dataset], planes: Sequence[int], label: str, computer: BlockComputer
) -> dict[str, xr.Dataset]:
    """Compute the chosen planes of cubes, one task for each plane, which shares what it computes."""
    chosen = {name: planes_at(cube, planes) for name, cube in cubes.items()}
    arrays = [*_lazy_arrays([*chosen.values()]).items()]
    joined = xr.Dataset(
        {
            name: ((WAVELENGTH, *(f"{name}_{i}" for i in range(1, a.ndim))), a.rechunk({0: 1}))
            for name, a in arrays
        }
    )
    values: dict[str, Any] = {}
    if arrays:
        work = over_blocks(joined, _together, [name for name, _ in arrays], "object")
        first = next(iter(chosen.values()))
        rows = dict(
            computer.compute(label, work, range(len(planes)), describe_blocks(first.chunk({WAVELENGTH: 1})))
        )
        for i, (name, _) in enumerate(arrays):
            values[name] = np.concatenate([rows[n][i] for n in range(len(planes))])

    def loaded(variable: xr.Variable) -> xr.Variable:
        if not isinstance(variable.data, da.Array):
            return variable
        return xr.Variable(variable.dims, values[variable.data.name], variable.attrs)

    return {
        name: cube.assign({v: loaded(cube[v].variable) for v in cube.data_vars})
        for name, cube in chosen.items()
    }


def _together(position: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
    """Return the blocks of all arrays as one item."""
    item = np.empty(1, object)
    item[0] = arrays
    return item
