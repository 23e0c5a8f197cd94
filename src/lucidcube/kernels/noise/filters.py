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
BIN_SIZE = 128
"""Smallest number of residuals whose variance is a useful number."""


def usable_pixels(plane: Plane, exclude: Mask | None) -> Mask:
    """Return where a plane is finite and not excluded."""
    finite: Mask = np.isfinite(plane)
    return finite if exclude is None else finite & ~exclude.astype(bool)


def high_pass(values: Plane, step: int = 1) -> Plane:
    """Return the residuals (y, x) of pixels that are `step` apart, whose noise equals that of the values; NaN
    next to missing pixels."""
    residual = np.full(values.shape, np.nan)
    if min(values.shape) > 2 * step:
        rows = values[: -2 * step] - 2 * values[step:-step] + values[2 * step :]
        across = rows[:, : -2 * step] - 2 * rows[:, step:-step] + rows[:, 2 * step :]
        residual[step:-step, step:-step] = across / 6
    return residual


def gaussian_mean(values: Plane, usable: Mask, width: float = SMOOTHING) -> Plane:
    """Return the mean of the usable values, weighted by a Gaussian; zero where there are none."""
    light = ndimage.gaussian_filter(np.where(usable, values, 0), width)
    weight = ndimage.gaussian_filter(usable.astype(np.float64), width)
    return np.divide(light, weight, out=np.zeros_like(light), where=weight > 1e-3)


def gradient(smooth: Plane) -> Plane:
    """Return the modulus of the gradient."""
    return np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))


def robust_variance(residual: Plane) -> float:
    """Return the variance of residuals with a mean of zero, robust unless more than half of them are zero.

    The median absolute deviation tells which residuals are within 2.5 standard deviations; their mean square
    has a much smaller scatter.
    """
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(residual)))
    if sigma == 0:
        return float(np.mean(residual**2))
    return float(np.mean(residual[np.abs(residual) < 2.5 * sigma] ** 2)) / TRUNCATED
