"""Find pixels that are sharper than the PSF allows."""

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import Variance
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.map_solver import MapSolver
from lucidcube.kernels.noise import estimate_variance

MU, POINT_PENALTY, DELTA, ROBUST = 0.1, 0.05, 1.0, 2.0
"""Parameters of the estimate, see `MapSolver.solve`."""
ITERATIONS = (180, 50, 50)
"""Iterations of each round. With too few in the first, real points are marked."""
TOLERANCE = 1e-7
MODEL_ERROR = 0.005
"""Error of the PSF as a fraction of the model."""


def psf_consistency(
    plane: Plane, variance: Variance, psf: NDArray[np.floating], *, cut: float = 5.0
) -> NDArray[np.float32]:
    """Return by how many standard deviations each pixel differs from anything blurred by the PSF.

    A robust edge-preserving MAP estimate (see `map_solver`) of the object, convolved with the PSF, is
    subtracted. Structure of the object cannot be sharper than the PSF, so that its residuals are noise, while
    artefacts of single pixels remain. Pixels beyond the cut lose their weight, and the estimate is
    continued without them, twice.

    Parameters
    ----------
    plane : array of float, (y, x)
        NaN where there are no data.
    variance : array of float, (y, x), or None
        Variance of the noise, estimated from the plane if None. A pixel where it is not finite and positive
        counts as missing.
    psf : array of float, (y, x)
        Odd, centred, finite, of unit sum.
    cut : float
        Number of standard deviations beyond which a pixel loses its weight.

    Returns
    -------
    array of float32, (y, x)
        (plane - model) / sqrt(variance + (0.005 model)^2); NaN where there are no data.
    """
    spread = np.asarray(estimate_variance(plane) if variance is None else variance, np.float64)
    known = np.isfinite(plane) & np.isfinite(spread) & (spread > 0)
    sigma = np.sqrt(np.where(known, spread, np.nan))
    solver, solution, z = MapSolver(psf, plane.shape), None, np.zeros(plane.shape)
    for n_iter in ITERATIONS:
        trusted = np.where(np.abs(z) > cut, np.nan, sigma)
        solution = solver.solve(
            plane,
            trusted,
            mu=MU,
            point_penalty=POINT_PENALTY,
            delta=DELTA,
            robust=ROBUST,
            n_iter=n_iter,
            tolerance=TOLERANCE,
            start=solution,
        )
        z = (plane - solution.model) / np.hypot(sigma, MODEL_ERROR * solution.model)
    return z.astype(np.float32)
