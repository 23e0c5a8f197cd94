"""Create and read zarr stores of cubes with the public interface of zarr."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

from lucidcube.config.schema import Codec
from lucidcube.cube import CHANNEL, PLANE, WAVELENGTH, block_sizes
from lucidcube.lift.lazy_arrays import from_source

COMPRESSORS: dict[str, BloscCodec | None] = {
    "none": None,
    "lz4": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
    "zstd": BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
}
COORDINATES = (WAVELENGTH, CHANNEL)
NOT_DATA = {"coordinates": CHANNEL}
"""The attribute of a store that tells xarray which variables are coordinates (CF conventions)."""


def create_store(store: Path, cube: xr.Dataset, variables: Sequence[str], codec: Codec) -> None:
    """Create a store: the coordinates of a cube, and empty arrays with a chunk for each block."""
    group = zarr.create_group(store, attributes=plain_attrs(cube.attrs) | NOT_DATA)
    block = block_sizes(cube)[0]
    for name in (*COORDINATES, *variables):
        variable = cube[name].variable
        array = group.create_array(
            name,
            shape=variable.shape,
            chunks=variable.shape if name in COORDINATES else (block, *variable.shape[1:]),
            dtype=variable.dtype,
            compressors=COMPRESSORS[codec] if name in variables else None,
            fill_value=np.nan if variable.dtype.kind == "f" else 0,
            dimension_names=[str(d) for d in variable.dims],
            attributes=plain_attrs(variable.attrs),
            # With the default "/" each chunk would have folders of its own, and need three inodes, not one.
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        if name in COORDINATES:
            array[:] = variable.values


def plain_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as they are after a round trip through JSON."""
    plain: dict[str, Any] = json.loads(json.dumps({k: v for k, v in attrs.items() if v is not None}))
    return plain


def holds(array: zarr.Array, values: np.ndarray) -> bool:
    """Return whether an array can be read and has these values."""
    try:
        return bool(np.array_equal(array[:], values, equal_nan=values.dtype.kind == "f"))
    except (OSError, ValueError, RuntimeError):
        return False


def open_variable(name: str, array: zarr.Array, token: str) -> xr.Variable:
    """Return a lazy variable of a store; a variable with one number per plane is read immediately."""
    dims, attrs = array.metadata.dimension_names, array.attrs.asdict()
    if not {*PLANE} <= {*dims}:
        return xr.Variable(dims, array[:], attrs)
    made = f"{name}-{hashlib.sha256(f'{token} {name}'.encode()).hexdigest()[:32]}"
    variable = from_source(CachedChunk(array), array.chunks[0], made)
    variable.attrs = attrs
    return variable


class CachedChunk:
    """A zarr array, chunked along its first axis only, that caches the last chunk for single planes."""

    def __init__(self, array: zarr.Array) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self._last: tuple[int, np.ndarray] | None = None

    def __reduce__(self) -> Any:
        return CachedChunk, (self.array,)

    def __getitem__(self, key: Any) -> np.ndarray:
        planes, *rest = key if isinstance(key, tuple) else (key,)
        start, stop, step = planes.indices(self.shape[0])
        block = self.array.chunks[0]
        number = start // block
        if step != 1 or stop > (number + 1) * block or (start, stop) == (number * block, self._end(number)):
            whole: np.ndarray = self.array[key]
            return whole
        last = self._last  # other threads may replace it concurrently
        if last is None or last[0] != number:
            last = self._last = number, self.array[number * block : self._end(number)]
        return last[1][(slice(start - number * block, stop - number * block), *rest)]

    def _end(self, number: int) -> int:
        return int(min((number + 1) * self.array.chunks[0], self.shape[0]))
