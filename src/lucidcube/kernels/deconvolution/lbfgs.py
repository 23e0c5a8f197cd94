"""Minimisation of a smooth function of numbers that must not be negative: projected L-BFGS.

The quasi-Newton direction of L-BFGS (Nocedal 1980; Liu & Nocedal 1989) is taken within the free variables,
which are those above their bound and those at the bound that would rise, and the step along it is projected
onto the bounds (Bertsekas 1982; Schmidt, Kim & Sra 2011, "Projected Newton-type methods").
All scalar products that the direction needs are taken in one pass over the vectors (Chen, Wang & Zhou 2014,
"Large-scale L-BFGS using MapReduce"), which costs less memory traffic than the usual recursion.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Evaluate = Callable[[Vector, Vector], float]

PAIRS = 8
"""Number of pairs of steps and changes of the gradient that are kept."""
BLOCK = 128
"""Number of variables that are processed together; blocks without free variables are skipped."""
SUFFICIENT_DECREASE = 1e-4
LEAST_CURVATURE = 1e-7
"""Pairs are left out whose cosine, between step and change of the gradient, is below this value."""
COST_NOISE = 1e-4
"""Relative changes of the cost below this value are computed from the gradients, which is more precise."""
MOST_HALVINGS = 12
SMALL_DECREASES = 2
"""Number of successive decreases below the tolerance that end the iteration."""


class Minimum(NamedTuple):
    """Result of `minimise`."""

    variables: Vector
    cost: float
    n_iter: int
    converged: bool
    """Whether the cost no longer decreased. Otherwise all iterations were done, or `stop` returned True."""


def minimise(
    evaluate: Evaluate,
    start: Vector,
    *,
    n_iter: int,
    tolerance: float,
    first_step: float,
    stop: Callable[[int, Vector], bool] = lambda n_iter, variables: False,
) -> Minimum:
    """Minimise a convex function of variables >= 0.

    Parameters
    ----------
    evaluate : callable
        `evaluate(variables, gradient)` returns the cost, and writes the gradient. Both are C-contiguous
        float32 of the shape of `start`; the gradient must be finite.
    start : array of float32
        Where to start, not negative. Overwritten.
    n_iter : int
        Maximum number of iterations; most of them take one evaluation.
    tolerance : float
        The iteration ends when the cost decreases by less than this fraction twice in succession.
    first_step : float
        Length of the first step as a fraction of the gradient.
    stop : callable
        `stop(n_iter, variables)` is called after each iteration, and ends them by returning True. It must
        not change the variables.

    Returns
    -------
    Minimum
    """
    memory = _Memory(start.size)
    here, gradient, there, changed = start, np.empty_like(start), np.empty_like(start), np.empty_like(start)
    cost = evaluate(here, gradient)
    done, small, length = 0, 0, first_step
    while done < n_iter:
        if memory.count:
            length = 1.0
        direction = memory.direction(here, gradient)
        found = _search(evaluate, memory, (here, gradient, there, changed), direction, length, cost)
        if found is None and memory.count:
            memory.count = 0
            length = first_step
            continue
        if found is None:
            return Minimum(here, cost, done, True)
        new_cost, decrease = found
        done += 1
        here, there, gradient, changed = there, here, changed, gradient
        small = small + 1 if decrease <= tolerance * abs(new_cost) else 0
        cost = new_cost
        if stop(done, here):
            return Minimum(here, cost, done, False)
        if small == SMALL_DECREASES:
            return Minimum(here, cost, done, True)
    return Minimum(here, cost, done, False)


class _Memory:
    """The last pairs, as rows of one array: steps first, then changes of the gradient."""

    def __init__(self, size: int) -> None:
        self.vectors = np.zeros((2 * PAIRS, size), np.float32)
        self.count = 0
        self.newest = PAIRS - 1

    @property
    def next(self) -> int:
        """The row for the next pair."""
        return (self.newest + 1) % PAIRS

    def keep(self) -> None:
        """Count the pair that was written to the rows `next` and `next` + `PAIRS`."""
        self.newest = self.next
        self.count = min(self.count + 1, PAIRS)

    def direction(self, here: Vector, gradient: Vector) -> NDArray[np.float64]:
        """Return the factors of all vectors, and of the gradient as the last, whose sum is the direction."""
        gram = _gram(self.vectors, here.reshape(-1), gradient.reshape(-1), self.count)
        order = np.array([(self.newest - k) % PAIRS for k in range(self.count)], np.int64)
        return _two_loops(gram, order)


def _search(
    evaluate: Evaluate,
    memory: _Memory,
    vectors: tuple[Vector, Vector, Vector, Vector],
    direction: NDArray[np.float64],
    length: float,
    cost: float,
) -> tuple[float, float] | None:
    """Shorten the step until the cost decreases enough; return the new cost and the decrease, or None.

    `vectors` are the present variables and gradient, and the arrays for the new ones. A pair is kept.
    """
    here, gradient, there, changed = vectors
    flat_here, flat_gradient = here.reshape(-1), gradient.reshape(-1)
    for _ in range(MOST_HALVINGS):
        slope = _step(memory.vectors, flat_here, flat_gradient, direction, length, there.reshape(-1))
        if not slope < 0:
            return None
        new_cost = evaluate(there, changed)
        row = memory.next
        pair = memory.vectors[row], memory.vectors[row + PAIRS]
        new_slope, curvature, step, change = _difference(
            flat_here, there.reshape(-1), flat_gradient, changed.reshape(-1), *pair
        )
        decrease = cost - new_cost
        if abs(decrease) < COST_NOISE * abs(cost):
            decrease = -(slope + new_slope) / 2
        if decrease >= -SUFFICIENT_DECREASE * slope:
            if curvature > LEAST_CURVATURE * np.sqrt(step * change):
                memory.keep()
            return new_cost, decrease
        # The minimum of the parabola through both costs and the slope.
        length *= min(max(-slope / (2 * (-decrease - slope)), 0.1), 0.5)
    return None


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _gram(vectors: Vector, here: Vector, gradient: Vector, count: int) -> NDArray[np.float64]:
    """Return the scalar products of all vectors and the gradient over the free variables."""
    rows, size = vectors.shape
    total = np.zeros((rows + 1, rows + 1))
    if count == 0:
        return total
    masked = np.empty((rows + 1, BLOCK), np.float32)
    free = np.empty(BLOCK, np.float32)
    zero, one = np.float32(0), np.float32(1)
    for begin in range(0, size, BLOCK):
        length = min(BLOCK, size - begin)
        some = zero
        for k in range(length):
            moves = here[begin + k] > zero or gradient[begin + k] < zero
            free[k] = one if moves else zero
            some += free[k]
        if some == zero:
            continue
        for k in range(length):
            masked[rows, k] = gradient[begin + k] * free[k]
        for i in range(rows):
            for k in range(length):
                masked[i, k] = vectors[i, begin + k] * free[k]
        for i in range(rows + 1):
            for j in range(i + 1):
                product = zero
                for k in range(length):
                    product += masked[i, k] * masked[j, k]
                total[i, j] += product
    for i in range(rows + 1):
        for j in range(i):
            total[j, i] = total[i, j]
    return total


@njit(cache=True, nogil=True)
def _two_loops(gram: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Run the recursion of L-BFGS on scalar products; `order` are the rows of the pairs from the newest."""
    last = gram.shape[0] - 1
    pairs = last // 2
    factors, shares = np.zeros(last + 1), np.zeros(pairs)
    factors[last] = 1.0
    scale = 0.0
    for s in order:
        y = s + pairs
        if gram[s, y] > LEAST_CURVATURE * np.sqrt(gram[s, s] * gram[y, y]):
            shares[s] = np.dot(factors, gram[s]) / gram[s, y]
            factors[y] -= shares[s]
            if scale == 0.0:
                scale = gram[s, y] / gram[y, y]
    factors *= scale if scale > 0 else 1.0
    for s in order[::-1]:
        y = s + pairs
        if gram[s, y] > LEAST_CURVATURE * np.sqrt(gram[s, s] * gram[y, y]):
            factors[s] += shares[s] - np.dot(factors, gram[y]) / gram[s, y]
    return -factors


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _step(
    vectors: Vector,
    here: Vector,
    gradient: Vector,
    factors: NDArray[np.float64],
    length: float,
    there: Vector,
) -> float:
    """Write the projected step of a length along the direction; return gradient . step."""
    rows, size = vectors.shape
    scaled = (factors * length).astype(np.float32)
    zero = np.float32(0)
    slope = 0.0
    move = np.empty(BLOCK, np.float32)
    for begin in range(0, size, BLOCK):
        width = min(BLOCK, size - begin)
        some = zero
        for k in range(width):
            moves = here[begin + k] > zero or gradient[begin + k] < zero
            some += np.float32(1) if moves else zero
        if some == zero:
            there[begin : begin + width] = here[begin : begin + width]
            continue
        for k in range(width):
            move[k] = scaled[rows] * gradient[begin + k]
        for i in range(rows):
            if scaled[i] != zero:
                for k in range(width):
                    move[k] += scaled[i] * vectors[i, begin + k]
        partial = zero
        for k in range(width):
            x, g = here[begin + k], gradient[begin + k]
            new = x + move[k]
            new = new if new > zero else zero
            new = new if x > zero or g < zero else x
            there[begin + k] = new
            partial += g * (new - x)
        slope += float(partial)
    return slope


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _difference(
    here: Vector, there: Vector, gradient: Vector, changed: Vector, step: Vector, change: Vector
) -> tuple[float, float, float, float]:
    """Write a step and a change of the gradient; return new gradient . step and the products of the pair."""
    slope, curvature, steps, changes = 0.0, 0.0, 0.0, 0.0
    for begin in range(0, here.size, BLOCK):
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for k in range(begin, min(begin + BLOCK, here.size)):
            s, y = there[k] - here[k], changed[k] - gradient[k]
            step[k], change[k] = s, y
            a += changed[k] * s
            b += s * y
            c += s * s
            d += y * y
        slope += float(a)
        curvature += float(b)
        steps += float(c)
        changes += float(d)
    return slope, curvature, steps, changes
