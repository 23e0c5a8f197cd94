"""Map the kernel of rebinning over blocks of output planes, each made from a range of input planes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from lucidcube.cube import CHANNEL, UNITS, WAVELENGTH, describe_planes
from lucidcube.errors import StageError, UserError
from lucidcube.lift.lazy_arrays import Window, source_of

_META, _RESULTS = np.empty((0, 0, 0), np.float32), np.empty(0, object)


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
    """Apply a kernel that combines ranges of input planes into output planes.

    Each block of output planes is made from the input planes ``lo`` to ``hi`` that it needs; neighbouring
    blocks share a few of them. They are read from the source of the variables where these have one.

    Parameters
    ----------
    cube, stage, inputs
        As for `over_planes`; the inputs are cubes (wavelength, y, x).
    kernel
        Function ``kernel(weights, *slabs)`` of the weights (output planes, input planes) and of slabs
        (input planes, y, x), which are arrays or can be sliced like arrays. It returns one array
        (output planes, y, x) float32 for each input.
    reach
        Range of input planes ``(lo, hi)`` that each output plane needs.
    weights
        Function ``weights(first, last, lo, hi)`` that returns the weights of the output planes first to last
        (exclusive) on the input planes lo to hi.
    block
        Number of output planes in a block.

    Returns
    -------
    dict
        Arrays by name.
    """
    units = str(cube[WAVELENGTH].attrs.get(UNITS, "m"))
    sources = [source_of(cube[name].variable) for name in inputs]
    calls, slabs = [], []
    for first in range(0, len(reach), block):
        last = min(first + block, len(reach))
        lo, hi = min(r[0] for r in reach[first:last]), max(r[1] for r in reach[first:last])
        planes = describe_planes(cube[CHANNEL].values[lo:hi], cube[WAVELENGTH].values[lo:hi], units)
        windows = () if None in sources else tuple(Window(source, lo, hi) for source in sources)
        calls.append(_Bins(stage, kernel, planes, weights(first, last, lo, hi), windows))
        slabs.append([] if windows else [cube[name].data[lo:hi] for name in inputs])
    if None not in sources:
        arrays = _from_sources(calls, len(inputs), cube[inputs[0]].shape[1:])
    elif isinstance(cube[inputs[0]].data, da.Array):
        arrays = _from_slabs(calls, slabs)
    else:
        parts = [call(*arrays) for call, arrays in zip(calls, slabs, strict=True)]
        arrays = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
    return dict(zip(inputs, arrays, strict=True))


def _from_sources(calls: Sequence[_Bins], count: int, sides: tuple[int, ...]) -> list[da.Array]:
    """Make lazy arrays of calls that read their input themselves, in a few layers for all calls."""
    boxed = np.empty(len(calls), object)
    boxed[:] = calls
    results = da.from_array(boxed, chunks=1, name=False).map_blocks(_call, dtype=object, meta=_RESULTS)
    chunks = (tuple(len(call.table) for call in calls), *((n,) for n in sides))
    return [
        results.map_blocks(itemgetter(i), chunks=chunks, new_axis=[1, 2], meta=_META) for i in range(count)
    ]


def _call(boxed: np.ndarray) -> Any:
    return boxed[0]()


def _from_slabs(calls: Sequence[_Bins], slabs: Sequence[Sequence[da.Array]]) -> list[da.Array]:
    """Make lazy arrays of calls on lazy slabs of input planes."""
    parts = []
    for call, arrays in zip(calls, slabs, strict=True):
        whole = [slab.rechunk(-1) for slab in arrays]
        results = da.map_blocks(call, *whole, dtype=object, meta=_RESULTS)
        chunks = (len(call.table), *whole[0].shape[1:])
        parts.append(
            [results.map_blocks(itemgetter(i), chunks=chunks, meta=_META) for i in range(len(whole))]
        )
    return [da.concatenate(pieces) for pieces in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _Bins:
    """Make one block of output planes from windows of files, or from the slabs that it is called with."""

    stage: str
    kernel: Callable[..., Any]
    planes: str
    table: np.ndarray
    windows: tuple[Window, ...] = ()

    def __call__(self, *slabs: np.ndarray) -> Any:
        try:
            return tuple(self.kernel(self.table, *self.windows, *slabs))
        except UserError:
            raise
        except Exception as error:
            raise StageError(self.stage, self.planes, f"{type(error).__name__}: {error}") from error
