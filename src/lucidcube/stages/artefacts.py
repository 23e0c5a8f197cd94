"""Stage `artefacts`: score how much each pixel deviates from what it should be."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, Literal

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
from lucidcube.kernels.ssa.artefact_score import badness, component_range, object_fraction
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.lift.windows import over_windows
from lucidcube.stages.artefact_windows import scores, scores_together
from lucidcube.stages.base import NOISE_IS_ESTIMATED, parameter
from lucidcube.stages.psf_argument import StageWithPSF
from lucidcube.stages.psf_planes import check_psf_planes

LOOKS_LIKE_A_STAR = 0.05
"""Fraction of the field below which the SSA is not suited to an object."""
FEW_PLANES = 10
"""With fewer planes than this, the spectral test is weak."""
SCORE = Output(attrs={UNITS: "", "long_name": "artefact score in standard deviations"})


class Artefacts(StageWithPSF):
    """Compute an artefact score, in standard deviations: how much a pixel deviates from what it should be.

    The score is written as `badness`. NaN stays NaN. The data and the variance are passed on unchanged.
    """

    name: ClassVar[str] = "artefacts"
    version: ClassVar[int] = 8
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
    together_copies: ClassVar[float] = 40

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
        options: dict[str, Any] = {"cut": self.suspect_above, "spectral": self.spectral}
        made = over_windows(
            cube,
            self.name,
            partial(scores, **options),
            [DATA, PSF],
            {BADNESS: SCORE, AMPLITUDE: Output(attrs={UNITS: ""})},
            optional=[VARIANCE],
            halo=self.halo,
            together=partial(scores_together, **options),
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
