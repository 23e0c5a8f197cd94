"""Solver by nested sampling, which requires the optional package ultranest."""

from threading import Lock

import numpy as np

from lucidcube.kernels.psf import Doubles
from lucidcube.kernels.psf.fit_problem import FitProblem, Solution
from lucidcube.kernels.psf.least_squares import solve_least_squares

# The sampler uses the global random generator of NumPy, which a sampler in another thread would disturb.
_ONE_SAMPLER = Lock()
_WIDTHS = 5.0  # in units of the spread of the values: half width of a domain that has no limits
_MAX_EVALUATIONS = 200  # of the least-squares fit that estimates the noise


def solve_nested_sampling(problem: FitProblem, *, live_points: int, max_calls: int, seed: int) -> Solution:
    """Sample the posterior by nested sampling (Skilling 2004; ultranest: Buchner 2021, JOSS 6, 3001).

    The prior is uniform within the limits of each parameter. Where they are infinite (factor, const), they
    are a few times the flux and a few standard deviations of the plane. Without a variance, the scatter
    about the least-squares solution is taken as the noise. At least one parameter must be free.

    The values are those of highest likelihood, the errors the standard deviations of the posterior. The same
    seed gives the same result; the state of NumPy's global generator, which the sampler uses, is restored.
    """
    from ultranest import ReactiveNestedSampler  # optional, and the import takes half a second

    lower, upper = _finite_domain(problem)
    names = [name for name, free in zip(problem.names, problem.free, strict=True) if free]
    per_sigma = 1.0
    if not problem.data.weighted:
        best = solve_least_squares(problem, max_evaluations=_MAX_EVALUATIONS)
        per_sigma /= float(np.std(problem.residual(best.values))) or 1.0

    def log_likelihood(values: Doubles) -> float:
        return -0.5 * float(np.sum((problem.residual(values) * per_sigma) ** 2))

    def transform(cube: Doubles) -> Doubles:
        return np.asarray(lower + cube * (upper - lower))

    with _ONE_SAMPLER:
        state = np.random.get_state()  # noqa: NPY002  (the sampler supports no other generator)
        np.random.seed(seed)  # noqa: NPY002
        try:
            sampler = ReactiveNestedSampler(names, log_likelihood, transform)
            result = sampler.run(
                min_num_live_points=live_points, max_ncalls=max_calls, show_status=False, viz_callback=False
            )
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return Solution(
        values=np.asarray(result["maximum_likelihood"]["point"], dtype=np.float64),
        converged=int(result["ncall"]) < max_calls,
        errors=np.asarray(result["posterior"]["stdev"], dtype=np.float64),
    )


def _finite_domain(problem: FitProblem) -> tuple[Doubles, Doubles]:
    """Return the limits of the free parameters, with finite ones for factor and const."""
    spread = _WIDTHS * float(np.std(problem.data.values))
    reach = np.full(problem.start.size, spread)
    reach[-2] = _WIDTHS * max(abs(float(problem.start[-2])), spread)
    lower = np.where(np.isfinite(problem.lower), problem.lower, problem.start - reach)
    upper = np.where(np.isfinite(problem.upper), problem.upper, problem.start + reach)
    return lower[problem.free], upper[problem.free]
