"""Errors of a deconvolved plane, from repeats of the deconvolution with simulated data."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.common import Deconvolution, Pixels, Variance, of_nearest
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.map import noise_by_pixel
from lucidcube.kernels.deconvolution.resolution import filtered_residual
from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.kernels.noise import noise_width

PILOTS = 2
"""Number of repeats that tell which pixels are significant."""
SIGNIFICANT = 4.0
"""Standard deviations above which the components of a pixel count as part of the object."""
BROAD_SMOOTHING = 4.0
"""Width, in pixels, of the Gaussian for what varies slowly: components of the other pixels, mean errors."""
BROAD_WEIGHT = 0.5
"""Weight of the mean squared error of the surroundings of a pixel, in repeats."""
VARIANCE_SMOOTHING, BIAS_SMOOTHING = 1.0, 2.0
"""Widths, in pixels, of the Gaussians over which the variance and the squared bias are averaged."""
LEAST_GAIN = 0.4
"""Smallest part of a deviation that a repeat is believed to reproduce."""
FEWEST = 30
"""Number of significant pixels below which the gain is not measured."""

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]
Repeat = Callable[[Plane], Plane]
"""Function that deconvolves data (y, x) as the plane was, and returns the components."""


class Errors(NamedTuple):
    """Errors (y, x) of the components, smoothed to the stated resolution; NaN where nothing was measured."""

    error: Plane
    """Root mean square deviation of the components from the object."""
    bias: Plane
    """Expected deviation of the components from the object."""


def errors_by_repeats(
    found: Deconvolution,
    plane: Plane,
    psf: NDArray[np.floating],
    *,
    variance: Variance,
    filled: NDArray[np.generic] | None,
    modes: NDArray[np.floating] | None,
    repeat: Repeat,
    draws: int,
    smoothing: float,
    add_residual: bool = False,
    seed: int,
) -> Errors:
    """Return the errors of a deconvolved plane by a parametric bootstrap (Efron & Tibshirani 1993, ch. 6).

    A reference takes the place of the object. Data are simulated from it, with noise, and deconvolved as the
    plane was. The variance of these repeats and their bias, the mean deviation from the reference, are those
    of the result, if the reference is like the object. Two properties of deconvolution make it unlike:

    - Where there is nothing but noise, positive components are above an object that is zero. There (below
      `SIGNIFICANT` standard deviations) the reference is the local mean of the components, less the bias that
      pilot repeats find in it.
    - Where the components are significant, they are the reference. They lack what the deconvolution did not
      recover, and contain noise. The gain g is the part of a deviation of the object that the result
      follows: the response to a repeat that becomes the object, with the same noise. To first order the
      squared bias is that of the object times g^2, plus (1 - g)^2 times the variance.

    Both are averaged over neighbouring pixels, because a few repeats do not tell them for each pixel; and the
    squared error is a mean with that of the surroundings, which has the weight of `BROAD_WEIGHT` repeats.

    Parameters
    ----------
    found
        The result for the plane, NaN outside the field.
    plane, psf, variance, filled
        As for the deconvolution. Noise of neighbouring pixels may be correlated, see
        `noise.noise_width`.
    modes
        (mode, y, x) principal components of the uncertainty of the PSF, each for one standard deviation and
        of the shape of the PSF; or None. Data are simulated with a random PSF, and deconvolved with `psf`.
    repeat
        Deconvolves simulated data.
    draws
        Number of repeats, in addition to two pilots and one for the gain.
    smoothing
        Standard deviation of the Gaussian of the resolution that the errors are for, in pixels.
    add_residual
        Whether the errors are for components with the filtered residual, see `resolution.at_resolution`.
    seed
        Of the random numbers.

    Returns
    -------
    Errors
        In the units of the plane; NaN outside the field and where a pixel was missing or filled.
    """
    pixels = Pixels.of(plane, psf, filled)
    measured = pixels.valid & ~pixels.outside
    if found.model is None or not measured.any():
        return Errors(*(np.full_like(plane, np.nan) for _ in range(2)))
    simulation = _Simulation(found, plane, psf, variance, pixels, modes, number=PILOTS + draws, seed=seed)
    components = simulation.components

    def deviation(result: Doubles, data: Plane, reference: Doubles) -> Doubles:
        """Return how much a result from data differs from their object, at the resolution."""
        smooth = _smoothed(result - reference, smoothing)
        return smooth + simulation.residual(result, data, smoothing) if add_residual else smooth

    moments, pilots = _Moments(plane.shape), []
    for _ in range(PILOTS):
        data = simulation.data(components)
        pilots.append(_finite(repeat(data)))
        moments.add(deviation(pilots[-1], data, components))
    noise = np.sqrt(_pooled(moments.variance, BIAS_SMOOTHING))
    significant = _smoothed(components, smoothing) > SIGNIFICANT * noise
    moments.restrict(significant)
    excess = components - sum(pilots) / PILOTS
    reference = _reference(components, excess, significant, ~pixels.outside)
    gain = 1.0
    for number in range(draws):
        draw = simulation.draw()
        data = simulation.data(reference, draw)
        result = _finite(repeat(data))
        found_deviation = deviation(result, data, reference)
        moments.add(found_deviation)
        if number == 0 and np.count_nonzero(significant & measured) >= FEWEST:
            data = simulation.data(result, draw)
            again = _finite(repeat(data))
            change = found_deviation[significant]
            response = deviation(again, data, result)[significant]
            gain = float(np.clip(change @ response / (change @ change), LEAST_GAIN, 1))
    scatter, bias = moments.variance, moments.mean
    squared = bias**2 - scatter / moments.number
    unrecovered = np.maximum(squared - (1 - gain) ** 2 * scatter, 0) / gain**2
    squared = np.where(significant, unrecovered, squared)
    near = _pooled(scatter, VARIANCE_SMOOTHING) + np.maximum(_pooled(squared, BIAS_SMOOTHING), 0)
    parts = (_mean_within(scatter + squared, measured & part) for part in (significant, ~significant))
    broad = np.maximum(np.where(significant, *parts), 0)
    total = (draws * near + BROAD_WEIGHT * broad) / (draws + BROAD_WEIGHT)
    bias /= np.where(significant, gain, 1)
    return Errors(*(np.where(measured, a, np.nan).astype(np.float32) for a in (np.sqrt(total), bias)))


class _Simulation:
    """Simulates data of a plane (y, x) for objects that are similar to its components."""

    def __init__(
        self,
        found: Deconvolution,
        plane: Plane,
        psf: NDArray[np.floating],
        variance: Variance,
        pixels: Pixels,
        modes: NDArray[np.floating] | None,
        *,
        number: int,
        seed: int,
    ) -> None:
        self.components = _finite(found.components)
        self._model, self._present = _finite(found.model), pixels.present
        self._modes, self._amplitudes = _finite(modes), None
        self._convolver, self._psf, self._valid = Convolver(psf, plane.shape), psf, pixels.valid
        self._rng = np.random.default_rng(seed)
        if modes is not None:
            self._amplitudes = iter(_unit_variance(self._rng.standard_normal((number, len(modes)))))
        sigma = noise_by_pixel(plane, variance, pixels)
        self._width = noise_width(plane, np.square(sigma), ~pixels.valid)
        known = np.isfinite(sigma)
        if known.any() and not known.all():
            sigma[~known] = of_nearest(sigma, known, ~known)
        self._sigma = np.nan_to_num(sigma)

    def draw(self) -> Plane:
        """Return the deviation of random data from the model of the components: noise, and another PSF."""
        white = self._rng.standard_normal(self._sigma.shape)
        if self._width:
            white = ndimage.gaussian_filter(white, self._width, mode="wrap")
            white /= white.std()
        deviation = self._sigma * white
        if self._amplitudes is not None:
            change = np.tensordot(next(self._amplitudes), self._modes, 1)
            deviation += Convolver(change, deviation.shape).convolve(self.components)
        return deviation.astype(np.float32)

    def data(self, reference: Doubles, draw: Plane | None = None) -> Plane:
        """Return random data (y, x) of an object, NaN where the plane is."""
        light = self._convolver.convolve(reference - self.components)
        data = self._model + light + (self.draw() if draw is None else draw)
        return np.where(self._present, data, np.float32(np.nan)).astype(np.float32)

    def residual(self, components: Doubles, data: Plane, smoothing: float) -> Plane:
        """Return what components leave of data (y, x), at the resolution."""
        model = self._model + self._convolver.convolve(components - self.components)
        left = np.where(self._valid, data - model, 0).astype(np.float32)
        noise = float(np.mean(np.square(self._sigma[self._valid])))
        return filtered_residual(left, components.astype(np.float32), self._psf, smoothing, noise)


class _Moments:
    """Number, mean and variance (y, x) of planes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.number, self._sum, self._squares = np.zeros((3, *shape))

    def add(self, plane: Doubles) -> None:
        self.number += 1
        self._sum += plane
        self._squares += plane**2

    def restrict(self, where: Mask) -> None:
        """Forget the planes elsewhere."""
        for array in (self.number, self._sum, self._squares):
            array[~where] = 0

    @property
    def mean(self) -> Doubles:
        return self._sum / self.number

    @property
    def variance(self) -> Doubles:
        return np.maximum(self._squares - self.number * self.mean**2, 0) / (self.number - 1)


def _reference(components: Doubles, excess: Doubles, significant: Mask, inside: Mask) -> Doubles:
    """Return the object that data are simulated from.

    Where components are not significant it is their local mean. This is corrected by twice the `excess` of
    the components over the pilots, because the mean of positive components rises with the object by half.
    """
    mean = _mean_within(components + 2 * excess, inside & ~significant)
    least = min(0.0, float(components.min()))
    return np.where(significant, components, np.where(inside, np.maximum(mean, least), 0))


def _mean_within(plane: Doubles, part: Mask) -> Doubles:
    """Return the mean of the surroundings of each pixel that belong to a part of the plane."""
    weight = part.astype(np.float64)
    return _pooled(weight * plane, BROAD_SMOOTHING) / np.maximum(_pooled(weight, BROAD_SMOOTHING), 1e-6)


def _unit_variance(amplitudes: Doubles) -> Doubles:
    """Return random amplitudes (draw, mode) with a mean of zero and a variance of one over few draws."""
    deviations = amplitudes - amplitudes.mean(axis=0)
    return np.asarray(deviations / deviations.std(axis=0, ddof=1))


def _finite(plane: NDArray[np.floating] | None) -> Doubles:
    """Return a plane in double precision, with zero for NaN."""
    return np.nan_to_num(np.asarray(plane, np.float64))


def _smoothed(plane: Doubles, width: float) -> Doubles:
    """Return a plane at the stated resolution; it is zero beyond the frame."""
    return np.asarray(ndimage.gaussian_filter(plane, width, mode="constant"))


def _pooled(plane: Doubles, width: float) -> Doubles:
    """Return a plane averaged over neighbouring pixels."""
    return np.asarray(ndimage.gaussian_filter(plane, width, mode="nearest"))
