"""Fit of a model to a normalised star by nested sampling; needs the optional package ultranest."""

from collections.abc import Mapping
from importlib import import_module
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.psf.fit_problem import FitProblem, select_pixels, too_few
from lucidcube.kernels.psf.least_squares import FitResult, finish, fit_psf, without_outliers
from lucidcube.kernels.psf.models import MODELS, ParameterOverride, resolve_parameters
from lucidcube.kernels.psf.optical_psf import Optics

# Through import_module because the package has no type information; an ImportError here names it.
_ultranest = import_module("ultranest")

_ONE_SAMPLER = Lock()
"""The sampler draws from NumPy's global generator: a second one in another thread would disturb it."""

_WIDTHS = 5.0  # widths of the plane's values that an unbounded domain is cut to


def fit_psf_nested(
    plane: NDArray[np.floating],
    model: str,
    *,
    wavelength: float,
    variance: NDArray[np.floating] | None = None,
    parameters: Mapping[str, ParameterOverride] | None = None,
    optics: Optics | None = None,
    nbins: int = 50,
    live_points: int = 100,
    max_calls: int = 100_000,
    seed: int = 0,
) -> FitResult:
    """Fit a model by nested sampling (Skilling 2004; ultranest: Buchner 2021, JOSS 6, 3001).

    The prior is flat over the domain of each parameter. Unbounded domains (factor, const) are cut to a
    few times the flux, and to a few standard deviations of the values, of the plane.

    Parameters
    ----------
    plane, model, wavelength, variance, parameters, optics, nbins
        As in `fit_psf`; `radial` has no likelihood and is fitted as there. Without a variance, the scatter
        about the least-squares solution serves as noise.
    live_points
        Live points of the sampler.
    max_calls
        Limit of evaluations of the likelihood.
    seed
        Of the random numbers: the same seed gives the same result. The generator of NumPy's global
        state, which the sampler draws from, is put back afterwards.

    Returns
    -------
    FitResult
        Values of highest likelihood; errors are the standard deviations of the posterior.

    Raises
    ------
    ValueError
        As `fit_psf`.
    """
    start = fit_psf(
        plane,
        model,
        wavelength=wavelength,
        variance=variance,
        parameters=parameters,
        optics=optics,
        nbins=nbins,
    )
    spec = MODELS[model]
    resolved = resolve_parameters(spec, parameters)
    data = select_pixels(without_outliers(plane, nbins), variance)
    if spec.star is None or too_few(data, resolved) or not any(p.free for p in resolved):
        return start
    problem = FitProblem(data, spec.star, resolved, wavelength, optics if optics is not None else Optics())
    if not data.weighted:
        scatter = float(np.std(problem.residual(start.values[problem.free])))
        problem.data = data._replace(weight=data.weight / (scatter if scatter > 0.0 else 1.0))
    lower, upper = _finite_domain(problem)
    names = [p.name for p in resolved if p.free]

    def transform(cube: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(lower + cube * (upper - lower))

    with _ONE_SAMPLER:
        state = np.random.get_state()  # noqa: NPY002  (the sampler knows no other generator)
        np.random.seed(seed)  # noqa: NPY002
        sampler = _ultranest.ReactiveNestedSampler(names, problem.log_likelihood, transform)
        result = sampler.run(
            min_num_live_points=live_points, max_ncalls=max_calls, show_status=False, viz_callback=False
        )
        np.random.set_state(state)  # noqa: NPY002
    best = np.asarray(result["maximum_likelihood"]["point"], dtype=np.float64)
    fit = finish(problem, best, converged=int(result["ncall"]) < max_calls)
    errors = np.full(fit.values.size, np.nan)
    errors[problem.free] = result["posterior"]["stdev"]
    reduced_chi2 = fit.reduced_chi2 if data.weighted else float("nan")
    return fit._replace(errors=errors, reduced_chi2=reduced_chi2)


def _finite_domain(problem: FitProblem) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the limits of the free parameters, unbounded ones cut to what the plane can mean."""
    spread = _WIDTHS * float(np.std(problem.data.values))
    flux = _WIDTHS * max(abs(float(problem.start[-2])), spread)
    reach = np.full(problem.start.size, spread)
    reach[-2] = flux
    lower = np.where(np.isfinite(problem.lower), problem.lower, problem.start - reach)
    upper = np.where(np.isfinite(problem.upper), problem.upper, problem.start + reach)
    return lower[problem.free], upper[problem.free]
