"""Stage `interpolate`: fill masked and missing pixels."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal

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
from lucidcube.kernels.deconvolution.map_solver import Solution
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.fill_model import object_of_good_pixels, predict
from lucidcube.kernels.fourier.convolver import engine_name
from lucidcube.kernels.holes import Filled, outside_field
from lucidcube.kernels.ssa.inpaint import fill_ssa, fill_ssa_deviation
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.lift.remembered import Remembered
from lucidcube.lift.windows import over_windows
from lucidcube.stages.base import NOISE_IS_ESTIMATED, parameter
from lucidcube.stages.psf_argument import StageWithPSF
from lucidcube.stages.psf_planes import check_psf_planes, middle_plane, usable_psf

FEWEST_PLANES = 6
"""With fewer planes than this, the objects in the planes may differ, as in the bands of a survey."""


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
    version: ClassVar[int] = 8
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
        kernel = partial(_filled, fill=fill, max_hole=self.max_hole)
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

    n_iter: int = parameter(150, "iterations", "maximum number of iterations of the estimate", ge=1)
    spectral: bool = parameter(
        True,
        "",
        "predict marked pixels from the spectrum of the pixel in the other planes; set it to false for "
        "objects whose spectrum has another shape in each pixel",
    )

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        kernel = partial(_modelled, max_hole=self.max_hole, n_iter=self.n_iter, spectral=self.spectral)
        inputs, optional = [DATA, PSF], [MASK, VARIANCE, FILLED]
        made = over_windows(
            cube, self.name, kernel, inputs, self.outputs(cube), optional=optional, halo=self.halo
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
    filled = _pixels_to_fill(plane, mask)
    return _results(plane, fill(plane, filled > 0), filled, variance, before, max_hole)


def _modelled(
    data: np.ndarray,
    psf: np.ndarray,
    mask: np.ndarray | None,
    variance: np.ndarray | None,
    before: np.ndarray | None,
    *,
    wanted: slice,
    max_hole: int,
    n_iter: int,
    spectral: bool,
) -> list[np.ndarray]:
    """Fill the wanted planes of a window."""
    none = np.zeros(data.shape, np.uint8)
    filled = _pixels_to_fill(data, mask)
    bad = (filled > 0) | ((none if before is None else before) > 0)
    known = predict(data, variance, bad, spectral=spectral)
    usable = known.usable & (filled > 0)
    middle = middle_plane(data, psf) if spectral and len(data) >= FEWEST_PLANES else None

    def given(i: int) -> tuple[np.ndarray, ...]:
        noise = np.sqrt(np.where(known.variance[i] > 0, known.variance[i], np.float32(np.nan)))
        return data[i], noise, usable_psf(psf[i]), bad[i], known.values[i], usable[i]

    made = []
    for i in range(len(data))[wanted]:
        whole, fill = data[i], filled[i] > 0
        if np.isfinite(whole).any() and fill.any():
            if np.isfinite(psf[i]).any():
                start = None if middle is None else _object(*given(middle), str(n_iter), engine_name())
                model = object_of_good_pixels(*given(i), n_iter=n_iter, start=start).model
                whole = np.where(fill, model, whole)
            else:
                whole = fill_linear(whole, fill)
        filled[i][usable[i] & (filled[i] == Filled.REPLACED)] = Filled.MODELLED
        own, earlier = (None if planes is None else planes[i] for planes in (variance, before))
        made.append(_results(data[i], whole, filled[i], own, earlier, max_hole))
    return [np.stack(planes) for planes in zip(*made, strict=True)]


def _estimate(*given: Any) -> Solution:
    """Return the object in a plane, from arrays, the number of iterations, and the name of the engine."""
    *planes, n_iter, _ = given
    return object_of_good_pixels(*planes, n_iter=int(n_iter))


# The planes of a group start from the same one.
_object = Remembered(_estimate, recent=4)


def _pixels_to_fill(data: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return `Filled.REPLACED` for marked pixels and `Filled.HOLE` for missing ones."""
    missing = ~np.isfinite(data)
    filled = np.where(missing, np.uint8(Filled.HOLE), np.uint8(Filled.NO))
    if mask is not None:
        filled[~missing & (mask != 0)] = Filled.REPLACED
    return filled


def _results(
    plane: np.ndarray,
    whole: np.ndarray,
    filled: np.ndarray,
    variance: np.ndarray | None,
    before: np.ndarray | None,
    max_hole: int,
) -> tuple[np.ndarray, ...]:
    """Return what the stage makes of a plane that was filled everywhere."""
    outside = outside_field(~np.isfinite(plane), max_hole)
    whole = np.where(outside, np.float32(np.nan), whole)
    unmeasured = filled > 0
    if before is not None:
        filled = np.maximum(filled, before)
    filled = np.where(outside, np.uint8(Filled.NO), filled)
    made = (whole, plane - whole, filled)
    if variance is None:
        return made
    return (*made, np.where(unmeasured, np.float32(np.nan), variance))
