"""Attach the planes of the star's track to the target as its PSF."""

import numpy as np
import xarray as xr

from lucidcube.cube import DATA, DIMS, PSF, PSF_PLANE, TRACK, UNITS, WAVELENGTH
from lucidcube.errors import CubeError

SAME_GRID = 0.01
"""Largest difference between the wavelengths of the tracks, as a fraction of a channel."""


def attach_psf(target: xr.Dataset, star: xr.Dataset) -> xr.Dataset:
    """Add the planes of the star's cube to the target's cube as its PSF.

    The result has the variable `psf` (wavelength, psf_y, psf_x). A star with a single plane is used for all
    planes; CubeError is raised if the wavelengths differ otherwise.
    """
    psf = star[DATA].variable
    if psf.shape[0] == 1:
        psf = xr.Variable(DIMS, psf.data).isel({WAVELENGTH: np.zeros(target.sizes[WAVELENGTH], int)})
    else:
        _same_grid(target, star)
    attrs = {TRACK: "star"}
    return target.assign({PSF: xr.Variable((WAVELENGTH, *PSF_PLANE), psf.data, attrs, psf.encoding)})


def _same_grid(target: xr.Dataset, star: xr.Dataset) -> None:
    a, b = target[WAVELENGTH].values, star[WAVELENGTH].values
    unit, star_unit = (cube[WAVELENGTH].attrs.get(UNITS, "") for cube in (target, star))
    if a.size == 1:
        raise CubeError(
            f"the PSF: the target has one plane and the star {b.size} ({_range(b, star_unit)}): give one "
            "plane of the star, such as slice: '0:1'"
        )
    if a.size != b.size:
        raise CubeError(
            f"the PSF: the target has {a.size} wavelengths ({_range(a, unit)}) and the star {b.size} "
            f"({_range(b, unit)}): {_overlap(a, b, unit)}"
        )
    known = np.isfinite(a) & np.isfinite(b)
    step = abs(np.median(np.diff(a))) if a.size > 1 else abs(a[0])
    apart = np.abs(a - b)[known]
    if apart.size and apart.max() > SAME_GRID * step:
        raise CubeError(
            f"the PSF: the wavelengths of the target ({_range(a, unit)}) and of the star "
            f"({_range(b, unit)}) differ by up to {apart.max():.3g} {unit}: {_overlap(a, b, unit)}"
        )


def _range(axis: np.ndarray, unit: str) -> str:
    return f"{axis[0]:.6g} to {axis[-1]:.6g} {unit}"


def _overlap(a: np.ndarray, b: np.ndarray, unit: str) -> str:
    low, high = max(a.min(), b.min()), min(a.max(), b.max())
    if not low <= high:
        return "they do not overlap; is this the right star?"
    return (
        f"give both inputs the range that they share, wave: '{low:.8g}:{high:.8g}{unit}', or rebin both alike"
    )
