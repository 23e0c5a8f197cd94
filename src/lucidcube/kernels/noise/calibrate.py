"""Compare the variance of a cube with the scatter of its data."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.noise.correlation import FEWEST, Correlation, Residuals
from lucidcube.kernels.noise.filters import (
    BIN_SIZE,
    MAD_TO_SIGMA,
    Mask,
    Plane,
    bins_of,
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


LAG = 8
"""Planes this far apart share no channels after the usual rebinning, and have independent noise."""
MOST = 0.5
"""Fraction of the variance of the residuals that is structure beyond which the noise is not known."""


class Measurement(NamedTuple):
    """The scatter of a plane in units of its variance, as it appears between adjacent pixels."""

    log_factor: float
    error: float
    """Standard error of `log_factor`; infinite if nothing could be measured."""
    residuals: Residuals | None = None


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
    nothing = Measurement(0.0, math.inf)
    if np.count_nonzero(usable) < BIN_SIZE:
        return nothing
    scale = np.float64(np.abs(plane[usable]).max() or 1.0)
    values = np.where(usable, plane / scale, 0)
    spread = np.where(usable, variance / scale**2, 0)
    residuals = Residuals.of(values, usable, spread)
    ratio, order = residuals.near.ravel(), residuals.order
    if order.size < BIN_SIZE:
        return nothing
    bins = bins_of(order)
    found = np.array([robust_variance(ratio[b]) for b in bins])
    if not (found > 0).all():
        return nothing
    logs, precision = log_variances(found, np.array([float(b.size) for b in bins]))
    _, mean = robust_mean(logs[None], precision[None])
    error = math.sqrt(SCATTER / order.size)
    kept = Residuals(residuals.near.astype(np.float32), residuals.far.astype(np.float32), order)
    return Measurement(float(mean[0]), error, kept)


def calibrate(measured: list[Measurement]) -> Calibration:
    """Return the factors of the planes of a window, from their measurements.

    A factor that the plane itself does not tell precisely is drawn towards the median of the window, the more
    the less the planes differ; a plane that differs from the others by much more than its error keeps its own
    value. The correlation of the noise, which is due to the resampling, is the mean of the window.
    A factor that might be within `DEAD_BAND` of 1 becomes 1.

    What the residuals of planes `LAG` apart have in common is structure of the object, which is subtracted;
    nothing is known if it is most of the residuals. With fewer planes, a factor is not raised because of a
    correlation, which might be due to such structure.
    """
    logs, errors = np.array([[one.log_factor, one.error] for one in measured]).T
    correlation, structure = _pooled([one.residuals for one in measured])
    known = np.isfinite(errors) & (not correlation.structured)
    means, error = _drawn_to_the_median(logs, errors, known)
    shift = math.log(correlation.inflation)
    means += shift + math.log(1 - min(structure or 0.0, MOST))
    lowest = means - CERTAIN * error - (shift if structure is None else 0.0)
    highest = means + CERTAIN * error - shift + math.log(correlation.largest_inflation)
    wrong = (lowest > math.log(DEAD_BAND)) | (highest < -math.log(DEAD_BAND))
    factor = np.where(known, np.where(wrong, np.exp(means), 1.0), np.nan).astype(np.float32)
    return Calibration(factor, np.full(factor.shape, correlation.width, np.float32))


def _pooled(several: Sequence[Residuals | None]) -> tuple[Correlation, float | None]:
    """Return the correlation of the noise, and the structure as a fraction of the variance of the residuals.

    The noise is that of differences between planes, in which structure cancels. The structure is None if
    there are too few planes for that.
    """
    pairs = [(a, b) for a, b in zip(several, several[LAG:], strict=False) if a is not None and b is not None]
    if not pairs:
        alone = (Correlation.of(one) for one in several if one is not None)
        return Correlation.pooled(alone, INDEPENDENT), None
    noise = Correlation.pooled((Correlation.of(a.minus(b)) for a, b in pairs), INDEPENDENT)
    shared = np.array([_shared(a, b) for a, b in pairs])
    structure = float(np.median(shared))
    significant = structure > CERTAIN / math.sqrt(max(noise.number, 1.0))
    noise = noise._replace(tails=math.inf if structure > MOST else 1.0)
    return noise, structure if significant else 0.0


def _shared(one: Residuals, other: Residuals) -> float:
    """Return the correlation of the residuals of two planes where the first one is flattest."""
    flat = one.flattest & np.isfinite(other.near)
    if np.count_nonzero(flat) < FEWEST:
        return 0.0
    sides = (residuals.near[flat].astype(np.float64) for residuals in (one, other))
    left, right = (side / math.sqrt(robust_variance(side) or 1.0) for side in sides)
    total, difference = robust_variance(left + right), robust_variance(left - right)
    return (total - difference) / (total + difference) if total + difference > 0 else 0.0


def _drawn_to_the_median(logs: Plane, errors: Plane, known: Mask) -> tuple[Plane, Plane]:
    """Return the values, the more like their median the less they differ, and their standard errors."""
    if not known.any():
        return logs, errors
    middle = float(np.median(logs[known]))
    scatter = (MAD_TO_SIGMA * float(np.median(np.abs(logs[known] - middle)))) ** 2
    noise = np.square(errors)
    differ = np.maximum(
        max(scatter - float(np.median(noise[known])), 0.0), np.square(logs - middle) - 4 * noise
    )
    own = np.divide(differ, differ + noise, out=np.zeros_like(logs), where=known)
    of_median = float(np.median(noise[known])) / max(1.0, INDEPENDENT * np.count_nonzero(known))
    return middle + own * (logs - middle), np.sqrt(own * np.where(known, noise, 0) + (1 - own) * of_median)
