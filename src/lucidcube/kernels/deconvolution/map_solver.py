"""Edge-preserving maximum a posteriori (MAP) estimate of a plane: the solver."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import StopReason
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.edge_preserving import Objective
from lucidcube.kernels.deconvolution.lbfgs import Minimum, minimise
from lucidcube.kernels.deconvolution.map_points import kinds_of_points
from lucidcube.kernels.deconvolution.map_start import first_parts, point_units
from lucidcube.kernels.deconvolution.stopping import BRIGHT, FEWEST, NoiseStop
from lucidcube.kernels.fourier.convolver import Convolver

MARGIN = 12
MU, POINT_PENALTY, DELTA, TOLERANCE = 0.1, 0.05, 1.0, 1e-7
"""Parameters of estimates that serve to find artefacts or to fill pixels; see `MapSolver.solve`."""
FIRST_ITERATIONS = 75
"""Number of iterations after which isolated points are looked for; 150 give the same result within 1 %."""
FREED = np.float32(0.1)
"""Factor of the penalty of isolated points. What is left decides how their flux is shared among pixels."""


class Solution(NamedTuple):
    """Minimum of the objective for one plane (y, x), in the units of the data."""

    image: Plane
    """The object b + p on the plane."""
    points: Plane
    """The point-like part p on the plane."""
    model: Plane
    """The object, including its part beyond the frame, convolved with the PSF."""
    n_iter: int
    reason: StopReason
    """N_ITER, CONVERGED or CHI2_REACHED; ALL_NAN if no pixel has weight."""
    cost: float
    """The objective, in units of the noise."""
    chi2: float
    """Chi squared of the bright pixels with weight, see `stopping.NoiseStop`; NaN if there are none."""
    parts: Plane
    """b and p on the grid (2, y + 2 margin, x + 2 margin), for a warm start."""
    correlated: float = 1.0
    """Number by which the data term was divided because the noise is correlated."""


class Scaled(NamedTuple):
    """A plane in units of the median noise of the pixels with weight; arrays (y, x) of float64."""

    unit: float
    values: NDArray[np.float64]
    weight: NDArray[np.float64]
    """The reciprocal of the standard deviation; 0 where there are no data."""
    bright: float
    """Value times weight above which a pixel counts as bright."""
    counted: int
    """Number of bright pixels."""

    @classmethod
    def of(
        cls, data: NDArray[np.floating], sigma: NDArray[np.floating], correlated: float
    ) -> "Scaled | None":
        """Return a plane in units of its noise, or None if no pixel has weight; see `MapSolver.solve`."""
        weighted = has_weight(data, sigma)
        if not weighted.any():
            return None
        unit = float(np.median(sigma[weighted]))
        values = np.where(weighted, data, 0).astype(np.float64) / unit
        weight = np.zeros(data.shape)
        np.divide(unit / math.sqrt(correlated), sigma, out=weight, where=weighted)
        signal = values * weight
        bright = BRIGHT if (signal > BRIGHT).sum() >= FEWEST else -math.inf
        return cls(unit, values, weight, bright, int((weighted & (signal > bright)).sum()))

    def first_step(self, mu: float, delta: float) -> float:
        """Return the length of the first step as a fraction of the gradient."""
        curvature = max(1.0, float(np.percentile(self.weight[self.weight > 0], 90)) ** 2) + 8 * mu / delta
        return 1 / curvature


def has_weight(data: NDArray[np.floating], sigma: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which pixels (y, x) count."""
    return np.isfinite(data) & np.isfinite(sigma) & (sigma > 0)


def solution_of(
    parts: Plane,
    model: Plane,
    minimum: Minimum,
    data: NDArray[np.floating],
    sigma: NDArray[np.floating],
    correlated: float,
) -> Solution:
    """Return the solution, given b and p on the grid and the model of the plane, in the units of the data."""
    reason = StopReason.CONVERGED if minimum.converged else StopReason.N_ITER
    if minimum.stopped:
        reason = StopReason.CHI2_REACHED
    margins = [(wide - side) // 2 for wide, side in zip(parts.shape[1:], data.shape, strict=True)]
    frame = tuple(slice(m, m + side) for m, side in zip(margins, data.shape, strict=True))
    image = (parts[0] + parts[1])[frame]
    weighted = has_weight(data, sigma)
    chi2 = NoiseStop(data, np.square(sigma), weighted, None).chi2(np.where(weighted, data - model, 0))
    numbers = minimum.n_iter, reason, minimum.cost, chi2
    return Solution(image.copy(), parts[1][frame].copy(), model, *numbers, parts, correlated)


def nothing(shape: tuple[int, int], grid: tuple[int, int]) -> Solution:
    """Return the solution without any data, which is zero."""
    none = np.zeros(shape, np.float32)
    parts = np.zeros((2, *grid), np.float32)
    return Solution(none, none.copy(), none.copy(), 0, StopReason.ALL_NAN, 0.0, math.nan, parts)


class MapSolver:
    """Solves the deconvolution of planes of one shape by one PSF, repeatedly.

    The objective is that of `edge_preserving`, in units of the median noise of the weighted pixels, so that
    its parameters are pure numbers. The object extends beyond the frame by a margin, whose light reaches into
    the frame; nothing wraps round. An object holds scratch memory, and so is for one thread.

    Parameters
    ----------
    psf : array of float, (y, x)
        Odd in both axes, centred, finite, of unit sum and any size.
    shape : (int, int)
        Shape (y, x) of the planes.
    margin : int
        Width of the margin on every side, in pixels.
    """

    def __init__(self, psf: NDArray[np.floating], shape: tuple[int, int], margin: int = MARGIN) -> None:
        self.shape = shape
        self.grid = shape[0] + 2 * margin, shape[1] + 2 * margin
        self.frame = slice(margin, margin + shape[0]), slice(margin, margin + shape[1])
        self.convolver = Convolver(psf, self.grid)
        self._psf = psf

    def solve(
        self,
        data: NDArray[np.floating],
        sigma: NDArray[np.floating],
        *,
        mu: float = MU,
        point_penalty: float = POINT_PENALTY,
        delta: float = DELTA,
        robust: float | None,
        n_iter: int,
        tolerance: float = TOLERANCE,
        correlated: float = 1.0,
        free_points: bool = False,
        start: Solution | None = None,
        chi2_target: float | None = None,
        observer: Callable[[int, Plane], None] | None = None,
    ) -> Solution:
        """Minimise the objective for a plane.

        Parameters
        ----------
        data, sigma : array of float, (y, x)
            The plane and the standard deviation of its noise. Where either is not finite, or sigma is not
            positive, the pixel has no weight.
        mu, point_penalty, delta, robust
            The weights of smoothness and of the points (lambda), the difference between neighbouring pixels
            below which it counts as smooth, and the residual beyond which the data term is linear (None for
            least squares). All are in units of the noise.
        n_iter, tolerance
            The iteration stops after this number, or when the objective twice decreases by less than this
            fraction.
        correlated : float
            Number by which the data term is divided because the noise is correlated, see
            `noise.correlated_pixels`.
        free_points : bool
            Whether the penalty of isolated points is multiplied by `FREED`, because it would take some of
            their flux, and the points of narrow structure are penalised in groups. Both are looked for after
            `FIRST_ITERATIONS`, or in `start`; see `map_points`.
        start : Solution, optional
            Where to start; the default is `map_start.first_parts`. With a `chi2_target`, which that would
            reach at once, it is max(data, 0).
        chi2_target : float, optional
            Stop when the mean of min(r^2, 25) over the pixels brighter than 3 sigma falls to this value,
            where r is the residual in units of sigma.
        observer : callable, optional
            Called with the number of the iteration and its object on the grid after each iteration.
        """
        scaled = Scaled.of(data, sigma, correlated)
        if scaled is None:
            return nothing(self.shape, self.grid)
        unit = scaled.unit
        planes = self._on_grid(scaled.values), self._on_grid(scaled.weight)
        # The penalties are in units of the noise, which `correlated` does not change.
        white = planes[1] * np.float32(math.sqrt(correlated))
        units, relief = point_units(self.convolver, self._psf, white, point_penalty)
        scales = units, np.stack([relief, relief])
        objective = Objective(
            self.convolver, *planes, mu, point_penalty, delta, robust, *scales, bright=scaled.bright
        )
        parts = np.zeros((2, self.grid[0], self.convolver.padded_width), np.float32)
        if start is not None:
            parts[:, :, : self.grid[1]] = start.parts / np.float32(unit)
        elif chi2_target is None:
            parts = first_parts(self.convolver, *planes)
        else:
            parts[0] = np.maximum(planes[0], 0)
        parts[1] /= objective.unit
        numbers = count(1)

        def stop(_: int, parts: Plane) -> bool:
            if observer is not None:
                image = parts[0] + objective.unit * parts[1]
                observer(next(numbers), image[:, : self.grid[1]] * np.float32(unit))
            return chi2_target is not None and objective.chi2 * correlated <= chi2_target * scaled.counted

        first_step = scaled.first_step(mu, delta)
        search = partial(
            minimise, objective.evaluate, parts, tolerance=tolerance, first_step=first_step, stop=stop
        )
        if free_points:
            (result,) = minimise_and_free(
                lambda _, numbers: [search(n_iter=number) for number in numbers],
                lambda _: self._free_points(objective, parts, correlated),
                [0 if start is not None else FIRST_ITERATIONS],
                [n_iter],
            )
        else:
            result = search(n_iter=n_iter)
        result.variables[1] *= objective.unit
        parts = result.variables * np.float32(unit)
        model = self.convolver.convolve_padded(parts[0] + parts[1])[self.frame].copy()
        inside = parts[:, :, : self.grid[1]]
        return solution_of(inside, model, result, data, sigma, correlated)

    def _free_points(self, objective: Objective, parts: Plane, correlated: float) -> None:
        """Reduce the penalty of the isolated points among the parts, and join the points of structures."""
        inside = slice(None), slice(self.grid[1])
        smooth, points = parts[0][inside], (objective.unit * parts[1])[inside]
        psf_norm = math.sqrt(np.sum(np.square(self._psf, dtype=np.float64)))
        isolated, structure = kinds_of_points(smooth, points, objective.unit[inside], psf_norm, correlated)
        objective.relief[1][inside][isolated] *= FREED
        if structure.any():
            objective.group(structure)

    def _on_grid(self, plane: NDArray[np.floating]) -> Plane:
        """Return a plane (y, x) within a padded plane of the grid, with zeros around it."""
        wide = np.zeros((self.grid[0], self.convolver.padded_width), np.float32)
        wide[self.frame] = plane
        return wide


def minimise_and_free(
    search: Callable[[Sequence[int], Sequence[int]], Sequence[Minimum]],
    free: Callable[[Sequence[int]], None],
    first: Sequence[int],
    n_iter: Sequence[int],
) -> list[Minimum]:
    """Search for the minima of planes, and free the points of each after its first iterations.

    ``search(planes, numbers)`` continues the search of some planes, which are given by their index, by these
    numbers of iterations, and ``free(planes)`` frees their points. `first` and `n_iter` are the number of the
    first iterations and that of all of them, for each plane; without first ones its points are freed at once.
    """
    early = [i for i, number in enumerate(first) if number]
    begun = search(early, [min(first[i], n_iter[i]) for i in early]) if early else []
    minima = dict(zip(early, begun, strict=True))
    done = {i: minimum.n_iter for i, minimum in minima.items()}
    late = [i for i in range(len(first)) if i not in minima or _goes_on(minima[i], n_iter[i])]
    if late:
        free(late)
        found = search(late, [n_iter[i] - done.get(i, 0) for i in late])
        for i, minimum in zip(late, found, strict=True):
            minima[i] = minimum._replace(n_iter=done.get(i, 0) + minimum.n_iter)
    return [minima[i] for i in range(len(first))]


def _goes_on(minimum: Minimum, n_iter: int) -> bool:
    """Return whether a search that has found this minimum is to be continued."""
    return not minimum.stopped and minimum.n_iter < n_iter
