"""Numbers that tell whether the result of a deconvolution can be trusted."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.stopping import BRIGHT, FEWEST, LARGEST
from lucidcube.kernels.holes import Filled
from lucidcube.kernels.noise import MAD_TO_SIGMA, correlated_pixels

LARGEST_DEVIATION = math.sqrt(LARGEST)
"""Standard deviations to which a residual is limited, so that a missed artefact is no structure."""
EDGE_WIDTH = 2
"""Width of the edge of the field in pixels."""
EDGE_LIGHT = 0.2
"""Brightness at the edge, relative to that of the object, from which the object goes on beyond the edge."""
DETECTED = 10.0
"""Range of the smoothed plane, in standard deviations of its noise, from which there is an object."""
SCALE = 1.5
"""Standard deviation, in pixels, of the Gaussian that smooths the residual: about that of a sharp PSF."""


def residual_structure(
    plane: NDArray[np.floating],
    residual: NDArray[np.floating],
    variance: NDArray[np.floating] | None,
    filled: NDArray[np.generic] | None,
) -> float:
    """Return how much stronger the smooth part of a residual is than that of noise.

    The residual in standard deviations of the noise, at most five, is smoothed by a Gaussian, and its root
    mean square over the object is compared with that of smoothed noise. For noise alone the ratio would be 1;
    the fit takes some of it, so that 0.6 to 1.2 is usual. A PSF that is too wide, or has another
    shape, leaves rings at edges and stars, which make the ratio large where the signal-to-noise ratio is
    high. A PSF that is too narrow leaves none, because an object that is less sharp explains the data.

    Parameters
    ----------
    plane, residual, variance
        Data (y, x), what the model does not explain, and the variance of the noise.
    filled
        Values (y, x) of `Filled`, or None. Pixels that are not filled count where plane, residual and
        variance are finite and the variance is positive.

    Returns
    -------
    float
        The ratio; NaN if the variance is None, or if fewer than 30 pixels of the smoothed plane are brighter
        than 3 standard deviations.
    """
    if variance is None:
        return math.nan
    valid = np.ones(plane.shape, bool) if filled is None else filled == Filled.NO
    known = valid & np.isfinite(plane) & np.isfinite(residual) & np.isfinite(variance) & (variance > 0)
    deviation, signal = np.zeros((2, *plane.shape), np.float32)
    noise = np.sqrt(variance, where=known, out=np.ones(plane.shape, np.float32))
    np.divide(residual, noise, out=deviation, where=known)
    np.clip(deviation, -LARGEST_DEVIATION, LARGEST_DEVIATION, out=deviation)
    np.divide(plane, noise, out=signal, where=known)
    smooth = ndimage.gaussian_filter(deviation, SCALE, mode="constant")
    bright = known & (ndimage.gaussian_filter(signal, SCALE, mode="constant") > BRIGHT)
    if np.count_nonzero(bright) < FEWEST:
        return math.nan
    # The square of a Gaussian is a narrower Gaussian, which gives the variance of smoothed white noise.
    counted = ndimage.gaussian_filter(known.astype(np.float32), SCALE / math.sqrt(2), mode="constant")
    pixels = correlated_pixels(plane, variance, ~valid)
    expected = counted[bright] * pixels / (4 * math.pi * SCALE**2 + pixels - 1)
    return float(np.sqrt(np.mean(smooth[bright] ** 2, dtype=np.float64) / np.mean(expected)))


def light_at_edge(plane: NDArray[np.floating]) -> float:
    """Return the fraction of the pixels at the edge of the field where the object is bright.

    A pixel of the smoothed plane (y, x) is bright if it is above 20 % of the way from the 5th percentile,
    which is taken for the sky, to the 99th. The edge is the rim, two pixels wide, of the pixels with data.
    The result is 0 if there are none, or if nothing is brighter than the noise.
    """
    finite = np.isfinite(plane)
    if not finite.any():
        return 0.0
    light = ndimage.gaussian_filter(np.where(finite, plane, 0).astype(np.float64), SCALE)
    weight = ndimage.gaussian_filter(finite.astype(np.float64), SCALE)
    smooth = np.divide(light, weight, out=np.zeros_like(light), where=finite)
    sky, top = np.percentile(smooth[finite], [5, 99])
    difference = np.abs(np.diff(plane, axis=1)).astype(np.float64)
    noise = MAD_TO_SIGMA * np.nanmedian(difference) / math.sqrt(2) if np.isfinite(difference).any() else 0.0
    if not top - sky > DETECTED * noise / (2 * math.sqrt(math.pi) * SCALE):
        return 0.0
    # Holes in the field, such as hot pixels without data, are no edges.
    whole = ndimage.binary_closing(np.pad(finite, EDGE_WIDTH), iterations=EDGE_WIDTH)
    inside = ndimage.binary_erosion(whole, iterations=EDGE_WIDTH)
    edge = finite & ~inside[EDGE_WIDTH:-EDGE_WIDTH, EDGE_WIDTH:-EDGE_WIDTH]
    return float(np.mean(smooth[edge] > sky + EDGE_LIGHT * (top - sky))) if edge.any() else 0.0
