"""CLEAN of several planes at once; see `deconvolution.clean`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.batched.arrays import Arrays
from lucidcube.kernels.batched.batches import (
    FULL,
    Numbers,
    PlaneInput,
    column,
    in_batches,
    keep_rows,
    largest_grid,
    stack,
    total,
)
from lucidcube.kernels.batched.convolver import BatchConvolver
from lucidcube.kernels.deconvolution.clean import stop_reason_of, with_clean_beam
from lucidcube.kernels.deconvolution.clean_beam import with_restored
from lucidcube.kernels.deconvolution.common import (
    RENEWAL_PERIOD,
    Deconvolution,
    StopReason,
    Variance,
    edge_margin,
)
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.field import Field, prepare_field
from lucidcube.kernels.deconvolution.stopping import LARGEST, NoiseStop

SCRATCH = 20
"""Planes in the memory of the device for each plane of a batch."""


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
    found: list[tuple[Plane, int, StopReason]] = []
    with arrays.in_use():
        most = arrays.batch_size(SCRATCH * 4 * largest_grid(planes))
        for batch in in_batches(range(len(planes)), most):
            known = [fields[i] for i in batch], [noises[i] for i in batch]
            psf = np.stack([planes[i].psf for i in batch])
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


class _Iteration:
    """The planes of a batch that still iterate, and the results of those that do not.

    Arrays of the library are (plane, y, x). The fields of the planes lie at their pixel (0, 0), with zeros
    beyond them, which stay zero. Statistics are NumPy arrays (plane,).
    """

    _on_device = ("_residual", "_valid", "_inside", "_inverse", "_components", "_step", "_best")
    _on_host = ("_places", "_counted", "_targets", "_scores", "_pixels", "_stopped", "_fabs", "_highest")

    def __init__(
        self,
        arrays: Arrays,
        fields: Sequence[Field],
        noises: Sequence[NoiseStop],
        psf: NDArray[np.floating],
        options: dict[str, Any],
    ) -> None:
        self._arrays, self._xp, self._options, self._fields = arrays, arrays.xp, options, fields
        widths = [field.convolver.shape[1] for field in fields]

        def put(planes: Sequence[Plane]) -> Any:
            return arrays.put(stack([plane[:, :w] for plane, w in zip(planes, widths, strict=True)]))

        self._residual = put([field.data for field in fields])
        self._valid = put([field.valid for field in fields])
        self._inside = put([np.ones_like(field.valid) for field in fields])
        self._inverse = put([noise.inverse_noise for noise in noises])
        self._components = self._step = self._best = self._xp.zeros_like(self._residual)
        self._convolver = BatchConvolver(arrays, psf, self._residual.shape[1:])
        self._places = np.arange(len(fields))
        self._counted = np.array([np.count_nonzero(noise.inverse_noise) for noise in noises])
        self._targets = np.array([np.nan if n.target is None else n.target for n in noises])
        self._pixels = np.array([max(field.valid_pixels, 1) for field in fields])
        self._stopped = np.zeros(len(fields), bool)
        self._fabs, self._highest, rms = self._statistics()
        self._scores = self._fabs * rms
        self._history = [([f], [r]) for f, r in zip(self._fabs.tolist(), rms.tolist(), strict=True)]
        self._results: list[Any] = [None] * len(fields)

    def run(self) -> list[tuple[Plane, int, StopReason]]:
        """Return the components (field y, padded_width), the iterations and the reason to stop of each."""
        for row in np.flatnonzero(self._fabs == 0).tolist():
            known = self._fields[row].valid_pixels
            self._stop([row], 0, StopReason.NOTHING_TO_DO if known else StopReason.ALL_NAN)
        done, n_iter = 0, self._options["n_iter"]
        while done < n_iter and not self._stopped.all():
            if self._stopped.mean() > 1 - FULL:
                rows = np.flatnonzero(~self._stopped)
                keep_rows(self, self._arrays, self._on_device, self._on_host, rows)
                self._convolver = self._convolver.part(rows)
            self._iterate(done)
            done += 1
        self._stop(np.flatnonzero(~self._stopped).tolist(), done, StopReason.N_ITER)
        return self._results

    def _iterate(self, done: int) -> None:
        xp, options = self._xp, self._options
        positive = done < options["n_positive_iter"]
        if done % RENEWAL_PERIOD == 0:
            self._renew()
        level = np.maximum(0, options["threshold"] * (self._highest if positive else self._fabs))
        metric = self._residual if positive else xp.abs(self._residual)
        self._components = self._components + self._step
        selected = metric > column(self._arrays, level)
        self._step = xp.where(selected, options["loop_gain"] * self._residual, 0)
        self._residual = (self._residual - self._convolver.convolve(self._step)) * self._inside
        self._fabs, self._highest, rms = self._statistics()
        if options["give_best_result"]:
            better = self._fabs * rms < self._scores
            self._scores = np.where(better, self._fabs * rms, self._scores)
            self._best = xp.where(column(self._arrays, better), self._components + self._step, self._best)
        self._end_those_that_stop(done + 1, rms)

    def _end_those_that_stop(self, done: int, rms: Numbers) -> None:
        """Keep the results of the planes that fulfil a condition to stop."""
        options = self._options
        names = "fabs_frac_threshold", "rms_frac_threshold", "max_stat_increase", "min_frac_stat_delta"
        reached = np.zeros(self._stopped.size, bool)
        if not np.isnan(self._targets).all():
            squares = self._xp.clip((self._residual * self._inverse) ** 2, max=LARGEST)
            reached = total(self._arrays, squares) <= self._targets * self._counted
        for row in np.flatnonzero(~self._stopped).tolist():
            fabs, rms_until_now = self._history[int(self._places[row])]
            fabs.append(float(self._fabs[row]))
            rms_until_now.append(float(rms[row]))
            reason = stop_reason_of(fabs, rms_until_now, *(options[name] for name in names))
            reason = StopReason.CHI2_REACHED if reached[row] else reason
            if reason is not StopReason.N_ITER:
                self._stop([row], done, reason)

    def _statistics(self) -> tuple[Numbers, Numbers, Numbers]:
        """Return the largest absolute value, the largest value and the rms (plane,) at valid pixels."""
        xp, seen = self._xp, self._residual * self._valid
        highest, lowest = (self._arrays.get(pick(seen, axis=(1, 2))) for pick in (xp.max, xp.min))
        rms = np.sqrt(total(self._arrays, seen * seen) / self._pixels)
        return np.maximum(highest, -lowest).astype(float), highest.astype(float), rms

    def _renew(self) -> None:
        """Continue the residuals over the pixels with estimated data."""
        residual = self._arrays.get(self._residual).copy()
        for row in np.flatnonzero(~self._stopped).tolist():
            field = self._fields[int(self._places[row])]
            if field.continuation is not None:
                height, width = field.convolver.shape
                field.renew(residual[row, :height, :width])
        self._residual = self._arrays.put(residual)

    def _stop(self, rows: Sequence[int], iterations: int, reason: StopReason) -> None:
        """Keep the results of planes that stop here: the best components, unless the noise stopped them."""
        if not rows:
            return
        best = self._options["give_best_result"] and reason is not StopReason.CHI2_REACHED
        found = self._best if best else self._components + self._step
        planes = self._arrays.get(self._xp.take(found, self._arrays.put(np.array(rows)), axis=0))
        for row, plane in zip(rows, planes, strict=True):
            convolver = self._fields[int(self._places[row])].convolver
            height, width = convolver.shape
            components = convolver.pad(plane[:height, :width])
            self._results[int(self._places[row])] = components, iterations, reason
            self._stopped[row] = True
