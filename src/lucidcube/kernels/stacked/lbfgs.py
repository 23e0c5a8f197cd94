"""Minimisation of functions of many planes at once; see `deconvolution.lbfgs`.

Each plane has a minimisation of its own: its line search, its pairs and its end. One evaluation of all planes
is a trial step of each of them, whichever iteration it is in.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.lbfgs import (
    COST_NOISE,
    LEAST_CURVATURE,
    LONGEST,
    MOST_TRIALS,
    SHORTEST,
    SMALL_DECREASES,
    SUFFICIENT_DECREASE,
    Minimum,
    two_loops,
)
from lucidcube.kernels.deconvolution.lbfgs_memory import PAIRS, PERIOD
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.stacks import Iterating, Mask, Numbers, Rows, column, total

Evaluate = Callable[[Any], tuple[Numbers, Any]]
"""Function that returns the costs (plane,) of variables (plane, y, x), and their gradient."""


class Minimisation(Iterating[Minimum]):
    """The planes that are being minimised, and the results of those that are not.

    Parameters
    ----------
    arrays
        The array library.
    evaluate
        See `Evaluate`.
    start
        Variables (plane, y, x) from which to start, none of them negative. Only sums over y and x are taken.
    first_step
        Length (plane,) of the first step as a fraction of the gradient.
    n_iter, tolerance
        Arrays (plane,) of what they are for `deconvolution.lbfgs.minimise`.
    stop
        Function that returns which planes (plane,) end after an iteration, called after each evaluation.
    keep
        Function that is called with the indices of the planes that remain, when others are removed.
    """

    _on_device = ("_x", "_gradient", "_pairs", "_member")
    _on_host = (
        *("_first_step", "_n_iter", "_tolerance", "_cost", "_length", "_factors", "_fresh", "_trials"),
        *("_done", "_small", "_count", "_newest", "_accepted", "_of_pairs", "_of_gradient"),
    )

    def __init__(
        self,
        arrays: Arrays,
        evaluate: Evaluate,
        start: Any,
        *,
        first_step: Numbers,
        n_iter: Rows,
        tolerance: Numbers,
        stop: Callable[[], Mask],
        keep: Callable[[Rows], None],
    ) -> None:
        planes, height, width = start.shape
        super().__init__(arrays, planes)
        self._evaluate, self._x, self._stop, self._keep_others = evaluate, start, stop, keep
        self._cost, self._gradient = evaluate(start)
        self._member = self._free()
        # Steps, then changes of the gradient, in parts by rows of pixels, whose products are summed later.
        shape = planes, height, 2 * PAIRS, width
        self._pairs = self._xp.zeros(shape, dtype=start.dtype, device=arrays.device)
        self._first_step, self._n_iter, self._tolerance = first_step, n_iter, tolerance
        self._length, self._factors = np.zeros(planes), np.zeros((planes, 2 * PAIRS + 1))
        self._fresh = np.ones(planes, bool)
        self._trials, self._done, self._small, self._count, self._accepted = np.zeros((5, planes), int)
        self._newest = np.full(planes, PAIRS - 1)
        self._of_pairs = np.zeros((planes, 2 * PAIRS, 2 * PAIRS))
        self._of_gradient = np.zeros((planes, 2 * PAIRS))

    def run(self) -> list[Minimum]:
        """Return the minimum of each plane, whose variables are a NumPy array (y, x)."""
        self._finish(self._n_iter <= 0)
        while not self._ended.all():
            self._remove_ended()
            self._try()
        return self.results()

    def _try(self) -> None:
        """Take a trial step with all planes, and accept it for those whose cost decreases enough."""
        self._choose_directions()
        new, slope = self._step()
        cost, gradient = self._evaluate(new)
        step, change = new - self._x, self._xp.where(self._member, gradient - self._gradient, 0)
        new_slope, curvature, steps, changes = (
            total(self._arrays, one * other)
            for one, other in ((gradient, step), (step, change), (step, step), (change, change))
        )
        decrease = self._cost - cost
        exact = np.abs(decrease) >= COST_NOISE * np.abs(self._cost)
        decrease = np.where(exact, decrease, -(slope + new_slope) / 2)
        accepted = (slope < 0) & (decrease >= -SUFFICIENT_DECREASE * slope) & ~self._ended
        if accepted.any():
            self._cost = np.where(accepted, cost, self._cost)
            self._small = np.where(accepted & (decrease > self._tolerance * np.abs(cost)), -1, self._small)
            self._small += accepted
            good = accepted & (curvature > LEAST_CURVATURE * np.sqrt(steps * changes))
            self._accept(accepted, new, gradient)
            self._keep_pairs(accepted, good, step, change)
            self._finish(accepted & self._stop(), stopped=True)
            self._finish(accepted & (self._small == SMALL_DECREASES), converged=True)
            self._finish(accepted & (self._done >= self._n_iter))
        self._shorten(accepted, slope, decrease)

    def _shorten(self, accepted: Mask, slope: Numbers, decrease: Numbers) -> None:
        """Shorten the steps that were not accepted, or give their directions up."""
        self._trials += 1
        with np.errstate(all="ignore"):  # of planes that do not count
            # The minimum of the parabola through both costs and the slope.
            self._length *= np.clip(slope / (2 * (slope + decrease)), SHORTEST, LONGEST)
        failed = ~accepted & (~(slope < 0) | (self._trials == MOST_TRIALS))
        self._finish(failed & (self._count == 0), converged=True)
        self._count[failed] = 0
        self._fresh = accepted | failed

    def _choose_directions(self) -> None:
        """Choose new directions for the planes that need them."""
        rows = np.flatnonzero(self._fresh)
        _directions(rows, self._newest, self._count, self._of_pairs, self._of_gradient, self._factors)
        self._length[rows] = np.where(self._count[rows] > 0, 1.0, self._first_step[rows])
        self._trials[rows] = 0

    def _step(self) -> tuple[Any, Numbers]:
        """Return the variables after a projected step, and the products (plane,) of gradient and step."""
        factors = (self._factors * self._length[:, None]).astype(np.float32)
        of_pairs = self._arrays.put(factors[:, None, None, :-1])
        move = self._xp.matmul(of_pairs, self._pairs)[:, :, 0, :]
        move = move + column(self._arrays, factors[:, -1]) * self._gradient
        new = self._xp.where(self._free(), self._xp.clip(self._x + move, min=0), self._x)
        return new, total(self._arrays, self._gradient * (new - self._x))

    def _free(self) -> Any:
        """Return where the variables are above zero or would rise."""
        return (self._x > 0) | (self._gradient < 0)

    def _accept(self, accepted: Mask, new: Any, gradient: Any) -> None:
        """Make the variables and the gradients of some planes the present ones."""
        if (accepted | self._ended).all():
            self._x, self._gradient = new, gradient
        else:
            where = column(self._arrays, accepted)
            self._x = self._xp.where(where, new, self._x)
            self._gradient = self._xp.where(where, gradient, self._gradient)
        self._done += accepted

    def _keep_pairs(self, accepted: Mask, good: Mask, step: Any, change: Any) -> None:
        """Keep the pairs of some planes, and update what is known of those whose step was accepted."""
        xp, rows = self._xp, np.flatnonzero(good)
        slots = self._newest[rows] = (self._newest[rows] + 1) % PAIRS
        self._count[rows] = np.minimum(self._count[rows] + 1, PAIRS)
        planes = self._arrays.put(rows)
        for first, vectors in ((0, step), (PAIRS, change)):
            self._pairs[planes, :, self._arrays.put(slots + first)] = xp.take(vectors, planes, axis=0)
        free = self._free()
        masked = self._pairs * xp.astype(free, step.dtype)[:, :, None, :]
        of_pairs = xp.matmul(masked, xp.permute_dims(self._pairs, (0, 1, 3, 2)))
        of_gradient = xp.matmul(masked, self._gradient[:, :, :, None])[:, :, :, 0]
        for known, parts in ((self._of_pairs, of_pairs), (self._of_gradient, of_gradient)):
            known[accepted] = self._arrays.get(xp.sum(parts, axis=1, dtype=xp.float64))[accepted]
        self._accepted += accepted
        due = accepted & (self._accepted % PERIOD == 0)
        self._member = self._member | free
        if due.any():
            self._member = xp.where(column(self._arrays, due), free, self._member)
            self._pairs = self._pairs * xp.astype(self._member, step.dtype)[:, :, None, :]

    def _finish(self, where: Mask, *, converged: bool = False, stopped: bool = False) -> None:
        """Keep the results of planes that end here."""

        def minimum(row: int, variables: NDArray[np.float32]) -> Minimum:
            return Minimum(variables, float(self._cost[row]), int(self._done[row]), converged, stopped)

        self._end(where, self._x, minimum)

    def _keep(self, rows: Rows) -> None:
        super()._keep(rows)
        self._keep_others(rows)


@njit(cache=True, nogil=True, error_model="numpy")
def _directions(
    planes: NDArray[np.int64],
    newest: NDArray[np.int64],
    count: NDArray[np.int64],
    of_pairs: NDArray[np.float64],
    of_gradient: NDArray[np.float64],
    factors: NDArray[np.float64],
) -> None:
    """Write the factors (plane, 2 * PAIRS + 1) of pairs and gradient, whose sums are the directions."""
    for plane in planes:
        pairs = count[plane]
        rows = np.empty(2 * pairs, np.int64)
        for k in range(pairs):
            rows[k] = (newest[plane] - k) % PAIRS
            rows[k + pairs] = rows[k] + PAIRS
        gram = np.zeros((2 * pairs + 1, 2 * pairs + 1))
        for i in range(rows.size):
            for j in range(rows.size):
                gram[i, j] = of_pairs[plane, rows[i], rows[j]]
            gram[i, -1] = gram[-1, i] = of_gradient[plane, rows[i]]
        found = two_loops(gram)
        factors[plane] = 0
        for i in range(rows.size):
            factors[plane, rows[i]] = found[i]
        factors[plane, -1] = found[-1]
