"""Errors of a deconvolved plane, from repeats of the deconvolution with simulated data."""

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.common import Deconvolution, Pixels, Variance
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.moments import Doubles, Mask, Moments
from lucidcube.kernels.deconvolution.residual_check import FEWEST, Repeat, lost_structure
from lucidcube.kernels.deconvolution.sharp_peaks import as_points
from lucidcube.kernels.deconvolution.simulated_data import Simulation, finite

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
POINT_LIKE = 0.8
"""Part of the light of a pixel, at the resolution, above which its error is that of points."""
LEAST_GAIN = 0.4
"""Smallest part of a deviation that a repeat is believed to reproduce."""

Deconvolve = Callable[[Plane], Plane]
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
    psf_width: float,
    repeat: Deconvolve,
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
    - Where the components are significant, they are the reference, with sharp peaks as points, see
      `sharp_peaks`. They lack what the deconvolution did not recover, and contain noise. The gain g is the
      part of a deviation of the object that the result follows: the response to a repeat that becomes the
      object, with the same noise. To first order the squared bias is that of the object times g^2, plus
      (1 - g)^2 times the variance. What was lost altogether follows from the power of the residual, see
      `residual_check`.

    Both are averaged over neighbouring pixels, because a few repeats do not tell them for each pixel; and the
    squared error is a mean with that of the surroundings, which has the weight of `BROAD_WEIGHT` repeats. The
    neighbours of points are points, and those of the sky are the sky and points, see `_Kinds`.

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
    psf_width
        Standard deviation of the width of the PSF, relative to it: one more component.
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
    simulation = Simulation(
        found, plane, psf, variance, pixels, modes, psf_width, number=PILOTS + draws, seed=seed
    )
    components = simulation.components
    sharp, points = as_points(components)

    repeats: list[Repeat] = []

    def deviation(result: Doubles, data: Plane, reference: Doubles) -> Doubles:
        """Return how much a result from data differs from their object, at the resolution."""
        smooth = _smoothed(result - reference, smoothing)
        return smooth + simulation.residual(result, data, smoothing) if add_residual else smooth

    def count(result: Doubles, data: Plane, reference: Doubles) -> Doubles:
        """Return the deviation of a repeat that counts."""
        found_deviation = deviation(result, data, reference)
        moments.add(found_deviation)
        planes = simulation.left(result, data), found_deviation
        repeats.append(Repeat(*((each / simulation.noise).astype(np.float32) for each in planes)))
        return found_deviation

    moments, pilots = Moments(plane.shape), []
    for _ in range(PILOTS):
        data = simulation.data(sharp)
        pilots.append(finite(repeat(data)))
        count(pilots[-1], data, sharp)
    noise = np.sqrt(_pooled(moments.variance, BIAS_SMOOTHING))
    significant = _smoothed(components, smoothing) > SIGNIFICANT * noise
    moments.restrict(significant)
    excess = sharp - sum(pilots) / PILOTS
    reference = _reference(sharp, excess, significant, ~pixels.outside)
    gain = 1.0
    for number in range(draws):
        draw = simulation.draw()
        data = simulation.data(reference, draw)
        result = finite(repeat(data))
        found_deviation = count(result, data, reference)
        if number == 0 and np.count_nonzero(significant & measured) >= FEWEST:
            data = simulation.data(result, draw)
            again = finite(repeat(data))
            change = found_deviation[significant]
            response = deviation(again, data, result)[significant]
            gain = float(np.clip(change @ response / (change @ change), LEAST_GAIN, 1))
    scatter, bias = moments.variance, moments.mean
    squared = bias**2 - scatter / moments.number
    recovered = np.maximum(squared - (1 - gain) ** 2 * scatter, 0) / gain**2
    unit = simulation.noise**2
    lost = unit * lost_structure(
        (simulation.left(components, plane) / simulation.noise).astype(np.float32),
        repeats,
        significant & measured,
        smoothing=smoothing,
        squared=squared / unit,
        counted=recovered / unit,
    )
    squared = np.where(significant, recovered, squared)
    kinds = _Kinds.of(components, points, significant, measured, smoothing)
    near = kinds.mean(scatter, VARIANCE_SMOOTHING) + np.maximum(kinds.mean(squared, BIAS_SMOOTHING), 0) + lost
    broad = np.maximum(kinds.mean(scatter + squared + lost, BROAD_SMOOTHING), 0)
    total = (draws * near + BROAD_WEIGHT * broad) / (draws + BROAD_WEIGHT)
    bias /= np.where(significant, gain, 1)
    return Errors(*(np.where(measured, a, np.nan).astype(np.float32) for a in (np.sqrt(total), bias)))


class _Kinds(NamedTuple):
    """Kinds of pixels (y, x), whose errors differ much."""

    extended: Mask
    """Pixels of significant light, most of which is extended."""
    sources: Mask
    """Pixels of significant light, of which at least `POINT_LIKE` is that of points."""
    measured: Mask

    @classmethod
    def of(
        cls, components: Doubles, points: Doubles, significant: Mask, measured: Mask, smoothing: float
    ) -> Self:
        """Return the kinds of the pixels, given the points among the components."""
        light, of_points = (_smoothed(plane, smoothing) for plane in (components, points))
        sources = significant & (of_points > POINT_LIKE * light)
        return cls(significant & ~sources, sources, measured)

    def mean(self, plane: Doubles, width: float) -> Doubles:
        """Return a plane averaged over measured neighbours.

        The squared error of a bright limb would be far too large for the sky beside it, and that of the
        surroundings too small for a moon. So points have the mean of points, and the sky that of the sky and
        of points, the light of which is misplaced to their surroundings.
        """
        of_all, of_points, of_sky = (
            _mean_within(plane, kind, width)
            for kind in (self.measured, self.sources & self.measured, ~self.extended & self.measured)
        )
        return np.where(self.sources, of_points, np.where(self.extended, of_all, of_sky))


def _reference(components: Doubles, excess: Doubles, significant: Mask, inside: Mask) -> Doubles:
    """Return the object that data are simulated from.

    Where components are not significant it is their local mean. This is corrected by twice the `excess` of
    the components over the pilots, because the mean of positive components rises with the object by half.
    """
    mean = _mean_within(components + 2 * excess, inside & ~significant, BROAD_SMOOTHING)
    least = min(0.0, float(components.min()))
    return np.where(significant, components, np.where(inside, np.maximum(mean, least), 0))


def _mean_within(plane: Doubles, part: Mask, width: float) -> Doubles:
    """Return the mean of the surroundings of each pixel that belong to a part of the plane."""
    weight = part.astype(np.float64)
    return _pooled(weight * plane, width) / np.maximum(_pooled(weight, width), 1e-6)


def _smoothed(plane: Doubles, width: float) -> Doubles:
    """Return a plane at the stated resolution; it is zero beyond the frame."""
    return np.asarray(ndimage.gaussian_filter(plane, width, mode="constant"))


def _pooled(plane: Doubles, width: float) -> Doubles:
    """Return a plane averaged over neighbouring pixels."""
    return np.asarray(ndimage.gaussian_filter(plane, width, mode="nearest"))
