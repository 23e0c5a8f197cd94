"""The lift of rebinning: a kernel that turns runs of input planes into output planes, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from lucidcube.cube import CHANNEL, UNITS, WAVELENGTH, X, Y, describe_planes
from lucidcube.errors import StageError, UserError
from lucidcube.lift.blocks import gufunc
from lucidcube.lift.lazy_arrays import Window, source_of


def over_bins(
    cube: xr.Dataset,
    stage: str,
    kernel: Callable[..., Any],
    inputs: Sequence[str],
    reach: Sequence[tuple[int, int]],
    weights: Callable[[int, int, int, int], np.ndarray],
    *,
    block: int,
) -> dict[str, Any]:
    """Apply a kernel that turns runs of input planes into output planes.

    Each block of output planes is made of the input planes ``lo`` to ``hi`` that it needs: a slab
    read once, plus the few that it shares with its neighbours.

    Parameters
    ----------
    cube, stage, inputs
        As for `over_planes`; the inputs are cubes (wavelength, y, x).
    kernel
        ``kernel(weights, *slabs)`` with weights (output planes, input planes) and slabs
        (input planes, y, x), arrays or anything that is sliced like one; returns one array
        (output planes, y, x) float32 for each input.
    reach
        For each output plane the run of input planes that it needs, ``(lo, hi)``.
    weights
        ``weights(first, last, lo, hi)`` makes the weights of output planes first to last (exclusive)
        on input planes lo to hi.
    block
        Output planes per block.

    Returns
    -------
    dict
        Array by name.
    """
    units = str(cube[WAVELENGTH].attrs.get(UNITS, "m"))
    lazy = isinstance(cube[inputs[0]].data, da.Array)
    sources = [source_of(cube[name].variable) for name in inputs]
    calls = []
    for first in range(0, len(reach), block):
        last = min(first + block, len(reach))
        lo, hi = min(r[0] for r in reach[first:last]), max(r[1] for r in reach[first:last])
        where = describe_planes(cube[CHANNEL].values[lo:hi], cube[WAVELENGTH].values[lo:hi], units)
        windows = () if None in sources else tuple(Window(source, lo, hi) for source in sources)
        slabs = [] if windows else [cube[name].data[lo:hi] for name in inputs]
        calls.append((_Bins(stage, kernel, where, windows, weights(first, last, lo, hi)), slabs))
    if lazy and None not in sources:
        tables = np.concatenate([call.table.reshape(-1) for call, _ in calls])
        name = f"{stage}-{tokenize(kernel, sources, reach, block, tables)}"
        arrays = _unfed([call for call, _ in calls], cube.sizes[Y], cube.sizes[X], len(inputs), name)
    else:
        parts = [_fed(call, slabs) if lazy else call(*slabs) for call, slabs in calls]
        join = da.concatenate if lazy else np.concatenate
        arrays = [join(pieces) for pieces in zip(*parts, strict=True)]
    return dict(zip(inputs, arrays, strict=True))


def _fed(call: _Bins, slabs: Sequence[da.Array]) -> Sequence[da.Array]:
    """Blocks of output planes, lazily, from lazy slabs of input planes."""
    return gufunc(
        call,
        [("j", "y", "x")] * len(slabs),
        [("i", "y", "x")] * len(slabs),
        [s.rechunk({0: -1, 1: -1, 2: -1}) for s in slabs],
        meta=tuple(np.empty((0, 0, 0), np.float32) for _ in slabs),
        output_sizes={"i": len(call.table)},
    )


def _unfed(calls: Sequence[_Bins], rows: int, columns: int, count: int, name: str) -> list[da.Array]:
    """Arrays of output planes, lazily, from calls that read their input themselves.

    A few layers for all of the calls: a generalised ufunc for each would take longer than many a call.
    """
    boxes = np.empty(len(calls), object)
    boxes[:] = calls
    made = da.from_array(boxes, chunks=1, name=name).map_blocks(
        _called, dtype=object, meta=np.empty(0, object)
    )
    sizes = tuple(len(call.table) for call in calls)
    return [
        da.blockwise(
            _taken,
            "iyx",
            made,
            "i",
            number=number,
            new_axes={"y": rows, "x": columns},
            adjust_chunks={"i": sizes},
            dtype=np.float32,
            meta=np.empty((0, 0, 0), np.float32),
        )
        for number in range(count)
    ]


def _called(box: np.ndarray) -> np.ndarray:
    """What the call in a box of one item returns, in another such box."""
    made = np.empty(1, object)
    made[0] = box[0]()
    return made


def _taken(box: np.ndarray, number: int) -> np.ndarray:
    array: np.ndarray = box[0][number]
    return array


@dataclass(frozen=True)
class _Bins:
    """One block of output planes made of windows of files, or of slabs of arrays."""

    stage: str
    kernel: Callable[..., Any]
    where: str
    windows: tuple[Window, ...]
    table: np.ndarray

    def __call__(self, *slabs: np.ndarray) -> Any:
        try:
            return tuple(self.kernel(self.table, *self.windows, *slabs))
        except UserError:
            raise
        except Exception as error:
            raise StageError(self.stage, self.where, f"{type(error).__name__}: {error}") from error
