"""Compare each pixel with its own spectrum in a window of planes: artefacts come and go with wavelength."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.artefacts.spectral_fit import TERMS, fit_pixels

Cube = NDArray[np.floating]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Marks = NDArray[np.bool_]

FEWEST_PLANES = 3
"""A window of fewer planes is not tested."""
PLANES_FOR_GRADIENTS = 10
"""From this number of planes on, the spectra of a pixel may change linearly along the window."""
STEPS = 18
"""Steps of the reweighting."""
WIDEST, SHRINKAGE, NARROWEST = 30.0, 0.8, 3.0
"""The scale of the weights in standard deviations: at the first step, the factor per step, and at the end."""
BRIGHT = 0.3
"""A pixel is bright if its median exceeds this fraction of that of the brightest percent."""
DEPENDENT = 1e-3
"""Directions whose singular value is below this fraction of the largest one are left out of the spectra."""
MODEL_ERROR = 0.01
"""Error of the model as a fraction of it: objects are not exactly what four spectra can describe."""


class SpectralFit(NamedTuple):
    """The result of `spectral_outliers`, two arrays (planes, y, x) of float32."""

    model: Floats
    """The spectrum of each pixel; NaN where it is not known."""
    z: Floats
    """Data minus model in standard deviations; NaN where one of them is not known."""


def spectral_outliers(
    data: Cube, variance: Cube, excluded: Marks | None = None, *, model_error: float = MODEL_ERROR
) -> SpectralFit:
    """Fit each pixel of a window of planes by a few spectra, and compare it with the fit.

    The spectra are L, L u, 1 and u, where L is the median spectrum of the bright pixels and u runs from -1 to
    1 along the window; L and 1 if there are fewer than 10 planes. The fit is robust: least squares with the
    weights 1/(1 + (z/2c)^2)^2, iterated while c falls from 30 to 3. What changes linearly along the window
    has a Gaussian prior around zero, see `spectral_fit.PRIOR_NOISE`, because a ghost that moves slowly would
    be taken for such a change; the data of the object overrule it. No spectra are learned from the data,
    because those would contain the artefacts.

    Arrays are (planes, y, x). Pixels that are NaN, or whose variance is NaN or not positive, have no weight;
    where `excluded` is true, a pixel has no weight in the fit, but is compared with it. `model_error` is the
    standard deviation of the model as a fraction of it. The uncertainty of the fit is added to the noise, so
    that planes to which a fit is extrapolated do not look like outliers. Pixels with data in no more than
    half of the planes, and windows of fewer than 3 planes, have no fit.
    """
    shape = data.shape
    model, z = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    if shape[0] >= FEWEST_PLANES:
        flat = (shape[0], shape[1] * shape[2])
        light = np.ascontiguousarray(data, np.float32).reshape(flat)
        spread = np.ascontiguousarray(variance, np.float32).reshape(flat)
        out = np.zeros(flat, np.bool_) if excluded is None else np.ascontiguousarray(excluded).reshape(flat)
        medians = _medians(light, out)
        spectra, rank, gradient = _spectra(_level(light, out, medians))
        scales = np.maximum(WIDEST * SHRINKAGE ** np.arange(STEPS), NARROWEST).astype(np.float32)
        fixed = spectra, rank, scales, np.float32(model_error**2), gradient, medians
        fit_pixels(light, spread, out, *fixed, model.reshape(flat), z.reshape(flat))
    return SpectralFit(model, z)


def _level(light: Floats, out: Marks, totals: Floats) -> NDArray[np.float64]:
    """Return the median spectrum (planes,) of the bright pixels with a mean of one, or ones without any.

    `totals` are the medians of the pixels over the planes.
    """
    known = totals[np.isfinite(totals)]
    planes = light.shape[0]
    if known.size == 0 or (top := float(np.percentile(known, 99))) <= 0:
        return np.ones(planes)
    bright = totals > BRIGHT * top
    level = np.array([_median(light[i, bright & ~out[i]]) for i in range(planes)])
    known = np.isfinite(level)
    level = (
        np.interp(np.arange(planes), np.flatnonzero(known), level[known]) if known.any() else np.ones(planes)
    )
    mean = float(level.mean())
    return level / mean if mean > 0 else np.ones(planes)


def _median(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else np.nan


def _medians(light: Floats, out: Marks) -> Floats:
    """Return the median of the data of each pixel over the planes; NaN where half of them are missing."""
    known = np.isfinite(light) & ~out
    count = np.count_nonzero(known, axis=0)
    ordered = np.ascontiguousarray(np.where(known, light, np.float32(np.inf)).T)
    ordered.sort(axis=1)  # missing data come last
    pixels = np.arange(count.size)
    middle = (ordered[pixels, (count - 1) // 2] + ordered[pixels, count // 2 % len(light)]) / np.float32(2)
    return np.where(2 * count > len(light), middle, np.float32(np.nan))


def _spectra(level: NDArray[np.float64]) -> tuple[Floats, int, Floats]:
    """Return orthonormal spectra (planes, 4), zero if they depend on others, their number, and a matrix.

    It is G, with which x G x is the mean square of what changes linearly, x being the coefficients.
    """
    planes = level.size
    u, one = np.linspace(-1, 1, planes), np.ones(planes)
    terms = [level, one] if planes < PLANES_FOR_GRADIENTS else [level, level * u, one, u]
    columns = np.stack([t / max(float(np.sqrt((t**2).sum())), 1e-30) for t in terms], axis=1)
    left, singular, right = np.linalg.svd(columns, full_matrices=False)
    rank = int(np.count_nonzero(singular > DEPENDENT * singular[0]))
    spectra = np.zeros((planes, TERMS), np.float32)
    spectra[:, :rank] = left[:, :rank]
    gradient = np.zeros((TERMS, TERMS), np.float32)
    linear = [1, 3][: len(terms) - 2]
    part = columns[:, linear] @ (right[:rank].T / singular[:rank])[linear]
    gradient[:rank, :rank] = part.T @ part / planes
    return spectra, rank, gradient
