"""Write cubes as zarr stores that xarray opens, and write FITS files from such stores."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from lucidcube import cube as words
from lucidcube.errors import CubeError
from lucidcube.io.atomic import part_path
from lucidcube.io.hdu_bytes import ImagePlan, stored_dtype
from lucidcube.io.hdus import Hdu
from lucidcube.io.header_cards import shape_of
from lucidcube.io.headers import plain_header, spectral_axis
from lucidcube.io.reader import Found, find, list_file, open_found
from lucidcube.io.specifier import Specifier
from lucidcube.io.spectral_cards import spectral_cards, wavelength_table
from lucidcube.io.writer import abandon, finish, reserve, write_planes
from lucidcube.io.zarr_store import check_store
from lucidcube.lift.blocks import planes_per_block

EXTNAME = "extname"
"""Attribute of variables: name of the HDU."""
VARIANCE_NAME = "STAT"
MEANINGS = ("HDUCLAS3", "UTYPE")
"""Cards that say what errors mean."""

Given = tuple[float | None, float | None, str | None]


def is_zarr(path: Path) -> bool:
    """Return whether a path is a zarr store in a folder."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def fits_to_zarr(
    specifier: Specifier, target: Path, *, given: Given, overwrite: bool, message: Callable[[str], None]
) -> None:
    """Write an array of a FITS file, its variance, and the images of a product, as a zarr store.

    The store has the names, the dimensions and the attributes of `lucidcube.cube`, and a chunk for each block
    of planes. It is written block by block into a temporary folder, which is renamed at the end. `given`
    holds wave_start, wave_step and wave_unit. With `overwrite`, another zarr store is replaced; anything else
    that exists raises CubeError, as does everything that `open_cube` refuses.
    """
    if target.exists() and not (overwrite and is_zarr(target)):
        advice = "; allow to replace it with --overwrite" if is_zarr(target) else ""
        raise CubeError(f"{target} exists already; give another name{advice}")
    file = list_file(specifier, message=message)
    found = find(file, given)
    cube = open_found(found, message=message)
    cube[words.DATA].attrs |= {EXTNAME: found.data.name, words.HEADER: cube.attrs[words.HEADER]}
    if found.data.bitpix == -64:
        message(f"{file.wanted.path} holds 64-bit numbers; lucidcube reads them with 32 bits")
    if found.variance is not None:
        cube[words.VARIANCE].attrs |= _variance_attrs(found)
    beside = dict(_beside(found, cube, given))
    kept = {found.data.number, *([found.variance.hdu.number] if found.variance else [])}
    left = [h for h in file.hdus if (h.shape or h.kind == "other") and h.number not in kept]
    if dropped := [h.name or str(h.number) for h in left if h.name.lower() not in beside]:
        message(f"not written, because a cube has no place for them: {', '.join(dropped)}")
    exact = {words.DATA: found.data.bitpix == -32}
    if found.variance is not None:
        hdu, meaning, _ = found.variance
        exact[words.VARIANCE] = hdu.bitpix == -32 and meaning == "variance"
    _store(_physical(cube, exact).assign(beside), target, overwrite)


def _variance_attrs(found: Found) -> dict[str, str]:
    """Return the name and the header of the HDU with the errors, as they are for the variance."""
    assert found.variance is not None  # noqa: S101  for mypy
    hdu, meaning, _ = found.variance
    name = hdu.name or str(hdu.number)
    cards = fits.Header.fromstring(_alike(found, hdu).attrs[words.HEADER], sep="\n")
    if meaning != "variance":
        name = VARIANCE_NAME
        for keyword in (*MEANINGS, "BUNIT"):
            cards.remove(keyword, ignore_missing=True)
    return {EXTNAME: name, words.HEADER: cards.tostring(sep="\n", endcard=False, padding=False)}


def _alike(found: Found, hdu: Hdu) -> xr.Dataset:
    """Open the same part of another array of the same shape."""
    selection = found.selection._replace(header=hdu.header)
    return open_found(found._replace(data=hdu, selection=selection, variance=None))


def _beside(found: Found, cube: xr.Dataset, given: Given) -> Iterator[tuple[str, xr.Variable]]:
    """Yield the images of a product that belong to the cube, as variables."""
    for hdu in found.file.hdus:
        name = hdu.name.lower()
        known = words.VARIABLES.get(name)
        if known is None or name in cube or len(known.dims) != 3 or hdu.kind == "other":
            continue
        if known.dims == words.DIMS and hdu.shape == found.data.shape:
            other = _alike(found, hdu)
        elif known.dims != words.DIMS:
            whole = replace(found.file.wanted, ext=hdu.number, index=(), wave=None)
            other = open_found(find(found.file._replace(wanted=whole), given))
        else:
            continue
        if not np.array_equal(other[words.CHANNEL], cube[words.CHANNEL]):
            continue
        other = _physical(other, {words.DATA: hdu.bitpix == -32})
        variable = other[words.DATA].variable
        if known.flux_power == 0 and hdu.bitpix > 0:
            variable = variable.astype("uint8" if hdu.bitpix == 8 else f"int{hdu.bitpix}")
        attrs = {**other[words.DATA].attrs, EXTNAME: hdu.name, words.HEADER: other.attrs[words.HEADER]}
        yield name, xr.Variable(known.dims, variable.data, attrs)


def _physical(cube: xr.Dataset, exact: Mapping[str, bool]) -> xr.Dataset:
    """Return a cube in the units of the file where the reader scaled the numbers for float32.

    They are float64 unless the numbers of the file are float32, which is `exact`.
    """
    exponent = int(cube.attrs.get(words.SCALE_EXPONENT, 0))
    if not exponent:
        return cube
    scaled = {}
    for name, is_exact in exact.items():
        factor = 2.0 ** (-exponent * words.VARIABLES[name].flux_power)
        values = cube[name].astype(np.float64) * factor
        scaled[name] = values.astype(np.float32 if is_exact else np.float64).assign_attrs(cube[name].attrs)
    return cube.assign(scaled).assign_attrs({words.SCALE_EXPONENT: 0})


def _store(cube: xr.Dataset, target: Path, overwrite: bool) -> None:
    """Write a store block by block, and rename it."""
    part = part_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        cube.to_zarr(part, mode="w-", consolidated=False, zarr_format=3)
        if overwrite and target.exists():
            old = part_path(target)
            target.rename(old)
            part.rename(target)
            shutil.rmtree(old)
        else:
            part.rename(target)  # fails if a folder that is not empty was made meanwhile
    except OSError as error:
        raise CubeError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def zarr_to_fits(store: Path, target: Path, *, overwrite: bool) -> None:
    """Write the cube in a zarr store as a FITS file, plane by plane.

    The header, the names and the places of the HDUs are those of the FITS file that the store was made from;
    the cards of the spectral axis follow the coordinate `wavelength`. A store of another origin needs the
    variable `data` with the dimensions of `lucidcube.cube`, and gets a header with its wavelengths only. A
    store without such a variable, and planes that the header does not describe, raise CubeError, and so does
    what `check_store` refuses.
    """
    check_store(store)
    try:
        # Without dask, zarr reads only the planes that are asked for, whatever the chunks are.
        cube = xr.open_zarr(store, chunks=None, consolidated=False)
    except MemoryError:
        raise
    except Exception as error:  # codecs raise anything
        raise _unreadable(store, error) from None
    with cube:
        words.require(cube, [words.DATA, words.WAVELENGTH], str(store))
        names = [str(n) for n, v in cube.data_vars.items() if len(v.dims) == 3 and v.dtype.kind in "fiu"]
        names.sort(key=lambda n: n != words.DATA)
        plans: list[Any] = [_plan(cube, name, str(store)) for name in names]
        lead = "XTENSION" in plans[0].header
        if lead:
            cards = fits.Header.fromstring(str(cube.attrs.get(words.PRIMARY_HEADER, "")), sep="\n")
            plans.insert(0, ImagePlan("", cards, (), "uint8"))
        axis = spectral_axis(cube) or 3
        table = wavelength_table(plans[lead].header, cube[words.WAVELENGTH].values, axis=axis)
        layout = reserve(target, [*plans, *([table] if table is not None else [])], overwrite=overwrite)
        try:
            sums = {}
            for number, name in enumerate(names, int(lead)):
                sums[number] = sum(
                    write_planes(layout, number, first, planes)
                    for first, planes in _blocks(cube[name], store)
                )
            finish(layout, sums)
        except BaseException:
            abandon(layout)
            raise


def _unreadable(store: Path, error: Exception) -> CubeError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return CubeError(f"{store} cannot be read as a zarr store: {reason}")


def _blocks(variable: xr.DataArray, store: Path) -> Iterator[tuple[int, np.ndarray]]:
    count, rows, columns = variable.shape
    step = planes_per_block(count, rows * columns)
    for first in range(0, count, step):
        try:
            planes = variable[first : first + step].values
        except MemoryError:
            raise
        except Exception as error:  # codecs raise anything
            raise _unreadable(store, error) from None
        yield first, planes


def _plan(cube: xr.Dataset, name: str, store: str) -> ImagePlan:
    """Return the HDU of a variable."""
    variable = cube[name]
    label = str(variable.attrs.get(EXTNAME, VARIANCE_NAME if name == words.VARIANCE else name.upper()))
    cards = variable.attrs.get(words.HEADER) or (cube.attrs.get(words.HEADER) if name == words.DATA else None)
    axis = spectral_axis(cube)
    if cards is None:
        unit = str(cube[words.WAVELENGTH].attrs.get(words.UNITS, "m"))
        header, axis = plain_header(variable.shape, unit), 3
    else:
        header = fits.Header.fromstring(str(cards), sep="\n")
        axis = axis if name != words.PSF else 3
    positions = cube[words.WAVELENGTH].values
    described = any(f"{keyword}{axis}" in header for keyword in ("CTYPE", "CRVAL"))
    if axis and described and np.isfinite(positions).all():
        header = spectral_cards(header, positions, axis=axis)
    there = shape_of(header)
    shape = there if math.prod(there) == math.prod(variable.shape) and len(there) > 1 else variable.shape
    if there and cards is not None and [n for n in there if n > 1] != [n for n in variable.shape if n > 1]:
        sides, found = " x ".join(map(str, there)), " x ".join(map(str, variable.shape))
        raise CubeError(
            f"{store}: the header of {name!r} describes {sides} numbers, but there are {found}: remove the "
            f"attribute {words.HEADER!r} of the variable and of the store, or select a part of a FITS file"
        )
    unit = str(variable.attrs.get(words.UNITS, ""))
    if unit and not header.get("BUNIT"):
        header["BUNIT"] = unit
    whole = variable.dtype.kind != "f"
    dtype = str(variable.dtype)
    if name == words.DATA and not whole:
        dtype = max(dtype, stored_dtype(int(cube.attrs.get(words.BITPIX, -32))))
    return ImagePlan(label, header, tuple(shape), dtype)
