"""Lazy cubes that remember their source, so that a stage can read ranges of planes past dask's chunks."""

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from lucidcube.cube import DIMS

SOURCE_KEY = "lucidcube_source"
"""Key of a variable's encoding for the name of its lazy array and the source of that array."""


@dataclass(frozen=True)
class Window:
    """A range of planes of an array-like source; nothing is read until the window is sliced.

    Attributes
    ----------
    source
        Picklable object with a shape that can be sliced along its first axis.
    lo, hi
        First plane, and the plane after the last.
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
    """Make a lazy cube of an array-like source, in blocks of whole planes.

    Parameters
    ----------
    source
        Picklable object with shape and dtype; slicing it reads only the requested planes.
    block
        Number of planes in a block.
    name
        Name of the dask array: the same for the same content.

    Returns
    -------
    xarray.Variable
        (wavelength, y, x). `source_of` returns its source.
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


def source_of(variable: xr.Variable) -> Any:
    """Return the source that a variable is read from, or None if it has none or was changed since."""
    name, source = variable.encoding.get(SOURCE_KEY, (None, None))
    return source if getattr(variable.data, "name", None) == name else None


def rechunk_sources(cube: xr.Dataset, block: int) -> xr.Dataset:
    """Return a cube whose variables with a source have this number of planes in a block."""
    changed = {}
    for name, variable in cube.variables.items():
        source = source_of(variable)
        if source is not None and variable.chunks and variable.chunks[0][0] != min(block, variable.shape[0]):
            read = from_source(source, block, f"{variable.data.name}-{block}")
            changed[name] = xr.Variable(variable.dims, read.data, variable.attrs, read.encoding)
    return cube.assign(changed)
