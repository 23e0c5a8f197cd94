"""Measure how the noise of neighbouring pixels is correlated."""

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.noise.filters import (
    BIN_SIZE,
    Mask,
    Plane,
    gaussian_mean,
    gradient,
    high_pass,
    robust_variance,
    usable_pixels,
)

APART = 3
"""Pixels this far apart have independent noise, also after the usual resampling."""
SIGNIFICANT = 16.0
"""Smallest excess of the variance that counts as correlation, divided by the root of the number of pixels.
Its standard deviation is about 4."""
FLAT_SCALE, FLAT_SHARE = 4.0, 3
"""The correlation is measured in one pixel out of `FLAT_SHARE`, where the plane, smoothed by a Gaussian with
this standard deviation in pixels, is flattest."""
WIDEST = 3.0
"""Largest width, in pixels, of the Gaussian that describes correlated noise."""
REACH = int(4 * WIDEST)
"""Pixels on either side to which the Gaussian extends."""


def noise_width(plane: Plane, variance: Plane, exclude: Mask | None = None) -> float:
    """Return the standard deviation in pixels of the Gaussian that describes the correlation of the noise.

    The noise is described as white noise that was smoothed by `scipy.ndimage.gaussian_filter`. The width
    follows from the variances of neighbours and of pixels at a distance, where the plane is flattest, see
    `fit_noise`.

    Parameters
    ----------
    plane
        (y, x) values; NaN where there are none.
    variance
        (y, x) variance of each pixel, relative to the others.
    exclude
        (y, x), true where a pixel is known to be an artefact and must not be used.

    Returns
    -------
    float
        0 if there is no significant correlation.
    """
    usable = usable_pixels(plane, exclude) & (np.nan_to_num(variance) > 0)
    if not usable.any():
        return 0.0
    scale = np.float64(np.abs(plane[usable]).max() or 1.0)
    values = np.where(usable, plane / scale, np.nan)
    spread = gaussian_mean(np.where(usable, variance / scale**2, 0), usable)
    return width_of(distant_ratio(values, usable, spread))


def correlated_pixels(plane: Plane, variance: Plane, exclude: Mask | None = None) -> float:
    """Return how many pixels say as much as one, because their noise is correlated.

    The arguments are those of `noise_width`. The result is 1 if there is no significant correlation, else the
    sum of the correlations of a pixel with all others.
    """
    correlations = _correlations(noise_width(plane, variance, exclude))
    return float(2 * correlations.sum() - 1) ** 2


def distant_ratio(values: Plane, usable: Mask, variance: Plane) -> float:
    """Return the ratio of the variance of independent pixels to that of neighbours, 1 if they agree."""
    near, far = high_pass(values), high_pass(values, APART)
    flat = _flattest(values, usable, np.isfinite(near) & np.isfinite(far) & (variance > 0))
    if flat.size < BIN_SIZE:
        return 1.0
    sigma = np.sqrt(variance.ravel()[flat])
    apart, adjacent = (robust_variance(residual.ravel()[flat] / sigma) for residual in (far, near))
    ratio = apart / adjacent if adjacent > 0 else 1.0
    return ratio if ratio > 1 + SIGNIFICANT / np.sqrt(flat.size) else 1.0


def _correlations(width: float) -> NDArray[np.float64]:
    """Return the correlations along one axis, by distance in pixels, of white noise that was smoothed."""
    weights = np.exp(-np.square(np.arange(-REACH, REACH + 1.0)) / (2 * max(width, 1e-2) ** 2))
    return np.correlate(weights, weights, "full")[2 * REACH :] / np.sum(np.square(weights))


def filtered_variance(step: int, width: float) -> float:
    """Return the variance of the residuals of `high_pass` for smoothed noise of variance 1."""
    near, far = _correlations(width)[[step, 2 * step]]
    return float((6 - 8 * near + 2 * far) / 6) ** 2


def width_of(ratio: float) -> float:
    """Return the width of the Gaussian for which `distant_ratio` is this ratio; 0 for independent pixels."""
    if ratio <= 1:
        return 0.0
    widths = np.linspace(0, WIDEST, 301)
    ratios = [filtered_variance(APART, w) / filtered_variance(1, w) for w in widths]
    return float(np.interp(ratio, np.maximum.accumulate(ratios), widths))


def _flattest(values: Plane, usable: Mask, candidates: Mask) -> NDArray[np.intp]:
    """Return the flat indices of the candidates where the smoothed plane has the smallest gradient."""
    known = np.flatnonzero(candidates)
    number = known.size // FLAT_SHARE
    steep = gradient(gaussian_mean(values, usable, FLAT_SCALE)).ravel()[known]
    return known[np.argpartition(steep, number)[:number]] if number else known[:0]
