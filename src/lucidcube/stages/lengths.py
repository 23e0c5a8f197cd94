"""Lengths in the plane of the sky: numbers of pixels, or angles."""

import math
from typing import Annotated, Any

import xarray as xr
from astropy import units
from astropy.io import fits
from pydantic import BeforeValidator

from lucidcube.cube import HEADER
from lucidcube.io.header_cards import quantity_of


def length(value: Any) -> float | str:
    """Return a number of pixels, or the text of an angle; both are positive."""
    message = f"{value!r} is neither a positive number of pixels nor an angle such as '0.08arcsec'"
    try:
        quantity = quantity_of(value)
        size = float(quantity.value)
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
    pixels = quantity.unit in (units.dimensionless_unscaled, units.pixel)
    if isinstance(value, bool) or not (pixels or quantity.unit.is_equivalent(units.arcsec)):
        raise ValueError(message)
    if not 0 < size < math.inf:
        raise ValueError(message)
    return size if pixels else str(value)


Length = Annotated[float | str, BeforeValidator(length, json_schema_input_type=float | str)]
"""A length in pixels, or the text of an angle."""


def in_pixels(value: float | str, pixel: float | None) -> float:
    """Return a number as it is, and an angle in pixels, whose side in arcseconds is `pixel`."""
    if not isinstance(value, str):
        return value
    return float(units.Quantity(value).to_value(units.arcsec)) / (math.nan if pixel is None else pixel)


def pixel_side(cube: xr.Dataset) -> float:
    """Return the side of the pixels of a cube in arcseconds.

    CubeError is raised if the cube has no sky coordinates, or if its pixels are not square.
    """
    from lucidcube.io.wcs import square_pixel  # imported here because it needs all of astropy.coordinates

    return square_pixel(fits.Header.fromstring(cube.attrs.get(HEADER, ""), sep="\n"))
