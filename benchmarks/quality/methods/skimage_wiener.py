"""scikit-image, wiener: the best balance, in units of the variance of the noise over that of the data.

The filter of this function has a Laplacian as prior. Planes are padded by zeros, because it is periodic.
"""

import numpy as np

SETTINGS = [{"balance": b} for b in (0.01, 0.1, 1, 10, 100, 1e3, 1e4)]


def deconvolve(plane, balance=10.0):
    from skimage.restoration import wiener

    half = plane.psf.shape[0] // 2
    noise = float(np.nanmedian(plane.sigma)) ** 2 / float(np.var(plane.data))
    wide = np.pad(plane.data, half)
    made = wiener(wide / wide.max(), plane.psf, balance * noise, clip=False) * wide.max()
    return made[half:-half, half:-half]
