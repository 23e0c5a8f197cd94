"""The commands that look at files and convert them."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter

Text = str | None
Flag = Annotated[bool, Parameter(negative=())]
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
    found = inspect_file(specifier, _to_stderr)
    print(json.dumps(found, indent=1) if json_ else info_text(found))
    if found["problems"]:
        raise CubeError(*found["problems"])


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


COMMANDS: tuple[Callable[..., Any], ...] = (info,)
