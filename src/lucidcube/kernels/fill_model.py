"""Fill pixels from a model of the object: what the PSF and the other planes of a cube allow."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.artefacts.psf_consistency import as_bright
from lucidcube.kernels.artefacts.spectral_outliers import spectral_outliers
from lucidcube.kernels.deconvolution.common import MODELLED_NOISE
from lucidcube.kernels.deconvolution.map_fit import Fit
from lucidcube.kernels.deconvolution.map_solver import Solution
from lucidcube.kernels.noise import correlated_pixels, known_variance

Planes = NDArray[np.floating]
Marks = NDArray[np.bool_]

PERSISTENT = 0.5
"""A pixel that is marked in at least this fraction of the planes cannot be predicted from the others."""
CONTINUED = 0.5
"""Fraction of the iterations for an estimate that starts from that of a neighbouring plane."""
ROBUST = 3.0
"""Standard deviations beyond which the estimate is linear in a residual; see `MapSolver.solve`."""


class Prediction(NamedTuple):
    """What is known about marked pixels of a window of planes (n, y, x) from the other planes."""

    variance: NDArray[np.float32]
    """The variance of the noise, estimated where it is not given."""
    values: NDArray[np.float32]
    """The spectral model; NaN where there is none."""
    usable: Marks
    """Marked pixels that the spectral model predicts."""


def predict(data: Planes, variance: Planes | None, marked: Marks, *, spectral: bool) -> Prediction:
    """Predict the marked pixels of a window of planes from the pixel's own spectrum in the other planes.

    The planes (n, y, x) are NaN where there are no data; the variance of their noise is estimated if it is
    None. Where `marked` (n, y, x) is true, a pixel is not to be trusted. The model is that of
    `spectral_outliers`. It is not usable where the pixel is marked in at least half of the planes, which then
    say nothing about it, and nowhere if not `spectral`.
    """
    given = [None] * len(data) if variance is None else variance
    variance = np.stack([known_variance(p, v, bad) for p, v, bad in zip(data, given, marked, strict=True)])
    if not spectral:
        return Prediction(variance, np.full(data.shape, np.nan, np.float32), np.zeros_like(marked))
    model, _ = spectral_outliers(data, variance, marked)
    planes = np.isfinite(data).any(axis=(1, 2))
    persistent = marked[planes].mean(axis=0) >= PERSISTENT if planes.any() else marked[0]
    return Prediction(variance, model, marked & np.isfinite(model) & ~persistent)


def fit_of_good_pixels(
    plane: Planes,
    sigma: Planes,
    bad: Marks,
    predicted: Planes,
    usable: Marks,
    *,
    n_iter: int,
    start: Solution | None = None,
) -> Fit:
    """Return the estimate of the object that best explains the good pixels of a plane.

    Its model has values for the other pixels. It is the edge-preserving MAP estimate in at most `n_iter`
    iterations; see `lucidcube.kernels.deconvolution.map_solver`.

    `plane` and `sigma` (y, x) are the values and the standard deviation of their noise; `bad` is true where a
    pixel is marked or missing. Where `usable`, the values `predicted` from the other planes take part in the
    estimate as data with `MODELLED_NOISE` times the noise.

    `start` is the object of a neighbouring plane, of any brightness. Because it is nearly the same, the
    fraction `CONTINUED` of the iterations suffices.
    """
    start = None if start is None else as_bright(start, plane, bad)
    return Fit(
        np.where(usable, predicted, np.where(bad, np.nan, plane)),
        np.where(usable, MODELLED_NOISE * sigma, sigma),
        robust=ROBUST,
        n_iter=n_iter if start is None else max(1, round(CONTINUED * n_iter)),
        correlated=correlated_pixels(plane, np.square(sigma), bad),
        start=start,
    )
