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

import errno
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import google_crc32c
import numpy as np
import xarray as xr

from lucidcube.cube import WAVELENGTH, block_sizes
from lucidcube.errors import UserError
from lucidcube.lift.blocks import over_blocks
from lucidcube.run import store

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
            store.create(path / STORE, cube, variables, block_sizes(cube)[0])
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
        return _starts(next(iter(self._variables().values())))

    def _variables(self) -> dict[str, store.Stored]:
        return {n: v for n, v in store.read(self.path / STORE).items() if n not in store.COORDINATES}

    def missing(self, *, thorough: bool = True) -> list[int]:
        """Numbers of the blocks that are not there, whole and unharmed.

        Parameters
        ----------
        thorough
            Read everything and compare the sums; else compare the sizes alone.
        """
        variables = self._variables()
        numbers = range(len(_starts(next(iter(variables.values())))))

        def sound(number: int) -> bool:
            chunks = {f"{name}/{store.chunk(number, v.ndim)}" for name, v in variables.items()}
            return self._sound(number, chunks, thorough)

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
        stored = self._variables()
        leader = stored[variables[0]]
        sizes = tuple(min(leader.block, leader.shape[0] - first) for first in _starts(leader))
        if block_sizes(cube) != sizes:
            cube = cube.chunk({WAVELENGTH: sizes})
        dtypes = tuple((name, stored[name].dtype.newbyteorder("<").str) for name in variables)
        write = _Write(str(self.path), dtypes, leader.block)
        return over_blocks(cube, write, variables, "int64")

    def open(self) -> xr.Dataset:
        """The variables as a lazy cube once nothing is missing; see `store.open_store`."""
        return store.open_store(self.path / STORE)

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())


def _starts(stored: store.Stored) -> list[int]:
    return list(range(0, stored.shape[0], stored.block))


@dataclass(frozen=True)
class _Write:
    """Write one block of every variable, then vouch for it."""

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
            stored = store.whole_chunk(np.ascontiguousarray(array, dtype=dtype), self.block)
            chunk = f"{name}/{store.chunk(number, stored.ndim)}"
            file = folder / STORE / chunk
            _replace(file, stored.data)
            sums[chunk] = (stored.nbytes, _crc(stored))
        _replace(folder / VOUCHED / f"{number:06d}", json.dumps(sums).encode())


def _serves(path: Path, cube: xr.Dataset, variables: Sequence[str]) -> bool:
    """Whether the store can be opened and is made for these variables."""
    try:
        found = store.read(path / STORE)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    made_for = {name: (stored.shape, stored.dtype) for name, stored in found.items()}
    return made_for == {n: (cube[n].shape, cube[n].dtype) for n in (*store.COORDINATES, *variables)}


def _mend_coordinates(path: Path, cube: xr.Dataset) -> None:
    """Write the coordinates again if they are damaged: nobody vouches for them, and they are small."""
    found = store.read(path / STORE)
    for name in store.COORDINATES:
        values = cube[name].values
        try:
            sound = found[name][:].tobytes() == values.tobytes()
        except OSError:
            sound = False
        if not sound:
            store.write_coordinate(path / STORE, name, values)


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
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def unchanged(before: xr.Dataset, after: xr.Dataset) -> Iterable[str]:
    """Variables that a segment only passed on: the very same lazy array stands in both cubes."""
    for name in after.data_vars:
        if name in before.data_vars:
            a, b = before[name].data, after[name].data
            if a is b or (isinstance(a, da.Array) and isinstance(b, da.Array) and a.name == b.name):
                yield str(name)
