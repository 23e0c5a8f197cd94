"""Stage `interpolate`: fill what is masked or missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import xarray as xr

from lucidcube.blocks import Output, over_planes
from lucidcube.cube import DATA, FILLED, MASK, RESIDUAL, UNITS, VARIANCE
from lucidcube.kernels.interpolate import fill_linear
from lucidcube.stage import Stage, Variant, parameter

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Linear(Variant):
    """Linear interpolation between the good neighbours of each hole."""

    method: Literal["linear"] = "linear"

    def fill(self) -> Fill:
        return fill_linear


class Interpolate(Stage):
    """Fill pixels that are masked, NaN or infinite from their surroundings.

    Good pixels keep their values to the bit. The residual is input minus output: zero at good pixels,
    NaN where the input was. `filled` is 1 where a value was made up, so that later stages give it no
    weight; there the variance becomes NaN, because nobody measured it.
    """

    name: ClassVar[str] = "interpolate"
    optional: ClassVar[tuple[str, ...]] = (MASK, VARIANCE)
    produces: ClassVar[tuple[str, ...]] = (DATA, RESIDUAL, FILLED, VARIANCE)
    copies: ClassVar[float] = 8
    tag: ClassVar[str] = "_interp"

    method: Linear = parameter(Linear(), unit="", text="how holes are filled")

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        attrs = dict(cube[DATA].attrs)
        outputs = {
            DATA: Output(attrs=attrs),
            RESIDUAL: Output(attrs=attrs),
            FILLED: Output(dtype="uint8", blank=0, attrs={UNITS: ""}),
        }
        if VARIANCE in cube:
            outputs[VARIANCE] = Output(blank=VARIANCE, attrs=dict(cube[VARIANCE].attrs))
        kernel = partial(_filled, fill=self.method.fill())
        made = over_planes(cube, self.name, kernel, [DATA], outputs, optional=[MASK, VARIANCE])
        return cube.assign(made)


def _filled(
    plane: np.ndarray, mask: np.ndarray | None, variance: np.ndarray | None, *, fill: Fill
) -> tuple[np.ndarray, ...]:
    missing = ~np.isfinite(plane)
    if mask is not None:
        missing |= mask.astype(bool)
    whole = fill(plane, missing)
    made = (whole, plane - whole, missing.astype(np.uint8))
    if variance is None:
        return made
    return (*made, np.where(missing, np.float32(np.nan), variance))
