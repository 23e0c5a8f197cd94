"""The parts that the deconvolution methods share: results, stop reasons, kinds of pixels, observers."""

import math
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.fourier.convolver import trim_psf
from lucidcube.kernels.holes import Filled, outside_field

SUM_TOLERANCE = 0.01
CENTRE_TOLERANCE = 0.5
CORE, WHOLE_STAR = 0.5, 0.01
MARGIN_LIGHT = 0.8
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
    whole: Plane | None = None
    """The components on a grid that extends beyond the frame, by as much on opposite sides, where the method
    finds light there; finite everywhere."""
    residual_structure: float = np.nan
    """See `diagnostics.residual_structure`; NaN if it was not measured."""
    sharp: Plane | None = None
    """The components before they were convolved with the Gaussian of a resolution; None without one."""
    extras: Mapping[str, Plane] = {}
    """Further planes (y, x) that only some methods make, by the name of the variable."""
    model: Plane | None = None
    """What the method expects of the data: finite everywhere, with the light from beyond the frame. None if
    the plane was not deconvolved."""
    start: Any = None
    """What the kernel takes as `start`, to deconvolve similar data in fewer iterations; None if it cannot."""

    @classmethod
    def of(
        cls,
        plane: Plane,
        components: Plane,
        residual: Plane,
        valid: NDArray[np.bool_],
        iterations: int,
        stop_reason: StopReason,
        **others: Any,
    ) -> "Deconvolution":
        """Return the result for a plane (y, x), with the statistics of the residual at valid pixels."""
        fabs, rms = fabs_and_rms(residual[valid].astype(np.float64))
        flux_in, flux_out = (float(np.nansum(array, dtype=np.float64)) for array in (plane, components))
        numbers = iterations, stop_reason, fabs, rms, flux_in, flux_out
        return cls(components, residual, *numbers, **{"chi2": np.nan, **others})


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
Frame = tuple[slice, slice]


class Pixels(NamedTuple):
    """The pixels of a plane by kind, arrays (y, x) of bool."""

    present: NDArray[np.bool_]
    """Finite pixels."""
    valid: NDArray[np.bool_]
    """Pixels that are neither NaN nor filled, the only ones that count in statistics."""
    modelled: NDArray[np.bool_]
    """Pixels whose values were predicted from other planes."""
    unobserved: NDArray[np.bool_]
    """Where the residual of the result is NaN."""
    outside: NDArray[np.bool_]
    """Where the components of the result are NaN: missing, and not in a hole that the PSF reaches across."""

    @classmethod
    def of(cls, plane: Plane, psf: NDArray[np.floating], filled: NDArray[np.generic] | None) -> "Pixels":
        """Return the pixels of a plane, given the values of `Filled` or None."""
        marks = np.zeros(plane.shape, np.uint8) if filled is None else np.asarray(filled)
        present = np.isfinite(plane)
        valid, modelled = present & (marks == Filled.NO), present & (marks == Filled.MODELLED)
        outside = outside_field(~present, 2 * max(edge_margin(psf, plane.shape)) + 1)
        return cls(present, valid, modelled, ~present | (marks == Filled.HOLE), outside)

    def shown(self, state: IterationState, frame: Frame) -> IterationState:
        """Return what an observer gets of a state whose arrays contain the plane as `frame`."""
        return state._replace(
            components=np.where(self.outside, np.float32(np.nan), state.components[frame]),
            residual=np.where(self.unobserved, np.float32(np.nan), state.residual[frame]),
            selected=state.selected[frame],
        )


class Reporter:
    """Calls an observer after each iteration, with the statistics of the residual from the start until then.

    All arrays contain the plane as `frame`. Components and residual are first those of the start.
    """

    def __init__(
        self, observer: Observer, pixels: Pixels, frame: Frame, components: Plane, residual: Plane
    ) -> None:
        self._observer, self._pixels, self._frame = observer, pixels, frame
        self._before = components.copy()
        self._statistics = [fabs_and_rms(residual[frame][pixels.valid])]

    def report(
        self,
        iteration: int,
        components: Plane,
        residual: Plane,
        selected: NDArray[np.bool_] | None = None,
        threshold: float = math.nan,
    ) -> None:
        """Call the observer; if the selected pixels are not given, they are those that changed."""
        if selected is None:
            selected = components != self._before
            self._before = components.copy()
        self._statistics.append(fabs_and_rms(residual[self._frame][self._pixels.valid]))
        fabs, rms = zip(*self._statistics, strict=True)
        state = IterationState(iteration, components, residual, selected, threshold, fabs, rms)
        self._observer(self._pixels.shown(state, self._frame))


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


def of_nearest(
    values: NDArray[np.floating], known: NDArray[np.bool_], wanted: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """Return the values (y, x) of the known pixels that are nearest to the wanted ones: (wanted pixels,)."""
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return values[tuple(nearest)][wanted]


def fabs_and_rms(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return the largest absolute value and the root mean square, in float64; NaN if there are no values."""
    if not values.size:
        return np.nan, np.nan
    return float(np.abs(values).max()), float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
