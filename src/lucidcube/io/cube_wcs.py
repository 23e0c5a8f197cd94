"""World coordinates of a cube."""

import warnings

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from lucidcube.cube import DATA, DIMS, HEADER, WAVELENGTH, X, Y, require
from lucidcube.errors import CubeError
from lucidcube.io.header_cards import set_shape, shape_of
from lucidcube.io.headers import cube_header, described, spectral_axis
from lucidcube.io.spectral_cards import spectral_cards, wavelength_table
from lucidcube.io.wcs import celestial_cards, celestial_wcs

FRAME_CARDS = ("SPECSYS", "SSYSOBS", "VELOSYS", "RESTFRQ", "RESTWAV")
"""Cards of the reference frame of a spectral axis."""


def cube_wcs(cube: xr.Dataset) -> WCS:
    """Return the world coordinates of a cube: those of x and y, then the wavelength in SI units.

    Wavelengths that are neither linear nor logarithmic are in a table. Without sky coordinates, x and y are
    pixels. A cube without wavelengths, such as an image, has the two axes x and y only. CubeError is raised
    if the planes were cut, see `check_pixels`, or if there are no data with the dimensions of a cube.
    """
    require(cube, [DATA], "wcs")
    check_pixels(cube)
    cube = described(cube)
    header, wavelength = cube_header(cube), cube[WAVELENGTH]
    sky = sky_wcs(cube)
    cards = fits.Header() if sky is None else celestial_cards(header)
    shape = [cube.sizes[d] for d in DIMS]
    if not np.isfinite(wavelength.values).all() or not spectral_axis(cube):
        wcs = WCS(naxis=2) if sky is None else sky
        wcs.array_shape = shape[1:]
        return wcs
    set_shape(cards, shape)
    cards["WCSAXES"] = 3
    cards["CTYPE3"], cards["CUNIT3"] = str(wavelength.attrs["ctype"]), str(wavelength.attrs["units"])
    cards = spectral_cards(cards, wavelength.values, axis=3)
    for keyword in FRAME_CARDS:
        if keyword in header:
            cards[keyword] = header[keyword]
    table = wavelength_table(cards, wavelength.values, axis=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrections of dates and units by wcslib
        wcs = WCS(cards, fobj=fits.HDUList([fits.PrimaryHDU(), *([] if table is None else [table])]))
    wcs.array_shape = shape
    return wcs


def sky_wcs(cube: xr.Dataset) -> WCS | None:
    """Return the sky coordinates (x, y) of a cube, or None if its header has none."""
    text = cube.attrs.get(HEADER)
    try:
        return celestial_wcs(fits.Header.fromstring(text, sep="\n")) if text else None
    except CubeError:
        return None


def check_pixels(cube: xr.Dataset) -> None:
    """Raise CubeError if the planes have other sides than the header, so that its coordinates are wrong."""
    header = fits.Header.fromstring(cube.attrs.get(HEADER, ""), sep="\n")
    there = [n for n in shape_of(header) if n > 1]
    sides = [n for n in (cube.sizes[Y], cube.sizes[X]) if n > 1]
    if there and sides and there[-len(sides) :] != sides:
        raise CubeError(
            f"the planes have {cube.sizes[X]} x {cube.sizes[Y]} pixels, but the header describes "
            f"{there[-1]} x {there[-2] if len(there) > 1 else 1}: their coordinates are not known; to cut a "
            "cube, open a part of the file, such as open_cube('obs.fits[:,10:60,20:70]')"
        )
