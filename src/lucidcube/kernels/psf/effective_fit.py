"""Fit of smooth functions of radius and angle to the pixels of a star in one plane."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.noise import NoiseModel
from lucidcube.kernels.psf import Doubles
from lucidcube.kernels.psf.polar_basis import HARMONICS, Design, PolarBasis
from lucidcube.kernels.psf.wing import Wing

CORE = 2.0
"""Radius in units of the scale, inside of which only gross outliers are rejected."""
MODEL_ERROR = 0.003
"""Error of the model, as a fraction of the star."""
OUTLIER = 8.0
"""Standard deviations."""
_SUSPECT = 3.0
_CORE_ERROR, _CORE_FACTOR = 0.05, 2.5
_ZONE_SIZE = 200
_QUANTILE, _NORMAL = 0.35, 0.4538  # a quantile of |x|, and its value for a normal distribution
_CAUCHY = 4.0
_CENTRING = 4.0 / 3.0  # units of the scale; the radius inside of which the star is centred
_ROUGHNESS = 5.0
_ASYMMETRY = 0.2
_WING_ERROR = 0.05
_REWEIGHTINGS = 2
_PROFILE_BINS, _FEWEST_IN_BIN = 60, 4


class Pixels(NamedTuple):
    """Finite pixels near the star, one-dimensional."""

    y: NDArray[np.intp]
    x: NDArray[np.intp]
    values: Doubles
    variance: Doubles
    noise: NoiseModel | None
    """Noise as a function of the signal, if the variance is not known; the variance then follows the fits."""

    def light_within(self, radius: float, centre: Doubles, level: float) -> float:
        """Return the light above a level within a radius of the centre (y, x)."""
        inside = np.hypot(self.y - centre[0], self.x - centre[1]) < radius
        return float(np.sum(self.values[inside] - level))

    def follow(self, signal: Doubles) -> "Pixels":
        """Return the pixels with the variance for this signal, if it is not known."""
        return (
            self
            if self.noise is None
            else self._replace(variance=self.noise.variance(signal).astype(np.float64))
        )


class Zones(NamedTuple):
    """Pixels by their distance from the star."""

    number: NDArray[np.intp]
    """Zone (pixel,) of each pixel; the core is zone 0."""
    core: NDArray[np.intp]
    """Pixels of the core."""
    outer: NDArray[np.intp]
    """Pixels (zone, member) of the other zones, which have equal size. The last pixels are left over."""

    def quantile(self, values: Doubles) -> Doubles:
        """Return the quantile `_QUANTILE` of the values (pixel,) in each zone."""
        core = np.quantile(values[self.core], _QUANTILE)
        if not self.outer.size:  # the core fills the frame
            return np.array([core])
        return np.append(core, np.quantile(values[self.outer], _QUANTILE, axis=1))


class Ring(NamedTuple):
    """Medians in the rings outside of the pixels that are fitted, without those that are unknown."""

    radius: Doubles
    level: Doubles
    error: Doubles


class PlaneFit(NamedTuple):
    """Fit of one plane."""

    coefficients: Doubles
    flux: float
    """Integral of the fitted functions over the core."""
    flux_error: float
    step: Doubles
    """(y, x) by which the star is away from the assumed position, in pixels."""
    step_error: Doubles
    model: Doubles
    """Fitted star (pixel,) without the background."""
    trust: Doubles
    """Factor (pixel,) of the weights: 1 for good pixels, less for deviating ones, 0 for outliers."""
    reduced_chi2: float
    covariance: Doubles
    """Of the coefficients."""


def fit_plane(
    pixels: Pixels,
    trust: Doubles,
    rings: Ring,
    basis: PolarBasis,
    *,
    centre: Doubles,
    flux: float,
    background: float,
    wing: Wing,
) -> PlaneFit:
    """Fit the functions of a basis to one plane.

    Parameters
    ----------
    pixels
        Pixels near the star.
    trust
        Factor (pixel,) of their weights, as an earlier fit found it, or ones.
    rings
        Medians of the pixels further away.
    centre, flux, background
        Assumed position (y, x) of the star, its approximate flux in the core, and the background.
    wing
        Wing of the star relative to its flux, which the fit approaches where there are no pixels.
    """
    dy, dx = pixels.y - centre[0], pixels.x - centre[1]
    radius = np.hypot(dy, dx)
    design = basis.design(dy, dx)
    values = pixels.values - background
    sigma = np.sqrt(pixels.variance + (MODEL_ERROR * np.maximum(values, 0.0)) ** 2)
    rings = rings._replace(level=rings.level - background)
    good = trust > 0.0
    prior = _prior(rings, basis, wing, flux, _profile(radius[good], values[good], flux, wing, basis))
    zones = _zones(radius, CORE * basis.scale)
    for _ in range(_REWEIGHTINGS):
        data, target = design.normal_equations(trust / sigma, values)
        scaled, unit = _unit_diagonal(data + prior[0])
        coefficients = np.linalg.solve(scaled, (target + prior[1]) * unit) * unit
        model = design.evaluate(coefficients)
        good = trust > 0.0
        trust = _trust(values - model, sigma, model, zones, pixels)
    covariance = np.linalg.inv(scaled) * unit[:, None] * unit
    step, step_error = _displacement(coefficients, design, basis, (dy, dx), trust / sigma)
    integrals = np.zeros(basis.n_columns)
    integrals[: basis.n_radial] = basis.integrals(CORE * basis.scale)
    freedom = np.count_nonzero(good) - float(np.sum(data * covariance))
    return PlaneFit(
        coefficients,
        flux=float(integrals @ coefficients),
        flux_error=float(np.sqrt(integrals @ covariance @ integrals)),
        step=step,
        step_error=step_error,
        model=model,
        trust=trust,
        reduced_chi2=float(np.sum(((values - model) / sigma)[good] ** 2)) / max(freedom, 1.0),
        covariance=covariance,
    )


def _unit_diagonal(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """Scale a positive matrix to a unit diagonal, which the fit needs; return it and the factor of each
    row."""
    unit = 1.0 / np.sqrt(np.diag(matrix))
    scaled = matrix * unit[:, None] * unit
    scaled[np.diag_indices(unit.size)] += 1e-12
    return scaled, unit


def _zones(radius: Doubles, core: float) -> Zones:
    """Divide pixels into the core and zones around it."""
    order = np.argsort(radius, kind="stable")
    n_core = max(int(np.searchsorted(radius[order], core)), 1)
    rest = order[n_core:]
    zones = max(rest.size // _ZONE_SIZE, 1) if rest.size else 0
    size = rest.size // max(zones, 1)
    number = np.zeros(radius.size, dtype=np.intp)
    number[rest] = 1 + np.minimum(np.arange(rest.size) // max(size, 1), zones - 1)
    return Zones(number, order[:n_core], rest[: zones * size].reshape(zones, size))


def _trust(residual: Doubles, sigma: Doubles, model: Doubles, zones: Zones, pixels: Pixels) -> Doubles:
    """Return the factor of the weights.

    The limits follow the scatter in the zone of the pixel, because the variance or the model may be
    inaccurate. In the core only gross deviations are outliers. Outside of it, the pixels around an outlier
    are outliers too if they deviate, as in the wing of a neighbouring star.
    """
    core = zones.number == 0
    relative = np.abs(residual / sigma)
    relative /= np.maximum(zones.quantile(relative) / _NORMAL, 1.0)[zones.number]
    gross = np.abs(residual) / np.hypot(sigma, _CORE_ERROR * model)
    outlier = np.where(core, gross, relative) > OUTLIER
    if outlier.any():
        y, x = pixels.y - pixels.y.min(), pixels.x - pixels.x.min()
        seeds, suspects = np.zeros((2, y.max() + 1, x.max() + 1), dtype=np.bool_)
        seeds[y, x], suspects[y, x] = outlier, outlier | ((relative > _SUSPECT) & ~core)
        outlier = ndimage.binary_propagation(seeds, np.ones((3, 3)), suspects)[y, x]
    limit = np.where(core, _CORE_FACTOR * _CAUCHY, _CAUCHY)
    return np.where(outlier, 0.0, 1.0 / np.sqrt(1.0 + (relative / limit) ** 2))


def _profile(
    radius: Doubles, values: Doubles, flux: float, wing: Wing, basis: PolarBasis
) -> tuple[Doubles, Doubles]:
    """Return radii and the logarithm of the profile there: medians of about equal numbers of pixels."""
    order = np.argsort(radius, kind="stable")
    bins = int(np.clip(radius.size // _FEWEST_IN_BIN, 1, _PROFILE_BINS))
    size = radius.size // bins
    members = values[order[: bins * size]].reshape(bins, size)
    level = np.median(members, axis=1)
    spread = np.median(np.abs(members - level[:, None]), axis=1) * 1.86 / np.sqrt(size)
    radii = np.append(radius[order[: bins * size]].reshape(bins, size).mean(axis=1), basis.reach)
    floor = 1e-3 * max(abs(float(level[-1])), 1e-6 * float(np.abs(level).max()))
    levels = np.append(
        np.maximum(np.maximum(level, spread), floor), max(float(wing(np.array(basis.reach))) * flux, floor)
    )
    return radii, np.log(levels)


def _prior(
    rings: Ring, basis: PolarBasis, wing: Wing, flux: float, profile: tuple[Doubles, Doubles]
) -> tuple[Doubles, Doubles]:
    """Return what rings and penalties add to the normal equations: a matrix and a right-hand side."""
    n, n_radial = basis.n_columns, basis.n_radial
    matrix, right = np.zeros((n, n)), np.zeros(n)
    radial, angular = (np.exp(np.interp(radii, *profile)) for radii in basis.spline_radii())
    third = np.diff(np.eye(n_radial), 3, axis=0) / radial / _ROUGHNESS
    matrix[:n_radial, :n_radial] = third.T @ third
    diagonal = np.arange(n_radial, n)
    matrix[diagonal, diagonal] = np.repeat((_ASYMMETRY * angular) ** -2.0, HARMONICS)
    last = float(rings.radius.max()) if rings.radius.size else float(profile[0][-2])
    beyond = np.linspace(min(last + 1.0, basis.reach), basis.reach, 20)
    expected = np.asarray(wing(beyond)) * flux
    known = float(np.median(rings.error)) if rings.radius.size else 0.0
    error = np.maximum(np.hypot(_WING_ERROR * expected, known), np.exp(profile[1][-2]) * 1e-3)
    for radii, level, sigma in ((rings.radius, rings.level, rings.error), (beyond, expected, error)):
        weighted = basis.radial(radii) / sigma[:, None]
        matrix[:n_radial, :n_radial] += weighted.T @ weighted
        right[:n_radial] += weighted.T @ (level / sigma)
    return matrix, right


def _displacement(
    coefficients: Doubles, design: Design, basis: PolarBasis, offset: tuple[Doubles, Doubles], weight: Doubles
) -> tuple[Doubles, Doubles]:
    """Return the displacement (y, x) of the star that the first harmonic describes in the core, and its
    errors."""
    dy, dx = offset
    radius = np.hypot(dy, dx)
    core = radius < _CENTRING * basis.scale
    slope = basis.slope(coefficients, radius[core]) / np.maximum(radius[core], 1e-9)
    gradient = -np.stack([slope * dy[core], slope * dx[core]], axis=1) * weight[core, None]
    first = np.zeros(coefficients.size)
    for h in range(basis.n_radial, basis.n_radial + 2):
        first[h::HARMONICS] = coefficients[h::HARMONICS]
    inverse = np.linalg.pinv(gradient.T @ gradient)
    return inverse @ (gradient.T @ (design.evaluate(first)[core] * weight[core])), np.sqrt(np.diag(inverse))
