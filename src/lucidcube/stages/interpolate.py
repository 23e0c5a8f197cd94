"""Stage `interpolate`: fill what is masked or missing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import xarray as xr

from lucidcube.cube import DATA, FILLED, MASK, RESIDUAL, UNITS, VARIANCE
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.ssa.inpaint import fill_ssa, fill_ssa_deviation
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Stage, parameter

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


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
    choices: ClassVar[tuple[str, ...]] = ("method",)
    tag: ClassVar[str] = "_interp"
    files: ClassVar[tuple[str, ...]] = (DATA, MASK)

    method: str = parameter(..., "", "algorithm that fills the pixels")

    @abstractmethod
    def fill(self) -> Fill:
        """Return the function that fills the missing pixels of a plane."""

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        attrs = dict(cube[DATA].attrs)
        outputs = {
            DATA: Output(attrs=attrs),
            RESIDUAL: Output(attrs=attrs),
            FILLED: Output(dtype="uint8", blank=0, attrs={UNITS: ""}),
        }
        if VARIANCE in cube:
            outputs[VARIANCE] = Output(blank=VARIANCE, attrs=dict(cube[VARIANCE].attrs))
        kernel = partial(_filled, fill=self.fill())
        made = over_planes(cube, self.name, kernel, [DATA], outputs, optional=[MASK, VARIANCE])
        return cube.assign(made)


class Linear(Interpolate):
    """Interpolate linearly between the good neighbours of each hole."""

    method: Literal["linear"] = "linear"

    def fill(self) -> Fill:
        """Return `fill_linear`, which has no parameters."""
        return fill_linear


WINDOW = parameter(10, "pixel", "side of the window of the analysis", ge=2, le=32)


class SSA(Interpolate):
    """Use the strongest quarter of the components of a singular spectrum analysis."""

    method: Literal["ssa"]
    window: int = WINDOW

    def fill(self) -> Fill:
        """Return `fill_ssa` with its parameters."""
        return partial(fill_ssa, window=self.window)


class SSADeviation(Interpolate):
    """Interpolate each component of a singular spectrum analysis where a masked pixel deviates in it."""

    method: Literal["ssa_deviation"]
    window: int = WINDOW
    value: float = parameter(
        0.5, "probability", "distance from the median beyond which a pixel is interpolated", ge=0, le=1
    )

    def fill(self) -> Fill:
        """Return `fill_ssa_deviation` with its parameters."""
        return partial(fill_ssa_deviation, window=self.window, value=self.value)


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
