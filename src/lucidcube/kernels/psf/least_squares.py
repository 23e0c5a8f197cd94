"""Solvers that minimise chi squared within the domains of the free parameters."""

import numpy as np
from scipy import optimize

from lucidcube.kernels.psf import Doubles
from lucidcube.kernels.psf.fit_problem import FitProblem, Solution

CHI2_TOLERANCE = 1e-6
"""Relative decrease of chi squared below which a fit ends: far below the decrease that has a meaning."""


def solve_least_squares(problem: FitProblem, *, max_evaluations: int) -> Solution:
    """Minimise chi squared by bounded trust-region least squares.

    At least one parameter must be free. `max_evaluations` does not count evaluations for derivatives.
    """
    free = problem.free
    found = optimize.least_squares(
        problem.residual,
        problem.start[free],
        jac=problem.jacobian,
        bounds=(problem.lower[free], problem.upper[free]),
        x_scale="jac",
        ftol=CHI2_TOLERANCE,
        max_nfev=max_evaluations,
    )
    return Solution(np.asarray(found.x, dtype=np.float64), bool(found.status > 0))


def solve_minimize(problem: FitProblem, *, max_evaluations: int) -> Solution:
    """Minimise chi squared by L-BFGS-B, with parameters scaled to matter equally at the start.

    The arguments are those of `solve_least_squares`.
    """
    free = problem.free
    start = problem.start[free]
    norm = np.sqrt(np.sum(problem.jacobian(start) ** 2, axis=0))
    scale = 1.0 / np.where(norm > 0.0, norm, 1.0)
    size = float(np.sum(problem.residual(start) ** 2)) / problem.data.values.size
    size = size if size > 0.0 else 1.0

    def cost(scaled: Doubles) -> tuple[float, Doubles]:
        residual = problem.residual(scaled * scale)
        gradient = problem.jacobian(scaled * scale).T @ residual * scale
        return 0.5 * float(residual @ residual) / size, gradient / size

    limits = np.stack([problem.lower[free], problem.upper[free]], axis=1) / scale[:, None]
    options = {"maxfun": max_evaluations, "maxiter": max_evaluations, "ftol": 1e-10, "gtol": 1e-8}
    best = optimize.minimize(cost, start / scale, jac=True, method="L-BFGS-B", bounds=limits, options=options)
    # Scaling back can cross a bound by a rounding error.
    values = np.clip(np.asarray(best.x) * scale, problem.lower[free], problem.upper[free])
    return Solution(values, bool(best.success))
