"""Which HDUs make up a product, and what is written in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from astropy.io import fits

from lucidcube import __version__
from lucidcube.blocks import over_blocks
from lucidcube.cube import (
    BADNESS,
    BITPIX,
    DATA,
    FILLED,
    HEADER,
    HISTORY,
    MASK,
    PARAMETER,
    PRIMARY_HEADER,
    RESIDUAL,
    SCALE_EXPONENT,
    UNITS,
    VARIABLES,
    VARIANCE,
    WAVELENGTH,
    block_sizes,
)
from lucidcube.io.fits_write import ImagePlan, Layout, abandon, finish, reserve, stored_dtype, write_planes
from lucidcube.io.wcs import spectral_cards, wavelength_table

LOG = ("iterations", "stop_reason", "fabs", "rms", "flux_in", "flux_out", "chi2")
FIT = ("fit_value", "fit_error", "reduced_chi2", "fit_status")
STAR = ("offset_y", "offset_x", "background_level", "total")

PRODUCT_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "deconvolved": (DATA,),
    "residual": (RESIDUAL,),
    "psf": (),
    "log": LOG,
    "fit": (*FIT, *STAR),
    "filled": (FILLED,),
    "mask": (MASK, "cut"),
    "badness": (BADNESS,),
    "variance": (VARIANCE,),
    "provenance": (),
}
"""What each product that a user can ask for needs to be kept."""

IMAGES = {"residual": RESIDUAL, "variance": VARIANCE, "filled": FILLED, "mask": MASK, "badness": BADNESS}

Compute = Callable[[Any, Sequence[int]], Iterator[tuple[int, Any]]]
"""Computes the blocks of a lazy array of one item per block."""

_KEPT_BY_PRIMARY = ("SIMPLE", "BITPIX", "NAXIS", "EXTEND", "CHECKSUM", "DATASUM", "EXTNAME", "XTENSION")


@dataclass(frozen=True)
class _Image:
    """One image HDU and where its planes come from."""

    plan: ImagePlan
    source: int
    variable: str


def write_products(
    path: Path,
    cube: xr.Dataset,
    star: xr.Dataset | None,
    products: Sequence[str],
    *,
    provenance: Mapping[str, Any],
    overwrite: bool,
    compute: Compute,
) -> None:
    """Write a FITS file block by block; it appears whole, or not at all.

    Parameters
    ----------
    path
        Of the file; its folder is made.
    cube
        The target after its last stage.
    star
        The star after its last stage; its data are the PSF.
    products
        Names in `PRODUCT_VARIABLES`; one that needs what is not there is left out.
    provenance
        ``config`` and ``inputs``, plain data from which the run can be repeated.
    overwrite
        Whether to replace a file of this name.
    compute
        Computes blocks.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    images = list(_images(cube, star, products, provenance))
    tables = list(_tables(cube, star, products, provenance))
    layout = reserve(path, [*(i.plan for i in images), *tables], overwrite=overwrite)
    try:
        sums = dict.fromkeys(range(len(images)), 0)
        for source, lazy in enumerate((cube, star)):
            here = [number for number, image in enumerate(images) if image.source == source]
            if lazy is None or not here:
                continue
            names = [images[n].variable for n in here]
            write = _Write(layout, tuple(here))
            work = over_blocks(_lazy(lazy, names), write, names, "object")
            for _, parts in compute(work, range(work.shape[0])):
                for number, part in zip(here, parts, strict=True):
                    sums[number] += int(part)
        finish(layout, sums)
    except BaseException:
        abandon(layout)
        raise


@dataclass(frozen=True)
class _Write:
    """Write one block of each variable into the file."""

    layout: Layout
    hdus: tuple[int, ...]

    def __call__(self, position: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
        sums = np.empty(1, object)
        sums[0] = tuple(
            write_planes(self.layout, hdu, int(position[0]), array)
            for hdu, array in zip(self.hdus, arrays, strict=True)
        )
        return sums


def _lazy(cube: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """The variables to write, in blocks."""
    wanted = cube[list(names)] if DATA in names else cube[[DATA, *names]]
    return wanted if wanted[DATA].chunks else wanted.chunk({WAVELENGTH: block_sizes(cube)})


def _images(
    cube: xr.Dataset, star: xr.Dataset | None, products: Sequence[str], provenance: Mapping[str, Any]
) -> Iterator[_Image]:
    first = True
    name = "DECONVOLVED" if any(h["stage"] == "deconvolve" for h in cube.attrs.get(HISTORY, [])) else "DATA"
    header = cube_header(cube)
    for product in products:
        variable = DATA if product == "deconvolved" else IMAGES.get(product)
        if variable is None or variable not in cube:
            continue
        own = header.copy()
        label = name if product == "deconvolved" else product.upper()
        if first:
            own = _with_primary(own, cube)
            own.update(_provenance_cards(cube, star, provenance))
        _set_unit(own, str(cube[variable].attrs.get(UNITS, "")))
        yield _Image(_plan(label, own, _shape(own, cube), cube, variable), 0, variable)
        first = False
    if "psf" in products and star is not None:
        shape = star[DATA].shape
        plan = ImagePlan("PSF", psf_header(star), shape, _dtype(cube, DATA))
        yield _Image(plan, 1, DATA)


def cube_header(cube: xr.Dataset) -> fits.Header:
    """The header of the input, card for card but for what the stages changed: the grid."""
    text = cube.attrs.get(HEADER)
    header = fits.Header.fromstring(text, sep="\n") if text else fits.Header()
    axis = int(cube[WAVELENGTH].attrs.get("axis", 0))
    if not text:
        return header
    if axis:
        header = spectral_cards(header, cube[WAVELENGTH].values, axis=axis)
    return header


def psf_header(star: xr.Dataset) -> fits.Header:
    """A header for the PSF: its spectral axis is the star's; its pixels are no place on the sky."""
    header = fits.Header()
    whole = cube_header(star)
    axis = int(star[WAVELENGTH].attrs.get("axis", 0))
    for key in ("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CDELT"):
        if axis and f"{key}{axis}" in whole:
            header[f"{key}3"] = (whole[f"{key}{axis}"], whole.comments[f"{key}{axis}"])
    if axis and f"CD{axis}_{axis}" in whole:
        header["CDELT3"] = (whole[f"CD{axis}_{axis}"], whole.comments[f"CD{axis}_{axis}"])
    return header


def _shape(header: fits.Header, cube: xr.Dataset) -> tuple[int, ...]:
    """As in the input, axes of length one included; planes as the cube has them."""
    count = int(header.get("NAXIS", 0))
    axes = [int(header.get(f"NAXIS{n}", 1)) for n in range(count, 0, -1)]
    planes = cube[DATA].shape
    return tuple(axes) if math.prod(axes) == math.prod(planes) and count > 2 else planes


def _plan(
    name: str, header: fits.Header, shape: tuple[int, ...], cube: xr.Dataset, variable: str
) -> ImagePlan:
    exponent = int(cube.attrs.get(SCALE_EXPONENT, 0)) * VARIABLES[variable].flux_power
    return ImagePlan(name, header, shape, _dtype(cube, variable), exponent)


def _dtype(cube: xr.Dataset, variable: str) -> str:
    if cube[variable].dtype.kind != "f":
        return str(cube[variable].dtype)
    return stored_dtype(int(cube.attrs.get(BITPIX, -32)))


def _set_unit(header: fits.Header, unit: str) -> None:
    if unit:
        header["BUNIT"] = unit
    else:
        header.remove("BUNIT", ignore_missing=True)


def _with_primary(header: fits.Header, cube: xr.Dataset) -> fits.Header:
    """Add the cards that only the input's primary header has: the observation's, the instrument's."""
    text = cube.attrs.get(PRIMARY_HEADER)
    if text:
        primary = fits.Header.fromstring(text, sep="\n")
        for card in primary.cards:
            if card.keyword.startswith(_KEPT_BY_PRIMARY) or (card.keyword and card.keyword in header):
                continue
            header.append(card, end=True)
    return header


def _provenance_cards(
    cube: xr.Dataset, star: xr.Dataset | None, provenance: Mapping[str, Any]
) -> Iterator[tuple[str, Any, str]]:
    yield "HIERARCH LUCIDCUBE VERSION", __version__, "program that made this"
    for track, identity in provenance.get("inputs", {}).items():
        for key in ("file", "sha256"):
            yield f"HIERARCH LUCIDCUBE {track.upper()} {key.upper()}", str(identity[key]), ""
    histories = {"target": cube, "star": star}
    for track, made in histories.items():
        stages = [h["stage"] for h in made.attrs.get(HISTORY, [])] if made is not None else []
        if stages:
            yield f"HIERARCH LUCIDCUBE {track.upper()} STAGES", " ".join(stages), ""


def _tables(
    cube: xr.Dataset, star: xr.Dataset | None, products: Sequence[str], provenance: Mapping[str, Any]
) -> Iterator[fits.BinTableHDU]:
    if "log" in products and "stop_reason" in cube:
        yield _table("DECONVOLUTION LOG", cube, LOG)
    if "fit" in products and star is not None:
        present = [name for name in (*FIT, *STAR) if name in star]
        if present:
            yield _table("FITTED MODEL PARAMS", star, present)
    if "mask" in products and "cut" in cube:
        yield _table("CUT BY CHANNEL", cube, ("cut",))
    header = cube_header(cube)
    grid = wavelength_table(
        header, cube[WAVELENGTH].values, axis=int(cube[WAVELENGTH].attrs.get("axis", 0)) or None
    )
    if grid is not None:
        yield grid
    if "provenance" in products:
        yield provenance_table(provenance)


def provenance_table(provenance: Mapping[str, Any]) -> fits.BinTableHDU:
    """A table (key, value) of text from which the run can be repeated."""
    rows = {
        "version": __version__,
        "config": yaml.safe_dump(dict(provenance.get("config", {})), sort_keys=False),
        **{
            f"{track}.{key}": str(value)
            for track, identity in provenance.get("inputs", {}).items()
            for key, value in identity.items()
        },
    }
    columns = [
        fits.Column(name, f"{max(len(t.encode()) for t in texts)}A", array=[t.encode() for t in texts])
        for name, texts in (("KEY", [*rows]), ("VALUE", [*rows.values()]))
    ]
    return fits.BinTableHDU.from_columns(columns, name="PROVENANCE")


def _table(name: str, cube: xr.Dataset, variables: Sequence[str]) -> fits.BinTableHDU:
    """A row per plane: wavelength, and a column per variable or per parameter."""
    exponent = int(cube.attrs.get(SCALE_EXPONENT, 0))
    axis = cube[WAVELENGTH]
    columns = [fits.Column("wavelength", "D", unit=str(axis.attrs.get(UNITS, "")), array=axis.values)]
    for variable in variables:
        values = cube[variable].values
        if VARIABLES[variable].flux_power:
            values = np.ldexp(values.astype(np.float64), -exponent * VARIABLES[variable].flux_power)
        attrs = cube[variable].attrs
        if PARAMETER in cube[variable].dims:
            suffix = "" if variable == "fit_value" else "_error"
            for column, (label, unit) in enumerate(zip(attrs["names"], attrs["units"], strict=True)):
                columns.append(fits.Column(f"{label}{suffix}", "D", unit=unit, array=values[:, column]))
            continue
        code = {"f": "D", "i": "J", "u": "B"}[values.dtype.kind]
        columns.append(fits.Column(variable, code, unit=str(attrs.get(UNITS, "")) or None, array=values))
        if "meanings" in attrs:
            texts = [attrs["meanings"][str(int(v))].encode() for v in values]
            width = max(map(len, texts), default=1)
            columns.append(fits.Column(f"{variable}_text", f"{width}A", array=texts))
    return fits.BinTableHDU.from_columns(columns, name=name)
