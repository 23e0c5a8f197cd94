"""Flux-conserving CLEAN for extended sources (Högbom 1974; Steer, Dewdney & Ito 1984)."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.clean_beam import Beam, with_restored
from lucidcube.kernels.deconvolution.common import (
    RENEWAL_PERIOD,
    Deconvolution,
    IterationState,
    Observer,
    StopReason,
    Variance,
    edge_margin,
)
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.field import Field, prepare_field
from lucidcube.kernels.fourier.convolver import Support
from lucidcube.kernels.otsu import nested_otsu

STALL_WINDOW = 10
NESTED_LEVELS = 10


class _Statistics(NamedTuple):
    """The largest absolute value, the largest positive value and the rms of the residual at valid pixels."""

    fabs: float
    highest: float
    rms: float


def clean_modified(
    plane: Plane,
    psf: NDArray[np.floating],
    *,
    variance: Variance = None,
    filled: NDArray[np.generic] | None = None,
    observer: Observer | None = None,
    n_iter: int,
    loop_gain: float,
    threshold: float,
    n_positive_iter: int,
    noise_std: float | None,
    rms_frac_threshold: float,
    fabs_frac_threshold: float,
    max_stat_increase: float,
    min_frac_stat_delta: float,
    give_best_result: bool,
    clean_beam_sigma: float,
    chi2_target: float | None,
    restoring_beam: Beam,
) -> Deconvolution:
    """Deconvolve a plane by a modified CLEAN, which takes a step at all bright pixels at once.

    Repeat: of the pixels whose metric, |residual|, exceeds the threshold, `loop_gain` times the residual goes
    to the components, and its convolution with the PSF is subtracted from the residual.

    Parameters
    ----------
    plane : array of float32, (y, x)
        NaN is missing.
    psf : array of float, (y, x)
        Odd, centred, finite, of unit sum (`common.check_psf` checks), of any size.
    variance : array of float, (y, x), optional
        Of the plane, for chi2 and the stop by the noise. If it is not given, `noise_std` takes its place.
    filled : array of bool or int, (y, x), optional
        Values of `holes.Filled`: not zero where the plane was interpolated.
    observer : callable, optional
        Gets an `IterationState` after each iteration.
    **options
        The fields of `stages.deconvolution_methods.CleanModified`, which explains them.

    Returns
    -------
    Deconvolution
        Its `extras` hold the "restored" plane, see `clean_beam.with_restored`. If the noise stopped the
        iteration, the components are those of the last one, even if an earlier one has better statistics.
        With a `clean_beam_sigma`, the residual and the statistics are those of the components before they
        were smoothed, so that G (*) input = components (*) PSF + G (*) residual for the Gaussian G, further
        than the reach of G from the frame's edge and from missing pixels.

    Notes
    -----
    Filled and missing pixels and a margin around the frame may hold components, found from estimates of the
    residual there (see `field.prepare_field`); they have no influence on thresholds and statistics. float32
    throughout, statistics summed in float64. Sources: Högbom 1974, A&AS 15, 417; Steer, Dewdney & Ito 1984,
    A&A 137, 159.
    """
    field = prepare_field(plane, psf, filled, edge_margin(psf, plane.shape))
    spread = variance
    if variance is None and noise_std is not None:
        spread = np.full(plane.shape, noise_std**2)
    noise = field.noise_stop(spread, chi2_target)
    residual = field.data
    components, step = np.zeros_like(residual), np.zeros_like(residual)
    latest = _subtract(step, Support(0, 0, 0, 0, 0), residual, field)
    best = _Best(give_best_result, latest)
    fabs, rms = [latest.fabs], [latest.rms]
    places = np.flatnonzero(field.valid)
    iterations, stop = 0, StopReason.N_ITER
    if latest.fabs == 0:
        stop = StopReason.NOTHING_TO_DO if field.valid_pixels else StopReason.ALL_NAN
    while stop is StopReason.N_ITER and iterations < n_iter:
        positive_only = iterations < n_positive_iter
        if iterations % RENEWAL_PERIOD == 0:
            field.renew(residual)
        level = _selection_level(residual, places, latest, threshold, positive_only)
        width = field.convolver.shape[1]
        support = Support(*_select(residual, components, step, width, level, loop_gain, positive_only))
        latest = _subtract(step, support, residual, field)
        best.compare(iterations, latest, components)
        iterations += 1
        fabs.append(latest.fabs)
        rms.append(latest.rms)
        stop = stop_reason_of(
            fabs, rms, fabs_frac_threshold, rms_frac_threshold, max_stat_increase, min_frac_stat_delta
        )
        if noise.reached(residual):
            stop = StopReason.CHI2_REACHED
        if observer is not None:
            state = (iterations, components + step, residual, step != 0, level, tuple(fabs), tuple(rms))
            observer(field.pixels.shown(IterationState(*state), field.frame))
    components += step
    if best.components is not None and stop is not StopReason.CHI2_REACHED:
        components = best.components
    result = with_restored(field.result(components, iterations, stop, spread), psf, restoring_beam)
    return result if clean_beam_sigma == 0 else with_clean_beam(result, clean_beam_sigma)


class _Best:
    """The best iterate so far.

    It is copied only when the next step is about to change it, which is rare while the statistics improve:
    after each iteration `components` holds the best components where these are not the current ones.
    """

    def __init__(self, wanted: bool, statistics: _Statistics) -> None:
        self._wanted = wanted
        self._score = statistics.fabs * statistics.rms
        self._iteration = 0
        self.components: Plane | None = None

    def compare(self, iteration: int, new: _Statistics, components: Plane) -> None:
        """Compare with the statistics after `iteration` + 1; `components` are those after `iteration`."""
        if not self._wanted:
            return
        score = new.fabs * new.rms
        if score < self._score:
            self._score, self._iteration, self.components = score, iteration + 1, None
        elif self._iteration == iteration:
            self.components = components.copy()


def stop_reason_of(
    fabs: list[float], rms: list[float], least_fabs: float, least_rms: float, increase: float, change: float
) -> StopReason:
    """Return the first stop condition that the statistics from the start until now fulfil, or N_ITER."""
    if fabs[-1] < least_fabs * fabs[0]:
        return StopReason.FABS_REACHED
    if rms[-1] < least_rms * rms[0]:
        return StopReason.RMS_REACHED
    if math.isfinite(increase) and any(s[-1] > (1 + increase) * min(s) for s in (fabs, rms)):
        return StopReason.DIVERGED
    if len(fabs) > STALL_WINDOW and all(_variation(s[-STALL_WINDOW:]) < change for s in (fabs, rms)):
        return StopReason.STALLED
    return StopReason.N_ITER


def _variation(values: list[float]) -> float:
    """Return standard deviation over mean of values that are not negative; 0 if all are 0."""
    mean = sum(values) / len(values)
    spread = math.dist(values, [mean] * len(values)) / math.sqrt(len(values))
    return spread / mean if mean > 0 else 0.0


def _subtract(step: Plane, support: Support, residual: Plane, field: Field) -> _Statistics:
    """Subtract a blurred step from the residual, and return the statistics of what is left."""
    highest, lowest, squares = field.convolver.subtract_part(step, support, residual, field.valid)
    return _Statistics(max(highest, -lowest), highest, math.sqrt(squares / max(field.valid_pixels, 1)))


def _selection_level(
    residual: Plane, places: NDArray[np.int64], latest: _Statistics, threshold: float, positive: bool
) -> float:
    """Return the value above which the metric selects a pixel, given the flat indices of valid ones."""
    if threshold >= 0:
        return max(0.0, threshold * (latest.highest if positive else latest.fabs))
    metric = residual.reshape(-1)[places]
    return max(0.0, nested_otsu(metric if positive else np.abs(metric, out=metric), NESTED_LEVELS))


def with_clean_beam(result: Deconvolution, sigma: float) -> Deconvolution:
    """Smooth the components by a Gaussian, which keeps their sum away from the edge; NaN stays NaN."""
    outside = np.isnan(result.components)
    smooth = ndimage.gaussian_filter(np.where(outside, 0, result.components), sigma, mode="constant")
    smooth[outside] = np.nan
    return result._replace(components=smooth, flux_out=float(np.nansum(smooth, dtype=np.float64)))


@njit(cache=True, nogil=True)
def _select(
    residual: Plane, components: Plane, step: Plane, width: int, level: float, gain: float, positive: bool
) -> tuple[int, int, int, int, int]:
    """Add the last step to the components, replace it by the next, and return the `Support` of that."""
    limit, fraction = np.float32(level), np.float32(gain)
    by_column = np.zeros(width, np.int32)
    top, bottom, pixels = residual.shape[0], 0, 0
    for y in range(residual.shape[0]):
        before = pixels
        for x in range(width):
            components[y, x] += step[y, x]
            value = residual[y, x]
            metric = value if positive else abs(value)
            selected = metric > limit
            step[y, x] = fraction * value if selected else np.float32(0)
            by_column[x] += selected
            pixels += selected
        if pixels > before:
            top, bottom = min(top, y), y + 1
    if pixels == 0:
        return 0, 0, 0, 0, 0
    columns = np.flatnonzero(by_column)
    return top, bottom, columns[0], columns[-1] + 1, pixels
