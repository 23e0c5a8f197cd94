"""Time of the stages of the recommended chain for a group of 16 planes, with their windows of neighbours."""

from __future__ import annotations

import time

import numpy as np
import xarray as xr

from lucidcube.cube import DATA, PSF, PSF_PLANE, WAVELENGTH, from_arrays
from lucidcube.simulate import Scene
from lucidcube.stages import Artefacts, Deconvolve, FitPSF, Interpolate, Mask

PLANES = 16


class Recommended:
    """16 planes of a simulated planet and its star; the window of a longer cube has up to 46 planes."""

    params = (101, 341)
    param_names = ("side",)
    timeout = 600.0
    timer = time.process_time
    target: xr.Dataset
    star: xr.Dataset
    marked: xr.Dataset
    filled: xr.Dataset
    calls = 0

    def setup(self, side: int) -> None:
        made = Scene(shape=(PLANES, side, side), first_wavelength=716e-9, wavelength_step=1e-9, seed=1)
        seen = [made.plane(i) for i in range(PLANES)]
        stars = [made.star_plane(i) for i in range(PLANES)]
        cubes = [
            from_arrays(
                np.stack([p.observed for p in planes]),
                made.wavelengths,
                variance=np.stack([p.variance for p in planes]),
            )
            for planes in (seen, stars)
        ]
        self.star = cubes[1]
        psf = FitPSF()(self.star)["data"].values
        self.target = cubes[0].assign({PSF: ((WAVELENGTH, *PSF_PLANE), psf)})
        self.marked = Mask()(Artefacts()(self.target))
        self.filled = Interpolate()(self.marked)
        Deconvolve()(self.filled.isel({WAVELENGTH: slice(0, 1)}))

    def new(self, cube: xr.Dataset) -> xr.Dataset:
        """Return a cube that differs a little from all before, so that no stage remembers its results."""
        self.calls += 1
        return cube.assign({DATA: cube[DATA] * np.float32(1 + 1e-5 * self.calls)})

    def time_fit_psf(self, side: int) -> None:
        FitPSF()(self.new(self.star))

    def time_artefacts(self, side: int) -> None:
        Artefacts()(self.new(self.target))

    def time_interpolate(self, side: int) -> None:
        Interpolate()(self.new(self.marked))

    def time_deconvolve(self, side: int) -> None:
        Deconvolve()(self.new(self.filled))
