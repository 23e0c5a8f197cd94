"""What a MAP estimate of a plane is made of, for one plane at a time or for several together."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.map_solver import TOLERANCE, MapSolver, Solution


class Fit(NamedTuple):
    """A MAP estimate that is wanted. The attributes are arguments of `MapSolver.solve`."""

    data: NDArray[np.floating]
    sigma: NDArray[np.floating]
    robust: float | None
    n_iter: int
    tolerance: float = TOLERANCE
    correlated: float = 1.0
    start: Solution | None = None

    def solve_with(self, solver: MapSolver) -> Solution:
        """Return the estimate."""
        return solver.solve(**self._asdict())
