"""The parts that the deconvolution methods share: results, stop reasons, the PSF check and missing data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.continuation import Continuation, Plane
from lucidcube.kernels.deconvolution.stopping import NoiseStop
from lucidcube.kernels.fourier.convolver import Convolver, trim_psf
from lucidcube.kernels.holes import Filled, outside_field

SUM_TOLERANCE = 0.01
CENTRE_TOLERANCE = 0.5
CORE, WHOLE_STAR = 0.5, 0.01
MARGIN_LIGHT = 0.8
LEAST_WEIGHT = 0.05
UNDAMPED_FRACTION = 0.25
TRUSTED_FRACTION = 0.5
LARGEST_RATIO = 100.0
LIGHT_SMOOTHING = 1.5
"""Width in pixels of the Gaussian that smooths the data before weights are taken from them."""
MODELLED_NOISE = 5.0
"""Standard deviation of a value that was predicted from other planes, in units of that of the pixel."""
RENEWAL_PERIOD = 10


class StopReason(IntEnum):
    """Reason why an iteration ended. The number is written to the log table; `text` explains it."""

    text: str

    def __new__(cls, value: int, text: str) -> "StopReason":
        reason = int.__new__(cls, value)
        reason._value_, reason.text = value, text
        return reason

    ALL_NAN = 0, "no data: every pixel is missing or filled"
    NOTHING_TO_DO = 1, "nothing to do: no signal that the method could work on"
    N_ITER = 2, "all iterations done"
    FABS_REACHED = 3, "the largest absolute residual fell below its fraction of the initial one"
    RMS_REACHED = 4, "the rms residual fell below its fraction of the initial one"
    STALLED = 5, "the residual statistics no longer changed"
    DIVERGED = 6, "a residual statistic rose too far above its best value"
    CORRECTION_LIMIT = 7, "a correction factor exceeded its limit"
    NO_PSF = 8, "no PSF: the star has no data at this wavelength, or its fit failed"
    CHI2_REACHED = 9, "chi squared per pixel fell to its target: the residual is noise"
    CONVERGED = 10, "converged: the objective no longer decreased"


class Deconvolution(NamedTuple):
    """A deconvolved plane (y, x)."""

    components: Plane
    """The sharpened plane. NaN outside the field, which is where the plane is NaN and not in a hole that the
    PSF reaches across."""
    residual: Plane
    """Plane - components (*) PSF, to float32 rounding, where NaN components count as 0; NaN where nothing was
    observed, which is where the plane is NaN or `filled` is `Filled.HOLE`. Light near the edge that came from
    outside the field belongs to no component, and stays here."""
    iterations: int
    """Number of iterations done. The components may be those of an earlier one, the best."""
    stop_reason: StopReason
    fabs: float
    """Largest |residual| over the valid pixels, which are neither NaN nor filled."""
    rms: float
    """Root mean square of the residual over the valid pixels."""
    flux_in: float
    """Sum of the finite pixels of the plane."""
    flux_out: float
    """Sum of the finite components."""
    chi2: float
    """Mean of residual^2 / variance over the valid pixels of known variance; NaN where there are none."""
    chi2_bright: float = np.nan
    """The number that is compared with `chi2_target`: the mean of min(residual^2 / variance, 25) over bright
    pixels (see `stopping.NoiseStop`), where the residual lacks the light from outside the field; NaN if the
    variance is unknown."""
    extras: Mapping[str, Plane] = {}
    """Further planes (y, x) that only some methods make, by the name of the variable."""


class IterationState(NamedTuple):
    """What an observer gets after each iteration: planes (y, x) and numbers.

    Components and residual are NaN where those of the result are. Here the residual lacks the light that was
    attributed to the outside of the field.
    """

    iteration: int
    """Number of this iteration, from 1."""
    components: Plane
    residual: Plane
    selected: NDArray[np.bool_]
    """The pixels that this iteration changed."""
    threshold: float
    """The selection threshold; NaN if there was none."""
    fabs: tuple[float, ...]
    """The statistics of the residual, here and in `rms`, at the start and after each iteration so far."""
    rms: tuple[float, ...]


Observer = Callable[[IterationState], None]
Variance = NDArray[np.floating] | None


def check_psf(psf: NDArray[np.floating]) -> None:
    """Raise ValueError for a PSF (y, x) that would move or scale what is deconvolved with it.

    It must be a plane, odd along both axes, finite, of a sum within 1 % of one, and centred: the centroid of
    its core (the pixels above half of its maximum that are connected to the brightest), or that of the whole
    star (likewise, above a hundredth), at most half a pixel from the central pixel along each axis. A star
    that is lopsided can be centred on one of them only.
    """
    trim_psf(psf, (1, 1))
    total = float(psf.sum(dtype=np.float64))
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(f"the PSF must have unit sum, but its sum is {total:.6g}: normalise it first")
    core, star = _offset(psf, CORE), _offset(psf, WHOLE_STAR)
    if min(max(map(abs, offset)) for offset in (core, star)) > CENTRE_TOLERANCE:
        raise ValueError(
            "the PSF must be centred on its central pixel, but its core lies "
            f"{core[0]:+.2f} pixels off along y and {core[1]:+.2f} along x: centre it first"
        )


def _offset(psf: NDArray[np.floating], level: float) -> tuple[float, float]:
    """Centroid (y, x), from the centre, of the pixels above a fraction of the maximum connected to it."""
    bright = psf > level * psf.max()
    where = ndimage.find_objects(bright.astype(np.uint8))[0]  # most of the PSF is faint
    box, top, left = psf[where], where[0].start, where[1].start
    labels, _ = ndimage.label(box > level * psf.max())
    star = labels == labels[np.unravel_index(np.argmax(box), box.shape)]
    y, x = ndimage.center_of_mass(np.where(star, box, 0).astype(np.float64))
    return top + y - psf.shape[0] // 2, left + x - psf.shape[1] // 2


@dataclass(frozen=True)
class Field:
    """A plane (y, x) that is ready for iterating: complete, and possibly wider than the frame.

    Arrays are of the field and of shape (field y, padded_width), unless they are said to be of the plane.
    """

    plane: Plane
    convolver: Convolver
    data: Plane
    """The plane with estimates where it has no valid pixels."""
    weight: Plane
    """The trust in `data`: 1 for valid pixels and 0 in the padding."""
    valid: Plane
    """1 for valid pixels, the only ones that count in statistics, 0 elsewhere."""
    valid_pixels: int
    estimated: NDArray[np.bool_]
    """Where `data` are estimates. The other pixels are valid, or filled and among valid ones."""
    continuation: Continuation | None
    """Makes the estimates; None if all pixels are valid."""
    frame: tuple[slice, slice]
    """Where the plane lies in the field."""
    unobserved: NDArray[np.bool_]
    """Where the residual of the result is NaN, of the plane."""
    outside: NDArray[np.bool_]
    """Where the components of the result are NaN, of the plane."""
    modelled: NDArray[np.bool_]
    """Where the values of the plane were predicted from other planes."""

    def renew(self, residual: Plane) -> None:
        """Continue the residual (field y, padded_width), in place, over the pixels with estimated data."""
        if self.continuation is not None:
            self.continuation.fill(residual)

    def weights_by_variance(self, variance: Variance, *, poisson: bool) -> Plane:
        """Return the expected over the actual variance of each pixel, relative (field y, padded_width).

        For a method that takes the variance to be proportional to the light (`poisson`), this is what is
        expected: with these weights it takes each pixel with its own variance. Otherwise the expected
        variance is a constant plus a multiple of the light, fitted to the plane. So pixels with less exposure
        than others count less, but the sky does not count more than the object, which would be fitted last.
        The light is that of the smoothed data, and at least the noise.

        The weights are limited to `LARGEST_RATIO` either way. Pixels that were modelled have that of the
        nearest pixel of known variance over `MODELLED_NOISE`^2. The weights are 0 for other pixels that are
        not valid, and for those whose variance is unknown, unless it is unknown everywhere: then they are 1
        for all valid pixels.
        """
        relative = self.valid[self.frame].copy()
        known = relative > 0
        if variance is not None:
            known &= (variance > 0) & np.isfinite(variance)
        if variance is not None and known.any():
            spread = variance[known].astype(np.float64)
            seen, summed = (
                ndimage.gaussian_filter(np.where(known, values, np.float32(0)), LIGHT_SMOOTHING)[known]
                for values in (np.float32(1), self.plane)
            )
            light = np.maximum(summed / seen, math.sqrt(np.median(spread)))
            ratio = (light if poisson else _linear_variance(light, spread)) / spread
            relative[:] = 0
            relative[known] = np.clip(ratio / np.median(ratio), 1 / LARGEST_RATIO, LARGEST_RATIO)
        if self.modelled.any() and known.any():
            nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
            relative[self.modelled] = relative[tuple(nearest)][self.modelled] / MODELLED_NOISE**2
        weight = np.zeros_like(self.valid)
        weight[self.frame] = relative
        return weight

    def noise_stop(self, variance: Variance, target: float | None) -> NoiseStop:
        """Return the test for residuals (field y, padded_width), given the variance (y, x) of the plane."""
        spread = np.full(self.data.shape, np.nan, np.float32)
        if variance is not None:
            spread[self.frame] = variance
        return NoiseStop(self.data, spread, self.valid, target)

    def shown(self, state: IterationState) -> IterationState:
        """Return what an observer gets of a state with arrays (field y, padded_width)."""
        return state._replace(
            components=np.where(self.outside, np.float32(np.nan), state.components[self.frame]),
            residual=np.where(self.unobserved, np.float32(np.nan), state.residual[self.frame]),
            selected=state.selected[self.frame],
        )

    def result(
        self, components: Plane, iterations: int, stop_reason: StopReason, variance: Variance
    ) -> Deconvolution:
        """Return the result for components (field y, padded_width), which are overwritten.

        The variance (y, x) is for chi2; pixels do not count where it is not positive.
        """
        left = self.plane - self.convolver.convolve_padded(components)[self.frame]
        stop = NoiseStop(self.plane, variance, self.valid[self.frame], None)
        inside = components[self.frame].copy()
        inside[self.outside] = 0
        components[:] = 0
        components[self.frame] = inside
        residual = self.plane - self.convolver.convolve_padded(components)[self.frame]
        inside[self.outside] = np.nan
        residual[self.unobserved] = np.nan
        valid = self.valid[self.frame] > 0
        chi2_bright = stop.chi2(left)
        left = residual[valid].astype(np.float64)
        spread = np.broadcast_to(np.nan if variance is None else variance, residual.shape)[valid]
        known = spread > 0
        return Deconvolution(
            inside,
            residual,
            iterations,
            stop_reason,
            *fabs_and_rms(left),
            flux_in=float(np.nansum(self.plane, dtype=np.float64)),
            flux_out=float(np.nansum(inside, dtype=np.float64)),
            chi2=float(np.mean(left[known] ** 2 / spread[known])) if known.any() else np.nan,
            chi2_bright=chi2_bright,
        )


def _linear_variance(light: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variance as a rising linear function of the light, from a fit of relative deviations."""
    terms = np.stack([1 / variance, light / variance], axis=1)
    (constant, slope), *_ = np.linalg.lstsq(terms, np.ones(light.size), rcond=None)
    if slope < 0:
        constant, slope = 1.0, 0.0
    return max(constant, 0.0) + slope * light


def prepare_field(
    plane: Plane, psf: NDArray[np.floating], filled: NDArray[np.generic] | None, margin: tuple[int, int]
) -> Field:
    """Complete a plane, and surround it by a margin, for an iteration that knows no missing data.

    Light from a hole or from beyond the edge falls onto valid pixels, and must come from somewhere. So
    components may lie there, and are held by estimates of the data: a smooth continuation of the valid
    pixels, which is damped where it is open to the edge of the frame and less than `UNDAMPED_FRACTION` of
    what is around (PSF-weighted) is valid. The iteration replaces these estimates from time to time by its
    own model plus the continued residual (`Field.renew`), so that a bad first guess leaves no trace. The
    trust in them rises with the valid fraction around.

    NaN in the plane (y, x) is a hole no wider than twice the `edge_margin`, which the PSF reaches across, or
    lies outside the field. Pixels that are `filled` (values of `Filled`) are taken as data where at least
    `TRUSTED_FRACTION` of what is around is valid, and are estimated again elsewhere. The margin is in pixels
    on either side along y and x.
    """
    shape = (plane.shape[0] + 2 * margin[0], plane.shape[1] + 2 * margin[1])
    frame = (slice(margin[0], margin[0] + plane.shape[0]), slice(margin[1], margin[1] + plane.shape[1]))
    convolver = Convolver(psf, shape)
    filled = np.zeros(plane.shape, np.uint8) if filled is None else filled
    present = np.isfinite(plane)
    outside = outside_field(~present, 2 * max(edge_margin(psf, plane.shape)) + 1)
    valid, data = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    valid[frame] = counted = present & (filled == Filled.NO)
    weight, continuation, used = valid, None, valid > 0
    data[frame] = plane
    if not used.all():
        fraction = np.clip(convolver.correlate(valid), 0, 1)
        used[frame] |= present & (fraction[frame] >= TRUSTED_FRACTION)
        labels, _ = ndimage.label(np.pad(~used, 1, constant_values=True), structure=np.ones((3, 3)))
        enclosed = labels[1:-1, 1:-1] != labels[0, 0]
        continuation = Continuation(used, np.where(enclosed, 1, np.minimum(1, fraction / UNDAMPED_FRACTION)))
        continuation.fill(data)
        trust = np.maximum(np.minimum(1, fraction / TRUSTED_FRACTION) ** 4, LEAST_WEIGHT)
        weight = np.where(used, 1, trust).astype(np.float32)
    estimated, unobserved = convolver.pad(~used) > 0, ~present | (filled == Filled.HOLE)
    data, weight, valid = map(convolver.pad, (data, weight, valid))
    arrays = data, weight, valid, int(counted.sum()), estimated
    modelled = present & (filled == Filled.MODELLED)
    return Field(plane, convolver, *arrays, continuation, frame, unobserved, outside, modelled)


def edge_margin(psf: NDArray[np.floating], shape: tuple[int, int]) -> tuple[int, int]:
    """Return how far beyond the edge of the data light matters, in pixels along y and x.

    It is half the width that holds `MARGIN_LIGHT` of the PSF, but no more than half the frame, so that small
    frames with wide PSFs stay small.
    """
    margins = []
    for axis in (0, 1):
        profile = psf.sum(axis=1 - axis, dtype=np.float64)
        centre = profile.size // 2
        sides = profile[centre:] + profile[centre::-1]
        sides[0] /= 2
        enough = np.cumsum(sides) >= MARGIN_LIGHT * profile.sum()
        margins.append(min(int(np.argmax(enough)), shape[axis] // 2))
    return margins[0], margins[1]


def fabs_and_rms(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return the largest absolute value and the root mean square, in float64; NaN if there are no values."""
    if not values.size:
        return np.nan, np.nan
    return float(np.abs(values).max()), float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
