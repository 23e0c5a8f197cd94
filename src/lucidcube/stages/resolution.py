"""The resolution that a product is to have, and the width in pixels that it means for a cube."""

import math
from typing import Annotated

import xarray as xr
from astropy import units
from astropy.io import fits
from pydantic import AfterValidator

from lucidcube.cube import HEADER
from lucidcube.errors import CubeError
from lucidcube.kernels.deconvolution.resolution import FWHM

FINEST = 2.0
"""Smallest full width at half maximum, in pixels, of a Gaussian that pixels can sample (Nyquist)."""
UNUSABLE = "is neither a positive angle, such as '0.1arcsec', nor a number of pixels"


def _width(value: float | str | None) -> float | str | None:
    """Check a width; text with an angle stays text, and text with a number of pixels becomes a number."""
    if value is None or isinstance(value, float):
        return None if value is None else _at_least_finest(value)
    try:
        quantity = units.Quantity(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} {UNUSABLE}") from error
    if quantity.unit in (units.dimensionless_unscaled, units.pixel):
        return _at_least_finest(float(quantity.value))
    angle = quantity.isscalar and quantity.unit.is_equivalent(units.arcsec)
    if not angle or not 0 < quantity.value < math.inf:
        raise ValueError(f"{value!r} {UNUSABLE}")
    return value


def _at_least_finest(pixels: float) -> float:
    if not FINEST <= pixels < math.inf:
        raise ValueError(f"a width of {pixels:g} pixels is below {FINEST:g}, which is what pixels can sample")
    return pixels


Resolution = Annotated[float | str | None, AfterValidator(_width)]
"""Full width at half maximum of a Gaussian: in pixels, or an angle such as ``"0.1arcsec"``."""


def fwhm_in_pixels(resolution: float | str, cube: xr.Dataset, stage: str) -> float:
    """Return the full width at half maximum in pixels of a cube; `stage` is named in the message of errors.

    CubeError is raised for an angle if the cube has no sky coordinates or its pixels are not square, and if
    the width is less than two pixels.
    """
    if not isinstance(resolution, str):
        return resolution
    # Imported here because it needs all of astropy.coordinates.
    from lucidcube.io.wcs import square_pixel

    scale = square_pixel(fits.Header.fromstring(cube.attrs.get(HEADER, ""), sep="\n"))
    if scale is None:
        raise CubeError(
            f"{stage}: resolution {resolution} is an angle, but the cube has no sky coordinates with square "
            "pixels: give the resolution in pixels, such as resolution: 3"
        )
    pixels = float(units.Quantity(resolution).to_value(units.arcsec)) / scale
    if pixels < FINEST:
        raise CubeError(
            f"{stage}: resolution {resolution} is {pixels:.3g} pixels, which is below the {FINEST:g} "
            f"pixels that a Gaussian needs to be sampled: give at least {FINEST * scale:.3g}arcsec"
        )
    return pixels


def sigma_in_pixels(resolution: float | str | None, cube: xr.Dataset, stage: str) -> float | None:
    """Return the standard deviation of the Gaussian in pixels of a cube, or None without a resolution."""
    return None if resolution is None else fwhm_in_pixels(resolution, cube, stage) / FWHM
