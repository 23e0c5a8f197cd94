"""Search several planes for pixels that are sharper than the PSF allows; see `artefacts.psf_consistency`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.artefacts.psf_consistency import Search
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.map_solver import solvers


def search_together(
    searches: Sequence[Search],
    psf: Sequence[NDArray[np.floating]],
    shape: tuple[int, int],
    arrays: Arrays,
) -> None:
    """Do all rounds of the searches in planes of one shape (y, x), whose PSFs have one shape too."""
    for stack, solver in solvers(arrays, psf, shape):
        while True:
            wanted = ((row, searches[i].next_fit()) for row, i in enumerate(stack))
            fits = {row: fit for row, fit in wanted if fit is not None}
            if not fits:
                break
            for row, solution in solver.solve(fits).items():
                searches[stack[row]].add(solution)
