"""Read and write FITS cubes, compared with reading and writing the same bytes as plain files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import dask
import numpy as np
from astropy.io import fits

from lucidcube.cube import DATA, VARIANCE
from lucidcube.io.hdu_bytes import ImagePlan
from lucidcube.io.reader import open_cube
from lucidcube.io.specifier import parse_specifier
from lucidcube.io.writer import finish, reserve, write_planes
from lucidcube.simulate import write_scene

from .comparison import ratio
from .scenes import cube, scene

PLANES = 32


class Read:
    """Read a MUSE-like file, data and variance, as a lazy cube."""

    params = (101, 341)
    param_names = ("side",)

    def setup(self, side: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = write_scene(scene(side, PLANES), self.folder).target

    def teardown(self, side: int) -> None:
        shutil.rmtree(self.folder)

    def _read(self) -> None:
        opened = open_cube(parse_specifier(f"{self.path}{{DATA}}"))
        dask.compute(opened[DATA].data, opened[VARIANCE].data, scheduler="synchronous")

    def time_open(self, side: int) -> None:
        open_cube(parse_specifier(f"{self.path}{{DATA}}"))

    def time_read(self, side: int) -> None:
        self._read()

    def peakmem_read(self, side: int) -> None:
        self._read()

    def time_read_plainly(self, side: int) -> None:
        self.path.read_bytes()

    def track_overhead(self, side: int) -> float:
        """Return the time to read float32 planes divided by the time to read the bytes."""
        return ratio(lambda: self.time_read(side), lambda: self.time_read_plainly(side))


class Write:
    """Write a cube of float32 planes, eight at a time, with checksums and a sync to disk."""

    params = (101, 341)
    param_names = ("side",)

    def setup(self, side: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.planes = cube(side, PLANES)[DATA].values

    def teardown(self, side: int) -> None:
        shutil.rmtree(self.folder)

    def _write(self) -> None:
        plan = ImagePlan("DATA", fits.Header(), self.planes.shape, "float32")
        layout = reserve(self.folder / "cube.fits", [plan], overwrite=True)
        total = sum(write_planes(layout, 0, k, self.planes[k : k + 8]) for k in range(0, PLANES, 8))
        finish(layout, {0: total})

    def time_write(self, side: int) -> None:
        self._write()

    def peakmem_write(self, side: int) -> None:
        self._write()

    def time_write_plainly(self, side: int) -> None:
        with (self.folder / "plain").open("wb") as file:
            for first in range(0, PLANES, 8):
                file.write(np.ascontiguousarray(self.planes[first : first + 8], ">f4"))
            os.fsync(file.fileno())

    def track_overhead(self, side: int) -> float:
        """Return the time to write a cube divided by the time to write the bytes."""
        return ratio(lambda: self.time_write(side), lambda: self.time_write_plainly(side))
