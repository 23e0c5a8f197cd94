"""Overhead of the lift and of a checkpoint per block, with a kernel that does nothing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from lucidcube.cube import DATA, VARIANCE, WAVELENGTH
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.runner.checkpoint import Checkpoint

from .comparison import ratio
from .scenes import cube

SIDE = 31


def nothing(plane: np.ndarray) -> np.ndarray:
    """Return the plane: the cheapest kernel."""
    return plane


class Lift:
    """Build and compute blocks of one small plane each."""

    params = (64, 512)
    param_names = ("blocks",)

    def setup(self, blocks: int) -> None:
        self.lazy = cube(SIDE, blocks).chunk({WAVELENGTH: 1})

    def _make(self) -> xr.Variable:
        return over_planes(self.lazy, "nothing", nothing, [DATA], {DATA: Output()})[DATA]

    def time_build(self, blocks: int) -> None:
        self._make()

    def time_build_and_run_on_one_thread(self, blocks: int) -> None:
        dask.compute(self._make().data, scheduler="synchronous")

    def time_build_and_run_on_two_threads(self, blocks: int) -> None:
        dask.compute(self._make().data, scheduler="threads", num_workers=2)


class Store:
    """Write a checkpoint of data and variance in blocks of eight planes, and its bytes as plain files."""

    params = (101, 341)
    param_names = ("side",)
    planes = 32

    def setup(self, side: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.cube = cube(side, self.planes)
        self.lazy = self.cube.chunk({WAVELENGTH: 8})

    def teardown(self, side: int) -> None:
        shutil.rmtree(self.folder)

    def _write(self) -> Checkpoint:
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        checkpoint = Checkpoint.prepare(self.folder / "store", self.lazy, [DATA, VARIANCE], {})
        dask.compute(checkpoint.write(self.lazy, [DATA, VARIANCE]), scheduler="synchronous")
        return checkpoint

    def time_write(self, side: int) -> None:
        self._write()

    def peakmem_write(self, side: int) -> None:
        self._write()

    def time_write_plainly(self, side: int) -> None:
        shutil.rmtree(self.folder / "plain", ignore_errors=True)  # as in _write
        (self.folder / "plain").mkdir()
        for name in (DATA, VARIANCE):
            values: Any = self.cube[name].values
            for first in range(0, self.planes, 8):
                (self.folder / "plain" / f"{name}-{first}").write_bytes(values[first : first + 8])

    def track_overhead_of_writing(self, side: int) -> float:
        """Return the time to write a checkpoint divided by the time to write plain files."""
        return ratio(lambda: self.time_write(side), lambda: self.time_write_plainly(side))
