"""Find pixels that are sharper than the PSF allows."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.common import Variance
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.map_fit import Fit
from lucidcube.kernels.deconvolution.map_solver import TOLERANCE, MapSolver, Solution
from lucidcube.kernels.noise import MAD_TO_SIGMA, correlated_pixels, estimate_variance

MODEL_ERROR = 0.005
"""Error of the PSF as a fraction of the model."""
REACH = 5
"""Side, in pixels, of the box in which the range of the model is taken: the core of a PSF."""
TOLERATED = 1.3
"""Ratio of the variance of the residuals to that of the noise below which there is no such error."""
STEEP_SHARE, FEWEST = 0.05, 200
"""The error of the PSF is measured in at most this fraction of the pixels, and at least this number."""


class Round(NamedTuple):
    """One estimate, which continues that of the round before."""

    n_iter: int
    robust: float
    """The residual beyond which the data term is linear, in units of the noise."""
    limit: float
    """Pixels that differ by more than this multiple of the cut have no weight."""
    tolerance: float = TOLERANCE
    """The round ends when the objective twice decreases by less than this fraction."""


FIRST = Round(180, 2.0, math.inf)
ROUNDS = FIRST, Round(60, 10.0, 2.4), Round(60, 2.0, 1.6), Round(60, 10.0, 1.0)
"""The first round is so robust that no artefact pulls the estimate, which makes it converge slowly at sharp
peaks. The second fits those, and spreads artefacts within its limit over their neighbours; the third reverses
the latter. In the last one, plausible pixels have their weight back."""
CONTINUED = Round(30, 2.0, math.inf), Round(15, 10.0, 2.4), Round(30, 2.0, 1.6), Round(60, 10.0, 1.0, 3e-4)
"""The same for an estimate that starts from one of a similar object. The last round is longer where the start
lacks a point, such as a moon behind a ghost."""
BRIGHT = 0.3
"""Pixels are bright where the model exceeds this fraction of that of the brightest percent."""
FITTING = 0.4
"""Fraction of the pixels of a group that must be cleared for any of them to be."""
CLEARED = 0.6
"""A plausible pixel is cleared if it deviates by less than this fraction of the cut in the last round."""
BLOCK = np.ones((3, 3), bool)
"""A pixel and its neighbours."""


def psf_consistency(
    plane: Plane,
    variance: Variance,
    psf: NDArray[np.floating],
    *,
    cut: float = 5.0,
    exclude: NDArray[np.bool_] | None = None,
    plausible: NDArray[np.bool_] | None = None,
    start: Solution | None = None,
) -> NDArray[np.float32]:
    """Return by how many standard deviations each pixel differs from anything blurred by the PSF.

    A robust edge-preserving MAP estimate (see `map_solver`) of the object, convolved with the PSF, is
    subtracted. Structure of the object cannot be sharper than the PSF, so that its residuals are noise, while
    artefacts of single pixels remain. The pixels that differ most lose their weight, and the estimate is
    continued without them, twice.

    The plane (y, x) is NaN where there are no data. The variance (y, x) of the noise is estimated from the
    plane if it is None; a pixel where it is not finite and positive counts as missing. The PSF is odd,
    centred, finite and of unit sum. `cut` is the number of standard deviations beyond which the caller takes
    a pixel for an artefact; pixels well beyond it lose their weight, see `ROUNDS`. Pixels where `exclude`
    (y, x) is true have no weight from the beginning, but are compared with the estimate all the same.

    `plausible` (y, x) is true where a pixel agrees with its spectrum in other planes. Such pixels beyond the
    cut take part in a last estimate, and the better of the two results counts: a cloud that the robust
    estimates took for an artefact fits then, while a hot pixel does not, or not without its neighbours
    exceeding the cut. Of a connected group, `FITTING` must fit, because a point can explain a single pixel
    of a stripe.

    `start` is an estimate of a similar object, of any brightness, such as that of `robust_estimate` for a
    neighbouring plane. The rounds are then shorter, see `CONTINUED`.

    The result (y, x) float32 is (plane - model) / sqrt(variance + (0.005 model)^2 + (c range)^2), NaN without
    data. The range of the model is that in a box of 5 x 5 pixels. Its factor c is the error of the PSF, which
    is measured in the plane, and is zero where the residuals at edges are not larger than the noise.
    """
    search = Search.of(plane, variance, cut=cut, exclude=exclude, plausible=plausible, start=start)
    return search.run(psf)


@dataclass
class Search:
    """The rounds of `psf_consistency`: as long as `next_fit` returns one, it is made and given to `add`."""

    _given: "_Given"
    _cut: float
    _plausible: NDArray[np.bool_]
    _latest: Solution | None
    _rounds: list[Round]
    """The rounds that have not begun."""
    _deviation: NDArray[np.float64]
    _cleared: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    @classmethod
    def of(
        cls,
        plane: Plane,
        variance: Variance,
        *,
        cut: float,
        exclude: NDArray[np.bool_] | None = None,
        plausible: NDArray[np.bool_] | None = None,
        start: Solution | None = None,
    ) -> Self:
        """Return the search in a plane; the arguments are as for `psf_consistency`."""
        given = _Given.of(plane, variance, exclude)
        plausible = np.zeros(plane.shape, bool) if plausible is None else plausible
        solution = None if start is None else as_bright(start, plane, given.exclude)
        rounds = list(ROUNDS if solution is None else CONTINUED)
        return cls(given, cut, plausible, solution, rounds, np.zeros(plane.shape))

    def run(self, psf: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the result, from estimates of this plane alone."""
        solver = MapSolver(psf, self._given.plane.shape)
        while (fit := self.next_fit()) is not None:
            self.add(fit.solve_with(solver))
        return self.result()

    def next_fit(self) -> Fit | None:
        """Return the estimate of the next round; None if there is none."""
        if not self._rounds:
            return None
        step, last = self._rounds.pop(0), not self._rounds
        beyond = np.abs(self._deviation) > step.limit * self._cut
        self._cleared = self._plausible & beyond & last
        if last and not self._cleared.any():
            return None
        return self._given.fit(step, beyond & ~self._cleared, self._latest)

    def add(self, solution: Solution) -> None:
        """Take the estimate of a round."""
        self._latest, new = solution, self._given.deviation(solution.model)
        if not self._rounds:
            known = np.abs(self._deviation)
            better = np.abs(new) < np.minimum(known, CLEARED * self._cut)
            spoiled = ndimage.binary_dilation((np.abs(new) > self._cut) & (known < self._cut), BLOCK)
            fits = self._plausible & better & ~spoiled & ~_misfits(self._cleared, better)
            new = np.where(fits, new, self._deviation)
        self._deviation = new

    def result(self) -> NDArray[np.float32]:
        """Return what `psf_consistency` returns."""
        return self._deviation.astype(np.float32)


def robust_estimate(
    plane: Plane,
    variance: Variance,
    psf: NDArray[np.floating],
    exclude: NDArray[np.bool_] | None = None,
) -> Solution:
    """Return the estimate of the first round of `psf_consistency`, from which that of others can start."""
    return _Given.of(plane, variance, exclude).fit(FIRST).solve_with(MapSolver(psf, plane.shape))


def as_bright(start: Solution, plane: Plane, exclude: NDArray[np.bool_]) -> Solution | None:
    """Return an estimate multiplied so that it is as bright as a plane; None if it says nothing about it."""
    usable = np.isfinite(plane) & ~exclude
    level = float(np.percentile(start.model[usable], 99)) if usable.any() else 0.0
    bright = usable & (start.model > BRIGHT * level)
    if not level > 0 or not bright.any():
        return None
    ratio = float(np.median(plane[bright] / start.model[bright]))
    return start._replace(parts=start.parts * np.float32(ratio)) if ratio > 0 else None


class _Given(NamedTuple):
    """A plane (y, x) with the standard deviation of its noise, NaN where it is unknown."""

    plane: Plane
    sigma: NDArray[np.float64]
    exclude: NDArray[np.bool_]
    correlated: float

    @classmethod
    def of(cls, plane: Plane, variance: Variance, exclude: NDArray[np.bool_] | None) -> Self:
        spread = np.asarray(estimate_variance(plane) if variance is None else variance, np.float64)
        known = np.isfinite(plane) & np.isfinite(spread) & (spread > 0)
        exclude = np.zeros(plane.shape, bool) if exclude is None else exclude
        sigma = np.sqrt(np.where(known, spread, np.nan))
        return cls(plane, sigma, exclude, correlated_pixels(plane, spread, exclude))

    def fit(
        self, step: Round, left_out: NDArray[np.bool_] | None = None, start: Solution | None = None
    ) -> Fit:
        """Return the estimate of a round, in which some further pixels have no weight."""
        excluded = self.exclude if left_out is None else self.exclude | left_out
        sigma = np.where(excluded, np.nan, self.sigma)
        numbers = step.robust, step.n_iter, step.tolerance
        return Fit(self.plane, sigma, *numbers, self.correlated, start)

    def deviation(self, model: Plane) -> NDArray[np.float64]:
        """Return the deviation from a model in standard deviations, see `psf_consistency`."""
        left, steep = self.plane - model, _range(model)
        error = np.hypot(self.sigma, MODEL_ERROR * model)
        usable = ~self.exclude & np.isfinite(self.sigma)
        deviation: NDArray[np.float64] = left / np.hypot(
            error, _psf_error(left, error, steep, usable) * steep
        )
        return deviation


def _misfits(cleared: NDArray[np.bool_], better: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of connected groups of which less than `FITTING` are better."""
    labels, number = ndimage.label(cleared, structure=BLOCK)
    share = ndimage.mean(better, labels, np.arange(1, number + 1))
    return np.isin(labels, 1 + np.flatnonzero(share < FITTING))


def _range(model: Plane) -> NDArray[np.float32]:
    """Return the range of a model around each pixel, which is large at edges and at points."""
    return ndimage.maximum_filter(model, REACH) - ndimage.minimum_filter(model, REACH)


def _psf_error(
    left: NDArray[np.floating],
    error: NDArray[np.float64],
    steep: NDArray[np.floating],
    usable: NDArray[np.bool_],
) -> float:
    """Return the error of the PSF as a fraction of the range of the model; 0 where the noise explains all.

    A PSF that is not that of the plane, such as that of another night, leaves residuals at all edges alike,
    while artefacts are few. They are compared with the noise in the pixels with the most prominent edges, in
    sets of different sizes because there may be few of these.
    """
    prominence = (steep / error)[usable].astype(np.float64)
    residual = np.abs((left / error)[usable]).astype(np.float64)
    order = _largest(prominence, max(FEWEST, int(STEEP_SHARE * prominence.size)))
    largest, number = 0.0, FEWEST
    while number <= order.size:
        chosen = order[:number]
        scatter = (MAD_TO_SIGMA * float(np.median(residual[chosen]))) ** 2
        if scatter > TOLERATED:
            largest = max(largest, (scatter - 1) / float(np.median(prominence[chosen] ** 2)))
        number *= 4
    return math.sqrt(largest)


def _largest(values: NDArray[np.float64], number: int) -> NDArray[np.intp]:
    """Return the indices of the largest values in descending order; there may be fewer than `number`."""
    number = min(number, values.size)
    if number == 0:
        return np.zeros(0, np.intp)
    candidates = np.flatnonzero(values >= np.partition(values, -number)[-number])
    return candidates[np.argsort(-values[candidates], kind="stable")][:number]
