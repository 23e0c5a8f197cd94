"""The objective of the edge-preserving deconvolution, with its gradient: data term, smoothness, points.

The object is b + p, a background b with edges and isolated points p, in units of the noise. Over b, p >= 0,

    J = sum rho(r) + mu sum(sqrt(|grad b|^2 + delta^2) - delta) + lambda P(p),   r = w (H (b + p) - d),

where H convolves with the PSF, w is the reciprocal of the standard deviation, and rho is either r^2 / 2 or
the pseudo-Huber function k^2 (sqrt(1 + (r/k)^2) - 1), which is linear for large residuals. The penalty of the
gradient preserves edges (Mugnier, Fusco & Conan 2004, JOSA A 21, 1841); the sum of an extended and a
point-like part is that of Giovannelli & Coulais (2005, A&A 439, 401). J is convex.

P is the sum of the points, which favours few of them. The pixels of narrow structure, such as clouds and
rings, may be chosen for the penalty of overlapping groups instead (Chen & Selesnick 2014, Signal Processing
94, 476): a quarter of the sum of sqrt(|p|^2 + 1) - 1 over all squares of 2 by 2 pixels, where |p| is the norm
in the square. It is the same for a point, and less for a line than for the same light in separate points.

Where the noise is much stronger than its median, both penalties are relieved by a factor, and that of
isolated points may be; for these and the groups see `map_points`. The variables of the iteration are b and p
in units such that J curves about equally along all of them; see `map_start`.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.stopping import LARGEST, total
from lucidcube.kernels.fourier.convolver import Convolver


@dataclass
class Objective:
    """J for one plane. Arrays of planes are (grid y, padded_width) float32, zero beyond the grid's width."""

    convolver: Convolver
    data: Plane
    weight: Plane
    """The reciprocal of the standard deviation; 0 where there are no data."""
    mu: float
    point_penalty: float
    delta: float
    robust: float | None
    """The residual k beyond which rho is linear; None for least squares."""
    unit: Plane
    """Unit of the points at each pixel."""
    relief: Plane
    """Factors (2, grid y, padded_width) of the penalties of b and p at each pixel."""
    groups: Plane | None = None
    """Factor of the points within the penalty of groups; 0 where the sum of the points is the penalty."""
    bright: float = -np.inf
    """Data times weight must exceed this for a pixel to count in `chi2`."""
    chi2: float = np.nan
    """Sum of min(r^2, `LARGEST`) over the bright pixels, at the last evaluation."""

    def evaluate(self, parts: Plane, gradient: Plane) -> float:
        """Return J of b and p / `unit` (2, grid y, padded_width), and write its gradient."""
        residual = self.convolver.convolve_padded(parts[0] + self.unit * parts[1])
        scale = 0.0 if self.robust is None else 1 / self.robust
        cost, self.chi2 = _data_term(residual, self.data, self.weight, scale, self.bright)
        back = self.convolver.correlate_padded(residual)
        width = self.convolver.shape[1]
        planes, penalties = (back, self.unit, self.relief), (self.mu, self.delta, self.point_penalty)
        cost += _priors(parts, *planes, width, *penalties, gradient)
        if self.groups is not None:
            cost += _group_penalty(parts[1], self.unit, self.groups, width, self.point_penalty, gradient[1])
        return cost

    def group(self, chosen: NDArray[np.bool_]) -> None:
        """Apply the penalty of groups to the points at the chosen pixels (grid y, grid x)."""
        inside = slice(None), slice(chosen.shape[1])
        self.groups = np.zeros_like(self.unit)
        self.groups[inside] = np.where(chosen, self.relief[1][inside], 0)
        self.relief[1][inside][chosen] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def _data_term(model: Plane, data: Plane, weight: Plane, scale: float, bright: float) -> tuple[float, float]:
    """Replace the model by the derivative of the data term; return the term and the sum for chi squared.

    `scale` is 1/k of the pseudo-Huber function, which tends to r^2 / 2 as it tends to 0.
    """
    height, width = model.shape
    inverse, level, clip = np.float32(scale), np.float32(bright), np.float32(LARGEST)
    one, zero = np.float32(1), np.float32(0)
    # Sums by column can be vectorised. They are in float64, because the iteration compares costs that differ
    # by a ten-millionth.
    costs, squares = np.zeros(width), np.zeros(width)
    for y in range(height):
        for x in range(width):
            w = weight[y, x]
            r = (model[y, x] - data[y, x]) * w
            root = np.sqrt(one + (r * inverse) * (r * inverse))
            square = r * r
            costs[x] += square / (one + root)
            square = square if square < clip else clip
            counts = w > zero and data[y, x] * w > level
            squares[x] += square if counts else zero
            model[y, x] = w * r / root
    return total(costs), total(squares)


@njit(cache=True, nogil=True, error_model="numpy")
def _priors(
    parts: Plane,
    back: Plane,
    unit: Plane,
    relief: Plane,
    width: int,
    mu: float,
    delta: float,
    penalty: float,
    gradient: Plane,
) -> float:
    """Write the whole gradient, given that of the data term; return the penalties of smoothness and points.

    Differences are forward, and zero across the last row and column.
    """
    height = back.shape[0]
    strength, step, rate = np.float32(mu), np.float32(delta), np.float32(penalty)
    smoothness, points = np.zeros(width), np.zeros(width)
    above, down = np.zeros(width, np.float32), np.zeros(width, np.float32)
    right = np.zeros(width + 1, np.float32)  # that of column x at x + 1
    for y in range(height):
        below = min(y + 1, height - 1)
        for x in range(width):
            here = parts[0, y, x]
            slope_y = parts[0, below, x] - here
            slope_x = parts[0, y, x + 1] - here if x < width - 1 else np.float32(0)
            square = slope_y * slope_y + slope_x * slope_x
            size = np.sqrt(square + step * step)
            factor = relief[0, y, x]
            smoothness[x] += factor * square / (size + step)
            down[x] = factor * slope_y / size
            right[x + 1] = factor * slope_x / size
        for x in range(width):
            divergence = down[x] + right[x + 1] - above[x] - right[x]
            gradient[0, y, x] = back[y, x] - strength * divergence
            gradient[1, y, x] = unit[y, x] * (back[y, x] + rate * relief[1, y, x])
            points[x] += unit[y, x] * relief[1, y, x] * parts[1, y, x]
            above[x] = down[x]
        gradient[0, y, width:] = 0
        gradient[1, y, width:] = 0
    return mu * total(smoothness) + penalty * total(points)


@njit(cache=True, nogil=True, error_model="numpy")
def _group_penalty(
    points: Plane, unit: Plane, groups: Plane, width: int, penalty: float, gradient: Plane
) -> float:
    """Add the gradient of the penalty of groups to that of the points, and return the penalty.

    Every pixel is in four squares; beyond the grid there is no light.
    """
    height = points.shape[0]
    quarter, one = np.float32(0.25 * penalty), np.float32(1)
    above, here = np.zeros(width + 2, np.float32), np.zeros(width + 2, np.float32)
    # Reciprocals of the roots of the squares above a row of pixels, and below it.
    upper, lower = np.zeros(width + 1, np.float32), np.zeros(width + 1, np.float32)
    sums = np.zeros(width + 1)
    for y in range(height + 1):
        for x in range(width):
            light = groups[y, x] * unit[y, x] * points[y, x] if y < height else np.float32(0)
            here[x + 1] = light * light
        for x in range(width + 1):
            square = above[x] + above[x + 1] + here[x] + here[x + 1]
            root = np.sqrt(square + one)
            lower[x] = one / root
            sums[x] += square / (root + one)
        if y > 0:
            for x in range(width):
                factor = groups[y - 1, x] * unit[y - 1, x]
                around = upper[x] + upper[x + 1] + lower[x] + lower[x + 1]
                gradient[y - 1, x] += quarter * factor * factor * points[y - 1, x] * around
        # Without slices, whose assignment takes long to compile.
        above, here = here, above
        upper, lower = lower, upper
    return 0.25 * penalty * total(sums)
