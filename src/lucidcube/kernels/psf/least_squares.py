"""Fit of a model to a normalised star; the model's image is the point spread function."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from lucidcube.kernels.psf.fit_problem import FitData, FitProblem, select_pixels, too_few
from lucidcube.kernels.psf.models import (
    MODELS,
    ModelSpec,
    ParameterOverride,
    ParameterSpec,
    resolve_parameters,
)
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.kernels.psf.radial_profile import fit_radial, radial_model

FitMethod = Literal["least_squares", "minimize"]

_TOLERANCE = 1e-8


class FitStatus(IntEnum):
    """How a fit ended."""

    FINE = 0
    NOT_CONVERGED = 1
    NO_DATA = 2


class FitResult(NamedTuple):
    """A fitted star."""

    image: NDArray[np.float32]
    """Model about the central pixel whatever the fitted position, without the constant: finite, not
    negative, unit sum over the plane. All NaN if the status is NO_DATA."""
    values: NDArray[np.float64]
    """Parameters in the order of the model's list; NaN if the status is NO_DATA."""
    errors: NDArray[np.float64]
    """One standard deviation; NaN where fixed, at a limit of the domain, or unknown."""
    reduced_chi2: float
    """Chi squared per degree of freedom; NaN without a variance."""
    status: FitStatus


def fit_psf(
    plane: NDArray[np.floating],
    model: str = "radial",
    *,
    wavelength: float,
    variance: NDArray[np.floating] | None = None,
    parameters: Mapping[str, ParameterOverride] | None = None,
    method: FitMethod = "least_squares",
    optics: Optics | None = None,
    nbins: int = 50,
    max_evaluations: int = 200,
) -> FitResult:
    """Fit a model to one plane of a normalised star.

    Parameters
    ----------
    plane
        Star (y, x), both odd, the star near the central pixel; NaN = no data, which has no weight.
    model
        Name in `MODELS`.
    wavelength
        Metres.
    variance
        Variance of the plane, same shape. Pixels without a finite positive one have no weight; if that
        is all of them, the fit is unweighted.
    parameters
        Changes to start values, domains and what is free, by name.
    method
        `least_squares`: bounded trust region; `minimize`: chi squared by L-BFGS-B. `radial` has its
        own method, Gauss-Newton, under either name.
    optics
        Telescope and pixel size, for `turbulence` and `muse_ao`; None: MUSE, narrow field.
    nbins
        Number of annuli, for `radial`.
    max_evaluations
        Limit of evaluations of the model, derivatives not counted.

    Returns
    -------
    FitResult
        A plane with too few pixels or without a positive one has the status NO_DATA; nothing is raised.

    Raises
    ------
    ValueError
        Wrong settings: unknown model or parameter, start outside its domain, even shape, nbins < 3.

    Notes
    -----
    Pixels that stand out of their annulus by more than 5 robust standard deviations have no weight.
    Errors come from the variance, or without one from the scatter of the residual, and take pixels as
    independent, which interpolated ones are not quite. They are float64 as all of a fit is.
    """
    if model not in MODELS:
        raise ValueError(f"unknown model {model}; known: {', '.join(MODELS)}")
    spec = MODELS[model]
    resolved = resolve_parameters(spec, parameters)
    if any(n % 2 == 0 for n in plane.shape):
        raise ValueError(f"the plane must be odd along y and x to have a central pixel, not {plane.shape}")
    if nbins < 3:
        raise ValueError(f"nbins must be at least 3, not {nbins}")
    data = select_pixels(plane, variance)
    if too_few(data, resolved):
        return no_data(spec, plane.shape)
    if spec.star is None:
        return _fit_radial(plane, data, resolved, nbins)
    data = select_pixels(without_outliers(plane, nbins), variance)
    problem = FitProblem(data, spec.star, resolved, wavelength, optics if optics is not None else Optics())
    if not problem.free.any():
        return finish(problem, np.empty(0), converged=True)
    solve = _SOLVERS[method]
    free_values, converged = solve(problem, max_evaluations)
    return finish(problem, free_values, converged=converged)


def without_outliers(plane: NDArray[np.floating], nbins: int) -> NDArray[np.floating]:
    """Return the plane with NaN where a pixel stands out of its annulus by more than 5 robust deviations.

    A cosmic ray in the wing of a bright star hides in the standard deviation of the whole plane, by which
    `normalise_psf` looks for outliers, but would rule a fit weighted by the variance.
    """
    fit = fit_radial(plane, weight=None, n_annuli=nbins)
    return np.where(fit.used, plane, np.float32(np.nan)) if fit.converged else plane


def no_data(spec: ModelSpec, shape: tuple[int, ...]) -> FitResult:
    """Return the result for a plane that cannot be fitted."""
    unknown = np.full(len(spec.parameters), np.nan)
    empty = np.full(shape, np.nan, dtype=np.float32)
    return FitResult(empty, unknown, unknown.copy(), float("nan"), FitStatus.NO_DATA)


def finish(problem: FitProblem, free_values: NDArray[np.float64], *, converged: bool) -> FitResult:
    """Return the image, errors and chi squared of a solution."""
    values = problem.full(free_values)
    chi2 = float(np.sum(problem.residual(free_values) ** 2))
    freedom = problem.data.values.size - free_values.size
    image = problem.star_at(values, centred=True).image
    image = np.maximum(image, 0.0)
    errors = np.full(values.size, np.nan)
    at_limit = np.isclose(values, problem.lower, 1e-9, 0.0) | np.isclose(values, problem.upper, 1e-9, 0.0)
    inside = ~at_limit[problem.free]
    if inside.any():
        jacobian = problem.jacobian(free_values)[:, inside]
        norm = np.sqrt(np.sum(jacobian**2, axis=0))
        norm = np.where(norm > 0.0, norm, 1.0)
        scaled = jacobian / norm
        scale = 1.0 if problem.data.weighted else chi2 / freedom
        spread = np.sqrt(scale * np.diag(np.linalg.pinv(scaled.T @ scaled))) / norm
        errors[np.flatnonzero(problem.free)[inside]] = np.where(spread > 0.0, spread, np.nan)
    return FitResult(
        image=(image / image.sum()).astype(np.float32),
        values=values,
        errors=errors,
        reduced_chi2=chi2 / freedom if problem.data.weighted else float("nan"),
        status=FitStatus.FINE if converged else FitStatus.NOT_CONVERGED,
    )


def _solve_least_squares(problem: FitProblem, max_evaluations: int) -> tuple[NDArray[np.float64], bool]:
    """Bounded trust-region least squares."""
    free = problem.free
    solution = least_squares(
        problem.residual,
        problem.start[free],
        jac=problem.jacobian,
        bounds=(problem.lower[free], problem.upper[free]),
        x_scale="jac",
        ftol=_TOLERANCE,
        xtol=_TOLERANCE,
        gtol=_TOLERANCE,
        max_nfev=max_evaluations,
    )
    return np.asarray(solution.x, dtype=np.float64), bool(solution.status > 0)


def _solve_minimize(problem: FitProblem, max_evaluations: int) -> tuple[NDArray[np.float64], bool]:
    """Quasi-Newton descent of chi squared, in units in which all parameters matter alike at the start."""
    free = problem.free
    start = problem.start[free]
    norm = np.sqrt(np.sum(problem.jacobian(start) ** 2, axis=0))
    scale = 1.0 / np.where(norm > 0.0, norm, 1.0)
    size = float(np.sum(problem.residual(start) ** 2)) / problem.data.values.size
    size = size if size > 0.0 else 1.0

    def cost(scaled: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        residual = problem.residual(scaled * scale)
        gradient = problem.jacobian(scaled * scale).T @ residual * scale
        return 0.5 * float(residual @ residual) / size, gradient / size

    limits = np.stack([problem.lower[free], problem.upper[free]], axis=1) / scale[:, None]
    options = {"maxfun": max_evaluations, "maxiter": max_evaluations, "ftol": 1e-13, "gtol": 1e-8}
    solution = minimize(cost, start / scale, jac=True, method="L-BFGS-B", bounds=limits, options=options)
    # Back from the scaled units a bound may be missed by a rounding error.
    found = np.clip(np.asarray(solution.x) * scale, problem.lower[free], problem.upper[free])
    return found, bool(solution.success)


_SOLVERS = {"least_squares": _solve_least_squares, "minimize": _solve_minimize}


def _fit_radial(
    plane: NDArray[np.floating], data: FitData, parameters: tuple[ParameterSpec, ...], nbins: int
) -> FitResult:
    """Fit the radial profile; its degrees of freedom are the annuli and the centre."""
    x, y = parameters
    weight = None
    if data.weighted:
        weight = np.zeros(plane.shape)
        weight[data.used] = data.weight**2
    used_only = np.where(data.used, plane, np.float32(np.nan))
    fit = fit_radial(
        used_only,
        weight=weight,
        n_annuli=nbins,
        start=(y.start or 0.0, x.start or 0.0),
        lower=(y.lower, x.lower),
        upper=(y.upper, x.upper),
        free=(y.free, x.free),
    )
    if not np.isfinite(fit.image).all():
        return no_data(MODELS["radial"], plane.shape)
    reduced_chi2 = float("nan")
    if weight is not None:
        residual = (plane - radial_model(fit, plane.shape))[fit.used] ** 2 * weight[fit.used]
        reduced_chi2 = float(residual.sum()) / max(residual.size - nbins - sum(p.free for p in parameters), 1)
    return FitResult(
        image=fit.image,
        values=np.array([fit.centre[1], fit.centre[0]]),
        errors=np.array([fit.errors[1], fit.errors[0]]),
        reduced_chi2=reduced_chi2,
        status=FitStatus.FINE if fit.converged else FitStatus.NOT_CONVERGED,
    )
