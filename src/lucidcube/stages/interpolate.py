"""Stage `interpolate`: fill masked and missing pixels."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import xarray as xr

from lucidcube.cube import (
    DATA,
    FILLED,
    MASK,
    PSF,
    RESIDUAL,
    UNITS,
    VARIANCE,
)
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.ssa.inpaint import fill_ssa, fill_ssa_deviation
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.lift.windows import over_windows
from lucidcube.stages.base import NOISE_IS_ESTIMATED, parameter
from lucidcube.stages.interpolate_planes import filled, modelled, modelled_together
from lucidcube.stages.psf_argument import StageWithPSF
from lucidcube.stages.psf_planes import check_psf_planes


class Interpolate(StageWithPSF):
    """Fill masked pixels and holes in the field from their surroundings.

    Good pixels keep their exact values. Pixels outside the field remain NaN: the outside consists of the
    regions without data in which a disc wider than `max_hole` fits, with the surroundings of the frame
    counted as such a region. The residual is input minus output: zero at good pixels, NaN where the input is
    NaN. `filled` is 1 where a masked pixel was replaced, 2 where a hole was filled, and 3 where a masked
    pixel was predicted from the other planes, so that later stages give these pixels no weight, or little;
    their variance becomes NaN, because it is unknown.
    """

    name: ClassVar[str] = "interpolate"
    version: ClassVar[int] = 9
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
    """Function that fills a plane from itself; it takes the parameters of the variant by name."""

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        fill = partial(type(self).kernel, **self.model_dump(exclude={"method", "max_hole"}))
        kernel = partial(filled, fill=fill, max_hole=self.max_hole)
        optional = [MASK, VARIANCE, FILLED]
        return cube.assign(
            over_planes(cube, self.name, kernel, [DATA], self.outputs(cube), optional=optional)
        )

    def outputs(self, cube: xr.Dataset) -> dict[str, Output]:
        """Return the description of the variables that this stage makes."""
        attrs = dict(cube[DATA].attrs)
        outputs = {
            DATA: Output(attrs=attrs),
            RESIDUAL: Output(attrs=attrs),
            FILLED: Output(dtype="uint8", blank=0, attrs={UNITS: ""}),
        }
        if VARIANCE in cube:
            outputs[VARIANCE] = Output(blank=VARIANCE, attrs=dict(cube[VARIANCE].attrs))
        return outputs


class Model(Interpolate):
    """Use the object that best explains the good pixels, convolved with the PSF.

    The object is the edge-preserving estimate of ``deconvolve: {method: map}``. Where a pixel is marked in
    fewer than half of the neighbouring planes, the spectrum of the pixel in the other planes takes part in
    the estimate with five times the noise, and `filled` is 3. A plane without a PSF is filled as by `linear`.
    """

    method: Literal["model"] = "model"
    requires: ClassVar[tuple[str, ...]] = (DATA, PSF)
    files: ClassVar[tuple[str, ...]] = (DATA, MASK, PSF)
    halo: ClassVar[int] = 8
    copies: ClassVar[float] = 9
    scratch: ClassVar[float] = 55
    together_copies: ClassVar[float] = 36

    n_iter: int = parameter(150, "iterations", "maximum number of iterations of the estimate", ge=1)
    spectral: bool = parameter(
        True,
        "",
        "predict marked pixels from the spectrum of the pixel in the other planes; set it to false for "
        "objects whose spectrum has another shape in each pixel",
    )

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        options = self.model_dump(include={"max_hole", "n_iter", "spectral"})
        made = over_windows(
            cube,
            self.name,
            partial(modelled, **options),
            [DATA, PSF],
            self.outputs(cube),
            optional=[MASK, VARIANCE, FILLED],
            halo=self.halo,
            together=partial(modelled_together, **options),
        )
        return cube.assign(made)

    def check(self, cube: xr.Dataset) -> None:
        """Check the PSF; see `Stage.check`."""
        check_psf_planes(cube, self.name)

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        if VARIANCE not in cube:
            yield NOISE_IS_ESTIMATED


class Linear(Interpolate):
    """Interpolate linearly between the good neighbours of each hole."""

    kernel = staticmethod(fill_linear)
    method: Literal["linear"]


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
