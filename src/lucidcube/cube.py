"""The vocabulary: the definition of a cube, and the names of its variables, dimensions and attributes.

A cube is a plain `xarray.Dataset` with the dimensions (`wavelength`, `y`, `x`), coordinates in memory, and
data in dask arrays chunked by whole planes, or in NumPy arrays if it is small. There is no subclass: any
xarray code works on it. The accessor `lucid`, see `lucidcube.api.accessor`, adds coordinates, spectra, files
and figures.
"""

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
MODE = "mode"
"""Dimension of the principal components of the uncertainty of a PSF."""
PARAMETER = "parameter"
"""Dimension of the fitted parameters of a PSF model."""

CHANNEL = "channel"
"""Coordinate along `wavelength`: number of the plane in the input file, or on the grid of rebinning."""

DATA = "data"
VARIANCE = "variance"
BADNESS = "badness"
AMPLITUDE = "amplitude"
MASK = "mask"
FILLED = "filled"
RESIDUAL = "residual"
RESTORED = "restored"
POINTS = "points"
MODEL = "model"
ERROR = "error"
BIAS = "bias"
PSF = "psf"
PSF_MODES = "psf_modes"
NOISE_FACTOR = "noise_factor"
NOISE_WIDTH = "noise_width"
BROADENING = "broadening"

# Attributes of the Dataset
SOURCE = "source"
HEADER = "header"
PRIMARY_HEADER = "primary_header"
BITPIX = "bitpix"
SCALE_EXPONENT = "scale_exponent"
HISTORY = "history"

# Attributes of variables
UNITS = "units"
SMOOTHING = "smoothing"
"""Attribute of errors: standard deviation, in pixels, of the Gaussian under which the data have them."""
RESOLUTION = "resolution"
"""Full width at half maximum, in pixels, of the Gaussian PSF with which a variable shows the object."""
TRACK = "track"
"""Attribute of `psf`: the track that made it, if that is the star's."""


class Variable(NamedTuple):
    """The description of a variable of a cube.

    Attributes
    ----------
    dims
        Dimensions, wavelength first.
    flux_power
        Power of the flux that the values are proportional to: 1 for the data, 2 for the variance, else 0.
    meaning
        Short description.
    """

    dims: tuple[str, ...]
    flux_power: int
    meaning: str


VARIABLES: Mapping[str, Variable] = {
    DATA: Variable(DIMS, 1, "main product of the previous stage: flux; NaN where there is no data"),
    VARIANCE: Variable(DIMS, 2, "variance of the data"),
    BADNESS: Variable(DIMS, 0, "artefact score: deviation from what is expected, in standard deviations"),
    AMPLITUDE: Variable(DIMS, 0, "score of extended artefacts, smoothed by one pixel"),
    MASK: Variable(DIMS, 0, "1 where a pixel is an artefact, 2 where it belongs to its faint surroundings"),
    FILLED: Variable(DIMS, 0, "1 where a marked pixel was replaced, 2 where a hole was filled, 3 predicted"),
    RESIDUAL: Variable(DIMS, 1, "input minus model of the last stage with a model"),
    RESTORED: Variable(DIMS, 1, "components under a clean beam plus the residual"),
    POINTS: Variable(DIMS, 1, "point sources: the part of the components that is not smooth"),
    MODEL: Variable(DIMS, 1, "object convolved with the PSF, with light from beyond the frame"),
    ERROR: Variable(DIMS, 1, "standard error of the components at the stated resolution"),
    BIAS: Variable(DIMS, 1, "expected deviation of the components from the object at that resolution"),
    PSF: Variable((WAVELENGTH, *PSF_PLANE), 0, "point spread function, centred, with unit sum"),
    PSF_MODES: Variable(
        (WAVELENGTH, MODE, *PSF_PLANE),
        0,
        "principal components of the error of the PSF, of one sigma and sum zero",
    ),
    NOISE_FACTOR: Variable(
        (WAVELENGTH,), 0, "number by which the variance was multiplied; NaN where unknown"
    ),
    NOISE_WIDTH: Variable((WAVELENGTH,), 0, "standard deviation of the Gaussian that correlates the noise"),
    BROADENING: Variable(
        (WAVELENGTH,), 0, "full width at half maximum of the Gaussian that broadens the PSF"
    ),
    "cut": Variable((WAVELENGTH,), 0, "artefact score from which a pixel of the plane is an artefact"),
    "outlier": Variable(DIMS, 0, "1 where a pixel of the star was rejected as an outlier"),
    "background": Variable(DIMS, 0, "1 where the background of the star was measured"),
    "star_region": Variable(DIMS, 0, "1 where the star's centre of mass was measured"),
    "offset_y": Variable((WAVELENGTH,), 0, "shift of the star along y in pixels"),
    "offset_x": Variable((WAVELENGTH,), 0, "shift of the star along x in pixels"),
    "background_level": Variable((WAVELENGTH,), 1, "background that was subtracted from the star"),
    "total": Variable((WAVELENGTH,), 1, "sum of the star by which it was divided"),
    "fit_value": Variable((WAVELENGTH, PARAMETER), 0, "fitted parameters of the PSF model"),
    "fit_error": Variable(
        (WAVELENGTH, PARAMETER), 0, "standard errors of the fitted parameters; NaN where unknown"
    ),
    "reduced_chi2": Variable((WAVELENGTH,), 0, "chi squared of the fit per degree of freedom"),
    "fit_status": Variable((WAVELENGTH,), 0, "status of the fit"),
    "iterations": Variable((WAVELENGTH,), 0, "number of iterations of the deconvolution"),
    "stop_reason": Variable((WAVELENGTH,), 0, "reason why the deconvolution stopped"),
    "fabs": Variable((WAVELENGTH,), 1, "largest absolute residual"),
    "rms": Variable((WAVELENGTH,), 1, "root mean square residual"),
    "flux_in": Variable((WAVELENGTH,), 1, "sum of the input plane"),
    "flux_out": Variable((WAVELENGTH,), 1, "sum of the components"),
    "chi2": Variable((WAVELENGTH,), 0, "mean of the squared residual divided by the variance"),
    "chi2_bright": Variable(
        (WAVELENGTH,), 0, "chi2 of pixels above three sigma, at most 25 each: compared with chi2_target"
    ),
    "residual_structure": Variable(
        (WAVELENGTH,), 0, "rms of the smoothed residual of the object relative to that of smoothed noise"
    ),
}
"""Every variable that a stage may read or write, by name."""

STAR_NUMBERS = ("offset_y", "offset_x", "background_level", "total")
"""Numbers per plane that the normalisation of the star gives."""

FIT_RESULTS = ("fit_value", "fit_error", "reduced_chi2", "fit_status")
"""Numbers per plane that the fit of a PSF model gives."""

DECONVOLUTION_LOG = (
    "iterations",
    "stop_reason",
    "fabs",
    "rms",
    "flux_in",
    "flux_out",
    "chi2",
    "chi2_bright",
    "residual_structure",
)
"""Numbers per plane that a deconvolution gives."""


PSF_STAGES = ("model_psf", "normalise_psf", "fit_psf", "resample_psf")
"""Stages after which the data of a star are the PSF."""


def stages_applied(cube: xr.Dataset) -> list[str]:
    """Return the names of the stages that were applied to a cube, in order."""
    return [entry["stage"] for entry in cube.attrs.get(HISTORY, [])]


def is_psf(cube: xr.Dataset) -> bool:
    """Return whether the data of a cube are a PSF, as those of a star after its stages."""
    return PSF not in cube and not set(PSF_STAGES).isdisjoint(stages_applied(cube))


def scale_exponent(cube: xr.Dataset, variable: str = DATA) -> int:
    """Return the power of two by which a variable of a cube is multiplied, compared with its file."""
    power = VARIABLES[variable].flux_power if variable in VARIABLES else 0
    return int(cube.attrs.get(SCALE_EXPONENT, 0)) * power


def require(cube: xr.Dataset, variables: Iterable[str], by: str) -> None:
    """Check that a cube has the variables that a stage needs, with their dimensions in the right order.

    `by` is the name of the stage for the message of the CubeError that is raised otherwise.
    """
    for name in variables:
        if name not in cube.variables:
            present = ", ".join(str(v) for v in cube.data_vars) or "nothing"
            raise CubeError(f"{by} needs the variable {name!r} ({_meaning(name)}); this cube has {present}")
        wanted = VARIABLES[name].dims if name in VARIABLES else None
        if wanted is not None and cube[name].dims != wanted:
            raise CubeError(f"{by}: {name!r} has the dimensions {cube[name].dims}; they must be {wanted}")


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
    """Make a cube from NumPy arrays, or from dask arrays, which remain lazy.

    `data` in `units` is an array (wavelength, y, x) or (y, x), NaN where there is no data, and `variance` one
    of the same shape. `wavelength` holds the positions (wavelength,) of the channels in `wavelength_units`:
    ``m``, ``Hz`` or ``m/s``; it is NaN for an image. Another number of them than of planes raises CubeError.

    Examples
    --------
    >>> import numpy as np
    >>> import lucidcube as lc
    >>> cube = lc.from_arrays(np.ones((2, 30, 40), np.float32), [5.0e-7, 5.1e-7])
    >>> dict(cube.sizes)
    {'wavelength': 2, 'y': 30, 'x': 40}
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
    """Return the number of planes in each block of the lazy data or, failing that, of another variable."""
    for name in (DATA, *cube.data_vars):
        if name in cube.data_vars and cube[name].dims[:1] == (WAVELENGTH,) and cube[name].chunks:
            return tuple(cube[name].chunks[0])
    return (cube.sizes[WAVELENGTH],)


def describe_planes(channel: np.ndarray, wavelength: np.ndarray, units: str) -> str:
    """Describe a range of planes: ``planes 3 to 5 (7.051e-07 to 7.053e-07 m)``."""
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
