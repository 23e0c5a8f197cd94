"""Checkpoints: what a segment made, on disk, vouched for block by block.

A checkpoint is a folder named by its track, its stage and a fingerprint of all that it depends on::

    target-rebin-3f2a9c41d0b7a6e5/
        cube.zarr/        the variables, one chunk per block (zarr v3, readable with xarray.open_zarr)
        vouched/000007    size and CRC-32C of the chunks of block 7, written after them
        made-of.json      stage, parameters and what came before: what the fingerprint was made of

Only a vouched block is trusted: its chunks are there, have the sizes and the sums that were written
down. Anything else - never written, half written, damaged since - is computed again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask.array as da
import google_crc32c
import numpy as np
import xarray as xr
import zarr

from lucidcube.blocks import over_blocks
from lucidcube.cube import CHANNEL, PLANE, WAVELENGTH, block_sizes
from lucidcube.errors import UserError

STORE, VOUCHED, MADE_OF = "cube.zarr", "vouched", "made-of.json"
NAME = re.compile(r"(?P<track>[a-z]+)-(?P<stage>[a-z_]+)-[0-9a-f]{16}")
"""Of a checkpoint's folder."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM}
"""Errors of the disk that are the same for every block."""
READERS = 8
"""Threads that verify blocks: the sums take little, waiting for the disk much."""


def fingerprint(*ingredients: Any) -> str:
    """A key of plain data: equal ingredients give equal keys, on any machine and on any day."""
    text = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Checkpoint:
    """One segment's product on disk.

    Attributes
    ----------
    path
        The folder.
    """

    path: Path

    @classmethod
    def prepare(cls, path: Path, cube: xr.Dataset, variables: Sequence[str], made_of: Any) -> Checkpoint:
        """Make the empty store for these variables of a lazy cube, unless it is there already.

        Raises
        ------
        UserError
            If the folder cannot be written.
        """
        found = cls(path)
        try:
            if (path / MADE_OF).exists() and _serves(path, cube, variables):
                _mend_coordinates(path, cube)
                return found
            if path.exists():
                shutil.rmtree(path)
            (path / VOUCHED).mkdir(parents=True, exist_ok=True)
            _create(path / STORE, cube, variables)
            # Written last: a folder without it is one whose making was cut short.
            _replace(path / MADE_OF, json.dumps(made_of, indent=1, default=str).encode())
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {path}: {error.strerror or error}: set checkpoints.dir"
            ) from error
        return found

    @property
    def starts(self) -> list[int]:
        """First plane of each block."""
        return list(range(0, self._planes, self._block))

    @property
    def _planes(self) -> int:
        return int(self._leader.shape[0])

    @property
    def _block(self) -> int:
        return int(self._leader.chunks[0])

    @property
    def _leader(self) -> zarr.Array:
        arrays = _arrays(*_opened(self.path))
        return next(a for name, a in arrays.items() if name not in (WAVELENGTH, CHANNEL))

    def missing(self, *, thorough: bool = True) -> list[int]:
        """Numbers of the blocks that are not there, whole and unharmed.

        Parameters
        ----------
        thorough
            Read everything and compare the sums; else compare the sizes alone.
        """
        numbers = range(len(self.starts))
        ndims = {n: a.ndim for n, a in _arrays(*_opened(self.path)).items() if n not in (WAVELENGTH, CHANNEL)}

        def sound(number: int) -> bool:
            return self._sound(number, {_chunk(n, number, ndim) for n, ndim in ndims.items()}, thorough)

        with ThreadPoolExecutor(READERS) as pool:
            return [n for n, good in zip(numbers, pool.map(sound, numbers), strict=True) if not good]

    def _sound(self, number: int, chunks: set[str], thorough: bool) -> bool:
        try:
            sums = json.loads((self.path / VOUCHED / f"{number:06d}").read_bytes())
            files = [(self.path / STORE / name, *expected) for name, expected in sums.items()]
            return (
                sums.keys() == chunks
                and all(file.stat().st_size == size for file, size, _ in files)
                and (not thorough or all(_sum(file) == (size, crc) for file, size, crc in files))
            )
        except (OSError, ValueError, TypeError, AttributeError):
            return False

    def writes(self, cube: xr.Dataset, variables: Sequence[str]) -> da.Array:
        """The work: a lazy array with one item per block that writes the block and vouches for it.

        Parameters
        ----------
        cube
            The lazy cube to write; cut into the blocks of the store.
        variables
            Those to write, as at `prepare`.

        Returns
        -------
        dask.array.Array
            (blocks,) bytes written.
        """
        sizes = tuple(min(self._block, self._planes - s) for s in self.starts)
        if block_sizes(cube) != sizes:
            cube = cube.chunk({WAVELENGTH: sizes})
        arrays = _arrays(*_opened(self.path))
        dtypes = tuple((name, arrays[name].dtype.newbyteorder("<").str) for name in variables)
        write = _Write(str(self.path), dtypes, self._block)
        return over_blocks(cube, write, variables, "int64")

    def open(self) -> xr.Dataset:
        """
        The variables as a lazy cube, a chunk per block; coordinates, and what has no planes, in memory.

        Blocks that were vouched for are expected to be there.
        """
        opened = xr.open_zarr(self.path / STORE, chunks={}, consolidated=False, mask_and_scale=False)
        cube = opened.assign_coords({CHANNEL: opened[CHANNEL].load()})
        small = {n: v for n, v in cube.data_vars.items() if not {*PLANE} <= {*v.dims}}
        return cube.assign(
            {n: (v.dims, self._read(str(n), v.shape, v.dtype), v.attrs) for n, v in small.items()}
        )

    def _read(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A variable from its chunks; by way of dask and zarr each of them would take a millisecond."""
        files = (self.path / STORE / _chunk(name, number, len(shape)) for number in range(len(self.starts)))
        stored = b"".join(file.read_bytes() for file in files)
        return (
            np.frombuffer(stored, dtype.newbyteorder("<")).reshape(-1, *shape[1:])[: shape[0]].astype(dtype)
        )

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())


@dataclass(frozen=True)
class _Write:
    """Write one block of every variable, then vouch for it.

    A chunk is the bytes of its array, so that a plain file is all it takes; zarr would hand every chunk from
    thread to thread.
    """

    path: str
    dtypes: tuple[tuple[str, str], ...]
    block: int

    def __call__(self, position: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
        first, last = int(position[0]), int(position[-1]) + 1
        number, off = divmod(first, self.block)
        if off or len(position) > self.block:
            raise ValueError(f"planes {first} to {last} are not a block of the store")
        try:
            self._write(number, arrays)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise UserError(
                    f"cannot write checkpoints to {self.path}: {error.strerror}; what was done is kept: "
                    "mend that, or set checkpoints.dir, and the same command goes on"
                ) from None
            raise
        return np.array([sum(a.nbytes for a in arrays)])

    def _write(self, number: int, arrays: Sequence[np.ndarray]) -> None:
        folder, sums = Path(self.path), {}
        for (name, dtype), array in zip(self.dtypes, arrays, strict=True):
            stored = _whole_chunk(np.ascontiguousarray(array, dtype=dtype), self.block)
            chunk = _chunk(name, number, stored.ndim)
            file = folder / STORE / chunk
            file.parent.mkdir(parents=True, exist_ok=True)
            _replace(file, stored.data)
            sums[chunk] = (stored.nbytes, _crc(stored))
        _replace(folder / VOUCHED / f"{number:06d}", json.dumps(sums).encode())


def _whole_chunk(array: np.ndarray, planes: int) -> np.ndarray:
    """An array made up to the length of a chunk, as zarr does it with the last."""
    if len(array) == planes:
        return array
    stored = np.full((planes, *array.shape[1:]), _fill_value(array.dtype), array.dtype)
    stored[: len(array)] = array
    return stored


def _fill_value(dtype: np.dtype) -> float:
    return np.nan if dtype.kind == "f" else 0


def _chunk(name: str, number: int, ndim: int) -> str:
    return f"{name}/c/" + "/".join([str(number), *["0"] * (ndim - 1)])


def _serves(path: Path, cube: xr.Dataset, variables: Sequence[str]) -> bool:
    """Whether the store can be opened and is made for these variables."""
    wanted = (WAVELENGTH, CHANNEL, *variables)
    if not all((path / STORE / name / "zarr.json").is_file() for name in wanted):
        return False
    try:
        arrays = _arrays.__wrapped__(*_opened(path))  # as it is now, not as it was when first opened
    except (OSError, ValueError, KeyError, TypeError):
        return False
    made_for = {name: (array.shape, np.dtype(array.dtype)) for name, array in arrays.items()}
    return made_for == {n: (cube[n].shape, cube[n].dtype) for n in wanted}


def _mend_coordinates(path: Path, cube: xr.Dataset) -> None:
    """Write the coordinates again if they are damaged: nobody vouches for them, and they are small."""
    for name in (WAVELENGTH, CHANNEL):
        array, values = _arrays(*_opened(path))[name], cube[name].values
        try:
            sound = np.asarray(array[:]).tobytes() == values.tobytes()
        except (OSError, ValueError):
            sound = False
        if not sound:
            array[:] = values


def _create(path: Path, cube: xr.Dataset, variables: Sequence[str]) -> None:
    block = block_sizes(cube)[0]
    group = zarr.create_group(str(path), overwrite=True, zarr_format=3, attributes=dict(cube.attrs))
    for name in (WAVELENGTH, CHANNEL, *variables):
        variable = cube[name].variable
        array = group.create_array(
            name=name,
            shape=variable.shape,
            chunks=variable.shape if name in (WAVELENGTH, CHANNEL) else (block, *variable.shape[1:]),
            dtype=variable.dtype,
            # Noisy float32 hardly compresses, and the disk is faster than the best codec.
            compressors=None,
            fill_value=_fill_value(variable.dtype),
            attributes={k: v for k, v in variable.attrs.items() if v is not None},
            dimension_names=[str(d) for d in variable.dims],
            chunk_key_encoding={"name": "default", "separator": "/"},
        )
        if name in (WAVELENGTH, CHANNEL):
            array[:] = variable.values


def _opened(path: Path) -> tuple[str, int]:
    """A store and when it was made: what the arrays of this process are remembered by."""
    return str(path / STORE), (path / STORE / "zarr.json").stat().st_mtime_ns


@lru_cache(maxsize=16)
def _arrays(path: str, made: int) -> Mapping[str, zarr.Array]:
    """The arrays of a store, opened once per process."""
    group = zarr.open_group(path, mode="r+", zarr_format=3, use_consolidated=False)
    return dict(group.arrays())


def _sum(path: Path) -> tuple[int, int]:
    """Size and CRC-32C of a file."""
    size = crc = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            size, crc = size + len(piece), google_crc32c.extend(crc, piece)
    return size, crc


def _crc(array: np.ndarray) -> int:
    """CRC-32C of the bytes of a contiguous array."""
    unwritable = array.reshape(-1).view(np.uint8)
    unwritable.flags.writeable = False
    return google_crc32c.value(unwritable)


def _replace(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one step: it is there whole, or not at all."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def unchanged(before: xr.Dataset, after: xr.Dataset) -> Iterable[str]:
    """Variables that a segment only passed on: the very same lazy array stands in both cubes."""
    for name in after.data_vars:
        if name in before.data_vars:
            a, b = before[name].data, after[name].data
            if a is b or (isinstance(a, da.Array) and isinstance(b, da.Array) and a.name == b.name):
                yield str(name)
