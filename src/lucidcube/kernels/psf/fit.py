"""Fit of a model to a normalised star; the image of the model is the point spread function."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from lucidcube.kernels.psf import Doubles, Floats, Mask, Reals
from lucidcube.kernels.psf.fit_problem import FitProblem, Solution, Solver, select_pixels
from lucidcube.kernels.psf.models import MODELS, Parameter, StarFunction
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.kernels.psf.radial_profile import fit_radial_profile, radial_model

_OUTLIER_ANNULI = 50


class FitStatus(IntEnum):
    """How a fit ended."""

    FINE = 0
    NOT_CONVERGED = 1
    NO_DATA = 2
    UNDETERMINED = 3
    """A parameter ended at a limit of its domain, or its error is larger than the domain."""


class FitResult(NamedTuple):
    """Fitted star; all numbers are NaN if the status is NO_DATA.

    `image` is the model about the central pixel, whatever the fitted position, without the constant: finite,
    not negative, and of unit sum. `values` and `errors` (one standard deviation) are in the order of the
    parameters; an error is NaN if the parameter is fixed or at one of its limits, or if it is unknown or
    larger than the domain. The reduced chi squared is NaN without a variance.
    """

    image: Floats
    values: Doubles
    errors: Doubles
    reduced_chi2: float
    status: FitStatus


def fit_radial_psf(
    plane: Reals, variance: Reals | None, *, parameters: Sequence[Parameter], nbins: int
) -> FitResult:
    """Fit the model `radial` to one plane of a normalised star; see `fit_radial_profile`.

    The star is near the central pixel of the plane (y, x), in which NaN is missing. Pixels whose variance is
    not finite and positive have no weight, unless no pixel has such a variance; then the fit is unweighted.
    The `parameters` are the offsets x and y from the central pixel, and `nbins` is the number of annuli.

    The status is NO_DATA if too few pixels are finite, or none is positive. An even side and less than three
    annuli raise ValueError.
    """
    data = select_pixels(plane, variance)
    if nbins < 3:
        raise ValueError(f"nbins must be at least 3, not {nbins}")
    n_free = sum(p.free for p in parameters)
    if data.too_few(n_free):
        return _no_data(plane.shape, len(parameters))
    weight = None
    if data.weighted:
        weight = np.zeros(plane.shape)
        weight[data.used] = data.weight**2
    usable = np.where(data.used, plane, np.float32(np.nan))
    fit = fit_radial_profile(usable, weight, x=parameters[0], y=parameters[1], n_annuli=nbins)
    if not np.isfinite(fit.image).all():
        return _no_data(plane.shape, len(parameters))
    reduced_chi2 = float("nan")
    if weight is not None:
        chi2 = (plane - radial_model(fit, plane.shape))[fit.used] ** 2 * weight[fit.used]
        reduced_chi2 = float(chi2.sum()) / max(chi2.size - nbins - n_free, 1)
    status = FitStatus.FINE if fit.converged else FitStatus.NOT_CONVERGED
    return FitResult(fit.image, np.array(fit.centre[::-1]), np.array(fit.errors[::-1]), reduced_chi2, status)


def fit_parametric_psf(
    plane: Reals,
    variance: Reals | None,
    *,
    star: StarFunction,
    parameters: Sequence[Parameter],
    wavelength: float,
    optics: Optics,
    solver: Solver,
) -> FitResult:
    """Fit a parametric model to one plane of a normalised star, as described for `fit_radial_psf`.

    The model is `star`. Its `parameters` are those of `MODELS`, or the same with other start values, limits
    and freedom. The `wavelength` is in metres. The `solver` minimises chi squared, as `solve_least_squares`
    does.

    Pixels that differ from their annulus by more than 5 robust standard deviations have no weight. The errors
    are derived from the variance, or without one from the scatter of the residual. They assume that the noise
    of the pixels is independent, which is not exact for interpolated ones.
    """
    n_free = sum(p.free for p in parameters)
    data = select_pixels(plane, variance)
    if not data.too_few(n_free):
        data = select_pixels(_without_outliers(plane), variance)
    if data.too_few(n_free):
        return _no_data(plane.shape, len(parameters))
    problem = FitProblem(data, star, parameters, wavelength, optics)
    return _result(problem, solver(problem) if n_free else Solution(np.empty(0), converged=True))


def _without_outliers(plane: Reals) -> Reals:
    """Return the plane with NaN where a pixel differs from its annulus by more than 5 robust deviations.

    `normalise_psf` compares pixels with the standard deviation of the whole plane, and so it does not find
    cosmic rays in the wing of a bright star, which would dominate a fit weighted by the variance.
    """
    x, y = MODELS["radial"].parameters
    fit = fit_radial_profile(plane, None, x=x, y=y, n_annuli=_OUTLIER_ANNULI)
    return np.where(fit.used, plane, np.float32(np.nan)) if fit.converged else plane


def _no_data(shape: tuple[int, ...], n_parameters: int) -> FitResult:
    """Return the result for a plane that cannot be fitted."""
    unknown, empty = np.full(n_parameters, np.nan), np.full(shape, np.nan, dtype=np.float32)
    return FitResult(empty, unknown, unknown.copy(), float("nan"), FitStatus.NO_DATA)


def _result(problem: FitProblem, solution: Solution) -> FitResult:
    """Return the image, errors and chi squared of a solution."""
    values = problem.full(solution.values)
    chi2 = float(np.sum(problem.residual(solution.values) ** 2))
    freedom = problem.data.values.size - solution.values.size
    image = np.maximum(problem.star_at(values, centred=True).image, 0.0)
    reduced_chi2 = chi2 / freedom if problem.data.weighted else float("nan")
    errors, known = np.full(values.size, np.nan), solution.errors
    if known is None:
        known = _errors(problem, values, 1.0 if problem.data.weighted else chi2 / freedom)
    errors[problem.free] = known
    wide = errors > problem.upper - problem.lower
    errors[wide] = np.nan
    status = FitStatus.FINE
    if (problem.free & (wide | _at_limit(problem, values))).any():
        status = FitStatus.UNDETERMINED
    if not solution.converged:
        status = FitStatus.NOT_CONVERGED
    return FitResult((image / image.sum()).astype(np.float32), values, errors, reduced_chi2, status)


def _at_limit(problem: FitProblem, values: Doubles) -> Mask:
    """Return which parameters are at a limit of their domain."""
    close = 1e-6 * np.where(np.isfinite(problem.upper - problem.lower), problem.upper - problem.lower, 0.0)
    return np.asarray((values <= problem.lower + close) | (values >= problem.upper - close))


def _errors(problem: FitProblem, values: Doubles, scale: float) -> Doubles:
    """Return the errors of the free parameters from the Jacobian; NaN at a limit of the domain."""
    inside = ~_at_limit(problem, values)[problem.free]
    errors = np.full(inside.size, np.nan)
    if inside.any():
        jacobian = problem.jacobian(values[problem.free])[:, inside]
        norm = np.sqrt(np.sum(jacobian**2, axis=0))
        norm = np.where(norm > 0.0, norm, 1.0)
        scaled = jacobian / norm
        spread = np.sqrt(scale * np.diag(np.linalg.pinv(scaled.T @ scaled))) / norm
        errors[inside] = np.where(spread > 0.0, spread, np.nan)
    return errors
