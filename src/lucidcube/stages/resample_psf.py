"""Stage `resample_psf`: resample a PSF to the pixels of the target."""

from functools import partial
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from astropy.io import fits

from lucidcube.cube import DATA, HEADER, PRIMARY_HEADER, PSF_MODES, UNITS, VARIANCE, X, Y
from lucidcube.errors import CubeError
from lucidcube.io.wcs import centred_header, pixel_side
from lucidcube.kernels.psf import Doubles
from lucidcube.kernels.psf.resample import resample_psf
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Stage, parameter

FEWEST = 5
"""Smallest side of a resampled PSF in pixels."""
LARGEST = 10_000
"""Largest side of a resampled PSF in pixels."""
ONE_PIXEL = 0.9
"""Fraction of the light on one pixel above which a PSF is no blur."""


class ResamplePSF(Stage):
    """Resample a PSF to pixels of another size and orientation, about the same centre.

    New pixels that are larger integrate the PSF; in between it is a cubic spline. The result has odd sides
    and a sum of one. In a run, this stage is added to the track of the star where the headers of star and
    target differ. The variance and the modes of its error are dropped.
    """

    name: ClassVar[str] = "resample_psf"
    drops: ClassVar[tuple[str, ...]] = (VARIANCE, PSF_MODES)
    copies: ClassVar[float] = 3
    scratch: ClassVar[float] = 14
    tag: ClassVar[str] = "_resampled"

    scale: float = parameter(1.0, "", "side of a new pixel, in pixels of the given PSF", gt=0)
    rotation: float = parameter(
        0.0, "degrees", "angle from the x axis of the given PSF to that of the new one, towards its y axis"
    )
    mirror: bool = parameter(False, "", "whether the y axis of the new PSF points the other way")
    side: int | None = parameter(
        None, "pixel", "largest number of new pixels along each axis, odd; null holds the whole PSF", ge=1
    )

    def matrix(self) -> Doubles:
        """Return the steps (x, y) in pixels of the given PSF for steps along the new axes, as columns."""
        angle, sign = np.deg2rad(self.rotation), -1.0 if self.mirror else 1.0
        cosine, sine = np.cos(angle), np.sin(angle)
        return self.scale * np.array([[cosine, -sign * sine], [sine, sign * cosine]])

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        side = self._side(cube)
        kernel = partial(resample_psf, matrix=self._in_rows(), side=side)
        outputs = {DATA: Output(attrs={UNITS: ""})}
        made = over_planes(cube, self.name, kernel, [DATA], outputs, sizes={Y: side, X: side})
        kept = [n for n, v in cube.data_vars.items() if not {Y, X} & {*v.dims}]
        return xr.Dataset({n: cube[n] for n in kept} | made, cube.coords, self._attrs(cube, side))

    def check(self, cube: xr.Dataset) -> None:
        """Check that the PSF is a blur on the new pixels; see `Stage.check`."""
        side = self._side(cube)
        if side < FEWEST:
            raise CubeError(
                f"resample_psf: the PSF covers only {side} pixels of the target along each axis; is its "
                "pixel scale right?"
            )
        planes = cube[DATA].variable
        for index in (len(planes) // 2, 0, len(planes) - 1):
            plane = planes[index].values
            if np.nansum(plane) > 0:
                made = resample_psf(plane, self._in_rows(), side)
                if made.max() > ONE_PIXEL:
                    raise CubeError(
                        f"resample_psf: {made.max():.0%} of the light of the PSF falls on one pixel of the "
                        "target: there is no blur to remove; is the pixel scale of the PSF right?"
                    )
                return

    def _attrs(self, cube: xr.Dataset, side: int) -> dict[str, Any]:
        """Return the attributes of the new PSF, whose header states the new pixels."""
        attrs = dict(cube.attrs)
        old, primary = (
            fits.Header.fromstring(attrs.get(key, ""), sep="\n") for key in (HEADER, PRIMARY_HEADER)
        )
        if old:
            given = pixel_side(old, primary)
            new = centred_header(old, side, side, None if given is None else given * self.scale)
            attrs[HEADER] = new.tostring(sep="\n")
        return attrs

    def _in_rows(self) -> Doubles:
        """Return the matrix with y before x."""
        return np.ascontiguousarray(self.matrix()[::-1, ::-1])

    def _side(self, cube: xr.Dataset) -> int:
        """Return the side of the new PSF: odd, and not larger than the given one is."""
        with np.errstate(all="ignore"):
            reach = np.abs(np.linalg.inv(self.matrix())) @ np.array([cube.sizes[X], cube.sizes[Y]])
        if not reach.max() < LARGEST:  # not a number if the scale is too small to divide by
            raise CubeError(
                f"resample_psf: scale={self.scale:g} makes a PSF of more than {LARGEST} pixels along each "
                "axis; is the pixel scale of the PSF right?"
            )
        whole = int(np.ceil(reach.max() - 1e-6)) // 2 * 2 + 1
        most = whole if self.side is None else self.side - 1 + self.side % 2
        return min(whole, most)
