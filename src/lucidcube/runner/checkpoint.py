"""Checkpoints: the output of a segment as a zarr store with a checksum record for each block.

A checkpoint is a folder named by its track, its stage and a fingerprint of everything that it depends on::

    target-rebin-3f2a9c41d0b7a6e5/
        cube.zarr/          the variables, one chunk per block (zarr v3; `xarray.open_zarr` reads it)
        checksums/000007    CRC-32C of the arrays of block 7, written after its chunks
        checkpoint.json     the ingredients of the fingerprint, written after the empty store

Only blocks with a matching checksum record are reused; missing, incomplete and damaged blocks are computed
again. The checksums are those of the decoded arrays, so that codecs and file names do not matter.
Coordinates and attributes are compared with those of the cube and written again if they differ.
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dask.array as da
import google_crc32c
import numpy as np
import xarray as xr
import zarr

from lucidcube.config.schema import Codec
from lucidcube.cube import WAVELENGTH, block_sizes
from lucidcube.errors import UserError
from lucidcube.io.atomic import write_atomically
from lucidcube.lift.blocks import over_blocks
from lucidcube.runner.store import COORDINATES, NOT_DATA, create_store, holds, open_variable, plain_attrs

STORE, CHECKSUMS, COMPLETE = "cube.zarr", "checksums", "checkpoint.json"
NAME = re.compile(r"(?P<track>[a-z]+)-(?P<stage>[a-z_]+)-[0-9a-f]{16}")
"""Pattern of the names of checkpoint folders."""
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM}
"""Errors of the file system that would occur for every other block, too."""
READERS = 8
"""Number of threads that verify blocks; they mostly wait for the disk."""


def fingerprint(*ingredients: Any) -> str:
    """Return a hash of plain data that is the same on any machine."""
    text = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Checkpoint:
    """The output of one segment on disk, in the folder `path`."""

    path: Path

    @classmethod
    def prepare(
        cls, path: Path, cube: xr.Dataset, variables: Sequence[str], ingredients: Any, codec: Codec = "none"
    ) -> Self:
        """Create an empty store for variables of the lazy cube after a segment, or open an existing one.

        `ingredients` are the plain data from which the name of the folder was made, and `codec` is the
        compression of a new store. A folder that cannot be written raises UserError.
        """
        checkpoint = cls(path)
        try:
            if (path / COMPLETE).exists() and checkpoint._restore(cube, variables):
                return checkpoint
            if path.exists():
                shutil.rmtree(path)
            (path / CHECKSUMS).mkdir(parents=True)
            create_store(path / STORE, cube, variables, codec)
            contents = {"variables": list(variables), "ingredients": ingredients}
            write_atomically(path / COMPLETE, json.dumps(contents, indent=1, default=str), durable=True)
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {path}: {error.strerror or error}; set checkpoints.dir"
            ) from error
        return checkpoint

    def _restore(self, cube: xr.Dataset, variables: Sequence[str]) -> bool:
        """Return whether the store matches the cube; rewrite coordinates and attributes that differ."""
        try:
            if json.loads((self.path / COMPLETE).read_bytes())["variables"] != list(variables):
                return False
            group = zarr.open_group(self.path / STORE, mode="r+")
            expected = {n: (cube[n].shape, cube[n].dtype, cube[n].dims) for n in (*COORDINATES, *variables)}
            arrays = {name: group[name] for name in expected}
            found = {n: (a.shape, a.dtype, a.metadata.dimension_names) for n, a in arrays.items()}
            if found != expected or any(arrays[n].chunks[0] != block_sizes(cube)[0] for n in variables):
                return False
            if group.attrs.asdict() != plain_attrs(cube.attrs) | NOT_DATA:
                group.attrs.put(plain_attrs(cube.attrs) | NOT_DATA)
            for name, array in arrays.items():
                if array.attrs.asdict() != plain_attrs(cube[name].attrs):
                    array.attrs.put(plain_attrs(cube[name].attrs))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return False  # documents of the store are damaged; any other OSError must not cost the store
        for name in COORDINATES:
            if not holds(arrays[name], cube[name].values):
                arrays[name][:] = cube[name].values
        return True

    def _arrays(self) -> dict[str, zarr.Array]:
        """Return the arrays of the variables, without the coordinates."""
        group = zarr.open_group(self.path / STORE, mode="r+")
        names = json.loads((self.path / COMPLETE).read_bytes())["variables"]
        return {name: group[name].with_config({"write_empty_chunks": True}) for name in names}

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(next(iter(self._arrays().values())).cdata_shape[0])

    def missing(self, *, verify: bool = True) -> list[int]:
        """Return the numbers of the blocks that are missing or damaged.

        All blocks are read and their checksums compared, unless `verify` is false: then a record is enough.
        """
        arrays, numbers = self._arrays(), range(self.blocks)

        def present(number: int) -> bool:
            try:
                record = json.loads((self.path / CHECKSUMS / f"{number:06d}").read_bytes())
                return bool(not verify or record == _checksums(number, _read(arrays, number)))
            except (OSError, ValueError, TypeError, RuntimeError):
                return False

        with ThreadPoolExecutor(READERS) as pool:
            return [n for n, there in zip(numbers, pool.map(present, numbers), strict=True) if not there]

    def is_complete(self) -> bool:
        """Return whether there is a record for every block; their checksums are not verified."""
        try:
            return (self.path / COMPLETE).is_file() and not self.missing(verify=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False  # the documents of the store are damaged

    def write(self, cube: xr.Dataset, variables: Sequence[str]) -> da.Array:
        """Return a lazy array (blocks,) of numbers of bytes; computing one writes a block and its record.

        The lazy cube is divided into the blocks of the store; the variables are those given to `prepare`.
        """
        arrays = self._arrays()
        leader = arrays[variables[0]]
        (sizes,) = da.core.normalize_chunks(leader.chunks[:1], leader.shape[:1])
        if block_sizes(cube) != sizes:
            cube = cube.chunk({WAVELENGTH: sizes})
        write = _Write(str(self.path), {name: arrays[name] for name in variables}, leader.chunks[0])
        return over_blocks(cube, write, variables, "int64")

    def open(self) -> xr.Dataset:
        """Return the variables as a lazy cube, one chunk per block; numbers per plane are in memory.

        All blocks must exist; see `missing`.
        """
        group = zarr.open_group(self.path / STORE, mode="r")
        coordinates = {n: (WAVELENGTH, group[n][:], group[n].attrs.asdict()) for n in COORDINATES}
        # A new store in the same place gets other names in the graph.
        token = f"{self.path} {(self.path / COMPLETE).stat().st_mtime_ns}"
        variables = {name: open_variable(name, array, token) for name, array in self._arrays().items()}
        attrs = {k: v for k, v in group.attrs.asdict().items() if k not in NOT_DATA}
        return xr.Dataset(variables, coordinates, attrs)

    def nbytes(self) -> int:
        """Return the number of bytes on disk."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())


def _read(arrays: Mapping[str, zarr.Array], number: int) -> dict[str, np.ndarray]:
    return {n: a[number * a.chunks[0] : (number + 1) * a.chunks[0]] for n, a in arrays.items()}


def _checksums(number: int, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the record of a block: its number and the CRC-32C of its arrays."""
    record = {"block": number}
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        data.flags.writeable = False
        record[name] = int(google_crc32c.value(data))
    return record


@dataclass(frozen=True)
class _Write:
    """Write one block of every variable, then its record."""

    path: str
    arrays: Mapping[str, zarr.Array]
    block: int

    def __call__(self, position: np.ndarray, *blocks: np.ndarray) -> np.ndarray:
        first, last = int(position[0]), int(position[-1]) + 1
        number, offset = divmod(first, self.block)
        if offset or len(position) > self.block:
            raise ValueError(f"planes {first} to {last} are not a block of the store")
        values = {
            name: np.asarray(block, dtype=array.dtype)
            for (name, array), block in zip(self.arrays.items(), blocks, strict=True)
        }
        try:
            for name, array in self.arrays.items():
                array[first:last] = values[name]
            record = json.dumps(_checksums(number, values)).encode()
            write_atomically(Path(self.path) / CHECKSUMS / f"{number:06d}", record)
        except OSError as error:
            if error.errno in CANNOT_WRITE:
                raise UserError(
                    f"cannot write checkpoints to {self.path}: {error.strerror}; finished blocks are kept: "
                    "free some space, or set checkpoints.dir, and run the same command again"
                ) from None
            raise
        return np.array([sum(value.nbytes for value in values.values())])
