"""Stage `artefacts`: score how much the fine structure of each pixel deviates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import model_validator

from lucidcube.cube import BADNESS, DATA, UNITS, WAVELENGTH
from lucidcube.kernels.ssa.artefact_score import badness, component_range, object_fraction
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Stage, parameter

LOOKS_LIKE_A_STAR = 0.05
"""Fraction of the field below which the method is not suited to an object."""


class Artefacts(Stage):
    """Compute an artefact score: the deviation of the fine structure of each pixel from its surroundings.

    Each plane is decomposed by two-dimensional singular spectrum analysis (Golyandina & Usevich, arXiv
    1309.5050). The strongest components contain the object and the weakest ones the noise. The components
    in between are compared, pixel by pixel, with their mean and standard deviation in the region around the
    pixel. The score, written as `badness`, is the absolute value of the mean deviation over these
    components, in standard deviations. NaN stays NaN. The method is designed for objects that fill much of
    the field. The variance is passed on unchanged.
    """

    name: ClassVar[str] = "artefacts"
    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = (BADNESS,)
    copies: ClassVar[float] = 3.1
    scratch: ClassVar[float] = 90
    tag: ClassVar[str] = "_artefactmap"

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
    def _some_components(self) -> Artefacts:
        component_range(self.start, self.stop, self.window)
        return self

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        kernel = partial(badness, window=self.window, start=self.start, stop=self.stop, region=self.region)
        outputs = {BADNESS: Output(attrs={UNITS: "", "long_name": "artefact score in standard deviations"})}
        return cube.assign(over_planes(cube, self.name, kernel, [DATA], outputs))

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        plane = cube[DATA].isel({WAVELENGTH: cube.sizes[WAVELENGTH] // 2}).values
        if np.isfinite(plane).any() and object_fraction(plane) < LOOKS_LIKE_A_STAR:
            yield (
                f"the object covers only {object_fraction(plane):.1%} of the field, like a star: the search "
                "for artefacts is designed for objects that fill much of the field and may mark the star"
            )
