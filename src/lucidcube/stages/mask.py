"""Stage `mask`: which pixels are artefacts."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import xarray as xr

from lucidcube.blocks import Output, over_planes
from lucidcube.cube import BADNESS, CHANNEL, MASK, UNITS, WAVELENGTH
from lucidcube.kernels.mask import bad_pixel_mask, cut_by_channel
from lucidcube.stage import Stage, parameter


class Mask(Stage):
    """Mark the pixels whose badness reaches the cut.

    The worse a pixel, the more of its surroundings are marked with it: for each whole unit of badness
    above the cut, the mark spreads by one 4-connected step. NaN input is missing, not bad: it is never
    marked, and stays NaN in the data. Data and variance are passed on as they are.
    """

    name: ClassVar[str] = "mask"
    requires: ClassVar[tuple[str, ...]] = (BADNESS,)
    produces: ClassVar[tuple[str, ...]] = (MASK, "cut")
    copies: ClassVar[float] = 4
    tag: ClassVar[str] = "_bpmask"

    cut: tuple[tuple[float, float], ...] = parameter(
        ((0, 3.0),),
        unit="standard deviations",
        min_length=1,
        text="list of (channel, badness): the badness from which a pixel is an artefact, linear "
        "between the channels and constant outside",
    )
    max_dilation: int | None = parameter(
        None, unit="pixel", ge=0, text="most steps by which a mark spreads; no limit if not given"
    )

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        cuts = cut_by_channel(self.cut, cube[CHANNEL].values)
        cube = cube.assign({"cut": (WAVELENGTH, cuts, {UNITS: ""})})
        kernel = partial(_marked, max_dilation=self.max_dilation)
        outputs = {MASK: Output(dtype="uint8", blank=0, attrs={UNITS: ""})}
        return cube.assign(over_planes(cube, self.name, kernel, [BADNESS, "cut"], outputs))


def _marked(badness: np.ndarray, cut: float, *, max_dilation: int | None) -> np.ndarray:
    return bad_pixel_mask(badness, float(cut), max_dilation=max_dilation)
