"""Stages that take a PSF as their second argument."""

import logging
from collections.abc import Callable

import xarray as xr

from lucidcube.cube import (
    DATA,
    DIMS,
    HISTORY,
    PSF,
    PSF_MODES,
    TRACK,
    VARIABLES,
    WAVELENGTH,
    require,
    stages_applied,
)
from lucidcube.errors import CubeError
from lucidcube.stages.attach_psf import attach_psf
from lucidcube.stages.base import Stage
from lucidcube.stages.match_psf import match_psf
from lucidcube.stages.psf_planes import check_psf_planes

_log = logging.getLogger(__name__)


class StageWithPSF(Stage):
    """Base class of the stages of which at least one variant requires a PSF."""

    def __call__(self, cube: xr.Dataset, psf: xr.Dataset | None = None) -> xr.Dataset:
        """Apply the stage to a cube, with a PSF; nothing is computed if the data are dask arrays.

        Parameters
        ----------
        cube
            The cube. It may have the variable `psf`, from an earlier stage or call.
        psf
            Cube of the PSF, from a file, a formula or the stages of a star; see `with_psf`. It replaces the
            PSF that the cube has. A PSF without a history, such as one from a file, is checked now: each of
            its planes must be centred and have a sum of one.

        Raises
        ------
        CubeError
            If there is no PSF and the stage requires one, if the PSF does not suit the cube, if a variable is
            missing, or if the grid of the cube does not suit the parameters.
        """
        if psf is not None:
            psf = _cube_of_psf(psf)
            made = bool(psf.attrs.get(HISTORY))
            cube = with_psf(cube, psf, observed=made)
            if not made:
                check_psf_planes(cube, self.name)
        elif PSF in self.requires and PSF not in cube:
            raise CubeError(
                f"{self.name} needs the variable 'psf' ({VARIABLES[PSF].meaning}): give a PSF as the second "
                "argument, such as lucidcube.moffat_psf(cube, fwhm=3)"
            )
        return super().__call__(cube)


def with_psf(
    cube: xr.Dataset, psf: xr.Dataset, *, observed: bool, message: Callable[[str], None] = _log.info
) -> xr.Dataset:
    """Add a PSF to a cube, on the pixels and at the wavelengths of the cube; nothing is computed.

    `psf` is a cube whose data are the PSF, or which has the variable `psf`. It is resampled where the headers
    state other pixels, see `match_psf` for `observed`, and interpolated in wavelength, see `attach_psf`. The
    PSF and the modes of its error that the cube has are replaced. `message` is called with a sentence where
    the PSF is resampled. CubeError is raised if the PSF cannot be used.
    """
    star = _cube_of_psf(psf)
    if "resample_psf" not in stages_applied(star):
        match = match_psf(star, cube, observed=observed)
        if match.text:
            message(match.text)
        if match.stage is not None:
            if not observed:
                match.stage.check(star)
            star = match.stage(star)
    made = attach_psf(cube.drop_vars([PSF, PSF_MODES], errors="ignore"), star)
    made[PSF].attrs.pop(TRACK, None)
    return made


def _cube_of_psf(psf: xr.Dataset) -> xr.Dataset:
    """Return a cube whose data are the PSF."""
    if not isinstance(psf, xr.Dataset):
        raise CubeError(
            f"the PSF is {type(psf).__name__} and no cube: open a file with lucidcube.open_cube, or make a "
            "cube with lucidcube.from_arrays(psf, wavelength)"
        )
    if PSF not in psf:
        require(psf, [DATA], "the PSF")
        return psf
    made = {DATA: (DIMS, psf[PSF].data)} | ({PSF_MODES: psf[PSF_MODES]} if PSF_MODES in psf else {})
    return xr.Dataset(made, {WAVELENGTH: psf[WAVELENGTH]}, psf.attrs)
