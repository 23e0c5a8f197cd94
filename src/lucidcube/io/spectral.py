"""Compute the spectral coordinate of a FITS header: positions of the channels in SI units."""

import logging
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from astropy import units
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.header_cards import number, text, unit_of

_log = logging.getLogger(__name__)

_SPELLINGS = {
    "m": {
        1e-10: "angstrom angstroms ang a å 0.1nm",
        1e-9: "nm nanometer nanometers nanometre nanometres",
        1e-6: "um µm μm micron microns micrometer micrometers micrometre micrometres",
        1e-3: "mm millimeter millimeters",
        1e-2: "cm centimeter centimeters",
        1.0: "m meter meters metre metres",
    },
    "Hz": {1.0: "hz hertz", 1e3: "khz", 1e6: "mhz", 1e9: "ghz", 1e12: "thz"},
    "m/s": {1.0: "m/s m.s-1 ms-1 m.s**-1 m/sec", 1e3: "km/s km.s-1 kms-1 km.s**-1 km/sec"},
}
_UNITS = {
    spelling: (scale, si)
    for si, table in _SPELLINGS.items()
    for scale, spellings in table.items()
    for spelling in spellings.split()
}
SI_OF_TYPE = {
    **dict.fromkeys(("WAVE", "AWAV", "LAMBDA", "WAVELENGTH", "WAVELEN"), "m"),
    "FREQ": "Hz",
    **dict.fromkeys(("VELO", "VRAD", "VOPT"), "m/s"),
}
TYPE_OF_SI = {"m": "WAVE", "Hz": "FREQ", "m/s": "VELO"}
_LISTED = re.compile(r"WAVELN\d{2}|WVLN\d{4}")
_UNSUPPORTED = {"ENER", "WAVN", "ZOPT", "BETA", "FELO"}
_UNTYPED = {"", "LINEAR", "PIXEL"}
AIPS_FRAMES = ("LSR", "HEL", "OBS", "GEO")
"""Reference frames that follow the type in CTYPEs of the old AIPS convention, in place of an algorithm."""
_WAVELENGTH_RANGES = ((1e-8, 1e-2, "m"), (0.05, 100, "um"), (100, 1000, "nm"), (1000, 1e6, "Angstrom"))

Positions = NDArray[np.floating[Any]]
Lookup = Callable[[str, int, str], Positions]
"""A function that returns a column of a binary table by EXTNAME, EXTVER and TTYPE, for tabulated axes."""


class Unit(NamedTuple):
    """A unit of the spectral axis: its size in the SI unit `si` (``m``, ``Hz``, ``m/s``; empty: unknown)."""

    scale: float
    si: str


class SpectralGrid(NamedTuple):
    """The spectral axis of a cube: (n,) float64 positions of the channels, strictly rising or falling.

    `si` is their unit: ``m``, ``Hz``, ``m/s``, or empty where the header gives no spectral axis; then
    `values` is what it gives all the same, which is the number of the pixel (from 1) if it gives nothing.
    `ctype` is the physical type without algorithm (``WAVE``, ``AWAV``, ``FREQ``, ``VRAD``...; empty with an
    empty `si`), and `cunit` the unit of the header's numbers, spelled as there, or the one that was assumed.
    """

    values: Positions
    si: str
    ctype: str
    cunit: str


def spectral_unit(spelling: str) -> Unit | None:
    """Return the unit of wavelength, frequency or speed for a usual spelling; None for any other text."""
    plain = " ".join(spelling.strip().lower().split()).replace(" ", ".").strip("[]()'\"")
    if plain in _UNITS:
        return Unit(*_UNITS[plain])
    unit = unit_of(spelling.strip(), "fits")
    if unit is None:
        return None
    for si in ("m", "Hz", "m/s"):
        if unit != units.dimensionless_unscaled and unit.is_equivalent(si):
            return Unit(float(unit.to(si)), si)
    return None


def is_spectral(header: fits.Header, n: int) -> bool:
    """Return whether FITS axis `n` is spectral by its CTYPE or, if that is not specific, by its CUNIT."""
    kind = _kind(header, n)
    if kind in _UNTYPED and len(listed_wavelengths(header)) == number(header, f"NAXIS{n}", 0.0) > 1:
        return n == number(header, "NAXIS", 0.0)
    if kind in _UNTYPED:
        return spectral_unit(text(header, f"CUNIT{n}")) is not None
    return kind in SI_OF_TYPE or kind in _UNSUPPORTED


def listed_wavelengths(header: fits.Header) -> Positions:
    """Return wavelengths in metres that are listed one by one, as in PSF cubes of WebbPSF and STPSF."""
    names = [keyword for keyword in header if _LISTED.fullmatch(keyword)]
    return np.array([number(header, keyword, math.nan) for keyword in sorted(names)])


def spectral_step(header: fits.Header, n: int) -> float:
    """Return the step of FITS axis `n` in CUNITs: CDn_n, else CDELTn * PCn_n, else 1.

    Cubes with a spatial CD matrix and CDELT3 are common, so CDELT is used if CDn_n is missing or zero. It is
    1 by default only if both are missing.
    """
    step = number(header, f"CD{n}_{n}", 0.0)
    default = 0.0 if f"CD{n}_{n}" in header else 1.0
    return step if step != 0.0 else number(header, f"CDELT{n}", default) * number(header, f"PC{n}_{n}", 1.0)


def spectral_grid(header: fits.Header, n: int, length: int, lookup: Lookup | None = None) -> SpectralGrid:
    """Compute the positions of the channels of a cube from its header.

    Linear, logarithmic (``-LOG`` and IRAF's ``DC-FLAG = 1``) and tabulated (``-TAB``) axes are computed here
    from the cards, because wcslib refuses many real headers; other algorithms (``VOPT-F2W``) go through
    wcslib. Spectral terms off the diagonal of the CD matrix are not used. See Greisen et al. 2006, A&A 446,
    747 (FITS paper III), eqs. 5 and 88.

    `n` is the FITS number of the spectral axis, which has `length` channels, and `lookup` finds the table of
    a ``-TAB`` axis. An unknown unit or algorithm, and positions that neither rise nor fall, raise CubeError.
    """
    kind, code = _kind(header, n), _algorithm(header, n)
    listed = listed_wavelengths(header)
    if kind in _UNTYPED and listed.size == length > 1:
        return SpectralGrid(listed, "m", "WAVE", "m")
    crval, step = number(header, f"CRVAL{n}", 0.0), spectral_step(header, n)
    offset = np.arange(1, length + 1) - number(header, f"CRPIX{n}", 0.0)
    if code == "TAB":
        values = _tabulated(header, n, crval + step * offset, lookup)
    elif code == "LOG":
        if crval == 0.0:
            raise CubeError(f"CTYPE{n} is logarithmic, but CRVAL{n} is 0")
        values = crval * np.exp(_bounded(step * offset / crval))
    else:
        values = crval + step * offset
        if number(header, "DC-FLAG", 0.0) == 1.0 and kind in {*_UNTYPED, "LAMBDA"}:
            values = np.power(10.0, _bounded(values))
    unit, cunit = _unit_of_axis(header, n, kind, values)
    if code not in ("", "LOG", "TAB") and unit.si:
        values = _by_wcslib(header, n, offset, crval * unit.scale, step * unit.scale, unit.si)
    else:
        values = values * unit.scale
    steps = np.diff(values)
    if not np.isfinite(values).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise CubeError(
            "the positions along the spectral axis are not strictly monotonic; "
            f"check CRVAL{n} and CD{n}_{n} or CDELT{n}, or give wave_start, wave_step and wave_unit"
        )
    known = SI_OF_TYPE.get(kind) == unit.si and len(kind) == 4
    return SpectralGrid(values, unit.si, kind if known else TYPE_OF_SI.get(unit.si, ""), cunit)


def _kind(header: fits.Header, n: int) -> str:
    return text(header, f"CTYPE{n}").upper().split("-")[0].strip()


def _algorithm(header: fits.Header, n: int) -> str:
    """Return the three-letter algorithm code of CTYPE; empty for a linear axis and old AIPS frames."""
    code = text(header, f"CTYPE{n}").upper()[4:].strip("- ")
    return "" if code in AIPS_FRAMES or len(code) != 3 or _kind(header, n) in _UNTYPED else code


def _unit_of_axis(header: fits.Header, n: int, kind: str, values: Positions) -> tuple[Unit, str]:
    """Return the unit from CUNIT, else from the standard, else guessed from the numbers (which is logged)."""
    cunit = text(header, f"CUNIT{n}")
    advice = "describe the axis with wave_start, wave_step and wave_unit"
    if kind in _UNSUPPORTED:
        raise CubeError(f"CTYPE{n} = {kind} is neither wavelength nor frequency nor velocity; {advice}")
    if cunit:
        unit = spectral_unit(cunit)
        if unit is None and kind in SI_OF_TYPE:
            raise CubeError(f"CUNIT{n} = {cunit!r} is not a unit of a {kind} axis; {advice}")
        return unit or Unit(1.0, ""), cunit
    si = SI_OF_TYPE.get(kind, "")
    if si in ("Hz", "m/s"):
        return Unit(1.0, si), si
    size = float(np.median(np.abs(values)))
    guess = next((name for low, high, name in _WAVELENGTH_RANGES if low <= size < high), "")
    if not (guess == "Angstrom" and f"CRVAL{n}" in header if kind == "LINEAR" else si == "m"):
        return Unit(1.0, ""), ""
    if not guess:
        raise CubeError(
            f"CTYPE{n} = {kind} has no CUNIT{n}, and none can be guessed from its numbers (about {size:g}); "
            f"{advice}"
        )
    if guess != "m":
        _log.info(
            "CTYPE%d = %s has no CUNIT%d: %s is assumed from the size of its numbers", n, kind, n, guess
        )
    return Unit(*_UNITS[guess.lower()]), guess


def _bounded(exponent: Positions) -> Positions:
    if np.max(np.abs(exponent), initial=0.0) > 300.0:
        raise CubeError("the positions on the logarithmic spectral axis overflow; check CRVAL and CDELT")
    return exponent


def _tabulated(header: fits.Header, n: int, place: Positions, lookup: Lookup | None) -> Positions:
    """Look positions up in the table of a -TAB axis."""
    name, column, index = (text(header, f"PS{n}_{m}") for m in range(3))
    if lookup is None or not name or not column:
        raise CubeError(f"CTYPE{n} = {text(header, f'CTYPE{n}')}, but its table {name!r} cannot be found")
    version = int(number(header, f"PV{n}_1", 1.0))
    coordinate = lookup(name, version, column)
    if not len(coordinate):
        raise CubeError(f"the wavelength table {name!r} is empty")
    rows = np.arange(1.0, len(coordinate) + 1)
    if index:
        positions = lookup(name, version, index)
        if positions.shape != coordinate.shape or not (np.diff(positions) > 0).all():
            raise CubeError(f"the index {index!r} of the wavelength table {name!r} does not rise throughout")
        place = np.interp(place, positions, rows, left=math.nan, right=math.nan)
    return np.interp(place, rows, coordinate, left=math.nan, right=math.nan)


def _by_wcslib(
    header: fits.Header, n: int, offset: Positions, start: float, step: float, si: str
) -> Positions:
    """Compute the positions of an axis with a non-linear algorithm from its offsets in pixels."""
    from astropy.wcs import WCS, WcsError  # imported here because it imports all of astropy.coordinates

    cards = fits.Header()
    cards["CTYPE1"], cards["CUNIT1"] = text(header, f"CTYPE{n}").upper(), si
    cards["CRVAL1"], cards["CDELT1"], cards["CRPIX1"] = start, step, 0.0
    for name in ("RESTFRQ", "RESTFREQ", "RESTWAV", *(f"PV{n}_{m}" for m in range(8))):
        if name in header:
            cards[name.replace(f"PV{n}_", "PV1_")] = number(header, name, 0.0)
    try:
        return np.asarray(WCS(cards, naxis=1).wcs_pix2world(offset, 1)[0], float)
    except (WcsError, ValueError):
        raise CubeError(
            f"CTYPE{n} = {cards['CTYPE1']} cannot be computed (is RESTFRQ or RESTWAV missing?); "
            "give wave_start, wave_step and wave_unit"
        ) from None
