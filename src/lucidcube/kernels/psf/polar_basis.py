"""Smooth functions about a star: splines of the radius, and harmonics of the angle near the core."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.psf import Doubles

Indices = NDArray[np.intp]

RADIAL_STEP = 0.28
"""Distance of the knots in ``t = log(1 + (r / scale)**2)``."""
ANGULAR_INTERVALS = 12
ANGULAR_REACH = 14.0
"""Radius in units of `scale` where the harmonics end."""
SOFTENING = 0.4
"""In units of `scale`: harmonic m grows as r**m within this radius and is free outside of it."""
ORDERS = 4
"""The harmonics are cos(m theta) and sin(m theta) for m = 1 ... ORDERS."""
HARMONICS = 2 * ORDERS


class PolarBasis(NamedTuple):
    """Cubic B-splines of the radius alone, then the harmonics, each multiplied by coarser B-splines.

    The columns are the `n_radial` splines of the radius, then for each angular spline the harmonics in the
    order cos(theta), sin(theta), cos(2 theta), ... The knots depend on `scale` alone, in pixels, which is
    about the full width at half maximum of the star, and so do the radii where the harmonics end; `reach` is
    the largest radius in pixels.
    """

    scale: float
    reach: float
    angular_reach: float

    @property
    def n_radial(self) -> int:
        """Number of splines of the radius."""
        return 4 + int(np.log1p((self.reach / self.scale) ** 2) / RADIAL_STEP)

    @property
    def n_columns(self) -> int:
        """Number of all functions."""
        return self.n_radial + ANGULAR_INTERVALS * HARMONICS

    @property
    def angular_step(self) -> float:
        """Distance of the knots of the angular splines in t."""
        return float(np.log1p((self.angular_reach / self.scale) ** 2)) / ANGULAR_INTERVALS

    def spline_radii(self) -> tuple[Doubles, Doubles]:
        """Return the radii at the middle of each radial and of each angular spline, in pixels."""
        radial = RADIAL_STEP * (np.arange(self.n_radial) - 1.0)
        angular = self.angular_step * (np.arange(ANGULAR_INTERVALS) - 1.0)
        radii = [self.scale * np.sqrt(np.expm1(np.maximum(t, 0.0))) for t in (radial, angular)]
        return radii[0], radii[1]

    def radial(self, radius: Doubles) -> Doubles:
        """Return the radial splines at some radii, (radius, n_radial)."""
        first, values = _cubic(np.log1p((radius / self.scale) ** 2) / RADIAL_STEP)
        matrix = np.zeros((radius.size, self.n_radial + 4))
        matrix[np.arange(radius.size)[:, None], first[:, None] + np.arange(4)] = values
        return matrix[:, : self.n_radial]

    def integrals(self, radius: float) -> Doubles:
        """Return the integral of each radial spline over a disc of this radius, in pixels squared."""
        edges = np.linspace(0.0, radius, int(20 * radius / self.scale) * 10 + 1)
        middle = 0.5 * (edges[1:] + edges[:-1])
        return np.asarray(np.pi * np.diff(edges**2) @ self.radial(middle))

    def design(self, dy: Doubles, dx: Doubles) -> "Design":
        """Return the functions at the pixels with these offsets from the star."""
        squared = dy * dy + dx * dx
        t = np.log1p(squared / self.scale**2)
        first, radial = _cubic(t / RADIAL_STEP)
        outer, angular = _cubic(t / self.angular_step)
        outer = np.minimum(outer, ANGULAR_INTERVALS)
        key = first * (ANGULAR_INTERVALS + 1) + outer
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        phase = (dx + 1j * dy) / np.sqrt(squared + (SOFTENING * self.scale) ** 2)
        groups = []
        for a, b in zip(starts.tolist(), [*starts[1:].tolist(), order.size], strict=True):
            pixels = order[a:b]
            i, j = int(first[pixels[0]]), int(outer[pixels[0]])
            columns = np.arange(i, i + 4)
            values = radial[pixels]
            kept = min(4, ANGULAR_INTERVALS - j)
            if kept > 0:
                powers = np.cumprod(np.repeat(phase[pixels, None], ORDERS, axis=1), axis=1)
                waves = powers.view(np.float64).reshape(b - a, 1, HARMONICS)
                products = angular[pixels, :kept, None] * waves
                values = np.concatenate([values, products.reshape(b - a, kept * HARMONICS)], axis=1)
                start = self.n_radial + HARMONICS * j
                columns = np.concatenate([columns, np.arange(start, start + kept * HARMONICS)])
            groups.append((pixels, columns, values))
        return Design(self.n_columns, order.size, groups)

    def slope(self, coefficients: Doubles, radius: Doubles) -> Doubles:
        """Return the derivative of the radial part with respect to the radius."""
        step = 1e-3 * self.scale
        near = np.maximum(radius - step, 0.0)
        difference = (self.radial(radius + step) - self.radial(near)) @ coefficients[: self.n_radial]
        return np.asarray(difference / (radius + step - near))


class Design(NamedTuple):
    """Values of the functions of a basis at some pixels, in groups of pixels on which the same ones are not
    0."""

    n_columns: int
    n_pixels: int
    groups: list[tuple[Indices, Indices, Doubles]]
    """Pixels, columns, and the values (pixel, column)."""

    def normal_equations(self, weight: Doubles, target: Doubles) -> tuple[Doubles, Doubles]:
        """Return the matrix and the right-hand side of the least-squares fit with squared weights."""
        matrix, right = np.zeros((self.n_columns, self.n_columns)), np.zeros(self.n_columns)
        for pixels, columns, values in self.groups:
            weighted = values * weight[pixels, None]
            matrix[columns[:, None], columns] += weighted.T @ weighted
            right[columns] += weighted.T @ (weight[pixels] * target[pixels])
        return matrix, right

    def evaluate(self, coefficients: Doubles) -> Doubles:
        """Return the sum of the functions times the coefficients, (pixel,) or (pixel, set)."""
        made = np.empty((self.n_pixels, *coefficients.shape[1:]))
        for pixels, columns, values in self.groups:
            made[pixels] = values @ coefficients[columns]
        return made


def _cubic(t: Doubles) -> tuple[Indices, Doubles]:
    """Return the number of the first of the four uniform cubic B-splines that are not zero, and their
    values."""
    first = t.astype(np.intp)
    f = t - first
    g = 1.0 - f
    values = np.stack([g**3, 4.0 - 3.0 * f * f * (1.0 + g), 4.0 - 3.0 * g * g * (1.0 + f), f**3], axis=-1)
    return first, values / 6.0
