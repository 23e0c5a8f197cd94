"""Open FITS files as lazy cubes."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from astropy.io import fits

from lucidcube import cube as words
from lucidcube.errors import ConfigError, CubeError
from lucidcube.io.hdus import Companion, Hdu, choose, list_hdus, variance_of, wavelength_column
from lucidcube.io.header_cards import text
from lucidcube.io.limits import check_readable, open_regular
from lucidcube.io.locate import is_rather_variance, locate, scale_exponent
from lucidcube.io.plane_reader import Meaning, PlaneReader
from lucidcube.io.selection import Selection, product_header, select
from lucidcube.io.specifier import Specifier, parse_specifier
from lucidcube.io.staging import ScratchFolder
from lucidcube.io.stated_sums import PIECE, StatedSums
from lucidcube.io.wcs import part_header
from lucidcube.lift.blocks import planes_per_block
from lucidcube.lift.lazy_arrays import from_source, source_of

_log = logging.getLogger(__name__)


class FileIdentity(NamedTuple):
    """Identity of the content of a file: its size in bytes, and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


def file_identity(path: str | Path) -> FileIdentity:
    """Read a file piecewise and return its size and hash.

    CubeError is raised if it cannot be read, or if its data do not have the sum that their DATASUM states.
    """
    try:
        place = Path(path).expanduser()
        with open_regular(place) as file:
            digest, sums = hashlib.sha256(), StatedSums(place)
            while piece := file.read(PIECE):
                digest.update(piece)
                sums.add(piece)
            for warning in sums.check(str(path)):
                _log.warning(warning)
            return FileIdentity(file.tell(), digest.hexdigest())
    except OSError as error:
        raise CubeError(f"{path} cannot be read: {error.strerror or error}") from None


class OpenFile(NamedTuple):
    """A file that was found and listed: what was asked for, where its bytes are, and its HDUs."""

    wanted: Specifier
    path: Path
    hdus: Sequence[Hdu]
    folder: ScratchFolder


class Found(NamedTuple):
    """The array that is the cube, its selected part, and the HDU of its variance if there is one."""

    file: OpenFile
    data: Hdu
    selection: Selection
    variance: Companion | None

    @property
    def reader(self) -> PlaneReader:
        """Reader of the data."""
        return self._locate(self.data, "data")

    def variance_reader(self, message: Callable[[str], None]) -> PlaneReader:
        """Return the reader of the variance; the message says what is done to other measures of errors."""
        assert self.variance is not None  # noqa: S101  for mypy
        other, meaning, _ = self.variance
        reader = self._locate(other, meaning)
        label = f"{self.file.wanted.path}{{{other.name}}}"
        if is_rather_variance(self.reader, reader):
            message(f"{label} can only hold variances, not standard deviations: read as such")
            return replace(reader, meaning="variance")
        if meaning in CONVERSIONS:
            message(f"{label} holds {ERRORS[meaning]}: {CONVERSIONS[meaning]}")
        return reader

    def _locate(self, hdu: Hdu, meaning: Meaning) -> PlaneReader:
        file, chosen = self.file, self.selection
        return locate(file.path, hdu, meaning, chosen.axes, chosen.kept, file.folder, file.wanted.path)


ERRORS: Mapping[Meaning, str] = {
    "variance": "variances",
    "error": "standard deviations",
    "weight": "inverse variances",
}
"""What the numbers of an HDU with errors can be."""

CONVERSIONS: Mapping[Meaning, str] = {"error": "squared when read", "weight": "inverted when read"}
"""What is done to errors that are not variances."""


def list_file(
    specifier: str | os.PathLike[str] | Specifier,
    *,
    scratch: str | Path | None = None,
    message: Callable[[str], None] = _log.info,
) -> OpenFile:
    """Read the headers of a file; see `open_cube` for the parameters and the errors."""
    if isinstance(specifier, os.PathLike):
        specifier = Specifier(os.fspath(specifier))
    wanted = parse_specifier(specifier) if isinstance(specifier, str) else specifier
    path, name = wanted.file, wanted.path
    check_readable(path, name)
    folder = ScratchFolder(scratch, message)
    path = folder.decompressed(path, name)
    return OpenFile(wanted, path, list_hdus(path, name), folder)


def find(file: OpenFile, given: tuple[float | None, float | None, str | None] = (None, None, None)) -> Found:
    """Choose the array of the data, its axes and its variance.

    `given` holds wave_start, wave_step and wave_unit; see `open_cube` for the errors.
    """
    hdu = choose(file.hdus, file.wanted.ext, file.wanted.path)
    lookup = partial(wavelength_column, file.path, file.hdus)
    return Found(file, hdu, select(file.wanted, hdu, given, lookup), variance_of(file.hdus, hdu))


def open_cube(
    specifier: str | os.PathLike[str] | Specifier,
    *,
    block: int | None = None,
    scratch: str | Path | None = None,
    wave: str | None = None,
    wave_start: float | None = None,
    wave_step: float | None = None,
    wave_unit: str | None = None,
    message: Callable[[str], None] = _log.info,
) -> xr.Dataset:
    """Open an array of a FITS file, and its variance if the file has one, as a lazy cube.

    Only the headers and samples of the numbers are read now; each block is read when it is computed.
    Compressed files and arrays whose planes are not contiguous are rewritten once, in bounded memory.

    Parameters
    ----------
    specifier
        ``PATH{EXT}[SLICE](AXES)``, see `lucidcube.io.specifier`, or the `pathlib.Path` of a file.
    block
        Number of planes per block; see `lucidcube.lift.blocks.planes_per_block` for the default.
    scratch
        Folder for rewritten files, shared by all workers; by default a temporary one, removed at exit.
    wave
        Range of wavelengths, such as ``0.55:0.60um``; either end may be left out.
    wave_start, wave_step, wave_unit
        Position of the first channel, step between channels, and their unit, in place of the header's.
    message
        Called with a sentence before slow operations.

    Returns
    -------
    xarray.Dataset
        `data` and, if the file has it, `variance`, float32 (wavelength, y, x), NaN where blank or infinite;
        coordinates `wavelength` (SI units; NaN for an image) and `channel` (number of the plane in the file).
        The attribute `header` describes the selected part, with the axes x, y, wavelength in this order; axes
        of length one keep their positions, and NAXISn are the shape to write. The attribute `scale_exponent`
        is the number e if the data were multiplied by 2**e and the variance by 4**e, see
        `lucidcube.io.locate.scale_exponent` (0 for nearly all files). `wavelength.attrs["axis"]` is the FITS
        number of the spectral axis in `header`; 0 for an image.

    Raises
    ------
    UserError
        If the specifier is invalid, the file or array is missing or damaged, or its axes are ambiguous.

    Examples
    --------
    >>> import lucidcube as lc
    >>> cube = lc.open_cube("example_data/target.fits[10:20]")
    >>> dict(cube.sizes)
    {'wavelength': 10, 'y': 61, 'x': 61}
    """
    given = (wave_start, wave_step, wave_unit)
    if block is not None and block < 1:
        raise ConfigError(f"block is {block}; it must be at least one plane")
    file = list_file(specifier, scratch=scratch, message=message)
    return open_found(find(file._replace(wanted=file.wanted.with_options(wave=wave)), given), block, message)


def open_found(
    found: Found, block: int | None = None, message: Callable[[str], None] = _log.info
) -> xr.Dataset:
    """Return the lazy cube of an array that was found; see `open_cube`."""
    bunit = text(found.data.header, "BUNIT")
    units = {words.DATA: bunit}
    readers = {words.DATA: found.reader}
    if found.variance is not None:
        other, meaning, _ = found.variance
        readers[words.VARIANCE] = found.variance_reader(message)
        stated = text(other.header, "BUNIT") if meaning == "variance" else ""
        units[words.VARIANCE] = stated or (f"({bunit})**2" if bunit else "")
    chosen, hdu, hdus = found.selection, found.data, found.file.hdus
    exponent = scale_exponent(readers.values())
    header, axis = product_header(chosen)
    grid = chosen.grid
    wavelength_attrs = {words.UNITS: grid.si, "ctype": grid.ctype, "axis": axis}
    variables = {k: _lazy(replace(r, exponent=exponent), block, units[k]) for k, r in readers.items()}
    coords = {
        words.WAVELENGTH: (words.WAVELENGTH, grid.values, wavelength_attrs),
        words.CHANNEL: (words.WAVELENGTH, np.asarray(chosen.channels, np.int64)),
    }
    attrs = {
        words.SOURCE: str(chosen.specifier),
        words.HEADER: header.tostring(sep="\n", endcard=False, padding=False),
        words.PRIMARY_HEADER: hdus[0].header.tostring(sep="\n", endcard=False, padding=False),
        words.BITPIX: hdu.bitpix,
        words.SCALE_EXPONENT: exponent,
    }
    return xr.Dataset(variables, coords, attrs)


def part_of(cube: xr.Dataset, rows: range, columns: range) -> xr.Dataset:
    """Return some rows and columns, counted from 0, of a cube from `open_cube`; only these are read."""
    variables = {}
    for name, variable in cube.data_vars.items():
        reader = source_of(variable.variable)
        inside = replace(
            reader,
            rows=reader.rows[rows.start : rows.stop],
            columns=reader.columns[columns.start : columns.stop],
        )
        variables[name] = _lazy(inside, None, str(variable.attrs[words.UNITS]))
    header = part_header(fits.Header.fromstring(cube.attrs[words.HEADER], sep="\n"), rows, columns)
    cards = header.tostring(sep="\n", endcard=False, padding=False)
    return xr.Dataset(variables, cube.coords, {**cube.attrs, words.HEADER: cards})


def _lazy(reader: PlaneReader, block: int | None, units: str) -> xr.Variable:
    planes, rows, columns = reader.shape
    size = block or planes_per_block(planes, rows * columns)
    token = hashlib.sha256(repr((reader, size)).encode()).hexdigest()[:32]
    variable = from_source(reader, size, f"fits-{token}")
    variable.attrs[words.UNITS] = units
    return variable
