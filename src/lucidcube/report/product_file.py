"""Read single planes, tables and facts of a product."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr
from astropy.io import fits
from jinja2 import TemplateError
from numpy.typing import NDArray

from lucidcube.cube import UNITS, WAVELENGTH
from lucidcube.errors import CubeError
from lucidcube.io.header_cards import MALFORMED
from lucidcube.io.headers import WARNING_CARD
from lucidcube.io.reader import open_cube
from lucidcube.io.specifier import Specifier
from lucidcube.io.tables import PREVIEW, PROVENANCE, config_of, read_provenance

Plane = NDArray[np.floating]

SHOWN_UNITS = {"m": ("nm", 1e9), "Hz": ("GHz", 1e-9), "m/s": ("km/s", 1e-3)}
"""Units of the spectral axis on a page, and their factors."""


def shown_wavelengths(cube: xr.Dataset) -> tuple[Any, str]:
    """Return the wavelengths of a cube in the unit that is shown, and the unit; NaN for an image."""
    unit = str(cube[WAVELENGTH].attrs.get(UNITS, ""))
    shown, factor = SHOWN_UNITS.get(unit, (unit, 1.0))
    return cube[WAVELENGTH].values * factor, shown


@contextmanager
def unreadable(name: str) -> Iterator[None]:
    """Turn what tables and headers with odd contents cause into CubeError; `name` is that of the products."""
    try:
        yield
    except (*MALFORMED, ArithmeticError, RecursionError, MemoryError, TemplateError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CubeError(f"{name}: no page can be made: its tables may be damaged ({reason})") from error


class ProductFile:
    """An open product: planes are read when they are asked for, and tables as a whole.

    `wavelength` (planes,) is in `unit`; NaN for an image. CubeError is raised for a file that is not a
    product of `lucidcube run`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.provenance = read_provenance(path)
        self.wavelength, self.unit = shown_wavelengths(open_cube(Specifier(str(path), ext=0)))
        try:
            self._file = fits.open(path, memmap=False)
            self.header = self._file[0].header
            self._hdus = {str(hdu.name): hdu for hdu in self._file}
        except MALFORMED as error:
            raise CubeError(f"{path} cannot be read as a product of lucidcube: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._hdus

    @property
    def planes(self) -> int:
        """Number of planes."""
        return len(self.wavelength)

    @property
    def is_preview(self) -> bool:
        """Whether the product has only some planes of a run, which are not evenly spaced."""
        return PREVIEW in self

    def plane_name(self, number: int) -> str:
        """Return the number of a plane, from 0, in the run that it belongs to: ``plane 10 of 0 to 299``."""
        table = self.table(PREVIEW)
        plane, total = (table["plane"][number], table["of"][number]) if table else (number, self.planes)
        return f"plane {plane} of 0 to {total - 1}" if total > 1 else "the only plane"

    @property
    def config(self) -> dict[str, Any]:
        """The config of the run as plain data."""
        return config_of(self.provenance, str(self.path))

    @property
    def inputs(self) -> dict[str, dict[str, str]]:
        """The identity of the input of each track."""
        found: dict[str, dict[str, str]] = {}
        for key, value in self.provenance.items():
            track, dot, name = key.partition(".")
            if dot:
                found.setdefault(track, {})[name] = value
        return found

    @property
    def warnings(self) -> list[str]:
        """Why the result may not be trusted."""
        texts = (self.header.get(f"{WARNING_CARD}{n}") for n in range(1, 1000))
        return [str(text) for text in texts if text is not None]

    @property
    def identity(self) -> str:
        """The checksums of the HDUs, which identify the content of the product."""
        return "-".join(str(hdu.header.get("DATASUM", "")) for hdu in self._file)

    @property
    def names(self) -> list[str]:
        """The names of the HDUs."""
        return [*self._hdus]

    @property
    def flux_unit(self) -> str:
        """The unit of the fluxes; empty if it is unknown."""
        found = (self._hdus[n].header.get("BUNIT") for n in ("DECONVOLVED", "DATA", "RESIDUAL") if n in self)
        return str(next((unit for unit in found if unit), ""))

    def plane(self, name: str, number: int) -> Plane:
        """Return one plane (y, x) of an image, whatever the positions of its axes of length one.

        An image with a single plane, such as a PSF that is used for all wavelengths, has this one for all.
        """
        hdu = self._hdus[name]
        leading = hdu.shape[:-2]
        place = np.unravel_index(number, leading) if math.prod(leading) > 1 else (0,) * len(leading)
        plane = hdu.section[(*map(int, place), slice(None), slice(None))]
        return np.asarray(plane).astype(np.float64 if hdu.header["BITPIX"] == -64 else np.float32)

    def table(self, name: str) -> dict[str, Any]:
        """Return the columns of a table by name: arrays, or lists of texts; empty if there is none."""
        if name not in self._hdus or name == PROVENANCE:
            return {}
        rows = self._hdus[name].data
        columns = {}
        for column in rows.names:
            values = np.asarray(rows[column])
            columns[column] = [str(v) for v in values] if values.dtype.kind in "US" else values
        return columns
