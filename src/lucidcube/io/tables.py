"""Make the tables of products: one row per plane, and the provenance."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from lucidcube import __version__
from lucidcube.cube import PARAMETER, SCALE_EXPONENT, UNITS, VARIABLES, WAVELENGTH
from lucidcube.errors import CubeError
from lucidcube.io.header_cards import MALFORMED, ascii_text
from lucidcube.io.limits import check_readable
from lucidcube.io.staging import ScratchFolder
from lucidcube.io.structure import check_structure
from lucidcube.io.yaml_text import LARGEST_TEXT

PROVENANCE = "PROVENANCE"
PREVIEW = "PREVIEW"
LARGEST_PROVENANCE = 1 << 24
"""Number of bytes that the provenance table of a product may have."""
_CODES = {"f": "D", "i": "J", "u": "B"}


def plane_table(name: str, cube: xr.Dataset, variables: Sequence[str]) -> fits.BinTableHDU:
    """Make a table with one row per plane: the wavelength, and a column per variable or fit parameter.

    The variables have the dimension `wavelength`, or `wavelength` and `parameter`; lazy ones are computed.
    Codes with the attribute ``meanings`` get a second column with words. The column of a fit parameter called
    ``wavelength`` is called ``wavelength_fit``, because it would clash with the wavelength of the plane.
    """
    axis, loaded = cube[WAVELENGTH], cube[list(variables)].compute()
    columns = [fits.Column("wavelength", "D", unit=_unit(axis), array=axis.values)]
    for variable in variables:
        columns += _columns(variable, loaded[variable], int(cube.attrs.get(SCALE_EXPONENT, 0)))
    return _table(name, columns)


def _columns(name: str, variable: xr.DataArray, exponent: int) -> list[fits.Column]:
    values, attrs = variable.values, variable.attrs
    if VARIABLES[name].flux_power:
        values = np.ldexp(values.astype(np.float64), -exponent * VARIABLES[name].flux_power)
    if PARAMETER in variable.dims:
        suffix = "" if name == "fit_value" else "_error"
        labels = [f"{n}_fit" if n == WAVELENGTH else n for n in attrs["names"]]
        pairs = zip(labels, attrs["units"], strict=True)
        return [
            fits.Column(f"{label}{suffix}", "D", unit=unit, array=values[:, column])
            for column, (label, unit) in enumerate(pairs)
        ]
    columns = [fits.Column(name, _CODES[values.dtype.kind], unit=_unit(variable), array=values)]
    if "meanings" in attrs:
        columns.append(_texts(f"{name}_text", [attrs["meanings"][str(int(v))] for v in values]))
    return columns


def _table(name: str, columns: Sequence[fits.Column]) -> fits.BinTableHDU:
    """Return the HDU that `BinTableHDU.from_columns` makes, without importing astropy.table."""
    hdu = fits.BinTableHDU(name=name)
    hdu.data = fits.FITS_rec.from_columns(columns)
    return hdu


def _unit(variable: xr.DataArray) -> str | None:
    return str(variable.attrs.get(UNITS, "")) or None


def _texts(name: str, texts: Sequence[str]) -> fits.Column:
    encoded = [ascii_text(text).encode() for text in texts]
    return fits.Column(name, f"{max(map(len, encoded), default=1) or 1}A", array=encoded)


def preview_table(planes: Sequence[int], total: int) -> fits.BinTableHDU:
    """Make a table with the numbers, from 0, of planes among the `total` of the whole run."""
    numbers = np.array([planes, [total] * len(planes)], np.int32)
    return _table(
        PREVIEW, [fits.Column(n, "J", array=a) for n, a in zip(("plane", "of"), numbers, strict=True)]
    )


def provenance_table(config: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any]]) -> fits.BinTableHDU:
    """Make a table (KEY, VALUE) of text from which the run can be repeated; see `read_provenance`."""
    rows = {
        "version": __version__,
        # JSON on one line, which is valid YAML too, because FITS tables hold printable ASCII only.
        "config": json.dumps(dict(config)),
        **{f"{track}.{k}": str(v) for track, identity in inputs.items() for k, v in identity.items()},
    }
    return _table(PROVENANCE, [_texts("KEY", [*rows]), _texts("VALUE", [*rows.values()])])


def read_provenance(path: str | Path) -> dict[str, str]:
    """Return the rows of the provenance table of a product; CubeError if it is missing or damaged."""
    path, label = Path(path).expanduser(), str(path)
    check_readable(path, label)
    try:
        file = ScratchFolder(None, lambda text: None).decompressed(path, label)
        check_structure(file, label)
        with fits.open(file, memmap=False) as hdus:
            if PROVENANCE not in hdus:
                raise CubeError(f"{label} has no {PROVENANCE} table: it was not made by lucidcube run")
            header = hdus[PROVENANCE].header
            if int(header["NAXIS1"]) * int(header["NAXIS2"]) + int(header["PCOUNT"]) > LARGEST_PROVENANCE:
                raise CubeError(f"{label}: its {PROVENANCE} table has more than {LARGEST_PROVENANCE} bytes")
            table = hdus[PROVENANCE].data
            if {table[name].dtype.kind for name in ("KEY", "VALUE")} - {"U", "S"}:
                raise CubeError(f"{label}: its {PROVENANCE} table does not hold text")
            return {str(key): str(value) for key, value in zip(table["KEY"], table["VALUE"], strict=True)}
    except MALFORMED as error:
        raise CubeError(f"{label} cannot be read as a product of lucidcube: {error}") from error


def config_of(provenance: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the config in the provenance of a product as plain data; CubeError if it is no mapping.

    `name` is the name of the product.
    """
    values: Any = None
    text = provenance.get("config", "")
    if len(text) <= LARGEST_TEXT:
        with suppress(ValueError, RecursionError):
            values = json.loads(text)
    if not isinstance(values, dict):
        raise CubeError(f"{name} records no config: its {PROVENANCE} table is damaged")
    return values
