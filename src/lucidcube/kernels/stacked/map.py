"""Edge-preserving MAP deconvolution of several planes at once; see `deconvolution.map`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.kernels.deconvolution.map import noise_of, norm, result_of
from lucidcube.kernels.deconvolution.map_fit import Fit
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.map_solver import solvers
from lucidcube.kernels.stacked.stacks import PlaneInput


def map_planes(planes: Sequence[PlaneInput], arrays: Arrays, **options: Any) -> list[Deconvolution]:
    """Deconvolve planes as `deconvolution.map.map_deconvolution` does, together.

    The planes have one shape, and so have their PSFs. The options are those of that function, from whose
    results these differ by rounding only.
    """
    point_penalty = options.pop("point_penalty")
    wanted = {key: options.pop(key) for key in ("robust", "n_iter", "tolerance")}
    noises = [noise_of(*given, None) for given in planes]
    results: list[Deconvolution] = []
    for stack, solver in solvers(arrays, [given.psf for given in planes], planes[0].plane.shape):
        fits = {
            row: Fit(planes[i].plane, noises[i].sigma, correlated=noises[i].correlated, **wanted)
            for row, i in enumerate(stack)
        }
        penalties = np.array([point_penalty * norm(planes[i].psf) for i in stack])
        found = solver.solve(fits, point_penalty=penalties, free_points=True, **options)
        for row, i in enumerate(stack):
            given, noise = planes[i], noises[i]
            results.append(result_of(found[row], given.plane, given.variance, noise.pixels, noise.sigma))
    return results
