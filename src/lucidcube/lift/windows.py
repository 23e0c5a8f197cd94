"""Map kernels over windows of planes, for stages that compare a plane with its neighbours in wavelength.

The planes of a cube are divided into groups of `GROUP`, counted from the first plane. All planes of a group
share one window: the group and `halo` planes on either side, or as many planes at the ends of the cube. The
window of a plane therefore depends on its index alone, and the result does not depend on how the cube is
chunked; a block that cuts a group only repeats the work that the planes of the group share.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from lucidcube.cube import CHANNEL, WAVELENGTH, X, Y, block_sizes
from lucidcube.lift.blocks import GROUP, Job, Output, planes_of_group
from lucidcube.lift.lazy_arrays import from_ranges
from lucidcube.lift.planes import jointly, naming_planes, nan_for_inf


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
    together: Callable[..., Sequence[Sequence[np.ndarray]] | None] | None = None,
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
    together
        Function that takes the windows of a block, each as a list of what the kernel takes, and a list of the
        slices of wanted planes. It returns what the kernel does for each window, or None if the kernel is to
        be called for one after the other. Its results may depend on the planes of a block, by rounding.

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
    job = _Windows.of(
        *given, planes=planes, halo=halo, channel=axes[0], wavelength=axes[1], together=together
    )
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
    together: Callable[..., Sequence[Sequence[np.ndarray]] | None] | None

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of planes that the block from first to last (exclusive) needs."""
        low, _ = window_of(first // GROUP, self.planes, self.halo)
        _, high = window_of((last - 1) // GROUP, self.planes, self.halo)
        return low, high


class _Part(NamedTuple):
    """Planes of a block that share a window, from `first` to `last` (exclusive)."""

    first: int
    last: int
    values: Mapping[str, np.ndarray]
    """The variables of the window."""
    wanted: slice
    """The planes in the window."""
    blank: np.ndarray
    """Which of them have no finite number in the first input."""


@dataclass(frozen=True)
class _Block:
    """Compute the planes from `first` to `last` (exclusive)."""

    job: _Windows
    first: int
    last: int

    def __call__(self, *given: Any) -> tuple[np.ndarray, ...]:
        """Return the outputs, from arrays of the planes within reach or objects that are sliced like them."""
        arrays = [nan_for_inf(np.asarray(array[:])) for array in given]
        made, parts = self.job.empty(self.last - self.first), [*self._parts(arrays)]
        found = self._together([part for part in parts if not part.blank.all()])
        for part in parts:
            with self._naming([part]):
                results = self._results(part, found.get(part.first))
            for array, result in zip(made, results, strict=True):
                array[part.first - self.first : part.last - self.first] = result
        return made

    def _parts(self, arrays: Sequence[np.ndarray]) -> Iterator[_Part]:
        """Yield the planes of the block that share a window."""
        job, (start, _), first = self.job, self.job.reach(self.first, self.last), self.first
        while first < self.last:
            last = min((first // GROUP + 1) * GROUP, self.last)
            low, high = window_of(first // GROUP, job.planes, job.halo)
            values = {n: a[low - start : high - start] for n, a in zip(job.present, arrays, strict=True)}
            wanted = slice(first - low, last - low)
            leading = values[job.present[0]][wanted]
            blank = ~np.isfinite(leading).any(axis=tuple(range(1, leading.ndim)))
            yield _Part(first, last, values, wanted, blank)
            first = last

    def _together(self, parts: Sequence[_Part]) -> dict[int, Sequence[np.ndarray]]:
        """Return what `together` computes by the first plane of a part; nothing without such a function."""
        function = self.job.together
        if function is None or not parts:
            return {}

        def compute(parts: Sequence[_Part]) -> Sequence[Sequence[np.ndarray]] | None:
            windows = [[part.values.get(name) for name in self.job.arguments] for part in parts]
            return function(windows, [part.wanted for part in parts])

        found = jointly(compute, parts, self._naming)
        return {} if found is None else {p.first: f for p, f in zip(parts, found, strict=True)}

    def _naming(self, parts: Sequence[_Part]) -> AbstractContextManager[None]:
        """Name the planes from the first part to the last in errors."""
        planes = slice(parts[0].first, parts[-1].last)
        return naming_planes(
            self.job.stage, self.job.channel[planes], self.job.wavelength[planes], self.job.units
        )

    def _results(self, part: _Part, found: Sequence[np.ndarray] | None) -> Sequence[np.ndarray]:
        """Return the outputs for a part, which are computed unless they were found."""
        job, blank = self.job, part.blank
        if blank.all():
            found = job.empty(part.last - part.first)
        elif found is None:
            found = job.call(part.values, wanted=part.wanted)
        made = list(found)
        if blank.any():
            for i, (_, dtype, fill) in enumerate(job.results):
                made[i] = np.array(made[i], dtype)
                made[i][blank] = part.values[fill][part.wanted][blank] if isinstance(fill, str) else fill
        return made
