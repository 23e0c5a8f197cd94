"""Edge-preserving MAP deconvolution of several planes at once; see `deconvolution.map`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.batched.arrays import Arrays
from lucidcube.kernels.batched.batches import PlaneInput, column, in_batches
from lucidcube.kernels.batched.convolver import BatchConvolver
from lucidcube.kernels.batched.edge_preserving import Objectives
from lucidcube.kernels.batched.lbfgs import Minimisation
from lucidcube.kernels.batched.map_start import first_parts, point_units
from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.kernels.deconvolution.lbfgs import Minimum
from lucidcube.kernels.deconvolution.map import Noise, noise_of, norm, result_of
from lucidcube.kernels.deconvolution.map_points import isolated_points, structure_points
from lucidcube.kernels.deconvolution.map_solver import (
    FIRST_ITERATIONS,
    FREED,
    MARGIN,
    Scaled,
    Solution,
    nothing,
    solution_of,
)
from lucidcube.kernels.deconvolution.map_start import POINT_SCALE

SCRATCH = 130
"""Planes in the memory of the device for each plane of a batch."""


class _Problem(NamedTuple):
    """A plane in units of its noise."""

    given: PlaneInput
    noise: Noise
    scaled: Scaled


def map_planes(planes: Sequence[PlaneInput], arrays: Arrays, **options: Any) -> list[Deconvolution]:
    """Deconvolve planes as `deconvolution.map.map_deconvolution` does, together.

    The planes have one shape, and so have their PSFs. The options are those of that function, from whose
    results these differ by rounding only.
    """
    shape = planes[0].plane.shape
    grid = shape[0] + 2 * MARGIN, shape[1] + 2 * MARGIN
    noises = [noise_of(*given, None) for given in planes]
    pairs = list(zip(planes, noises, strict=True))
    scaled = [Scaled.of(given.plane, noise.sigma, noise.correlated) for given, noise in pairs]
    problems = {i: _Problem(*pairs[i], one) for i, one in enumerate(scaled) if one is not None}
    solutions: dict[int, Solution] = {}
    with arrays.in_use():
        most = arrays.batch_size(SCRATCH * 4 * grid[0] * grid[1])
        for batch in in_batches(list(problems), most):
            solver = _Solver(arrays, [problems[i] for i in batch], grid, **options)
            solutions |= zip(batch, solver.solve(), strict=True)
    results = []
    for i, (given, noise) in enumerate(pairs):
        solution = solutions[i] if i in solutions else nothing(shape, grid)
        results.append(result_of(solution, given.plane, given.variance, noise.pixels, noise.sigma))
    return results


class _Solver:
    """Solves planes of one shape together; see `deconvolution.map_solver.MapSolver`."""

    def __init__(
        self,
        arrays: Arrays,
        problems: Sequence[_Problem],
        grid: tuple[int, int],
        *,
        n_iter: int,
        mu: float,
        point_penalty: float,
        delta: float,
        robust: float | None,
        tolerance: float,
        chi2_target: float | None,
    ) -> None:
        self._arrays, self._problems, self._grid = arrays, problems, grid
        self._n_iter, self._tolerance, self._target = n_iter, tolerance, chi2_target
        self._terms: dict[str, Any] = {"mu": mu, "delta": delta, "robust": robust}
        self._scaled = [problem.scaled for problem in problems]
        psf = np.stack([problem.given.psf for problem in problems]).astype(np.float32)
        self._norms = np.array([norm(problem.given.psf) for problem in problems])
        self._correlated = np.array([problem.noise.correlated for problem in problems])
        self._convolver = BatchConvolver(arrays, psf, grid)
        self._data, self._weight = (
            arrays.put(np.stack([self._on_grid(getattr(one, name)) for one in self._scaled]))
            for name in ("values", "weight")
        )
        self._penalty = point_penalty * self._norms
        # The penalties are in units of the noise, which `correlated` does not change.
        white = self._weight * column(arrays, np.sqrt(self._correlated))
        self._unit, relief = point_units(arrays, psf, white, self._penalty)
        self._relief, self._groups = (relief, relief), None

    def solve(self) -> list[Solution]:
        """Return the solutions of the planes."""
        rows, variables = np.arange(len(self._problems)), self._start()
        most = np.full(rows.size, min(FIRST_ITERATIONS, self._n_iter))
        minima = dict(enumerate(self._minimise(rows, variables, most)))
        done = np.array([minimum.n_iter for minimum in minima.values()])
        rows = np.array([i for i, m in minima.items() if not m.stopped and m.n_iter < self._n_iter], int)
        if rows.size:
            variables = self._arrays.put(np.stack([minima[i].variables for i in rows.tolist()]))
            self._free_points(rows, self._arrays.get(variables))
            found = self._minimise(rows, variables, self._n_iter - done[rows])
            for i, minimum in zip(rows.tolist(), found, strict=True):
                minima[i] = minimum._replace(n_iter=minimum.n_iter + int(done[i]))
        return self._solutions([minima[i] for i in range(len(self._problems))])

    def _start(self) -> Any:
        """Return the variables to start from: b and p / `unit`, one below the other."""
        xp = self._arrays.xp
        if self._target is None:
            smooth, points = first_parts(self._arrays, self._convolver, self._data, self._weight)
        else:
            smooth = xp.clip(self._data, min=0)
            points = xp.zeros_like(smooth)
        return xp.concat([smooth, points / self._unit], axis=1)

    def _minimise(self, rows: NDArray[np.intp], variables: Any, n_iter: NDArray[np.intp]) -> list[Minimum]:
        """Minimise the objectives of some planes."""
        limits = None
        if self._target is not None:
            counted = np.array([self._scaled[i].counted for i in rows])
            limits = self._target * counted / self._correlated[rows]
        index = self._arrays.put(rows)
        data, weight, unit, *relief = (
            self._arrays.xp.take(array, index, axis=0)
            for array in (self._data, self._weight, self._unit, *self._relief)
        )
        objectives = Objectives(
            self._arrays,
            self._convolver.part(rows),
            data,
            weight,
            unit,
            (relief[0], relief[1]),
            None if self._groups is None else self._arrays.xp.take(self._groups, index, axis=0),
            column(self._arrays, self._penalty[rows]),
            bright=column(self._arrays, [self._scaled[i].bright for i in rows]),
            limits=limits,
            **self._terms,
        )
        first_step = [self._scaled[i].first_step(self._terms["mu"], self._terms["delta"]) for i in rows]
        return Minimisation(
            self._arrays,
            objectives.evaluate,
            variables,
            first_step=np.array(first_step),
            n_iter=n_iter,
            tolerance=self._tolerance,
            stop=objectives.reached,
            keep=objectives.keep,
        ).run()

    def _free_points(self, rows: NDArray[np.intp], variables: NDArray[np.float32]) -> None:
        """Reduce the penalty of the isolated points of some planes, and join the points of structures."""
        unit, factors = self._arrays.get(self._unit), self._arrays.get(self._relief[1]).copy()
        height, groups = self._grid[0], np.zeros_like(factors)
        for row, found in zip(rows.tolist(), variables, strict=True):
            smooth, points = found[:height], unit[row] * found[height:]
            noise = unit[row] * np.float32(self._correlated[row] / (POINT_SCALE * self._norms[row]))
            isolated = isolated_points(smooth + points, noise)
            factors[row][isolated] *= FREED
            structure = structure_points(points, smooth, noise, isolated)
            groups[row][structure] = factors[row][structure]
            factors[row][structure] = 0
        self._relief = self._relief[0], self._arrays.put(factors)
        self._groups = self._arrays.put(groups) if groups.any() else None

    def _solutions(self, minima: Sequence[Minimum]) -> list[Solution]:
        """Return the solutions in the units of the data."""
        height, margin = self._grid[0], MARGIN
        scale = column(self._arrays, [one.unit for one in self._scaled])
        variables = self._arrays.put(np.stack([minimum.variables for minimum in minima]))
        smooth, points = scale * variables[:, :height], scale * (variables[:, height:] * self._unit)
        models = self._arrays.get(self._convolver.convolve(smooth + points))
        parts = np.stack([self._arrays.get(smooth), self._arrays.get(points)], axis=1)
        solutions = []
        for problem, minimum, both, model in zip(self._problems, minima, parts, models, strict=True):
            inside = model[margin:-margin, margin:-margin].copy()
            known = problem.given.plane, problem.noise.sigma, problem.noise.correlated
            solutions.append(solution_of(both, inside, minimum, *known))
        return solutions

    def _on_grid(self, plane: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return a plane (y, x) with a margin of zeros."""
        return np.pad(plane, MARGIN).astype(np.float32)
