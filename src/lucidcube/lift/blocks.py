"""Map kernels over the blocks of a cube, lazily where the data are dask arrays.

A block is a run of whole planes. NumPy data give NumPy results; with dask data nothing is computed.
The result of a stage must not depend on how the cube is chunked, and the lift ensures this: a kernel receives
a single plane, or, for rebinning, the planes that its output block needs, in a fixed order. The exception are
planes computed together with an array library: rounding depends on the planes of their stack.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from lucidcube.cube import CHANNEL, PLANE, UNITS, WAVELENGTH, block_sizes
from lucidcube.lift.layers import Positions, in_memory, planes_of
from lucidcube.lift.planes import jointly, naming_planes, nan_for_inf

BLOCK_BYTES = 8 << 20
"""Size limit of a block of one float32 variable; with much smaller blocks the overhead dominates."""
MIN_BLOCKS = 16
"""A cube is divided into at least about this many blocks, so that every core has work."""
GROUP = 16
"""Number of neighbouring planes that share a window of planes; see `lucidcube.lift.windows`."""

_block_bytes: ContextVar[int | None] = ContextVar("block_bytes", default=None)
_least_blocks: ContextVar[int | None] = ContextVar("least_blocks", default=None)


@contextmanager
def limit_block_bytes(nbytes: int, least_blocks: int | None = None) -> Iterator[None]:
    """Limit blocks of a float32 variable to this size within the context, as memory requires or allows.

    There are about `least_blocks` of them at least, or `MIN_BLOCKS`.
    """
    tokens = _block_bytes.set(nbytes), _least_blocks.set(least_blocks)
    try:
        yield
    finally:
        _block_bytes.reset(tokens[0])
        _least_blocks.reset(tokens[1])


def planes_per_block(planes: int, pixels: int) -> int:
    """Return the number of planes in a block; unless memory is short, or for a GPU, it is always the same.

    It divides `GROUP` or is a multiple of it, so that blocks and groups of planes have common borders.
    """
    limit = _block_bytes.get()
    limit = BLOCK_BYTES if limit is None else limit
    least = _least_blocks.get() or MIN_BLOCKS
    most = max(1, min(limit // (4 * pixels), -(-planes // least)))
    return most // GROUP * GROUP if most >= GROUP else 1 << (most.bit_length() - 1)


def planes_of_group(pixels: int) -> int:
    """Return the number of planes in a block that is a whole group, or the part of it that memory allows."""
    return min(GROUP, planes_per_block(GROUP * MIN_BLOCKS, pixels))


class Output(NamedTuple):
    """One variable that a kernel returns."""

    dims: tuple[str, ...] = PLANE
    """Dimensions within a plane: ``("y", "x")``, ``()`` for one number per plane, or new ones."""
    dtype: str = "float32"
    blank: float | str = np.nan
    """Result for a plane that is entirely NaN: a number, or the name of the input to return unchanged."""
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
    together: Callable[..., Sequence[Any] | None] | None = None,
) -> dict[str, xr.Variable]:
    """Apply a kernel to every plane.

    Parameters
    ----------
    cube
        Cube with the variables or coordinates named in `inputs`.
    stage
        Name of the stage, for error messages and for the names of the tasks.
    kernel
        Function ``kernel(*inputs, *optional)`` of the arrays of one plane, or of scalars for 1-D variables.
        It returns the outputs in order, or a bare value if there is only one. Infinities are replaced by
        NaN before the call, and a plane without any finite number in the first input is not passed to it.
    inputs, optional
        Names of variables. The kernel receives None for an optional variable that the cube does not have.
    outputs
        Description of what the kernel returns, by name.
    sizes
        Lengths of the output dimensions that no input has or whose length changes.
    together
        Function that takes what the kernel takes, for several planes: a list for each argument, or None. It
        returns what the kernel is given as `found` for each of them, or None if the kernel is to compute the
        planes one by one. Its results may depend on the planes of a block, by rounding.

    Returns
    -------
    dict
        Variables by name, ready to be assigned to the cube.

    Raises
    ------
    CubeError, StageError
        If the kernel raises an exception, here or when the result is computed; the message names the plane.
    """
    block = _PlaneByPlane.of(cube, stage, kernel, inputs, optional, outputs, sizes, together=together)
    variables = [xr.Variable(cube[n].dims, cube[n].data) for n in (CHANNEL, WAVELENGTH, *block.present)]
    chunks = next((v.chunks[0] for v in variables if v.chunks), None)
    if chunks is not None:
        variables = [_in_blocks(v, chunks) for v in variables]
    made = xr.apply_ufunc(
        block,
        *variables,
        input_core_dims=[v.dims[1:] for v in variables],
        output_core_dims=[o.dims for o in outputs.values()],
        exclude_dims={d for v in variables for d in v.dims[1:] if d in (sizes or {})},
        keep_attrs=False,
        dask="parallelized",
        dask_gufunc_kwargs={
            "meta": tuple(np.empty((0,) * (1 + len(o.dims)), o.dtype) for o in outputs.values()),
            "output_sizes": {
                d: n
                for o, (shape, *_) in zip(outputs.values(), block.results, strict=True)
                for d, n in zip(o.dims, shape, strict=True)
            },
        },
    )
    made = made if isinstance(made, tuple) else (made,)
    return {
        name: xr.Variable(variable.dims, variable.data, dict(output.attrs))
        for (name, output), variable in zip(outputs.items(), made, strict=True)
    }


def over_blocks(
    cube: xr.Dataset, function: Callable[..., np.ndarray], variables: Sequence[str], dtype: str
) -> da.Array:
    """Call ``function(positions, *arrays)`` once for each block of a lazy cube.

    The first dimension of each variable is `wavelength`. The function receives the positions of the block's
    planes in the cube and the block of each variable. It returns an array of length 1 and of the given dtype;
    so the result has one item per block.
    """
    sizes = block_sizes(cube)
    planes = cube.sizes[WAVELENGTH]
    arguments: list[Any] = [planes_of(Positions(planes), sizes, f"positions-{tokenize(sizes)}"), "i"]
    for number, name in enumerate(variables):
        data = _in_blocks(cube[name].variable, sizes).data
        arguments += [data, ["i", *(f"{axis}_{number}" for axis in range(1, data.ndim))]]
    return da.blockwise(
        _OnChunks(function),
        "i",
        *arguments,
        adjust_chunks={"i": 1},
        concatenate=False,  # which would copy the only chunk
        dtype=dtype,
        meta=np.empty((0,), dtype),
    )


def _in_blocks(variable: xr.Variable, sizes: tuple[int, ...]) -> xr.Variable:
    """Chunk a variable into blocks of whole planes."""
    if isinstance(variable.data, np.ndarray):
        name = f"planes-{tokenize(variable.data, sizes)}"
        lazy = in_memory(variable.data, sizes, name)
        return xr.Variable(variable.dims, lazy, variable.attrs)
    return variable.chunk(dict.fromkeys(variable.dims[1:], -1) | {WAVELENGTH: sizes})


@dataclass(frozen=True)
class _OnChunks:
    """Call a function of arrays that dask passes as lists of one chunk, nested once per contracted axis."""

    function: Callable[..., np.ndarray]

    def __call__(self, *nested: Any) -> np.ndarray:
        return self.function(*map(_only_item, nested))


def _only_item(nested: Any) -> Any:
    while isinstance(nested, list):
        (nested,) = nested
    return nested


@dataclass(frozen=True)
class Job:
    """A kernel with its arguments, of which only some are present in the cube.

    `results` holds the shape within a plane, the dtype and the blank of each output.
    """

    stage: str
    kernel: Callable[..., Any]
    present: tuple[str, ...]
    arguments: tuple[str, ...]
    results: tuple[tuple[tuple[int, ...], str, float | str], ...]
    units: str

    @classmethod
    def of(
        cls,
        cube: xr.Dataset,
        stage: str,
        kernel: Callable[..., Any],
        inputs: Sequence[str],
        optional: Sequence[str],
        outputs: Mapping[str, Output],
        sizes: Mapping[str, int] | None,
        **others: Any,
    ) -> Self:
        """Return the job of a cube; for the arguments see `over_planes`."""
        lengths: Mapping[Any, int] = {**cube.sizes, **(sizes or {})}
        names = (*inputs, *optional)
        present = tuple(name for name in names if name in cube.variables)
        results = tuple((tuple(lengths[d] for d in o.dims), o.dtype, o.blank) for o in outputs.values())
        units = str(cube[WAVELENGTH].attrs.get(UNITS, "m"))
        return cls(stage, kernel, present, names, results, units, **others)

    def empty(self, planes: int) -> tuple[np.ndarray, ...]:
        """Return arrays for the outputs of this number of planes."""
        return tuple(np.empty((planes, *shape), dtype) for shape, dtype, _ in self.results)

    def call(self, values: Mapping[str, Any], **options: Any) -> Sequence[Any]:
        """Call the kernel, and return its outputs as a sequence."""
        made = self.kernel(*(values.get(name) for name in self.arguments), **options)
        return (made,) if len(self.results) == 1 else made


@dataclass(frozen=True)
class _PlaneByPlane(Job):
    """Call a kernel for each plane of a block, with what `together` found."""

    together: Callable[..., Sequence[Any] | None] | None = None

    @property
    def __name__(self) -> str:
        """Name that dask gives to the tasks."""
        return self.stage

    def __call__(self, channel: np.ndarray, wavelength: np.ndarray, *blocks: np.ndarray) -> Any:
        made = self.empty(len(channel))
        found = self._computed_together(channel, wavelength, blocks)
        for i in range(len(channel)):
            options = {"found": found.pop(i)} if i in found else {}
            with naming_planes(self.stage, channel[i : i + 1], wavelength[i : i + 1], self.units):
                results = self._plane(self._values(blocks, i), **options)
            for array, result in zip(made, results, strict=True):
                array[i] = result
        return made if len(made) > 1 else made[0]

    def _values(self, blocks: Sequence[np.ndarray], i: int) -> dict[str, Any]:
        return {name: nan_for_inf(block[i]) for name, block in zip(self.present, blocks, strict=True)}

    def _plane(self, values: dict[str, Any], **options: Any) -> Sequence[Any]:
        if not np.isfinite(values[self.present[0]]).any():
            return [values[blank] if isinstance(blank, str) else blank for _, _, blank in self.results]
        return self.call(values, **options)

    def _computed_together(
        self, channel: np.ndarray, wavelength: np.ndarray, blocks: Sequence[np.ndarray]
    ) -> dict[int, Any]:
        """Return what `together` found by the index of the plane; nothing if there is no such function."""
        if self.together is None:
            return {}
        values = {i: self._values(blocks, i) for i in range(len(channel))}
        values = {i: v for i, v in values.items() if np.isfinite(v[self.present[0]]).any()}
        planes, function = list(values), self.together

        def compute(planes: Sequence[int]) -> Sequence[Any] | None:
            lists = ([values[i][n] for i in planes] if n in self.present else None for n in self.arguments)
            return function(*lists)

        def naming(planes: Sequence[int]) -> AbstractContextManager[None]:
            return naming_planes(self.stage, channel[planes], wavelength[planes], self.units)

        found = jointly(compute, planes, naming)
        return {} if found is None else dict(zip(planes, found, strict=True))
