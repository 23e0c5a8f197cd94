"""The work of the stages for a plane, counted: Fourier transforms, memory, and planes that are read.

Counts do not depend on the load of the machine, so that they show a change that makes a stage more costly. They are
those of the transforms by scipy; with our own engine there are as many. Where a number is exceeded, the change has
made the stage more costly. Where it is undercut, store the new one, so that the gain is not lost again.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.fft
import xarray as xr

from lucidcube.cube import (
    BADNESS,
    DATA,
    DIMS,
    FILLED,
    MASK,
    NOISE_FACTOR,
    PSF,
    PSF_PLANE,
    VARIANCE,
    WAVELENGTH,
    from_arrays,
)
from lucidcube.kernels.fourier.convolver import use_engine
from lucidcube.lift.blocks import GROUP
from lucidcube.lift.lazy_arrays import from_source
from lucidcube.stages.base import REGISTRY
from scenes import arrays, star_cube, target_cube

PLANES, SIDE = 16, 25
SHAPE, SEED = (PLANES, SIDE, SIDE), 77
"""A scene that no other test uses, so that no result is remembered from before."""
FEW = 4
"""Planes for the stages that treat each plane on its own, and for those that take long."""
MORE, LESS = 1.1, 0.8
"""Factors beyond which a number is wrong: iterations that end by a criterion differ a little between processors."""


class Work(NamedTuple):
    """What a stage does for a plane."""

    transforms: float
    """Number of two-dimensional Fourier transforms."""
    points: float
    """Points of all transforms, in units of the pixels of a plane: it grows where transforms become larger."""
    peak: float
    """Most memory at one time, in planes of float32 for each plane of the cube."""


# An iteration of `map`, which `artefacts` and `interpolate` use too, takes four transforms: `deconvolve` has 200
# iterations, `interpolate` 75 and `artefacts` 80 to 135, and 150 and 180 for the object in one plane of a window, from
# which the others start. Without that it would be 677 and 1280 transforms.
CASES: dict[str, tuple[str, dict[str, Any], Work]] = {
    "artefacts": ("artefacts", {}, Work(463, 3036, 27)),
    "artefacts ssa": ("artefacts", {"method": "ssa", "window": 6}, Work(34.7, 34.7, 6.9)),
    "interpolate": ("interpolate", {}, Work(332, 2175, 27.8)),
    "interpolate ssa": ("interpolate", {"method": "ssa", "window": 6}, Work(17.8, 17.8, 5)),
    "broaden_psf": ("broaden_psf", {"fwhm": 3.0}, Work(0, 0, 3.8)),
    "resample_psf": ("resample_psf", {"scale": 0.8}, Work(0, 0, 7.6)),
    "fit_psf": ("fit_psf", {}, Work(0, 0, 140)),
    "deconvolve": ("deconvolve", {}, Work(795, 5210, 71.5)),
    "deconvolve, one resolution": ("deconvolve", {"resolution": 4.0}, Work(808, 5290, 72)),
    "deconvolve with errors": ("deconvolve", {"errors": {"draws": 2}}, Work(2078, 13570, 91)),
    "clean_modified": ("deconvolve", {"method": "clean_modified", "n_iter": 100}, Work(10, 32.3, 19.6)),
    "clean_multiscale": ("deconvolve", {"method": "clean_multiscale", "n_iter": 100}, Work(1013, 5930, 36.5)),
    "lucy_richardson": ("deconvolve", {"method": "lucy_richardson", "n_iter": 50}, Work(209, 836, 21.3)),
}
SLOW = (
    "artefacts",
    "interpolate",
    "deconvolve",
    "deconvolve, one resolution",
    "deconvolve with errors",
    "clean_multiscale",
)
WITHOUT_TRANSFORMS = {"rebin", "noise", "mask", "normalise_psf", "model_psf"}


def test_every_stage_is_counted_or_has_no_transforms() -> None:
    assert {name for name, *_ in CASES.values()} | WITHOUT_TRANSFORMS == {*REGISTRY}


@cache
def cube(stage: str, seed: int = SEED) -> xr.Dataset:
    """Return a cube with what a stage requires."""
    if stage in ("fit_psf", "resample_psf"):
        return star_cube(SHAPE, seed).isel({WAVELENGTH: slice(FEW)})
    made = arrays(SHAPE, seed)
    marks = (made.artefact_kind > 0).astype(np.uint8)
    extra: dict[str, Any] = {PSF: ((WAVELENGTH, *PSF_PLANE), made.psf)}
    if stage == "interpolate":
        extra[MASK] = (DIMS, marks)
    if stage == "deconvolve":
        extra[FILLED] = (DIMS, np.isnan(made.observed).astype(np.uint8))
    whole = target_cube(SHAPE, seed).assign(extra)
    return whole if stage in ("artefacts", "interpolate") else whole.isel({WAVELENGTH: slice(FEW)})


class Transforms:
    """Counts the transforms of scipy.fft."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = self.points = 0
        for name in ("rfft2", "irfft2", "fft2", "ifft2"):
            monkeypatch.setattr(scipy.fft, name, self._counting(getattr(scipy.fft, name)))

    def _counting(self, transform: Any) -> Any:
        def counted(given: np.ndarray, s: Any = None, *args: Any, **options: Any) -> np.ndarray:
            self.number += 1
            self.points += math.prod(s or given.shape[-2:])
            return transform(given, s, *args, **options)

        return counted


def work_of(name: str, options: dict[str, Any]) -> Work:
    """Run a stage, and return its work. The memory is that of all threads of the process."""
    given, stage = cube(name), REGISTRY[name].parse(options)
    planes = given.sizes[WAVELENGTH]
    with use_engine("scipy"), pytest.MonkeyPatch.context() as monkeypatch:
        # What is compiled and imported would be in the peak as well. Other data, because results are remembered.
        stage(cube(name, SEED + 1))
        transforms = Transforms(monkeypatch)
        tracemalloc.start()
        stage(given)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return Work(
        transforms.number / planes, transforms.points / planes / SIDE**2, peak / planes / (4 * SIDE**2)
    )


@pytest.fixture(scope="module")
def own_process() -> Iterator[ProcessPoolExecutor]:
    """A process in which nothing else runs, as other tests leave threads that allocate memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield process


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in CASES]
)
def test_the_work_for_a_plane_does_not_grow(case: str, own_process: ProcessPoolExecutor) -> None:
    name, options, stored = CASES[case]
    counted = own_process.submit(work_of, name, options).result()
    for what, now, before in zip(Work._fields, counted, stored, strict=True):
        assert now <= MORE * before, f"{case}: more {what} than before: {now:.4g}, not {before:.4g}"
        assert now >= LESS * before, f"{case}: less {what} than before: store {now:.4g} for {before:.4g}"


class Source:
    """Planes that count how often they are read."""

    def __init__(self, planes: np.ndarray) -> None:
        self.planes, self.shape, self.dtype, self.read = planes, planes.shape, planes.dtype, 0

    def __getitem__(self, key: Any) -> np.ndarray:
        made = self.planes[key]
        self.read += len(made)
        return made

    def __dask_tokenize__(self) -> str:
        return f"counted {id(self)}"


@pytest.mark.parametrize(("stage", "stored"), [("rebin", 1.77), ("noise", 2.0), ("mask", 1.0)])
def test_a_plane_is_read_no_more_often(stage: str, stored: float) -> None:
    """Each group of 16 planes of a long cube is read with half a group on either side, where a window is needed.

    The bins of `rebin` overlap, so that its blocks, of four bins of four channels, share twelve with the next.
    """
    planes = 256
    made = np.random.default_rng(0).normal(100, 1, (planes, 15, 15)).astype(np.float32)
    sources = {name: Source(made.copy()) for name in (DATA, VARIANCE, BADNESS)}
    given = from_arrays(made, 7e-7 + 2.5e-10 * np.arange(planes), variance=np.ones_like(made))
    given = given.assign({n: from_source(s, GROUP, f"{stage}-{n}") for n, s in sources.items()})
    result = REGISTRY[stage].parse({})(given)
    name = {"rebin": DATA, "noise": NOISE_FACTOR, "mask": MASK}[stage]
    for block in result[name].data.blocks:
        block.compute(scheduler="synchronous")
    read = sources[BADNESS if stage == "mask" else DATA].read / planes
    assert 0.95 * stored <= read <= stored, f"{read:.3f} reads of a plane, not {stored}"
