"""CLEAN of several planes at once; see `deconvolution.clean`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lucidcube.kernels.deconvolution.clean import stop_reason_of, with_clean_beam
from lucidcube.kernels.deconvolution.clean_beam import with_restored
from lucidcube.kernels.deconvolution.common import (
    RENEWAL_PERIOD,
    Deconvolution,
    StopReason,
    Variance,
    edge_margin,
)
from lucidcube.kernels.deconvolution.field import prepare_field
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.fields import FieldIteration, Found
from lucidcube.kernels.stacked.stacks import (
    Numbers,
    PlaneInput,
    column,
    in_stacks,
    largest_grid,
    total,
)

SCRATCH = 20
"""Planes in the memory of the device for each plane of a stack."""


def clean_planes(planes: Sequence[PlaneInput], arrays: Arrays, **options: Any) -> list[Deconvolution]:
    """Deconvolve planes as `deconvolution.clean.clean_modified` does, together.

    The planes have one shape, and so have their PSFs. The options are those of that function, from whose
    results these differ by rounding only; `threshold` must not be negative.
    """
    beams = options.pop("restoring_beam"), options.pop("clean_beam_sigma")
    noise_std, target = options.pop("noise_std"), options.pop("chi2_target")
    fields = [prepare_field(p.plane, p.psf, p.filled, edge_margin(p.psf, p.plane.shape)) for p in planes]
    spreads = [_spread(p, noise_std) for p in planes]
    noises = [f.noise_stop(spread, target) for f, spread in zip(fields, spreads, strict=True)]
    found: list[Found] = []
    with arrays.in_use():
        most = arrays.stack_size(SCRATCH * 4 * largest_grid(planes))
        for stack in in_stacks(range(len(planes)), most):
            known = [fields[i] for i in stack], [noises[i] for i in stack]
            psf = [planes[i].psf for i in stack]
            found += _Iteration(arrays, *known, psf, options).run()
    results: list[Deconvolution] = []
    for plane, field, spread, one in zip(planes, fields, spreads, found, strict=True):
        result = with_restored(field.result(*one, spread), plane.psf, beams[0])
        results.append(result if beams[1] == 0 else with_clean_beam(result, beams[1]))
    return results


def _spread(given: PlaneInput, noise_std: float | None) -> Variance:
    """Return the variance of a plane, or that of noise of a given standard deviation."""
    if given.variance is None and noise_std is not None:
        return np.full(given.plane.shape, noise_std**2)
    return given.variance


class _Iteration(FieldIteration):
    """The planes of a stack that still iterate, and the results of those that do not."""

    _on_device = ("_data", "_valid", "_inside", "_inverse", "_components", "_step", "_best")
    _on_host = ("_counted", "_targets", "_scores", "_pixels", "_fabs", "_highest")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        fields = self._fields
        self._inside = self._put([np.ones_like(field.valid) for field in fields])
        # The data become the residual.
        self._components = self._step = self._best = self._xp.zeros_like(self._data)
        self._pixels = np.array([max(field.valid_pixels, 1) for field in fields])
        self._fabs, self._highest, rms = self._statistics()
        self._scores = self._fabs * rms
        self._history = [([f], [r]) for f, r in zip(self._fabs.tolist(), rms.tolist(), strict=True)]

    def run(self) -> list[Found]:
        dark = self._fabs == 0
        empty = np.array([field.valid_pixels == 0 for field in self._fields])
        self._stop(dark & empty, self._best, 0, StopReason.ALL_NAN)
        self._stop(dark & ~empty, self._best, 0, StopReason.NOTHING_TO_DO)
        return super().run()

    def _latest_components(self) -> Any:
        return self._best if self._options["give_best_result"] else self._components + self._step

    def _iterate(self, done: int) -> None:
        xp, options = self._xp, self._options
        positive = done < options["n_positive_iter"]
        if done % RENEWAL_PERIOD == 0:
            self._renew()
        level = np.maximum(0, options["threshold"] * (self._highest if positive else self._fabs))
        metric = self._data if positive else xp.abs(self._data)
        self._components = self._components + self._step
        selected = metric > column(self._arrays, level)
        self._step = xp.where(selected, options["loop_gain"] * self._data, 0)
        self._data = (self._data - self._convolver.convolve(self._step)) * self._inside
        self._fabs, self._highest, rms = self._statistics()
        if options["give_best_result"]:
            better = self._fabs * rms < self._scores
            self._scores = np.where(better, self._fabs * rms, self._scores)
            self._best = xp.where(column(self._arrays, better), self._components + self._step, self._best)
        self._end_those_that_stop(done + 1, rms)

    def _end_those_that_stop(self, done: int, rms: Numbers) -> None:
        """Keep the results of the planes that fulfil a condition to stop."""
        names = "fabs_frac_threshold", "rms_frac_threshold", "max_stat_increase", "min_frac_stat_delta"
        limits = [self._options[name] for name in names]
        # If the noise stops the iteration, the last components count and not the best.
        noise = self._noise_is_reached(self._data)
        if noise.any():
            self._stop(noise, self._components + self._step, done, StopReason.CHI2_REACHED)
        reasons = np.full(self._ended.size, StopReason.N_ITER)
        for row in np.flatnonzero(~self._ended).tolist():
            fabs, rms_until_now = self._history[int(self._places[row])]
            fabs.append(float(self._fabs[row]))
            rms_until_now.append(float(rms[row]))
            reasons[row] = stop_reason_of(fabs, rms_until_now, *limits)
        for reason in StopReason:
            if reason is not StopReason.N_ITER and (reasons == reason).any():
                self._stop(reasons == reason, self._latest_components(), done, reason)

    def _statistics(self) -> tuple[Numbers, Numbers, Numbers]:
        """Return the largest absolute value, the largest value and the rms (plane,) at valid pixels."""
        xp, seen = self._xp, self._data * self._valid
        highest, lowest = (self._arrays.get(pick(seen, axis=(1, 2))) for pick in (xp.max, xp.min))
        rms = np.sqrt(total(self._arrays, seen * seen) / self._pixels)
        return np.maximum(highest, -lowest).astype(float), highest.astype(float), rms

    def _renew(self) -> None:
        """Continue the residuals over the pixels with estimated data."""
        residual = self._arrays.get(self._data).copy()
        for row in np.flatnonzero(~self._ended).tolist():
            field = self._field(row)
            if field.continuation is not None:
                height, width = field.convolver.shape
                field.renew(residual[row, :height, :width])
        self._data = self._arrays.put(residual)
