"""Minimisation of a smooth function of variables that must not be negative: projected L-BFGS.

The quasi-Newton direction of L-BFGS (Nocedal 1980; Liu & Nocedal 1989) is taken within the free variables,
which are those above their bound and those at the bound that would rise, and the step along it is projected
onto the bounds (Bertsekas 1982; Schmidt, Kim & Sra 2011, "Projected Newton-type methods").
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.lbfgs_memory import Memory, Vector

Evaluate = Callable[[Vector, Vector], float]
Stop = Callable[[int, Vector], bool]

SUFFICIENT_DECREASE = 1e-4
COST_NOISE = 1e-4
"""Relative changes of the cost below this value are computed from the gradients, which is more precise."""
SHORTEST, LONGEST = 0.1, 0.5
"""Limits of the factor by which a step is shortened."""
MOST_TRIALS = 12
SMALL_DECREASES = 2
"""Number of successive decreases below the tolerance that end the iteration."""
LEAST_CURVATURE = 1e-7
"""Pairs are left out where the cosine between step and change of the gradient is below this value."""


class Minimum(NamedTuple):
    """Result of `minimise`."""

    variables: Vector
    cost: float
    n_iter: int
    converged: bool
    """Whether the cost no longer decreased."""
    stopped: bool = False
    """Whether `stop` returned True."""


def minimise(
    evaluate: Evaluate,
    start: Vector,
    *,
    n_iter: int,
    tolerance: float,
    first_step: float,
    stop: Stop = lambda n_iter, variables: False,
) -> Minimum:
    """Minimise a convex function of variables >= 0.

    Parameters
    ----------
    evaluate : callable
        `evaluate(variables, gradient)` returns the cost, and writes the gradient. Both are C-contiguous
        float32 of the shape of `start`; the gradient must be finite.
    start : array of float32
        Where to start, not negative. Overwritten by the result.
    n_iter : int
        Maximum number of iterations; most of them take one evaluation.
    tolerance : float
        The iteration ends when the cost decreases by less than this fraction twice in succession.
    first_step : float
        Length of the first step as a fraction of the gradient.
    stop : callable
        `stop(n_iter, variables)` is called after each iteration, and ends them by returning True. It must
        not change the variables.
    """
    gradient = np.empty_like(start)
    cost = evaluate(start, gradient)
    memory = Memory(start.reshape(-1), gradient.reshape(-1))
    done, small = 0, 0
    while done < n_iter:
        found = _search(evaluate, memory, (start, gradient), 1.0 if memory.count else first_step, cost)
        if found is None:
            if memory.count == 0:
                return Minimum(start, cost, done, True)
            memory.forget()
            continue
        cost, decrease = found
        done += 1
        small = small + 1 if decrease <= tolerance * abs(cost) else 0
        if stop(done, start):
            return Minimum(start, cost, done, False, stopped=True)
        if small == SMALL_DECREASES:
            return Minimum(start, cost, done, True)
    return Minimum(start, cost, done, False)


def _search(
    evaluate: Evaluate, memory: Memory, vectors: tuple[Vector, Vector], length: float, cost: float
) -> tuple[float, float] | None:
    """Step along the direction, shortening the step until the cost decreases enough.

    The variables and their gradient, and the memory, are those after the step; the new cost and the decrease
    are returned. If there is no such step, the variables are as before, and None is returned.
    """
    variables, gradient = vectors
    direction = two_loops(memory.products())
    for _ in range(MOST_TRIALS):
        slope = memory.step(direction, length)
        if not slope < 0:
            break
        new_cost = evaluate(variables, gradient)
        new_slope, curvature, step, change = memory.difference()
        decrease = cost - new_cost
        if abs(decrease) < COST_NOISE * abs(cost):
            decrease = -(slope + new_slope) / 2
        if decrease >= -SUFFICIENT_DECREASE * slope:
            memory.accept(curvature > LEAST_CURVATURE * np.sqrt(step * change))
            return new_cost, decrease
        # The minimum of the parabola through both costs and the slope.
        length *= min(max(slope / (2 * (slope + decrease)), SHORTEST), LONGEST)
    memory.step(direction, 0.0)
    return None


@njit(cache=True, nogil=True, error_model="numpy")
def two_loops(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Run the recursion of L-BFGS on scalar products instead of vectors.

    This is the form of Chen, Wang & Zhou (2014, "Large-scale L-BFGS using MapReduce"). Steps come first, from
    the newest, then the changes of the gradient, and the gradient last. The direction is the sum of these
    vectors with the returned factors.
    """
    rows = gram.shape[0]
    pairs = rows // 2
    factors, shares = np.zeros(rows), np.zeros(pairs)
    factors[rows - 1] = -1
    newest = -1
    for s in range(pairs):
        if _is_curved(gram, s, pairs):
            shares[s] = _dot(factors, gram[s]) / gram[s, s + pairs]
            factors[s + pairs] -= shares[s]
            newest = s if newest < 0 else newest
    if newest >= 0:
        scale = gram[newest, newest + pairs] / gram[newest + pairs, newest + pairs]
        for k in range(rows):
            factors[k] *= scale
    for s in range(pairs - 1, -1, -1):
        if _is_curved(gram, s, pairs):
            factors[s] += shares[s] - _dot(factors, gram[s + pairs]) / gram[s, s + pairs]
    return factors


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _is_curved(gram: NDArray[np.float64], s: int, pairs: int) -> bool:
    """Return whether a step and its change of the gradient tell the curvature."""
    return gram[s, s + pairs] > LEAST_CURVATURE * np.sqrt(gram[s, s] * gram[s + pairs, s + pairs])


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _dot(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the scalar product; that of NumPy takes longer to compile."""
    total = 0.0
    for k in range(one.size):
        total += one[k] * other[k]
    return total
