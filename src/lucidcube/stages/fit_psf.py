"""Stage `fit_psf`: fit a noise-free model to the star."""

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr

from lucidcube.cube import (
    DATA,
    FIT_RESULTS,
    MODE,
    PARAMETER,
    PSF_MODES,
    PSF_PLANE,
    UNITS,
    VARIANCE,
    WAVELENGTH,
    X,
    Y,
    block_sizes,
)
from lucidcube.kernels.psf.effective import FittedWindow, fit_window
from lucidcube.kernels.psf.fit import FitStatus
from lucidcube.kernels.psf.star_position import saturated_pixels
from lucidcube.kernels.psf.star_shape import star_shape
from lucidcube.lift.blocks import Output
from lucidcube.lift.remembered import Remembered
from lucidcube.lift.windows import over_windows, planes_read
from lucidcube.stages.base import Stage, parameter

SPEED_OF_LIGHT = 299792458.0

STATUS = {UNITS: "", "meanings": {str(int(s)): s.name.lower().replace("_", " ") for s in FitStatus}}


class FitPSF(Stage):
    """Fit a model to the star, and use the image of the model as the PSF.

    The PSF is the model centred on the central pixel, without the background; it is finite, non-negative and
    has a sum of one. The fitted parameters, their errors, the reduced chi squared and the status of the fit
    are written to a table. A plane that cannot be fitted becomes NaN. The variance is used as weight if there
    is one, and is dropped, because a model has no noise. The model `effective` takes the star as it was
    observed or after `normalise_psf`, and smooths along wavelength; the others need `normalise_psf`, and fit
    each plane on its own.
    """

    name: ClassVar[str] = "fit_psf"
    choices: ClassVar[tuple[str, ...]] = ("model", "method")
    optional: ClassVar[tuple[str, ...]] = (VARIANCE,)
    produces: ClassVar[tuple[str, ...]] = (DATA, *FIT_RESULTS)
    drops: ClassVar[tuple[str, ...]] = (VARIANCE,)
    version: ClassVar[int] = 5
    copies: ClassVar[float] = 4.5
    scratch: ClassVar[float] = 22
    tag: ClassVar[str] = "_modelled"

    model: str = parameter(..., "", "model of the star")
    method: str = parameter(..., "", "algorithm that fits the model")

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        plane = cube[DATA].isel({WAVELENGTH: cube.sizes[WAVELENGTH] // 2}).values
        shape = star_shape(plane)
        if count := saturated_pixels(plane):
            yield (
                f"the star looks saturated, because its {count} brightest pixels have the same value: the "
                "PSF is then too wide, and the result can be worse than the input; use another star"
            )
        elif shape.extended:
            yield (
                "the star looks like a disc, and not like a point: the PSF is then too wide, and the result "
                "can be worse than the input; is it a star, or are the target and the star swapped?"
            )
        elif shape.double:
            yield (
                f"the star looks double, with a second one of {shape.companion:.0%} of its brightness: the "
                "PSF contains some of its light; use another star, or cut it out with slice"
            )

    def file_tag(self) -> str:
        """Return the suffix, with the name of the model."""
        return f"{self.tag}_{self.model}"


class EffectiveLeastSquares(FitPSF):
    """Use smooth functions of radius and angle that vary smoothly with wavelength (Anderson & King 2000).

    They are fitted by robust linear least squares. The star may be anywhere in the field, on any background.
    """

    model: Literal["effective"] = "effective"
    method: Literal["least_squares"] = "least_squares"
    smoothing: int = parameter(
        15,
        "planes",
        "planes on either side over which the PSF is smoothed along wavelength; 0 for none",
        ge=0,
        le=15,
    )
    modes: int = parameter(
        0,
        "",
        "number of principal components of the error of the PSF that are made, for the errors of the "
        "deconvolution; a config that asks for those gets 4",
        ge=0,
        le=20,
    )
    produces = (DATA, PSF_MODES, *FIT_RESULTS)

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        flux = str(cube[DATA].attrs.get(UNITS, ""))
        odd = {Y: cube.sizes[Y] - 1 + cube.sizes[Y] % 2, X: cube.sizes[X] - 1 + cube.sizes[X] % 2}
        new = odd | (dict(zip(PSF_PLANE, odd.values(), strict=True)) if self.modes else {})
        names = {"names": ["x", "y", "flux", "background"], "units": ["pixel", "pixel", flux, flux]}
        made = over_windows(
            cube.assign_coords({"metres": (WAVELENGTH, metres_of(cube))}),
            self.name,
            partial(_fit_window, shape=(odd[Y], odd[X]), smoothing=float(self.smoothing), modes=self.modes),
            [DATA, "metres"],
            fit_outputs(names) | self._modes(),
            optional=[VARIANCE],
            sizes={**new, MODE: self.modes, PARAMETER: len(names["names"])},
            halo=self.smoothing,
            whole_groups=True,
        )
        trimmed = [
            n for n, v in cube.data_vars.items() for d in new if d in v.dims and new[d] != cube.sizes[d]
        ]
        return cube.drop_vars(trimmed).assign(made)

    def _modes(self) -> dict[str, Output]:
        """Return the description of the modes, if there are any."""
        return {PSF_MODES: Output(dims=(MODE, *PSF_PLANE), attrs={UNITS: ""})} if self.modes else {}

    def working_bytes(self, before: xr.Dataset, after: xr.Dataset) -> int:
        """Return the bytes of memory for one block: the planes of its windows and the fits that are kept."""
        planes = planes_read(max(block_sizes(after)), before.sizes[WAVELENGTH], self.smoothing)
        pixels = before.sizes[Y] * before.sizes[X]
        block = max(block_sizes(after)) * pixels
        fits = planes * (64 * min(pixels, 13_000) + 20_000)
        return int((4.0 * planes + 24.0) * pixels + (4 + 2 * self.modes) * block + fits) * 4


def fit_outputs(names: dict[str, list[str]]) -> dict[str, Output]:
    """Describe the results of a fit with parameters of these names and units."""
    return {
        DATA: Output(attrs={UNITS: ""}),
        "fit_value": Output(dims=(PARAMETER,), dtype="float64", attrs=names),
        "fit_error": Output(dims=(PARAMETER,), dtype="float64", attrs=names),
        "reduced_chi2": Output(dims=(), dtype="float64", attrs={UNITS: ""}),
        "fit_status": Output(dims=(), dtype="uint8", blank=int(FitStatus.NO_DATA), attrs=STATUS),
    }


def metres_of(cube: xr.Dataset) -> np.ndarray:
    """Return the wavelength of each plane; NaN on a velocity axis."""
    axis, unit = cube[WAVELENGTH].values, cube[WAVELENGTH].attrs.get(UNITS, "m")
    if unit == "Hz":
        return SPEED_OF_LIGHT / axis
    return axis if unit == "m" else np.full(axis.shape, np.nan)


def _fit_window(
    star: np.ndarray,
    metres: np.ndarray,
    variance: np.ndarray | None,
    *,
    wanted: slice,
    shape: tuple[int, int],
    smoothing: float,
    modes: int,
) -> tuple[Any, ...]:
    """Return the results for the wanted planes of a window."""
    fitted = _fitted(star, variance, metres, np.array(shape), np.array(smoothing))
    made = fitted.draw(range(*wanted.indices(len(star))), modes)
    return made if modes else made[:-1]


def _fit(
    star: np.ndarray,
    variance: np.ndarray | None,
    metres: np.ndarray,
    shape: np.ndarray,
    smoothing: np.ndarray,
) -> FittedWindow:
    return fit_window(
        star, variance, metres, shape=(int(shape[0]), int(shape[1])), smoothing=float(smoothing)
    )


# Blocks that are a part of a group, such as those of a preview, share a window. One is kept for each thread.
_fitted = Remembered(_fit, recent=1)
