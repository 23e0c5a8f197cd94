"""Look at the inputs before a run: has the star what its stages expect, and is it the star?"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lucidcube.cube import DATA, WAVELENGTH, scale_exponent
from lucidcube.errors import CubeError
from lucidcube.kernels.psf.star_shape import source_width, star_shape
from lucidcube.lift.lazy_arrays import source_of
from lucidcube.stages.base import Stage
from lucidcube.stages.lengths import pixel_side

NORMALISING = ("normalise_psf", "fit_psf", "resample_psf")
"""Stages whose result has a sum of one."""
PLANES = 7
"""Number of planes that are looked at."""
LARGER = 3.0
"""Width of the star in widths of the target from which the inputs may be swapped."""
SUM_TOLERANCE = 0.05
"""Largest difference between the sum of a plane and 1 for a star that counts as normalised."""


def swapped(target: xr.Dataset, star: xr.Dataset) -> str | None:
    """Return a warning if the target looks like a point, and the star is much larger; else None.

    The brightest source in the median of some planes is measured in each cube, so that artefacts of single
    planes do not count. Pixels are compared by their angles where both headers state them.
    """
    point, disc = _median(target), _median(star)
    shape, across, width = star_shape(point), source_width(disc), source_width(point)
    if not shape.flatness > 0 or shape.extended or across * _relative_side(star, target) < LARGER * width:
        return None
    return (
        f"the brightest source of the target looks like a point {width:.2g} pixels wide, and that of the "
        f"star is {across:.2g} pixels wide: are the two inputs swapped?"
    )


def unfit(stages: Sequence[Stage], star: xr.Dataset) -> tuple[str, bool] | None:
    """Return what is wrong with a star that its stages do not normalise, and whether a run must fail.

    The result is None if a stage makes a PSF of the star, or if the planes of the star have a sum of one.
    """
    if not stages:
        return None  # a PSF, which is checked with the stages that need it
    first = next((stage for stage in stages if stage.name in NORMALISING), None)
    if first is not None and not first.prepared_by:
        return None
    sums = [float(np.nansum(plane)) for plane in _planes(star) if np.isfinite(plane).any()]
    if not sums or all(abs(total - 1) < SUM_TOLERANCE for total in sums):
        return None
    found = f"the planes of the star have sums like {sums[0]:.4g} and not 1"
    if first is None:
        return f"no stage makes a PSF of it, and {found}: add fit_psf to its stages", True
    before = " or ".join(first.prepared_by)
    return f"{first.name} expects the result of {before}, but {found}: put {before} before it", False


def _planes(cube: xr.Dataset) -> np.ndarray:
    """Return some planes (plane, y, x) in the unit of the file."""
    count, variable = cube.sizes[WAVELENGTH], cube[DATA].variable
    places = sorted({int(count * (number + 0.5) / PLANES) for number in range(PLANES)})
    source = source_of(variable)  # without dask, which would compute whole blocks
    read = variable if source is None else source
    planes = np.stack([np.asarray(read[place : place + 1])[0] for place in places]).astype(np.float64)
    return np.ldexp(planes, -scale_exponent(cube))


def _median(cube: xr.Dataset) -> np.ndarray:
    """Return the median of some planes, NaN where they have no data."""
    planes = _planes(cube)
    missing = ~np.isfinite(planes)
    nowhere = missing.all(axis=0)
    planes[missing & ~nowhere] = np.nan
    planes[:, nowhere] = 0
    return np.where(nowhere, np.nan, np.nanmedian(planes, axis=0))


def _relative_side(star: xr.Dataset, target: xr.Dataset) -> float:
    """Return the side of the pixels of the star in those of the target; 1 if a header does not state it."""
    try:
        return pixel_side(star) / pixel_side(target)
    except CubeError:
        return 1.0
