"""Shift a plane by a fraction of a pixel so that flux and width are kept and missing pixels stay missing."""

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy import ndimage
from scipy.optimize import least_squares
from scipy.special import i0

from lucidcube.kernels.psf import Doubles, Floats, Mask, Reals

# Reach of the interpolation in pixels on either side. The error is at most 0.16 % of the peak for a Gaussian
# of 2 pixels FWHM, 0.05 % for one of 3 pixels. A longer window would ring more about a sharp star.
HALF_LENGTH = 6
_KAISER_BETA = 7.0
_NEGLIGIBLE_SHARE = 1e-3
_CORE_LEVEL = 0.25  # of the maximum
_MIN_CORE = 8  # pixels
_REACH = 40  # pixels from the maximum, about ten times the largest sigma
_MIN_SIGMA, _MAX_SIGMA = 0.5, 4.0  # pixels: a narrower source is not a star, a wider one is interpolated well


class Core(NamedTuple):
    """Round Gaussian fitted to the core of a star, which can be moved without interpolation."""

    y: float
    x: float
    sigma: float
    peak: float

    def image(self, shape: tuple[int, ...], offset_y: float = 0.0, offset_x: float = 0.0) -> Floats:
        """Return the Gaussian sampled at the pixel centres of a (y, x) grid, moved by the offsets."""
        dy = (np.arange(shape[0]) - self.y - offset_y) / self.sigma
        dx = (np.arange(shape[1]) - self.x - offset_x) / self.sigma
        along_y, along_x = self.peak * np.exp(-0.5 * dy**2), np.exp(-0.5 * dx**2)
        return (along_y[:, None] * along_x).astype(np.float32)


def sigma_from_area(n_pixels: int) -> float:
    """Return the sigma in pixels of the round Gaussian with `n_pixels` pixels above half its maximum."""
    return float(np.sqrt(n_pixels / (2.0 * np.pi * np.log(2.0))))


def fit_core(plane: Reals) -> Core | None:
    """Fit a Gaussian and a constant to the pixels about the maximum of a star (y, x); NaN = missing.

    The result is None if the core has too few pixels, or its sigma is outside 0.5 to 4 pixels.
    """
    brightest = np.unravel_index(int(np.nanargmax(plane)), plane.shape)
    maximum = float(plane[brightest])
    first = [max(int(n) - _REACH, 0) for n in brightest]
    near = plane[tuple(slice(n, int(m) + _REACH + 1) for n, m in zip(first, brightest, strict=True))]
    labels, _ = ndimage.label(near > _CORE_LEVEL * maximum)
    label = labels[brightest[0] - first[0], brightest[1] - first[1]]
    pixels = ndimage.binary_dilation(labels == label, np.ones((3, 3))) & np.isfinite(near)
    y, x = np.nonzero(pixels)
    y, x = y + first[0], x + first[1]
    values = near[pixels].astype(np.float64) / maximum
    if values.size < _MIN_CORE:
        return None
    sigma = sigma_from_area(int(np.count_nonzero(values > 0.5)))
    if not sigma < _MAX_SIGMA:
        return None

    def residual(p: Doubles) -> Doubles:
        squared = (y - p[0]) ** 2 + (x - p[1]) ** 2
        return np.asarray(p[3] * np.exp(-0.5 * squared / p[2] ** 2) + p[4] - values)

    start = np.array([brightest[0], brightest[1], max(sigma, _MIN_SIGMA), 1.0, 0.0])
    best = least_squares(residual, start, method="lm", max_nfev=300).x
    centre_y, centre_x, sigma, height, _ = map(float, best)
    core = Core(centre_y, centre_x, abs(sigma), height * maximum)
    inside = max(abs(core.y - brightest[0]), abs(core.x - brightest[1])) < 2.0
    return core if inside and _MIN_SIGMA < core.sigma < _MAX_SIGMA and 0.0 < height < 3.0 else None


def shift_weights(offset: float) -> tuple[int, Doubles]:
    """Return the weights that shift samples by `offset` towards larger indices.

    The result is `first` and `weights` in ``out[i] = sum_k weights[k] * in[i + first + k]``. The weights are
    a sinc times a Kaiser window, of unit sum; a whole number gives a single weight of one.
    """
    whole = round(offset)
    fraction = offset - whole
    if fraction == 0.0:
        return -whole, np.ones(1)
    position = np.arange(-HALF_LENGTH, HALF_LENGTH + 1) + fraction
    window = i0(_KAISER_BETA * np.sqrt(1.0 - (position / (HALF_LENGTH + 0.5)) ** 2))
    weights = np.sinc(position) * window
    return -whole - HALF_LENGTH, weights / weights.sum()


def move_whole_pixels(mask: Mask, step_y: int, step_x: int, *, outside: bool) -> Mask:
    """Return a mask moved by whole pixels; `outside` is the value of pixels from beyond the edge."""
    reach = max(abs(step_y), abs(step_x))
    framed = np.pad(mask, reach, constant_values=outside)
    return framed[reach - step_y :, reach - step_x :][: mask.shape[0], : mask.shape[1]]


class Shift:
    """Shift of one plane by fractions of a pixel, which can be repeated with other offsets.

    A star narrower than about 2.5 pixels FWHM is undersampled, and interpolation alone would make it up
    to 2 % too wide. If the `core` found by `fit_core` is given, the Gaussian is evaluated at its new
    position and only the remainder is interpolated.

    Missing pixels (NaN) are first filled from their neighbours so that they do not cause ringing. An output
    pixel is missing if missing pixels cover more than a thousandth of it. The background of the plane (y, x)
    should be about zero.
    """

    def __init__(self, plane: Reals, core: Core | None = None) -> None:
        self._missing = ~np.isfinite(plane)
        self._core = core
        self._filled = _framed(plane if core is None else plane - core.image(plane.shape))

    def image(self, offset_y: float, offset_x: float) -> Floats:
        """Return the plane shifted by finite offsets in pixels, towards larger indices where positive.

        Pixels that would come from missing pixels or from beyond the edge are NaN.
        """
        image = _separable(self._filled, *shift_weights(offset_y), *shift_weights(offset_x))
        if self._core is not None:
            image += self._core.image(self._missing.shape, offset_y, offset_x)
        image[self._missing_after(offset_y, offset_x)] = np.nan
        return image

    def variance(self, variance: Reals, offset_y: float, offset_x: float) -> Floats:
        """Return the variance of the shifted plane from that of the plane (NaN = unknown).

        The propagation is exact for each pixel, but the noise of neighbouring pixels becomes correlated.
        The result is NaN where `image` is.
        """
        (first_y, weights_y), (first_x, weights_x) = shift_weights(offset_y), shift_weights(offset_x)
        shifted = _separable(_framed(variance), first_y, weights_y**2, first_x, weights_x**2)
        shifted[self._missing_after(offset_y, offset_x)] = np.nan
        return shifted

    def _missing_after(self, offset_y: float, offset_x: float) -> Mask:
        """Return where the footprint of a shifted pixel contains missing or outside pixels."""
        missing = np.zeros_like(self._missing)
        floor_y, floor_x = int(np.floor(offset_y)), int(np.floor(offset_x))
        share_y, share_x = offset_y - floor_y, offset_x - floor_x
        for step_y, weight_y in ((floor_y, 1.0 - share_y), (floor_y + 1, share_y)):
            for step_x, weight_x in ((floor_x, 1.0 - share_x), (floor_x + 1, share_x)):
                if weight_y * weight_x > _NEGLIGIBLE_SHARE:
                    missing |= move_whole_pixels(self._missing, step_y, step_x, outside=True)
        return missing


def _framed(plane: Reals) -> Floats:
    """Return a copy without missing pixels, in a frame as wide as the reach of the interpolation."""
    framed = np.pad(plane.astype(np.float32), HALF_LENGTH, constant_values=np.nan)
    return _fill_outwards(framed, HALF_LENGTH + 1)


def _separable(framed: Floats, first_y: int, weights_y: Doubles, first_x: int, weights_x: Doubles) -> Floats:
    """Correlate along x and y with one-dimensional weights, and drop the frame."""
    return _correlate(_correlate(framed.T, first_x, weights_x).T, first_y, weights_y)


def _correlate(framed: Floats, first: int, weights: Doubles) -> Floats:
    """Correlate along the first axis, and drop its frame; samples beyond the frame count as zero."""
    length = framed.shape[0] - 2 * HALF_LENGTH
    out = np.zeros_like(framed[:length])
    for step, weight in enumerate(weights.astype(np.float32), first + HALF_LENGTH):
        low, high = max(0, -step), min(length, framed.shape[0] - step)
        if low < high:
            out[low:high] += weight * framed[low + step : high + step]
    return out


@njit(cache=True, nogil=True)
def _fill_outwards(plane: Floats, n_passes: int) -> Floats:
    """Fill NaN within `n_passes` pixels of data by the mean of their filled neighbours, the rest by zero."""
    height, width = plane.shape
    rows, columns = np.nonzero(np.isnan(plane))
    means = np.full(rows.size, np.nan, np.float32)
    for _ in range(n_passes):
        for k in range(rows.size):
            y, x = rows[k], columns[k]
            total, known = 0.0, 0
            for j in range(max(y - 1, 0), min(y + 2, height)):
                for i in range(max(x - 1, 0), min(x + 2, width)):
                    if not np.isnan(plane[j, i]):
                        total += plane[j, i]
                        known += 1
            if known > 0:
                means[k] = total / known
        for k in range(rows.size):
            plane[rows[k], columns[k]] = means[k]
        missing = np.isnan(means)
        rows, columns, means = rows[missing], columns[missing], means[missing]
    for k in range(rows.size):
        plane[rows[k], columns[k]] = 0.0
    return plane
