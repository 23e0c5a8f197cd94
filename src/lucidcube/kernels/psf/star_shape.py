"""Check whether what is given as a star looks like a single star."""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lucidcube.kernels.psf import Reals
from lucidcube.kernels.psf.background import median
from lucidcube.kernels.psf.star_position import SIGMA_TO_FWHM, brightest_spot, measure_star, pixel_noise

FLAT = 0.19
"""Area above 80 % of the peak, as a fraction of the area above 20 %, from which an object is not a star: it
is 0.14 for a Gaussian, less for profiles with wings, and 0.5 or more for the disc of a planet."""
COMPANION = 0.2
"""Peak of a second source, as a fraction of the first one, from which a star counts as double."""
NEAR, FAR = 1.0, 6.0
"""Distances, in full widths at half maximum, between which a second star would spoil the PSF."""
_SMALLEST_AREA = 12  # pixels; below, the ratio of areas is not accurate
_DETECTED = 5.0
_SKY = 0.1


class StarShape(NamedTuple):
    """The shape of the brightest source of a plane."""

    flatness: float
    """Area above 80 % of the peak over that above 20 %; 0 for a source of few pixels."""
    companion: float
    """Peak of a second source within a few widths of the first, as a fraction of the first one."""

    @property
    def extended(self) -> bool:
        """Whether the source is a disc rather than a star."""
        return self.flatness > FLAT

    @property
    def double(self) -> bool:
        """Whether there are two stars."""
        return self.companion > COMPANION and not self.extended


def star_shape(plane: Reals) -> StarShape:
    """Measure the shape of the brightest source in a plane (y, x); NaN where there are no data.

    Both numbers are 0 if there is no source. The companion is sought in the difference between the plane and
    the plane turned by 180 degrees about the star, in which a symmetric star vanishes; it is smoothed by one
    pixel, and must be a peak.
    """
    finite = np.isfinite(plane)
    if not finite.any():
        return StarShape(0.0, 0.0)
    level, noise = median(plane[finite]), pixel_noise(plane)
    smooth = ndimage.gaussian_filter(np.where(finite, plane - level, 0).astype(np.float64), 1.0)
    spot = brightest_spot(plane)
    row, column = map(int, spot)
    peak = float(smooth[row, column])
    if not peak > _DETECTED * noise:
        return StarShape(0.0, 0.0)
    star = measure_star(plane, spot, level, noise)
    reach = FAR * SIGMA_TO_FWHM * star.sigma
    return StarShape(_flatness(smooth, (row, column), peak), _companion(smooth, star.y, star.x, peak, reach))


def source_width(plane: Reals) -> float:
    """Return the diameter in pixels of the circle with the area of the brightest source above half its peak.

    The plane (y, x) is smoothed by a Gaussian of one pixel; NaN means no data. The result is 0 if there are
    no data.
    """
    finite = np.isfinite(plane)
    if not finite.any():
        return 0.0
    sky = np.quantile(plane[finite], _SKY)  # an object may cover most of the field
    filled = np.where(finite, plane - sky, 0).astype(np.float64)
    smooth = ndimage.gaussian_filter(filled, 1.0)
    label, _ = ndimage.label(smooth > 0.5 * smooth.max())
    return 2 * math.sqrt(float(np.sum(label == label.flat[smooth.argmax()])) / math.pi)


def _flatness(smooth: Reals, spot: tuple[int, int], peak: float) -> float:
    """Return the ratio of the areas of the source above 80 % and above 20 % of its peak."""
    label, _ = ndimage.label(smooth > 0.2 * peak)
    source = label == label[spot]
    area = int(source.sum())
    return float(np.sum(source & (smooth > 0.8 * peak)) / area) if area >= _SMALLEST_AREA else 0.0


def _companion(smooth: Reals, y: float, x: float, peak: float, reach: float) -> float:
    """Return the highest peak near a star without a counterpart on the other side, relative to it."""
    rows, columns = np.indices(smooth.shape)
    turned = ndimage.map_coordinates(smooth, [2 * y - rows, 2 * x - columns], order=1, mode="nearest")
    distance = np.hypot(rows - y, columns - x)
    width = reach / FAR
    peaks = (ndimage.maximum_filter(smooth, 3) == smooth) & (distance > NEAR * width) & (distance < reach)
    return float(np.max((smooth - turned)[peaks], initial=0.0)) / peak
