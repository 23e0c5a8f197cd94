"""Estimate the noise of a plane from the plane alone, as a function of the signal."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.noise.correlation import Correlation, Residuals
from lucidcube.kernels.noise.filters import (
    OUTLIER,
    Mask,
    Plane,
    bins_of,
    gaussian_mean,
    gradient,
    high_pass,
    log_variances,
    robust_mean,
    robust_variance,
    usable_pixels,
)

FEWEST = 16
"""With fewer residuals than this, the scatter of the values themselves is used."""
FLOOR = 1e-6
"""Smallest standard deviation as a fraction of the largest value: about ten times the rounding of float32."""

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
"""Smallest variance: that of fluxes of 1e-20, as spectrographs have them, is less than the smallest normal
number of float32."""


class NoiseModel(NamedTuple):
    """The variance as a function of the signal: ``variance = constant + slope * max(signal, 0)``."""

    constant: float
    slope: float

    def variance(self, signal: Plane) -> Plane:
        """Return the variance at these values of the signal."""
        return self.constant + self.slope * np.maximum(signal, 0)


def estimate_variance(plane: Plane, exclude: Mask | None = None) -> NDArray[np.float32]:
    """Estimate the variance of the noise of each pixel of a plane.

    See `fit_noise` for the model. The signal of a pixel is its value, smoothed by the adaptive filter of Lee
    (1980, IEEE PAMI 2, 165): pixels that deviate from their neighbours by no more than the noise receive
    the mean of the neighbourhood, sharp peaks keep their value.

    Parameters
    ----------
    plane
        (y, x) values; NaN where there are none.
    exclude
        (y, x), true where a pixel is known to be an artefact and must not be used.

    Returns
    -------
    (y, x) array of float32
        Variance, greater than zero; NaN where the plane is NaN.
    """
    values = plane.astype(np.float64)
    model = fit_noise(values, exclude)
    usable = usable_pixels(values, exclude)
    mean = _local_mean(values, usable)
    excess = np.maximum(_local_mean((values - mean) ** 2, usable) - model.variance(mean), 0)
    share = np.divide(excess, excess + model.variance(mean))
    signal = mean + np.where(usable, share * (values - mean), 0)
    variance = np.maximum(model.variance(signal), SMALLEST)
    return np.where(np.isfinite(values), variance, np.nan).astype(np.float32)


def known_variance(plane: Plane, variance: Plane | None, exclude: Mask | None = None) -> NDArray[np.floating]:
    """Return the variance (y, x) of a plane; it is estimated if it is not given, or known nowhere.

    It is known where it is finite and positive and the pixel is not excluded.
    """
    if variance is not None:
        known = np.isfinite(variance) & (variance > 0)
        if (known if exclude is None else known & ~exclude).any():
            return variance
    return estimate_variance(plane, exclude)


def fit_noise(plane: Plane, exclude: Mask | None = None) -> NoiseModel:
    """Fit the variance of the noise of a plane as a linear function of the signal.

    The residuals are the plane filtered with the outer product of (1, -2, 1) with itself (Immerkaer 1996,
    CVIU 64, 300), which removes smooth structure. In bins of the smoothed signal, the variance follows from
    the median absolute deviation of the half of the residuals where the smoothed plane is flattest, without
    the surroundings of outliers. The line is fitted with little weight to bins above it, because structure as
    fine as a pixel can only add to the residuals.

    The noise of a plane that was resampled or smoothed is correlated, which makes these residuals smaller
    than the noise. The result is corrected if neighbouring residuals are significantly correlated where the
    plane is flattest, see `Correlation`.

    Parameters
    ----------
    plane, exclude
        As for `estimate_variance`.

    Returns
    -------
    NoiseModel
        Both numbers are not negative; the constant is greater than zero.
    """
    usable = usable_pixels(plane, exclude)
    if not usable.any():
        return NoiseModel(1.0, 0.0)
    scale = float(np.abs(plane[usable]).max())
    if scale == 0:
        return NoiseModel(1.0, 0.0)
    values = np.where(usable, plane / scale, np.nan)
    model = _fit(values, usable)
    residuals = Residuals.of(values, usable, model.variance(gaussian_mean(values, usable)))
    factor = Correlation.of(residuals).inflation
    model = NoiseModel(factor * model.constant, factor * model.slope)
    constant, slope = max(model.constant, FLOOR**2), max(model.slope, 0.0)
    return NoiseModel(max(constant * scale**2, SMALLEST), slope * scale)


def _fit(values: Plane, usable: Mask) -> NoiseModel:
    """Fit the noise of values whose largest modulus is 1."""
    residual = high_pass(values)
    good = np.isfinite(residual)
    if np.count_nonzero(good) < FEWEST:
        return NoiseModel(robust_variance(values[usable] - np.median(values[usable])), 0.0)
    # A median removes hot pixels before they are known, but its result depends on the noise of the residuals.
    smooth = gaussian_mean(
        ndimage.median_filter(np.where(usable, values, gaussian_mean(values, usable)), 3), usable
    )
    model = _line(smooth[good], residual[good], gradient(smooth)[good])
    for _ in range(2):
        far = good & (np.abs(np.nan_to_num(residual)) > OUTLIER * np.sqrt(model.variance(smooth)))
        kept = good & ~ndimage.binary_dilation(far, np.ones((3, 3), bool))
        if np.count_nonzero(residual[kept]) < max(FEWEST, int(np.count_nonzero(residual[good])) // 2):
            break  # these are no outliers, but the noise of few counts
        smooth = gaussian_mean(values, usable & ~far)
        model = _line(smooth[kept], residual[kept], gradient(smooth)[kept])
    return model


def _line(signal: Plane, residual: Plane, steep: Plane) -> NoiseModel:
    """Fit the line to the variances in bins of the signal with about equal numbers of residuals."""
    order = np.argsort(signal, kind="stable")
    bins = bins_of(order)
    flat = [b[np.argsort(steep[b], kind="stable")[: max(FEWEST // 2, b.size // 2)]] for b in bins]
    level = np.array([max(float(np.median(signal[b])), 0.0) for b in flat])
    variance = np.array([robust_variance(residual[b]) for b in flat])
    return _robust_line(level, variance, np.array([float(b.size) for b in flat]))


def _robust_line(level: Plane, variance: Plane, count: Plane) -> NoiseModel:
    """Fit ``variance = constant + slope * level`` with both not negative.

    The ratio of the two is searched on a grid, then on a finer one. For each ratio, the factor is a robust
    mean of the logarithms, in which a bin above the line has the less weight the higher it is.
    """
    known = variance > 0  # few counts are all zero in some bins
    level, variance, count = level[known], variance[known], count[known]
    top = float(level.max(initial=0))
    if top == 0 or level.size < 2:
        return NoiseModel(float(np.median(variance)) if variance.size else 0.0, 0.0)
    logs, precision = log_variances(variance, count)
    span, middle = 5.0, 0.0
    for _ in range(4):
        ratio = 10.0 ** np.linspace(middle - span, middle + span, 41)[:, None]
        shape = (1 + ratio * level / top) / (1 + ratio)
        cost, factor = robust_mean(logs - np.log(shape), precision)
        best = int(np.argmin(cost))
        middle, span = float(np.log10(ratio[best, 0])), span / 10
    scale, r = float(np.exp(factor[best])), float(ratio[best, 0])
    return NoiseModel(scale / (1 + r), scale * r / (1 + r) / top)


def _local_mean(values: Plane, usable: Mask) -> Plane:
    """Return the mean of the usable pixels among 3 x 3; zero where there are none."""
    total = ndimage.uniform_filter(np.where(usable, values, 0), 3, mode="constant")
    weight = ndimage.uniform_filter(usable.astype(np.float64), 3, mode="constant")
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0.05)
