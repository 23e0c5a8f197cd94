"""Errors of a deconvolved plane, from repeats of the deconvolution with simulated data."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.common import Deconvolution, Pixels, Variance, of_nearest
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.map import noise_by_pixel
from lucidcube.kernels.fourier.convolver import Convolver

VARIANCE_SMOOTHING, BIAS_SMOOTHING = 1.0, 2.0
"""Widths, in pixels, of the Gaussians over which the variance and the squared bias are averaged."""
BIAS_FACTOR = 2.0
"""Square of the deviation of the object from the result, in units of that of the result from the repeats."""

Repeat = Callable[[Plane], Plane]
"""Function that deconvolves data (y, x) as the plane was, and returns the components."""


class Errors(NamedTuple):
    """Errors (y, x) of the components, smoothed to the stated resolution; NaN where nothing was measured."""

    error: Plane
    """Standard deviation of the components about the object."""
    bias: Plane
    """Mean of the repeats minus the components."""


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
    seed: int,
) -> Errors:
    """Return the errors of a deconvolved plane by a parametric bootstrap (Efron & Tibshirani 1993, ch. 6).

    The result of the deconvolution takes the place of the object: its model of the data plus noise is
    deconvolved again, several times.
    """
    pixels = Pixels.of(plane, psf, filled)
    measured = pixels.valid & ~pixels.outside
    if found.model is None or not measured.any():
        return Errors(*(np.full_like(plane, np.nan) for _ in range(2)))
    reference = _smoothed(found.components, smoothing)
    total, squares = np.zeros((2, *plane.shape))
    noise = _noise_everywhere(plane, variance, pixels)
    for data in _simulated(found, noise, pixels.present, modes, draws, seed):
        deviation = _smoothed(repeat(data), smoothing) - reference
        total += deviation
        squares += deviation**2
    bias = total / draws
    scatter = (squares - draws * bias**2) / (draws - 1)
    pooled = _pooled(scatter, VARIANCE_SMOOTHING) + BIAS_FACTOR * _pooled(bias**2, BIAS_SMOOTHING)
    known = np.where(measured, np.float32(1), np.float32(np.nan))
    return Errors((np.sqrt(pooled) * known).astype(np.float32), (bias * known).astype(np.float32))


def _simulated(
    found: Deconvolution,
    noise: NDArray[np.floating],
    present: NDArray[np.bool_],
    modes: NDArray[np.floating] | None,
    draws: int,
    seed: int,
) -> Iterator[Plane]:
    """Yield data as they would be if the components were the object; NaN where the plane is."""
    rng = np.random.default_rng(seed)
    assert found.model is not None
    components = np.nan_to_num(found.components)
    for _ in range(draws):
        data = found.model + noise * rng.standard_normal(noise.shape)
        if modes is not None:
            change = np.tensordot(rng.standard_normal(len(modes)), modes, 1)
            data += Convolver(change, noise.shape).convolve(components)
        yield np.where(present, data, np.nan).astype(np.float32)


def _noise_everywhere(plane: Plane, variance: Variance, pixels: Pixels) -> NDArray[np.float64]:
    """Return the standard deviation (y, x) of the noise, where it is unknown that of the nearest pixel."""
    sigma = noise_by_pixel(plane, variance, pixels)
    known = np.isfinite(sigma)
    if known.any() and not known.all():
        sigma[~known] = of_nearest(sigma, known, ~known)
    return np.nan_to_num(sigma)


def _smoothed(plane: Plane, width: float) -> NDArray[np.float64]:
    """Return a plane at the stated resolution; NaN is zero, and so is everything beyond the frame."""
    values = np.nan_to_num(plane, nan=0.0).astype(np.float64)
    return np.asarray(ndimage.gaussian_filter(values, width, mode="constant") if width else values)


def _pooled(squares: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return squares averaged over their neighbours."""
    return np.asarray(ndimage.gaussian_filter(np.maximum(squares, 0), width, mode="nearest"))
