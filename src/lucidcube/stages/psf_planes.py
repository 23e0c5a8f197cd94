"""Check the planes of a PSF, for the stages that need one."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from lucidcube.cube import CHANNEL, PSF, UNITS, WAVELENGTH, describe_planes
from lucidcube.errors import CubeError
from lucidcube.kernels.deconvolution.common import check_psf
from lucidcube.lift.lazy_arrays import source_of


def usable_psf(psf: np.ndarray, where: str = "") -> np.ndarray:
    """Return a PSF (psf_y, psf_x) with NaN replaced by zero; at least one pixel must be finite.

    CubeError, whose message begins with `where`, is raised if it is even, off centre, or of another sum than
    one.
    """
    psf = np.where(np.isfinite(psf), psf, np.float32(0))
    try:
        check_psf(psf)
    except ValueError as error:
        raise CubeError(f"{where}{error} (put normalise_psf or fit_psf into the star's stages)") from error
    return psf


def check_psf_planes(cube: xr.Dataset, stage: str) -> None:
    """Check every plane of the PSF of a cube.

    Raises
    ------
    CubeError
        If a plane is not a PSF, or if there is none at all. The message names the stage and the plane.
    """
    unit, known = str(cube[WAVELENGTH].attrs.get(UNITS, "")), False
    for index, psf in enumerate(_planes(cube[PSF].variable)):
        here = slice(index, index + 1)
        if np.isfinite(psf).any():
            where = describe_planes(cube[CHANNEL].values[here], cube[WAVELENGTH].values[here], unit)
            usable_psf(psf, f"{stage}, {where}: ")
            known = True
    if not known:
        raise CubeError(
            f"{stage}: the PSF is NaN at all wavelengths, because the star has no data or cannot be fitted; "
            "is it a star, and not saturated?"
        )


def _planes(variable: xr.Variable) -> Iterator[np.ndarray]:
    """Yield the planes one by one: read from the source, for which dask would take longer, or by blocks."""
    source = source_of(variable)
    if source is not None:
        for index in range(variable.shape[0]):
            yield np.asarray(source[index : index + 1])[0]
        return
    first = 0
    for size in variable.chunks[0] if variable.chunks else (variable.shape[0],):
        yield from np.asarray(variable[first : first + size])
        first += size


def middle_plane(data: np.ndarray, psf: np.ndarray) -> int | None:
    """Return the number of the plane with data and a PSF that is nearest to the middle; None without any."""
    usable = [i for i in range(len(data)) if np.isfinite(psf[i]).any() and np.isfinite(data[i]).any()]
    return min(usable, key=lambda i: abs(i - len(data) // 2), default=None)
