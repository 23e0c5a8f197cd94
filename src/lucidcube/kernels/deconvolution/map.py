"""Edge-preserving maximum a posteriori (MAP) deconvolution."""

import math

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
from lucidcube.kernels.deconvolution.map_solver import MapSolver, Solution
from lucidcube.kernels.holes import Filled, outside_field
from lucidcube.kernels.noise import estimate_variance

__all__ = ["MODELLED_NOISE", "MapSolver", "Solution", "map_deconvolution"]

MODELLED_NOISE = 5.0
"""Standard deviation of a value that was predicted from other planes, in units of that of the pixel."""


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
        chi2_bright=solution.chi2,
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
    given = estimate_variance(plane, ~valid) if variance is None else variance
    known = valid & (given > 0) & np.isfinite(given)
    sigma[known] = np.sqrt(given[known], dtype=np.float64)
    modelled = np.isfinite(plane) & (marks == Filled.MODELLED)
    if modelled.any() and known.any():
        nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        sigma[modelled] = MODELLED_NOISE * sigma[tuple(nearest)][modelled]
    return sigma


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
