"""MAP deconvolution: scipy's minimum, truth, missing data, points, robustness and stops."""

import numpy as np
import pytest
from scipy.optimize import Bounds, minimize
from scipy.signal import fftconvolve

from disc_scene import SIGMA, error, planet
from lucidcube.kernels.deconvolution import map as map_module
from lucidcube.kernels.deconvolution.common import StopReason
from lucidcube.kernels.deconvolution.map import MapSolver

PRIORS = {"mu": 0.1, "point_penalty": 0.05, "delta": 1.0, "robust": 3.0}
OPTIONS = {**PRIORS, "n_iter": 150, "tolerance": 1e-7, "chi2_target": None}


def map_deconvolution(plane, psf, **options):
    return map_module.map_deconvolution(plane, psf, **{**OPTIONS, **options})


def objective(parts, data, sigma, psf, margin, mu, point_penalty, delta, robust):
    """Return J, by its definition in float64, and its gradient for scipy."""
    grid = data.shape[0] + 2 * margin, data.shape[1] + 2 * margin
    b, p = parts.reshape(2, *grid)
    weighted = np.isfinite(data) & np.isfinite(sigma)
    unit = np.median(sigma[weighted])
    weight = np.where(weighted, unit / np.where(weighted, sigma, 1), 0)
    blurred = fftconvolve(b + p, psf, mode="same")
    inside = (slice(margin, margin + data.shape[0]), slice(margin, margin + data.shape[1]))
    r = weight * (blurred[inside] - np.where(weighted, data, 0) / unit)
    root = 1.0 if robust is None else np.sqrt(1 + (r / robust) ** 2)
    cost = (r**2 / (1 + root)).sum()
    back = np.zeros(grid)
    back[inside] = weight * r / root
    back = fftconvolve(back, psf[::-1, ::-1], mode="same")
    slopes = np.diff(b, axis=0, append=b[-1:]), np.diff(b, axis=1, append=b[:, -1:])
    size = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + delta**2)
    cost += mu * (size - delta).sum() + point_penalty * p.sum()
    smooth = np.zeros(grid)
    for axis, slope in enumerate(slopes):
        smooth -= np.diff(slope / size, axis=axis, prepend=0)
    return cost, np.stack([back + mu * smooth, back + point_penalty]).reshape(-1)


def small_problem():
    plane, psf, _, _ = planet(size=24, radius=8.0)
    sigma = np.full(plane.shape, SIGMA)
    sigma[:, 12:] *= 1.5
    plane = plane.copy()
    plane[5:7, 9] = np.nan
    sigma[20, 3] = np.inf
    plane[12, 12] += 400
    return plane, sigma, psf[10:-10, 10:-10] / psf[10:-10, 10:-10].sum()


@pytest.mark.parametrize("robust", [3.0, None])
def test_the_minimum_is_that_of_scipy(robust):
    plane, sigma, psf = small_problem()
    priors = {**PRIORS, "robust": robust}
    solver = MapSolver(psf, plane.shape, margin=5)
    ours = solver.solve(plane, sigma, n_iter=2000, tolerance=1e-9, **priors)
    given = plane.astype(float), sigma, psf.astype(float), 5, *priors.values()
    unit = np.median(sigma[np.isfinite(plane) & np.isfinite(sigma)])
    assert objective(ours.parts / unit, *given)[0] == pytest.approx(ours.cost, rel=1e-5)
    theirs = minimize(
        objective,
        np.zeros(ours.parts.size),
        given,
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(0, np.inf),
        options={"maxiter": 3000, "maxfun": 5000, "maxcor": 8, "ftol": 1e-12, "gtol": 1e-6},
    )
    assert ours.cost == pytest.approx(theirs.fun, rel=1e-4)
    assert ours.reason is StopReason.CONVERGED


def test_restores_the_truth():
    plane, psf, truth, disc = planet()
    result = map_deconvolution(plane, psf, variance=np.full(plane.shape, SIGMA**2, np.float32))
    assert error(result.components, truth, disc) < 0.01
    np.testing.assert_allclose(result.residual + result.extras["model"], plane, atol=1e-6 * plane.max())
