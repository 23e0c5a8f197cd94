"""Read single cards of untrusted FITS headers, and insert new ones."""

import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

from astropy import units
from astropy.io import fits

from lucidcube.errors import CubeError, printable

MALFORMED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    fits.VerifyError,
)
"""What astropy raises on files that are not FITS (found by changing random bytes)."""

_LONG = re.compile(r"(?<![\d.])\d{5}")
"""A number of many digits, which may be an exponent that would take astropy minutes or all memory."""

_NUMBER = re.compile(r"\s*[-+.\d]*(?:[eE][-+]?\d+)?")

_MATRIX = re.compile(r"(CD|PC)(\d+)_(\d+)([A-Z]?)")


def text(header: fits.Header, keyword: str) -> str:
    """Return the value of a card as stripped text, empty where it is missing or undefined.

    A card that cannot be parsed raises CubeError.
    """
    try:
        value = header.get(keyword)
    except (fits.VerifyError, ValueError, OverflowError):
        raise CubeError(f"the card {keyword} of the header cannot be read") from None
    return "" if value is None or isinstance(value, fits.card.Undefined) else str(value).strip()


def number(header: fits.Header, keyword: str, default: float) -> float:
    """Return the value of a card as a number, even if it was written as text; `default` if it is missing.

    A value that is not a finite number raises CubeError.
    """
    value = text(header, keyword)
    if not value:
        return default
    try:
        result = float(value)
    except ValueError:
        result = math.nan
    if not math.isfinite(result):
        raise CubeError(f"the card {keyword} = {value!r} of the header is not a number")
    return result


def unit_of(text: str, form: str | None = None) -> units.UnitBase | None:
    """Return the unit that a text describes, in a form that astropy knows; None for any other text."""
    if _LONG.search(text):
        return None
    try:
        with warnings.catch_warnings(action="ignore", category=units.UnitsWarning):
            return units.Unit(text, format=form)
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        return None


def quantity_of(value: Any) -> units.Quantity:
    """Return a number, or a text of a number and a unit, as a quantity; ValueError for anything else."""
    start = _NUMBER.match(value) if isinstance(value, str) else None
    if start is not None and _LONG.search(value, start.end()):
        raise ValueError("the unit has a long number in it")
    try:
        return units.Quantity(value)
    except (TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(str(error)) from error


def ascii_text(text: str) -> str:
    """Return a text that FITS can hold: printable ASCII, with other characters written as in Python."""
    return printable(text).encode("ascii", "backslashreplace").decode()


def shape_of(header: fits.Header) -> tuple[int, ...]:
    """Return the shape of the array that a header describes, in NumPy order."""
    return tuple(int(number(header, f"NAXIS{n}", 0)) for n in range(int(number(header, "NAXIS", 0)), 0, -1))


def set_shape(header: fits.Header, shape: Sequence[int]) -> None:
    """Set the shape of the array that a header describes, given in NumPy order, in place."""
    header["NAXIS"] = len(shape)
    for number, length in enumerate(reversed(shape), 1):
        header[f"NAXIS{number}"] = length


def set_card(header: fits.Header, n: int, name: str, value: object) -> None:
    """Set card `name` of axis `n` in place; a new card is inserted next to the other cards of the axis."""
    keyword = f"{name}{n}"
    neighbours = [k for k in (f"CTYPE{n}", f"CRPIX{n}", f"CRVAL{n}", f"CTYPE{n - 1}") if k in header]
    if neighbours and keyword not in header:
        header.insert(neighbours[0], (keyword, value), after=True)
    else:
        header[keyword] = value


def move_axis(header: fits.Header, n: int, alternate: str, start: float, step: float) -> None:
    """Renumber the pixels of WCS axis `n` in place.

    Pixel q of the new grid, counted from 1, is pixel ``start + 1 + step * (q - 1)`` of the old one. CRPIX is
    shifted; a step other than 1 scales the column of the axis in the CD or PC matrix, or CDELT. An axis
    without WCS cards is not changed. `alternate` is the letter of an alternate WCS, empty for the primary
    WCS.
    """
    described = any(f"{name}{n}{alternate}" in header for name in ("CTYPE", "CRVAL", "CRPIX", "CDELT"))
    column = [k for k in header if (m := _MATRIX.fullmatch(k)) and int(m[3]) == n and m[4] == alternate]
    if not described and not column:
        return
    reference = (number(header, f"CRPIX{n}{alternate}", 0.0) - start - 1) / step + 1
    if alternate:
        header[f"CRPIX{n}{alternate}"] = reference
    else:
        set_card(header, n, "CRPIX", reference)
    if step == 1:
        return
    diagonal = f"PC{n}_{n}{alternate}"
    matrix = [k for k in column if k.startswith("CD")]
    turned = [k for k in column if k.startswith("PC") and k != diagonal and number(header, k, 0.0) != 0.0]
    for keyword in matrix or turned:
        header[keyword] = number(header, keyword, 0.0) * step
    if turned and not matrix:
        header[diagonal] = number(header, diagonal, 1.0) * step
    elif f"CDELT{n}{alternate}" in header or not matrix:
        header[f"CDELT{n}{alternate}"] = number(header, f"CDELT{n}{alternate}", 1.0) * step
