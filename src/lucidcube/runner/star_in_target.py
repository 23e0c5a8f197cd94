"""Cut a star out of the cube of the target."""

import math

import xarray as xr
from astropy.io import fits

from lucidcube.config.star import Place
from lucidcube.cube import HEADER, X, Y
from lucidcube.errors import CubeError
from lucidcube.io.reader import part_of
from lucidcube.io.wcs import pixel_of
from lucidcube.stages.lengths import in_pixels, pixel_side

SMALLEST = 5.0
"""Smallest radius in pixels around a star from which a PSF can be made."""


def star_in_target(cube: xr.Dataset, place: Place) -> xr.Dataset:
    """Return the square around a star in a cube from `open_cube`, as far as it is inside the frame.

    CubeError is raised if the star is outside of the frame, if the square is too small or is no part of the
    frame, and if angles are given but the header has no sky coordinates.
    """
    sizes = {"x": cube.sizes[X], "y": cube.sizes[Y]}
    position = dict(zip("xy", _position(cube, place), strict=True))
    for name, value in position.items():
        if not -0.5 <= value < sizes[name] - 0.5:
            raise CubeError(
                f"{name}: the star at {value:.6g} is outside of the target, whose pixels are 0 to "
                f"{sizes[name] - 1} along {name}"
            )
    radius = in_pixels(place.radius, pixel_side(cube) if isinstance(place.radius, str) else None)
    if radius < SMALLEST:
        raise CubeError(
            f"radius: {radius:.3g} pixels are too few to see the wings of a star; give at least {SMALLEST:g}"
        )
    if 2 * radius >= max(sizes.values()):
        raise CubeError(
            f"radius: {radius:.4g} pixels reach across the target, which has {sizes['x']} x {sizes['y']} "
            "pixels (x y); give a radius that holds the star alone"
        )
    rows, columns = (_around(position[name], radius, sizes[name]) for name in "yx")
    return part_of(cube, rows, columns)


def _position(cube: xr.Dataset, place: Place) -> tuple[float, float]:
    """Return the position (x, y) in pixels."""
    if isinstance(place.x, str) and isinstance(place.y, str):
        return pixel_of(fits.Header.fromstring(cube.attrs[HEADER], sep="\n"), place.x, place.y)
    return float(place.x), float(place.y)


def _around(centre: float, radius: float, size: int) -> range:
    """Return the pixels within a distance of a position, and within the frame."""
    return range(max(0, math.ceil(centre - radius)), min(size, math.floor(centre + radius) + 1))
