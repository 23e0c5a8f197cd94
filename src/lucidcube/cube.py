"""The vocabulary: what a cube is, and the names of everything in it.

A cube is a plain `xarray.Dataset` with dims (`wavelength`, `y`, `x`), coordinates in memory and
data in dask arrays chunked by whole planes (or plain NumPy arrays, for small work). There is no
subclass and no accessor: any xarray code works on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lucidcube.errors import CubeError

WAVELENGTH, Y, X = "wavelength", "y", "x"
PLANE = (Y, X)
DIMS = (WAVELENGTH, Y, X)
PSF_PLANE = ("psf_y", "psf_x")
PARAMETER = "parameter"
"""Dimension of the fitted parameters of a PSF model."""

CHANNEL = "channel"
"""Coordinate on `wavelength`: number of the plane, in the input file or on the grid made by rebinning."""

DATA = "data"
VARIANCE = "variance"
BADNESS = "badness"
MASK = "mask"
FILLED = "filled"
RESIDUAL = "residual"
PSF = "psf"

# attrs of the Dataset
SOURCE = "source"
HEADER = "header"
PRIMARY_HEADER = "primary_header"
BITPIX = "bitpix"
SCALE_EXPONENT = "scale_exponent"
HISTORY = "history"

UNITS = "units"


class Variable(NamedTuple):
    """What a variable of a cube is.

    Attributes
    ----------
    dims
        Its dimensions, wavelength first.
    flux_power
        How its numbers scale with the flux: 1 for the data, 2 for their variance, 0 for the rest.
    meaning
        One sentence.
    """

    dims: tuple[str, ...]
    flux_power: int
    meaning: str


VARIABLES: Mapping[str, Variable] = {
    DATA: Variable(DIMS, 1, "the main product of the stage before: flux; NaN where there is no data"),
    VARIANCE: Variable(DIMS, 2, "variance of the data"),
    BADNESS: Variable(DIMS, 0, "standard deviations by which the fine structure stands out"),
    MASK: Variable(DIMS, 0, "1 where a pixel is an artefact"),
    FILLED: Variable(DIMS, 0, "1 where the data were interpolated and deserve no weight"),
    RESIDUAL: Variable(DIMS, 1, "input minus model of the last stage that has a model"),
    PSF: Variable((WAVELENGTH, *PSF_PLANE), 0, "point spread function, unit sum, centred"),
    "cut": Variable((WAVELENGTH,), 0, "badness from which a pixel of the plane is an artefact"),
    "outlier": Variable(DIMS, 0, "1 where a pixel of the star's plane was thrown out as an outlier"),
    "background": Variable(DIMS, 0, "1 where the background of the star was measured"),
    "star_region": Variable(DIMS, 0, "1 where the star's centre of mass was measured"),
    "offset_y": Variable((WAVELENGTH,), 0, "pixels by which the star was moved along y"),
    "offset_x": Variable((WAVELENGTH,), 0, "pixels by which the star was moved along x"),
    "background_level": Variable((WAVELENGTH,), 1, "background that was subtracted from the star"),
    "total": Variable((WAVELENGTH,), 1, "sum of the star that was divided out"),
    "fit_value": Variable((WAVELENGTH, PARAMETER), 0, "fitted parameters of the PSF model"),
    "fit_error": Variable((WAVELENGTH, PARAMETER), 0, "their standard errors; NaN where unknown"),
    "reduced_chi2": Variable((WAVELENGTH,), 0, "chi squared of the fit per degree of freedom"),
    "fit_status": Variable((WAVELENGTH,), 0, "how the fit ended"),
    "iterations": Variable((WAVELENGTH,), 0, "iterations of the deconvolution"),
    "stop_reason": Variable((WAVELENGTH,), 0, "why the deconvolution stopped"),
    "fabs": Variable((WAVELENGTH,), 1, "largest absolute residual"),
    "rms": Variable((WAVELENGTH,), 1, "root mean square residual"),
    "flux_in": Variable((WAVELENGTH,), 1, "sum of the plane that went in"),
    "flux_out": Variable((WAVELENGTH,), 1, "sum of the components"),
    "chi2": Variable((WAVELENGTH,), 0, "mean squared residual over the variance"),
}
"""Every variable that a stage may read or write, by name."""


def require(cube: xr.Dataset, variables: Iterable[str], by: str) -> None:
    """Check that a Dataset is a cube and has what a stage needs.

    Parameters
    ----------
    cube
        Any Dataset.
    variables
        Names that must be in it.
    by
        Who asks, for the message.

    Raises
    ------
    CubeError
        If a dimension or a variable is missing, or the dimensions are in another order.
    """
    for name in variables:
        if name not in cube.variables:
            present = ", ".join(str(v) for v in cube.data_vars) or "nothing"
            raise CubeError(f"{by} needs the variable {name!r} ({_meaning(name)}); this cube has {present}")
        wanted = VARIABLES[name].dims if name in VARIABLES else None
        if wanted is not None and cube[name].dims != wanted:
            raise CubeError(f"{by}: {name!r} has dimensions {cube[name].dims}; they must be {wanted}")


def _meaning(name: str) -> str:
    return VARIABLES[name].meaning if name in VARIABLES else "unknown to lucidcube"


def from_arrays(
    data: Any,
    wavelength: Any,
    *,
    variance: Any = None,
    units: str = "",
    wavelength_units: str = "m",
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Make a cube of arrays.

    Parameters
    ----------
    data
        (wavelength, y, x) or (y, x); NumPy or dask; NaN where there is no data.
    wavelength
        (wavelength,) positions of the channels, in `wavelength_units`.
    variance
        As `data`.
    units
        Of the data.
    wavelength_units
        SI unit of the spectral axis: ``m``, ``Hz`` or ``m/s``.
    attrs
        Of the Dataset.

    Returns
    -------
    xarray.Dataset
        The cube; dask data stay lazy.
    """
    if data.ndim == 2:
        data = data[None]
        variance = None if variance is None else variance[None]
    wavelength = np.atleast_1d(np.asarray(wavelength, float))
    if wavelength.shape != data.shape[:1]:
        raise CubeError(f"{data.shape[0]} planes, but {wavelength.size} wavelengths")
    cube = xr.Dataset(
        {DATA: (DIMS, data, {UNITS: units})},
        coords={
            WAVELENGTH: (WAVELENGTH, wavelength, {UNITS: wavelength_units}),
            CHANNEL: (WAVELENGTH, np.arange(wavelength.size)),
        },
        attrs=dict(attrs or {}),
    )
    if variance is not None:
        cube[VARIANCE] = (DIMS, variance, {UNITS: f"({units})**2" if units else ""})
    return cube


def block_sizes(cube: xr.Dataset) -> tuple[int, ...]:
    """Planes in each block of the cube's lazy variables, the data first; one block if none is lazy."""
    for name in (DATA, *cube.data_vars):
        if name in cube.data_vars and cube[name].dims[:1] == (WAVELENGTH,) and cube[name].chunks:
            return tuple(cube[name].chunks[0])
    return (cube.sizes[WAVELENGTH],)


def describe_planes(channel: np.ndarray, wavelength: np.ndarray, units: str) -> str:
    """Name a run of planes in words: ``planes 3 to 5 (7.051e-07 to 7.053e-07 m)``."""
    if not np.isfinite(wavelength).all():
        return f"plane {channel[0]}" if len(channel) == 1 else f"planes {channel[0]} to {channel[-1]}"
    if len(channel) == 1:
        return f"plane {channel[0]} ({wavelength[0]:.6g} {units})"
    return f"planes {channel[0]} to {channel[-1]} ({wavelength[0]:.6g} to {wavelength[-1]:.6g} {units})"


def describe_blocks(cube: xr.Dataset) -> Callable[[int], str]:
    """Return a function that describes the planes of a block, given its number; see `describe_planes`."""
    ends = [*accumulate(block_sizes(cube))]
    units = str(cube[WAVELENGTH].attrs.get(UNITS, "m"))

    def describe(block: int) -> str:
        planes = slice(ends[block - 1] if block else 0, ends[block])
        return describe_planes(cube[CHANNEL].values[planes], cube[WAVELENGTH].values[planes], units)

    return describe
