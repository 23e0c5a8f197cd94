"""Write a FITS cube from pictures: one plane for each PNG file or each page of a TIFF file."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.errors import UserError
from lucidcube.io.hdu_bytes import ImagePlan
from lucidcube.io.spectral import TYPE_OF_SI, spectral_unit
from lucidcube.io.writer import abandon, finish, reserve, write_planes

SUFFIXES = (".png", ".tif", ".tiff")
_TYPES = {"L": "uint8", "I;16": "int32", "I;16B": "int32", "I;16L": "int32", "I": "int32", "F": "float32"}


def pictures_to_fits(
    files: Sequence[Path],
    target: Path,
    *,
    wave_start: float | None = None,
    wave_step: float | None = None,
    wave_unit: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write grey pictures of 8 or 16 bits, or of floating-point numbers, as the planes of a FITS cube.

    The planes are in the order of the files, and of the pages in a file. The first row of a picture is its
    upper edge, which is the last row in FITS. The wavelengths rise from `wave_start` by `wave_step` in
    `wave_unit`; without them the header has none. UserError is raised for pictures in
    colour, of different sizes, or that cannot be read.
    """
    pages = [page for file in files for page in _pages(file)]
    shapes = {shape for _, _, shape, _ in pages}
    if len(shapes) != 1:
        sizes = ", ".join(f"{y} x {x}" for y, x in sorted(shapes))
        raise UserError(f"the pictures have different sizes ({sizes}): give those of one size")
    dtype = max((dtype for *_, dtype in pages), key=["uint8", "int32", "float32"].index)
    header = _header(len(pages), wave_start, wave_step, wave_unit)
    rows, columns = shapes.pop()
    plan = ImagePlan("", header, (len(pages), rows, columns), dtype)
    layout = reserve(target, [plan], overwrite=overwrite)
    try:
        total = 0
        for number, (file, page, *_) in enumerate(pages):
            total += write_planes(layout, 0, number, _read(file, page)[None, ::-1])
        finish(layout, {0: total})
    except BaseException:
        abandon(layout)
        raise


def in_folder(folder: Path) -> list[Path]:
    """Return the pictures in a folder; numbers in names are sorted by value: 2 before 10."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(found, key=lambda p: [int(t) if t.isdecimal() else t for t in re.split(r"(\d+)", p.name)])


def _header(count: int, start: float | None, step: float | None, unit: str | None) -> fits.Header:
    header = fits.Header()
    if start is None and step is None and unit is None:
        return header
    if start is None or unit is None or (step is None and count > 1):
        raise UserError("wavelengths need --wave-start, --wave-step and --wave-unit together")
    known = spectral_unit(unit)
    if known is None:
        raise UserError(f"--wave-unit {unit} is not a unit of wavelength, frequency or speed, such as nm")
    header["CTYPE3"], header["CUNIT3"] = TYPE_OF_SI[known.si], unit
    header["CRVAL3"], header["CRPIX3"], header["CDELT3"] = start, 1.0, 1.0 if step is None else step
    return header


def _pages(file: Path) -> Iterator[tuple[Path, int, tuple[int, int], str]]:
    """Yield file, number, shape and stored type of each page; only the headers are read."""
    with _open(file) as picture:
        for page in range(getattr(picture, "n_frames", 1)):
            picture.seek(page)
            if picture.mode not in _TYPES:
                advice = "convert it to grey, or write each colour as a picture of its own"
                raise UserError(f"{file} is not a grey picture (its mode is {picture.mode}): {advice}")
            yield file, page, (picture.height, picture.width), _TYPES[picture.mode]


def _read(file: Path, page: int) -> NDArray[Any]:
    with _open(file) as picture:
        try:
            picture.seek(page)
            return np.asarray(picture)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{file} cannot be read: {error}") from None


def _open(file: Path) -> Any:
    from PIL import Image, UnidentifiedImageError  # imported here, because few commands need it

    try:
        return Image.open(file)
    except UnidentifiedImageError:
        raise UserError(f"{file} is not a picture that can be read") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
