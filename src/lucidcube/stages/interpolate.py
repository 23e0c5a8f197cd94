"""Stage `interpolate`: fill masked and missing pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import xarray as xr

from lucidcube.cube import DATA, FILLED, MASK, RESIDUAL, UNITS, VARIANCE
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.holes import Filled, outside_field
from lucidcube.kernels.ssa.inpaint import fill_ssa, fill_ssa_deviation
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Stage, parameter


class Interpolate(Stage):
    """Fill masked pixels and holes in the field from their surroundings.

    Good pixels keep their exact values. Pixels outside the field remain NaN: the outside consists of the
    regions without data in which a disc wider than `max_hole` fits, with the surroundings of the frame
    counted as such a region. The residual is input minus output: zero at good pixels, NaN where the input is
    NaN. `filled` is 1 where a masked pixel was replaced and 2 where a hole was filled, so that later stages
    give these pixels no weight; their variance becomes NaN, because it is unknown.
    """

    name: ClassVar[str] = "interpolate"
    version: ClassVar[int] = 3
    optional: ClassVar[tuple[str, ...]] = (MASK, VARIANCE, FILLED)
    produces: ClassVar[tuple[str, ...]] = (DATA, RESIDUAL, FILLED, VARIANCE)
    copies: ClassVar[float] = 7.5
    scratch: ClassVar[float] = 8
    choices: ClassVar[tuple[str, ...]] = ("method",)
    tag: ClassVar[str] = "_interp"
    files: ClassVar[tuple[str, ...]] = (DATA, MASK)

    max_hole: int = parameter(
        10,
        "pixel",
        "diameter of the largest hole without data that is filled, about as far as a PSF of 3 to 5 pixels "
        "spreads light; 0 fills none. Masked pixels are always replaced",
        ge=0,
    )
    method: str = parameter(..., "", "algorithm that computes the values of the pixels")

    kernel: ClassVar[Callable[..., np.ndarray]]
    """Function that fills the missing pixels of a plane; it takes the parameters of the variant by name."""

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        attrs = dict(cube[DATA].attrs)
        outputs = {
            DATA: Output(attrs=attrs),
            RESIDUAL: Output(attrs=attrs),
            FILLED: Output(dtype="uint8", blank=0, attrs={UNITS: ""}),
        }
        if VARIANCE in cube:
            outputs[VARIANCE] = Output(blank=VARIANCE, attrs=dict(cube[VARIANCE].attrs))
        fill = partial(type(self).kernel, **self.model_dump(exclude={"method", "max_hole"}))
        kernel = partial(_filled, fill=fill, max_hole=self.max_hole)
        made = over_planes(cube, self.name, kernel, [DATA], outputs, optional=[MASK, VARIANCE, FILLED])
        return cube.assign(made)


class Linear(Interpolate):
    """Interpolate linearly between the good neighbours of each hole."""

    kernel = staticmethod(fill_linear)
    method: Literal["linear"] = "linear"


WINDOW = parameter(10, "pixel", "side of the window of the analysis", ge=2, le=32)


class SSA(Interpolate):
    """Use the strongest quarter of the components of a singular spectrum analysis."""

    kernel = staticmethod(fill_ssa)
    method: Literal["ssa"]
    window: int = WINDOW


class SSADeviation(Interpolate):
    """Interpolate each component of a singular spectrum analysis at the masked pixels that deviate in it."""

    kernel = staticmethod(fill_ssa_deviation)
    method: Literal["ssa_deviation"]
    window: int = WINDOW
    value: float = parameter(
        0.5, "probability", "distance from the median beyond which a pixel is interpolated", ge=0, le=1
    )


def _filled(
    plane: np.ndarray,
    mask: np.ndarray | None,
    variance: np.ndarray | None,
    before: np.ndarray | None,
    *,
    fill: Callable[[np.ndarray, np.ndarray], np.ndarray],
    max_hole: int,
) -> tuple[np.ndarray, ...]:
    """Fill a plane; `before` is the map of pixels that an earlier interpolation filled."""
    missing = ~np.isfinite(plane)
    outside = outside_field(missing, max_hole)
    filled = np.where(missing, np.uint8(Filled.HOLE), np.uint8(Filled.NO))
    if mask is not None:
        filled[~missing & (mask != 0)] = Filled.REPLACED
    whole = fill(plane, filled > 0)
    whole[outside] = np.nan
    unmeasured = filled > 0
    if before is not None:
        filled = np.maximum(filled, before)
    filled[outside] = Filled.NO
    made = (whole, plane - whole, filled)
    if variance is None:
        return made
    return (*made, np.where(unmeasured, np.float32(np.nan), variance))
