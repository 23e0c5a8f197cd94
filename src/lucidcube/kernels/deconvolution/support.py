"""Whether a plane supports a resolution: how much of the target PSF the data tell above the noise."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import Pixels, Variance
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.resolution import FWHM
from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.kernels.noise import correlated_pixels, known_variance
from lucidcube.kernels.noise.filters import gaussian_mean

AREA = 9 * math.pi
"""Pixels whose noise competes with a point source, for a Gaussian of one pixel: a circle of three sigma."""
FREQUENCIES = 64
"""Number of spatial frequencies along each axis, from zero to the highest."""
HOLE_SMOOTHING = 2.0
"""Width in pixels of the Gaussian that fills missing pixels."""
COARSEST = 4.0
"""Width of the coarsest resolution that is tried, in units of the width of the PSF."""
STEPS = 12


class Brightest(NamedTuple):
    """The brightest place of a plane, seen as a point source."""

    signal_to_noise: float
    """Of its flux, under a filter that matches the PSF; 0 where nothing is known."""
    flux: float
    """Flux over the standard deviation of the noise of a pixel there."""


def brightest_place(
    plane: Plane,
    psf: NDArray[np.floating],
    variance: Variance = None,
    filled: NDArray[np.generic] | None = None,
) -> Brightest:
    """Return the brightest place of a plane; the arguments are as for `clean.clean_modified`.

    The flux is that of a point source with the same signal to noise ratio under the matched filter: for an
    extended object that from the area of the PSF. Noise that is correlated between pixels counts more.
    """
    valid = Pixels.of(plane, psf, filled).valid
    spread = known_variance(plane, variance, ~valid)
    known = valid & np.isfinite(spread) & (spread > 0)
    if not known.any():
        return Brightest(0.0, 0.0)
    values = np.where(valid, plane, gaussian_mean(plane, valid, HOLE_SMOOTHING))
    response = np.where(known, Convolver(psf, plane.shape).correlate(values), -np.inf)
    place = int(np.argmax(response))
    noise = math.sqrt(float(spread.flat[place]) * correlated_pixels(plane, spread, ~valid))
    energy = float(np.sum(np.square(psf, dtype=np.float64)))
    signal = max(float(response.flat[place]), 0.0) / noise
    return Brightest(signal / math.sqrt(energy), signal / energy)


def supported_fraction(psf: NDArray[np.floating], flux: float, sigma: float) -> float:
    """Return the fraction of the peak of a point source that the data tell at a resolution, from 0 to 1.

    Deconvolution from the PSF h to a Gaussian g of standard deviation `sigma`, in pixels, multiplies the
    noise by g/h. At a spatial frequency where h < g, Wiener's filter keeps the fraction

        S / (S + N (1 - h^2 / g^2))

    of an object whose power in the data is S = (`flux` |h|)^2, where the `flux` is in units of the noise of a
    pixel, and N = `AREA` `sigma`^2; where h >= g, where data are only smoothed, it keeps all. The mean of
    this, weighted by g, is the peak of the point source that the data tell, relative to its peak at the
    resolution: a Strehl ratio. What is missing, the method has to take from its prior.
    """
    frequency = np.linspace(0, 0.5, FREQUENCIES)
    # Negative frequencies along y as well; along x they are conjugate.
    rows, columns = np.concatenate([-frequency[:0:-1], frequency]), frequency
    target = np.exp(-2 * (math.pi * sigma) ** 2 * (rows[:, None] ** 2 + columns**2))
    modulation = _modulation(np.asarray(psf, np.float64), rows, columns)
    signal = (flux * modulation) ** 2
    # Where the target is far below the PSF, or is zero in floating point, nothing is amplified.
    ratio = np.divide(modulation, target, out=np.ones_like(target), where=modulation < target)
    amplified = AREA * sigma**2 * (1 - ratio**2)
    kept = np.divide(signal, signal + amplified, out=np.ones_like(signal), where=amplified > 0)
    weight = target * np.where(columns > 0, 2, 1)
    return float(np.sum(kept * weight) / np.sum(weight))


def finest_supported(psf: NDArray[np.floating], flux: float, fraction: float, finest: float) -> float:
    """Return the least standard deviation, from `finest` on, at which the data tell a fraction."""
    area = np.count_nonzero(psf > psf.max() / 2)
    low, high = finest, max(COARSEST * 2 * math.sqrt(area / math.pi) / FWHM, 2 * finest)
    if supported_fraction(psf, flux, low) >= fraction:
        return low
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        enough = supported_fraction(psf, flux, middle) >= fraction
        low, high = (low, middle) if enough else (middle, high)
    return high


def _modulation(
    psf: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the modulus of the transform of a PSF at frequencies along y and x, in cycles per pixel."""
    waves_y, waves_x = (
        np.exp(-2j * np.pi * np.outer(frequency, np.arange(side) - side // 2))
        for frequency, side in zip((rows, columns), psf.shape, strict=True)
    )
    modulation: NDArray[np.float64] = np.abs(waves_y @ psf @ waves_x.T)
    return modulation
