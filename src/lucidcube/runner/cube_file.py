"""Write a cube of a Python session as a FITS file."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import xarray as xr
from threadpoolctl import threadpool_limits

from lucidcube.cube import DATA, DIMS, SOURCE, VARIABLES, require
from lucidcube.errors import CubeError
from lucidcube.io.cube_wcs import check_pixels
from lucidcube.io.headers import described
from lucidcube.io.output_path import INPUT, expanded, new_file_problems
from lucidcube.io.specifier import parse_specifier
from lucidcube.runner.checkpoint import Checkpoint
from lucidcube.runner.lock import WAIT, product_locked
from lucidcube.runner.one_stage import scratch_beside
from lucidcube.runner.products import cube_product
from lucidcube.runner.write_product import write


def write_cube(cube: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Compute a cube and write it as a FITS file, with the header of the file that it came from.

    The blocks are computed by the scheduler of dask, and each is written when it is finished.
    Every variable in `lucidcube.cube.VARIABLES` becomes an HDU or a column of a table, the data first; the
    stages that were applied are in the header. The file gets its name when it is complete.

    Parameters
    ----------
    cube
        A cube, lazy or in memory.
    path
        The file to write; its folder is created if it does not exist.
    overwrite
        Whether to replace an existing file. The file that the cube was read from is never replaced.

    Returns
    -------
    pathlib.Path
        The path of the file.

    Raises
    ------
    CubeError
        If the file exists or cannot be written, if there are no data, or if their header does not suit them.
    StageError
        If a stage failed on a plane; no file is written.
    """
    require(cube, [DATA], "to_fits")
    path = expanded(path)
    source = str(cube.attrs.get(SOURCE, ""))
    sources = {parse_specifier(source).file: INPUT} if source else {}
    if problems := [*new_file_problems(path, sources, overwrite, "overwrite=True")]:
        raise CubeError(*problems)
    check_pixels(cube)
    known = described(cube[[str(v) for v in cube.data_vars if v in VARIABLES]])
    with product_locked(path, WAIT), scratch_beside(path) as scratch, threadpool_limits(1):
        if any(known[v].chunks for v in known.data_vars if VARIABLES[str(v)].dims != DIMS):
            known = _computed(known, scratch)
        write(path, cube_product(known), overwrite=overwrite, compute=_compute)
    return path


def _compute(name: str, work: da.Array, blocks: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Compute all blocks as one graph, so that what several blocks need is computed once."""
    (items,) = dask.compute(work)
    yield from ((block, items[block]) for block in blocks)


def _computed(cube: xr.Dataset, scratch: Path) -> xr.Dataset:
    """Compute all variables at once into a folder: tables are needed before the images are written."""
    names = [str(v) for v in cube.data_vars if cube[v].chunks]
    checkpoint = Checkpoint.prepare(scratch / "cube", cube, names, {})
    dask.compute(checkpoint.write(cube, names))
    kept = checkpoint.open()
    return cube.assign({name: kept[name].variable for name in names})
