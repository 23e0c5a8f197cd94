"""The restored image of CLEAN: components under a clean beam, plus the residual (Högbom 1974)."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.resolution import FWHM
from lucidcube.kernels.fourier.convolver import Convolver

CORE = 0.35
"""Fraction of the maximum above which pixels of a PSF are its core, to which the beam is fitted."""
REACH = 4.0
"""Half the width of the beam's array in standard deviations."""

Beam = Literal["fit"] | float


def with_restored(result: Deconvolution, psf: NDArray[np.floating], restoring_beam: Beam) -> Deconvolution:
    """Return the result with the plane "restored" among its `extras`.

    The `restoring_beam` is "fit" for the Gaussian that `fit_beam` finds in the PSF, or the full width at half
    maximum, in pixels, of a round Gaussian; 0 leaves the components as they are. The beam has unit sum, so
    flux per pixel remains flux per pixel. The restored plane is NaN where the components are. Where there is
    no residual, because nothing was observed, it is the smoothed components alone.
    """
    outside = np.isnan(result.components)
    plane = np.where(outside, np.float32(0), result.components)
    if restoring_beam != 0:
        if restoring_beam == "fit":
            covariance = fit_beam(psf)
        else:
            covariance = np.eye(2) * (restoring_beam / FWHM) ** 2
        plane = Convolver(_gaussian(covariance), plane.shape).convolve(plane)
    plane = plane + np.nan_to_num(result.residual)
    plane[outside] = np.nan
    return result._replace(extras={**result.extras, "restored": plane})


def fit_beam(psf: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the covariance (2, 2) along y and x, in pixels^2, of a Gaussian fitted to the core of a PSF.

    The logarithm of the pixels above `CORE` of the maximum, connected to the brightest and at least 3 by 3,
    is fitted by a quadratic form, with weights that make this a fit to the values themselves. If the result
    is not a Gaussian, as for a PSF of one pixel, it is replaced by a round one that covers as many pixels
    above half the maximum.
    """
    peak = float(psf.max())
    brightest = int(np.argmax(psf))
    labels, _ = ndimage.label(psf > CORE * peak)
    core = labels == labels.flat[brightest]
    rows, columns = np.indices(psf.shape)
    rows -= brightest // psf.shape[1]
    columns -= brightest % psf.shape[1]
    core |= (np.abs(rows) <= 1) & (np.abs(columns) <= 1)
    core &= psf > 1e-3 * peak
    value, y, x = psf[core] / peak, 1.0 * rows[core], 1.0 * columns[core]
    terms = np.stack([np.ones_like(y), y, x, y * y, 2 * x * y, x * x], axis=1)
    found, *_ = np.linalg.lstsq(terms * value[:, None], value * np.log(value), rcond=None)
    yy, xy, xx = found[3:].tolist()
    inverse = -2 * np.array([[yy, xy], [xy, xx]])
    if value.size >= terms.shape[1] and np.linalg.eigvalsh(inverse)[0] > 0:
        covariance: NDArray[np.float64] = np.linalg.inv(inverse)
        return covariance
    half_area = np.count_nonzero(psf > peak / 2)
    return np.eye(2) * (2 * math.sqrt(half_area / math.pi) / FWHM) ** 2


def _gaussian(covariance: NDArray[np.float64]) -> Plane:
    """Return a Gaussian of unit sum in an odd, square array."""
    half = math.ceil(REACH * math.sqrt(np.linalg.eigvalsh(covariance)[-1]))
    y, x = np.indices((2 * half + 1, 2 * half + 1)) - half
    inverse = np.linalg.inv(covariance)
    beam = np.exp(-0.5 * (inverse[0, 0] * y * y + 2 * inverse[0, 1] * x * y + inverse[1, 1] * x * x))
    return (beam / beam.sum()).astype(np.float32)
