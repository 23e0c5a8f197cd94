"""A plane that is ready for the Lucy-Richardson iteration: data, weights, and the image to start from."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import Deconvolution, StopReason, Variance, edge_margin
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.field import Field, prepare_field
from lucidcube.kernels.deconvolution.stopping import NoiseStop

LEAST_REACH = 1e-3


class Problem(NamedTuple):
    """A plane that is ready for the iteration; arrays are (field y, padded_width)."""

    field: Field
    data: Plane
    """The data of the field, with the offset."""
    weight: Plane
    norm: Plane
    """Divisor of the correlated ratio."""
    start: Plane
    peak: float
    """Brightest valid pixel of the data."""
    offset: np.float32
    noise: NoiseStop
    renewed: bool
    """Whether estimates of the data are renewed from time to time."""
    nothing: StopReason | None
    """Why there is nothing to do, in which case the start is zero; None if there is something."""

    def result(
        self, components: Plane, iterations: int, stop: StopReason, variance: Variance
    ) -> Deconvolution:
        """Return the result for components of the data with the offset, which are changed."""
        if self.offset > 0:
            components[:, : self.field.convolver.shape[1]] -= self.offset
        return self.field.result(components, iterations, stop, variance)


def prepare(
    plane: Plane,
    psf: NDArray[np.floating],
    variance: Variance,
    filled: NDArray[np.generic] | None,
    *,
    offset_obs: bool,
    pad_observation: bool,
    weighted: bool,
    chi2_target: float | None,
) -> Problem:
    """Prepare a plane; the arguments are as for `lucy_richardson`."""
    field = prepare_field(plane, psf, filled, edge_margin(psf, plane.shape) if pad_observation else (0, 0))
    valid = field.data[field.valid > 0]
    offset = np.float32(max(0.0, -float(valid.min(initial=0))) if offset_obs else 0)
    peak = float(valid.max(initial=-math.inf)) + float(offset)
    weight, norm, start = field.weight, field.weight, np.zeros_like(field.data)
    nothing = None
    if peak > 0:
        weight = field.weights_by_variance(variance, poisson=True) if weighted else weight
        norm = _normalisation(field, weight, padded=pad_observation)
        start = _flat_start(field, valid + offset, padded=pad_observation)
    else:
        nothing = StopReason.NOTHING_TO_DO if valid.size else StopReason.ALL_NAN
    return Problem(
        field,
        data=field.data + offset,
        weight=weight,
        norm=norm,
        start=start,
        peak=peak,
        offset=offset,
        noise=field.noise_stop(variance, chi2_target),
        renewed=field.continuation is not None and not weighted,
        nothing=nothing,
    )


def _flat_start(field: Field, valid: Plane, *, padded: bool) -> Plane:
    """Return a flat image at the mean of the valid pixels, whose light is spread thinner if it is padded."""
    mean = float(valid.mean(dtype=np.float64))
    if not mean > 0:
        mean = float(np.maximum(valid, 0).mean(dtype=np.float64))
    if padded:
        (height, width), (reach_y, reach_x) = field.plane.shape, field.convolver.reach
        mean *= height * width / ((height + 2 * reach_y) * (width + 2 * reach_x))
    return field.convolver.pad(np.full(field.convolver.shape, mean, np.float32))


def _normalisation(field: Field, weight: Plane, *, padded: bool) -> Plane:
    """Return the divisor of the correlated ratio; what is outside of an unpadded plane is fully trusted."""
    norm = field.convolver.correlate_padded(weight)
    if not padded:
        inside = field.convolver.pad(np.ones(field.convolver.shape, np.float32))
        norm += 1 - field.convolver.correlate_padded(inside)
    return np.maximum(norm, np.float32(LEAST_REACH))
