"""Find planes by their wavelength, and describe them."""

import math

import numpy as np
import xarray as xr
from astropy import units

from lucidcube.cube import CHANNEL, UNITS, WAVELENGTH
from lucidcube.errors import UserError, printable
from lucidcube.io.header_cards import quantity_of, unit_of

SHOWN_UNITS = {"m": "um", "Hz": "GHz", "m/s": "km/s"}


def describe_plane(chosen: xr.Dataset) -> str:
    """Describe a plane, as ``plane 5 at 0.72 µm``; an image may have no wavelength."""
    plane, wavelength = f"plane {chosen[CHANNEL].item()}", chosen[WAVELENGTH].item()
    if math.isnan(wavelength):
        return plane
    shown = _with_unit(wavelength, chosen[WAVELENGTH].attrs.get(UNITS, "m"))
    return f"{plane} at {shown.replace('um', 'µm')}"


def nearest_plane(axis: xr.DataArray, wanted: float | str) -> int:
    """Return the index of the plane nearest to a wavelength, at most half a channel outside the cube."""
    unit = str(axis.attrs.get(UNITS, "m"))
    value = _in_unit(wanted, unit) if isinstance(wanted, str) else float(wanted)
    positions = axis.to_numpy()
    if np.isnan(positions).any():
        raise UserError(f"wavelength {wanted} cannot be found: the planes have no wavelengths")
    low, high = float(positions.min()), float(positions.max())
    slack = (high - low) / max(1, 2 * (positions.size - 1)) + 1e-6 * abs(high)
    if not low - slack <= value <= high + slack:
        asked = wanted if isinstance(wanted, str) else f"{wanted:g} {unit}"
        limits = f"{_with_unit(low, unit)} to {_with_unit(high, unit)}"
        raise UserError(f"wavelength {asked} is outside the cube's range, {limits}")
    return int(np.argmin(np.abs(positions - value)))


def _in_unit(text: str, unit: str) -> float:
    try:
        quantity = quantity_of(text)
        if quantity.unit == units.dimensionless_unscaled:
            return float(quantity.value)
        return float(quantity.to_value(unit, equivalencies=units.spectral()))
    except (TypeError, ValueError) as error:
        example = _with_unit(7.2e-7 if unit == "m" else 1e5, unit).replace(" ", "")
        raise UserError(
            f"{text!r} is not a position on the spectral axis of this cube; type, for example, {example!r}"
        ) from error


def _with_unit(value: float, unit: str) -> str:
    """Format a wavelength as ``0.72 um``."""
    shown = SHOWN_UNITS.get(unit, unit)
    return f"{(value * units.Unit(unit)).to_value(shown):.6g} {shown}"


def unit_text(text: str) -> str:
    """Format a unit such as ``10**(-20)*erg/s/cm**2`` for labels; an unknown unit is returned unchanged."""
    unit = unit_of(text)
    return text if unit is None else str(unit.to_string("unicode")).removeprefix("1×")


def plain(text: str) -> str:
    """Return foreign text as matplotlib shows it unchanged: without control characters and mathematics."""
    return printable(text).replace("$", r"\$")
