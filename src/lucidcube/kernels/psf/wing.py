"""Far wing of a star and the background under it, from medians in rings."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from lucidcube.kernels.psf import Doubles, Reals
from lucidcube.kernels.psf.background import median, robust_sigma

RING_WIDTH = 1.0
"""Width of the rings outside of the pixels that are fitted, in units of the scale."""
_FIRST_RING, _N_RINGS = 0.45, 12
_FEWEST_PIXELS, _FEWEST_RINGS = 8, 4
_MEDIAN_ERROR = 1.2533  # error of a median in units of that of the mean, for normal noise
_MODEL_ERROR = 3e-3  # relative
_ROUNDS = 3
_CAUCHY = 3.0  # standard deviations
_LOWEST_QUANTILE = 0.02
_SLOPES = (1.2, 4.5)
_USUAL_SLOPE, _SLOPE_SCATTER = 2.2, 0.7
_CORE_RANGE = 2.5
_STEP = 1e-4


class Rings(NamedTuple):
    """Medians in rings about the star, the same rings for all planes: (plane, ring) arrays, NaN if too few
    pixels."""

    radius: Doubles
    level: Doubles
    error: Doubles
    lowest: Doubles
    """(plane,) low quantile of the pixels in all rings: no background is below it."""


class Wing(NamedTuple):
    """Fraction of the star's flux per pixel in the wing: ``amplitude * (1 + (r / core)**2)**-slope``."""

    amplitude: float
    core: float
    slope: float

    def __call__(self, radius: Doubles) -> Doubles:
        """Return the fraction at these radii in pixels."""
        return np.asarray(self.amplitude * _shape(radius, self.core, self.slope))


def ring_edges(extent: float, fit_reach: float, scale: float) -> Doubles:
    """Return the radii that separate the rings, which begin nearer to the star in a small frame.

    `extent` is the largest distance of a pixel from the star, `fit_reach` the radius of the pixels that are
    fitted, and `scale` that of the star, all in pixels.
    """
    first = min(fit_reach, _FIRST_RING * extent)
    width = float(np.clip((extent - first) / _N_RINGS, 1.0, RING_WIDTH * scale))
    return np.asarray(first + width * np.arange(int((extent - first) / width) + 2))


def ring_medians(
    values: Reals, radius: Reals, edges: Doubles, floor: float
) -> tuple[Doubles, Doubles, Doubles, float]:
    """Return mean radius, median and error of the median in each ring, and the low quantile of all rings.

    `values` and `radius` are finite and one-dimensional. The error is at least 0.3 % of the median, and
    `floor` > 0. Rings with fewer than 8 pixels are NaN.
    """
    ring = np.digitize(radius, edges) - 1
    order = np.argsort(ring.astype(np.int16), kind="stable")
    bounds = np.searchsorted(ring[order], np.arange(edges.size))
    table = np.full((3, edges.size - 1), np.nan)
    for k, (a, b) in enumerate(pairwise(bounds)):
        if b - a >= _FEWEST_PIXELS:
            members = values[order[a:b]]
            level, spread = median(members), robust_sigma(members) * _MEDIAN_ERROR / np.sqrt(b - a)
            table[:, k] = radius[order[a:b]].mean(), level, max(np.hypot(spread, _MODEL_ERROR * level), floor)
    outside = values[order[bounds[0] : bounds[-1]]]
    lowest = float(np.quantile(outside, _LOWEST_QUANTILE)) if outside.size else float("nan")
    return table[0], table[1], table[2], lowest


def fit_wing(rings: Rings, flux: Doubles, core: float) -> tuple[Wing, Doubles, Doubles]:
    """Fit the wing, of the same shape in all planes, and the background of each plane to the rings.

    Parameters
    ----------
    rings
        Planes without any ring get the background 0 of unknown error.
    flux
        Flux (plane,) of the star, > 0.
    core
        Start value for the core radius of the wing in pixels.

    Returns
    -------
    wing, background, error
        The background is not far below the low quantile of the pixels in the rings. Without enough rings, the
        wing is 0 and the background the mean of the rings.
    """
    known = np.isfinite(rings.level)
    weight = np.where(known, np.where(known, rings.error, 1.0) ** -2.0, 0.0)
    level, radius = np.where(known, rings.level, 0.0), np.where(known, rings.radius, 1.0)
    wing, parameters, robust = Wing(0.0, core, _USUAL_SLOPE), np.array([np.log(core), _USUAL_SLOPE]), weight
    lower, upper = [np.log(core / _CORE_RANGE), _SLOPES[0]], [np.log(core * _CORE_RANGE), _SLOPES[1]]
    enough = int(known.any(axis=0).sum()) >= _FEWEST_RINGS
    scatter = np.zeros(flux.size)
    for _ in range(_ROUNDS if enough else 0):

        def fit(trial: Doubles, robust: Doubles = robust) -> tuple[float, Doubles, Doubles]:
            return _linear(level, robust, flux[:, None] * _shape(radius, np.exp(trial[0]), trial[1]))

        def residual(trial: Doubles, robust: Doubles = robust) -> Doubles:
            data = (fit(trial, robust)[2] * np.sqrt(robust)).ravel()
            return np.append(data, (trial[1] - _USUAL_SLOPE) / _SLOPE_SCATTER)

        found = least_squares(residual, parameters, bounds=(lower, upper), max_nfev=30)
        parameters = found.x
        amplitude, constant, left = fit(parameters)
        wing = Wing(amplitude, float(np.exp(parameters[0])), float(parameters[1]))
        steps = [fit(parameters + step)[1] - constant for step in _STEP * np.eye(2)]
        gradient = np.array(steps) / _STEP
        inverse = np.linalg.inv(found.jac.T @ found.jac + np.eye(2))
        scatter = np.einsum("ap,ab,bp->p", gradient, inverse, gradient)
        robust = weight / (1.0 + left**2 * weight / _CAUCHY**2)
    total = robust.sum(axis=1)
    counted = np.where(total > 0.0, total, 1.0)
    background = (robust * (level - flux[:, None] * wing(radius))).sum(axis=1) / counted
    lowest = 2.0 * rings.lowest - np.max(level, axis=1, initial=-np.inf, where=known)
    background = np.fmax(background, np.where(total > 0.0, lowest, np.nan))
    return wing, background, np.where(total > 0.0, np.sqrt(1.0 / counted + scatter), np.nan)


def _shape(radius: Doubles, core: float, slope: float) -> Doubles:
    return np.asarray((1.0 + (radius / core) ** 2) ** -slope)


def _linear(level: Doubles, weight: Doubles, shape: Doubles) -> tuple[float, Doubles, Doubles]:
    """Return the amplitude >= 0 of the shape, the constant of each plane, and the residual."""
    total = weight.sum(axis=1, keepdims=True)
    total = np.where(total > 0.0, total, 1.0)
    mean = (weight * level).sum(axis=1, keepdims=True) / total
    centre = (weight * shape).sum(axis=1, keepdims=True) / total
    varying = shape - centre
    norm = float((weight * varying**2).sum())
    amplitude = max(float((weight * varying * (level - mean)).sum()) / norm, 0.0) if norm > 0.0 else 0.0
    constant = mean - amplitude * centre
    return amplitude, constant[:, 0], level - amplitude * shape - constant
