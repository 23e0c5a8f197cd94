"""Map kernels over windows of planes, for stages that compare a plane with its neighbours in wavelength.

The planes of a cube are divided into groups of `GROUP`, counted from the first plane. All planes of a group
share one window: the group and `halo` planes on either side, or as many planes at the ends of the cube. The
window of a plane therefore depends on its index alone, and the result does not depend on how the cube is
chunked; a block that cuts a group only repeats the work that the planes of the group share.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lucidcube.cube import CHANNEL, UNITS, WAVELENGTH, X, Y, block_sizes
from lucidcube.lift.blocks import GROUP, Output, naming_planes, nan_for_inf, planes_of_group
from lucidcube.lift.lazy_arrays import Window, source_of


def window_of(group: int, planes: int, halo: int) -> tuple[int, int]:
    """Return the range of planes of the window of a group: the first, and the one after the last."""
    length = min(GROUP + 2 * halo, planes)
    first = min(max(GROUP * group - halo, 0), planes - length)
    return first, first + length


def planes_read(block: int, planes: int, halo: int) -> int:
    """Return the number of planes that a block of planes needs at most, in a cube of `planes`."""
    return min(max(block, GROUP) + 2 * halo, planes)


def over_windows(
    cube: xr.Dataset,
    stage: str,
    kernel: Callable[..., Any],
    inputs: Sequence[str],
    outputs: Mapping[str, Output],
    *,
    optional: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
    halo: int = 15,
    whole_groups: bool = False,
) -> dict[str, xr.Variable]:
    """Apply a kernel to every window of planes.

    Parameters
    ----------
    cube, stage, inputs, outputs, optional, sizes
        As for `lucidcube.lift.blocks.over_planes`.
    kernel
        Function ``kernel(*inputs, *optional, wanted=slice)`` of the arrays of a window, (planes, ...), and of
        the planes for which a result is wanted, as a slice of the window. It returns the outputs for these
        planes in order, or a bare array if there is only one. Infinities are replaced by NaN before the call.
        The results for planes without any finite number in the first input are replaced by `Output.blank`,
        and the kernel is not called if there are no other planes.
    halo
        Number of planes that a window contains on either side of its group.
    whole_groups
        Whether the blocks of the result are whole groups, if memory allows, and not the blocks of the cube.
        This is for kernels whose cost is that of the window, which smaller blocks would repeat.

    Returns
    -------
    dict
        Variables by name, ready to be assigned to the cube; lazy if an input is.

    Raises
    ------
    CubeError, StageError
        If the kernel raises an exception, here or when the result is computed; the message names the planes.
    """
    planes = cube.sizes[WAVELENGTH]
    lengths: dict[Any, int] = {**cube.sizes, **(sizes or {})}
    present = [name for name in (*inputs, *optional) if name in cube.variables]
    job = _Job(
        stage=stage,
        kernel=kernel,
        present=tuple(present),
        arguments=(*inputs, *optional),
        results=tuple((tuple(lengths[d] for d in o.dims), o.dtype, o.blank) for o in outputs.values()),
        planes=planes,
        halo=halo,
        channel=cube[CHANNEL].values,
        wavelength=cube[WAVELENGTH].values,
        units=str(cube[WAVELENGTH].attrs.get(UNITS, "m")),
    )
    variables = [cube[name].variable for name in present]
    if any(v.chunks for v in variables):
        block = planes_of_group(cube.sizes[Y] * cube.sizes[X])
        sizes_of_groups = [min(block, planes - first) for first in range(0, planes, block)]
        arrays: Sequence[Any] = _lazy(job, variables, sizes_of_groups if whole_groups else block_sizes(cube))
    else:
        arrays = _Block(job, 0, planes, 0)(*(v.values for v in variables))
    dims = [(WAVELENGTH, *o.dims) for o in outputs.values()]
    return {
        name: xr.Variable(d, array, dict(o.attrs))
        for (name, o), d, array in zip(outputs.items(), dims, arrays, strict=True)
    }


@dataclass(frozen=True)
class _Job:
    """What is the same for all blocks; `results` holds the shape, dtype and blank of each output."""

    stage: str
    kernel: Callable[..., Any]
    present: tuple[str, ...]
    arguments: tuple[str, ...]
    results: tuple[tuple[tuple[int, ...], str, float | str], ...]
    planes: int
    halo: int
    channel: np.ndarray
    wavelength: np.ndarray
    units: str

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of planes that the block from first to last (exclusive) needs."""
        groups = first // GROUP, (last - 1) // GROUP
        return window_of(groups[0], self.planes, self.halo)[0], window_of(groups[1], self.planes, self.halo)[
            1
        ]


@dataclass(frozen=True)
class _Block:
    """Compute the planes from `first` to `last` (exclusive) from arrays that begin at the plane `start`.

    `windows` are the arrays that the block reads itself, or None for each array that it is called with.
    """

    job: _Job
    first: int
    last: int
    start: int
    windows: tuple[Window | None, ...] = ()

    def __call__(self, *given: np.ndarray) -> tuple[np.ndarray, ...]:
        computed = iter(given)
        arrays = [next(computed) if w is None else w[:] for w in self.windows] if self.windows else given
        arrays = [nan_for_inf(np.asarray(array)) for array in arrays]
        made = tuple(
            np.empty((self.last - self.first, *shape), dtype) for shape, dtype, _ in self.job.results
        )
        for first, last in self._parts():
            job = self.job
            with naming_planes(job.stage, job.channel[first:last], job.wavelength[first:last], job.units):
                parts = self._part(first, last, arrays)
            for array, part in zip(made, parts, strict=True):
                array[first - self.first : last - self.first] = part
        return made

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the block's planes that share a window."""
        first = self.first
        while first < self.last:
            last = min((first // GROUP + 1) * GROUP, self.last)
            yield first, last
            first = last

    def _part(self, first: int, last: int, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        low, high = window_of(first // GROUP, self.job.planes, self.job.halo)
        values = {
            n: a[low - self.start : high - self.start] for n, a in zip(self.job.present, arrays, strict=True)
        }
        wanted = slice(first - low, last - low)
        leading = values[self.job.present[0]][wanted]
        blank = ~np.isfinite(leading).any(axis=tuple(range(1, leading.ndim)))
        if blank.all():
            made = [np.empty((last - first, *shape), dtype) for shape, dtype, _ in self.job.results]
        else:
            result = self.job.kernel(*(values.get(n) for n in self.job.arguments), wanted=wanted)
            made = list((result,) if len(self.job.results) == 1 else result)
        if blank.any():
            for i, (_, dtype, fill) in enumerate(self.job.results):
                made[i] = np.array(made[i], dtype)
                made[i][blank] = values[fill][wanted][blank] if isinstance(fill, str) else fill
        return made


def _lazy(job: _Job, variables: Sequence[xr.Variable], blocks: Sequence[int]) -> list[da.Array]:
    """Make lazy arrays; variables that have a source are read from there, past dask's chunks."""
    sources = [source_of(v) for v in variables]
    pieces: list[list[da.Array]] = [[] for _ in job.results]
    ends = np.cumsum(blocks).tolist()
    token = dask.base.tokenize(
        job.stage, job.kernel, job.halo, [getattr(v.data, "name", v.data) for v in variables]
    )
    for number, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        low, high = job.reach(first, last)
        windows = tuple(None if source is None else Window(source, low, high) for source in sources)
        slabs = [v[low:high].data for v, window in zip(variables, windows, strict=True) if window is None]
        call = dask.delayed(_Block(job, first, last, low, windows), traverse=False, pure=False)
        parts = call(*slabs, dask_key_name=f"{job.stage}-{token}-{number}")
        for i, (shape, dtype, _) in enumerate(job.results):
            meta = np.empty((0,) * (1 + len(shape)), dtype)
            pieces[i].append(da.from_delayed(parts[i], (last - first, *shape), meta=meta))
    return [da.concatenate(p) for p in pieces]
