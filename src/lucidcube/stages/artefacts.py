"""Stage `artefacts`: score how much each pixel deviates from what it should be."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import model_validator

from lucidcube.cube import (
    AMPLITUDE,
    BADNESS,
    DATA,
    PSF,
    UNITS,
    VARIANCE,
    WAVELENGTH,
)
from lucidcube.kernels.artefacts.combined_score import combined_score, suspects
from lucidcube.kernels.artefacts.psf_consistency import psf_consistency, robust_estimate
from lucidcube.kernels.artefacts.spectral_outliers import spectral_outliers
from lucidcube.kernels.deconvolution.map_solver import Solution
from lucidcube.kernels.fourier.convolver import engine_name
from lucidcube.kernels.noise import known_variance
from lucidcube.kernels.ssa.artefact_score import badness, component_range, object_fraction
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.lift.remembered import Remembered
from lucidcube.lift.windows import over_windows
from lucidcube.stages.base import NOISE_IS_ESTIMATED, parameter
from lucidcube.stages.psf_argument import StageWithPSF
from lucidcube.stages.psf_planes import check_psf_planes, middle_plane, usable_psf

LOOKS_LIKE_A_STAR = 0.05
"""Fraction of the field below which the SSA is not suited to an object."""
FEW_PLANES = 10
"""With fewer planes than this, the spectral test is weak."""
FEWEST_PLANES = 6
"""With fewer planes than this, objects of an unusual colour would fail the spectral test."""
PLAUSIBLE = 0.6
"""A pixel agrees with its spectrum if it deviates by less than this fraction of the cut."""
SCORE = Output(attrs={UNITS: "", "long_name": "artefact score in standard deviations"})


class Artefacts(StageWithPSF):
    """Compute an artefact score, in standard deviations: how much a pixel deviates from what it should be.

    The score is written as `badness`. NaN stays NaN. The data and the variance are passed on unchanged.
    """

    name: ClassVar[str] = "artefacts"
    version: ClassVar[int] = 6
    produces: ClassVar[tuple[str, ...]] = (BADNESS,)
    choices: ClassVar[tuple[str, ...]] = ("method",)
    tag: ClassVar[str] = "_artefactmap"

    method: str = parameter(..., "", "algorithm that computes the score")

    @abstractmethod
    def apply(self, cube: xr.Dataset) -> xr.Dataset: ...


class SpectralPSF(Artefacts):
    """Score pixels that are unlike their own spectrum, or sharper than the PSF allows.

    The first test compares the spectrum of each pixel with that of the object, scaled and tilted, plus a
    constant and a slope, over 32 planes; it finds ghosts and stripes, which are smooth in the plane. The
    second test fits the object that best explains a plane with the PSF, without the pixels that the first one
    suspects. Real structure cannot be sharper than the PSF, so that clouds and moons fit, while hot pixels,
    cosmic rays and the edges of stripes do not. Extended artefacts must fail both tests, other pixels one.
    `amplitude` is the score of extended artefacts, smoothed by a Gaussian of one pixel, along which marks can
    grow. With fewer than 10 planes the first test is weak, and with fewer than six, such as the bands
    of a survey, it is left out. Without
    a variance, the noise is estimated.
    """

    method: Literal["spectral_psf"] = "spectral_psf"
    requires: ClassVar[tuple[str, ...]] = (DATA, PSF)
    optional: ClassVar[tuple[str, ...]] = (VARIANCE,)
    produces: ClassVar[tuple[str, ...]] = (BADNESS, AMPLITUDE)
    files: ClassVar[tuple[str, ...]] = (DATA, PSF)
    halo: ClassVar[int] = 8
    copies: ClassVar[float] = 9
    scratch: ClassVar[float] = 60

    suspect_above: float = parameter(
        5.0, "standard deviations", "deviation beyond which a pixel is left out of the fits", gt=0
    )
    spectral: bool = parameter(
        True,
        "",
        "compare each pixel with its own spectrum; set it to false for objects whose spectrum has another "
        "shape in each pixel, such as the emission lines of a rotating galaxy",
    )

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        kernel = partial(_scores, cut=self.suspect_above, spectral=self.spectral)
        outputs = {BADNESS: SCORE, AMPLITUDE: Output(attrs={UNITS: ""})}
        made = over_windows(
            cube, self.name, kernel, [DATA, PSF], outputs, optional=[VARIANCE], halo=self.halo
        )
        return cube.assign(made)

    def check(self, cube: xr.Dataset) -> None:
        """Check the PSF; see `Stage.check`."""
        check_psf_planes(cube, self.name)

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        if VARIANCE not in cube:
            yield NOISE_IS_ESTIMATED
        if self.spectral and (planes := cube.sizes[WAVELENGTH]) < FEW_PLANES:
            yield f"the cube has few planes ({planes}): artefacts as smooth as the PSF are not found"


class SSA(Artefacts):
    """Score the fine structure of a pixel against that of its surroundings, by singular spectrum analysis.

    Each plane is decomposed by two-dimensional singular spectrum analysis (Golyandina & Usevich, arXiv
    1309.5050). The strongest components contain the object and the weakest ones the noise. The components
    in between are compared, pixel by pixel, with their mean and standard deviation in the region around the
    pixel. The score is the absolute value of the mean deviation over these components. The method needs no
    PSF, and is designed for objects that fill much of the field.
    """

    method: Literal["ssa"]
    copies: ClassVar[float] = 3.1
    scratch: ClassVar[float] = 90

    window: int = parameter(10, "pixel", "side of the window of the analysis", ge=2, le=32)
    start: float = parameter(
        -0.25, "", "first component that is used; a negative number is a fraction of window^2"
    )
    stop: float = parameter(
        -0.75, "", "component after the last one that is used; a negative number is a fraction of window^2"
    )
    region: Literal["class", "box"] = parameter(
        "class",
        "",
        "region that a pixel is compared with, within an eighth of the image: pixels of the same "
        "brightness class (background, midground, foreground), or the whole box",
    )

    @model_validator(mode="after")
    def _some_components(self) -> SSA:
        component_range(self.start, self.stop, self.window)
        return self

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        kernel = partial(badness, window=self.window, start=self.start, stop=self.stop, region=self.region)
        outputs = {BADNESS: SCORE}
        return cube.assign(over_planes(cube, self.name, kernel, [DATA], outputs))

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        plane = cube[DATA].isel({WAVELENGTH: cube.sizes[WAVELENGTH] // 2}).values
        if np.isfinite(plane).any() and object_fraction(plane) < LOOKS_LIKE_A_STAR:
            yield (
                f"the object covers only {object_fraction(plane):.1%} of the field, like a star: the search "
                "for artefacts is designed for objects that fill much of the field and may mark the star"
            )


def _scores(
    data: np.ndarray,
    psf: np.ndarray,
    variance: np.ndarray | None,
    *,
    wanted: slice,
    cut: float,
    spectral: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the score and the amplitude of the wanted planes of a window."""
    given = [None] * len(data) if variance is None else variance
    variance = np.stack([known_variance(p, v) for p, v in zip(data, given, strict=True)])
    tested = spectral and len(data) >= FEWEST_PLANES
    deviation = _deviations(data, variance) if tested else np.full(data.shape, np.nan, np.float32)
    start = _start(data, psf, variance, deviation, cut) if tested else None
    data, psf, variance, deviation = data[wanted], psf[wanted], variance[wanted], deviation[wanted]
    found = suspects(deviation, cut=cut)
    sharpness = np.zeros(data.shape, np.float32)
    for i in range(len(data)):
        if np.isfinite(psf[i]).any() and np.isfinite(data[i]).any():
            sharpness[i] = psf_consistency(
                data[i],
                variance[i],
                usable_psf(psf[i]),
                cut=cut,
                exclude=found.marks[i],
                plausible=np.abs(deviation[i]) < PLAUSIBLE * cut,
                start=start,
            )
    made = combined_score(deviation, sharpness, found)
    missing = ~np.isfinite(data)
    made.score[missing] = made.amplitude[missing] = np.nan
    return made


def _start(
    data: np.ndarray, psf: np.ndarray, variance: np.ndarray, deviation: np.ndarray, cut: float
) -> Solution | None:
    """Return the object in the middle plane of a window, or in the nearest one with data and a PSF."""
    middle = middle_plane(data, psf)
    if middle is None:
        return None
    marks = suspects(deviation[[middle]], cut=cut).marks[0]
    return _object(data[middle], variance[middle], usable_psf(psf[middle]), marks, engine_name())


def _estimate(
    data: np.ndarray, variance: np.ndarray, psf: np.ndarray, marks: np.ndarray, engine: str
) -> Solution:
    """Return the object in a plane; `engine` is part of what the result depends on, and so of its key."""
    return robust_estimate(data, variance, psf, marks)


# The blocks of a group of planes share a window, and hence these results.
_deviations = Remembered(lambda data, variance: spectral_outliers(data, variance).z, recent=2)
_object = Remembered(_estimate, recent=4)
