"""Parameters that are a value or values at several wavelengths, and lengths on the sky."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import xarray as xr
from astropy import units
from astropy.io import fits
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator

from lucidcube.cube import HEADER
from lucidcube.errors import CubeError

SQUARE = 0.01
"""Largest relative difference between the sides of pixels that count as square, and of right angles."""

LONGEST = 1.0
"""Longest wavelength in metres; a larger number was meant to be in another unit."""

Pair = tuple[float, float | str]


def length(value: Any) -> float | str:
    """Return a number of pixels, or the text of an angle; both are positive."""
    message = f"{value!r} is neither a positive number of pixels nor an angle such as '0.08arcsec'"
    try:
        quantity = units.Quantity(value)
        size = float(quantity.value)
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
    pixels = quantity.unit in (units.dimensionless_unscaled, units.pixel)
    if isinstance(value, bool) or not (pixels or quantity.unit.is_equivalent(units.arcsec)):
        raise ValueError(message)
    if not 0 < size < math.inf:
        raise ValueError(message)
    return size if pixels else str(value)


def _number(value: Any) -> float:
    """Return a finite number."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a number")
    return number


def _metres(value: Any) -> float:
    """Return a wavelength in metres, given as a number in metres or as text with a unit."""
    message = f"{value!r} is not a wavelength, such as '480nm'"
    try:
        quantity = units.Quantity(value)
        if quantity.unit == units.dimensionless_unscaled:
            quantity = quantity.value * units.m
        metres = float(quantity.to_value(units.m, equivalencies=units.spectral()))
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
    if not 0 < metres < LONGEST:
        raise ValueError(message)
    return metres


def _curve(item: Callable[[Any], float | str]) -> Callable[[Any], Any]:
    """Return a validator of a value, or of values at several wavelengths, in ascending order."""

    def validate(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, (Mapping, list, tuple)):
            return item(value)
        pairs = [*(value.items() if isinstance(value, Mapping) else value)]
        if not pairs or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in pairs):
            raise ValueError("values at several wavelengths are written as {480nm: 1.0, 930nm: 2.0}")
        made = sorted((_metres(wavelength), item(given)) for wavelength, given in pairs)
        if any(math.isclose(a[0], b[0]) for a, b in pairwise(made)):
            raise ValueError("a wavelength is given twice")
        return tuple(made)

    return validate


Length = Annotated[float | str, BeforeValidator(length, json_schema_input_type=float | str)]
"""A length in pixels, or the text of an angle."""
_Text = dict[str, float | str]
Curve = Annotated[
    float | tuple[tuple[float, float], ...] | None,
    BeforeValidator(_curve(_number), json_schema_input_type=float | _Text | tuple[tuple[str, float], ...]),
]
"""A number, or numbers at several wavelengths."""
LengthCurve = Annotated[
    float | str | tuple[Pair, ...] | None,
    BeforeValidator(
        _curve(length), json_schema_input_type=float | str | _Text | tuple[tuple[str, float | str], ...]
    ),
]
"""A length in pixels or as an angle, or lengths at several wavelengths."""


def within(low: float, high: float) -> AfterValidator:
    """Return a validator of the values of a curve, which must be from `low` to `high`."""

    def check(curve: Any) -> Any:
        for value in values_of(curve):
            if value is not None and not low <= value <= high:
                raise ValueError(f"{value:g} is not from {low:g} to {high:g}")
        return curve

    return AfterValidator(check)


def values_of(curve: Any) -> Iterator[Any]:
    """Yield the values of a curve without their wavelengths."""
    yield from (value for _, value in curve) if isinstance(curve, tuple) else (curve,)


def at_wavelengths(
    curve: float | str | tuple[Pair, ...], metres: NDArray[np.float64], pixel: float | None, where: str
) -> NDArray[np.float64]:
    """Return a curve at wavelengths in metres: linear between the given ones, and constant beyond them.

    Angles are divided by the side of a pixel in arcseconds, `pixel`. If the curve depends on the wavelength,
    and that of a plane is not known (NaN), CubeError is raised with `where` at the start of its message.
    """
    if not isinstance(curve, tuple):
        return np.full(metres.shape, in_pixels(curve, pixel))
    if not np.isfinite(metres).all():
        raise CubeError(
            f"{where} is given at several wavelengths, but those of the planes are not known: give one "
            "value, or wave_start, wave_step and wave_unit with the input"
        )
    return np.interp(metres, [w for w, _ in curve], [in_pixels(value, pixel) for _, value in curve])


def in_pixels(value: float | str, pixel: float | None) -> float:
    """Return a number as it is, and an angle in pixels, whose side in arcseconds is `pixel`."""
    if not isinstance(value, str):
        return value
    return float(units.Quantity(value).to_value(units.arcsec)) / (math.nan if pixel is None else pixel)


def pixel_side(cube: xr.Dataset) -> float:
    """Return the side of the pixels of a cube in arcseconds.

    CubeError is raised if the cube has no sky coordinates, or if its pixels are not square.
    """
    from lucidcube.io.wcs import sky_matrix  # imported here because it needs all of astropy.coordinates

    try:
        matrix = sky_matrix(fits.Header.fromstring(cube.attrs.get(HEADER, ""), sep="\n"))
    except CubeError:  # whose advice is for files of which the axes are not known
        raise CubeError("the header holds no sky coordinates") from None
    x, y = np.hypot(*matrix)
    area = abs(np.linalg.det(matrix))
    if not (abs(x / y - 1) < SQUARE and area > (1 - SQUARE) * x * y):
        raise CubeError(f"the pixels are not square ({x:.4g} x {y:.4g} arcsec)")
    return float(np.sqrt(area))
