"""Lucy-Richardson deconvolution (Richardson 1972; Lucy 1974) with a damped, limited correction factor."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import (
    RENEWAL_PERIOD,
    Deconvolution,
    Field,
    IterationState,
    Observer,
    StopReason,
    Variance,
    edge_margin,
    fabs_and_rms,
    prepare_field,
)
from lucidcube.kernels.deconvolution.continuation import Plane

SMALL_FACTOR = 1e-6
DIVISION_FLOOR = 1e-7
LEAST_REACH = 1e-3


def lucy_richardson(
    plane: Plane,
    psf: NDArray[np.floating],
    *,
    variance: Variance = None,
    filled: NDArray[np.generic] | None = None,
    observer: Observer | None = None,
    n_iter: int,
    nudge_factor: float,
    strength: float,
    cf_negative_fix: bool,
    cf_limit: float,
    cf_uclip: float,
    cf_lclip: float,
    offset_obs: bool,
    threshold: float | None,
    pad_observation: bool,
) -> Deconvolution:
    """Deconvolve a plane by the multiplicative iteration of Richardson and Lucy.

    Repeat: b = x (*) p; ratio = (d + nudge) / (b + nudge); correction c = ratio correlated with p, then
    1 + `strength` (c - 1), then held at 1 by `threshold`, clipped, freed of negative values; x becomes x c.

    Parameters
    ----------
    plane, psf, variance, filled, observer
        As for `clean.clean_modified`.
    **options
        The fields of `stages.deconvolve.LucyRichardson`, which explains them.

    Notes
    -----
    With missing or filled pixels or a margin, each pixel's ratio counts with the trust w in its data (see
    `common.prepare_field`), as in maximum likelihood with weights: c = (w ratio) correlated with p, over w
    correlated with p. The iteration starts from a flat image at the mean of the valid pixels; if there is a
    margin, their light is spread over all that the PSF can reach. With `offset_obs` an observer gets
    components that are lifted. Without a margin the plane is taken to be dark outside. With `strength` 1,
    `nudge_factor` 0, without padding and missing data this is the textbook algorithm. float32 throughout.
    Sources: Richardson 1972, J. Opt. Soc. Am. 62, 55; Lucy 1974, AJ 79, 745; for weights Hook & Lucy 1994.
    """
    field = prepare_field(plane, psf, filled, edge_margin(psf, plane.shape) if pad_observation else (0, 0))
    valid = field.data[field.valid > 0]
    offset = np.float32(max(0.0, -float(valid.min(initial=0))) if offset_obs else 0)
    data = field.data + offset
    peak = float(valid.max(initial=-math.inf)) + float(offset)
    if not peak > 0:
        reason = StopReason.NOTHING_TO_DO if valid.size else StopReason.ALL_NAN
        return field.result(np.zeros_like(data), 0, reason, variance)
    estimate = _flat_start(field, valid + offset, padded=pad_observation)
    norm = _normalisation(field, padded=pad_observation)
    nudge, floor = nudge_factor * peak, DIVISION_FLOOR * peak
    reporter = None if observer is None else _Reporter(observer, field, data, estimate)
    width, iterations, stop = field.convolver.shape[1], 0, StopReason.N_ITER
    while stop is StopReason.N_ITER and iterations < n_iter:
        ratio = field.convolver.convolve_padded(estimate)
        if iterations and iterations % RENEWAL_PERIOD == 0 and field.continuation is not None:
            left = data - ratio
            field.renew(left)
            np.add(ratio, left, out=data, where=field.estimated)
        residual = None if threshold is None else data - ratio
        _divide(ratio, data, field.weight, nudge, floor)
        factor = field.convolver.correlate_padded(ratio)
        level = math.nan
        if threshold is not None and residual is not None:
            level = _selection_level(residual[field.valid > 0], threshold)
            np.copyto(factor, norm, where=np.abs(residual) < level)
        largest = _correct(estimate, factor, norm, width, strength, cf_lclip, cf_uclip, cf_negative_fix)
        iterations += 1
        if largest > cf_limit:
            stop = StopReason.CORRECTION_LIMIT
        if reporter is not None:
            reporter.report(iterations, estimate, level)
    if offset > 0:
        estimate[:, :width] -= offset
    return field.result(estimate, iterations, stop, variance)


class _Reporter:
    """Makes the states for an observer, which takes one more convolution in each iteration."""

    def __init__(self, observer: Observer, field: Field, data: Plane, estimate: Plane) -> None:
        self._observer, self._field, self._data = observer, field, data
        self._statistics: list[tuple[float, float]] = []
        self._before = estimate.copy()
        self._residual(estimate)

    def report(self, iteration: int, estimate: Plane, level: float) -> None:
        """Call the observer with the state after an iteration."""
        residual, changed = self._residual(estimate), estimate != self._before
        self._before = estimate.copy()
        fabs, rms = zip(*self._statistics, strict=True)
        state = IterationState(iteration, estimate, residual, changed, level, fabs, rms)
        self._observer(self._field.shown(state))

    def _residual(self, estimate: Plane) -> Plane:
        """Return the residual, and remember its statistics."""
        residual = self._data - self._field.convolver.convolve_padded(estimate)
        self._statistics.append(fabs_and_rms(residual[self._field.valid > 0]))
        return residual


def _flat_start(field: Field, valid: Plane, *, padded: bool) -> Plane:
    """Return a flat image at the mean of the valid pixels, whose light is spread thinner if it is padded."""
    mean = float(valid.mean(dtype=np.float64))
    if not mean > 0:
        mean = float(np.maximum(valid, 0).mean(dtype=np.float64))
    if padded:
        (height, width), (reach_y, reach_x) = field.plane.shape, field.convolver.reach
        mean *= height * width / ((height + 2 * reach_y) * (width + 2 * reach_x))
    return field.convolver.pad(np.full(field.convolver.shape, mean, np.float32))


def _normalisation(field: Field, *, padded: bool) -> Plane:
    """Return the divisor of the correlated ratio; what is outside of an unpadded plane is fully trusted."""
    norm = field.convolver.correlate_padded(field.weight)
    if not padded:
        inside = field.convolver.pad(np.ones(field.convolver.shape, np.float32))
        norm += 1 - field.convolver.correlate_padded(inside)
    return np.maximum(norm, np.float32(LEAST_REACH))


def _selection_level(residual: Plane, threshold: float) -> float:
    """Return the |residual| from which pixels are corrected, given the residual at valid pixels."""
    size = np.abs(residual)
    if threshold > 0:
        return threshold
    if threshold < 0:
        return -threshold * float(size.max())
    return float(size.mean(dtype=np.float64) + size.std(dtype=np.float64))


@njit(cache=True, nogil=True, error_model="numpy")
def _divide(blurred: Plane, data: Plane, weight: Plane, nudge: float, floor: float) -> None:
    """Replace blurred by weight * (data + nudge) / (blurred + nudge), with divisors above rounding noise."""
    lift, least = np.float32(nudge), np.float32(floor)
    for y in range(data.shape[0]):
        for x in range(data.shape[1]):
            divisor = blurred[y, x] + lift
            divisor = divisor if abs(divisor) > least else least
            blurred[y, x] = weight[y, x] * (data[y, x] + lift) / divisor


@njit(cache=True, nogil=True, error_model="numpy")
def _correct(
    estimate: Plane,
    factor: Plane,
    norm: Plane,
    width: int,
    strength: float,
    lower: float,
    upper: float,
    positive: bool,
) -> float:
    """Multiply by the damped and limited correction; return the largest |correction| before the limits."""
    share, low, high = np.float32(strength), np.float32(lower), np.float32(upper)
    one, zero = np.float32(1), np.float32(0)
    replacement = np.float32(SMALL_FACTOR)
    # By columns, which the compiler can do with vector instructions, unlike a single maximum.
    largest = np.zeros(width, np.float32)
    for y in range(estimate.shape[0]):
        for x in range(width):
            correction = one + share * (factor[y, x] / norm[y, x] - one)
            size = abs(correction)
            largest[x] = size if size > largest[x] else largest[x]
            correction = correction if correction > low else low
            correction = correction if correction < high else high
            correction = replacement if positive and correction < zero else correction
            estimate[y, x] *= correction
    return float(largest.max())
