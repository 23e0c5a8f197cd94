"""MAP estimates of several planes at once; see `deconvolution.map_solver`."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.lbfgs import Minimum
from lucidcube.kernels.deconvolution.map import norm
from lucidcube.kernels.deconvolution.map_fit import Fit
from lucidcube.kernels.deconvolution.map_points import kinds_of_points
from lucidcube.kernels.deconvolution.map_solver import (
    DELTA,
    FIRST_ITERATIONS,
    FREED,
    MARGIN,
    MU,
    POINT_PENALTY,
    Scaled,
    Solution,
    minimise_and_free,
    nothing,
    solution_of,
)
from lucidcube.kernels.stacked.arrays import MOST_COPIES, Arrays
from lucidcube.kernels.stacked.convolver import StackConvolver
from lucidcube.kernels.stacked.edge_preserving import Objectives
from lucidcube.kernels.stacked.lbfgs import Minimisation
from lucidcube.kernels.stacked.map_start import first_parts, point_units
from lucidcube.kernels.stacked.stacks import Numbers, Rows, column, in_stacks


class PlanesSolver:
    """Solves the deconvolution of planes of one shape, each by its own PSF, together and repeatedly.

    Parameters
    ----------
    arrays
        The array library.
    psf
        PSFs (y, x) of one shape, as for `deconvolution.map_solver.MapSolver`.
    shape
        Shape (y, x) of the planes.
    """

    def __init__(self, arrays: Arrays, psf: Sequence[NDArray[np.floating]], shape: tuple[int, int]) -> None:
        self.shape, self.grid = shape, grid_of(shape)
        self._arrays, self._psf = arrays, np.stack(psf).astype(np.float32)
        self._norms = np.array([norm(one) for one in psf])
        with arrays.in_use():
            self._convolver = StackConvolver(arrays, self._psf, self.grid)

    def solve(
        self,
        fits: Mapping[int, Fit],
        *,
        mu: float = MU,
        point_penalty: Numbers | float = POINT_PENALTY,
        delta: float = DELTA,
        free_points: bool = False,
        chi2_target: float | None = None,
    ) -> dict[int, Solution]:
        """Return the estimates for some of the planes, by their number among the PSFs.

        The options are as for `MapSolver.solve`, and the penalty may be an array (plane,) of all planes.
        """
        scaled = {i: Scaled.of(fit.data, fit.sigma, fit.correlated) for i, fit in fits.items()}
        made = {i: nothing(self.shape, self.grid) for i, one in scaled.items() if one is None}
        known = {i: one for i, one in scaled.items() if one is not None}
        if known:
            rows = np.array(list(known))
            penalties = np.broadcast_to(point_penalty, len(self._psf))[rows]
            with self._arrays.in_use():
                planes = _Planes(
                    self._arrays,
                    self._convolver.part(rows),
                    self._psf[rows],
                    [fits[i] for i in known],
                    list(known.values()),
                    penalties,
                    {"mu": mu, "delta": delta},
                    chi2_target,
                )
                made |= zip(known, planes.solve(self._norms[rows] if free_points else None), strict=True)
        return made


def solvers(
    arrays: Arrays, psf: Sequence[NDArray[np.floating]], shape: tuple[int, int]
) -> Iterator[tuple[Sequence[int], PlanesSolver]]:
    """Yield the solvers of stacks of planes that fit into the memory, with the numbers of the planes."""
    grid = grid_of(shape)
    with arrays.in_use():
        most = arrays.stack_size(MOST_COPIES * 4 * grid[0] * grid[1])
    for stack in in_stacks(range(len(psf)), most):
        yield stack, PlanesSolver(arrays, [psf[i] for i in stack], shape)


def solve_planes(
    fits: Sequence[Fit],
    psf: Sequence[NDArray[np.floating]],
    shape: tuple[int, int],
    arrays: Arrays,
) -> list[Solution]:
    """Return the estimates for planes of one shape (y, x), whose PSFs have one shape too."""
    solutions: list[Solution] = []
    for stack, solver in solvers(arrays, psf, shape):
        found = solver.solve({row: fits[i] for row, i in enumerate(stack)})
        solutions += (found[row] for row in range(len(stack)))
    return solutions


def grid_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the shape (y, x) of a plane with its margin."""
    return shape[0] + 2 * MARGIN, shape[1] + 2 * MARGIN


class _Planes:
    """Planes in units of their noise, of which all have pixels with weight, that are solved once."""

    def __init__(
        self,
        arrays: Arrays,
        convolver: StackConvolver,
        psf: NDArray[np.float32],
        fits: Sequence[Fit],
        scaled: Sequence[Scaled],
        penalty: Numbers,
        terms: dict[str, float],
        chi2_target: float | None,
    ) -> None:
        self._arrays, self._convolver, self._fits, self._scaled = arrays, convolver, fits, scaled
        self._penalty, self._terms, self._target = penalty, terms, chi2_target
        self._data, self._weight = (
            arrays.put(np.stack([_on_grid(getattr(one, name)) for one in scaled]))
            for name in ("values", "weight")
        )
        self._correlated = np.array([fit.correlated for fit in fits])
        # The penalties are in units of the noise, which `correlated` does not change.
        white = self._weight * column(arrays, np.sqrt(self._correlated))
        self._unit, relief = point_units(arrays, psf, white, penalty)
        self._relief, self._groups = (relief, relief), None
        self._height = self._data.shape[1]

    def solve(self, norms: Numbers | None) -> list[Solution]:
        """Return the solutions; points are freed if the norms (plane,) of the PSFs are given."""
        # b and p / `unit`, one below the other.
        self._variables = self._start()
        n_iter = [fit.n_iter for fit in self._fits]
        if norms is None:
            return self._solutions(self._minimise(range(len(n_iter)), n_iter))
        first = [FIRST_ITERATIONS if fit.start is None else 0 for fit in self._fits]

        def free(rows: Sequence[int]) -> None:
            self._free_points(rows, norms)

        return self._solutions(minimise_and_free(self._minimise, free, first, n_iter))

    def _start(self) -> NDArray[np.float32]:
        """Return the variables from which to start."""
        xp, starts = self._arrays.xp, [fit.start for fit in self._fits]
        smooth, points = xp.zeros_like(self._data), xp.zeros_like(self._data)
        if None in starts and self._target is None:
            smooth, points = first_parts(self._arrays, self._convolver, self._data, self._weight)
        elif None in starts:
            smooth = xp.clip(self._data, min=0)
        parts = [self._arrays.get(part).copy() for part in (smooth, points)]
        for row, (start, one) in enumerate(zip(starts, self._scaled, strict=True)):
            if start is not None:
                parts[0][row], parts[1][row] = start.parts / np.float32(one.unit)
        parts[1] /= self._arrays.get(self._unit)
        return np.concatenate(parts, axis=1)

    def _minimise(self, planes: Sequence[int], n_iter: Sequence[int]) -> list[Minimum]:
        """Minimise the objectives of some planes from the variables, which are replaced."""
        rows = np.array(planes)
        scaled, fits = [self._scaled[i] for i in planes], [self._fits[i] for i in planes]
        limits = None
        if self._target is not None:
            limits = self._target * np.array([one.counted for one in scaled]) / self._correlated[rows]
        objectives = self._objectives(rows, limits)
        minima = Minimisation(
            self._arrays,
            objectives.evaluate,
            self._arrays.put(self._variables[rows]),
            first_step=np.array([one.first_step(**self._terms) for one in scaled]),
            n_iter=np.array(n_iter),
            tolerance=np.array([fit.tolerance for fit in fits]),
            stop=objectives.reached,
            keep=objectives.keep,
        ).run()
        for row, minimum in zip(planes, minima, strict=True):
            self._variables[row] = minimum.variables
        return minima

    def _objectives(self, rows: Rows, limits: Numbers | None) -> Objectives:
        """Return the objectives of some planes."""
        index = self._arrays.put(rows)
        data, weight, unit, smooth, points = (
            self._arrays.xp.take(array, index, axis=0)
            for array in (self._data, self._weight, self._unit, *self._relief)
        )
        return Objectives(
            self._arrays,
            self._convolver.part(rows),
            data,
            weight,
            unit,
            (smooth, points),
            None if self._groups is None else self._arrays.xp.take(self._groups, index, axis=0),
            column(self._arrays, self._penalty[rows]),
            bright=column(self._arrays, [self._scaled[i].bright for i in rows]),
            limits=limits,
            robust=[self._fits[i].robust for i in rows],
            **self._terms,
        )

    def _free_points(self, rows: Sequence[int], norms: Numbers) -> None:
        """Reduce the penalty of the isolated points of some planes, and join the points of structures."""
        unit, factors = self._arrays.get(self._unit), self._arrays.get(self._relief[1]).copy()
        groups = np.zeros_like(factors)
        for row in rows:
            smooth, points = np.split(self._variables[row], 2)
            known = unit[row], float(norms[row]), float(self._correlated[row])
            isolated, structure = kinds_of_points(smooth, unit[row] * points, *known)
            factors[row][isolated] *= FREED
            groups[row][structure] = factors[row][structure]
            factors[row][structure] = 0
        self._relief = self._relief[0], self._arrays.put(factors)
        self._groups = self._arrays.put(groups) if groups.any() else None

    def _solutions(self, minima: Sequence[Minimum]) -> list[Solution]:
        """Return the solutions in the units of the data."""
        scale = column(self._arrays, [one.unit for one in self._scaled])
        variables = self._arrays.put(self._variables)
        smooth = scale * variables[:, : self._height]
        points = scale * (variables[:, self._height :] * self._unit)
        models = self._arrays.get(self._convolver.convolve(smooth + points))
        parts = np.stack([self._arrays.get(smooth), self._arrays.get(points)], axis=1)
        inside = models[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
        return [
            solution_of(both, model.copy(), minimum, fit.data, fit.sigma, fit.correlated)
            for fit, minimum, both, model in zip(self._fits, minima, parts, inside, strict=True)
        ]


def _on_grid(plane: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a plane (y, x) with a margin of zeros."""
    return np.pad(plane, MARGIN).astype(np.float32)
