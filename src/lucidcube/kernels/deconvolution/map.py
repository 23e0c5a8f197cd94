"""Edge-preserving maximum a posteriori (MAP) deconvolution."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import (
    MODELLED_NOISE,
    Deconvolution,
    Observer,
    Pixels,
    Reporter,
    StopReason,
    Variance,
    of_nearest,
)
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.map_solver import MapSolver, Solution
from lucidcube.kernels.noise import correlated_pixels, known_variance


def map_deconvolution(
    plane: Plane,
    psf: NDArray[np.floating],
    *,
    variance: Variance = None,
    filled: NDArray[np.generic] | None = None,
    observer: Observer | None = None,
    start: Solution | None = None,
    n_iter: int,
    mu: float,
    point_penalty: float,
    delta: float,
    robust: float | None,
    tolerance: float,
    chi2_target: float | None,
) -> Deconvolution:
    """Deconvolve a plane by the edge-preserving MAP estimate, see `edge_preserving` for the objective.

    The first five arguments are as for `clean.clean_modified`, the others as for `MapSolver.solve`, but for
    `start`, the `Deconvolution.start` of similar data with the same PSF, and `point_penalty`, which is in
    units of the norm of the PSF: the significance that a filter matched to the PSF must find before there
    is a point. With a PSF half as wide, the light of a point stands out twice as much, as does noise.

    Where the variance is not positive and finite, a pixel has no weight; if it is not given, it is estimated
    from the plane. Noise that is correlated between neighbouring pixels has less weight, because it would
    otherwise be taken for points: the data term is divided by the square root of `correlated_pixels`, which
    lies between what its large and its small scales deserve. Pixels that were replaced or are holes have no
    weight. Pixels that were modelled count as data with `MODELLED_NOISE` times the noise of the nearest pixel
    of known variance.

    The residual is plane - model on all observed pixels. Light from beyond the edge of the frame belongs to
    the model, so the components alone, convolved, need not give the model near the edge. Components, points
    and model are NaN outside the field. `extras` are "points" and "model".
    """
    pixels, sigma, correlated = noise_of(plane, psf, variance, filled, start)
    solver = MapSolver(psf, plane.shape)
    solution = solver.solve(
        plane,
        sigma,
        mu=mu,
        point_penalty=point_penalty * norm(psf),
        delta=delta,
        robust=robust,
        n_iter=n_iter,
        tolerance=tolerance,
        correlated=correlated,
        free_points=True,
        start=start,
        chi2_target=chi2_target,
        observer=None if observer is None else _reporting(observer, plane, pixels, solver),
    )
    return result_of(solution, plane, variance, pixels, sigma)


class Noise(NamedTuple):
    """The noise of a plane."""

    pixels: Pixels
    sigma: NDArray[np.float64]
    """Standard deviation (y, x), see `noise_by_pixel`."""
    correlated: float
    """Number by which the data term is divided."""


def noise_of(
    plane: Plane,
    psf: NDArray[np.floating],
    variance: Variance,
    filled: NDArray[np.generic] | None,
    start: Solution | None,
) -> Noise:
    """Return the noise of a plane; the arguments are as for `map_deconvolution`."""
    pixels = Pixels.of(plane, psf, filled)
    sigma = noise_by_pixel(plane, variance, pixels)
    if start is not None:
        return Noise(pixels, sigma, start.correlated)
    return Noise(pixels, sigma, math.sqrt(correlated_pixels(plane, np.square(sigma), ~pixels.valid)))


def norm(psf: NDArray[np.floating]) -> float:
    """Return the root of the sum of squares of a PSF, to which the penalty of the points is relative."""
    return math.sqrt(np.sum(np.square(psf, dtype=np.float64)))


def result_of(
    solution: Solution, plane: Plane, variance: Variance, pixels: Pixels, sigma: NDArray[np.float64]
) -> Deconvolution:
    """Return the result for a plane, given its solution and the standard deviation of its pixels."""
    everywhere = solution.reason is StopReason.ALL_NAN
    components, points, model = (
        np.where(pixels.outside | everywhere, np.float32(np.nan), array)
        for array in (solution.image, solution.points, solution.model)
    )
    residual = np.where(pixels.unobserved, np.float32(np.nan), plane - solution.model)
    known = pixels.valid & np.isfinite(sigma) & (variance is not None)
    chi2 = float(np.mean((residual[known] / sigma[known]) ** 2)) if known.any() else math.nan
    return Deconvolution.of(
        plane,
        components,
        residual,
        pixels.valid,
        solution.n_iter,
        solution.reason,
        chi2=chi2,
        chi2_bright=solution.chi2,
        whole=solution.parts.sum(axis=0),
        extras={"points": points, "model": model},
        model=solution.model,
        start=solution,
    )


def noise_by_pixel(plane: Plane, variance: Variance, pixels: Pixels) -> NDArray[np.float64]:
    """Return the standard deviation (y, x) with which pixels are weighted; NaN for no weight."""
    sigma = np.full(plane.shape, np.nan)
    given = known_variance(plane, variance, ~pixels.valid)
    known = pixels.valid & (given > 0) & np.isfinite(given)
    sigma[known] = np.sqrt(given[known], dtype=np.float64)
    if pixels.modelled.any() and known.any():
        sigma[pixels.modelled] = MODELLED_NOISE * of_nearest(sigma, known, pixels.modelled)
    return sigma


def _reporting(
    observer: Observer, plane: Plane, pixels: Pixels, solver: MapSolver
) -> Callable[[int, Plane], None]:
    """Return a function that calls the observer, given the number of an iteration and its object."""
    whole = slice(None), slice(None)
    reporter = Reporter(observer, pixels, whole, np.zeros_like(plane), plane)

    def report(iteration: int, image: Plane) -> None:
        residual = plane - solver.convolver.convolve(image)[solver.frame]
        reporter.report(iteration, image[solver.frame], residual)

    return report
