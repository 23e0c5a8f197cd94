"""Compare each pixel with its own spectrum in a window of planes: artefacts come and go with wavelength."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

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
UNCERTAIN = 5.0
"""The model is NaN where its error exceeds this number of standard deviations of the noise."""
LEAST = 1e-300
"""Added to the pivots, for pixels without data."""
TERMS = 4
LANES = 64
"""Number of spectra, and of pixels that are processed together."""


class SpectralFit(NamedTuple):
    """The result of `spectral_outliers`, two arrays (planes, y, x) of float32."""

    model: Floats
    """The spectrum of each pixel; NaN where it is not known."""
    z: Floats
    """Data minus model in standard deviations; NaN where one of them is not known."""


def spectral_outliers(
    data: Cube, variance: Cube, excluded: Marks | None = None, *, model_error: float = 0.0
) -> SpectralFit:
    """Fit each pixel of a window of planes by a few spectra, and compare it with the fit.

    The spectra are L, L u, 1 and u, where L is the median spectrum of the bright pixels and u runs from -1 to
    1 along the window; L and 1 if there are fewer than 10 planes. The fit is robust: least squares with the
    weights 1/(1 + (z/2c)^2)^2, iterated while c falls from 30 to 3. No spectra are learned from the data,
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
        spectra, rank = _spectra(_level(light, out))
        scales = np.maximum(WIDEST * SHRINKAGE ** np.arange(STEPS), NARROWEST).astype(np.float32)
        fixed = spectra, rank, scales, np.float32(model_error**2)
        _fit_pixels(light, spread, out, *fixed, model.reshape(flat), z.reshape(flat))
    return SpectralFit(model, z)


def _level(light: Floats, out: Marks) -> NDArray[np.float64]:
    """Return the median spectrum (planes,) of the bright pixels with a mean of one, or ones without any."""
    totals = _medians(light, out)
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


def _spectra(level: NDArray[np.float64]) -> tuple[Floats, int]:
    """Return orthonormal spectra (planes, 4), zero for those that depend on others, and their number."""
    planes = level.size
    u, one = np.linspace(-1, 1, planes), np.ones(planes)
    terms = [level, one] if planes < PLANES_FOR_GRADIENTS else [level, level * u, one, u]
    columns = np.stack([t / max(float(np.sqrt((t**2).sum())), 1e-30) for t in terms], axis=1)
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    rank = int(np.count_nonzero(singular > DEPENDENT * singular[0]))
    spectra = np.zeros((planes, TERMS), np.float32)
    spectra[:, :rank] = left[:, :rank]
    return spectra, rank


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_pixels(
    light: Floats,
    spread: Floats,
    out: Marks,
    spectra: Floats,
    rank: int,
    scales: Floats,
    model_error: np.float32,
    model: Floats,
    z: Floats,
) -> None:
    """Fit all pixels, a few at a time, and write the model and the deviations."""
    planes, pixels = light.shape
    data = np.empty((planes, LANES), np.float32)
    weight = np.empty((planes, LANES), np.float32)  # inverse variance; zero: no weight
    values = np.empty((TERMS, LANES), np.float32)
    gram = np.empty((TERMS * (TERMS + 1) // 2, LANES), np.float32)
    right = np.empty((TERMS, LANES), np.float32)
    factor, x = np.empty((TERMS, TERMS, LANES)), np.empty((TERMS, LANES))
    for first in range(0, pixels, LANES):
        count = min(LANES, pixels - first)
        if not _load(light, spread, out, first, count, rank, data, weight):
            continue
        values[:] = 0
        for step in range(scales.size + 1):
            # The first step has no model, and hence no outliers.
            scale = np.float32(np.inf) if step == 0 else scales[step - 1]
            _accumulate(data, weight, spectra, values, scale, gram, right)
            if step < scales.size:
                _improve(gram, right, factor, x, values)
        _compare(light, spread, spectra, values, gram, first, count, model_error, factor, x, model, z)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _load(
    light: Floats, spread: Floats, out: Marks, first: int, count: int, rank: int, data: Floats, weight: Floats
) -> bool:
    """Copy some pixels and their weights; return whether any of them has enough data for a fit."""
    planes, some = light.shape[0], False
    # Loops compile several times faster than `data[:] = 0`.
    for p in range(LANES):
        known = 0
        for i in range(planes):
            data[i, p], weight[i, p] = 0, 0
            if p < count and not out[i, first + p]:
                value, v = light[i, first + p], spread[i, first + p]
                if np.isfinite(value) and v > 0 and np.isfinite(v):
                    data[i, p], weight[i, p] = value, 1 / v
                    known += 1
        if 2 * known > planes and known > rank:
            some = True
        else:
            for i in range(planes):
                weight[i, p] = 0
    return some


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "arcp"})
def _accumulate(
    data: Floats,
    weight: Floats,
    spectra: Floats,
    values: Floats,
    scale: np.float32,
    gram: Floats,
    right: Floats,
) -> None:
    """Sum up the normal equations for the correction of the coefficients `values`."""
    gram[:] = 0
    right[:] = 0
    outlier = np.float32(0.25) / (scale * scale)
    left, rated = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    share = np.empty(LANES, np.float32)
    # The compiler vectorises loops over few arrays only.
    for i in range(data.shape[0]):
        a, b, c, d = spectra[i, 0], spectra[i, 1], spectra[i, 2], spectra[i, 3]
        for p in range(LANES):
            r = data[i, p] - (a * values[0, p] + b * values[1, p] + c * values[2, p] + d * values[3, p])
            w = weight[i, p]
            t = np.float32(1) / (np.float32(1) + r * r * w * outlier)
            left[p], rated[p] = r, w * t * t
        row = 0
        for j in range(TERMS):
            for p in range(LANES):
                share[p] = spectra[i, j] * rated[p]
                right[j, p] += share[p] * left[p]
            for k in range(j + 1):
                for p in range(LANES):
                    gram[row, p] += spectra[i, k] * share[p]
                row += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _factor(gram: Floats, factor: Doubles) -> None:
    """Write the Cholesky factor of the matrix of each pixel, with the reciprocals of its diagonal."""
    total, trace = np.empty(LANES), np.empty(LANES)
    for p in range(LANES):
        trace[p] = gram[0, p] + gram[2, p] + gram[5, p] + gram[9, p]
    row = 0
    for j in range(TERMS):
        for k in range(j + 1):
            for p in range(LANES):
                total[p] = gram[row, p]
            for m in range(k):
                for p in range(LANES):
                    total[p] -= factor[j, m, p] * factor[k, m, p]
            for p in range(LANES):
                if j == k:
                    factor[j, j, p] = 1 / np.sqrt(max(total[p] + 1e-6 * trace[p], 1e-12 * trace[p] + LEAST))
                else:
                    factor[j, k, p] = total[p] * factor[k, k, p]
            row += 1


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _forward(factor: Doubles, j: int, x: Doubles) -> None:
    """Solve for the unknown j of each pixel, given those before, in place of the right-hand side."""
    for k in range(j):
        for p in range(LANES):
            x[j, p] -= factor[j, k, p] * x[k, p]
    for p in range(LANES):
        x[j, p] *= factor[j, j, p]


@njit(cache=True, nogil=True, error_model="numpy")
def _improve(gram: Floats, right: Floats, factor: Doubles, x: Doubles, values: Floats) -> None:
    """Solve the normal equations of each pixel, and add the corrections to the coefficients."""
    _factor(gram, factor)
    for j in range(TERMS):
        for p in range(LANES):
            x[j, p] = right[j, p]
        _forward(factor, j, x)
    for j in range(TERMS - 1, -1, -1):
        for k in range(j + 1, TERMS):
            for p in range(LANES):
                x[j, p] -= factor[k, j, p] * x[k, p]
        for p in range(LANES):
            x[j, p] *= factor[j, j, p]
            values[j, p] += np.float32(x[j, p])


@njit(cache=True, nogil=True, error_model="numpy")
def _compare(
    light: Floats,
    spread: Floats,
    spectra: Floats,
    values: Floats,
    gram: Floats,
    first: int,
    count: int,
    model_error: np.float32,
    factor: Doubles,
    x: Doubles,
    model: Floats,
    z: Floats,
) -> None:
    """Write the model and the deviations of some pixels."""
    _factor(gram, factor)
    fitted, uncertainty = np.empty(LANES), np.empty(LANES)
    for i in range(light.shape[0]):
        for p in range(LANES):
            fitted[p], uncertainty[p] = 0.0, 0.0
        for j in range(TERMS):
            for p in range(LANES):
                x[j, p] = spectra[i, j]
            _forward(factor, j, x)
            for p in range(LANES):
                fitted[p] += spectra[i, j] * values[j, p]
                uncertainty[p] += x[j, p] * x[j, p]
        for p in range(count):
            if not gram[0, p] + gram[2, p] + gram[5, p] + gram[9, p] > 0:
                continue  # the pixel has no data
            v = spread[i, first + p]
            good = v > 0 and np.isfinite(v)
            if good and uncertainty[p] > UNCERTAIN * UNCERTAIN * v:
                continue
            model[i, first + p] = fitted[p]
            if good:
                noise = v + uncertainty[p] + model_error * fitted[p] * fitted[p]
                z[i, first + p] = (light[i, first + p] - fitted[p]) / np.sqrt(noise)
