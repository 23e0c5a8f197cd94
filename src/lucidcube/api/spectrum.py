"""White light, and the spectra of regions."""

import os
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.cube import (
    DATA,
    HEADER,
    NOISE_WIDTH,
    PLANE,
    UNITS,
    VARIANCE,
    WAVELENGTH,
    X,
    Y,
    require,
    scale_exponent,
    stages_applied,
)
from lucidcube.errors import CubeError
from lucidcube.io.cube_wcs import check_pixels, sky_wcs

PIXELS = "pixels"
"""Variable of a spectrum: number of pixels of the region that have data."""
REACH = 4.0
"""Distance at which the Gaussian that correlates the noise ends, in units of its standard deviation."""


def white_light(cube: xr.Dataset) -> xr.DataArray:
    """Return the mean (y, x) of the planes, of those that have data in a pixel; NaN where none has."""
    require(cube, [DATA], "white_light")
    mean = physical(cube, DATA).mean(WAVELENGTH, skipna=True)
    return mean.rename("white_light").assign_attrs(cube[DATA].attrs)


def spectrum(cube: xr.Dataset, region: Any = None, statistic: Literal["mean", "sum"] = "mean") -> xr.Dataset:
    """Return the spectrum of a region; see `LucidAccessor.spectrum`."""
    require(cube, [DATA], "spectrum")
    if statistic not in ("mean", "sum"):
        raise CubeError(f"spectrum: statistic is {statistic!r}; it must be mean or sum")
    data = physical(cube, DATA)
    inside = xr.DataArray(region_of(cube, region), dims=PLANE) & np.isfinite(data)
    pixels = inside.sum(PLANE)
    known = pixels > 0
    weight = 1.0 / pixels.where(known) if statistic == "mean" else xr.ones_like(pixels, float).where(known)
    made = {DATA: data.where(inside, 0.0).sum(PLANE) * weight, PIXELS: pixels}
    if VARIANCE in cube and "deconvolve" not in stages_applied(cube):
        made[VARIANCE] = _variance_of_sum(cube, inside) * weight**2
    attrs = {name: cube[name].attrs for name in (DATA, VARIANCE) if name in made}
    result = xr.Dataset({name: values.assign_attrs(attrs.get(name, {})) for name, values in made.items()})
    coords = {name: c for name, c in cube.coords.items() if c.dims == (WAVELENGTH,)}
    return result.assign_coords(coords).assign_attrs(statistic=statistic)


def region_of(cube: xr.Dataset, region: Any) -> NDArray[np.bool_]:
    """Return the pixels (y, x) of a region of a cube.

    `region` is a region of the package `regions` on the sky or in pixels, the path of a DS9 region file, a
    boolean array (y, x), a boolean DataArray with the dimensions `y` and `x`, or None for all pixels. A pixel
    belongs to a region if its centre lies in it. CubeError is raised if the region needs sky coordinates that
    the cube does not have, if its shape or dimensions are not those of a plane, or if it has no pixels.
    """
    shape = (cube.sizes[Y], cube.sizes[X])
    if region is None:
        return np.ones(shape, np.bool_)
    if isinstance(region, xr.DataArray):
        if {*region.dims} != {Y, X}:
            raise CubeError(f"the region has the dimensions {region.dims}; they must be {PLANE}")
        region = region.transpose(Y, X).values
    if isinstance(region, np.ndarray):
        # Contiguous, because dask gives a square array and its transposed view the same token.
        inside = np.ascontiguousarray(region)
        if inside.shape != shape or inside.dtype != np.bool_:
            raise CubeError(f"the region is an array of {inside.dtype} of the shape {inside.shape}; it must "
                            f"be boolean, of the shape {shape} of a plane")  # fmt: skip
    else:
        inside = _drawn(cube, region, shape)
    if not inside.any():
        raise CubeError("the region has no pixel of the cube; are its coordinates right?")
    return inside


def _drawn(cube: xr.Dataset, region: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of a region that is drawn on the sky or in pixels, or in a file."""
    import regions  # imported here, as below, because it takes 0.3 s

    wcs = sky_wcs(cube)
    if isinstance(region, (str, os.PathLike)):
        from lucidcube.io.regions import const_regions

        header = fits.Header.fromstring(cube.attrs.get(HEADER, ""), sep="\n")
        (group,) = const_regions([os.fspath(region)], wcs=wcs, header=header)
        if wcs is not None:
            check_pixels(cube)
        return group.mask(0.0, shape)
    if isinstance(region, regions.SkyRegion):
        if wcs is None:
            raise CubeError(
                "the region is on the sky, but the cube has no sky coordinates: give it in pixels"
            )
        check_pixels(cube)
        region = region.to_pixel(wcs)
    if not isinstance(region, regions.PixelRegion):
        raise CubeError(
            f"{type(region).__name__} is no region: give one of the package regions, the path of a DS9 "
            "file, or a boolean array (y, x)"
        )
    y, x = np.indices(shape)
    return np.asarray(region.contains(regions.PixCoord(x, y)), np.bool_)


def physical(cube: xr.Dataset, name: str, dtype: Any = np.float64) -> xr.DataArray:
    """Return a variable in the unit of the file, with infinities as NaN; lazy if it is.

    The result has the given type; with None, that of the variable, unless the reader scaled it for float32.
    """
    exponent = scale_exponent(cube, name)
    values = cube[name].astype(np.float64 if exponent else dtype or cube[name].dtype)
    values = values * 2.0**-exponent if exponent else values
    return values.where(np.isfinite(values)).assign_attrs({UNITS: cube[name].attrs.get(UNITS, "")})


def _variance_of_sum(cube: xr.Dataset, inside: xr.DataArray) -> xr.DataArray:
    """Return the variance of a sum of pixels; their noise is correlated as the stage `noise` measured it."""
    variance = physical(cube, VARIANCE)
    if NOISE_WIDTH not in cube:
        return variance.where(inside, 0.0).sum(PLANE, skipna=False)
    summed = xr.apply_ufunc(
        _correlated,
        (variance**0.5).where(inside, 0.0),
        cube[NOISE_WIDTH],
        input_core_dims=[PLANE, ()],
        vectorize=True,
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    made: xr.DataArray = summed
    return made


def _correlated(sigma: NDArray[np.float64], width: float) -> float:
    """Return the variance of a sum of pixels with standard deviations (y, x).

    The noise is white noise that was smoothed by a Gaussian of this standard deviation: the sum is one of the
    white noise, with weights that are smoothed alike.
    """
    if not width > 0:
        return float(np.square(sigma).sum())
    from scipy.ndimage import gaussian_filter

    reach = int(np.ceil(REACH * width)) + 1
    point = np.zeros((2 * reach + 1, 2 * reach + 1))
    point[reach, reach] = 1.0
    weights, alone = (gaussian_filter(a, width, mode="constant") for a in (np.pad(sigma, reach), point))
    return float(np.square(weights).sum() / np.square(alone).sum())
