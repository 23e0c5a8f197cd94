"""Position and width of a star, measured before anything is known about it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lucidcube.kernels.psf import Doubles, Reals
from lucidcube.kernels.psf.background import median, robust_sigma

DETECTED = 5.0
"""Standard deviations of the noise by which a star must exceed the sky."""
PLATEAU, EQUAL = 5, 1e-4
"""Number of connected pixels of the same value that no star has, unless it is saturated, and the largest
difference of such values as a fraction of the star."""
SIGMA_TO_FWHM = 2.0 * float(np.sqrt(2.0 * np.log(2.0)))
_START_SIGMA, _MIN_SIGMA, _MAX_SIGMA = 1.5, 0.35, 40.0  # pixels; at the smallest it is a hot pixel
_BOX = 4.0  # standard deviations
_ITERATIONS = 30
_SETTLED = 1e-3  # pixels
_TINY = 1e-30
_KNOWN = 0.3  # fraction of the star that must not be missing
_N_SEARCHED = 7
_OUT_OF_LINE = 2.0  # pixels


class StarPosition(NamedTuple):
    """The Gaussian that describes the core of a star best."""

    y: float
    x: float
    sigma: float
    """Pixels."""
    signal_to_noise: float
    """Amplitude of the Gaussian in standard deviations of its noise."""


class FoundStar(NamedTuple):
    """A star in one of several planes."""

    plane: int
    position: StarPosition
    level: float
    """Median of the plane."""
    noise: float
    """Standard deviation of a pixel."""


def find_stars(planes: Reals) -> list[FoundStar]:
    """Find the brightest star in the planes (plane, y, x) that have one; it may drift slowly from plane to
    plane.

    The star is searched in a few planes, and measured in all of them, near the line through the positions
    found. Where the measurement leaves the line, the position is that of the line.
    """
    usable = [i for i, plane in enumerate(planes) if np.isfinite(plane).any()]
    if not usable:
        return []
    searched = np.unique(np.linspace(0, len(usable) - 1, _N_SEARCHED).round().astype(int)).tolist()
    spots = np.array([(usable[k], *brightest_spot(planes[usable[k]])) for k in searched])
    line = _line(spots)
    found = []
    for i in usable:
        finite = planes[i][np.isfinite(planes[i])]
        level, noise = median(finite), pixel_noise(planes[i])
        position = measure_star(planes[i], line(i), level, noise)
        if position.signal_to_noise > DETECTED and _MIN_SIGMA < position.sigma < 0.25 * max(planes.shape[1:]):
            found.append(FoundStar(i, position, level, noise))
    if not found:
        return []
    line = _line(np.array([(star.plane, star.position.y, star.position.x) for star in found]))
    return [_on_line(star, line(star.plane)) for star in found]


def _line(spots: Doubles) -> Callable[[int], tuple[float, float]]:
    """Return the position (y, x) as a robust linear function of the index, from rows (index, y, x)."""
    (y, slope_y), (x, slope_x) = (robust_line(spots[:, 0], column) for column in spots[:, 1:].T)
    return lambda index: (y + slope_y * index, x + slope_x * index)


def _on_line(star: FoundStar, expected: tuple[float, float]) -> FoundStar:
    """Return the star, at the expected position if it is far from it."""
    position = star.position
    if np.hypot(position.y - expected[0], position.x - expected[1]) < _OUT_OF_LINE:
        return star
    return star._replace(position=position._replace(y=expected[0], x=expected[1]))


def pixel_noise(image: Reals) -> float:
    """Return the noise per pixel from differences of neighbours, which a smooth wing hardly affects."""
    difference = image[:, 1:] - image[:, :-1]
    return robust_sigma(difference[np.isfinite(difference)]) / float(np.sqrt(2.0))


def brightest_spot(plane: Reals) -> tuple[float, float]:
    """Return the pixel (y, x) of the brightest source; single hot pixels are ignored.

    At least one pixel must be finite.
    """
    finite = np.isfinite(plane)
    above = np.where(finite, plane - plane.dtype.type(median(plane[finite])), 0.0).astype(np.float32)
    smooth = ndimage.gaussian_filter(ndimage.median_filter(above, 3), 1.0)
    y, x = np.unravel_index(int(smooth.argmax()), plane.shape)
    return float(y), float(x)


def measure_star(plane: Reals, near: tuple[float, float], level: float, noise: float) -> StarPosition:
    """Measure the position and width of a star by adaptive moments (Bernstein & Jarvis 2002, AJ 123, 583).

    The moments are weighted by the Gaussian that has the same moments, so they describe the core of the star.
    Missing pixels are replaced by this Gaussian.

    Parameters
    ----------
    plane
        Values (y, x); NaN = no data.
    near
        Approximate position (y, x) of the star.
    level
        Background to be subtracted.
    noise
        Standard deviation of a pixel.
    """
    y, x, sigma = near[0], near[1], _START_SIGMA
    signal = 0.0
    for _ in range(_ITERATIONS):
        half = int(np.ceil(_BOX * sigma)) + 1
        rows = np.arange(max(round(y) - half, 0), min(round(y) + half + 1, plane.shape[0]))
        columns = np.arange(max(round(x) - half, 0), min(round(x) + half + 1, plane.shape[1]))
        if rows.size < 2 or columns.size < 2:
            break
        dy, dx = (rows - y)[:, None], columns - x
        weight = np.exp(-0.5 * (dy * dy + dx * dx) / sigma**2)
        stamp = plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] - level
        known = np.isfinite(stamp)
        norm = float((weight[known] ** 2).sum())
        if not norm > _KNOWN * float((weight**2).sum()):
            signal = 0.0
            break
        amplitude = float(weight[known] @ stamp[known]) / norm
        signal = amplitude * float(np.sqrt(norm)) / max(noise, _TINY)
        light = weight * np.where(known, stamp, amplitude * weight)
        total = float(light.sum())
        if not total > 0.0:
            break
        step_y = 2.0 * float((light * dy).sum()) / total
        step_x = 2.0 * float((light * dx).sum()) / total
        moment = 0.5 * float((light * (dy * dy + dx * dx)).sum()) / total
        inverse = 1.0 / moment - 1.0 / sigma**2 if moment > 0.0 else np.inf
        found = (
            float(np.clip(1.0 / np.sqrt(inverse), sigma / 1.5, 1.5 * sigma)) if inverse > 0.0 else 1.5 * sigma
        )
        found = min(max(found, _MIN_SIGMA), _MAX_SIGMA)
        y, x = y + float(np.clip(step_y, -sigma, sigma)), x + float(np.clip(step_x, -sigma, sigma))
        settled = max(abs(step_y), abs(step_x), abs(found - sigma)) < _SETTLED
        sigma = found
        if settled:
            break
    return StarPosition(y, x, sigma, float(signal))


def robust_line(position: Doubles, values: Doubles) -> tuple[float, float]:
    """Return the intercept and slope of the line with the median slope of all pairs (Theil 1950, Sen 1968).

    `position` and `values` are finite and one-dimensional; the slope is 0 for a single value.
    """
    first, second = np.triu_indices(position.size, 1)
    run = position[second] - position[first]
    slope = float(np.median((values[second] - values[first]) / run)) if run.size else 0.0
    return float(np.median(values - slope * position)), slope


def saturated_pixels(plane: Reals) -> int:
    """Return the number of connected pixels (y, x) with the value of the brightest one; 0 if there are few.

    Few are less than `PLATEAU`. Values count as equal if they differ by less than `EQUAL` of the star.
    """
    known = plane[np.isfinite(plane)].astype(np.float64)
    if known.size == 0 or not known.max() > (level := float(np.median(known))):
        return 0
    top = np.nan_to_num(plane, nan=-np.inf) >= known.max() - EQUAL * (known.max() - level)
    label, number = ndimage.label(top)
    largest = int(np.bincount(label.ravel())[1:].max()) if number else 0
    return largest if largest >= PLATEAU else 0
