"""Where the MAP iteration starts, how its variables are scaled, and where its penalties are relieved."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.fourier.convolver import Convolver, trim_psf

STEPS = 20
"""Number of multiplicative steps; with fewer, bright stars need more iterations."""
FLOOR = 0.05
"""Least light of the first image, as a fraction of the mean."""
LARGEST_MOMENTUM = 0.95
LEAST_RATIO = 0.1
"""Least ratio of an extrapolated image to that before."""
OPENING = 3
"""Side, in pixels, of the square by which the image is opened: what is narrower becomes points."""
NOISIER = 5.0
"""Where the noise exceeds its median by this factor, the penalties fall with its inverse."""
USUAL_PENALTY = 0.05
"""Weight of the points up to which that is so."""
POINT_SCALE = 1.5
"""Unit of the points; 150 iterations come twice as close to the minimum as with 1, on fields with stars."""
LARGEST_SCALE = 100.0
HALF = 0.5
"""Part of what a point reaches that must be known, so that the noise there is."""


def first_parts(convolver: Convolver, data: Plane, weight: Plane) -> Plane:
    """Return an estimate of b and p, from which few iterations lead to the minimum.

    An image is found by the image space reconstruction algorithm, which minimises the weighted squares of
    the residuals by factors that keep it positive (Daube-Witherspoon & Muehllehner 1986, IEEE Trans. Med.
    Imaging 5, 61), accelerated as by Biggs & Andrews (1997, ApOpt 36, 1766). What a morphological opening
    removes from it is taken for points.

    Data and weights (grid y, padded_width) are zero beyond the frame and where there are no data; the weight
    is one over the standard deviation. The result is (2, grid y, padded_width), zero if no data are positive.
    """
    squares, width = np.square(weight), convolver.shape[1]
    positive = np.maximum(data, 0)
    wanted = np.maximum(convolver.correlate_padded(squares * positive), 0)
    if not wanted[:, :width].any():
        return np.zeros((2, *data.shape), np.float32)
    level = np.float32(FLOOR * float(positive[weight > 0].mean(dtype=np.float64)))
    image = np.maximum(positive, level)
    image[:, width:] = 0
    before, changes = image, [np.zeros_like(image)] * 2
    for _ in range(STEPS):
        start = np.maximum(image + _momentum(*changes) * (image - before), np.float32(LEAST_RATIO) * image)
        reached = convolver.correlate_padded(squares * convolver.convolve_padded(start))
        np.maximum(reached, np.float32(1e-6) * reached[:, :width].max(), out=reached)
        before, image = image, start * (wanted / reached)
        image[:, width:] = 0
        changes = [image - start, changes[0]]
    smooth = image.copy()
    smooth[:, :width] = ndimage.grey_opening(image[:, :width], OPENING)
    return np.stack([smooth, image - smooth])


def _momentum(latest: Plane, before: Plane) -> np.float32:
    """Return the factor by which the last step is repeated."""
    square = float(np.vdot(before, before))
    along = float(np.vdot(latest, before)) / square if square > 0 else 0.0
    return np.float32(min(max(along, 0.0), LARGEST_MOMENTUM)) if math.isfinite(along) else np.float32(0)


def point_units(
    convolver: Convolver, psf: NDArray[np.floating], weight: Plane, point_penalty: float
) -> tuple[Plane, Plane]:
    """Return the unit of the points at each pixel, and the factor of the penalties.

    The curvature of the data term along a point is the sum of the squared weights that it reaches, times the
    PSF squared. In units of one over its root, it is the same everywhere (diagonal preconditioning). From
    the same sum follows the noise under a point. Where it is more than `NOISIER` times the median noise, in
    units of which the penalties are, these fall with its inverse; with a `point_penalty` above
    `USUAL_PENALTY` less noise suffices. Otherwise the centre of a bright star, whose noise is that of its
    own light, would cost more as a point than as an outlier of the robust data term. There are no such
    places where the noise varies less, and none in holes.

    `weight` is (grid y, padded_width), the median noise over that of the pixel, as are both results.
    """
    width = convolver.shape[1]
    noisier = NOISIER * min(1.0, USUAL_PENALTY / point_penalty) if point_penalty > 0 else NOISIER
    squared = Convolver(np.square(trim_psf(psf, convolver.shape)), convolver.shape)
    inside = weight[:, :width]
    reached = np.maximum(squared.correlate(np.square(inside)), 0)
    known = squared.correlate((inside > 0).astype(np.float32))
    whole = float(np.sum(np.square(psf, dtype=np.float64)))
    curvature = reached / np.float32(whole)
    unit = np.float32(POINT_SCALE) / np.clip(np.sqrt(curvature), 1 / LARGEST_SCALE, None)
    seen = known > HALF * whole
    local = np.sqrt(np.divide(reached, known, out=np.ones_like(reached), where=seen))
    relief = np.minimum(np.float32(1), np.float32(noisier) * local)
    units, factors = convolver.pad(unit), convolver.pad(relief)
    units[:, width:] = 1
    return units, factors
