"""Resampling of a PSF to other pixels: scale, rotation and parity."""

from itertools import product

import numpy as np
from scipy import ndimage

from lucidcube.kernels.psf import Doubles, Reals

MARGIN = 2
"""Number of zeros around the PSF, so that its outermost pixels are inside whatever the rounding."""
SAMPLES = 2.0
"""Smallest number of samples, per pixel of the given PSF and axis, of the integral over a new pixel."""


def resample_psf(psf: Reals, matrix: Doubles, side: int) -> Reals:
    """Return a PSF on other pixels, about the same centre and with unit sum.

    Parameters
    ----------
    psf
        PSF (y, x) of any sides, whose centre is that of the array, also between pixels; NaN counts as zero.
    matrix
        Step (y, x) in pixels of the given PSF for a step of one new pixel along y and x, (2, 2): its columns
        are the sides of a new pixel.
    side
        Number of new pixels along each axis, odd.

    Returns
    -------
    numpy.ndarray
        (side, side) float32.

    Notes
    -----
    The given PSF holds the light that fell on its own pixels. New pixels that are larger integrate it, over a
    square such that both pixels together are as wide as a new pixel (variances of square pixels add up); new
    pixels that are not larger take the values at their centres. In between, the PSF is a cubic spline. A PSF
    of larger pixels stays as blurred as these made it. Values below zero, to which splines can swing, become
    zero if the given PSF has none.
    """
    known = np.pad(np.nan_to_num(np.asarray(psf, np.float64)), MARGIN)
    scale = float(np.sqrt(abs(np.linalg.det(matrix))))
    box = float(np.sqrt(max(0.0, 1.0 - scale**-2)))
    number = max(1, int(np.ceil(SAMPLES * box * scale)))
    steps = box * ((np.arange(number) + 0.5) / number - 0.5)
    spline = ndimage.spline_filter(known, 3)
    middle, new_middle = (np.array(shape) / 2 - 0.5 for shape in (known.shape, (side, side)))
    made, image = np.zeros((side, side)), np.empty((side, side))
    for step in product(steps, steps):
        offset = middle + matrix @ (np.array(step) - new_middle)
        ndimage.affine_transform(spline, matrix, offset, output=image, order=3, prefilter=False)
        made += image
    if known.min() >= 0.0:
        made = np.maximum(made, 0.0)
    return (made / made.sum()).astype(np.float32)
