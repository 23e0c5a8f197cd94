"""Stage `noise`: estimate the variance where the cube has none, and correct the one it has."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import BeforeValidator

from lucidcube.cube import DATA, FILLED, MASK, NOISE_FACTOR, NOISE_WIDTH, UNITS, VARIANCE, WAVELENGTH
from lucidcube.kernels.noise import Calibration, calibrate, estimate_variance, measure_factor
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.lift.remembered import Remembered
from lucidcube.lift.windows import over_windows
from lucidcube.stages.base import Stage, parameter

LOOKED_AT = 3
"""Number of planes that are compared with their variance before the computation, to tell the user."""


def _factor_or_word(value: Any) -> bool | float:
    """Return the value of `calibrate`; one message says what is allowed, instead of one for each type."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and 0 < value <= sys.float_info.max:
        return float(value)
    raise ValueError(f"must be true, false or a positive number (not {value!r})")


class Noise(Stage):
    """Estimate the variance of the noise where the cube has none, and correct a given one that is wrong.

    The estimate: in each plane, the variance is a linear function of the signal, as it is for photon noise
    and read noise. It is measured in the residuals of a filter that removes smooth structure; marked and
    filled pixels are left out. If the cube was resampled spatially, so that the noise of neighbouring pixels
    is correlated, the residuals are smaller than the noise, which is corrected. The estimate is NaN where the
    data are NaN or were filled.

    A given variance is compared with the scatter of the same residuals. `noise_factor` is what the variance
    of a plane was multiplied by: 1, and the variance is unchanged, if it is right within 25 %, or might be;
    NaN, and it is unchanged, if the plane has too few pixels. `noise_width` is the standard deviation, in
    pixels, of the Gaussian that describes the correlation, 0 if there is none. The factor of a small plane is
    drawn towards those of the neighbouring planes. The data are passed on unchanged.
    """

    name: ClassVar[str] = "noise"
    version: ClassVar[int] = 3
    optional: ClassVar[tuple[str, ...]] = (VARIANCE, MASK, FILLED)
    produces: ClassVar[tuple[str, ...]] = (VARIANCE, NOISE_FACTOR, NOISE_WIDTH)
    copies: ClassVar[float] = 6.5
    scratch: ClassVar[float] = 17
    halo: ClassVar[int] = 8
    tag: ClassVar[str] = "_noise"

    existing: Literal["keep", "replace"] = parameter(
        "keep",
        "",
        "whether a variance that the cube already has is kept, or replaced by the estimate",
    )
    calibrate: Annotated[
        bool | float, BeforeValidator(_factor_or_word, json_schema_input_type=bool | float)
    ] = parameter(
        True,
        "",
        "whether a variance that the cube already has is corrected where it disagrees with the scatter "
        "of the data; a number multiplies it instead",
    )

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        if self._estimates(cube):
            unit = str(cube[DATA].attrs.get(UNITS, ""))
            outputs = {VARIANCE: Output(attrs={UNITS: f"({unit})**2" if unit else ""})}
            return cube.assign(
                over_planes(cube, self.name, _estimated, [DATA], outputs, optional=[MASK, FILLED])
            )
        if self.calibrate is False:
            return cube.copy()
        variance = Output(blank=VARIANCE, attrs=dict(cube[VARIANCE].attrs))
        numbers = {NOISE_FACTOR: Output(dims=(), attrs={UNITS: ""})}
        if self.calibrate is not True:
            kernel = partial(_multiplied, factor=self.calibrate)
            return cube.assign(
                over_planes(cube, self.name, kernel, [VARIANCE], {VARIANCE: variance, **numbers})
            )
        outputs = {VARIANCE: variance, **numbers, NOISE_WIDTH: Output(dims=(), attrs={UNITS: "pixel"})}
        inputs, optional = [DATA, VARIANCE], [MASK, FILLED]
        made = over_windows(cube, self.name, _calibrated, inputs, outputs, optional=optional, halo=self.halo)
        return cube.assign(made)

    def halo_of(self, cube: xr.Dataset) -> int:
        """Return the number of neighbouring planes; see `Stage.halo_of`."""
        return self.halo if self.calibrate is True and not self._estimates(cube) else 0

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        if self._estimates(cube):
            why = "replaces the one of the cube" if VARIANCE in cube else "the cube has none"
            yield f"the variance is estimated from each plane ({why})"
        elif self.calibrate is False:
            yield from _what_is_wrong(_look_at(cube), "it is kept (noise: {calibrate: true} corrects it)")

    def findings(self, cube: xr.Dataset) -> Iterator[str]:
        if self.calibrate is True and NOISE_FACTOR in cube and not self._estimates(cube):
            found = Calibration(cube[NOISE_FACTOR].values, cube[NOISE_WIDTH].values)
            yield from _what_is_wrong(found, "it was corrected (noise: {calibrate: false} keeps it)")

    def _estimates(self, cube: xr.Dataset) -> bool:
        return VARIANCE not in cube or self.existing == "replace"


def _look_at(cube: xr.Dataset) -> Calibration:
    """Compare a few planes of a cube with their variance."""
    planes = (np.arange(LOOKED_AT) + 0.5) * cube.sizes[WAVELENGTH] / LOOKED_AT
    names = [name for name in (DATA, VARIANCE, MASK, FILLED) if name in cube]
    some = cube[names].isel({WAVELENGTH: np.unique(planes.astype(int))}).load()
    marks = (some[name].values if name in some else None for name in (MASK, FILLED))
    return _calibration(some[DATA].values, some[VARIANCE].values, *marks, wanted=slice(None))


def _what_is_wrong(found: Calibration, done: str) -> Iterator[str]:
    """Say what was found, and what was done about it."""
    known = np.isfinite(found.factor)
    wrong = found.factor[known & (found.factor != 1)]
    if not known.any():
        yield (
            "the variance is kept, because the planes have too few pixels, or too much structure, to compare "
            "it with the scatter of the data"
        )
    elif wrong.size:
        factor = float(np.median(wrong))
        size = f"{factor:.2g} times too small" if factor > 1 else f"{1 / factor:.2g} times too large"
        count = f"{wrong.size} of {np.count_nonzero(known)} planes"
        yield f"the variance is {size} for the scatter of the data in {count}; {done}"
    if (positive := found.width[found.width > 0]).size:  # some may be NaN
        width = np.median(positive)
        yield (
            "the noise of neighbouring pixels is correlated, as after smoothing by a Gaussian with a "
            f"standard deviation of {width:.2g} pixels"
        )


def _calibrated(
    data: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray | None,
    filled: np.ndarray | None,
    *,
    wanted: slice,
) -> tuple[np.ndarray, ...]:
    """Return the corrected variance, the factors and the widths of the wanted planes of a window."""
    found = _calibration(data, variance, mask, filled, wanted=wanted)
    factor = np.where(np.isfinite(found.factor), found.factor, 1)
    return variance[wanted] * factor[:, None, None], found.factor, found.width


def _calibration(
    data: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray | None,
    filled: np.ndarray | None,
    *,
    wanted: slice,
) -> Calibration:
    """Return the factors and widths of the wanted planes of a window."""
    found = _window_calibration(data, variance, _marked(data, mask, filled))
    return Calibration(found.factor[wanted], found.width[wanted])


def _measured(data: np.ndarray, variance: np.ndarray, bad: np.ndarray) -> Calibration:
    """Return the factors and widths of all planes of a window."""
    return calibrate([measure_factor(*planes) for planes in zip(data, variance, bad, strict=True)])


_window_calibration = Remembered(_measured)


def _multiplied(variance: np.ndarray, *, factor: float) -> tuple[np.ndarray, float]:
    return variance * factor, factor


def _estimated(plane: np.ndarray, mask: np.ndarray | None, filled: np.ndarray | None) -> np.ndarray:
    """Estimate the variance of a plane without the pixels that are marked or filled."""
    variance = estimate_variance(plane, _marked(plane, mask, filled))
    return variance if filled is None else np.where(filled != 0, np.float32(np.nan), variance)


def _marked(data: np.ndarray, mask: np.ndarray | None, filled: np.ndarray | None) -> np.ndarray:
    """Return where pixels are marked or filled."""
    marked = np.zeros(data.shape, bool)
    for marks in (mask, filled):
        if marks is not None:
            marked |= marks != 0
    return marked
