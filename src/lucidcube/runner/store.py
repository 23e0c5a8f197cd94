"""Create and read zarr stores of cubes with the public interface of zarr.

The files of an existing store, other than chunks, are never interpreted before they are known to be right.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from lucidcube.config.schema import Codec
from lucidcube.cube import CHANNEL, DIMS, WAVELENGTH, block_sizes
from lucidcube.io.atomic import write_atomically
from lucidcube.io.work_files import DAMAGE, checksum, read_regular
from lucidcube.lift.lazy_arrays import from_source

COMPRESSORS: dict[str, BloscCodec | None] = {
    "none": None,
    "lz4": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
    "zstd": BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
}
CODEC_HEADER = 4096
"""More bytes than a codec adds to a chunk that cannot be compressed."""
COORDINATES = (WAVELENGTH, CHANNEL)
NOT_DATA = {"coordinates": CHANNEL}
"""The attribute of a store that tells xarray which variables are coordinates (CF conventions)."""


def create_store(store: Path, cube: xr.Dataset, variables: Sequence[str], codec: Codec) -> dict[str, int]:
    """Create a store: the coordinates of a cube, and empty arrays with a chunk for each block.

    In an existing store the files that are not as they would be in a new one are written again; chunks of
    variables are kept. The folders must exist. The checksum of each file is returned.
    """
    files = _files(cube, variables, codec)
    for name, content in files.items():
        if not _holds(store / name, content):
            write_atomically(store / name, content)
    return {name: checksum(content) for name, content in files.items()}


def _files(cube: xr.Dataset, variables: Sequence[str], codec: Codec) -> dict[str, bytes]:
    """Return the contents of the files of a new store."""
    made: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(made), attributes=plain_attrs(cube.attrs) | NOT_DATA)
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
    return {name: content.to_bytes() for name, content in made.items()}


def _holds(file: Path, content: bytes) -> bool:
    try:
        return read_regular(file, len(content)) == content
    except DAMAGE:
        return False


def chunk_fits(store: Path, array: zarr.Array, number: int) -> bool:
    """Return whether the file of a block is no larger than its chunk can be."""
    file = store / array.path / ".".join(["c", str(number), *"0" * (array.ndim - 1)])
    return file.lstat().st_size <= math.prod(array.chunks) * array.dtype.itemsize + CODEC_HEADER


def plain_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as they are after a round trip through JSON."""
    plain: dict[str, Any] = json.loads(json.dumps({k: v for k, v in attrs.items() if v is not None}))
    return plain


def open_variable(name: str, array: zarr.Array, token: str) -> xr.Variable:
    """Return a lazy variable of a store; one with only some numbers per plane is read immediately."""
    dims, attrs = array.metadata.dimension_names, array.attrs.asdict()
    if array.ndim < len(DIMS):
        return xr.Variable(dims, array[:], attrs)
    made = f"{name}-{hashlib.sha256(f'{token} {name}'.encode()).hexdigest()[:32]}"
    variable = from_source(CachedChunk(array), array.chunks[0], made, dims)
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
