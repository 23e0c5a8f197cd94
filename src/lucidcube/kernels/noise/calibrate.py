"""Compare the variance of a cube with the scatter of its data."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.noise.correlation import Correlation
from lucidcube.kernels.noise.filters import (
    BIN_SIZE,
    MAD_TO_SIGMA,
    Mask,
    Plane,
    bins_of,
    flattest_first,
    high_pass,
    high_pass_variance,
    log_variances,
    robust_mean,
    robust_variance,
    usable_pixels,
)

SCATTER = 12.0
"""Variance of the logarithm of a factor times the number of residuals, measured on noise: neighbouring
residuals are correlated."""
DEAD_BAND = 1.25
"""A variance that is wrong by less than this factor is right."""
CERTAIN = 3.0
"""Standard errors by which a factor must be beyond the dead band."""
INDEPENDENT = 0.5
"""Fraction of the planes of a window that are independent: those of a rebinned cube share channels."""


class Measurement(NamedTuple):
    """The scatter of a plane in units of its variance, as it appears between adjacent pixels."""

    log_factor: float
    error: float
    """Standard error of `log_factor`; infinite if nothing could be measured."""
    correlation: Correlation


class Calibration(NamedTuple):
    """What the variance of planes is to be multiplied by."""

    factor: NDArray[np.float32]
    """(n,) factors: exactly 1 where the variance is right, NaN where nothing could be measured."""
    width: NDArray[np.float32]
    """(n,) standard deviations in pixels of the Gaussian that describes the correlation of the noise."""


def measure_factor(plane: Plane, variance: Plane, exclude: Mask | None = None) -> Measurement:
    """Measure by which factor the variance of the noise of a plane exceeds a given variance.

    The plane is filtered as in `fit_noise`, and divided by the standard deviation that the given variance
    predicts. The variance of the result is taken in bins of pixels by the slope of the smoothed plane. The
    factor is a robust mean of the logarithms in which bins above the mean have little weight, because
    structure as fine as a pixel can only add to the residuals.

    Parameters
    ----------
    plane
        (y, x) values; NaN where there are none.
    variance
        (y, x) variance of the noise; a pixel where it is not finite and positive is not used.
    exclude
        (y, x), true where a pixel is known to be an artefact and must not be used.
    """
    usable = usable_pixels(plane, exclude) & np.isfinite(variance) & (variance > 0)
    nothing = Measurement(0.0, math.inf, Correlation(0.0, 0.0, 0.0))
    if np.count_nonzero(usable) < BIN_SIZE:
        return nothing
    scale = np.float64(np.abs(plane[usable]).max() or 1.0)
    values = np.where(usable, plane / scale, np.nan)
    spread = np.where(usable, variance / scale**2, np.nan)
    ratio = (high_pass(values) / np.sqrt(high_pass_variance(spread))).ravel()
    order = flattest_first(values, usable, np.isfinite(ratio).reshape(plane.shape))
    if order.size < BIN_SIZE:
        return nothing
    bins = bins_of(order)
    found = np.array([robust_variance(ratio[b]) for b in bins])
    if not (found > 0).all():
        return nothing
    logs, precision = log_variances(found, np.array([float(b.size) for b in bins]))
    _, mean = robust_mean(logs[None], precision[None])
    error = math.sqrt(SCATTER / order.size)
    return Measurement(float(mean[0]), error, Correlation.of(values, usable, spread))


def calibrate(measured: list[Measurement], wanted: slice) -> Calibration:
    """Return the factors of the wanted planes of a window, from the measurements of all of its planes.

    A factor that the plane itself does not tell precisely is drawn towards the median of the window, the more
    the less the planes differ; a plane that differs from the others by much more than its error keeps its own
    value. The correlation of the noise, which is due to the resampling, is the mean of the window.
    A factor that might be within `DEAD_BAND` of 1 becomes 1.
    """
    logs, errors = np.array([[one.log_factor, one.error] for one in measured]).T
    correlation = Correlation.pooled((one.correlation for one in measured), INDEPENDENT)
    known = np.isfinite(errors)
    means, error = _drawn_to_the_median(logs, errors, known)
    shift = math.log(correlation.inflation)
    low, high = (
        means - CERTAIN * error + shift,
        means + CERTAIN * error + math.log(correlation.largest_inflation),
    )
    wrong = (low > math.log(DEAD_BAND)) | (high < -math.log(DEAD_BAND))
    factor = np.where(known, np.where(wrong, np.exp(means + shift), 1.0), np.nan)[wanted].astype(np.float32)
    return Calibration(factor, np.full(factor.shape, correlation.width, np.float32))


def _drawn_to_the_median(logs: Plane, errors: Plane, known: Mask) -> tuple[Plane, Plane]:
    """Return the values, the more like their median the less they differ, and their standard errors."""
    if not known.any():
        return logs, errors
    middle = float(np.median(logs[known]))
    scatter = (MAD_TO_SIGMA * float(np.median(np.abs(logs[known] - middle)))) ** 2
    noise = np.square(errors)
    differ = np.maximum(max(scatter - float(np.median(noise[known])), 0.0), np.square(logs - middle) - noise)
    own = np.divide(differ, differ + noise, out=np.zeros_like(logs), where=known)
    of_median = float(np.median(noise[known])) / max(1.0, INDEPENDENT * np.count_nonzero(known))
    return middle + own * (logs - middle), np.sqrt(own * np.where(known, noise, 0) + (1 - own) * of_median)
