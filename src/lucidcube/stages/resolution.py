"""The resolution that a product is to have: its width in pixels, and whether the data support it."""

import math
from collections.abc import Hashable, Iterator
from typing import Annotated

import numpy as np
import xarray as xr
from pydantic import AfterValidator

from lucidcube.cube import CHANNEL, DATA, FILLED, PSF, UNITS, VARIANCE, WAVELENGTH, describe_planes
from lucidcube.errors import CubeError
from lucidcube.kernels.deconvolution.resolution import FWHM
from lucidcube.kernels.deconvolution.support import brightest_place, finest_supported, supported_fraction
from lucidcube.stages.lengths import in_pixels, length, pixel_side
from lucidcube.stages.psf_planes import usable_psf

FINEST = 2.0
"""Smallest full width at half maximum, in pixels, of a Gaussian that pixels can sample (Nyquist)."""
PLANES = 7
"""Number of planes that are looked at."""
DETECTED = 5.0
"""Signal to noise ratio of the brightest place below which a plane has nothing to resolve."""
MARGINAL, REFUSED = 0.97, 0.8
"""Fractions of the peak of a point source that the data tell, below which there is a warning, and no result.
Peaks are then off by 2 % and 10 %, see docs/decisions/0039-one-resolution.md."""


def _width(value: float | str | None) -> float | str | None:
    """Check a width; text with an angle stays text, and text with a number of pixels becomes a number."""
    size = None if value is None else length(value)
    if isinstance(size, float) and size < FINEST:
        raise ValueError(f"a width of {size:g} pixels is below {FINEST:g}, which is what pixels can sample")
    return size


Resolution = Annotated[float | str | None, AfterValidator(_width)]
"""Full width at half maximum of a Gaussian: in pixels, or an angle such as ``"0.1arcsec"``."""


def fwhm_in_pixels(resolution: float | str, cube: xr.Dataset, stage: str) -> float:
    """Return the full width at half maximum in pixels of a cube; `stage` is named in the message of errors.

    CubeError is raised for an angle if the cube has no sky coordinates or its pixels are not square, and if
    the width is less than two pixels.
    """
    if not isinstance(resolution, str):
        return resolution
    try:
        side = pixel_side(cube)
    except CubeError as error:
        raise CubeError(
            f"{stage}: resolution {resolution} is an angle, but {error}: give the resolution in pixels, such "
            "as resolution: 3"
        ) from None
    pixels = in_pixels(resolution, side)
    if pixels < FINEST:
        raise CubeError(
            f"{stage}: resolution {resolution} is {pixels:.3g} pixels, which is below the {FINEST:g} "
            f"pixels that a Gaussian needs to be sampled: give at least {FINEST * side:.3g}arcsec"
        )
    return pixels


def sigma_in_pixels(resolution: float | str | None, cube: xr.Dataset, stage: str) -> float | None:
    """Return the standard deviation of the Gaussian in pixels of a cube, or None without a resolution."""
    return None if resolution is None else fwhm_in_pixels(resolution, cube, stage) / FWHM


def support_warnings(fwhm: float, cube: xr.Dataset, stage: str) -> Iterator[str]:
    """Yield a warning if some planes support a width in pixels only just; a few planes are computed.

    CubeError is raised, naming a plane and a resolution that all of them support, if one does not.
    """
    worst, finest, where = 1.0, 0.0, ""
    unit = str(cube[WAVELENGTH].attrs.get(UNITS, ""))
    for index in np.unique(np.linspace(0, cube.sizes[WAVELENGTH] - 1, PLANES).round().astype(int)):
        plane = cube[[n for n in (DATA, PSF, VARIANCE, FILLED) if n in cube]].isel({WAVELENGTH: [index]})
        arrays = {str(name): values[0] for name, values in _loaded(plane)}
        data, psf = arrays[DATA], arrays[PSF]
        if not np.isfinite(data).any() or not np.isfinite(psf).any():
            continue
        psf = usable_psf(psf)
        brightest = brightest_place(data, psf, arrays.get(VARIANCE), arrays.get(FILLED))
        if brightest.signal_to_noise < DETECTED:
            continue
        fraction = supported_fraction(psf, brightest.flux, fwhm / FWHM)
        finest = max(finest, finest_supported(psf, brightest.flux, MARGINAL, FINEST / FWHM) * FWHM)
        if fraction < worst:
            worst = fraction
            where = describe_planes(plane[CHANNEL].values, plane[WAVELENGTH].values, unit)
    if worst >= MARGINAL:
        return
    text = f"at {where} the data tell {worst:.0%} of the peak of a point source with this resolution"
    advice = f"give resolution: {_rounded_up(finest, cube)} or coarser"
    if worst < REFUSED:
        raise CubeError(f"{stage}: {text}, which is too little: {advice}")
    yield f"{text}, so that peaks are uncertain: {advice}"


def _loaded(plane: xr.Dataset) -> Iterator[tuple[Hashable, np.ndarray]]:
    """Yield the names and values of the variables of a plane, with NaN for infinities."""
    for name, variable in plane.compute().data_vars.items():
        values = variable.values
        yield name, np.where(np.isfinite(values), values, np.nan) if values.dtype.kind == "f" else values


def _rounded_up(fwhm: float, cube: xr.Dataset) -> str:
    """Return a width as it can be given, with two digits: an angle where pixels have one, else pixels."""
    try:
        width, unit = fwhm * pixel_side(cube), "arcsec"
    except CubeError:
        width, unit = fwhm, ""
    step = 10.0 ** (math.floor(math.log10(width)) - 1)
    return f"{math.ceil(width / step - 1e-9) * step:.2g}{unit}"
