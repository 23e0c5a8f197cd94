"""The compiled fit of spectra to many pixels, which `spectral_outliers` prepares."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Marks = NDArray[np.bool_]

UNCERTAIN = 5.0
"""The model is NaN where its error exceeds this number of standard deviations of the noise."""
LEAST = 1e-300
"""Added to the pivots, for pixels without data."""
PRIOR_NOISE, PRIOR_SHARE = 0.5, 0.003
"""The linear change of a spectrum along the window is expected to have a root mean square of this many
standard deviations of the noise, and of this fraction of the light of the pixel, added in quadrature."""
TERMS = 4
LANES = 64
"""Number of spectra, and of pixels that are processed together."""


@njit(cache=True, nogil=True, error_model="numpy")
def fit_pixels(
    light: Floats,
    spread: Floats,
    out: Marks,
    spectra: Floats,
    rank: int,
    scales: Floats,
    model_error: np.float32,
    gradient: Floats,
    medians: Floats,
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
    prior = np.empty(LANES, np.float32)  # inverse variance of the linear change
    factor, x = np.empty((TERMS, TERMS, LANES)), np.empty((TERMS, LANES))
    for first in range(0, pixels, LANES):
        count = min(LANES, pixels - first)
        if not _load(light, spread, out, first, count, rank, data, weight):
            continue
        values[:] = 0
        _expect(weight, medians, first, count, prior)
        for step in range(scales.size + 1):
            # The first step has no model, and hence no outliers.
            scale = np.float32(np.inf) if step == 0 else scales[step - 1]
            _accumulate(data, weight, spectra, values, scale, gram, right)
            _add_prior(prior, gradient, values, gram, right)
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


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _expect(weight: Floats, medians: Floats, first: int, count: int, prior: Floats) -> None:
    """Write the inverse variances of the linear changes that are expected of some pixels."""
    for p in range(LANES):
        total, known = np.float32(0), 0
        for i in range(weight.shape[0]):
            if weight[i, p] > 0:
                total += 1 / weight[i, p]
                known += 1
        prior[p] = 0
        if p < count and known:
            share = np.float32(PRIOR_SHARE) * medians[first + p]
            expected = np.float32(PRIOR_NOISE**2) * total / np.float32(known) + share * share
            if expected > 0:  # it is NaN where most data are missing
                prior[p] = 1 / expected


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _add_prior(prior: Floats, gradient: Floats, values: Floats, gram: Floats, right: Floats) -> None:
    """Add the prior of the linear changes to the normal equations."""
    row = 0
    for j in range(TERMS):
        for k in range(TERMS):
            for p in range(LANES):
                right[j, p] -= gradient[j, k] * prior[p] * values[k, p]
        for k in range(j + 1):
            for p in range(LANES):
                gram[row, p] += gradient[j, k] * prior[p]
            row += 1


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
