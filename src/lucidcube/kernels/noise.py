"""Estimate the noise of a plane from the plane alone, as a function of the signal."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[np.floating]
Mask = NDArray[np.bool_]

MAD_TO_SIGMA = 1.4826
"""Ratio of the standard deviation to the median absolute deviation of a normal distribution."""
OUTLIER = 5.0
"""Residuals beyond this number of standard deviations are artefacts or point sources."""
TRUNCATED = 0.9112
"""Variance of a normal distribution that is cut off at 2.5 standard deviations."""
BIN_SIZE, MAX_BINS = 128, 24
"""Minimum number of residuals in a bin of the signal, and maximum number of bins."""
FEWEST = 16
"""With fewer residuals than this, the scatter of the values themselves is used."""
FLOOR = 1e-6
"""Smallest standard deviation as a fraction of the largest value: about ten times the rounding of float32."""
SMOOTHING = 1.25
"""Standard deviation, in pixels, of the Gaussian that smooths the signal."""
STRUCTURE = 1.5
"""Scatter by which the variance of a bin may exceed the line before it counts as structure."""
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
    usable = _usable(values, exclude)
    mean = _local_mean(values, usable)
    excess = np.maximum(_local_mean((values - mean) ** 2, usable) - model.variance(mean), 0)
    share = np.divide(excess, excess + model.variance(mean))
    signal = mean + np.where(usable, share * (values - mean), 0)
    variance = np.maximum(model.variance(signal), np.finfo(np.float32).tiny)
    return np.where(np.isfinite(values), variance, np.nan).astype(np.float32)


def correlated_pixels(plane: Plane, variance: Plane, exclude: Mask | None = None) -> float:
    """Return over how many pixels the noise is correlated, that is how many pixels say as much as one.

    The noise is described as white noise that was smoothed by a Gaussian. Its width follows from the
    variances of neighbours and of pixels at a distance, where the plane is flattest, see `fit_noise`.

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
        1 if there is no significant correlation, else the sum of the correlations with all pixels.
    """
    usable = _usable(plane, exclude) & (np.nan_to_num(variance) > 0)
    if not usable.any():
        return 1.0
    scale = np.float64(np.abs(plane[usable]).max() or 1.0)
    values = np.where(usable, plane / scale, np.nan)
    spread = _gaussian(np.where(usable, variance / scale**2, 0), usable)
    width = _noise_width(_correlation(values, usable, spread))
    return float(np.sum(_gaussian_correlation(np.arange(-20.0, 21), width)) ** 2)


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
    than the noise. Where the plane is flattest, the same filter is applied to pixels that are `APART` from
    each other. If its residuals have a significantly larger variance there, the result is corrected, as for
    white noise that was smoothed by a Gaussian.

    Parameters
    ----------
    plane, exclude
        As for `estimate_variance`.

    Returns
    -------
    NoiseModel
        Both numbers are not negative; the constant is greater than zero.
    """
    usable = _usable(plane, exclude)
    if not usable.any():
        return NoiseModel(1.0, 0.0)
    scale = float(np.abs(plane[usable]).max())
    if scale == 0:
        return NoiseModel(1.0, 0.0)
    values = np.where(usable, plane / scale, np.nan)
    model = _fit(values, usable)
    factor = _correlation(values, usable, model.variance(_gaussian(values, usable)))
    factor /= _filtered_variance(APART, _noise_width(factor))
    model = NoiseModel(factor * model.constant, factor * model.slope)
    constant, slope = max(model.constant, FLOOR**2), max(model.slope, 0.0)
    return NoiseModel(max(constant * scale**2, float(np.finfo(np.float32).tiny)), slope * scale)


def _fit(values: Plane, usable: Mask) -> NoiseModel:
    """Fit the noise of values whose largest modulus is 1."""
    residual = _high_pass(values)
    good = np.isfinite(residual)
    if np.count_nonzero(good) < FEWEST:
        return NoiseModel(_variance(values[usable] - np.median(values[usable])), 0.0)
    # A median removes hot pixels before they are known, but its result depends on the noise of the residuals.
    smooth = _gaussian(ndimage.median_filter(np.where(usable, values, _gaussian(values, usable)), 3), usable)
    model = _line(smooth[good], residual[good], _gradient(smooth)[good])
    for _ in range(2):
        far = good & (np.abs(np.nan_to_num(residual)) > OUTLIER * np.sqrt(model.variance(smooth)))
        kept = good & ~ndimage.binary_dilation(far, np.ones((3, 3), bool))
        if np.count_nonzero(residual[kept]) < max(FEWEST, int(np.count_nonzero(residual[good])) // 2):
            break  # these are no outliers, but the noise of few counts
        smooth = _gaussian(values, usable & ~far)
        model = _line(smooth[kept], residual[kept], _gradient(smooth)[kept])
    return model


def _correlation(values: Plane, usable: Mask, variance: Plane) -> float:
    """Return the ratio of the variance of independent pixels to that of neighbours, 1 if they agree."""
    near, far = _high_pass(values), _high_pass(values, APART)
    flat = _flattest(values, usable, np.isfinite(near) & np.isfinite(far) & (variance > 0))
    if flat.size < BIN_SIZE:
        return 1.0
    sigma = np.sqrt(variance.ravel()[flat])
    apart, adjacent = (_variance(residual.ravel()[flat] / sigma) for residual in (far, near))
    ratio = apart / adjacent if adjacent > 0 else 1.0
    return ratio if ratio > 1 + SIGNIFICANT / np.sqrt(flat.size) else 1.0


def _gaussian_correlation(distance: Plane, width: float) -> Plane:
    """Return the correlation along one axis of white noise that was smoothed by a Gaussian."""
    return np.exp(-np.square(distance) / (4 * max(width, 1e-3) ** 2))


def _filtered_variance(step: int, width: float) -> float:
    """Return the variance of the residuals of `_high_pass` for smoothed noise of variance 1."""
    near, far = _gaussian_correlation(np.array([1.0, 2.0]) * step, width)
    return float((6 - 8 * near + 2 * far) / 6) ** 2


def _noise_width(ratio: float) -> float:
    """Return the width of the Gaussian for which `_correlation` is this ratio; 0 for independent pixels."""
    if ratio <= 1:
        return 0.0
    widths = np.linspace(0, WIDEST, 301)
    ratios = [_filtered_variance(APART, w) / _filtered_variance(1, w) for w in widths]
    return float(np.interp(ratio, np.maximum.accumulate(ratios), widths))


def _flattest(values: Plane, usable: Mask, candidates: Mask) -> NDArray[np.intp]:
    """Return the flat indices of the candidates where the smoothed plane has the smallest gradient."""
    known = np.flatnonzero(candidates)
    number = known.size // FLAT_SHARE
    steep = _gradient(_gaussian(values, usable, FLAT_SCALE)).ravel()[known]
    return known[np.argpartition(steep, number)[:number]] if number else known[:0]


def _usable(plane: Plane, exclude: Mask | None) -> Mask:
    finite: Mask = np.isfinite(plane)
    return finite if exclude is None else finite & ~exclude.astype(bool)


def _high_pass(values: Plane, step: int = 1) -> Plane:
    """Return the residuals (y, x) of pixels that are `step` apart, whose noise equals that of the values; NaN
    next to missing pixels."""
    residual = np.full(values.shape, np.nan)
    if min(values.shape) > 2 * step:
        rows = values[: -2 * step] - 2 * values[step:-step] + values[2 * step :]
        across = rows[:, : -2 * step] - 2 * rows[:, step:-step] + rows[:, 2 * step :]
        residual[step:-step, step:-step] = across / 6
    return residual


def _gaussian(values: Plane, usable: Mask, width: float = SMOOTHING) -> Plane:
    """Return the mean of the usable values, weighted by a Gaussian; zero where there are none."""
    light = ndimage.gaussian_filter(np.where(usable, values, 0), width)
    weight = ndimage.gaussian_filter(usable.astype(np.float64), width)
    return np.divide(light, weight, out=np.zeros_like(light), where=weight > 1e-3)


def _gradient(smooth: Plane) -> Plane:
    """Return the modulus of the gradient."""
    return np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))


def _variance(residual: Plane) -> float:
    """Return the variance of residuals with a mean of zero, robust unless more than half of them are zero.

    The median absolute deviation tells which residuals are within 2.5 standard deviations; their mean square
    has a much smaller scatter.
    """
    sigma = MAD_TO_SIGMA * float(np.median(np.abs(residual)))
    if sigma == 0:
        return float(np.mean(residual**2))
    return float(np.mean(residual[np.abs(residual) < 2.5 * sigma] ** 2)) / TRUNCATED


def _line(signal: Plane, residual: Plane, steep: Plane) -> NoiseModel:
    """Fit the line to the variances in bins of the signal with about equal numbers of residuals."""
    order = np.argsort(signal, kind="stable")
    bins = np.array_split(order, max(1, min(MAX_BINS, order.size // BIN_SIZE)))
    flat = [b[np.argsort(steep[b], kind="stable")[: max(FEWEST // 2, b.size // 2)]] for b in bins]
    level = np.array([max(float(np.median(signal[b])), 0.0) for b in flat])
    variance = np.array([_variance(residual[b]) for b in flat])
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
    logs = np.log(variance) + 2 / count  # corrected for the mean of the logarithm
    precision = 1 / (4 / count + 0.03**2)  # inverse variance of the logarithms, measured on white noise
    span, middle = 5.0, 0.0
    for _ in range(4):
        ratio = 10.0 ** np.linspace(middle - span, middle + span, 41)[:, None]
        shape = (1 + ratio * level / top) / (1 + ratio)
        cost, factor = _robust_mean(logs - np.log(shape), precision)
        best = int(np.argmin(cost))
        middle, span = float(np.log10(ratio[best, 0])), span / 10
    scale, r = float(np.exp(factor[best])), float(ratio[best, 0])
    return NoiseModel(scale / (1 + r), scale * r / (1 + r) / top)


def _robust_mean(values: Plane, precision: Plane) -> tuple[Plane, Plane]:
    """Return the cost and the mean of each row; values above the mean lose weight, those below keep it."""
    mean = np.median(values, axis=1, keepdims=True)
    for _ in range(15):
        excess = np.maximum((values - mean) * np.sqrt(precision), STRUCTURE)
        weight = precision * STRUCTURE / excess
        mean = (weight * values).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    excess = (values - mean) * np.sqrt(precision)
    cost = np.where(excess > STRUCTURE, STRUCTURE * (2 * excess - STRUCTURE), excess**2).sum(1)
    return cost, mean[:, 0]


def _local_mean(values: Plane, usable: Mask) -> Plane:
    """Return the mean of the usable pixels among 3 x 3; zero where there are none."""
    total = ndimage.uniform_filter(np.where(usable, values, 0), 3, mode="constant")
    weight = ndimage.uniform_filter(usable.astype(np.float64), 3, mode="constant")
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0.05)
