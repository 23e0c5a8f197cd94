"""Read the planes of one or several HDUs of a file that are shown side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.cube import CHANNEL, DATA, HEADER, UNITS, WAVELENGTH, scale_exponent
from lucidcube.errors import CubeError, UserError
from lucidcube.io.reader import OpenFile, find, list_file, open_cube, open_found
from lucidcube.io.specifier import Specifier
from lucidcube.io.wcs import sky_matrix
from lucidcube.kernels.noise import MAD_TO_SIGMA
from lucidcube.plotting.channels import describe_plane, nearest_plane, unit_text

Style = Literal["flux", "sigma", "flags", "error", "psf"]
Plane = NDArray[np.float64]

STYLES: dict[str, Style] = {
    "RESIDUAL": "sigma",
    "ERROR": "error",
    "PSF": "psf",
    "MASK": "flags",
    "FILLED": "flags",
}
"""How the HDUs of a product are shown; all others are shown as fluxes."""
BESIDE = ("RESIDUAL", "ERROR", "PSF", "MASK")
"""HDUs of a product that are shown beside its main one."""
NOISE = "STAT"
"""HDU with the variance that turns a residual into standard deviations."""
WHITE_PLANES = 64
"""Largest number of planes that are averaged for white light."""


class Panel(NamedTuple):
    """One image of a sheet: values (y, x), NaN where there is no data, and the text of its labels.

    `matrix` (2, 2) holds the derivatives of the offsets to the east and to the north, in arcseconds, by x and
    y; it is None where the header has no sky coordinates.
    """

    values: Plane
    style: Style
    title: str
    unit: str
    matrix: NDArray[np.float64] | None


class Column(NamedTuple):
    """The lazy cube of an HDU, and the variance of a residual where the file has one."""

    name: str
    cube: xr.Dataset
    style: Style
    variance: xr.Dataset | None

    def panel(self, row: "Row", matrix: NDArray[np.float64] | None) -> Panel:
        """Read the planes of a row."""
        planes = [self._place(row.target, plane) for plane in row.planes]
        total: Any = 0.0
        counts: Any = 0
        for plane in planes:
            values = self._values(plane, len(planes) > 1)
            finite = np.isfinite(values)
            total, counts = total + np.where(finite, values, 0.0), counts + finite
        with np.errstate(invalid="ignore", divide="ignore"):
            result = {
                "sigma": lambda: total / np.sqrt(counts),
                "error": lambda: np.sqrt(total) / counts,
            }.get(self.style, lambda: total / counts)()
        unit = unit_text(str(self.cube[DATA].attrs.get(UNITS, "")))
        if self.style == "sigma":
            unit = "standard deviations" if self.variance is not None else "its own scatter"
        elif self.style == "flags":
            unit = "fraction of planes" if len(planes) > 1 else ""
        return Panel(result, self.style, self.name, unit, matrix)

    def _values(self, plane: int, several: bool) -> Plane:
        values = _physical(self.cube, plane)
        if self.style == "sigma":
            if self.variance is not None:
                variance = _physical(self.variance, plane)
                return values / np.sqrt(np.where(variance > 0, variance, np.nan))
            known = values[np.isfinite(values)]
            scatter = MAD_TO_SIGMA * np.median(np.abs(known - np.median(known))) if known.size else 1.0
            return values / (scatter or 1.0)
        if self.style == "error":
            return values**2
        return (values > 0).astype(float) if self.style == "flags" and several else values

    def _place(self, target: xr.Dataset, plane: int) -> int:
        """Return the plane that belongs to one of the target, which may have been selected from a file."""
        if self.cube.sizes[WAVELENGTH] == 1:
            return 0
        found = np.flatnonzero(self.cube[CHANNEL].values == target[CHANNEL].values[plane])
        if not found.size:
            raise CubeError(f"{self.name} has no plane {target[CHANNEL].values[plane]}")
        return int(found[0])


class Row(NamedTuple):
    """Planes of the target that are averaged, or a single one, and their description."""

    target: xr.Dataset
    planes: Sequence[int]
    title: str


def columns_of(
    specifier: Specifier, names: Sequence[str], message: Callable[[str], None]
) -> tuple[list[Column], NDArray[np.float64] | None]:
    """Open the HDUs `names` of a file, or those that suit it; return them and the matrix of its pixels.

    The first HDU is the target, from which rows are chosen. CubeError is raised if an HDU does not exist.
    """
    file = list_file(replace(specifier, ext=names[0]) if names else specifier, message=message)
    found = find(file)
    target = open_found(found._replace(variance=None), message=message)
    first = found.data.name or str(found.data.number)
    if not names:
        usable = {h.name for h in file.hdus if h.kind != "other" and len(h.shape) == len(found.data.shape)}
        names = [first, *(name for name in BESIDE if name in usable and name != first)]
    columns = [_column(first, target, file)]
    for name in names[1:]:
        part = specifier if STYLES.get(name.upper()) != "psf" else replace(specifier, index=(), wave=None)
        columns.append(_column(name, open_cube(replace(part, ext=name), message=message), file))
    try:
        matrix = sky_matrix(fits.Header.fromstring(target.attrs[HEADER], sep="\n"))
    except CubeError:
        matrix = None
    return columns, matrix


def _column(name: str, cube: xr.Dataset, file: OpenFile) -> Column:
    style = STYLES.get(name.upper(), "flux")
    variance = None
    if style == "sigma" and any(hdu.name == NOISE for hdu in file.hdus):
        variance = open_cube(replace(file.wanted, ext=NOISE))
        if variance[DATA].shape != cube[DATA].shape:
            variance = None
    return Column(name, cube, style, variance)


def rows_of(target: xr.Dataset, white: bool, channels: Sequence[int], waves: Sequence[str]) -> list[Row]:
    """Return the rows of a sheet: white light, then planes; by default white light and the middle plane.

    `channels` are numbers of planes in the file, and `waves` positions with units. UserError is raised if a
    plane does not exist.
    """
    return [*_rows(target, white, channels, waves)]


def _rows(target: xr.Dataset, white: bool, channels: Sequence[int], waves: Sequence[str]) -> Iterator[Row]:
    count = target.sizes[WAVELENGTH]
    nothing = not (white or channels or waves)
    if count > 1 and (white or nothing):
        planes = np.unique(np.linspace(0, count - 1, min(count, WHITE_PLANES)).round().astype(int)).tolist()
        which = f"{len(planes)} of {count}" if len(planes) < count else f"{count}"
        yield Row(target, planes, f"white light: mean of {which} planes")
    known = target[CHANNEL].values
    for channel in channels:
        found = np.flatnonzero(known == channel)
        if not found.size:
            raise UserError(f"there is no channel {channel}; the file has {known[0]} to {known[-1]}")
        yield _row(target, int(found[0]))
    for wave in waves:
        yield _row(target, nearest_plane(target[WAVELENGTH], wave))
    if nothing or (white and count == 1):
        yield _row(target, count // 2)


def _row(target: xr.Dataset, plane: int) -> Row:
    chosen = target.isel({WAVELENGTH: plane})
    return Row(target, [plane], describe_plane(chosen) if target.sizes[WAVELENGTH] > 1 else "image")


def _physical(cube: xr.Dataset, plane: int) -> Plane:
    """Read one plane in the unit of the file."""
    values = cube[DATA].isel({WAVELENGTH: plane}).values.astype(np.float64)
    return np.ldexp(values, -scale_exponent(cube))
