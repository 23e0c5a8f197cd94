"""The points of the MAP estimate: which are sources, and which are samples of narrow structure.

Moons, stars and nuclei are isolated, and the penalty must not reduce their flux. Clouds, rings and other
structure narrower than the PSF would be sampled by rows of points, which are to be joined.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.map_start import POINT_SCALE

SIDE = 3
"""Side, in pixels, of the square that holds the light of a point."""
SIGNIFICANT = 5.0
"""Flux of an isolated point in standard deviations: noise alone has no such peak in a million pixels."""
CONTRAST = 3.0
"""Least flux of an isolated point over that of its surroundings in the same pixels."""
SHARE = 0.5
"""Largest flux of a neighbour over that of an isolated point."""
COMPACT = 0.8
"""Least part of the light of a point in one square of 2 x 2 pixels; a small galaxy or a disc has less."""
PEAK = 0.4
"""Part of its light that is in the brightest pixel of a star before the iteration has converged."""
REACH = 4
RING = tuple((y, x) for y in range(-REACH, 5) for x in range(-REACH, 5) if 7 < y * y + x * x < 19)
"""Where the surroundings of a point are sampled, 3 to 4 pixels from it; beyond the plane it is dark."""
TIE = np.float32(0.01)
STRUCTURE = 2.0
"""Flux of a point in standard deviations above which it may belong to a structure."""
NEAR = 7
"""Side, in pixels, of the square in which the light around such a point is measured."""
GROWTH = 5
"""Side, in pixels, of the square around a point of a structure that belongs to it."""


def kinds_of_points(
    smooth: Plane, points: Plane, unit: Plane, psf_norm: float, correlated: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the pixels of isolated points, see `isolated_sources`, and those of `structure_points`.

    `smooth` and `points` (y, x) are the parts of the object, and `unit` (y, x) is the unit of the points, see
    `map_start.point_units`. The other two are the root of the sum of squares of the PSF, and the number by
    which the data term is divided because the noise is correlated.
    """
    noise = unit * np.float32(correlated / (POINT_SCALE * psf_norm))
    isolated, wide = isolated_sources(smooth + points, noise)
    return isolated, structure_points(points, smooth, noise, isolated, wide)


def isolated_sources(image: Plane, noise: Plane) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the pixels that hold the light of isolated points, and where wider isolated sources are.

    An isolated source is a peak of the light in squares of `SIDE` pixels. Its flux above the median of the
    squares around it, 3 to 4 pixels away, exceeds `SIGNIFICANT` times the noise and `CONTRAST` times that
    median, and the brightest of these squares has less than `SHARE` of it. Thus the limb of a planet, its
    clouds, rings, and the bulge of a galaxy do not count. A source that is wider than a point has less than
    `COMPACT` of its light in 2 x 2 pixels, and less than `PEAK` in the brightest pixel.

    Parameters
    ----------
    image : array of float32, (y, x)
        The object, finite and not negative.
    noise : array of float32, (y, x)
        The standard deviation that the flux of a point source has in the data.

    Returns
    -------
    points : array of bool, (y, x)
        True in the squares of the isolated points.
    wide : array of bool, (y, x)
        True in the middle of the squares of wider sources.
    """
    flux = ndimage.uniform_filter(image, SIDE, mode="constant") * np.float32(SIDE**2)
    # Squares that hold the same bright pixel have the same flux; the peak is the one in whose middle it is.
    middle = flux + TIE * image
    y, x = np.nonzero((middle >= ndimage.maximum_filter(middle, SIDE)) & (flux > SIGNIFICANT * noise))
    rows, columns = (
        at[:, None] + REACH + shift for at, shift in zip((y, x), np.transpose(RING), strict=True)
    )
    ring = np.pad(flux, REACH)[rows, columns]
    around = np.median(ring, axis=1)
    above = flux[y, x] - around
    isolated = above > np.maximum(SIGNIFICANT * noise[y, x], CONTRAST * around)
    isolated &= ring.max(axis=1) - around < SHARE * above
    y, x = y[isolated], x[isolated]
    # A square of 2 x 2 pixels at each of its pixels, of which four lie within the square of a source.
    four = np.pad(ndimage.uniform_filter(image, 2, mode="constant") * np.float32(4), (0, 1))
    brightest = np.max([four[y, x], four[y + 1, x], four[y, x + 1], four[y + 1, x + 1]], axis=0)
    compact = (brightest >= COMPACT * flux[y, x]) | (image[y, x] >= PEAK * flux[y, x])
    points, wide = (_marked(image.shape, y[which], x[which]) for which in (compact, ~compact))
    return np.asarray(ndimage.maximum_filter(points, SIDE)), wide


def structure_points(
    points: Plane,
    smooth: Plane,
    noise: Plane,
    isolated: NDArray[np.bool_],
    wide: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return the pixels where points are samples of narrow structure.

    A point belongs to a structure if it is significant and fainter than the smooth part around it, such as
    the points along a cloud, a ring or a spiral arm. Stars on dark sky do not, but the light of an isolated
    source does that is wider than a point, which would become a ring of points otherwise.

    Parameters
    ----------
    points, smooth : array of float32, (y, x)
        The two parts of the object, finite and not negative.
    noise : array of float32, (y, x)
        The standard deviation that the flux of a point source has in the data.
    isolated, wide : array of bool, (y, x)
        Pixels of isolated points, which never belong to a structure, and the middle of wider sources, which
        always do; see `isolated_sources`.

    Returns
    -------
    array of bool, (y, x)
        True in squares of `GROWTH` pixels around the points of structures.
    """
    flux = ndimage.uniform_filter(np.where(isolated, 0, points), SIDE, mode="constant") * SIDE**2
    around = ndimage.uniform_filter(smooth, NEAR, mode="constant") * SIDE**2
    seeds = (flux > STRUCTURE * noise) & (flux < around)
    return np.asarray(ndimage.binary_dilation(seeds | wide, np.ones((GROWTH, GROWTH))) & ~isolated)


def _marked(shape: tuple[int, ...], y: NDArray[np.intp], x: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return a plane that is true at some pixels."""
    plane = np.zeros(shape, bool)
    plane[y, x] = True
    return plane
