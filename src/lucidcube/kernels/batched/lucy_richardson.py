"""Lucy-Richardson deconvolution of several planes at once; see `deconvolution.lucy_richardson`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.batched.arrays import Arrays
from lucidcube.kernels.batched.batches import (
    FULL,
    Mask,
    Numbers,
    PlaneInput,
    column,
    in_batches,
    keep_rows,
    largest_grid,
    replace,
    stack,
    total,
)
from lucidcube.kernels.batched.convolver import BatchConvolver
from lucidcube.kernels.deconvolution.common import RENEWAL_PERIOD, Deconvolution, StopReason
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.lucy_richardson import (
    DIVISION_FLOOR,
    LARGEST_MOMENTUM,
    SMALL_FACTOR,
    selection_level,
)
from lucidcube.kernels.deconvolution.lucy_richardson_start import Problem, prepare
from lucidcube.kernels.deconvolution.stopping import LARGEST

SCRATCH = 24
"""Planes in the memory of the device for each plane of a batch."""
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
        most = arrays.batch_size(SCRATCH * 4 * largest_grid(planes))
        for batch in in_batches(busy, most):
            psf = np.stack([planes[i].psf for i in batch])
            iteration = _Iteration(arrays, [problems[i] for i in batch], psf, options)
            found |= zip(batch, iteration.run(), strict=True)
    pairs = enumerate(zip(problems, planes, strict=True))
    return [problem.result(*found[i], plane.variance) for i, (problem, plane) in pairs]


class _Iteration:
    """The planes of a batch that still iterate, and the results of those that do not.

    Arrays of the library are (plane, y, x) for planes, and (plane, 1, 1) for numbers; the numbers that decide
    what to do are NumPy arrays (plane,). The fields of the planes lie at the pixel (0, 0) of the arrays, with
    zeros beyond them, which stay zero.
    """

    _on_device = (
        "_data",
        "_weight",
        "_norm",
        "_inverse",
        "_valid",
        "_latest",
        "_before",
        "_last",
        "_older",
        "_peak",
    )
    _on_host = ("_places", "_changes", "_likelihoods", "_targets", "_counted", "_stopped")

    def __init__(
        self,
        arrays: Arrays,
        problems: Sequence[Problem],
        psf: NDArray[np.floating],
        options: dict[str, Any],
    ) -> None:
        self._arrays, self._xp, self._options, self._problems = arrays, arrays.xp, options, problems
        fields = [problem.field for problem in problems]

        def put(name: str) -> Any:
            """Return planes of the problems or of their fields, without the padding."""
            found = [getattr(p if hasattr(p, name) else p.field, name) for p in problems]
            return arrays.put(
                stack([a[:, : f.convolver.shape[1]] for a, f in zip(found, fields, strict=True)])
            )

        self._data, self._weight, self._norm, self._valid, self._latest = map(
            put, ("data", "weight", "norm", "valid", "start")
        )
        self._norm = self._xp.where(self._norm > 0, self._norm, BEYOND)
        noise = [
            p.noise.inverse_noise[:, : f.convolver.shape[1]] for p, f in zip(problems, fields, strict=True)
        ]
        self._inverse = arrays.put(stack(noise))
        self._peak = column(arrays, [p.peak for p in problems])
        self._before, self._last, self._older = self._latest, self._latest, self._latest
        self._convolver = BatchConvolver(arrays, psf, self._data.shape[1:])
        self._places = np.arange(len(problems))
        self._changes = np.zeros(len(problems), int)
        self._likelihoods = np.full(len(problems), -math.inf)
        self._targets = np.array([math.nan if p.noise.target is None else p.noise.target for p in problems])
        self._counted = np.array([np.count_nonzero(n) for n in noise])
        self._stopped = np.zeros(len(problems), bool)
        self._results: list[Any] = [None] * len(problems)

    def run(self) -> list[tuple[Plane, int, StopReason]]:
        """Return the components (field y, padded_width), the iterations and the reason to stop of each."""
        done, n_iter = 0, self._options["n_iter"]
        while done < n_iter and not self._stopped.all():
            self._remove_stopped()
            self._step(done)
            done += 1
        self._stop(np.ones_like(self._stopped), self._latest, done, StopReason.N_ITER)
        return self._results

    def _step(self, done: int) -> None:
        options, xp = self._options, self._xp
        start, ratio = self._start()
        if done and done % RENEWAL_PERIOD == 0:
            self._renew(ratio)
        if not np.isnan(self._targets).all():
            self._stop(self._chi2(self._data - ratio) <= self._targets, start, done, StopReason.CHI2_REACHED)
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

    def _chi2(self, residual: Any) -> Numbers:
        """Return chi squared (plane,) of residuals, see `stopping.NoiseStop`."""
        squares = self._xp.clip((residual * self._inverse) ** 2, max=LARGEST)
        sums = total(self._arrays, squares)
        return np.divide(sums, self._counted, out=np.full_like(sums, math.nan), where=self._counted > 0)

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

    def _stop(self, where: Mask, components: Any, iterations: int, reason: StopReason) -> None:
        """Keep the components of planes that stop here."""
        rows = np.flatnonzero(where & ~self._stopped)
        if not rows.size:
            return
        found = self._arrays.get(self._xp.take(components, self._arrays.put(rows), axis=0))
        for plane, place in zip(found, self._places[rows], strict=True):
            convolver = self._problems[int(place)].field.convolver
            height, width = convolver.shape
            self._results[place] = convolver.pad(plane[:height, :width]), iterations, reason
        self._stopped[rows] = True

    def _remove_stopped(self) -> None:
        """Remove the planes that have stopped, if they are many."""
        if self._stopped.mean() <= 1 - FULL:
            return
        rows = np.flatnonzero(~self._stopped)
        keep_rows(self, self._arrays, self._on_device, self._on_host, rows)
        self._convolver = self._convolver.part(rows)
