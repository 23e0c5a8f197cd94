"""The accessor `lucid` of cubes: coordinates, spectra, files and figures.

It is registered with xarray when a name of `lucidcube` is first used. What needs time to import is imported
when it is called.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from lucidcube.cube import DATA

if TYPE_CHECKING:
    from astropy.wcs import WCS


@xr.register_dataset_accessor("lucid")  # type: ignore[no-untyped-call]
class LucidAccessor:
    """Methods of a cube, an `xarray.Dataset`, as ``cube.lucid.spectrum("disc.reg")``."""

    def __init__(self, cube: xr.Dataset) -> None:
        self._cube = cube

    @property
    def wcs(self) -> WCS:
        """World coordinates of the cube: those of x and y, then the wavelength in SI units.

        Without sky coordinates, x and y are pixels. An image has the two axes x and y only. CubeError is
        raised if the planes were cut after the cube was opened, so that their place on the sky is not known.

        Examples
        --------
        >>> import lucidcube as lc
        >>> cube = lc.open_cube("example_data/target.fits")
        >>> [str(name) for name in cube.lucid.wcs.world_axis_physical_types]
        ['pos.eq.ra', 'pos.eq.dec', 'em.wl;obs.atmos']
        """
        from lucidcube.io.cube_wcs import cube_wcs

        return cube_wcs(self._cube)

    def white_light(self) -> xr.DataArray:
        """Return the mean (y, x) of the planes, in the unit of the data; lazy if the cube is.

        A pixel is the mean of the planes in which it has data, and NaN if there are none.

        Examples
        --------
        >>> import lucidcube as lc
        >>> lc.open_cube("example_data/target.fits").lucid.white_light().shape
        (61, 61)
        """
        from lucidcube.api.spectrum import white_light

        return white_light(self._cube)

    def spectrum(self, region: Any = None, statistic: Literal["mean", "sum"] = "mean") -> xr.Dataset:
        """Return the spectrum of a region; lazy if the cube is.

        Parameters
        ----------
        region
            A region of the package `regions`, on the sky or in pixels counted from 0; the path of a DS9
            region file; a boolean array (y, x); or None for the whole field. A pixel counts if its centre is
            inside.
        statistic
            ``"mean"`` or ``"sum"`` of the pixels that have data. Where pixels are missing at some wavelengths
            only, the sum changes with their number, but the mean hardly does.

        Returns
        -------
        xarray.Dataset
            `data` (wavelength,) in the unit of the cube, NaN where no pixel has data; `pixels`, the number of
            those that have; and `variance`, if the cube has one. The noise of different pixels is taken as
            independent, or as correlated as the stage `noise` measured it. The variance is NaN where that of
            a pixel is not known. After `deconvolve` there is none, because it is that of the input.

        Raises
        ------
        CubeError
            If the region has no pixel or cannot be read, or if it is on the sky and the cube has no sky
            coordinates.

        Examples
        --------
        >>> import lucidcube as lc
        >>> from regions import CirclePixelRegion, PixCoord
        >>> cube = lc.open_cube("example_data/target.fits")
        >>> cube.lucid.spectrum(CirclePixelRegion(PixCoord(30, 30), 8)).data.dims
        ('wavelength',)
        """
        from lucidcube.api.spectrum import spectrum

        return spectrum(self._cube, region, statistic)

    def to_fits(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Compute the cube, write it as a FITS file block by block, and return its path.

        The cards of the header that the cube came with are kept, the wavelengths are updated, and the stages
        that were applied are added. All variables that lucidcube knows are written, the data first. The file
        gets its name when it is complete.

        Parameters
        ----------
        path
            The file to write; its folder is created if it does not exist.
        overwrite
            Whether to replace an existing file. The file that the cube was read from is never replaced.

        Raises
        ------
        UserError
            If the file exists, or cannot be written.
        StageError
            If a stage failed on a plane.

        Examples
        --------
        >>> import lucidcube as lc
        >>> cube = lc.open_cube("example_data/target.fits")
        >>> lc.Rebin(bin_step="2nm")(cube).lucid.to_fits("rebinned.fits").name
        'rebinned.fits'
        """
        from lucidcube.runner.cube_file import write_cube

        return write_cube(self._cube, path, overwrite=overwrite)

    def plot(
        self,
        wave: float | str | None = None,
        channel: int | None = None,
        *,
        variable: str = DATA,
        scale: Literal["asinh", "linear"] = "asinh",
        ax: Any = None,
    ) -> Any:
        """Draw a plane, or white light, and return the matplotlib axes.

        Parameters
        ----------
        wave
            Wavelength of the plane, in the unit of the axis or with a unit, such as ``"0.72um"``.
        channel
            Number of the plane, as in the coordinate `channel`. Without `wave` and `channel`, the mean of up
            to 64 planes is drawn.
        variable
            The variable to draw. A residual is drawn in standard deviations.
        scale
            Scale of fluxes: an inverse hyperbolic sine, which shows faint and bright parts, or linear.
        ax
            Axes to draw on; by default those of a new figure, with sky coordinates if the cube has them.

        Raises
        ------
        UserError
            If there is no such plane or variable.

        Examples
        --------
        >>> import lucidcube as lc
        >>> cube = lc.open_cube("example_data/target.fits")
        >>> ax = cube.lucid.plot(wave="0.72um")
        """
        from lucidcube.plotting.plane_axes import draw_plane

        return draw_plane(self._cube, wave, channel, variable, scale, ax)
