"""What the deconvolution methods share: results, stop reasons, PSF check, missing data, the frame's edge."""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.continuation import Continuation
from lucidcube.kernels.fourier.convolver import Convolver, trim_psf

SUM_TOLERANCE = 0.01
CENTRE_TOLERANCE = 0.5
CORE, WHOLE_STAR = 0.5, 0.01
MARGIN_LIGHT = 0.8
LEAST_WEIGHT = 0.05
KNOWN_FRACTION = 0.1
UNDAMPED_FRACTION = 0.25
TRUSTED_FRACTION = 0.5
RENEWAL_PERIOD = 10


class StopReason(IntEnum):
    """Why an iteration ended; the number goes to the log table, `text` explains it."""

    ALL_NAN = 0
    NOTHING_TO_DO = 1
    N_ITER = 2
    FABS_REACHED = 3
    RMS_REACHED = 4
    STALLED = 5
    DIVERGED = 6
    CORRECTION_LIMIT = 7
    NO_PSF = 8

    @property
    def text(self) -> str:
        """One line for people."""
        return _STOP_TEXTS[self]


_STOP_TEXTS = {
    StopReason.ALL_NAN: "no data: every pixel is missing or filled",
    StopReason.NOTHING_TO_DO: "nothing to do: no signal that the method could work on",
    StopReason.N_ITER: "all iterations done",
    StopReason.FABS_REACHED: "the largest absolute residual fell below its fraction of the initial one",
    StopReason.RMS_REACHED: "the rms residual fell below its fraction of the initial one",
    StopReason.STALLED: "the residual statistics no longer changed",
    StopReason.DIVERGED: "a residual statistic rose too far above its best value",
    StopReason.CORRECTION_LIMIT: "a correction factor exceeded its limit",
    StopReason.NO_PSF: "no PSF: the star has no data at this wavelength, or its fit failed",
}


class Deconvolution(NamedTuple):
    """
    A deconvolved plane.

    Attributes
    ----------
    components : array of float32, (y, x)
        The sharpened plane. NaN where nothing can be known: where the plane has no valid pixel and less
        than a tenth (`KNOWN_FRACTION`) of the light would have fallen on valid ones.
    residual : array of float32, (y, x)
        Input - components (*) PSF, with NaN components counted as 0 and nothing outside of the frame; NaN
        where the input is NaN.
    iterations : int
        Number of iterations done; the components may be those of an earlier one (the best).
    stop_reason : StopReason
        Why the iteration ended.
    fabs, rms : float
        Largest absolute value and root mean square of the residual, over the valid pixels. A valid pixel is
        neither NaN nor filled.
    flux_in, flux_out : float
        Sums of the finite input and of the finite components.
    chi2 : float
        Mean of residual^2 / variance over the valid pixels of known variance; NaN where there are none.
    """

    components: NDArray[np.float32]
    residual: NDArray[np.float32]
    iterations: int
    stop_reason: StopReason
    fabs: float
    rms: float
    flux_in: float
    flux_out: float
    chi2: float


class IterationState(NamedTuple):
    """
    What an observer sees of each iteration.

    The arrays are views of working memory, shape (y, x) of the plane: read, draw or copy them, and change
    nothing.

    Attributes
    ----------
    iteration : int
        Number of this iteration, from 1.
    components, residual : array of float32, (y, x)
        After this iteration.
    selected : array of bool, (y, x)
        The pixels that this iteration changed.
    threshold : float
        The selection threshold used; NaN where there was none.
    fabs, rms : tuple of float
        The residual statistics of the start and of each iteration so far.
    """

    iteration: int
    components: NDArray[np.float32]
    residual: NDArray[np.float32]
    selected: NDArray[np.bool_]
    threshold: float
    fabs: tuple[float, ...]
    rms: tuple[float, ...]


Observer = Callable[[IterationState], None]


def check_psf(psf: NDArray[np.floating]) -> None:
    """
    Refuse a PSF that would move, scale or spoil what is deconvolved with it.

    Parameters
    ----------
    psf : array of float, (y, x)
        Must be a plane, odd along both axes, finite, of a sum within 1 % of one, and centred: the
        centroid of its core (the pixels above half of its maximum that are connected to the brightest), or
        that of the whole star (likewise, above a hundredth), at most half a pixel from the central pixel
        along each axis. A lopsided star can be centred on one of them only.

    Raises
    ------
    ValueError
        Naming the first condition that does not hold, and by how much.
    """
    trim_psf(psf, (1, 1))
    total = float(psf.sum(dtype=np.float64))
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(f"the PSF must have unit sum, but its sum is {total:.6g}: normalise it first")
    offset_y, offset_x = _offset(psf, CORE)
    apart = [max(map(abs, offset)) for offset in ((offset_y, offset_x), _offset(psf, WHOLE_STAR))]
    if min(apart) > CENTRE_TOLERANCE:
        raise ValueError(
            "the PSF must be centred on its central pixel, but its core lies "
            f"{offset_y:+.2f} pixels off along y and {offset_x:+.2f} along x: centre it first"
        )


def _offset(psf: NDArray[np.floating], level: float) -> tuple[float, float]:
    """Centroid of the pixels above a fraction of the maximum, connected to it, from the centre (y, x)."""
    bright = psf > level * psf.max()
    rows, columns = (np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    box = psf[top : rows[-1] + 1, left : columns[-1] + 1]
    labels, _ = ndimage.label(bright[top : rows[-1] + 1, left : columns[-1] + 1])
    part = np.where(labels == labels[np.unravel_index(np.argmax(box), box.shape)], box, 0)
    y, x = ndimage.center_of_mass(part.astype(np.float64))
    return top + y - psf.shape[0] // 2, left + x - psf.shape[1] // 2


class Field(NamedTuple):
    """
    A plane made ready for iterating: complete, and possibly wider than the frame.

    Attributes
    ----------
    convolver : Convolver
        For planes of the shape of the field.
    data : array of float32, (field y, padded_width)
        The plane with estimates where it has no valid pixels. Rows are padded as the convolver wants them.
    weight : array of float32, (field y, padded_width)
        Trust in `data`, 0 to 1: 1 for valid pixels, less for others, 0 in the padding.
    valid : array of float32, (field y, padded_width)
        1 for valid pixels, which alone count in statistics, 0 elsewhere.
    valid_pixels : int
        Number of valid pixels.
    estimated : array of bool, (field y, padded_width)
        Where `data` are estimates: the rest are valid pixels, and filled ones among valid ones.
    continuation : Continuation or None
        Makes those estimates; None where all pixels are valid.
    frame : (slice, slice)
        Where the plane lies in the field.
    knowable : array of bool, (y, x)
        Where the components of the plane can be known.
    """

    convolver: Convolver
    data: NDArray[np.float32]
    weight: NDArray[np.float32]
    valid: NDArray[np.float32]
    valid_pixels: int
    estimated: NDArray[np.bool_]
    continuation: Continuation | None
    frame: tuple[slice, slice]
    knowable: NDArray[np.bool_]

    def renew(self, residual: NDArray[np.float32]) -> None:
        """
        Continue the residual over the pixels whose data are estimates, in place.

        Parameters
        ----------
        residual : array of float32, (field y, padded_width)
        """
        if self.continuation is not None:
            self.continuation.fill(residual)


def prepare_field(
    plane: NDArray[np.float32],
    psf: NDArray[np.floating],
    filled: NDArray[np.generic] | None,
    margin: tuple[int, int] = (0, 0),
) -> Field:
    """
    Complete a plane, and surround it by a margin, for an iteration that knows no missing data.

    Light from behind a hole or from beyond the edge falls onto valid pixels, and has to come from
    somewhere. So components may lie there, and are held by estimates of the data: a smooth continuation
    of the valid pixels, damped where less than `UNDAMPED_FRACTION` of what is around (PSF-weighted) is
    valid. The iteration replaces these estimates from time to time by its own model plus the continued
    residual (`Field.renew`), so that a bad first guess leaves no trace. The trust in them rises with the
    valid fraction around.

    Parameters
    ----------
    plane : array of float32, (y, x)
        NaN is missing.
    psf : array of float, (y, x)
        See `check_psf`.
    filled : array of bool or int, (y, x), optional
        True for values that were interpolated. They are taken as data where at least
        `TRUSTED_FRACTION` of what is around is valid, and are estimated again elsewhere.
    margin : (int, int)
        Pixels to add on either side along y and x, see `edge_margin`.

    Returns
    -------
    Field
    """
    shape = (plane.shape[0] + 2 * margin[0], plane.shape[1] + 2 * margin[1])
    frame = (slice(margin[0], margin[0] + plane.shape[0]), slice(margin[1], margin[1] + plane.shape[1]))
    convolver = Convolver(psf, shape)
    present = np.isfinite(plane)
    counted = present if filled is None else present & ~filled.astype(bool)
    valid, data = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    valid[frame] = counted
    weight, continuation, knowable = valid, None, np.ones(plane.shape, bool)
    used = valid > 0
    if not valid.all():
        fraction = np.clip(convolver.correlate(valid), 0, 1)
        used[frame] |= present & (fraction[frame] >= TRUSTED_FRACTION)
        data[used] = plane[used[frame]]
        continuation = Continuation(used, np.minimum(1, fraction / UNDAMPED_FRACTION))
        continuation.fill(data)
        trust = np.maximum(np.minimum(1, fraction / TRUSTED_FRACTION) ** 4, LEAST_WEIGHT)
        weight = np.where(used, 1, trust).astype(np.float32)
        knowable = present | (fraction[frame] >= KNOWN_FRACTION)
    else:
        data[frame] = plane
    return Field(
        convolver,
        convolver.pad(data),
        convolver.pad(weight),
        convolver.pad(valid),
        int(counted.sum()),
        convolver.pad(~used) > 0,
        continuation,
        frame,
        knowable,
    )


def edge_margin(psf: NDArray[np.floating], shape: tuple[int, int]) -> tuple[int, int]:
    """
    How far beyond the frame light matters: half the width that holds `MARGIN_LIGHT` of the PSF, along y
    and x.

    No more than half the frame, so that small frames with wide PSFs stay small.
    """
    margins = []
    for axis in (0, 1):
        profile = psf.sum(axis=1 - axis, dtype=np.float64)
        centre = profile.size // 2
        sides = profile[centre:] + profile[centre::-1]
        sides[0] /= 2
        enough = np.cumsum(sides) >= MARGIN_LIGHT * profile.sum()
        reach = int(np.argmax(enough)) if enough.any() else centre
        margins.append(min(reach, shape[axis] // 2))
    return margins[0], margins[1]


def deconvolution(
    plane: NDArray[np.float32],
    field: Field,
    components: NDArray[np.float32],
    iterations: int,
    stop_reason: StopReason,
    variance: NDArray[np.floating] | float | None,
) -> Deconvolution:
    """
    The result for components found in a field: cut to the frame, with the residual and statistics of what
    is left.

    Parameters
    ----------
    plane : array of float32, (y, x)
        The input.
    field : Field
        From `prepare_field`.
    components : array of float32, (field y, padded_width)
        Not used again: overwritten.
    iterations, stop_reason
        To be passed on.
    variance : array of float, (y, x), or float, optional
        For chi2; pixels where it is NaN or not positive do not count.
    """
    inside = components[field.frame].copy()
    inside[~field.knowable] = 0
    components[:] = 0
    components[field.frame] = inside
    residual = plane - field.convolver.convolve_padded(components)[field.frame]
    inside[~field.knowable] = np.nan
    left = np.where(field.valid[field.frame] > 0, residual, np.nan).astype(np.float64)
    valid = np.isfinite(left)
    chi2 = np.nan
    if variance is not None:
        weighed = valid & (np.broadcast_to(variance, plane.shape) > 0)
        if weighed.any():
            chi2 = float(np.mean(left[weighed] ** 2 / np.broadcast_to(variance, plane.shape)[weighed]))
    return Deconvolution(
        components=inside,
        residual=residual,
        iterations=iterations,
        stop_reason=stop_reason,
        fabs=float(np.abs(left[valid]).max()) if valid.any() else np.nan,
        rms=float(np.sqrt(np.mean(left[valid] ** 2))) if valid.any() else np.nan,
        flux_in=float(np.nansum(plane, dtype=np.float64)),
        flux_out=float(np.nansum(inside, dtype=np.float64)),
        chi2=chi2,
    )
