"""Zarr v3 stores of uncompressed chunks, made, written and read as the plain files that they are.

A variable is a folder: a document that describes it, and a file for each run of whole planes, which holds the
bytes of its array. So nothing is gained by taking a chunk through zarr, where it goes from thread to thread
and takes longer than the reading; zarr and `xarray.open_zarr` read these stores as any other.

References
----------
Zarr core specification, version 3: https://zarr-specs.readthedocs.io/en/latest/v3/core
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lucidcube.cube import CHANNEL, PLANE, WAVELENGTH
from lucidcube.lift.lazy_arrays import from_source

DOCUMENT = "zarr.json"
SEPARATOR = "."
"""In the names of chunks: with zarr's usual ``/`` each of them would have folders of its own."""
COORDINATES = (WAVELENGTH, CHANNEL)
"""Stored in a single chunk."""


@dataclass(frozen=True)
class Stored:
    """A variable of a store, to be sliced like NumPy: small, picklable, holds nothing open.

    Attributes
    ----------
    folder
        Of the variable.
    shape
        Of the whole.
    block
        Planes in a chunk.
    dtype
        In native byte order.
    dims, attrs
        Of the variable.
    """

    folder: str
    shape: tuple[int, ...]
    block: int
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    attrs: Mapping[str, Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *others = key if isinstance(key, tuple) else (key,)
        start, stop, step = first.indices(self.shape[0])
        planes = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype.newbyteorder("<"))
        for number in range(start // self.block, -(-stop // self.block)):
            begin, end = max(start, number * self.block), min(stop, (number + 1) * self.block)
            self._fill(planes[begin - start : end - start], number, begin - number * self.block)
        return planes.astype(self.dtype, copy=False)[(slice(None, None, step), *others)]

    def _fill(self, planes: np.ndarray, number: int, offset: int) -> None:
        """Read planes of one chunk, from the plane `offset` of it on."""
        with (Path(self.folder) / chunk(number, self.ndim)).open("rb", buffering=0) as file:
            file.seek(offset * math.prod(self.shape[1:]) * self.dtype.itemsize)
            if file.readinto(planes.reshape(-1).view(np.uint8).data) != planes.nbytes:
                raise OSError(f"{file.name} ends too early")


def chunk(number: int, ndim: int) -> str:
    """Name of a chunk in the folder of its variable."""
    return SEPARATOR.join(["c", str(number), *["0"] * (ndim - 1)])


def whole_chunk(array: np.ndarray, planes: int) -> np.ndarray:
    """An array made up to the length of a chunk, as zarr does it with the last."""
    if len(array) == planes:
        return array
    stored = np.full((planes, *array.shape[1:]), np.nan if array.dtype.kind == "f" else 0, array.dtype)
    stored[: len(array)] = array
    return stored


def create(store: Path, cube: xr.Dataset, variables: Sequence[str], block: int) -> None:
    """Make a store in a new folder: its coordinates, and empty variables.

    Parameters
    ----------
    store
        The folder.
    cube
        With the variables; what is lazy is not computed.
    variables
        Names of those to come.
    block
        Planes in a chunk.
    """
    store.mkdir(parents=True)
    for name in (*COORDINATES, *variables):
        variable = cube[name].variable
        planes = len(variable) if name in COORDINATES else block
        (store / name).mkdir()
        (store / name / DOCUMENT).write_text(json.dumps(_document(variable, planes), indent=2))
    # Written last: without it there is no store.
    group = {"attributes": dict(cube.attrs), "zarr_format": 3, "node_type": "group"}
    (store / DOCUMENT).write_text(json.dumps(group, indent=2))
    for name in COORDINATES:
        write_coordinate(store, name, cube[name].values)


def write_coordinate(store: Path, name: str, values: np.ndarray) -> None:
    """Write a coordinate, which lies in a single chunk."""
    stored = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    (store / name / chunk(0, stored.ndim)).write_bytes(stored.data)


def _document(variable: xr.Variable, planes: int) -> dict[str, Any]:
    wide = {"configuration": {"endian": "little"}} if variable.dtype.itemsize > 1 else {}
    return {
        "shape": list(variable.shape),
        "data_type": variable.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [planes, *variable.shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": SEPARATOR}},
        "fill_value": "NaN" if variable.dtype.kind == "f" else 0,
        # Noisy float32 hardly compresses, and the disk is faster than the best codec.
        "codecs": [{"name": "bytes", **wide}],
        "attributes": {k: v for k, v in variable.attrs.items() if v is not None},
        "dimension_names": [str(d) for d in variable.dims],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def read(store: Path) -> dict[str, Stored]:
    """The variables of a store as its documents describe them.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError
        If they are damaged, or not there.
    """
    json.loads((store / DOCUMENT).read_bytes())
    found = {}
    for path in sorted(store.glob(f"*/{DOCUMENT}")):
        described = json.loads(path.read_bytes())
        if described["chunk_key_encoding"]["configuration"]["separator"] != SEPARATOR:
            raise ValueError(f"{path}: not a store of ours")
        found[path.parent.name] = Stored(
            str(path.parent),
            tuple(described["shape"]),
            int(described["chunk_grid"]["configuration"]["chunk_shape"][0]),
            np.dtype(described["data_type"]),
            tuple(described["dimension_names"]),
            described["attributes"],
        )
    return found


def open_store(store: Path) -> xr.Dataset:
    """The variables as a lazy cube, a chunk per block; coordinates, and what has no planes, in memory.

    All their chunks must be there.
    """
    variables = {name: _variable(stored) for name, stored in read(store).items()}
    coordinates = {name: variables.pop(name) for name in COORDINATES}
    attrs = json.loads((store / DOCUMENT).read_bytes())["attributes"]
    return xr.Dataset(variables, coordinates, attrs)


def _variable(stored: Stored) -> xr.Variable:
    if not {*PLANE} <= {*stored.dims}:
        return xr.Variable(stored.dims, stored[:], stored.attrs)
    # Another store made in the same place has other names.
    made = f"{stored.folder} {(Path(stored.folder) / DOCUMENT).stat().st_mtime_ns}"
    name = f"{Path(stored.folder).name}-{hashlib.sha256(made.encode()).hexdigest()[:32]}"
    variable = from_source(stored, stored.block, name)
    variable.attrs = dict(stored.attrs)
    return variable
