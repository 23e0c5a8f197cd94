"""Cubes as objects of the packages ndcube and specutils, and back."""

from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import xarray as xr
from astropy import units
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS

from lucidcube.api.spectrum import physical
from lucidcube.cube import CHANNEL, DATA, DIMS, HEADER, MASK, UNITS, VARIANCE, WAVELENGTH, require
from lucidcube.errors import CubeError, UserError
from lucidcube.io.cube_wcs import cube_wcs
from lucidcube.io.hdus import Hdu
from lucidcube.io.header_cards import set_shape, unit_of
from lucidcube.io.headers import cards_text, cube_header, described
from lucidcube.io.selection import product_header, select
from lucidcube.io.specifier import Specifier

LABEL = "the NDCube"


def to_ndcube(cube: xr.Dataset) -> Any:
    """Return a cube as an `ndcube.NDCube`; lazy if it is.

    It has the data in the unit of the file, the variance as a `VarianceUncertainty`, the world coordinates of
    ``cube.lucid.wcs``, and the header in ``meta["header"]``. Its mask is true where there is no data, and
    where the variable `mask` marks a pixel. An image has two axes. UserError is raised if ndcube is not
    installed.

    Examples
    --------
    >>> import lucidcube as lc
    >>> cube = lc.open_cube("example_data/target.fits")
    >>> lc.to_ndcube(cube).shape
    (64, 61, 61)
    """
    ndcube = _package("ndcube", "to_ndcube")
    require(cube, [DATA], "to_ndcube")
    wcs = cube_wcs(cube)
    parts = _parts(cube)
    if wcs.pixel_n_dim == 2:
        parts = {name: None if part is None else part[0] for name, part in parts.items()}
    variance = parts["variance"]
    return ndcube.NDCube(
        parts["data"],
        wcs=wcs,
        uncertainty=None if variance is None else VarianceUncertainty(variance),
        mask=parts["mask"],
        unit=_unit(cube),
        meta={"header": cube_header(described(cube))},
    )


def from_ndcube(cube: Any) -> xr.Dataset:
    """Return an `ndcube.NDCube` as a cube; lazy if its data are dask arrays.

    Its world coordinates must be an `astropy.wcs.WCS`, from which the axes are found as in files. Standard
    deviations and inverse variances become the variance. Masked pixels that have data are 1 in the variable
    `mask`, which `Interpolate` fills. CubeError is raised if the coordinates are of another kind, if their
    axes are not those of a cube or an image, or if the uncertainty has another meaning.

    Examples
    --------
    >>> import lucidcube as lc
    >>> cube = lc.open_cube("example_data/target.fits")
    >>> dict(lc.from_ndcube(lc.to_ndcube(cube)).sizes)
    {'wavelength': 64, 'y': 61, 'x': 61}
    """
    wcs = getattr(cube.wcs, "low_level_wcs", cube.wcs)
    if not isinstance(wcs, WCS):
        raise CubeError(f"{LABEL} has coordinates of the type {type(wcs).__name__}; they must be a FITS WCS")
    header = wcs.to_header(relax=True)
    set_shape(header, cube.data.shape)
    hdu = Hdu(0, "", 1, "image", header, tuple(cube.data.shape), 0)
    chosen = select(Specifier(LABEL), hdu, (None, None, None), partial(_column, wcs))
    cards, axis = product_header(chosen)
    axes = [n for n in chosen.axes if n is not None]

    def ordered(values: Any) -> Any:
        values = np.transpose(values, [*(n for n in range(values.ndim) if n not in axes), *axes])
        return values.reshape((-1, *values.shape[-2:]))

    unit = cube.unit.to_string("fits") if cube.unit is not None else ""
    grid, data = chosen.grid, ordered(cube.data).astype(np.float32)
    made = {DATA: (DIMS, data, {UNITS: unit})}
    if cube.uncertainty is not None:
        made[VARIANCE] = (DIMS, ordered(_variance(cube.uncertainty)), {UNITS: f"({unit})**2" if unit else ""})
    if cube.mask is not None and np.ndim(cube.mask):
        made[MASK] = (DIMS, (ordered(cube.mask) & np.isfinite(data)).astype(np.uint8), {UNITS: ""})
    spectral = {UNITS: grid.si, "ctype": grid.ctype, "axis": axis}
    channel = np.arange(grid.values.size)
    coords = {WAVELENGTH: (WAVELENGTH, grid.values, spectral), CHANNEL: (WAVELENGTH, channel)}
    return xr.Dataset(made, coords, {HEADER: cards_text(cards)})


def to_spectrum1d(cube: xr.Dataset) -> Any:
    """Return a cube, or a spectrum from ``cube.lucid.spectrum``, as a spectrum of the package specutils.

    That is a `specutils.Spectrum`, in specutils before version 2 a `Spectrum1D`, in memory. It has the flux
    in the unit of the file, the spectral axis in SI units, the variance as a `VarianceUncertainty`, and a
    mask that is true where there is no data, and where the variable `mask` marks a pixel. UserError is raised
    if specutils is not installed, or if the planes have no wavelengths.

    Examples
    --------
    >>> import lucidcube as lc
    >>> cube = lc.open_cube("example_data/target.fits")
    >>> lc.to_spectrum1d(cube.lucid.spectrum()).flux.shape
    (64,)
    """
    specutils = _package("specutils", "to_spectrum1d")
    if DATA not in cube or cube[DATA].dims != (WAVELENGTH,):
        require(cube, [DATA], "to_spectrum1d")
    wavelength = cube[WAVELENGTH]
    unit = str(wavelength.attrs.get(UNITS, "m"))
    if not np.isfinite(wavelength.values).all() or not unit:
        raise CubeError("to_spectrum1d: the planes have no wavelengths, which a spectrum needs")
    parts = {n: None if part is None else np.asarray(part) for n, part in _parts(cube).items()}
    kind = getattr(specutils, "Spectrum", None)
    where = {"spectral_axis_index": 0} if kind is not None else {}
    if kind is None:  # specutils 1, whose spectral axis is the last one
        kind = specutils.Spectrum1D
        parts = {n: None if part is None else np.moveaxis(part, 0, -1) for n, part in parts.items()}
    variance = parts["variance"]
    return kind(
        flux=units.Quantity(parts["data"], _unit(cube) or units.dimensionless_unscaled),
        spectral_axis=units.Quantity(wavelength.values, unit),
        uncertainty=None if variance is None else VarianceUncertainty(variance),
        mask=parts["mask"],
        **where,
    )


def _parts(cube: xr.Dataset) -> dict[str, Any]:
    """Return the arrays of the data, of their variance or None, and of the mask."""
    data = physical(cube, DATA, None)
    mask = ~np.isfinite(data)
    if MASK in cube:
        mask = mask | (cube[MASK] > 0)
    variance = physical(cube, VARIANCE, None).data if VARIANCE in cube else None
    return {"data": data.data, "variance": variance, "mask": mask.data}


def _unit(cube: xr.Dataset) -> Any:
    """Return the unit of the data, or None if it is not stated or not known to astropy."""
    text = str(cube[DATA].attrs.get(UNITS, ""))
    return (unit_of(text, "fits") or unit_of(text, "generic")) if text else None


def _variance(uncertainty: Any) -> Any:
    """Return the variance of an uncertainty of `astropy.nddata`."""
    values = uncertainty.array
    if isinstance(uncertainty, VarianceUncertainty):
        return values.astype(np.float32)
    if isinstance(uncertainty, StdDevUncertainty):
        return np.square(values).astype(np.float32)
    if isinstance(uncertainty, InverseVariance):
        with np.errstate(divide="ignore"):
            return np.where(values > 0, 1 / values, np.nan).astype(np.float32)
    raise CubeError(
        f"{LABEL} has the uncertainty {type(uncertainty).__name__}; it must be a VarianceUncertainty, a "
        "StdDevUncertainty or an InverseVariance"
    )


def _column(wcs: WCS, *name: Any) -> Any:
    """Return the wavelengths that the coordinates have in a table."""
    return np.ravel(wcs.wcs.tab[0].coord)


def _package(name: str, function: str) -> Any:
    """Import a package that is not a dependency."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"{function} needs {name}: pip install 'lucidcube[bridges]'") from None
