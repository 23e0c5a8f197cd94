"""Multiscale CLEAN (Cornwell 2008), with steps at all pixels that respond strongly to one scale."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.clean_beam import Beam, with_restored
from lucidcube.kernels.deconvolution.common import (
    Deconvolution,
    Observer,
    Reporter,
    StopReason,
    Variance,
    edge_margin,
)
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.field import Field, prepare_field
from lucidcube.kernels.fourier.convolver import Convolver, trim_psf

TRUNCATE = 4.0
"""Half the width of the Gaussians in standard deviations."""

MARGIN_WEIGHT = 0.3
"""Weight of the continuation of the data beyond the frame."""


def clean_multiscale(
    plane: Plane,
    psf: NDArray[np.floating],
    *,
    variance: Variance = None,
    filled: NDArray[np.generic] | None = None,
    observer: Observer | None = None,
    n_iter: int,
    scales: Sequence[float],
    gain: float,
    threshold: float,
    chi2_target: float | None,
    restoring_beam: Beam,
) -> Deconvolution:
    """Deconvolve a plane by components that are Gaussians of a few widths.

    Repeat: the weighted residual is correlated with the PSF and each of the Gaussians, and divided by the
    response to one component of unit energy. The scale with the strongest response wins. Where its response
    exceeds `threshold` times its maximum, it becomes components of this scale, times the factor that
    minimises the sum of weight * residual^2, times `gain`.

    Parameters
    ----------
    plane, psf, variance, filled, observer
        As for `clean.clean_modified`. The variance gives the weights, too: see `Field.weights_by_variance`.
    **options
        The fields of `stages.deconvolution_methods.CleanMultiscale`, which explains them.

    Returns
    -------
    Deconvolution
        Its `extras` hold the "restored" plane, see `clean_beam.with_restored`.

    Notes
    -----
    Pixels that are missing or filled have no weight, and a smooth continuation of the data into a margin
    around the frame has little; both may hold components. The sum of weight * residual^2 falls in every
    iteration. float32 throughout, sums in float64. Sources: Cornwell 2008, IEEE J. Sel. Top. Sig. Proc. 2,
    793; for steps at many pixels Steer, Dewdney & Ito 1984, A&A 137, 159.
    """
    field = prepare_field(plane, psf, filled, edge_margin(psf, plane.shape))
    weight = _weights(field, variance)
    noise = field.noise_stop(variance, chi2_target)
    kernels = [_Scale.of(width, psf, field) for width in scales]
    parts = [np.zeros_like(field.data) for _ in kernels]
    residual, step = field.data.copy(), np.zeros_like(field.data)
    reporter = None
    if observer is not None:
        reporter = Reporter(observer, field.pixels, field.frame, parts[0], residual)
    width, iterations, stop = field.convolver.shape[1], 0, StopReason.N_ITER
    if not field.valid_pixels:
        stop = StopReason.ALL_NAN
    elif not np.any(residual[weight > 0]):
        stop = StopReason.NOTHING_TO_DO
    while stop is StopReason.N_ITER and iterations < n_iter:
        if noise.reached(residual):
            stop = StopReason.CHI2_REACHED
            break
        best, response = _strongest(kernels, weight * residual, width)
        _select(response, step, width, threshold)
        blurred = kernels[best].convolver.convolve_padded(step)
        factor = gain * _line_search(weight, residual, blurred)
        if not 0 < factor < math.inf:
            stop = StopReason.CONVERGED
            break
        _advance(parts[best], step, residual, blurred, factor)
        iterations += 1
        if reporter is not None:
            reporter.report(iterations, _sum_of_scales(kernels, parts, width), residual, step != 0)
    if stop is StopReason.N_ITER and noise.reached(residual):
        stop = StopReason.CHI2_REACHED
    components = _sum_of_scales(kernels, parts, width)
    return with_restored(field.result(components, iterations, stop, variance), psf, restoring_beam)


def _weights(field: Field, variance: Variance) -> Plane:
    """Return the weights of the pixels, where estimates beyond the frame count a little.

    Without these, components of the wide scales beyond the frame explain what is next to its edge.
    """
    weight = field.weights_by_variance(variance, poisson=False)
    beyond = np.full(field.convolver.shape, MARGIN_WEIGHT, np.float32)
    beyond[field.frame] = 0
    weight += field.convolver.pad(beyond)
    return weight


class _Scale(NamedTuple):
    """A width of components, in pixels."""

    width: float
    convolver: Convolver
    """Convolves with the PSF and a Gaussian of this width."""
    norm: float
    """One over the root of the energy of a blurred component of unit sum."""

    @classmethod
    def of(cls, width: float, psf: NDArray[np.floating], field: Field) -> "_Scale":
        """Make a scale for the planes of a field."""
        stamp = trim_psf(psf, field.convolver.shape)
        convolver = field.convolver
        if width > 0:
            reach = math.ceil(TRUNCATE * width)
            stamp = ndimage.gaussian_filter(np.pad(stamp, reach), width, mode="constant", truncate=TRUNCATE)
            convolver = Convolver(stamp, field.convolver.shape)
        energy = float(np.sum(np.square(stamp, dtype=np.float64)))
        return cls(width, convolver, 1 / math.sqrt(energy) if energy > 0 else 0.0)


def _strongest(kernels: Sequence[_Scale], weighted: Plane, width: int) -> tuple[int, Plane]:
    """Return the number of the scale with the strongest response to the weighted residual, and that."""
    best, highest = 0, -1.0
    for number, scale in enumerate(kernels):
        response = scale.convolver.correlate_padded(weighted)
        peak = scale.norm * _peak(response, width)
        if peak > highest:
            best, highest, strongest = number, peak, response
    return best, strongest


def _sum_of_scales(kernels: Sequence[_Scale], parts: Sequence[Plane], width: int) -> Plane:
    """Return the sum of the components of all scales, smoothed by the width of each."""
    total = np.zeros_like(parts[0])
    for scale, part in zip(kernels, parts, strict=True):
        inside = part[:, :width]
        if scale.width > 0:
            inside = ndimage.gaussian_filter(inside, scale.width, mode="constant", truncate=TRUNCATE)
        total[:, :width] += inside
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _peak(plane: Plane, width: int) -> float:
    """Return the largest absolute value within the width of a padded plane."""
    largest = np.zeros(width, np.float32)
    for y in range(plane.shape[0]):
        for x in range(width):
            size = abs(plane[y, x])
            largest[x] = size if size > largest[x] else largest[x]
    return float(largest.max())


@njit(cache=True, nogil=True, error_model="numpy")
def _select(response: Plane, step: Plane, width: int, threshold: float) -> None:
    """Copy the response to the step where it is at least a fraction of its maximum; zero elsewhere."""
    limit, zero = np.float32(threshold * _peak(response, width)), np.float32(0)
    for y in range(response.shape[0]):
        for x in range(width):
            value = response[y, x]
            step[y, x] = value if abs(value) >= limit else zero


@njit(cache=True, nogil=True, error_model="numpy")
def _line_search(weight: Plane, residual: Plane, blurred: Plane) -> float:
    """Return the factor of the blurred step that minimises the sum of weight * residual^2."""
    width = weight.shape[1]
    product, square = np.zeros(width), np.zeros(width)
    for y in range(weight.shape[0]):
        for x in range(width):
            weighted = np.float64(weight[y, x]) * np.float64(blurred[y, x])
            product[x] += weighted * np.float64(residual[y, x])
            square[x] += weighted * np.float64(blurred[y, x])
    total = square.sum()
    return product.sum() / total if total > 0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _advance(components: Plane, step: Plane, residual: Plane, blurred: Plane, factor: float) -> None:
    """Add a multiple of the step to the components; subtract that of the blurred step from the residual."""
    share = np.float32(factor)
    for y in range(step.shape[0]):
        for x in range(step.shape[1]):
            components[y, x] += share * step[y, x]
            residual[y, x] -= share * blurred[y, x]
