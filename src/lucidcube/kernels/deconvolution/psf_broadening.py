"""By how much a PSF is too narrow for the planes of a target: a fit by the residuals."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from lucidcube.kernels.deconvolution.clean_beam import fit_beam
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.map_solver import MapSolver
from lucidcube.kernels.noise import estimate_variance, known_variance

MISFIT = 0.01
"""Mean squared residual, in units of the variance of the noise, by which a PSF that is too broad shows."""
WIDEST = 0.8
"""Largest variance of the broadening, in units of that of a Gaussian as wide as the core of the PSF."""
FAR_TOO_WIDE, SHARP = 1.5, 0.03
"""A broadening, in the same unit, that is far too wide, and the least mean squared residual that it leaves
where something in the planes is sharp."""
LEAST = 0.2
"""Smallest variance of the broadening, in the same unit, that is told from none."""
PRECISION = 0.01
"""Precision of the fit, in the same unit."""
N_ITER, ROBUST, SEED = 150, 3.0, 0
OUTLIER = 4.0
"""Residual, in standard deviations, beyond which a pixel and its neighbours are left out as an artefact."""
CLIPPED = 25.0
"""Largest squared residual, in units of the variance, that counts."""


class PlaneFit:
    """The residuals of one plane as a function of the broadening of its PSF.

    The plane (y, x) is NaN where there are no data. The noise is that of the variance (y, x), or an estimate
    from the plane if it is None. The PSF is odd, centred, finite and of unit sum.
    """

    def __init__(self, plane: Plane, variance: Plane | None, psf: NDArray[np.floating]) -> None:
        self.plane, self.psf, self.core = plane, psf, core_sigma(psf)
        spread = known_variance(plane, variance, ~np.isfinite(plane))
        known = np.isfinite(plane) & np.isfinite(spread) & (spread > 0)
        self.sigma = np.sqrt(np.where(known, spread, np.nan), dtype=np.float64)
        squared, _ = _residual(self._solver(0.0), plane, self.sigma)
        outlier = ndimage.binary_dilation(squared > OUTLIER**2, np.ones((3, 3)))
        self.sigma[outlier] = np.nan
        measured = estimate_variance(plane, np.isnan(self.sigma)) / np.square(self.sigma)
        self.noise = float(np.nanmedian(measured)) if np.isfinite(measured).any() else math.nan
        """Variance of the noise measured in the plane, in units of the given variance."""

    def misfit(self, share: float, noise: float) -> float:
        """Return the mean squared residual of the plane minus that of a simulated plane; NaN without data.

        The simulated plane is the model of the plane with the broadened PSF (see `WIDEST`) plus noise: what
        would be observed if this PSF were right. The unit is the variance of the noise, which is `noise`
        times the given variance.
        """
        solver, sigma = self._solver(share), self.sigma * math.sqrt(noise)
        known = np.isfinite(sigma)
        if not known.any():
            return math.nan
        drawn = np.random.default_rng(SEED).normal(size=sigma.shape) * np.nan_to_num(sigma)
        first, model = _residual(solver, self.plane, sigma)
        second, _ = _residual(solver, (model + drawn).astype(np.float32), sigma)
        means = (np.minimum(squared[known], CLIPPED).mean() for squared in (first, second))
        return float(np.subtract(*means))

    def _solver(self, share: float) -> MapSolver:
        """Return the solver for the broadened PSF."""
        return MapSolver(broadened(self.psf, self.core * math.sqrt(share)), self.plane.shape)


def _residual(
    solver: MapSolver, plane: Plane, sigma: NDArray[np.float64]
) -> tuple[NDArray[np.float64], Plane]:
    """Return the squared residuals (y, x) in units of the variance, and the model."""
    model = solver.solve(plane, sigma, robust=ROBUST, n_iter=N_ITER).model
    return np.square((plane - model) / sigma), model


def fit_broadening(planes: Sequence[PlaneFit]) -> float:
    """Return the variance of the Gaussian that PSFs need, in units of that of their core.

    A PSF that is too narrow can explain the planes: the object is then blurred. One that is too broad leaves
    residuals at edges and points, which it cannot make sharp enough. So the PSFs are broadened until they
    leave `MISFIT` more than without broadening. The residuals also depend on how closely the fit follows the
    noise, which is the less the broader the PSF; simulated planes, fitted alike, tell by how much. The noise
    is measured in the planes themselves. The result is 0 if it is below `LEAST`, and NaN if even a PSF that
    is far too broad hardly shows, because nothing in the planes is sharp, or the noise is too large.
    """
    planes = [p for p in planes if math.isfinite(p.noise)]
    if not planes:
        return math.nan
    noise = float(np.mean([p.noise for p in planes]))

    @cache
    def misfit(share: float) -> float:
        return float(np.mean([p.misfit(share, noise) for p in planes]))

    def excess(share: float) -> float:
        return misfit(share) - misfit(0.0) - MISFIT

    if excess(LEAST) >= 0.0:
        return 0.0
    if misfit(FAR_TOO_WIDE) - misfit(0.0) < SHARP or excess(WIDEST) < 0.0:
        return math.nan
    return float(optimize.brentq(excess, LEAST, WIDEST, xtol=PRECISION, rtol=1e-3))


def core_sigma(psf: NDArray[np.floating]) -> float:
    """Return the standard deviation, in pixels, of a round Gaussian with the area of the core of a PSF."""
    return float(np.linalg.det(fit_beam(psf)) ** 0.25)


def broadened(psf: NDArray[np.floating], sigma: float) -> NDArray[np.float32]:
    """Return a PSF convolved with a Gaussian of this standard deviation in pixels, with unit sum."""
    if not sigma > 0.0:
        return np.asarray(psf, np.float32)
    wide = ndimage.gaussian_filter(psf.astype(np.float64), sigma, mode="constant", truncate=6.0)
    return (wide / wide.sum()).astype(np.float32)


def broadened_modes(modes: NDArray[np.floating], sigma: float) -> NDArray[np.float32]:
    """Return the modes (mode, y, x) of a PSF, which have no light in total, convolved as by `broadened`."""
    known = np.nan_to_num(modes.astype(np.float64))
    wide = ndimage.gaussian_filter(known, (0, sigma, sigma), mode="constant", truncate=6.0)
    return wide.astype(np.float32)


def width_mode(psf: NDArray[np.floating], relative: float) -> NDArray[np.float64]:
    """Return the change (y, x) of a PSF, odd in both axes, that becomes wider by a fraction; its sum is 0."""
    given = np.asarray(psf, np.float64)
    scale, middle = 1 + relative, (np.array(given.shape) - 1) / 2
    wide = ndimage.affine_transform(given, np.full(2, 1 / scale), middle * (1 - 1 / scale), mode="nearest")
    return np.asarray(wide * (given.sum() / wide.sum()) - given)
