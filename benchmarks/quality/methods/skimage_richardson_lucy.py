"""scikit-image, richardson_lucy: the best number of iterations, with or without an offset of the sky.

The algorithm needs positive data. They are clipped at zero, or three standard deviations of the noise are
added to all pixels and subtracted from the result.
"""

import numpy as np

SETTINGS = [{"num_iter": n, "offset": o} for n in (5, 10, 20, 40, 80, 160, 320, 640) for o in (0, 3)]


def deconvolve(plane, num_iter=20, offset=3):
    from skimage.restoration import richardson_lucy

    lift = offset * float(np.nanmedian(plane.sigma))
    data = np.maximum(plane.data + lift, 1e-6 * plane.data.max())
    unit = float(data.max())
    return unit * richardson_lucy(data / unit, plane.psf, num_iter=num_iter, clip=False) - lift
