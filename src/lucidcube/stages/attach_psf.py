"""Attach the planes of the star's track to the target as its PSF."""

from typing import Any

import numpy as np
import xarray as xr

from lucidcube.cube import DATA, DIMS, PSF, PSF_MODES, PSF_PLANE, TRACK, UNITS, WAVELENGTH
from lucidcube.errors import CubeError

NOTE = "note"
"""Attribute of `psf` with a sentence for the user."""
INTERPOLATED = "the planes of the star are interpolated in wavelength to those of the target"
SAME_GRID = 0.01
"""Largest difference between the wavelengths of the tracks, as a fraction of a channel."""


def attach_psf(target: xr.Dataset, star: xr.Dataset) -> xr.Dataset:
    """Add the planes of the star's cube to the target's cube as its PSF.

    The result has the variable `psf` (wavelength, psf_y, psf_x), and `psf_modes` if the star has them. A star
    with a single plane is used for all planes. Planes at other wavelengths are interpolated linearly between
    neighbours, if they cover the range of the target; otherwise CubeError is raised. Modes are not
    interpolated, because their signs are arbitrary, but those of the nearest plane.
    """
    psf, attrs = star[DATA].variable, {TRACK: "star"}
    nearest: Any = slice(None)
    if psf.shape[0] == 1:
        nearest = np.zeros(target.sizes[WAVELENGTH], int)
        psf = xr.Variable(DIMS, psf.data).isel({WAVELENGTH: nearest})
    elif not _same_grid(target, star):
        psf, attrs = _interpolated(target, star), {NOTE: INTERPOLATED}
        nearest = np.abs(np.subtract.outer(*(c[WAVELENGTH].values for c in (target, star)))).argmin(axis=1)
    made = {PSF: xr.Variable((WAVELENGTH, *PSF_PLANE), psf.data, attrs, psf.encoding)}
    if PSF_MODES in star and star[PSF_MODES].shape[2:] == psf.shape[1:]:
        made[PSF_MODES] = star[PSF_MODES].variable.isel({WAVELENGTH: nearest})
    return target.assign(made)


def _same_grid(target: xr.Dataset, star: xr.Dataset) -> bool:
    """Return whether both have the same wavelengths; raise CubeError if the star does not cover them."""
    a, b = target[WAVELENGTH].values, star[WAVELENGTH].values
    unit, star_unit = (cube[WAVELENGTH].attrs.get(UNITS, "") for cube in (target, star))
    if a.size == 1:
        raise CubeError(
            f"the PSF: the target has one plane and the star {b.size} ({_range(b, star_unit)}): give one "
            "plane of the star, such as slice: '0:1'"
        )
    known = bool(np.isfinite(a).all() and np.isfinite(b).all()) and unit == star_unit
    if a.size == b.size:
        step = abs(np.median(np.diff(a)))
        apart = np.abs(a - b)[np.isfinite(a) & np.isfinite(b)]
        if unit == star_unit and (apart <= SAME_GRID * step).all():
            return True
    margin = SAME_GRID * abs(np.median(np.diff(b)))
    if known and b.min() - margin <= a.min() and a.max() <= b.max() + margin:
        return False
    raise CubeError(
        f"the PSF: the target has {a.size} wavelengths ({_range(a, unit)}) and the star {b.size} "
        f"({_range(b, star_unit)}), which do not cover them: {_overlap(a, b, unit)}"
    )


def _interpolated(target: xr.Dataset, star: xr.Dataset) -> xr.Variable:
    """Return the planes of the star at the wavelengths of the target, linear between its own.

    At the wavelength of a plane it is this plane alone, also where its neighbours are NaN.
    """
    a, b = target[WAVELENGTH].values, star[WAVELENGTH].values
    position = np.interp(a, np.sort(b), np.argsort(b).astype(float))
    nearest = np.rint(position)
    position = np.where(np.abs(position - nearest) <= SAME_GRID, nearest, position)
    low, high = np.floor(position).astype(int), np.ceil(position).astype(int)
    planes = star[DATA].variable
    low_planes, high_planes = (planes.isel({WAVELENGTH: index}).data for index in (low, high))
    share = (position - low).astype(np.float32)[:, None, None]
    return xr.Variable(DIMS, low_planes * (1 - share) + high_planes * share)


def _range(axis: np.ndarray, unit: str) -> str:
    return f"{axis[0]:.6g} to {axis[-1]:.6g} {unit}"


def _overlap(a: np.ndarray, b: np.ndarray, unit: str) -> str:
    low, high = max(a.min(), b.min()), min(a.max(), b.max())
    if not low <= high:
        return "they do not overlap; is this the right star?"
    return (
        f"give both inputs the range that they share, wave: '{low:.8g}:{high:.8g}{unit}', or rebin both alike"
    )
