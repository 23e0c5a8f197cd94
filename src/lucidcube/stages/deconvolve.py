"""Stage `deconvolve`: remove the blur."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr

from lucidcube.cube import (
    BIAS,
    CHANNEL,
    DATA,
    DECONVOLUTION_LOG,
    ERROR,
    FILLED,
    POINTS,
    PSF,
    PSF_MODES,
    RESIDUAL,
    RESOLUTION,
    SMOOTHING,
    UNITS,
    VARIABLES,
    VARIANCE,
    X,
    Y,
    block_sizes,
    scale_exponent,
)
from lucidcube.kernels.deconvolution.common import Deconvolution, StopReason
from lucidcube.kernels.deconvolution.errors import PILOTS, errors_by_repeats
from lucidcube.kernels.deconvolution.resolution import FWHM, at_resolution
from lucidcube.kernels.holes import Filled
from lucidcube.kernels.noise import estimate_variance
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.stacks import PlaneInput, PlanesKernel
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import NOISE_IS_ESTIMATED, parameter
from lucidcube.stages.deconvolution_errors import ErrorOptions
from lucidcube.stages.deconvolution_warnings import input_warnings, result_warnings
from lucidcube.stages.deconvolve_planes import deconvolved, deconvolved_together
from lucidcube.stages.psf_argument import StageWithPSF
from lucidcube.stages.psf_planes import check_psf_planes
from lucidcube.stages.resolution import Resolution, fwhm_in_pixels, sigma_in_pixels, support_warnings

STOP_REASONS = {UNITS: "", "meanings": {str(int(r)): r.text for r in StopReason}}
WITH_ERRORS = (ERROR, BIAS)
"""Variables of planes that are made if errors are wanted."""
RESOLUTION_SCRATCH = 20
"""Planes in memory while a plane is filtered to a resolution."""
STARTS = 4
"""Float32 planes that are kept of the result of each plane computed together, if errors are measured."""
ERROR_SCRATCH = 64
"""Float32 planes in memory, in addition to those of the deconvolution and to the two that are kept of each
repeat, while the errors are measured."""


class Deconvolve(StageWithPSF):
    """Remove the blur of the point spread function, plane by plane.

    The data are replaced by the components: the object as it would be without the blur. The residual is
    the input minus the components convolved with the PSF, up to float32 rounding, with NaN components as
    zero. With `map` it is the input minus the model, which also holds light from beyond the frame. Pixels
    that are NaN or were filled have no weight, and those that were predicted from other planes little.
    The components are NaN outside the field, which is where the input is NaN except for holes that the
    PSF bridges; light from there remains in the residual. The residual is NaN where nothing was observed,
    including holes that were filled. The variance is passed on unchanged: it is that of the input and of
    the residual, not of the components, whose noise is correlated. Where there is none, methods that need
    it estimate it from each plane. NaN in a PSF, such as the edge of a star that was shifted, is taken as
    zero. A plane without a PSF is not deconvolved: all of its data are in the residual.

    With `errors`, simulated data are deconvolved like the plane. The scatter and the bias of the results give
    the error of the components after smoothing by a Gaussian, whose width is in the header. It is the root of
    the mean squared deviation from the object: it contains the noise, the bias, what the method has lost
    according to the power of the residual, the uncertainty of the width of the PSF, and the error of the PSF
    if `fit_psf` made its modes. Artefacts that were missed are in it as far as they are left in the residual.
    It is NaN where nothing was observed, or a pixel was filled.
    """

    name: ClassVar[str] = "deconvolve"
    version: ClassVar[int] = 14
    requires: ClassVar[tuple[str, ...]] = (DATA, PSF)
    optional: ClassVar[tuple[str, ...]] = (VARIANCE, FILLED, PSF_MODES)
    produces: ClassVar[tuple[str, ...]] = (DATA, RESIDUAL, *WITH_ERRORS, *DECONVOLUTION_LOG)
    choices: ClassVar[tuple[str, ...]] = ("method",)
    tag: ClassVar[str] = "_deconv"
    files: ClassVar[tuple[str, ...]] = (DATA, PSF)
    extras: ClassVar[tuple[str, ...]] = ()
    """Variables of planes that only some variants make, in the order of `produces`."""

    method: str = parameter(..., "", "algorithm of the deconvolution")
    resolution: Resolution = parameter(
        None,
        "pixel",
        "full width at half maximum of the Gaussian PSF with which the product shows the object at all "
        "wavelengths, in pixels or as an angle such as 0.1arcsec; null shows it without blur",
    )
    add_residual: bool = parameter(
        True,
        "",
        "add the residual at the resolution, which removes the bias of the method and adds noise; without a "
        "resolution this has no effect",
    )
    n_iter: int
    chi2_target: float | None
    errors: ErrorOptions = parameter(
        None,
        "",
        "measure the errors of the components by deconvolving simulated data: draws is their number, and "
        "there are three more (each costs a third as much as the result with map, and as much as it with the "
        "others); smoothing is the standard deviation, in pixels, of the Gaussian of the resolution that the "
        "errors are for (null is that of the field resolution, or 1); true is {draws: 8, smoothing: null}, "
        "null measures none",
    )

    stage_only: ClassVar[set[str]] = {"method", "resolution", "add_residual", "errors"}
    """Fields that the kernels do not take."""
    kernel: ClassVar[Callable[..., Deconvolution]]
    """Function that deconvolves a plane; it takes the parameters of the variant by name."""
    planes_kernel: ClassVar[PlanesKernel | None] = None
    """Function that deconvolves several planes together, see `kernels.stacked`; None if there is none."""

    def deconvolve_plane(self, plane: np.ndarray, psf: np.ndarray, **given: Any) -> Deconvolution:
        """Deconvolve a plane; `given` are the other arguments of the kernel.

        The variance is estimated if it is not given and `needs_variance`. A resolution must be in pixels, see
        `on_pixels_of`.
        """
        given["variance"] = self._known_variance(plane, given.get("variance"), given.get("filled"))
        found = type(self).kernel(plane, psf, **given, **self.model_dump(exclude=self.stage_only))
        return self._at_resolution(found, plane, psf, given["variance"], given.get("filled"))

    def deconvolve_planes(
        self, planes: Sequence[PlaneInput], arrays: Arrays, kernel: PlanesKernel
    ) -> list[Deconvolution]:
        """Deconvolve planes together by a kernel, as `deconvolve_plane` does each of them."""
        known = [p._replace(variance=self._known_variance(p.plane, p.variance, p.filled)) for p in planes]
        found = kernel(known, arrays, **self.model_dump(exclude=self.stage_only))
        if self.errors is None:  # whose repeats alone begin there
            found = [each._replace(start=None) for each in found]
        return [self._at_resolution(each, *plane) for each, plane in zip(found, known, strict=True)]

    def _known_variance(
        self, plane: np.ndarray, variance: np.ndarray | None, filled: np.ndarray | None
    ) -> np.ndarray | None:
        """Return the variance of a plane, which is estimated if that is needed."""
        if variance is not None or not self.needs_variance:
            return variance
        return estimate_variance(plane, None if filled is None else filled != Filled.NO)

    def _at_resolution(
        self,
        found: Deconvolution,
        plane: np.ndarray,
        psf: np.ndarray,
        variance: np.ndarray | None,
        filled: np.ndarray | None,
    ) -> Deconvolution:
        """Return a result at the resolution of the stage, if it has one."""
        if self.resolution is None:
            return found
        known: dict[str, Any] = {"variance": variance, "filled": filled, "add_residual": self.add_residual}
        return at_resolution(found, plane, psf, float(self.resolution) / FWHM, **known)

    @property
    def computes_together(self) -> bool:
        """Whether the method can deconvolve planes together."""
        return self.planes_kernel is not None

    def on_pixels_of(self, cube: xr.Dataset) -> Self:
        """Return the same stage with the resolution in pixels of a cube; CubeError is raised if unknown."""
        if self.resolution is None:
            return self
        return self.model_copy(update={"resolution": fwhm_in_pixels(self.resolution, cube, self.name)})

    def sigma_pixels(self, cube: xr.Dataset) -> float | None:
        """Return the standard deviation in pixels of the Gaussian of the `resolution`; None without one."""
        return sigma_in_pixels(self.resolution, cube, self.name)

    @property
    def needs_variance(self) -> bool:
        """Whether the variance must be known, and so is estimated from planes without one."""
        return self.chi2_target is not None

    @property
    def measured_errors(self) -> Sequence[str]:
        """Names of the variables that say how accurate the components are."""
        return () if self.errors is None else WITH_ERRORS

    def smoothing_of(self, cube: xr.Dataset) -> float:
        """Return the standard deviation, in pixels, of the Gaussian of the resolution that errors are for."""
        given = None if self.errors is None else self.errors.smoothing
        return given or self.sigma_pixels(cube) or 1.0

    def repeat(self, found: Deconvolution, psf: np.ndarray, data: np.ndarray, **given: Any) -> np.ndarray:
        """Return the components of data that are similar to those of a result."""
        return self.deconvolve_plane(data, psf, **given).components

    def errors_of(
        self,
        found: Deconvolution,
        plane: np.ndarray,
        psf: np.ndarray,
        *,
        modes: np.ndarray | None,
        smoothing: float,
        seed: int,
        **given: Any,
    ) -> dict[str, np.ndarray]:
        """Return the variables `measured_errors` of a result; for `given` see `deconvolve_plane`."""
        if self.errors is None:
            return {}
        sharp = self.model_copy(update={"resolution": None})
        if found.sharp is not None:
            found = found._replace(components=found.sharp)
        made = errors_by_repeats(
            found,
            plane,
            psf,
            **given,
            modes=modes,
            psf_width=self.errors.psf_width,
            repeat=partial(sharp.repeat, found, psf, **given),
            draws=self.errors.draws,
            smoothing=smoothing,
            add_residual=self.resolution is not None and self.add_residual,
            seed=seed,
        )
        return dict(zip(WITH_ERRORS, made, strict=True))

    @abstractmethod
    def scaled(self, scale: float) -> Self:
        """Return the same stage for data that were multiplied by `scale`."""

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        attrs, smoothing = dict(cube[DATA].attrs), self.smoothing_of(cube)
        outputs = {
            **{name: Output(attrs=attrs) for name in (DATA, RESIDUAL, *self.extras)},
            **{name: Output(attrs=attrs | {SMOOTHING: smoothing}) for name in self.measured_errors},
            "iterations": Output(dims=(), dtype="int32", blank=0),
            "stop_reason": Output(dims=(), dtype="uint8", blank=int(StopReason.ALL_NAN), attrs=STOP_REASONS),
        }
        for name in DECONVOLUTION_LOG[2:]:
            unit = attrs.get(UNITS, "") if VARIABLES[name].flux_power else ""
            # Numbers of fluxes of 1e-20 are written in float64 to keep all of their digits.
            outputs[name] = Output(dims=(), dtype="float64", attrs={UNITS: unit})
        sigma = self.sigma_pixels(cube)
        if sigma is not None:
            for name in {DATA, POINTS, *self.measured_errors} & outputs.keys():
                shown = {**outputs[name].attrs, RESOLUTION: sigma * FWHM}
                outputs[name] = outputs[name]._replace(attrs=shown)
        scale = 2.0 ** scale_exponent(cube)
        stage = self.on_pixels_of(cube).scaled(scale)
        kernel = partial(deconvolved, stage=stage, smoothing=smoothing)
        together = partial(deconvolved_together, stage=stage)
        optional = [VARIANCE, FILLED] if self.errors is None else [VARIANCE, FILLED, PSF_MODES]
        inputs = [DATA, PSF, CHANNEL]
        made = over_planes(cube, self.name, kernel, inputs, outputs, optional=optional, together=together)
        return cube.assign(made)

    def working_bytes(self, before: xr.Dataset, after: xr.Dataset) -> int:
        """Return the bytes of memory for one block, with those of simulated data and of filters."""
        work = super().working_bytes(before, after)
        if self.resolution is not None:
            work += 4 * RESOLUTION_SCRATCH * before.sizes[Y] * before.sizes[X]
        if self.errors is None:
            return work
        block = max(block_sizes(after))
        repeats = 2 * (self.errors.draws + PILOTS)
        pixels = (2 * block + repeats + ERROR_SCRATCH) * before.sizes[Y] * before.sizes[X]
        modes = math.prod(before[PSF_MODES].shape[1:]) if PSF_MODES in before else 0
        return work + 4 * (pixels + 2 * (block + 1) * modes)

    def together_bytes(self, before: xr.Dataset, after: xr.Dataset) -> int:
        starts = 0 if self.errors is None else 4 * STARTS * max(block_sizes(after))
        return super().together_bytes(before, after) + starts * before.sizes[Y] * before.sizes[X]

    def check(self, cube: xr.Dataset) -> None:
        """Check every plane of the PSF; see `Stage.check`."""
        check_psf_planes(cube, self.name)

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        if VARIANCE not in cube and (self.needs_variance or self.errors is not None):
            yield NOISE_IS_ESTIMATED
        if self.resolution is not None:
            fwhm = fwhm_in_pixels(self.resolution, cube, self.name)
            yield from support_warnings(fwhm, cube, self.name)
        yield from input_warnings(cube)

    def findings(self, cube: xr.Dataset) -> Iterator[str]:
        return result_warnings(cube)
