"""Lucy-Richardson deconvolution (Richardson 1972; Lucy 1974): weighted, accelerated, damped and limited."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import (
    RENEWAL_PERIOD,
    Deconvolution,
    Observer,
    Reporter,
    StopReason,
    Variance,
)
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.lucy_richardson_start import prepare

SMALL_FACTOR = 1e-6
DIVISION_FLOOR = 1e-7
LARGEST_MOMENTUM = 0.98


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
    weighted: bool,
    accelerate: bool,
    chi2_target: float | None,
) -> Deconvolution:
    """Deconvolve a plane by the multiplicative iteration of Richardson and Lucy.

    Repeat: b = x (*) p; ratio = (d + nudge) / (b + nudge); correction c = ratio correlated with p, then
    1 + `strength` (c - 1), then held at 1 by `threshold`, clipped, freed of negative values; x becomes x c.

    Parameters
    ----------
    plane, psf, variance, filled, observer
        As for `clean.clean_modified`.
    **options
        The fields of `stages.deconvolution_methods.LucyRichardson`, which explains them.

    Notes
    -----
    With missing or filled pixels or a margin, each pixel's ratio counts with its weight w, as in maximum
    likelihood: c = (w ratio) correlated with p, over w correlated with p. If `weighted`, w is 0 for pixels
    that are missing or filled, and light / variance for others (see `Field.weights_by_variance`); otherwise
    it is the trust in the data or in their estimates (see `field.prepare_field`). The iteration starts from
    a flat image at the mean of the valid pixels; if there is a margin, their light is spread over all that
    the PSF can reach.

    With `accelerate` each step starts from y = x + a (x - x'), where x' is the iterate before x, g and g' are
    the last two steps, and a = <g, g'> / <g', g'> within 0 and 0.98. If the likelihood of y is below that of
    the start of the last step, the step starts from x instead, and the acceleration begins again.

    The iteration stops where `stopping.NoiseStop` says that the residual of the start of a step is noise;
    this start is then the result. With `offset_obs` an observer gets components that are lifted. Without a
    margin the plane is taken to be dark outside. With `strength` 1, `nudge_factor` 0, without padding,
    acceleration, weights and missing data this is the textbook algorithm. float32 throughout. Sources:
    Richardson 1972, J. Opt. Soc. Am. 62, 55; Lucy 1974, AJ 79, 745; for weights Hook & Lucy 1994; for the
    acceleration Biggs & Andrews 1997, Appl. Opt. 36, 1766.
    """
    problem = prepare(
        plane,
        psf,
        variance,
        filled,
        offset_obs=offset_obs,
        pad_observation=pad_observation,
        weighted=weighted,
        chi2_target=chi2_target,
    )
    field, data, peak = problem.field, problem.data, problem.peak
    if problem.nothing is not None:
        return field.result(problem.start, 0, problem.nothing, variance)
    weight, norm, noise = problem.weight, problem.norm, problem.noise
    nudge, floor = nudge_factor * peak, DIVISION_FLOOR * peak
    steps = _Steps(problem.start, accelerate)

    def left_by(estimate: Plane) -> Plane:
        return data - field.convolver.convolve_padded(estimate)

    reporter = None
    if observer is not None:
        reporter = Reporter(observer, field.pixels, field.frame, steps.latest, left_by(steps.latest))
    width, iterations, stop = field.convolver.shape[1], 0, StopReason.N_ITER
    while stop is StopReason.N_ITER and iterations < n_iter:
        estimate = steps.start()
        ratio = field.convolver.convolve_padded(estimate)
        if accelerate and not steps.accepts(_likelihood(ratio, data, weight, nudge, peak)):
            estimate = steps.restart()
            ratio = field.convolver.convolve_padded(estimate)
            steps.accepts(_likelihood(ratio, data, weight, nudge, peak))
        if problem.renewed and iterations and iterations % RENEWAL_PERIOD == 0:
            left = data - ratio
            field.renew(left)
            np.add(ratio, left, out=data, where=field.estimated)
            steps.forget_likelihood()
        if noise.target is not None and noise.reached(data - ratio):
            steps.latest, stop = estimate, StopReason.CHI2_REACHED
            break
        residual = None if threshold is None else data - ratio
        _divide(ratio, data, weight, nudge, floor)
        factor = field.convolver.correlate_padded(ratio)
        level = math.nan
        if threshold is not None and residual is not None:
            level = selection_level(residual[field.valid > 0], threshold)
            np.copyto(factor, norm, where=np.abs(residual) < level)
        largest = _correct(estimate, factor, norm, width, strength, cf_lclip, cf_uclip, cf_negative_fix)
        steps.finish(estimate)
        iterations += 1
        if largest > cf_limit:
            stop = StopReason.CORRECTION_LIMIT
        if reporter is not None:
            reporter.report(iterations, steps.latest, left_by(steps.latest), threshold=level)
    return problem.result(steps.latest, iterations, stop, variance)


class _Steps:
    """The iterates, and the points from which the steps start: the latest iterate, or beyond it."""

    def __init__(self, estimate: Plane, accelerate: bool) -> None:
        self.latest = estimate
        self._accelerate = accelerate
        self._before: Plane | None = None
        self._start = estimate
        self._changes: list[Plane] = []
        self._likelihood = -math.inf

    def start(self) -> Plane:
        """Return the start of the next step, which may be overwritten."""
        if not self._accelerate:
            return self.latest
        if self._before is None or len(self._changes) < 2:
            self._start = self.latest
        else:
            momentum = _momentum(*self._changes)
            self._start = _extrapolate(self.latest, self._before, momentum)
        return self._start.copy()

    def accepts(self, likelihood: float) -> bool:
        """Return whether the likelihood of the start is not below that of the step before."""
        if likelihood < self._likelihood and self._start is not self.latest:
            return False
        self._likelihood = likelihood
        return True

    def restart(self) -> Plane:
        """Return the latest iterate as the start of the next step, which may be overwritten."""
        self._changes, self._start = [], self.latest
        return self._start.copy()

    def forget_likelihood(self) -> None:
        """Do not compare with a likelihood of other data."""
        self._likelihood = -math.inf

    def finish(self, estimate: Plane) -> None:
        """Take the result of a step as the latest iterate."""
        if self._accelerate:
            self._changes = [*self._changes[-1:], estimate - self._start]
            self._before = self.latest
        self.latest = estimate


def selection_level(residual: Plane, threshold: float) -> float:
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


@njit(cache=True, nogil=True, error_model="numpy")
def _likelihood(blurred: Plane, data: Plane, weight: Plane, nudge: float, peak: float) -> float:
    """Return the sum of weight * (d log(b / peak) - b) for d = data + nudge, b = blurred + nudge.

    This is the likelihood but for a constant, rounded in the same way whatever the unit of the data is.
    """
    lift, least, unit = np.float32(nudge), np.float32(DIVISION_FLOOR * peak), np.float32(peak)
    total = 0.0
    for y in range(data.shape[0]):
        for x in range(data.shape[1]):
            model = blurred[y, x] + lift
            model = model if model > least else least
            total += weight[y, x] * ((data[y, x] + lift) * np.log(model / unit) - model)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _momentum(before: Plane, last: Plane) -> float:
    """Return the share of the last change of the iterate by which to extrapolate, from the last two steps."""
    product, square = 0.0, 0.0
    for y in range(last.shape[0]):
        for x in range(last.shape[1]):
            product += np.float64(last[y, x]) * np.float64(before[y, x])
            square += np.float64(before[y, x]) * np.float64(before[y, x])
    share = product / square if square > 0 else 0.0
    return min(max(share, 0.0), LARGEST_MOMENTUM)


@njit(cache=True, nogil=True, error_model="numpy")
def _extrapolate(latest: Plane, before: Plane, momentum: float) -> Plane:
    """Return latest + momentum * (latest - before), which stays positive where `latest` is."""
    share, least = np.float32(momentum), np.float32(SMALL_FACTOR)
    start = np.empty_like(latest)
    for y in range(latest.shape[0]):
        for x in range(latest.shape[1]):
            value = latest[y, x]
            further = value + share * (value - before[y, x])
            start[y, x] = further if further > least * value else least * value
    return start
