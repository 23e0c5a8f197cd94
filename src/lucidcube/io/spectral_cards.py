"""Describe a spectral grid by the cards of a header."""

import math
import re
import string
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.header_cards import move_axis, number, set_card, text
from lucidcube.io.spectral import (
    AIPS_FRAMES,
    SI_OF_TYPE,
    TYPE_OF_SI,
    SpectralGrid,
    spectral_grid,
    spectral_step,
    spectral_unit,
)

UNIFORM = 1e-5
"""A grid is uniform if no channel deviates from its position by more than this fraction of a step."""

_OF_ALTERNATE = (
    r"(?:WCSAXES|WCSNAME|(?:CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CNAME|CRDER|CSYER)\d+|(?:CD|PC|PV|PS)\d+_\d+"
    r"|RESTFRQ|RESTWAV|SPECSYS|SSYSOBS|VELOSYS|RADESYS|EQUINOX|LONPOLE|LATPOLE)"
)


def spectral_cards(header: fits.Header, wavelength: NDArray[np.floating[Any]], *, axis: int) -> fits.Header:
    """Describe a new spectral grid in a copy of a header; all other cards stay as they are.

    A uniform grid becomes CRVAL, CRPIX = 1 and CDn_n or CDELTn, whichever the header had, in the header's
    own CUNIT; a logarithmic one stays ``-LOG``, or becomes it; any other one is a ``-TAB``, whose table is
    `wavelength_table`. Alternate descriptions of the axis (CTYPE3A) follow if both grids are linear;
    otherwise they would be wrong and are removed. No card changes if the header has this grid already.

    `wavelength` holds (n,) positions in SI units (m, Hz or m/s), strictly rising or falling, and `axis` is
    the FITS number of the spectral axis.
    """
    result, n = header.copy(), axis
    wavelength = np.asarray(wavelength, np.float64)
    try:
        before = spectral_grid(header, n, max(int(number(header, f"NAXIS{n}", 1)), 1))
    except CubeError:  # a table, or a grid that makes no sense and is replaced
        before = None
    if before is not None and _same(before.values, wavelength):
        return result
    cunit = before.cunit if before is not None else text(header, f"CUNIT{n}")
    known = spectral_unit(cunit)
    positions = wavelength / (known.scale if known else 1.0)
    lone_step = spectral_step(header, n)
    code, step = _algorithm_for(positions, lone_step or 1.0)
    kind = _base_type(header, n, before, known.si if known else "", code)
    _carry_alternates(result, n, before, wavelength, linear=code == "")
    set_card(result, n, "CTYPE", f"{kind[:4]:-<4}-{code}" if code else kind)
    if cunit:
        set_card(result, n, "CUNIT", cunit)
    for keyword in [k for k in result if re.fullmatch(rf"P[VS]{n}_\d+", k)]:
        if code != "TAB" or not keyword.startswith("PS"):
            del result[keyword]
    if number(result, "DC-FLAG", 0.0) == 1.0:
        result["DC-FLAG"] = 0
    if code == "TAB":
        result[f"PS{n}_0"] = text(header, f"PS{n}_0") or "WCS-TABLE"
        result[f"PS{n}_1"] = text(header, f"PS{n}_1") or "WAVELENGTH"
        result.remove(f"PS{n}_2", ignore_missing=True)
    set_card(result, n, "CRVAL", 1.0 if code == "TAB" else float(f"{positions[0]:.14g}"))
    set_card(result, n, "CRPIX", 1.0)
    _set_step(result, n, float(f"{step:.14g}"))
    if f"NAXIS{n}" in result:
        result[f"NAXIS{n}"] = len(wavelength)
    return result


def wavelength_table(
    header: fits.Header, wavelength: NDArray[np.floating[Any]], *, axis: int
) -> fits.BinTableHDU | None:
    """Make the table that a header from `spectral_cards` refers to: a row with one vector, in its CUNIT.

    The parameters are those of `spectral_cards`. The result is None unless the axis is a ``-TAB``.
    """
    if not text(header, f"CTYPE{axis}").endswith("-TAB"):
        return None
    cunit, length = text(header, f"CUNIT{axis}"), len(wavelength)
    unit = spectral_unit(cunit)
    positions = np.asarray(wavelength, np.float64) / (unit.scale if unit else 1.0)
    name, values = text(header, f"PS{axis}_1"), positions[None, :, None]
    column = fits.Column(name, f"{length}D", cunit or None, dim=f"(1,{length})", array=values)
    return fits.BinTableHDU.from_columns([column], name=text(header, f"PS{axis}_0"))


def override_cards(
    header: fits.Header, n: int, start: float | None, step: float | None, unit: str | None
) -> fits.Header:
    """Return a copy of a header with the user's values for spectral axis `n`; None keeps the header's value.

    `start` is the position of the first channel and `step` the step between channels, in `unit`; either makes
    the axis linear. `unit` alone corrects a missing or wrong CUNIT. An unknown or missing unit raises
    CubeError.
    """
    if start is None and step is None and unit is None:
        return header
    result = header.copy()
    cunit = text(header, f"CUNIT{n}") if unit is None else unit
    known = spectral_unit(cunit)
    if known is None:
        raise CubeError(f"wave_unit: {cunit!r} is not a unit of wavelength, frequency or speed, such as um")
    set_card(result, n, "CUNIT", cunit)
    kind = text(header, f"CTYPE{n}").upper()
    if SI_OF_TYPE.get(kind[:4]) != known.si:
        set_card(result, n, "CTYPE", TYPE_OF_SI[known.si])
    elif start is not None or step is not None:
        set_card(result, n, "CTYPE", kind[:4])
    if start is not None:
        set_card(result, n, "CRVAL", start)
        set_card(result, n, "CRPIX", 1.0)
    if step is not None:
        _set_step(result, n, step)
    return result


def _same(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> bool:
    if one.shape != other.shape:
        return False
    tolerance = UNIFORM * np.min(np.abs(np.diff(one)), initial=np.inf) if len(one) > 1 else 1e-9 * abs(one[0])
    return bool(np.max(np.abs(one - other)) <= tolerance)


def _algorithm_for(positions: NDArray[np.floating[Any]], lone_step: float) -> tuple[str, float]:
    """Return the algorithm code of a grid and its CDELT."""
    count = len(positions) - 1
    if count < 1:
        return "", lone_step
    step = float(positions[-1] - positions[0]) / count
    smallest = float(np.min(np.abs(np.diff(positions))))
    number_of = np.arange(count + 1)
    if np.max(np.abs(positions - (positions[0] + step * number_of))) <= UNIFORM * abs(step):
        doubt = 4 * np.finfo(float).eps * float(np.max(np.abs(positions))) / count
        return "", round(step, -math.ceil(math.log10(doubt)))  # 10, not 9.9999999999998
    if positions[0] > 0 and positions[-1] > 0:
        rate = float(np.log(positions[-1] / positions[0])) / count
        if np.max(np.abs(positions - positions[0] * np.exp(rate * number_of))) <= UNIFORM * smallest:
            return "LOG", float(positions[0]) * rate
    return "TAB", 1.0


def _base_type(header: fits.Header, n: int, before: SpectralGrid | None, si: str, code: str) -> str:
    """Return CTYPE without algorithm, from the header if that is still correct."""
    found = text(header, f"CTYPE{n}")
    linear = "-" not in found or found.upper()[4:].strip("- ") in AIPS_FRAMES
    if linear and not code:
        return found or TYPE_OF_SI.get(si, "")
    if before is not None and before.ctype:
        return before.ctype
    return found[:4].strip("-") if not linear else TYPE_OF_SI.get(si, "WAVE")


def _set_step(header: fits.Header, n: int, step: float) -> None:
    matrix = f"CD{n}_{n}" in header or (f"CDELT{n}" not in header and f"CD{n - 1}_{n - 1}" in header)
    if matrix:
        header[f"CD{n}_{n}"] = step
    if not matrix or f"CDELT{n}" in header:
        set_card(header, n, "CDELT", step)
    if f"PC{n}_{n}" in header:
        header[f"PC{n}_{n}"] = 1.0


def _carry_alternates(
    header: fits.Header,
    n: int,
    before: SpectralGrid | None,
    after: NDArray[np.floating[Any]],
    *,
    linear: bool,
) -> None:
    """Move the alternate descriptions of an axis from one linear grid to another, or remove them."""
    old = before.values if before is not None else np.empty(0)
    linear = linear and len(old) > 1 and _algorithm_for(old, 1.0)[0] == ""
    for letter in string.ascii_uppercase:
        if f"CTYPE{n}{letter}" not in header and f"CRVAL{n}{letter}" not in header:
            continue
        if linear:
            old_step = float(old[-1] - old[0]) / (len(old) - 1)
            step = float(after[-1] - after[0]) / (len(after) - 1) / old_step if len(after) > 1 else 1.0
            move_axis(header, n, letter, float(after[0] - old[0]) / old_step, step)
        else:
            for keyword in [k for k in header if re.fullmatch(_OF_ALTERNATE + letter, k)]:
                del header[keyword]
