"""Stage `interpolate`: fill what is masked or missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import Field

from lucidcube.cube import DATA, FILLED, MASK, RESIDUAL, UNITS, VARIANCE
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.ssa.inpaint import fill_ssa, fill_ssa_deviation
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Stage, Variant, parameter

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Linear(Variant):
    """Linear interpolation between the good neighbours of each hole."""

    method: Literal["linear"] = "linear"

    def fill(self) -> Fill:
        return fill_linear


class SSA(Variant):
    """The strongest quarter of the components of a singular spectrum analysis."""

    method: Literal["ssa"] = "ssa"
    window: int = parameter(10, unit="pixel", ge=2, le=32, text="side of the window of the analysis")

    def fill(self) -> Fill:
        return partial(fill_ssa, window=self.window)


class SSADeviation(Variant):
    """Component by component of a singular spectrum analysis, only where a masked pixel deviates."""

    method: Literal["ssa_deviation"] = "ssa_deviation"
    window: int = parameter(10, unit="pixel", ge=2, le=32, text="side of the window of the analysis")
    value: float = parameter(
        0.5,
        unit="probability",
        ge=0,
        le=1,
        text="distance from the median, in cumulative probability, from which a masked pixel of a "
        "component is interpolated",
    )

    def fill(self) -> Fill:
        return partial(fill_ssa_deviation, window=self.window, value=self.value)


class Interpolate(Stage):
    """Fill pixels that are masked, NaN or infinite from their surroundings.

    Good pixels keep their values to the bit. The residual is input minus output: zero at good pixels,
    NaN where the input was. `filled` is 1 where a value was made up, so that later stages give it no
    weight; there the variance becomes NaN, because nobody measured it.
    """

    name: ClassVar[str] = "interpolate"
    version: ClassVar[int] = 2
    optional: ClassVar[tuple[str, ...]] = (MASK, VARIANCE)
    produces: ClassVar[tuple[str, ...]] = (DATA, RESIDUAL, FILLED, VARIANCE)
    copies: ClassVar[float] = 7.5
    scratch: ClassVar[float] = 8
    tag: ClassVar[str] = "_interp"
    files: ClassVar[tuple[str, ...]] = (DATA, MASK)

    method: Annotated[Linear | SSA | SSADeviation, Field(discriminator="method")] = parameter(
        Linear(), unit="", text="how holes are filled"
    )

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
