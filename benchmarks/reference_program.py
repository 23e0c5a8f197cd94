"""The commands of the reference program, aopp_deconv_tool, and the cubes that they are measured with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits

from lucidcube.simulate import Scene, write_scene

from .comparison import children_cpu
from .scenes import WAVELENGTH

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
MIN_PLANES = 8  # the reference cannot rebin an axis that is shorter than its response
PLANE = "(1,2)"
REBINNED = ("obs_rebin.fits", "star_rebin.fits")


class Reference:
    """The commands of the reference program, for files with absolute paths in one folder."""

    def __init__(self, python: str, folder: Path) -> None:
        self._python, self._folder = python, folder

    def run(self, module: str, *arguments: str, blas: str = "1") -> float:
        """Run a command and return its CPU seconds, including those of its children."""
        before = children_cpu()
        done = subprocess.run(
            [self._python, "-m", f"aopp_deconv_tool.{module}", *arguments],
            cwd=self._folder,
            env={**os.environ, **dict.fromkeys(THREADS, blas), "MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
        )
        if done.returncode and "--help" not in arguments:
            sys.exit(f"{module} failed:\n{done.stderr[-2000:]}")
        return children_cpu() - before

    def file(self, name: str) -> str:
        """Return the argument for a file of the folder, including the axes of the image."""
        return f"{self._folder / name}.fits{PLANE}"

    def chain(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the commands from raw files to the deconvolved cube, with the defaults of the reference."""
        bare = str(self._folder)
        yield "spectral_rebin", [f"{bare}/obs.fits"]
        yield "spectral_rebin", [f"{bare}/star.fits"]
        yield "artefact_detection", [self.file("obs_rebin")]
        yield "create_bad_pixel_mask", [self.file("obs_rebin_artefactmap")]
        yield "interpolate", [self.file("obs_rebin"), self.file("obs_rebin_artefactmap_bpmask")]
        yield "psf_normalise", [self.file("star_rebin")]
        yield "fit_psf_model", [self.file("star_rebin_normalised"), "--model", "radial"]
        yield "deconvolve", [*self.deconvolve("sharp"), "--threshold", "0.3"]

    def deconvolve(self, product: str) -> list[str]:
        """Return the arguments of a deconvolution that all methods have in common."""
        sharpen = [self.file("obs_rebin_interp"), self.file("star_rebin_normalised_modelled_radial")]
        # With one process the reference hangs, because one is always reserved for its messages.
        return [*sharpen, "--n_processes", "2", "-o", str(self._folder / f"{product}.fits")]

    def prepare(self, planes: int) -> None:
        """Make the products of all commands before the deconvolution, with no more than `planes` planes."""
        for number, (module, arguments) in enumerate(list(self.chain())[:-1]):
            self.run(module, *arguments)
            if number < len(REBINNED):
                keep_planes(self._folder / REBINNED[number], planes)


def make_case(folder: Path, planes: int, side: int) -> None:
    """Write raw cubes that are rebinned to `planes` planes, in metres, which both sides can read."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "star.fits").exists():
        return
    scene = Scene(
        shape=(8 * planes - 7, side, side), first_wavelength=WAVELENGTH, wavelength_step=0.125e-9, seed=1
    )
    raw = write_scene(scene, folder / "raw")
    for source, name in ((raw.target, "obs.fits"), (raw.star, "star.fits")):
        with fits.open(source) as cube:
            for hdu in cube[1:]:
                hdu.header["CUNIT3"] = "m"
                hdu.header["CRVAL3"] *= 1e-10
                hdu.header["CD3_3"] *= 1e-10
            cube.writeto(folder / name, overwrite=True)
    shutil.rmtree(folder / "raw")


def planes_of(path: Path) -> list[np.ndarray]:
    """Return the planes of the first image of a FITS file."""
    with fits.open(path) as hdus:
        data = next(hdu.data for hdu in hdus if hdu.data is not None and hdu.data.ndim == 3)
        dtype = data.dtype.newbyteorder("=") if data.dtype.kind in "ui" else np.dtype(np.float32)
        return [np.ascontiguousarray(plane, dtype=dtype) for plane in data]


def keep_planes(path: Path, count: int) -> None:
    """Reduce a cube to its first planes."""
    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.data is not None and hdu.data.ndim == 3:
                hdu.data = hdu.data[:count].copy()
        whole = fits.HDUList([hdu.copy() for hdu in hdus])
    whole.writeto(path, overwrite=True, checksum=True)
