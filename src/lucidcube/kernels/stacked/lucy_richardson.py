"""Lucy-Richardson deconvolution of several planes at once; see `deconvolution.lucy_richardson`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import RENEWAL_PERIOD, Deconvolution, StopReason
from lucidcube.kernels.deconvolution.lucy_richardson import (
    DIVISION_FLOOR,
    LARGEST_MOMENTUM,
    SMALL_FACTOR,
    selection_level,
)
from lucidcube.kernels.deconvolution.lucy_richardson_start import Problem, prepare
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.fields import FieldIteration
from lucidcube.kernels.stacked.stacks import (
    Numbers,
    PlaneInput,
    column,
    in_stacks,
    largest_grid,
    replace,
    total,
)

SCRATCH = 24
"""Planes in the memory of the device for each plane of a stack."""
BEYOND = 1e30
"""Divisor beyond the field of a plane, where nothing is corrected."""


def lucy_richardson_planes(
    planes: Sequence[PlaneInput], arrays: Arrays, **options: Any
) -> list[Deconvolution]:
    """Deconvolve planes as `deconvolution.lucy_richardson.lucy_richardson` does, together.

    The planes have one shape, and so have their PSFs. The options are those of that function, from whose
    results these differ by rounding only.
    """
    keys = "offset_obs", "pad_observation", "weighted", "chi2_target"
    prepared = {key: options.pop(key) for key in keys}
    problems = [prepare(*plane, **prepared) for plane in planes]
    found = {i: (p.start, 0, p.nothing) for i, p in enumerate(problems) if p.nothing is not None}
    busy = [i for i in range(len(problems)) if i not in found]
    with arrays.in_use():
        most = arrays.stack_size(SCRATCH * 4 * largest_grid(planes))
        for stack in in_stacks(busy, most):
            iteration = _Iteration(
                arrays, [problems[i] for i in stack], [planes[i].psf for i in stack], options
            )
            found |= zip(stack, iteration.run(), strict=True)
    pairs = enumerate(zip(problems, planes, strict=True))
    return [problem.result(*found[i], plane.variance) for i, (problem, plane) in pairs]


class _Iteration(FieldIteration):
    """The planes of a stack that still iterate, and the results of those that do not."""

    _on_device = (
        *("_data", "_weight", "_norm", "_inverse", "_valid"),
        *("_latest", "_before", "_last", "_older", "_peak"),
    )
    _on_host = ("_changes", "_likelihoods", "_targets", "_counted")

    def __init__(
        self,
        arrays: Arrays,
        problems: Sequence[Problem],
        psf: Sequence[NDArray[np.floating]],
        options: dict[str, Any],
    ) -> None:
        super().__init__(arrays, [p.field for p in problems], [p.noise for p in problems], psf, options)
        self._problems = problems
        self._data, self._weight, self._norm, self._latest = (
            self._put([getattr(problem, name) for problem in problems])
            for name in ("data", "weight", "norm", "start")
        )
        self._norm = self._xp.where(self._norm > 0, self._norm, BEYOND)
        self._peak = column(arrays, [p.peak for p in problems])
        self._before, self._last, self._older = self._latest, self._latest, self._latest
        self._changes = np.zeros(len(problems), int)
        self._likelihoods = np.full(len(problems), -math.inf)

    def _latest_components(self) -> Any:
        return self._latest

    def _iterate(self, done: int) -> None:
        options, xp = self._options, self._xp
        start, ratio = self._start()
        if done and done % RENEWAL_PERIOD == 0:
            self._renew(ratio)
        if self._has_targets:
            self._stop(self._noise_is_reached(self._data - ratio), start, done, StopReason.CHI2_REACHED)
        lift = options["nudge_factor"] * self._peak
        divisor = ratio + lift
        divisor = xp.where(
            xp.abs(divisor) > DIVISION_FLOOR * self._peak, divisor, DIVISION_FLOOR * self._peak
        )
        factor = self._convolver.correlate(self._weight * (self._data + lift) / divisor)
        if options["threshold"] is not None:
            residual = self._data - ratio
            factor = xp.where(xp.abs(residual) < self._levels(residual), self._norm, factor)
        correction = 1 + options["strength"] * (factor / self._norm - 1)
        largest = self._arrays.get(xp.max(xp.abs(correction), axis=(1, 2)))
        estimate = start * self._limited(correction)
        if options["accelerate"]:
            self._older, self._last, self._before = self._last, estimate - start, self._latest
            self._changes = np.minimum(self._changes + 1, 2)
        self._latest = estimate
        self._stop(largest > options["cf_limit"], estimate, done + 1, StopReason.CORRECTION_LIMIT)

    def _start(self) -> tuple[Any, Any]:
        """Return the start of the next step, and that convolved."""
        if not self._options["accelerate"]:
            return self._latest, self._convolver.convolve(self._latest)
        start = self._extrapolated() if (self._changes == 2).any() else self._latest
        ratio = self._convolver.convolve(start)
        likelihood = self._likelihood(ratio)
        worse = (likelihood < self._likelihoods) & (self._changes == 2)
        if worse.any():
            start = self._xp.where(column(self._arrays, worse), self._latest, start)
            rows = np.flatnonzero(worse)
            again = self._convolver.convolve(self._xp.take(start, self._arrays.put(rows), axis=0), rows)
            ratio = replace(self._arrays, ratio, rows, again)
            likelihood = np.where(worse, self._likelihood(ratio), likelihood)
            self._changes[worse] = 0
        self._likelihoods = likelihood
        return start, ratio

    def _extrapolated(self) -> Any:
        """Return where the steps start: beyond the latest iterate, where two steps are known."""
        xp = self._xp
        product, square = (
            total(self._arrays, xp.astype(one, xp.float64) * xp.astype(self._older, xp.float64))
            for one in (self._last, self._older)
        )
        share = np.divide(product, square, out=np.zeros_like(product), where=square > 0)
        momentum = column(self._arrays, np.clip(share, 0, LARGEST_MOMENTUM))
        further = self._latest + momentum * (self._latest - self._before)
        least = SMALL_FACTOR * self._latest
        start = xp.where(further > least, further, least)
        return xp.where(column(self._arrays, self._changes == 2), start, self._latest)

    def _likelihood(self, blurred: Any) -> Numbers:
        """Return the likelihoods (plane,) of the blurred planes, but for a constant."""
        xp, lift = self._xp, self._options["nudge_factor"] * self._peak
        model = blurred + lift
        model = xp.where(model > DIVISION_FLOOR * self._peak, model, DIVISION_FLOOR * self._peak)
        terms = self._weight * ((self._data + lift) * xp.log(model / self._peak) - model)
        return total(self._arrays, terms)

    def _renew(self, ratio: Any) -> None:
        """Renew the data where they are estimates, from blurred planes."""
        renewed = [row for row, place in enumerate(self._places) if self._problems[int(place)].renewed]
        if not renewed:
            return
        data, model = self._arrays.get(self._data).copy(), self._arrays.get(ratio)
        for row in renewed:
            field = self._problems[int(self._places[row])].field
            height, width = field.convolver.shape
            left = field.convolver.pad(data[row, :height, :width] - model[row, :height, :width])
            field.renew(left)
            where = field.estimated[:, :width]
            np.add(model[row, :height, :width], left[:, :width], out=data[row, :height, :width], where=where)
        self._data = self._arrays.put(data)
        self._likelihoods[renewed] = -math.inf

    def _levels(self, residual: Any) -> Any:
        """Return the residuals from which pixels are corrected."""
        values, valid = self._arrays.get(residual), self._arrays.get(self._valid) > 0
        pairs = zip(values, valid, strict=True)
        return column(
            self._arrays, [selection_level(v[known], self._options["threshold"]) for v, known in pairs]
        )

    def _limited(self, correction: Any) -> Any:
        """Return the corrections within their limits."""
        xp, options = self._xp, self._options
        if options["cf_lclip"] > -math.inf:
            correction = xp.where(correction > options["cf_lclip"], correction, options["cf_lclip"])
        if options["cf_uclip"] < math.inf:
            correction = xp.where(correction < options["cf_uclip"], correction, options["cf_uclip"])
        return (
            xp.where(correction < 0, SMALL_FACTOR, correction) if options["cf_negative_fix"] else correction
        )
