"""RedLionfish, Richardson-Lucy on the CPU: the best number of iterations, with or without an offset.

It deconvolves volumes, and does not centre the PSF of a volume with a single plane. So the plane is given
twice, with an even number of pixels; the time is that of both.
"""

import numpy as np

SETTINGS = [{"niter": n, "offset": o} for n in (10, 20, 40, 80, 160, 320, 640) for o in (0, 3)]


def deconvolve(plane, niter=20, offset=3):
    import RedLionfishDeconv

    lift = offset * float(np.nanmedian(plane.sigma))
    data = np.maximum(plane.data + lift, 1e-6 * plane.data.max())
    (ny, nx), half = data.shape, plane.psf.shape[0] // 2
    even = ny + ny % 2, nx + nx % 2
    volume, psf = np.full((2, *even), lift, np.float32), np.zeros((2, *even), np.float32)
    volume[:, :ny, :nx] = data
    reach = min(half, (min(even) - 1) // 2)
    y, x = (slice(n // 2 - reach, n // 2 + reach + 1) for n in even)
    inside = slice(half - reach, half + reach + 1)
    psf[1, y, x] = plane.psf[inside, inside]
    made = RedLionfishDeconv.doRLDeconvolutionFromNpArrays(
        volume, psf, niter=niter, method="cpu", useBlockAlgorithm=False
    )
    return np.asarray(made)[0, :ny, :nx] - lift
