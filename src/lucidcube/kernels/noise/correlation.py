"""Measure how the noise of neighbouring pixels is correlated."""

import math
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.noise.filters import (
    Mask,
    Plane,
    flattest_first,
    high_pass,
    high_pass_variance,
    near_outliers,
    robust_variance,
    usable_pixels,
)

APART = 3
"""Pixels this far apart have nearly independent noise, also after the usual resampling."""
FEWEST = 64
"""With fewer residuals than this, nothing is measured."""
FLAT_SHARE = 3
"""The correlation is measured in one pixel out of this number, where the smoothed plane is flattest."""
WIDEST = 3.0
"""Largest width, in pixels, of the Gaussian that describes correlated noise."""
REACH = int(4 * WIDEST)
"""Pixels on either side to which the Gaussian extends."""
WHITE = -2 / 3
"""Correlation of neighbouring residuals of `high_pass` for independent pixels."""
SCATTER = 0.9
"""Standard deviation of this correlation times the root of the number of residuals, measured on noise."""
SIGNIFICANT = 3.5
"""Standard deviations by which the correlation must exceed that of independent pixels."""
NORMAL_TAILS = 2.4387
"""Ratio of the 90th percentile to the median of the moduli of normal residuals."""
TAILS, TAILS_SCATTER = 1.1, 1.6
"""Ratio of these percentiles, compared with normal ones, beyond which the residuals are structure, such as a
field crowded with stars; and its standard deviation times the root of the number of residuals."""
LEAST = 0.03
"""Smallest excess that counts, which belongs to a width of 0.4 pixels: crowded fields reach 0.02."""


class Residuals(NamedTuple):
    """The residuals of `high_pass` of a plane, divided by the standard deviation of independent noise."""

    near: Plane
    """(y, x) residuals of adjacent pixels, NaN where there are none."""
    far: Plane
    """(y, x) residuals of pixels that are `APART`."""
    order: NDArray[np.int32]
    """Flat indices of `near`, in order of the slope of the smoothed plane."""

    @classmethod
    def of(cls, values: Plane, usable: Mask, variance: Plane) -> Self:
        """Filter a plane of usable values whose noise has this variance."""
        known = usable & (variance > 0)
        values, variance = (np.where(known, array, np.nan) for array in (values, variance))
        near, far = (high_pass(values, s) / np.sqrt(high_pass_variance(variance, s)) for s in (1, APART))
        return cls(near, far, flattest_first(values, known, np.isfinite(near)).astype(np.int32))

    def minus(self, other: "Residuals") -> "Residuals":
        """Return the residuals of the difference of two planes, as large as those of either."""
        near, far = ((a - b) / np.sqrt(2) for a, b in zip(self[:2], other[:2], strict=True))
        return Residuals(near, far, self.order)

    @property
    def flattest(self) -> Mask:
        """Where the residuals (y, x) are those of the flattest part of the plane."""
        flat = np.zeros(self.near.shape, bool)
        flat.ravel()[self.order[: self.order.size // FLAT_SHARE]] = True
        return flat & np.isfinite(self.near)


class Correlation(NamedTuple):
    """What the residuals of `high_pass` say about the correlation of the noise."""

    neighbours: float = WHITE
    """Correlation of neighbouring residuals, the mean of both axes."""
    distant: float = 1.0
    """Variance of the residuals of pixels that are `APART`, divided by that of adjacent pixels."""
    tails: float = 1.0
    """Ratio of the 90th percentile to the median of the moduli of the residuals; 1 if they are normal."""
    number: float = 0.0
    """Number of independent residuals; 0 if nothing is known."""

    @classmethod
    def of(cls, residuals: Residuals) -> Self:
        """Measure the residuals where the plane is flattest; `number` is 0 if there are too few."""
        near, flat = residuals.near, residuals.flattest
        number = np.count_nonzero(flat)
        adjacent = robust_variance(near[flat]) if number >= FEWEST else 0.0
        if adjacent == 0:
            return cls()
        far = residuals.far[flat & np.isfinite(residuals.far)]
        return cls(
            neighbours=(_neighbours(near, flat) + _neighbours(near.T, flat.T)) / 2,
            distant=robust_variance(far) / adjacent if far.size >= FEWEST else math.inf,
            tails=_tails(near[flat & ~near_outliers(near, math.sqrt(adjacent))]),
            number=float(number),
        )

    @classmethod
    def pooled(cls, several: Iterable["Correlation"], independent: float) -> Self:
        """Return the mean of several planes, of which the fraction `independent` is independent."""
        known = np.array([one for one in several if one.number > 0])
        if not len(known):
            return cls()
        neighbours, distant, tails, number = known.T
        return cls(
            neighbours=float(np.average(neighbours, weights=number)),
            distant=float(np.median(distant)),
            tails=float(np.median(tails)),
            number=max(float(number.max()), independent * float(number.sum())),
        )

    @property
    def structured(self) -> bool:
        """Whether the residuals are structure as fine as pixels rather than noise."""
        return self.number > 0 and self.tails > TAILS + 2 * TAILS_SCATTER / math.sqrt(self.number)

    @property
    def error(self) -> float:
        """Standard error of `neighbours`."""
        return SCATTER / math.sqrt(self.number) if self.number else math.inf

    @property
    def width(self) -> float:
        """Standard deviation in pixels of the Gaussian that describes the noise; 0 if insignificant."""
        significant = self.neighbours - WHITE > max(SIGNIFICANT * self.error, LEAST)
        return _width(self.neighbours) if significant and not self.structured else 0.0

    @property
    def inflation(self) -> float:
        """The variance of a pixel divided by that of the residuals of `high_pass`.

        Pixels at a distance give it whatever the shape of the correlation, but structure of the object adds
        to their residuals. It is limited by what the Gaussian of `width` predicts from adjacent pixels.
        """
        width = self.width
        if width == 0:
            return 1.0
        measured = self.distant / _filtered_variance(APART, width)
        return min(max(measured, 1.0), 1 / _filtered_variance(1, width))

    @property
    def largest_inflation(self) -> float:
        """Upper limit of `inflation`, also where the correlation is not significant."""
        width = _width(self.neighbours + 2 * self.error) if self.number else WIDEST
        return max(self.inflation, 1 / _filtered_variance(1, width) if self.width == 0 else 1.0)


def noise_width(plane: Plane, variance: Plane, exclude: Mask | None = None) -> float:
    """Return the standard deviation in pixels of the Gaussian that describes the correlation of the noise.

    The noise is described as white noise that was smoothed by `scipy.ndimage.gaussian_filter`. The width
    follows from the correlation of neighbouring residuals of the filter of `fit_noise`, where the plane is
    flattest. The filter removes structure wider than about three pixels, which cannot be mistaken for
    correlated noise. Finer structure, such as a field crowded with stars, is told from noise by residuals
    that are not normal.

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
    spread = np.where(usable, variance, 0) / scale**2
    return Correlation.of(Residuals.of(np.where(usable, plane, 0) / scale, usable, spread)).width


def correlated_pixels(plane: Plane, variance: Plane, exclude: Mask | None = None) -> float:
    """Return how many pixels say as much as one, because their noise is correlated.

    The arguments are those of `noise_width`. The result is 1 if there is no significant correlation, else the
    sum of the correlations of a pixel with all others.
    """
    correlations = _correlations(noise_width(plane, variance, exclude))
    return float(2 * correlations.sum() - 1) ** 2


def _neighbours(residual: Plane, flat: Mask) -> float:
    """Return the robust correlation of residuals with those in the next column."""
    both = flat[:, 1:] & flat[:, :-1]
    left, right = residual[:, :-1][both], residual[:, 1:][both]
    if not left.size:
        return WHITE
    total, difference = robust_variance(left + right), robust_variance(left - right)
    return (total - difference) / (total + difference) if total + difference > 0 else WHITE


def _tails(residual: Plane) -> float:
    """Return the ratio of the 90th percentile to the median of the moduli, relative to normal residuals."""
    if not residual.size:
        return math.inf
    middle, high = np.quantile(np.abs(residual), [0.5, 0.9])
    return float(high / (NORMAL_TAILS * middle)) if middle > 0 else math.inf


def _correlations(width: float) -> NDArray[np.float64]:
    """Return the correlations along one axis, by distance in pixels, of white noise that was smoothed."""
    weights = np.exp(-np.square(np.arange(-REACH, REACH + 1.0)) / (2 * max(width, 1e-2) ** 2))
    return np.correlate(weights, weights, "full")[2 * REACH :] / np.sum(np.square(weights))


def _filtered_variance(step: int, width: float) -> float:
    """Return the variance of the residuals of `high_pass` for smoothed noise of variance 1."""
    near, far = _correlations(width)[[step, 2 * step]]
    return float((6 - 8 * near + 2 * far) / 6) ** 2


@cache
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return widths, and the correlation of neighbouring residuals of `high_pass` for each."""
    widths = np.linspace(0, WIDEST, 301)
    one, two, three = np.array([_correlations(width)[1:4] for width in widths]).T
    table = (-4 + 7 * one - 4 * two + three) / (6 - 8 * one + 2 * two)
    return widths, np.maximum.accumulate(table)


def _width(neighbours: float) -> float:
    """Return the width of the Gaussian for which neighbouring residuals have this correlation."""
    widths, table = _table()
    return float(np.interp(neighbours, table, widths))
