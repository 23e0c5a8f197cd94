"""A plane that is ready for iterating: missing data are estimated, and a margin surrounds the frame."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.common import (
    MODELLED_NOISE,
    Deconvolution,
    Pixels,
    StopReason,
    Variance,
    of_nearest,
)
from lucidcube.kernels.deconvolution.continuation import Continuation, Plane
from lucidcube.kernels.deconvolution.stopping import NoiseStop
from lucidcube.kernels.fourier.convolver import Convolver

LEAST_WEIGHT = 0.05
UNDAMPED_FRACTION = 0.25
TRUSTED_FRACTION = 0.5
LARGEST_RATIO = 100.0
LIGHT_SMOOTHING = 1.5
"""Width in pixels of the Gaussian that smooths the data before weights are taken from them."""


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
    pixels: Pixels
    """The pixels of the plane by kind."""

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
        modelled = self.pixels.modelled
        if modelled.any() and known.any():
            relative[modelled] = of_nearest(relative, known, modelled) / MODELLED_NOISE**2
        weight = np.zeros_like(self.valid)
        weight[self.frame] = relative
        return weight

    def noise_stop(self, variance: Variance, target: float | None) -> NoiseStop:
        """Return the test for residuals (field y, padded_width), given the variance (y, x) of the plane."""
        spread = np.full(self.data.shape, np.nan, np.float32)
        if variance is not None:
            spread[self.frame] = variance
        return NoiseStop(self.data, spread, self.valid, target)

    def result(
        self, components: Plane, iterations: int, stop_reason: StopReason, variance: Variance
    ) -> Deconvolution:
        """Return the result for components (field y, padded_width), of which those outside become zero.

        The variance (y, x) is for chi2; pixels do not count where it is not positive.
        """
        model = self.convolver.convolve_padded(components)[self.frame].copy()
        left = self.plane - model
        chi2_bright = NoiseStop(self.plane, variance, self.pixels.valid, None).chi2(left)
        whole = components[:, : self.convolver.shape[1]].copy()
        inside = components[self.frame].copy()
        inside[self.pixels.outside] = 0
        components[:] = 0
        components[self.frame] = inside
        residual = self.plane - self.convolver.convolve_padded(components)[self.frame]
        inside[self.pixels.outside] = np.nan
        residual[self.pixels.unobserved] = np.nan
        valid = self.pixels.valid
        spread = np.broadcast_to(np.nan if variance is None else variance, residual.shape)[valid]
        known = spread > 0
        chi2 = residual[valid][known].astype(np.float64) ** 2 / spread[known]
        return Deconvolution.of(
            self.plane,
            inside,
            residual,
            valid,
            iterations,
            stop_reason,
            chi2=float(np.mean(chi2)) if known.any() else np.nan,
            chi2_bright=chi2_bright,
            model=model,
            whole=whole,
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
    pixels = Pixels.of(plane, psf, filled)
    valid, data = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    valid[frame] = pixels.valid
    weight, continuation, used = valid, None, valid > 0
    data[frame] = plane
    if not used.all():
        fraction = np.clip(convolver.correlate(valid), 0, 1)
        used[frame] |= pixels.present & (fraction[frame] >= TRUSTED_FRACTION)
        labels, _ = ndimage.label(np.pad(~used, 1, constant_values=True), structure=np.ones((3, 3)))
        enclosed = labels[1:-1, 1:-1] != labels[0, 0]
        continuation = Continuation(used, np.where(enclosed, 1, np.minimum(1, fraction / UNDAMPED_FRACTION)))
        continuation.fill(data)
        trust = np.maximum(np.minimum(1, fraction / TRUSTED_FRACTION) ** 4, LEAST_WEIGHT)
        weight = np.where(used, 1, trust).astype(np.float32)
    data, weight, valid = map(convolver.pad, (data, weight, valid))
    arrays = data, weight, valid, int(pixels.valid.sum()), convolver.pad(~used) > 0
    return Field(plane, convolver, *arrays, continuation, frame, pixels)
