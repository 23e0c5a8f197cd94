"""The commands that look at files and convert them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lucidcube.cli.options import note, to_stdout

Text = str | None
Flag = Annotated[bool, Parameter(negative=())]
Texts = Annotated[list[str] | None, Parameter(consume_multiple=False, negative=())]
Output = Annotated[Path | None, Parameter(name=["-o", "--output"])]
Json = Annotated[bool, Parameter("--json", negative=())]


def info(
    cube: str,
    *,
    ext: Text = None,
    slice: Text = None,
    wave: Text = None,
    axes: Text = None,
    json_: Json = False,
) -> None:
    """Describe a FITS file: its HDUs and what is read of them, wavelengths, pixel scale, variance, NaN.

    Parameters
    ----------
    cube
        PATH{EXT}[SLICE](AXES); all but PATH are optional.
    ext
        Name or number of the HDU.
    slice
        Part to read, in NumPy order: 100:200,:,3:-3
    wave
        Range of wavelengths to read: 0.55:0.60um
    axes
        NumPy numbers of the axes: spectral=0,celestial=1,2
    json_
        Print the same as JSON.
    """
    from lucidcube.cli.info_text import info_text
    from lucidcube.errors import CubeError
    from lucidcube.io.inspection import inspect_file
    from lucidcube.io.specifier import parse_specifier

    specifier = parse_specifier(cube).with_options(ext=ext, slice=slice, wave=wave, axes=axes)
    found = inspect_file(specifier, note)
    to_stdout(json.dumps(found, indent=1) if json_ else info_text(found))
    if found["problems"]:
        raise CubeError(*found["problems"])


def view(
    cube: str,
    *,
    wave: Texts = None,
    channel: Texts = None,
    white: Flag = False,
    hdu: Texts = None,
    output: Output = None,
    scale: Literal["asinh", "linear"] = "asinh",
    open_: Annotated[bool, Parameter("--open", negative=())] = False,
    overwrite: Flag = False,
) -> None:
    """Draw white light and planes of a cube or of a product as a PNG file, and print its path.

    The HDUs of a product are drawn side by side: the result, the residual in standard deviations, its error,
    the PSF and the mask. Without --wave, --channel and --white, white light and the middle plane are drawn.

    Parameters
    ----------
    cube
        PATH{EXT}[SLICE](AXES); all but PATH are optional.
    wave
        Wavelengths of planes: 0.55um,0.72um
    channel
        Numbers of planes, counted from 0: 10,99,135
    white
        Draw white light, the mean of all planes, or of 64 evenly spaced ones if there are more.
    hdu
        Names of the HDUs to draw: DECONVOLVED,RESIDUAL
    output
        Path of the PNG file; that of the FITS file with another suffix if not given.
    scale
        Colours by the inverse hyperbolic sine of the flux, or linear.
    open_
        Open the picture with the viewer of the desktop, if there is a display.
    overwrite
        Replace the file even if lucidcube did not make it.
    """
    from lucidcube.cli.view import Chosen, open_with_desktop, write_view

    chosen = Chosen(white, _split(channel), _split(wave), _split(hdu))
    path = write_view(cube, chosen, output, scale, overwrite=overwrite, message=note)
    to_stdout(path)
    if open_:
        open_with_desktop(path)


def convert(
    *paths: Annotated[str, Parameter(help="Files to convert, and the path to write.")],
    wave_start: float | None = None,
    wave_step: float | None = None,
    wave_unit: Text = None,
    overwrite: Flag = False,
) -> None:
    """Convert a FITS cube to a zarr store or back, or pictures to a FITS cube: convert IN [IN ...] OUT.

    A FITS file, PATH{EXT}[SLICE](AXES), becomes a zarr store OUT.zarr for xarray, and such a store a FITS
    file with the header of the original. Grey PNG and TIFF pictures, or folders of them, become the planes of
    a FITS cube. Everything is converted block by block, and OUT gets its name when it is complete.

    Parameters
    ----------
    wave_start
        Wavelength of the first plane, where the input has none.
    wave_step
        Wavelength between planes.
    wave_unit
        Unit of both, such as nm.
    overwrite
        Replace an existing file, or an existing zarr store.
    """
    from lucidcube.cli.convert import convert_files
    from lucidcube.errors import UserError

    if len(paths) < 2:
        raise UserError("give an input and an output: lucidcube convert obs.fits obs.zarr")
    given = (wave_start, wave_step, wave_unit)
    convert_files(paths[:-1], Path(paths[-1]), given, overwrite=overwrite, message=note)
    to_stdout(paths[-1])


def fetch(
    *names: Annotated[str, Parameter(help="Names of files; without any, the files are listed.")],
    all_: Annotated[bool, Parameter("--all", negative=())] = False,
    output: Output = None,
    server: str = "https://zenodo.org",
    overwrite: Flag = False,
) -> None:
    """Download the public example data of the reference program (Zenodo record 13384454), or list them.

    Parameters
    ----------
    all_
        Download all files of the record.
    output
        Folder to write to; the cache of the user if not given.
    server
        Address of a server with the API of Zenodo.
    overwrite
        Replace files of the same name with another content.
    """
    from lucidcube.cli.fetch import fetch_files, list_record, record_text

    files = list_record(server)
    wanted = [file.name for file in files] if all_ else names
    if not wanted:
        to_stdout(record_text(files))
        return
    for path in fetch_files(files, wanted, output, overwrite=overwrite, message=note):
        to_stdout(path)


def _split(texts: list[str] | None) -> list[str]:
    return [part.strip() for text in texts or () for part in text.split(",") if part.strip()]


COMMANDS: tuple[Callable[..., Any], ...] = (info, view, convert, fetch)
