"""Fill pixels from a model of the object: what the PSF and the other planes of a cube allow."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.artefacts.spectral_outliers import spectral_outliers
from lucidcube.kernels.deconvolution.map import MODELLED_NOISE, MapSolver
from lucidcube.kernels.noise import estimate_variance

Planes = NDArray[np.floating]
Marks = NDArray[np.bool_]

PERSISTENT = 0.5
"""A pixel that is marked in at least this fraction of the planes cannot be predicted from the others."""
MU, POINT_PENALTY, DELTA, ROBUST, TOLERANCE = 0.1, 0.05, 1.0, 3.0, 1e-7
"""Parameters of the estimate; see `lucidcube.kernels.deconvolution.map_solver.MapSolver.solve`."""


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

    Parameters
    ----------
    data, variance
        (n, y, x) planes, NaN where there are no data, and the variance of their noise.
    marked
        (n, y, x), true where a pixel is not to be trusted.
    spectral
        Whether to make predictions; if not, none is usable.

    Returns
    -------
    Prediction
        See `spectral_outliers` for the model. It is not used where the pixel is marked in at least half of
        the planes, which then say nothing about it.
    """
    if variance is None:
        estimates = [estimate_variance(plane, bad) for plane, bad in zip(data, marked, strict=True)]
        variance = np.stack(estimates)
    if not spectral:
        return Prediction(variance, np.full(data.shape, np.nan, np.float32), np.zeros_like(marked))
    model, _ = spectral_outliers(data, variance, marked)
    planes = np.isfinite(data).any(axis=(1, 2))
    persistent = marked[planes].mean(axis=0) >= PERSISTENT if planes.any() else marked[0]
    return Prediction(variance, model, marked & np.isfinite(model) & ~persistent)


def fill_model(
    plane: Planes,
    sigma: Planes,
    psf: Planes,
    bad: Marks,
    predicted: Planes,
    usable: Marks,
    *,
    n_iter: int,
) -> NDArray[np.float32]:
    """Return a plane whose bad pixels have the values that the object, convolved with the PSF, has there.

    The object is the edge-preserving MAP estimate from the good pixels, see
    `lucidcube.kernels.deconvolution.map`. Predicted values take part in the estimate as data with
    `MODELLED_NOISE` times the noise. Good pixels keep their values.

    Parameters
    ----------
    plane, sigma
        (y, x) values, and the standard deviation of their noise.
    psf
        Odd, centred, finite, of unit sum.
    bad
        True where the pixel is marked or missing.
    predicted, usable
        Values from the other planes, and where they are usable.
    n_iter
        Maximum number of iterations.
    """
    data = np.where(usable, predicted, np.where(bad, np.nan, plane))
    noise = np.where(usable, MODELLED_NOISE * sigma, sigma)
    solution = MapSolver(psf, plane.shape).solve(
        data,
        noise,
        mu=MU,
        point_penalty=POINT_PENALTY,
        delta=DELTA,
        robust=ROBUST,
        n_iter=n_iter,
        tolerance=TOLERANCE,
    )
    return np.where(bad, solution.model, plane).astype(np.float32)
