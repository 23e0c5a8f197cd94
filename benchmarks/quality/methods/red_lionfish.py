"""RedLionfish, Richardson-Lucy on the CPU: the best number of iterations, with or without an offset."""

import numpy as np

SETTINGS = [{"niter": n, "offset": o} for n in (10, 20, 40, 80) for o in (0, 3)]


def deconvolve(plane, niter=20, offset=3):
    import RedLionfishDeconv

    lift = offset * float(np.nanmedian(plane.sigma))
    data = np.maximum(plane.data + lift, 1e-6 * plane.data.max())
    made = RedLionfishDeconv.doRLDeconvolutionFromNpArrays(
        data[None], plane.psf[None], niter=niter, method="cpu", useBlockAlgorithm=False
    )
    ny, nx = plane.data.shape
    return np.asarray(made)[0, :ny, :nx] - lift
