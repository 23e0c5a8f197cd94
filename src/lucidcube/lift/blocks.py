"""The lift: kernels of planes become lazy maps over blocks of a cube. Only this module and `bins` map.

A block is a run of whole planes. Every function here takes a cube with NumPy or with dask data and
returns what the stage produces in the same kind; with dask nothing is computed. Stages promise that
their result does not depend on how a cube is chunked, and the lift keeps it: a kernel sees one
plane, or for rebinning the planes of its output block, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from dask.array.gufunc import apply_gufunc

from lucidcube.cube import CHANNEL, PLANE, UNITS, WAVELENGTH, block_sizes, describe_planes
from lucidcube.errors import CubeError, StageError, UserError

BLOCK_BYTES = 8 << 20
"""Aim for the size of a block of one float32 variable: smaller ones cost more overhead than work."""
MIN_BLOCKS = 16
"""A cube is cut into about this many blocks at least, so that every core has something to do."""


_aim: ContextVar[int | None] = ContextVar("block_bytes", default=None)


@contextmanager
def blocks_of(nbytes: int) -> Iterator[None]:
    """Within this, aim for blocks of so many bytes, because a worker's memory holds no larger ones."""
    token = _aim.set(nbytes)
    try:
        yield
    finally:
        _aim.reset(token)


def planes_per_block(planes: int, pixels: int) -> int:
    """Planes in a block of a cube, as far as memory allows the same on any machine."""
    return max(1, min((_aim.get() or BLOCK_BYTES) // (4 * pixels), -(-planes // MIN_BLOCKS)))


class Output(NamedTuple):
    """One variable that a kernel returns.

    Attributes
    ----------
    dims
        Dimensions within a plane: ``("y", "x")``, ``()`` for a number per plane, or new ones.
    dtype
        Of the computed array.
    blank
        What a wholly NaN plane gives: a number, or the name of the input passed on unchanged.
    attrs
        Of the variable.
    """

    dims: tuple[str, ...] = PLANE
    dtype: str = "float32"
    blank: float | str = np.nan
    attrs: Mapping[str, Any] = {}


def over_planes(
    cube: xr.Dataset,
    stage: str,
    kernel: Callable[..., Any],
    inputs: Sequence[str],
    outputs: Mapping[str, Output],
    *,
    optional: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> dict[str, xr.Variable]:
    """Apply a kernel to every plane.

    Parameters
    ----------
    cube
        With the variables (or coordinates) named in `inputs`.
    stage
        Name, for errors.
    kernel
        ``kernel(*inputs, *optional)`` for one plane: 2-D arrays, or scalars of 1-D variables; returns
        the outputs in order, a bare value if there is one. Inf never reaches it, nor does a plane
        without a single finite number in the first input.
    inputs, optional
        Names; an optional variable that the cube lacks reaches the kernel as None.
    outputs
        What the kernel returns, by name.
    sizes
        Lengths of the output dimensions that no input has, or that come out longer or shorter.

    Returns
    -------
    dict
        Variable by name, to be assigned to the cube.
    """
    present = [name for name in optional if name in cube.variables]
    names = [*inputs, *present]
    lengths = {**{str(d): n for d, n in cube.sizes.items()}, **(sizes or {})}
    block = _Planes(
        stage=stage,
        kernel=kernel,
        slots=tuple(names.index(n) if n in names else None for n in (*inputs, *optional)),
        names=tuple(names),
        shapes=tuple(tuple(lengths[d] for d in o.dims) for o in outputs.values()),
        dtypes=tuple(o.dtype for o in outputs.values()),
        blanks=tuple(o.blank for o in outputs.values()),
        units=str(cube[WAVELENGTH].attrs.get(UNITS, "m")),
    )
    arrays = _aligned(cube, [CHANNEL, WAVELENGTH, *names])
    if isinstance(arrays[-1], da.Array):
        results = _lazy(block, cube, names, arrays, outputs, lengths)
    else:
        results = block(*arrays)
    return {
        name: xr.Variable((WAVELENGTH, *o.dims), result, dict(o.attrs))
        for (name, o), result in zip(outputs.items(), results, strict=True)
    }


def over_blocks(
    cube: xr.Dataset, function: Callable[..., np.ndarray], variables: Sequence[str], dtype: str
) -> da.Array:
    """Call ``function(channel, *arrays)`` once per block for its effect; a lazy array of one item per block.

    Parameters
    ----------
    cube
        With dask data.
    function
        Gets the positions of the block's planes in the cube and the block of each variable; returns
        an array of length 1.
    variables
        Names; each has `wavelength` first and whole planes in a chunk.
    dtype
        Of what the function returns.

    Returns
    -------
    dask.array.Array
        (blocks,)
    """
    sizes = block_sizes(cube)
    position = da.arange(cube.sizes[WAVELENGTH], chunks=(sizes,))
    arguments: list[Any] = [position, "i"]
    for number, name in enumerate(variables):
        axes = ["i", *(f"{d}_{number}" for d in cube[name].dims[1:])]
        arguments += [_whole_planes(cube[name], sizes), axes]
    return da.blockwise(
        _Bare(function),
        "i",
        *arguments,
        adjust_chunks={"i": 1},
        concatenate=False,  # which would copy the one piece that there is
        dtype=dtype,
        meta=np.empty((0,), dtype),
    )


@dataclass(frozen=True)
class _Bare:
    """A function of arrays, given each in as many lists of length one as it has axes within a plane."""

    function: Callable[..., np.ndarray]

    def __call__(self, *nested: Any) -> np.ndarray:
        return self.function(*map(_unnested, nested))


def _unnested(value: Any) -> Any:
    while isinstance(value, list):
        (value,) = value
    return value


@dataclass(frozen=True)
class _Planes:
    """The planes of a block, one kernel call each."""

    stage: str
    kernel: Callable[..., Any]
    slots: tuple[int | None, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    blanks: tuple[float | str, ...]
    units: str

    def __call__(self, channel: np.ndarray, wavelength: np.ndarray, *blocks: np.ndarray) -> Any:
        count = len(channel)
        made = [np.empty((count, *s), d) for s, d in zip(self.shapes, self.dtypes, strict=True)]
        for i in range(count):
            try:
                results = self._plane([b[i] for b in blocks])
            except UserError as error:
                where = describe_planes(channel[i : i + 1], wavelength[i : i + 1], self.units)
                raise CubeError(*(f"{self.stage}, {where}: {p}" for p in error.problems)) from None
            except Exception as error:
                where = describe_planes(channel[i : i + 1], wavelength[i : i + 1], self.units)
                raise StageError(self.stage, where, f"{type(error).__name__}: {error}") from error
            for array, result in zip(made, results, strict=True):
                array[i] = result
        return tuple(made)

    def _plane(self, values: list[Any]) -> Sequence[Any]:
        values = [_nan_for_inf(v) for v in values]
        if not np.isfinite(values[0]).any():
            return [values[self.names.index(b)] if isinstance(b, str) else b for b in self.blanks]
        results = self.kernel(*(None if s is None else values[s] for s in self.slots))
        return (results,) if len(self.shapes) == 1 else results


def _nan_for_inf(value: Any) -> Any:
    if getattr(value, "ndim", 0) and value.dtype.kind == "f":
        infinite = np.isinf(value)
        if infinite.any():
            return np.where(infinite, value.dtype.type(np.nan), value)
    return value


def _whole_planes(variable: xr.DataArray, sizes: tuple[int, ...]) -> da.Array:
    """The variable as a dask array in blocks of these sizes, every other axis in one piece."""
    data = variable.data
    chunks = (sizes, *((n,) for n in data.shape[1:]))
    if not isinstance(data, da.Array):
        return da.from_array(data, chunks=chunks)
    return data if data.chunks == chunks else data.rechunk(chunks)


def _aligned(cube: xr.Dataset, names: Sequence[str]) -> list[Any]:
    """The named variables, all dask in the same blocks if any of them is dask, else all NumPy."""
    if not any(isinstance(cube[name].data, da.Array) for name in names):
        return [cube[name].data for name in names]
    leader = next(cube[n].data for n in names if isinstance(cube[n].data, da.Array))
    return [_whole_planes(cube[name], leader.chunks[0]) for name in names]


def _lazy(
    block: _Planes,
    cube: xr.Dataset,
    names: Sequence[str],
    arrays: Sequence[da.Array],
    outputs: Mapping[str, Output],
    lengths: Mapping[str, int],
) -> Sequence[da.Array]:
    """The block function over dask arrays, by way of a generalised ufunc (several outputs, one call)."""
    inside = [cube[name].dims[1:] for name in names]
    known = {d for dims in inside for d in dims}

    def name(dim: str) -> str:
        """A dimension that changes its length is another one inside the ufunc."""
        return dim if dim in known and lengths[dim] == cube.sizes[dim] else f"new_{dim}"

    return gufunc(
        block,
        [(), (), *inside],
        [[name(d) for d in o.dims] for o in outputs.values()],
        arrays,
        meta=tuple(np.empty((0,) * (1 + len(o.dims)), o.dtype) for o in outputs.values()),
        output_sizes={name(d): lengths[d] for o in outputs.values() for d in o.dims if name(d) != d},
    )


@dataclass(frozen=True)
class _Only:
    """A function that returns the single item of what another returns."""

    function: Callable[..., Any]

    def __call__(self, *arrays: Any) -> Any:
        (result,) = self.function(*arrays)
        return result


def gufunc(
    function: Callable[..., Any],
    inside: Sequence[Sequence[Any]],
    made: Sequence[Sequence[Any]],
    arrays: Sequence[da.Array],
    **kwargs: Any,
) -> Sequence[da.Array]:
    """`apply_gufunc` for a function that returns a tuple, whatever its length."""
    signature = "->".join(
        ",".join("(" + ",".join(map(str, d)) + ")" for d in side) for side in (inside, made)
    )
    if len(made) > 1:
        return tuple(apply_gufunc(function, signature, *arrays, **kwargs))
    return (apply_gufunc(_Only(function), signature, *arrays, **{**kwargs, "meta": kwargs["meta"][0]}),)
