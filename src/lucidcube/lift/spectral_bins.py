"""Map the kernel of rebinning over blocks of output planes, each made from a range of input planes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from lucidcube.cube import CHANNEL, UNITS, WAVELENGTH, describe_planes
from lucidcube.errors import StageError, UserError
from lucidcube.lift.lazy_arrays import from_ranges


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
    """
    units = str(cube[WAVELENGTH].attrs.get(UNITS, "m"))
    ranges, calls, planes = [], [], []
    for first in range(0, len(reach), block):
        last = min(first + block, len(reach))
        lo, hi = min(r[0] for r in reach[first:last]), max(r[1] for r in reach[first:last])
        where = describe_planes(cube[CHANNEL].values[lo:hi], cube[WAVELENGTH].values[lo:hi], units)
        ranges.append((lo, hi))
        calls.append(_Bins(stage, kernel, where, weights(first, last, lo, hi)))
        planes.append(last - first)
    variables = [cube[name].variable for name in inputs]
    arrays: list[Any]
    if isinstance(variables[0].data, da.Array):
        results = [(v.shape[1:], "float32") for v in variables]
        arrays = from_ranges(stage, calls, planes, ranges, variables, results)
    else:
        parts = [
            call(*(v.data[lo:hi] for v in variables)) for call, (lo, hi) in zip(calls, ranges, strict=True)
        ]
        arrays = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
    return dict(zip(inputs, arrays, strict=True))


@dataclass(frozen=True)
class _Bins:
    """Make one block of output planes from slabs of input planes, or objects sliced like these."""

    stage: str
    kernel: Callable[..., Any]
    planes: str
    table: np.ndarray

    def __call__(self, *slabs: Any) -> Any:
        try:
            return tuple(self.kernel(self.table, *slabs))
        except UserError:
            raise
        except Exception as error:
            raise StageError(self.stage, self.planes, f"{type(error).__name__}: {error}") from error
