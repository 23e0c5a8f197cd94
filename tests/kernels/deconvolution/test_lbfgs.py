"""Projected L-BFGS: minima with bounds against scipy, rounding, stops and variables that move late."""

import numpy as np
import pytest
from scipy.optimize import nnls

from lucidcube.kernels.deconvolution.lbfgs import minimise
from lucidcube.kernels.deconvolution.lbfgs_memory import BLOCK


def least_squares(matrix, data):
    """Return the function for `minimise` of |matrix x - data|^2 / 2."""

    def evaluate(variables, gradient):
        left = matrix @ variables.reshape(-1).astype(float) - data
        gradient[:] = (matrix.T @ left).reshape(gradient.shape)
        return 0.5 * float(left @ left)

    return evaluate


def problem(rows=90, columns=60, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, columns)) / np.sqrt(rows), random.normal(size=rows)


def solve(evaluate, start, n_iter=500, tolerance=1e-10, **options):
    return minimise(evaluate, start, n_iter=n_iter, tolerance=tolerance, first_step=0.1, **options)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("columns", [1, 60, 700])
def test_the_minimum_is_that_of_scipy(columns, seed):
    matrix, data = problem(2 * columns, columns, seed)
    expected, norm = nnls(matrix, data)
    start = np.random.default_rng(seed + 10).uniform(0, 2, columns).astype(np.float32)
    result = solve(least_squares(matrix, data), start)
    np.testing.assert_allclose(result.variables, expected, atol=2e-3)
    assert result.cost == pytest.approx(0.5 * norm**2, rel=1e-6)
    assert result.converged
    assert result.variables is start


def test_few_iterations_suffice():
    matrix, data = problem()
    _, norm = nnls(matrix, data)
    result = solve(least_squares(matrix, data), np.ones(60, np.float32), n_iter=12)
    assert result.cost == pytest.approx(0.5 * norm**2, rel=1e-3)
    assert (result.n_iter, result.converged) == (12, False)


def test_all_variables_may_start_at_their_bound():
    matrix, data = problem(2 * BLOCK, BLOCK + 7)
    _, norm = nnls(matrix, data)
    result = solve(least_squares(matrix, data), np.zeros((1, BLOCK + 7), np.float32))
    assert result.cost == pytest.approx(0.5 * norm**2, rel=1e-6)


def test_variables_that_leave_and_return():
    """The second variable is zero at first, and needed only when the first comes close to its bound."""
    matrix, data = np.array([[1.0, 1.0], [0.02, -0.02]]), np.array([1.0, -0.02])
    result = solve(least_squares(matrix, data), np.array([5.0, 0.0], np.float32), tolerance=1e-12)
    np.testing.assert_allclose(result.variables, [0, 1], atol=1e-3)


def test_a_minimum_stays():
    evaluate = least_squares(np.eye(3), np.array([1.0, -1.0, 2.0]))
    start = np.array([1, 0, 2], np.float32)
    result = solve(evaluate, start.copy())
    np.testing.assert_array_equal(result.variables, start)
    assert (result.n_iter, result.converged) == (0, True)


def test_the_caller_stops():
    matrix, data = problem()
    seen = []

    def stop(n_iter, variables):
        seen.append(variables.copy())
        return n_iter == 3

    result = solve(least_squares(matrix, data), np.ones(60, np.float32), stop=stop)
    assert (result.n_iter, result.converged, len(seen)) == (3, False, 3)
    np.testing.assert_array_equal(seen[-1], result.variables)


def test_no_iterations():
    start = np.ones(2, np.float32)
    result = solve(least_squares(np.eye(2), np.zeros(2)), start.copy(), n_iter=0)
    np.testing.assert_array_equal(result.variables, start)
    assert (result.n_iter, result.cost, result.converged) == (0, 1.0, False)


def test_too_long_a_first_step_is_shortened():
    evaluate = least_squares(np.diag([100.0, 1.0]), np.array([100.0, 1.0]))
    costs = []

    def stop(n_iter, variables):
        costs.append(evaluate(variables, np.empty_like(variables)))
        return False

    start = np.array([3, 3], np.float32)
    result = minimise(evaluate, start, n_iter=100, tolerance=1e-10, first_step=10.0, stop=stop)
    np.testing.assert_allclose(result.variables, [1, 1], rtol=1e-3)
    assert (np.diff(costs[:5]) < 0).all()


def test_noise_of_the_cost_does_not_end_the_iteration():
    """Costs in float32 differ by rounding only where the gradient still tells the way."""
    matrix, data = problem()
    expected, _ = nnls(matrix, data)
    exact, random = least_squares(matrix, data), np.random.default_rng(0)

    def evaluate(variables, gradient):
        return exact(variables, gradient) * (1 + 3e-6 * random.normal())

    result = solve(evaluate, np.ones(60, np.float32), tolerance=1e-9)
    np.testing.assert_allclose(result.variables, expected, atol=5e-3)
