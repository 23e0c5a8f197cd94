"""Map kernels over windows of planes, for stages that compare a plane with its neighbours in wavelength.

The planes of a cube are divided into groups of `GROUP`, counted from the first plane. All planes of a group
share one window: the group and `halo` planes on either side, or as many planes at the ends of the cube. The
window of a plane therefore depends on its index alone, and the result does not depend on how the cube is
chunked; a block that cuts a group only repeats the work that the planes of the group share.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from lucidcube.cube import CHANNEL, WAVELENGTH, X, Y, block_sizes
from lucidcube.lift.blocks import GROUP, Job, Output, planes_of_group
from lucidcube.lift.lazy_arrays import from_ranges
from lucidcube.lift.planes import naming_planes, nan_for_inf


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
    given = cube, stage, kernel, inputs, optional, outputs, sizes
    axes = cube[CHANNEL].values, cube[WAVELENGTH].values
    job = _Windows.of(*given, planes=planes, halo=halo, channel=axes[0], wavelength=axes[1])
    variables = [cube[name].variable for name in job.present]
    arrays: Sequence[Any]
    if any(isinstance(v.data, da.Array) for v in variables):
        block = planes_of_group(cube.sizes[Y] * cube.sizes[X])
        blocks: Sequence[int] = block_sizes(cube)
        if whole_groups:
            blocks = [min(block, planes - first) for first in range(0, planes, block)]
        last = np.cumsum(blocks).tolist()
        calls = [_Block(job, *ends) for ends in zip([0, *last[:-1]], last, strict=True)]
        ranges = [job.reach(call.first, call.last) for call in calls]
        results = [(shape, dtype) for shape, dtype, _ in job.results]
        arrays = from_ranges(stage, calls, blocks, ranges, variables, results)
    else:
        arrays = _Block(job, 0, planes)(*(v.values for v in variables))
    return {
        name: xr.Variable((WAVELENGTH, *o.dims), array, dict(o.attrs))
        for (name, o), array in zip(outputs.items(), arrays, strict=True)
    }


@dataclass(frozen=True)
class _Windows(Job):
    """What is the same for all blocks."""

    planes: int
    halo: int
    channel: np.ndarray
    wavelength: np.ndarray

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of planes that the block from first to last (exclusive) needs."""
        low, _ = window_of(first // GROUP, self.planes, self.halo)
        _, high = window_of((last - 1) // GROUP, self.planes, self.halo)
        return low, high


@dataclass(frozen=True)
class _Block:
    """Compute the planes from `first` to `last` (exclusive)."""

    job: _Windows
    first: int
    last: int

    def __call__(self, *given: Any) -> tuple[np.ndarray, ...]:
        """Return the outputs, from arrays of the planes within reach or objects that are sliced like them."""
        arrays = [nan_for_inf(np.asarray(array[:])) for array in given]
        job, made = self.job, self.job.empty(self.last - self.first)
        for first, last in self._parts():
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
        job, (start, _) = self.job, self.job.reach(self.first, self.last)
        low, high = window_of(first // GROUP, job.planes, job.halo)
        values = {n: a[low - start : high - start] for n, a in zip(job.present, arrays, strict=True)}
        wanted = slice(first - low, last - low)
        leading = values[job.present[0]][wanted]
        blank = ~np.isfinite(leading).any(axis=tuple(range(1, leading.ndim)))
        made = list(job.empty(last - first) if blank.all() else job.call(values, wanted=wanted))
        if blank.any():
            for i, (_, dtype, fill) in enumerate(job.results):
                made[i] = np.array(made[i], dtype)
                made[i][blank] = values[fill][wanted][blank] if isinstance(fill, str) else fill
        return made
