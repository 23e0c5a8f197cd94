"""Edge-preserving maximum a posteriori (MAP) deconvolution of planes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.common import (
    Deconvolution,
    IterationState,
    Observer,
    StopReason,
    Variance,
    edge_margin,
    fabs_and_rms,
)
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.edge_preserving import Objective
from lucidcube.kernels.deconvolution.lbfgs import Minimum, minimise
from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.kernels.holes import Filled, outside_field

MARGIN = 12
MODELLED_NOISE = 5.0
"""Standard deviation of a value that was predicted from other planes, in units of that of the pixel."""
BRIGHT = 3.0
"""Pixels count for the stop by chi squared where the data exceed this multiple of the noise."""
FEW_BRIGHT = 30
"""With fewer bright pixels than this, all weighted pixels count."""


class Solution(NamedTuple):
    """Minimum of the objective for one plane (y, x), in the units of the data."""

    image: Plane
    """The object b + p on the plane."""
    points: Plane
    """The point-like part p on the plane."""
    model: Plane
    """The object, including its part beyond the frame, convolved with the PSF."""
    n_iter: int
    reason: StopReason
    """N_ITER, CONVERGED or CHI2_REACHED; ALL_NAN if no pixel has weight."""
    cost: float
    parts: Plane
    """b and p on the grid (2, y + 2 margin, x + 2 margin), for a warm start."""


class MapSolver:
    """Solves the deconvolution of planes of one shape by one PSF, repeatedly.

    The objective is that of `edge_preserving`, in units of the median noise of the weighted pixels, so that
    its parameters are pure numbers. The object extends beyond the frame by a margin, whose light reaches into
    the frame; nothing wraps round. An object holds scratch memory, and so is for one thread.

    Parameters
    ----------
    psf : array of float, (y, x)
        Odd in both axes, centred, finite, of unit sum and any size.
    shape : (int, int)
        Shape (y, x) of the planes.
    margin : int
        Width of the margin on every side, in pixels.
    """

    def __init__(self, psf: NDArray[np.floating], shape: tuple[int, int], margin: int = MARGIN) -> None:
        self.shape = shape
        self.grid = shape[0] + 2 * margin, shape[1] + 2 * margin
        self.frame = slice(margin, margin + shape[0]), slice(margin, margin + shape[1])
        self.convolver = Convolver(psf, self.grid)

    def solve(
        self,
        data: NDArray[np.floating],
        sigma: NDArray[np.floating],
        *,
        mu: float,
        point_penalty: float,
        delta: float,
        robust: float | None,
        n_iter: int,
        tolerance: float,
        start: Solution | None = None,
        chi2_target: float | None = None,
        observer: Callable[[int, Plane], None] | None = None,
    ) -> Solution:
        """Minimise the objective for a plane.

        Parameters
        ----------
        data, sigma : array of float, (y, x)
            The plane and the standard deviation of its noise. Where either is not finite, or sigma is not
            positive, the pixel has no weight.
        mu, point_penalty, delta, robust
            The weights of smoothness and of the points (lambda), the difference between neighbouring pixels
            below which it counts as smooth, and the residual beyond which the data term is linear (None for
            least squares). All are in units of the noise.
        n_iter, tolerance
            The iteration stops after this number, or when the objective twice decreases by less than this
            fraction.
        start : Solution, optional
            Where to start; the default is max(data, 0) without points.
        chi2_target : float, optional
            Stop when the mean of min(r^2, 25) over the pixels brighter than 3 sigma falls to this value,
            where r is the residual in units of sigma.
        observer : callable, optional
            Called with the number of the iteration and its object on the grid after each iteration.

        Returns
        -------
        Solution
        """
        weighted = np.isfinite(data) & np.isfinite(sigma) & (sigma > 0)
        if not weighted.any():
            return self._nothing()
        unit = float(np.median(sigma[weighted]))
        values = np.where(weighted, data, 0).astype(np.float64) / unit
        weight = np.zeros(self.shape)
        np.divide(unit, sigma, out=weight, where=weighted)
        signal = values * weight
        bright = BRIGHT if (signal > BRIGHT).sum() >= FEW_BRIGHT else -math.inf
        counted = int((weighted & (signal > bright)).sum())
        priors = mu, point_penalty, delta, robust
        objective = Objective(self.convolver, self._on_grid(values), self._on_grid(weight), *priors, bright)
        parts = np.zeros((2, self.grid[0], self.convolver.padded_width), np.float32)
        if start is None:
            parts[0] = np.maximum(objective.data, 0)
        else:
            parts[:, :, : self.grid[1]] = start.parts / np.float32(unit)

        def stop(number: int, parts: Plane) -> bool:
            if observer is not None:
                observer(number, parts.sum(axis=0)[:, : self.grid[1]] * np.float32(unit))
            return chi2_target is not None and objective.chi2 <= chi2_target * counted

        curvature = max(1.0, float(np.percentile(weight[weighted], 90)) ** 2) + 8 * mu / delta
        result = minimise(
            objective.evaluate, parts, n_iter=n_iter, tolerance=tolerance, first_step=1 / curvature, stop=stop
        )
        return self._solution(result, n_iter, unit)

    def _solution(self, result: Minimum, n_iter: int, unit: float) -> Solution:
        """Return the result in the units of the data."""
        parts = result.variables * np.float32(unit)
        image = parts[0] + parts[1]
        model = self.convolver.convolve_padded(image)[self.frame].copy()
        reason = StopReason.CONVERGED if result.converged else StopReason.N_ITER
        if not result.converged and result.n_iter < n_iter:
            reason = StopReason.CHI2_REACHED
        return Solution(
            image[self.frame].copy(),
            parts[1][self.frame].copy(),
            model,
            result.n_iter,
            reason,
            result.cost,
            parts[:, :, : self.grid[1]],
        )

    def _nothing(self) -> Solution:
        """Return the solution without any data, which is zero."""
        none = np.zeros(self.shape, np.float32)
        parts = np.zeros((2, *self.grid), np.float32)
        return Solution(none, none.copy(), none.copy(), 0, StopReason.ALL_NAN, 0.0, parts)

    def _on_grid(self, plane: NDArray[np.floating]) -> Plane:
        """Return a plane (y, x) within a padded plane of the grid, with zeros around it."""
        wide = np.zeros((self.grid[0], self.convolver.padded_width), np.float32)
        wide[self.frame] = plane
        return wide


def map_deconvolution(
    plane: Plane,
    psf: NDArray[np.floating],
    *,
    variance: Variance = None,
    filled: NDArray[np.generic] | None = None,
    observer: Observer | None = None,
    n_iter: int,
    mu: float,
    point_penalty: float,
    delta: float,
    robust: float | None,
    tolerance: float,
    chi2_target: float | None,
) -> Deconvolution:
    """Deconvolve a plane by the edge-preserving MAP estimate, see `edge_preserving` for the objective.

    Parameters
    ----------
    plane : array of float32, (y, x)
        The observed plane; NaN where there are no data.
    psf : array of float, (y, x)
        Odd, centred, finite, of unit sum.
    variance : array of float, (y, x), optional
        Variance of the noise. Where it is not positive and finite, the pixel has no weight. If it is not
        given, it is estimated from the plane.
    filled : array of uint8, (y, x), optional
        Values of `Filled`. Pixels that were replaced or are holes have no weight. Pixels that were modelled
        count as data with `MODELLED_NOISE` times the noise of the nearest pixel of known variance.
    observer : callable, optional
        Called with an `IterationState` after each iteration.
    n_iter, mu, point_penalty, delta, robust, tolerance, chi2_target
        See `MapSolver.solve`.

    Returns
    -------
    Deconvolution
        The residual is plane - model on all observed pixels. Light from beyond the edge of the frame belongs
        to the model, so the components alone, convolved, need not give the model near the edge. Components,
        points and model are NaN outside the field. `extras` are "points" and "model".
    """
    marks = np.zeros(plane.shape, np.uint8) if filled is None else np.asarray(filled)
    present = np.isfinite(plane)
    valid = present & (marks == Filled.NO)
    sigma = _noise(plane, variance, marks, valid)
    outside = outside_field(~present, 2 * max(edge_margin(psf, plane.shape)) + 1)
    unobserved = ~present | (marks == Filled.HOLE)
    solver = MapSolver(psf, plane.shape)
    reporter = None
    if observer is not None:
        reporter = _Reporter(observer, solver, plane, valid, outside, unobserved)
    solution = solver.solve(
        plane,
        sigma,
        mu=mu,
        point_penalty=point_penalty,
        delta=delta,
        robust=robust,
        n_iter=n_iter,
        tolerance=tolerance,
        chi2_target=chi2_target,
        observer=reporter,
    )
    if solution.reason is StopReason.ALL_NAN:
        outside = np.ones_like(outside)
    nan = np.float32(np.nan)
    residual = np.where(unobserved, nan, plane - solution.model)
    components = np.where(outside, nan, solution.image)
    left = residual[valid].astype(np.float64)
    known = np.zeros(left.shape, bool) if variance is None else np.isfinite(sigma[valid])
    fabs, rms = fabs_and_rms(left)
    return Deconvolution(
        components,
        residual,
        solution.n_iter,
        solution.reason,
        fabs,
        rms,
        flux_in=float(np.nansum(plane, dtype=np.float64)),
        flux_out=float(np.nansum(components, dtype=np.float64)),
        chi2=float(np.mean((left[known] / sigma[valid][known]) ** 2)) if known.any() else math.nan,
        extras={
            "points": np.where(outside, nan, solution.points),
            "model": np.where(outside, nan, solution.model),
        },
    )


def _noise(
    plane: Plane, variance: Variance, marks: NDArray[np.generic], valid: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the standard deviation (y, x) with which pixels are weighted; NaN for no weight."""
    sigma = np.full(plane.shape, np.nan)
    given = _estimated_variance(plane, ~valid) if variance is None else variance
    known = valid & (given > 0) & np.isfinite(given)
    sigma[known] = np.sqrt(given[known], dtype=np.float64)
    modelled = np.isfinite(plane) & (marks == Filled.MODELLED)
    if modelled.any() and known.any():
        nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        sigma[modelled] = MODELLED_NOISE * sigma[tuple(nearest)][modelled]
    return sigma


def _estimated_variance(plane: Plane, exclude: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a constant variance (y, x) from the differences between neighbouring pixels."""
    values = np.where(exclude, np.nan, plane.astype(np.float64))
    second = values[:, 2:] - 2 * values[:, 1:-1] + values[:, :-2]
    second = np.abs(second[np.isfinite(second)])
    spread = 1.4826 * float(np.median(second)) / math.sqrt(6) if second.size else 0.0
    finite = np.abs(values[np.isfinite(values)])
    floor = 1e-3 * float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    return np.full(plane.shape, max(spread, floor) ** 2)


class _Reporter:
    """Makes the states for an observer, which takes one more convolution in each iteration."""

    def __init__(
        self,
        observer: Observer,
        solver: MapSolver,
        plane: Plane,
        valid: NDArray[np.bool_],
        outside: NDArray[np.bool_],
        unobserved: NDArray[np.bool_],
    ) -> None:
        self._observer, self._solver, self._plane = observer, solver, plane
        self._valid, self._outside, self._unobserved = valid, outside, unobserved
        self._statistics = [fabs_and_rms(plane[valid])]
        self._before = np.zeros(plane.shape, np.float32)

    def __call__(self, iteration: int, image: Plane) -> None:
        """Call the observer with the state after an iteration, given the object on the grid."""
        inside = image[self._solver.frame]
        residual = self._plane - self._solver.convolver.convolve(image)[self._solver.frame]
        self._statistics.append(fabs_and_rms(residual[self._valid]))
        fabs, rms = zip(*self._statistics, strict=True)
        nan = np.float32(np.nan)
        self._observer(
            IterationState(
                iteration,
                np.where(self._outside, nan, inside),
                np.where(self._unobserved, nan, residual),
                inside != self._before,
                math.nan,
                fabs,
                rms,
            )
        )
        self._before = inside.copy()
