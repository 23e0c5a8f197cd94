"""Where a lazy cube comes from: what needs many planes for few reads them itself, past dask's chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from lucidcube.cube import DIMS

SOURCE_KEY = "lucidcube_source"
"""Where a variable's encoding keeps what it is read from."""


@dataclass(frozen=True)
class Window:
    """A run of planes of something that is sliced like an array; nothing is read until it is sliced.

    Attributes
    ----------
    source
        Picklable, with a shape, sliced along its first axis.
    lo, hi
        First plane, and the one after the last.
    """

    source: Any
    lo: int
    hi: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Planes, rows and columns."""
        return (self.hi - self.lo, *self.source.shape[1:])

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, _ = key.indices(self.hi - self.lo)
        planes: np.ndarray = self.source[self.lo + start : self.lo + stop]
        return planes


def from_source(source: Any, block: int, name: str) -> xr.Variable:
    """A lazy cube of something that is sliced like an array, in blocks of whole planes.

    Parameters
    ----------
    source
        Picklable, with shape and dtype; each slicing reads just what it says.
    block
        Planes in a block.
    name
        Of the dask array, the same for the same content.

    Returns
    -------
    xarray.Variable
        (wavelength, y, x). It remembers its source: what needs many planes for few can read them itself.
    """
    planes, rows, columns = source.shape
    lazy = da.from_array(
        source,
        chunks=(min(block, planes), rows, columns),
        name=name,
        lock=False,
        asarray=False,
        fancy=False,
        meta=np.empty((0, 0, 0), source.dtype),
        inline_array=True,
    )
    return xr.Variable(DIMS, lazy, encoding={SOURCE_KEY: (lazy.name, source)})


def reads_itself(variable: xr.Variable) -> bool:
    """Whether a stage that needs many planes for few reads them from the source of the variable."""
    return source_of(variable) is not None


def source_of(variable: xr.Variable) -> Any:
    """What a variable is read from, if it is still just that and nothing was done to it."""
    name, source = variable.encoding.get(SOURCE_KEY, (None, None))
    return source if getattr(variable.data, "name", None) == name else None


def rechunk_sources(cube: xr.Dataset, block: int) -> xr.Dataset:
    """Return a cube whose variables with a source read blocks of so many planes."""
    changed = {}
    for name, variable in cube.variables.items():
        source = source_of(variable)
        if source is not None and variable.chunks and variable.chunks[0][0] != min(block, variable.shape[0]):
            changed[name] = from_source(source, block, f"{variable.data.name}-{block}")
            changed[name].attrs = variable.attrs
    return cube.assign(changed)
