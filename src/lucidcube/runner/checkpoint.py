"""Checkpoints: the output of a segment as a zarr store with a checksum record for each block.

A checkpoint is a folder named by its track, its stage and a fingerprint of everything that it depends on::

    target-rebin-3f2a9c41d0b7a6e5/
        cube.zarr/          the variables, one chunk per block (zarr v3; `xarray.open_zarr` reads it)
        checksums/000007    CRC-32C of the arrays of block 7, written after its chunks
        checkpoint.json     what the store holds, the checksums of its other files, and the ingredients of the
                            fingerprint, with a checksum of all that; written after the empty store

Only blocks with a matching checksum record are reused; missing, incomplete and damaged blocks are computed
again. The checksums are those of the decoded arrays, so that codecs and file names do not matter.
Coordinates and attributes are compared with those of the cube and written again if they differ. A folder with
a damaged ``checkpoint.json``, or with anything but regular files where these belong, is made again.
"""

import errno
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from pydantic import BaseModel

from lucidcube.config.schema import Codec
from lucidcube.cube import WAVELENGTH, block_sizes
from lucidcube.errors import UserError
from lucidcube.io.atomic import write_atomically
from lucidcube.io.work_files import (
    DAMAGE,
    check_files,
    checksum,
    read_checked,
    read_json,
    read_regular,
    remove,
    write_checked,
)
from lucidcube.lift.blocks import over_blocks
from lucidcube.runner.store import COORDINATES, NOT_DATA, chunk_fits, create_store, open_variable

STORE, CHECKSUMS, COMPLETE = "cube.zarr", "checksums", "checkpoint.json"
NAME = re.compile(r"(?P<track>[a-z]+)-(?P<stage>[a-z_]+)-[0-9a-f]{16}")
"""Pattern of the names of checkpoint folders."""
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM}
"""Errors of the file system that would occur for every other block, too."""
READERS = 8
"""Number of threads that verify blocks; they mostly wait for the disk."""
MANY = 1000
"""Number of blocks that are given to these threads at a time."""


def fingerprint(*ingredients: Any) -> str:
    """Return a hash of plain data that is the same on any machine."""
    text = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Contents(BaseModel, extra="forbid", strict=True, frozen=True):
    """What ``checkpoint.json`` says of a store."""

    variables: dict[str, str]
    """Type, dimensions, shape and block of each variable, as text."""
    blocks: int
    codec: Codec
    files: dict[str, int]
    """Checksums of the files of the store that are no chunks of variables."""
    ingredients: Any


@dataclass(frozen=True)
class Checkpoint:
    """The output of one segment on disk, in the folder `path`.

    Methods that read the store raise UserError if it is missing or damaged; see `prepare` and `is_complete`.
    """

    path: Path

    @classmethod
    def prepare(
        cls, path: Path, cube: xr.Dataset, variables: Sequence[str], ingredients: Any, codec: Codec = "none"
    ) -> Self:
        """Create an empty store for variables of the lazy cube after a segment, or repair an existing one.

        `ingredients` are the plain data from which the name of the folder was made, and `codec` is the
        compression of a new store. A folder that cannot be written raises UserError.
        """
        checkpoint, described = cls(path), _described(cube, variables)
        try:
            try:
                kept = checkpoint._contents()
            except DAMAGE:
                kept = None
            if kept is None or kept.variables != described:
                remove(path)
                for name in (CHECKSUMS, *(f"{STORE}/{v}" for v in (*COORDINATES, *variables))):
                    (path / name).mkdir(parents=True)
                kept = _Contents(
                    variables=described,
                    blocks=len(block_sizes(cube)),
                    codec=codec,
                    files={},
                    ingredients=ingredients,
                )
            files = create_store(path / STORE, cube, variables, kept.codec)
            if kept.files != files:
                write_checked(path / COMPLETE, kept.model_dump() | {"files": files}, durable=True)
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {path}: {error.strerror or error}; set checkpoints.dir"
            ) from error
        return checkpoint

    def _contents(self) -> _Contents:
        """Return the contents of ``checkpoint.json``; one of `DAMAGE` is raised if this is no checkpoint."""
        contents = _Contents.model_validate(read_checked(self.path / COMPLETE))
        names = (*COORDINATES, *contents.variables)
        check_files(self.path, (STORE, CHECKSUMS))
        check_files(self.path / STORE, names)
        for folder in (CHECKSUMS, *(f"{STORE}/{name}" for name in names)):
            check_files(self.path / folder)
        return contents

    def _verified(self, *, coordinates: bool) -> _Contents:
        """Return the contents of ``checkpoint.json`` after the files of the store were compared with it.

        Blocks can be verified and written without the coordinates.
        """
        try:
            contents = self._contents()
            for name, expected in contents.files.items():
                skipped = not coordinates and name.startswith(tuple(f"{c}/" for c in COORDINATES))
                if not skipped and checksum(read_regular(self.path / STORE / name)) != expected:
                    raise ValueError(f"{name} was changed")
        except (OSError, *DAMAGE) as error:
            raise UserError(
                f"cannot read the checkpoint {self.path}: {error}; run the config again"
            ) from error
        return contents

    def _arrays(self, contents: _Contents) -> dict[str, zarr.Array]:
        """Return the arrays of the variables, without the coordinates, of a store that was verified."""
        group = self._group()
        return {name: group[name].with_config({"write_empty_chunks": True}) for name in contents.variables}

    def _group(self) -> zarr.Group:
        try:
            return zarr.open_group(self.path / STORE, mode="r+")
        except OSError as error:
            raise UserError(
                f"cannot read the checkpoint {self.path}: {error}; run the config again"
            ) from error

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self._verified(coordinates=False).blocks

    def missing(self, *, verify: bool = True) -> list[int]:
        """Return the numbers of the blocks that are missing or damaged.

        All blocks are read and their checksums compared, unless `verify` is false: then a record is enough.
        """
        contents = self._verified(coordinates=False)
        numbers, arrays = range(contents.blocks), self._arrays(contents) if verify else {}

        def present(number: int) -> bool:
            try:
                record = read_json(self.path / CHECKSUMS / f"{number:06d}")
                if not verify:
                    return True
                fits = all(chunk_fits(self.path / STORE, array, number) for array in arrays.values())
                return bool(fits and record == _checksums(number, _read(arrays, number)))
            except (OSError, ValueError, TypeError, RuntimeError, MemoryError):
                return False

        with ThreadPoolExecutor(READERS) as pool:
            # `map` submits all that it is given at once, which would take a GiB for a million blocks.
            parts = (numbers[first : first + MANY] for first in range(0, len(numbers), MANY))
            checked = ((part, pool.map(present, part)) for part in parts)
            return [n for each in checked for n, there in zip(*each, strict=True) if not there]

    def is_complete(self) -> bool:
        """Return whether there is a record for every block; their checksums are not verified."""
        try:
            self._verified(coordinates=True)
            return not self.missing(verify=False)
        except UserError:
            return False

    def write(self, cube: xr.Dataset, variables: Sequence[str]) -> da.Array:
        """Return a lazy array (blocks,) of numbers of bytes; computing one writes a block and its record.

        The lazy cube is divided into the blocks of the store; the variables are those given to `prepare`.
        """
        arrays = self._arrays(self._verified(coordinates=False))
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
        contents, group = self._verified(coordinates=True), self._group()
        coordinates = {n: (WAVELENGTH, group[n][:], group[n].attrs.asdict()) for n in COORDINATES}
        # A new store in the same place gets other names in the graph.
        token = f"{self.path} {(self.path / COMPLETE).stat().st_mtime_ns}"
        variables = {
            name: open_variable(name, array, token) for name, array in self._arrays(contents).items()
        }
        attrs = {k: v for k, v in group.attrs.asdict().items() if k not in NOT_DATA}
        return xr.Dataset(variables, coordinates, attrs)

    def nbytes(self) -> int:
        """Return the number of bytes on disk."""
        return sum(_size(file) for file in self.path.rglob("*") if file.is_file())


def _size(file: Path) -> int:
    """Return the size of a file; 0 for one that a run has renamed or removed meanwhile."""
    with suppress(FileNotFoundError):
        return file.lstat().st_size
    return 0


def _described(cube: xr.Dataset, variables: Sequence[str]) -> dict[str, str]:
    """Return what the chunks of each variable hold."""
    block = block_sizes(cube)[0]
    found = {str(name): cube[name].variable for name in variables}
    return {
        n: f"{v.dtype} {','.join(map(str, v.dims))} {v.shape}, blocks of {block}" for n, v in found.items()
    }


def _read(arrays: Mapping[str, zarr.Array], number: int) -> dict[str, np.ndarray]:
    return {n: a[number * a.chunks[0] : (number + 1) * a.chunks[0]] for n, a in arrays.items()}


def _checksums(number: int, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the record of a block: its number and the CRC-32C of its arrays."""
    record = {"block": number}
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        data.flags.writeable = False
        record[name] = checksum(data)
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
