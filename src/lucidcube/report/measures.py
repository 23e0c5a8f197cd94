"""Measure planes: sharpness, power spectra, and the width and profile of a PSF."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.report.product_file import Plane

Doubles = NDArray[np.float64]

SMOOTHING = 1.0
"""Standard deviation in pixels of the Gaussian under which images are compared."""
STEP, DIRECTIONS = 0.1, 32
"""Distance in pixels between the points of a ray from the centre of a PSF, and number of rays."""


class Spectrum(NamedTuple):
    """Azimuthal average of a power spectrum at frequencies in cycles per pixel."""

    frequency: Doubles
    power: Doubles


def sharpness(plane: Plane) -> float:
    """Return the root mean square gradient of a plane relative to its root mean square value, per pixel.

    The plane (y, x) is smoothed by a Gaussian of one pixel, so that noise counts little; NaN is zero. The
    result is NaN for a plane without light.
    """
    smooth = ndimage.gaussian_filter(np.nan_to_num(plane).astype(np.float64), SMOOTHING)
    light = float(np.sum(smooth**2))
    down, right = np.gradient(smooth) if min(smooth.shape) > 1 else (np.zeros(1), np.zeros(1))
    return math.sqrt(float(np.sum(down**2) + np.sum(right**2)) / light) if light > 0 else math.nan


def power_spectrum(plane: Plane) -> Spectrum:
    """Return the azimuthally averaged power spectrum of a plane (y, x) under a Hann window.

    NaN is zero, and the mean is subtracted. The power is normalised by the square of the window, so that
    white noise has its variance at all frequencies, up to 0.5 cycles per pixel.
    """
    values = np.nan_to_num(plane).astype(np.float64)
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in values.shape))
    power = np.abs(np.fft.rfft2((values - values.mean()) * window)) ** 2 / np.sum(window**2)
    y, x = np.fft.fftfreq(values.shape[0])[:, None], np.fft.rfftfreq(values.shape[1])
    bins = max(min(values.shape) // 2, 1)
    number = np.minimum((np.hypot(y, x) * 2 * bins).astype(int), bins)
    counts = np.bincount(number.ravel(), minlength=bins + 1)[:bins]
    total = np.bincount(number.ravel(), power.ravel(), minlength=bins + 1)[:bins]
    mean = np.divide(total, counts, out=np.full(bins, math.nan), where=counts > 0)
    return Spectrum((np.arange(bins) + 0.5) / (2 * bins), mean)


def width(psf: Plane) -> float:
    """Return the full width at half maximum of a PSF in pixels: that of the circle with the same area."""
    centre = np.unravel_index(np.nanargmax(psf), psf.shape) if np.isfinite(psf).any() else None
    if centre is None or not np.nanmax(psf) > 0:
        return math.nan
    radius = np.arange(0, max(psf.shape) / 2, STEP)
    angle = np.arange(DIRECTIONS)[:, None] * (2 * math.pi / DIRECTIONS)
    places = np.array([centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)])
    rays = ndimage.map_coordinates(np.nan_to_num(psf).astype(np.float64), places, order=3, mode="nearest")
    level = rays[:, 0].mean() / 2
    below = np.argmax(rays < level, axis=1)  # the first radius below half of the maximum
    if not below.all():
        return math.nan
    inner, outer = (rays[np.arange(DIRECTIONS), below - n] for n in (1, 0))
    reach = STEP * (below - 1 + (inner - level) / (inner - outer))
    return 2 * math.sqrt(float(np.mean(reach**2)))


def radial_profile(plane: Plane, centre: tuple[float, float]) -> tuple[Doubles, Doubles]:
    """Return radii in pixels and the mean of a plane in annuli of one pixel around a centre (y, x)."""
    y, x = np.indices(plane.shape)
    number = np.rint(np.hypot(y - centre[0], x - centre[1])).astype(int)
    known = np.isfinite(plane)
    counts = np.bincount(number[known])
    total = np.bincount(number[known], plane[known].astype(np.float64))
    mean = np.divide(total, counts, out=np.full(counts.size, math.nan), where=counts > 0)
    return np.arange(counts.size, dtype=np.float64), mean


class StarFit(NamedTuple):
    """A star and its model, both on the pixels of the star, without the background and with unit flux."""

    data: Plane
    model: Plane
    centre: tuple[float, float]


def compare_star(star: Plane, psf: Plane) -> StarFit | None:
    """Place a PSF on a star, with the position, flux and background of least squares.

    None is returned if there is no star or no PSF.
    """
    if not (np.isfinite(star).any() and np.isfinite(psf).any()):
        return None
    known = np.isfinite(star)
    values = np.where(known, star, np.nanmedian(star)).astype(np.float64)
    found = np.unravel_index(np.argmax(ndimage.gaussian_filter(values, SMOOTHING)), star.shape)
    y, x = float(found[0]), float(found[1])
    middle = (np.array(psf.shape) - 1) / 2
    spline = ndimage.spline_filter(np.nan_to_num(psf).astype(np.float64), order=3)
    rows, columns = np.indices(star.shape, dtype=np.float64)

    def placed(dy: float, dx: float) -> Doubles:
        places = np.array([rows - dy + middle[0], columns - dx + middle[1]])
        return ndimage.map_coordinates(spline, places, order=3, prefilter=False)

    flux = background = 0.0
    for _ in range(5):
        model = placed(y, x)
        down, right = np.gradient(model)
        terms = np.stack([model, -down, -right, np.ones_like(model)], axis=-1)[known]
        flux, move_y, move_x, background = map(float, np.linalg.lstsq(terms, values[known])[0])
        if not flux > 0:
            return None
        y, x = (p + float(np.clip(m / flux, -1, 1)) for p, m in ((y, move_y), (x, move_x)))
    data = np.where(known, (values - background) / flux, math.nan)
    return StarFit(data, placed(y, x), (y, x))


def difference(image: Plane, truth: Plane) -> tuple[float, float]:
    """Return sums of squares of the difference of two planes, and of the truth, both smoothed by one pixel.

    The root of their ratio, summed over planes, is the relative error of an image. NaN is zero.
    """
    a, b = (ndimage.gaussian_filter(np.nan_to_num(p).astype(np.float64), SMOOTHING) for p in (image, truth))
    return float(np.sum((a - b) ** 2)), float(np.sum(b**2))
