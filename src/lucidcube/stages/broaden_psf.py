"""Stage `broaden_psf`: broaden a PSF that is narrower than that of the target."""

import math
from collections.abc import Iterator
from functools import partial
from threading import Lock
from typing import Annotated, Any, ClassVar, Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from pydantic import BeforeValidator

from lucidcube.cube import (
    BROADENING,
    DATA,
    MODE,
    PSF,
    PSF_MODES,
    PSF_PLANE,
    UNITS,
    VARIANCE,
    WAVELENGTH,
    X,
    Y,
    block_sizes,
)
from lucidcube.errors import CubeError
from lucidcube.kernels.deconvolution.psf_broadening import (
    PlaneFit,
    broadened,
    broadened_modes,
    core_sigma,
    fit_broadening,
)
from lucidcube.kernels.deconvolution.resolution import FWHM
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.lift.planes import nan_for_inf
from lucidcube.stages.base import NOISE_IS_ESTIMATED, parameter
from lucidcube.stages.lengths import in_pixels, length, pixel_side
from lucidcube.stages.psf_argument import StageWithPSF
from lucidcube.stages.psf_planes import check_psf_planes, usable_psf

PLANES = 8
"""Number of planes, spread over the cube, to which the width is fitted."""
WIDTH = "width"
"""Variable that tells the kernel the width of each plane."""

_lock = Lock()
_fitted: dict[str, float] = {}
"""Results of fits in this process: every block needs the same one."""


def _width(value: Any) -> Any:
    """Return the word fit, zero, or a length."""
    if value == "fit" or (value == 0 and not isinstance(value, bool)):
        return value
    return length(value)


class BroadenPSF(StageWithPSF):
    """Convolve the PSF with a Gaussian, where the star was sharper than the target, as in better seeing.

    With `fit`, the width follows from eight planes of the target, as a fraction of the width of the PSF that
    is the same at all wavelengths. A PSF that is too narrow explains the target by a blurred object; one that
    is too broad leaves residuals at edges and points, which cannot be that sharp. The broadest PSF that does
    not is taken. Use it for targets with a limb, other sharp edges or points. A PSF that is less than about
    7 % too narrow is left as it is, and one that is too broad is not made narrower. The full width at half
    maximum of the Gaussian is written to a table, NaN if it could not be fitted. The modes of the error of
    the PSF are convolved likewise. The default, 0, passes the PSF on unchanged.
    """

    name: ClassVar[str] = "broaden_psf"
    requires: ClassVar[tuple[str, ...]] = (DATA, PSF)
    version: ClassVar[int] = 2
    optional: ClassVar[tuple[str, ...]] = (VARIANCE, PSF_MODES)
    produces: ClassVar[tuple[str, ...]] = (PSF, PSF_MODES, BROADENING)
    files: ClassVar[tuple[str, ...]] = (DATA, PSF)
    copies: ClassVar[float] = 3
    scratch: ClassVar[float] = 8
    tag: ClassVar[str] = "_broadened"

    fwhm: Annotated[
        Literal["fit"] | float | str, BeforeValidator(_width, json_schema_input_type=float | str)
    ] = parameter(
        0.0,
        "pixel",
        "full width at half maximum of the Gaussian, in pixels or as an angle such as 0.05arcsec; fit takes "
        "it from the target, 0 leaves the PSF as it is",
    )

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        if self.fwhm == 0:
            return cube.copy()
        kernel = partial(_broadened, relative=self.fwhm == "fit")
        outputs = {PSF: Output(dims=PSF_PLANE, attrs={UNITS: ""})}
        if PSF_MODES in cube:
            outputs[PSF_MODES] = Output(dims=(MODE, *PSF_PLANE), attrs={UNITS: ""})
        outputs[BROADENING] = Output(dims=(), dtype="float64", attrs={UNITS: "pixel"})
        widths = cube.assign({WIDTH: (WAVELENGTH, self._widths(cube))})
        return cube.assign(
            over_planes(widths, self.name, kernel, [PSF, WIDTH], outputs, optional=[PSF_MODES])
        )

    def check(self, cube: xr.Dataset) -> None:
        """Check the PSF; see `Stage.check`."""
        if self.fwhm != 0:
            check_psf_planes(cube, self.name)

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        if VARIANCE not in cube and self.fwhm == "fit":
            yield NOISE_IS_ESTIMATED

    def findings(self, cube: xr.Dataset) -> Iterator[str]:
        if BROADENING in cube and not np.isfinite(cube[BROADENING].values).any():
            yield (
                "the width could not be fitted, because nothing in the target is sharp enough, or the noise "
                "is too large: the PSF is used as it is"
            )

    def working_bytes(self, before: xr.Dataset, after: xr.Dataset) -> int:
        """Return the bytes of memory for one block, and for the planes of a fit."""
        planes = 12 * PLANES + 60 if self.fwhm == "fit" else 0
        work = super().working_bytes(before, after) + 4 * planes * before.sizes[Y] * before.sizes[X]
        modes = math.prod(before[PSF_MODES].shape[1:]) if PSF_MODES in before else 0
        return work + 4 * (2 * max(block_sizes(after)) + 4) * modes

    def _widths(self, cube: xr.Dataset) -> Any:
        """Return the width of each plane: FWHM in pixels, or the result of the fit."""
        count = cube.sizes[WAVELENGTH]
        if self.fwhm != "fit":
            return np.full(count, in_pixels(self.fwhm, self._pixel(cube)))
        chosen = np.unique(np.arange(0.5, PLANES) * count // PLANES).astype(int)
        names = [name for name in (DATA, PSF, VARIANCE) if name in cube]
        arrays = [cube[name].variable.isel({WAVELENGTH: chosen}).data for name in names]
        if not any(isinstance(array, da.Array) for array in arrays):
            return _shares(None, count, *arrays)
        token = tokenize([getattr(array, "name", array) for array in arrays])
        shares = dask.delayed(_shares, name=f"{self.name}-fit-{token}")(token, count, *arrays)
        return da.from_delayed(shares, (count,), np.float64)

    def _pixel(self, cube: xr.Dataset) -> float | None:
        """Return the side of a pixel in arcseconds if the width is an angle."""
        try:
            return pixel_side(cube) if isinstance(self.fwhm, str) else None
        except CubeError as error:
            raise CubeError(f"{self.name}: {error}: give fwhm in pixels, such as fwhm: 2") from None


def _broadened(
    psf: np.ndarray, width: float, modes: np.ndarray | None, *, relative: bool
) -> tuple[np.ndarray | float, ...]:
    """Return the PSF, its modes if any, and the FWHM of the Gaussian with which they were convolved."""
    sigma = math.sqrt(width) * core_sigma(usable_psf(psf)) if relative else width / FWHM
    made = [psf] if modes is None else [psf, modes]
    if sigma > 0:
        made = [broadened(psf, sigma)] + ([] if modes is None else [broadened_modes(modes, sigma)])
    return *made, float(sigma * FWHM)


def _shares(
    token: str | None, count: int, data: np.ndarray, psf: np.ndarray, variance: np.ndarray | None = None
) -> np.ndarray:
    """Return the result of the fit once for each plane; it is computed once in a process for each token."""
    with _lock:
        share = _fitted.get(token) if token is not None else None
        if share is None:
            share = _share(data, psf, variance)
            if token is not None:
                _fitted[token] = share
    return np.full(count, share)


def _share(data: np.ndarray, psf: np.ndarray, variance: np.ndarray | None) -> float:
    """Return the variance of the Gaussian in units of that of the core of the PSF."""
    given = [None] * len(data) if variance is None else variance
    return fit_broadening(
        [
            PlaneFit(nan_for_inf(plane), v, usable_psf(p))
            for plane, v, p in zip(data, given, psf, strict=True)
            if np.isfinite(plane).any() and np.isfinite(p).any()
        ]
    )
