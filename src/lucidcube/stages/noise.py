"""Stage `noise`: estimate the variance where the cube has none."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import xarray as xr

from lucidcube.cube import DATA, FILLED, MASK, UNITS, VARIANCE
from lucidcube.kernels.noise import estimate_variance
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Stage, parameter


class Noise(Stage):
    """Estimate the variance of the noise where the cube has none.

    In each plane, the variance is a linear function of the signal, as it is for photon noise and read noise.
    It is measured in the residuals of a filter that removes smooth structure; marked and filled pixels are
    left out. If the cube was resampled spatially, so that the noise of neighbouring pixels is correlated, the
    estimate follows from pixels at a distance. The data are passed on unchanged, and so is a variance that
    the cube already has. The estimate is NaN where the data are NaN or were filled.
    """

    name: ClassVar[str] = "noise"
    version: ClassVar[int] = 2
    optional: ClassVar[tuple[str, ...]] = (VARIANCE, MASK, FILLED)
    produces: ClassVar[tuple[str, ...]] = (VARIANCE,)
    copies: ClassVar[float] = 3
    scratch: ClassVar[float] = 30
    tag: ClassVar[str] = "_noise"

    existing: Literal["keep", "replace"] = parameter(
        "keep",
        "",
        "whether a variance that the cube already has is kept, or replaced by the estimate",
    )

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        if not self._estimates(cube):
            return cube.copy()
        unit = str(cube[DATA].attrs.get(UNITS, ""))
        outputs = {VARIANCE: Output(attrs={UNITS: f"({unit})**2" if unit else ""})}
        made = over_planes(cube, self.name, _variance, [DATA], outputs, optional=[MASK, FILLED])
        return cube.assign(made)

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        if self._estimates(cube):
            why = "replaces the one of the cube" if VARIANCE in cube else "the cube has none"
            yield f"the variance is estimated from each plane ({why})"

    def _estimates(self, cube: xr.Dataset) -> bool:
        return VARIANCE not in cube or self.existing == "replace"


def _variance(plane: np.ndarray, mask: np.ndarray | None, filled: np.ndarray | None) -> np.ndarray:
    """Estimate the variance of a plane without the pixels that are marked or filled."""
    exclude = np.zeros(plane.shape, bool)
    for marks in (mask, filled):
        if marks is not None:
            exclude |= marks != 0
    variance = estimate_variance(plane, exclude)
    return variance if filled is None else np.where(filled != 0, np.float32(np.nan), variance)
