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
    deconvolution,
    edge_margin,
    prepare_field,
)

SMALL_FACTOR = 1e-6
DIVISION_FLOOR = 1e-7
LEAST_REACH = 1e-3


def lucy_richardson(
    plane: NDArray[np.float32],
    psf: NDArray[np.floating],
    *,
    variance: NDArray[np.floating] | None = None,
    filled: NDArray[np.generic] | None = None,
    n_iter: int = 100,
    nudge_factor: float = 1e-2,
    strength: float = 0.1,
    cf_negative_fix: bool = True,
    cf_limit: float = math.inf,
    cf_uclip: float = math.inf,
    cf_lclip: float = -math.inf,
    offset_obs: bool = False,
    threshold: float | None = None,
    pad_observation: bool = True,
    observer: Observer | None = None,
) -> Deconvolution:
    """
    Deconvolve a plane by Lucy and Richardson's multiplicative iteration.

    Repeat: b = x (*) p; ratio = (d + nudge) / (b + nudge); correction c = ratio correlated with p, then
    1 + `strength` (c - 1), then held at 1 by `threshold`, clipped, freed of negative values; x becomes x c.

    Parameters
    ----------
    plane : array of float32, (y, x)
        NaN is missing.
    psf : array of float, (y, x)
        Odd, centred, finite, of unit sum (`iteration.check_psf` checks), of any size.
    variance : array of float, (y, x), optional
        Of the plane, for chi2 only.
    filled : array of bool or int, (y, x), optional
        True where the plane was interpolated.
    n_iter : int
        Number of iterations.
    nudge_factor : float
        The nudge is this fraction of the largest valid value. It keeps faint pixels from running away.
    strength : float
        Fraction of the textbook correction that is applied, 0 to 1.
    cf_negative_fix : bool
        Replace negative correction factors by a small positive one (`SMALL_FACTOR`).
    cf_limit : float
        Stop when the largest |c|, before it is clipped, exceeds this; that correction is still applied.
    cf_uclip, cf_lclip : float
        Limits between which c is clipped.
    offset_obs : bool
        Lift the plane so that none of its values is negative, and lower the result again by as much.
    threshold : float, optional
        Correct only pixels whose |d - b| reaches this: an absolute value if positive; if negative, its
        absolute value is a fraction of the largest; if zero, the mean plus one standard deviation.
    pad_observation : bool
        Let light lie in a margin round the frame, so that the edge does not ring. Without it, the plane is
        taken to be dark outside, as the textbook algorithm does.
    observer : callable, optional
        Is given an `IterationState` after each iteration.

    Returns
    -------
    Deconvolution

    Notes
    -----
    With missing or filled pixels or a margin, each pixel's ratio counts with the trust w in its data (see
    `iteration.prepare_field`), as in maximum likelihood with weights: c = (w ratio) correlated with p,
    over w correlated with p. The iteration starts from a flat image at the mean of the valid pixels,
    times the part of the frame in all that the PSF can reach if there is a margin; where data are missing
    and seem darker than that, from their estimate. With `offset_obs` an observer sees lifted components.
    With `strength` 1, `nudge_factor` 0, without padding and missing data this is the textbook algorithm.
    float32 throughout.

    References
    ----------
    Richardson 1972, J. Opt. Soc. Am. 62, 55; Lucy 1974, AJ 79, 745. Weights: Hook & Lucy 1994.
    """
    field = prepare_field(plane, psf, filled, edge_margin(psf, plane.shape) if pad_observation else (0, 0))
    valid = field.data[field.valid > 0]
    offset = np.float32(max(0.0, -float(valid.min(initial=0))) if offset_obs else 0)
    data = field.data + offset
    peak = float(valid.max(initial=-math.inf)) + float(offset)
    if not peak > 0:
        reason = StopReason.NOTHING_TO_DO if valid.size else StopReason.ALL_NAN
        return deconvolution(plane, field, np.zeros_like(data), 0, reason, variance)
    estimate = _start(field, data, padded=pad_observation)
    norm = _normalisation(field, padded=pad_observation)
    nudge, floor = nudge_factor * peak, DIVISION_FLOOR * peak
    watch = None if observer is None else _Watch(observer, field, data, estimate)
    width, iterations, stop = field.convolver.shape[1], 0, None
    while stop is None and iterations < n_iter:
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
            level = _selection_level(residual, field.valid, threshold)
            np.copyto(factor, norm, where=np.abs(residual) < level)
        largest = _correct(estimate, factor, norm, width, strength, cf_lclip, cf_uclip, cf_negative_fix)
        iterations += 1
        if largest > cf_limit:
            stop = StopReason.CORRECTION_LIMIT
        if watch is not None:
            watch.show(iterations, estimate, level)
    if offset > 0:
        estimate[:, :width] -= offset
    return deconvolution(
        plane, field, estimate, iterations, StopReason.N_ITER if stop is None else stop, variance
    )


class _Watch:
    """Makes the states for an observer, at the cost of one more convolution in each iteration."""

    def __init__(
        self, observer: Observer, field: Field, data: NDArray[np.float32], estimate: NDArray[np.float32]
    ) -> None:
        self._observer, self._field, self._data = observer, field, data
        self._fabs: tuple[float, ...] = ()
        self._rms: tuple[float, ...] = ()
        self._before = estimate.copy()
        self._take_statistics(self._residual(estimate))

    def show(self, iteration: int, estimate: NDArray[np.float32], level: float) -> None:
        """Hand the state after an iteration to the observer."""
        residual = self._residual(estimate)
        self._take_statistics(residual)
        frame = self._field.frame
        changed = estimate[frame] != self._before[frame]
        self._before[:] = estimate
        self._observer(
            IterationState(iteration, estimate[frame], residual[frame], changed, level, self._fabs, self._rms)
        )

    def _residual(self, estimate: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._data - self._field.convolver.convolve_padded(estimate)

    def _take_statistics(self, residual: NDArray[np.float32]) -> None:
        valid = residual[self._field.valid > 0].astype(np.float64)
        self._fabs += (float(np.abs(valid).max()),)
        self._rms += (float(np.sqrt(np.mean(valid**2))),)


def _start(field: Field, data: NDArray[np.float32], *, padded: bool) -> NDArray[np.float32]:
    """
    Flat at the mean; darker where data are missing and estimated to be darker.

    A padded plane has its light spread over all that the PSF can reach, which lowers the mean. Light that
    starts behind a rim of missing pixels, where nothing can remove it, would stay there.
    """
    valid = data[field.valid > 0]
    mean = float(valid.mean(dtype=np.float64))
    if not mean > 0:
        mean = float(np.maximum(valid, 0).mean(dtype=np.float64))
    if padded:
        height, width = field.knowable.shape
        reach_y, reach_x = field.convolver.reach
        mean *= height * width / ((height + 2 * reach_y) * (width + 2 * reach_x))
    start = np.zeros_like(data)
    inside = start[:, : field.convolver.shape[1]]
    inside[:] = mean
    missing = field.valid[:, : inside.shape[1]] == 0
    inside[missing] = np.clip(data[:, : inside.shape[1]][missing], LEAST_REACH * mean, mean)
    return start


def _normalisation(field: Field, *, padded: bool) -> NDArray[np.float32]:
    """The divisor of the correlated ratio; what is outside of an unpadded plane counts as fully trusted."""
    norm = field.convolver.correlate_padded(field.weight)
    if not padded:
        inside = field.convolver.pad(np.ones(field.convolver.shape, np.float32))
        norm += 1 - field.convolver.correlate_padded(inside)
    return np.maximum(norm, np.float32(LEAST_REACH))


def _selection_level(residual: NDArray[np.float32], valid: NDArray[np.float32], threshold: float) -> float:
    """The |residual| from which pixels are corrected."""
    size = np.abs(residual[valid > 0])
    if threshold > 0:
        return threshold
    if threshold < 0:
        return -threshold * float(size.max())
    return float(size.mean(dtype=np.float64) + size.std(dtype=np.float64))


@njit(cache=True, nogil=True, error_model="numpy")
def _divide(
    blurred: NDArray[np.float32],
    data: NDArray[np.float32],
    weight: NDArray[np.float32],
    nudge: float,
    floor: float,
) -> None:
    """Replace blurred by weight * (data + nudge) / (blurred + nudge), with divisors above rounding noise."""
    lift, least = np.float32(nudge), np.float32(floor)
    for y in range(data.shape[0]):
        for x in range(data.shape[1]):
            divisor = blurred[y, x] + lift
            divisor = divisor if abs(divisor) > least else least
            blurred[y, x] = weight[y, x] * (data[y, x] + lift) / divisor


@njit(cache=True, nogil=True, error_model="numpy")
def _correct(
    estimate: NDArray[np.float32],
    factor: NDArray[np.float32],
    norm: NDArray[np.float32],
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
