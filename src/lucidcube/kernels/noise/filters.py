"""Filters and robust statistics of planes with missing pixels."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[np.floating]
Mask = NDArray[np.bool_]

MAD_TO_SIGMA = 1.4826
"""Ratio of the standard deviation to the median absolute deviation of a normal distribution."""
TRUNCATED = 0.9112
"""Variance of a normal distribution that is cut off at 2.5 standard deviations."""
SMOOTHING = 1.25
"""Standard deviation, in pixels, of the Gaussian that smooths the signal."""
FLAT_SCALE = 4.0
"""Standard deviation, in pixels, of the Gaussian that smooths a plane before its slopes are compared."""
OUTLIER = 5.0
"""Residuals beyond this number of standard deviations are artefacts or point sources."""
BIN_SIZE, MAX_BINS = 128, 24
"""Smallest number of residuals whose variance is a useful number, and largest number of bins of residuals."""
STRUCTURE = 1.5
"""Scatter by which the variance of a bin may exceed the mean before it counts as structure."""
BIN_ERROR = 0.03
"""Scatter of the logarithms of the variances of bins beyond that of their numbers, measured on noise."""


def usable_pixels(plane: Plane, exclude: Mask | None) -> Mask:
    """Return where a plane is finite and not excluded."""
    finite: Mask = np.isfinite(plane)
    return finite if exclude is None else finite & ~exclude.astype(bool)


def high_pass(values: Plane, step: int = 1) -> Plane:
    """Return the residuals (y, x) of pixels that are `step` apart, whose noise equals that of the values; NaN
    next to missing pixels."""
    return _neighbours(values, step, -2) / 6


def high_pass_variance(variance: Plane, step: int = 1) -> Plane:
    """Return the variance (y, x) of the residuals of `high_pass` for independent pixels."""
    return _neighbours(variance, step, 4) / 36


def _neighbours(values: Plane, step: int, middle: int) -> Plane:
    """Return the sum of 3 x 3 pixels `step` apart, weighted by (1, middle, 1) along both axes."""
    total = np.full(values.shape, np.nan)
    if min(values.shape) > 2 * step:
        rows = values[: -2 * step] + middle * values[step:-step] + values[2 * step :]
        both = rows[:, : -2 * step] + middle * rows[:, step:-step] + rows[:, 2 * step :]
        total[step:-step, step:-step] = both
    return total


def gaussian_mean(values: Plane, usable: Mask, width: float = SMOOTHING) -> Plane:
    """Return the mean of the usable values, weighted by a Gaussian; zero where there are none."""
    light = ndimage.gaussian_filter(np.where(usable, values, 0), width)
    weight = ndimage.gaussian_filter(usable.astype(np.float64), width)
    return np.divide(light, weight, out=np.zeros_like(light), where=weight > 1e-3)


def gradient(smooth: Plane) -> Plane:
    """Return the modulus of the gradient."""
    return np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))


def flattest_first(values: Plane, usable: Mask, candidates: Mask) -> NDArray[np.intp]:
    """Return the flat indices of the candidates in order of the slope of the smoothed plane."""
    known = np.flatnonzero(candidates)
    steep = gradient(gaussian_mean(values, usable, FLAT_SCALE)).ravel()[known]
    return known[np.argsort(steep, kind="stable")]


def robust_variance(residual: Plane) -> float:
    """Return the variance of residuals with a mean of zero, robust unless more than half of them are zero.

    The median absolute deviation tells which residuals are within 2.5 standard deviations; their mean square
    has a much smaller scatter.
    """
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(residual)))
    if sigma == 0:
        return float(np.mean(residual**2))
    return float(np.mean(residual[np.abs(residual) < 2.5 * sigma] ** 2)) / TRUNCATED


def near_outliers(residual: Plane, sigma: Plane | float) -> Mask:
    """Return where a residual is an outlier or next to one, given their standard deviation."""
    far = np.abs(np.nan_to_num(residual)) > OUTLIER * sigma
    return np.asarray(ndimage.binary_dilation(far, np.ones((3, 3), bool)))


def bins_of(order: NDArray[np.integer]) -> list[NDArray[np.integer]]:
    """Divide indices into bins of about equal numbers."""
    return np.array_split(order, max(1, min(MAX_BINS, order.size // BIN_SIZE)))


def log_variances(variance: Plane, count: Plane) -> tuple[Plane, Plane]:
    """Return the unbiased logarithms of the variances of bins of `count` residuals, and their precision."""
    return np.log(variance) + 2 / count, 1 / (4 / count + BIN_ERROR**2)


def robust_mean(values: Plane, precision: Plane) -> tuple[Plane, Plane]:
    """Return the cost and the mean of each row; values above the mean lose weight, those below keep it."""
    mean = np.median(values, axis=1, keepdims=True)
    for _ in range(15):
        excess = np.maximum((values - mean) * np.sqrt(precision), STRUCTURE)
        weight = precision * STRUCTURE / excess
        mean = (weight * values).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    excess = (values - mean) * np.sqrt(precision)
    cost = np.where(excess > STRUCTURE, STRUCTURE * (2 * excess - STRUCTURE), excess**2).sum(1)
    return cost, mean[:, 0]
