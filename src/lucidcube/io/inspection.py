"""Describe what a FITS file holds and what is read of it, as plain data."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from lucidcube import cube as words
from lucidcube.errors import CubeError, UserError
from lucidcube.io.hdus import DEFAULT_NAMES, Hdu, meaning_of
from lucidcube.io.header_cards import number, text
from lucidcube.io.reader import CONVERSIONS, ERRORS, Found, OpenFile, find, list_file, open_found, part_of
from lucidcube.io.specifier import Specifier
from lucidcube.io.spectral import SpectralGrid, spectral_unit
from lucidcube.io.wcs import sky_matrix

SAMPLE = (0.2, 0.5, 0.8)
"""Places along the wavelength of the planes that are read, as fractions of their number."""

LARGEST_SAMPLE = 1 << 24
"""Number of pixels of a plane that are read."""

_QUALITY = {"DQ", "MASK", "QUALITY", "QUAL", "FLAGS", "FLAG", "BADPIX", "BPM"}
_TYPES = {8: "uint8", 16: "int16", 32: "int32", 64: "int64", -32: "float32", -64: "float64"}
_KINDS = {
    "WAVE": "wavelength in vacuum",
    "AWAV": "wavelength in air",
    "FREQ": "frequency",
    "VRAD": "radio velocity",
    "VOPT": "optical velocity",
    "VELO": "velocity",
}


def inspect_file(specifier: str | Specifier, message: Callable[[str], None]) -> dict[str, Any]:
    """Describe every HDU of a file, and the cube or image that is read from it.

    The result holds plain data only: ``file``, ``hdus`` and ``array``; see `docs/commands.md`. Three planes
    are read. If no array can be read, ``array`` is None and ``problems`` holds the reasons, one line each. A
    file that is not a FITS file raises CubeError. `message` is called with a sentence before slow operations.
    """
    file = list_file(specifier, message=message)
    result: dict[str, Any] = {"file": file.wanted.path, "array": None, "problems": []}
    try:
        found = find(file)
        cube = open_found(found, message=_ignore)
        result["array"] = _array(found, cube)
    except UserError as error:
        found = None
        result["problems"] = [*error.problems]
    result["hdus"] = [_hdu(hdu, file, found) for hdu in file.hdus]
    return result


def _hdu(hdu: Hdu, file: OpenFile, found: Found | None) -> dict[str, Any]:
    extension = text(hdu.header, "XTENSION")
    kind = {"image": "image", "tiled": "compressed image"}.get(hdu.kind, extension.lower() or "groups")
    if hdu.kind != "other" and not hdu.shape:
        kind = "header only"
    role, why = _role(hdu, file, found)
    return {
        "number": hdu.number,
        "name": hdu.name,
        "version": hdu.version,
        "kind": kind,
        "shape": [*hdu.shape] if hdu.shape else _table_shape(hdu.header),
        "type": _TYPES.get(hdu.bitpix, "") if hdu.shape else "",
        "unit": text(hdu.header, "BUNIT"),
        "role": role,
        "why": why,
    }


def _table_shape(header: fits.Header) -> list[int]:
    """Return the numbers of rows and columns of a table; nothing for other HDUs."""
    if "TFIELDS" not in header:
        return []
    return [int(number(header, "NAXIS2", 0)), int(number(header, "TFIELDS", 0))]


def _role(hdu: Hdu, file: OpenFile, found: Found | None) -> tuple[str, str]:
    """Return what an HDU is read as, ``data``, ``variance``, ``wavelengths`` or nothing, and the reason."""
    if found is not None and hdu.number == found.data.number:
        if file.wanted.ext is not None:
            return "data", "it was asked for"
        if hdu.name in DEFAULT_NAMES:
            return "data", f"the first HDU called {', '.join(DEFAULT_NAMES[:-1])} or {DEFAULT_NAMES[-1]}"
        return "data", "the first HDU with an image"
    if found is None and hdu.kind != "other" and len(hdu.shape) > 1:
        return "", "see the problem"
    if found is not None and found.variance is not None and hdu.number == found.variance.hdu.number:
        return "variance", found.variance.why
    if found is not None and hdu.name and hdu.name in _tables_of_axes(found):
        return "wavelengths", "the header of the data refers to it"
    if hdu.kind == "other" or len(hdu.shape) < 2:
        return "", "no image" if hdu.shape or hdu.kind == "other" else ""
    classes = {text(hdu.header, f"HDUCLAS{n}").upper() for n in (2, 3)}
    if hdu.name.rpartition(".")[2] in _QUALITY or "QUALITY" in classes:
        return "", "flags of pixels are not used: the stages artefacts and mask find bad pixels"
    if found is not None and meaning_of(hdu)[0] is not None:
        other = (
            "another HDU is its variance" if found.variance else "the shape, the version or the name differs"
        )
        return "", f"errors, but not of the data: {other}"
    return "", f"to read it, name it: {{{hdu.name or hdu.number}}}"


def _tables_of_axes(found: Found) -> set[str]:
    header = found.selection.header
    return {text(header, f"PS{n}_0").upper() for n in range(1, len(found.data.shape) + 1)} - {""}


def _array(found: Found, cube: xr.Dataset) -> dict[str, Any]:
    axes = found.selection.axes
    is_cube = axes.spectral is not None
    return {
        "kind": "cube" if is_cube else "image",
        "hdu": found.data.name or found.data.number,
        "planes": cube.sizes[words.WAVELENGTH],
        "rows": cube.sizes[words.Y],
        "columns": cube.sizes[words.X],
        "axes": axes._asdict(),
        "unit": cube[words.DATA].attrs[words.UNITS],
        "spectral": _spectral(found) if is_cube else None,
        "sky": _sky(cube),
        "variance": _variance(found, cube),
        "sample": _sample(cube),
        "planes_per_block": max(words.block_sizes(cube)),
    }


def _spectral(found: Found) -> dict[str, Any]:
    """Describe the wavelengths of the selected planes in the unit of the file."""
    selection = found.selection
    grid: SpectralGrid = selection.grid
    axis = len(found.data.shape) - (selection.axes.spectral or 0)
    unit = spectral_unit(grid.cunit) if grid.si else None
    values = grid.values / (unit.scale if unit else 1.0)
    ctype = text(selection.header, f"CTYPE{axis}")
    stated = ctype.upper().startswith(grid.ctype) and grid.ctype != ""
    kind = _KINDS.get(grid.ctype, "") if stated else ""
    steps = np.diff(values)
    return {
        "first": float(values[0]),
        "last": float(values[-1]),
        "step": float(np.median(steps)) if len(steps) else None,
        "uniform": bool(len(steps) < 2 or np.ptp(steps) <= 1e-4 * abs(np.median(steps))),
        "unit": grid.cunit if grid.si else "",
        "unit_is_stated": text(selection.header, f"CUNIT{axis}") != "",
        "ctype": ctype,
        "kind": kind
        or ({"m": "wavelength, the header does not say if in air or in vacuum"}.get(grid.si, "")),
    }


def _sky(cube: xr.Dataset) -> dict[str, Any] | None:
    """Describe pixel sides and orientation; None if the header holds no sky coordinates."""
    try:
        matrix = sky_matrix(fits.Header.fromstring(cube.attrs[words.HEADER], sep="\n"))
        x, y = np.linalg.solve(matrix, [0.0, 1.0])
    except (CubeError, np.linalg.LinAlgError):
        return None
    sides = np.hypot(*matrix)
    return {
        "pixel_y_arcsec": float(sides[1]),
        "pixel_x_arcsec": float(sides[0]),
        "north_degrees": math.degrees(math.atan2(-x, y)),
        "east_is_left_of_north": bool(np.linalg.det(matrix) < 0),
    }


def _variance(found: Found, cube: xr.Dataset) -> dict[str, Any] | None:
    if found.variance is None:
        return None
    hdu, meaning, why = found.variance
    kind = found.variance_reader(_ignore).meaning
    return {
        "hdu": hdu.name or hdu.number,
        "kind": ERRORS[kind],
        "conversion": CONVERSIONS.get(kind, ""),
        "why": why if kind == meaning else f"{why}; no data have such small standard deviations",
        "unit": cube[words.VARIANCE].attrs[words.UNITS],
    }


def _ignore(text: str) -> None:
    """Take no notice of a message, because the result says the same."""


def _sample(cube: xr.Dataset) -> dict[str, Any]:
    """Return the fraction of NaN in a few planes, and the median and the range of the others' numbers."""
    count = cube.sizes[words.WAVELENGTH]
    planes = sorted({min(int(count * place), count - 1) for place in SAMPLE})
    exponent = int(cube.attrs[words.SCALE_EXPONENT])
    missing, known = [], []
    rows, columns = cube.sizes[words.Y], cube.sizes[words.X]
    if rows * columns > LARGEST_SAMPLE:
        columns = min(columns, LARGEST_SAMPLE)
        cube = part_of(cube, range(LARGEST_SAMPLE // columns), range(columns))
    for plane in planes:
        values = cube[words.DATA][plane].values
        finite = np.isfinite(values)
        missing.append(1.0 - float(finite.mean()))
        known.append(np.ldexp(values[finite].astype(np.float64), -exponent))
    numbers = np.concatenate(known)
    with np.errstate(over="ignore"):
        limits = [float(f(numbers)) for f in (np.median, np.min, np.max)] if numbers.size else [None] * 3
    return {
        "channels": [int(cube[words.CHANNEL][plane]) for plane in planes],
        "nan_fraction": float(np.mean(missing)),
        **dict(zip(("median", "smallest", "largest"), limits, strict=True)),
    }
