"""Parameters that are a value, or values at several wavelengths."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from astropy import units
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator

from lucidcube.errors import CubeError
from lucidcube.io.header_cards import quantity_of
from lucidcube.stages.lengths import in_pixels, length

LONGEST = 1.0
"""Longest wavelength in metres; a larger number was meant to be in another unit."""

Pair = tuple[float, float | str]


def _number(value: Any) -> float:
    """Return a finite number."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a number")
    return number


def _metres(value: Any) -> float:
    """Return a wavelength in metres, given as a number in metres or as text with a unit."""
    message = f"{value!r} is not a wavelength, such as '480nm'"
    try:
        quantity = quantity_of(value)
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
