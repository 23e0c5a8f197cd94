"""Least-squares problem that the solvers minimise to fit a parametric model to a star."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from lucidcube.kernels.psf import Doubles, Mask, Reals
from lucidcube.kernels.psf.models import R0_WAVELENGTH, Parameter, StarFunction
from lucidcube.kernels.psf.optical_psf import Grid, Optics, StarImage
from lucidcube.kernels.psf.subpixel_shift import sigma_from_area

_START_R0, _START_AMPLITUDE = (0.15,), (2.0, 10.0)
_DIFFERENCE_STEP = 1e-6  # relative; the models are smooth in float64


class FitData(NamedTuple):
    """One-dimensional values of the pixels that have weight in a fit; `used` is their mask (y, x).

    The weights are inverse standard deviations, or 1 if they do not come from a variance (not `weighted`).
    """

    values: Doubles
    weight: Doubles
    used: Mask
    weighted: bool

    def too_few(self, n_free: int) -> bool:
        """Return whether the pixels cannot contain a star: too few, none positive, or all equal."""
        values = self.values
        return bool(values.size <= n_free + 2 or not values.max() > 0.0 or np.ptp(values) == 0.0)


def select_pixels(plane: Reals, variance: Reals | None) -> FitData:
    """Return the finite pixels, only those of known variance if there are any; an even side is an error."""
    if any(n % 2 == 0 for n in plane.shape):
        raise ValueError(f"the plane must be odd along y and x to have a central pixel, not {plane.shape}")
    used = np.isfinite(plane)
    weight = np.ones(np.count_nonzero(used))
    weighted = False
    if variance is not None:
        known = used & np.isfinite(variance) & (variance > 0.0)
        if known.any():
            used, weighted = known, True
            weight = 1.0 / np.sqrt(variance[used].astype(np.float64))
    return FitData(plane[used].astype(np.float64), weight, used, weighted)


class FitProblem:
    """Weighted residuals of a parametric model as a function of its free parameters.

    The arguments other than `data` are those of `fit_parametric_psf`. The attributes `lower`, `upper`, `free`
    and `start` contain the domain, freedom and start value of every parameter.
    """

    def __init__(
        self,
        data: FitData,
        star: StarFunction,
        parameters: Sequence[Parameter],
        wavelength: float,
        optics: Optics,
    ) -> None:
        self.data = data
        self.names = [p.name for p in parameters]
        self.lower = np.array([p.lower for p in parameters])
        self.upper = np.array([p.upper for p in parameters])
        self.free = np.array([p.free for p in parameters])
        self._star, self._wavelength, self._optics = star, wavelength, optics
        self.start = self._start_values(parameters)

    def star_at(self, values: Doubles, *, centred: bool = False) -> StarImage:
        """Return the star of unit flux for all parameter values, optionally about the central pixel."""
        height, width = self.data.used.shape
        x, y = (0.0, 0.0) if centred else (float(values[0]), float(values[1]))
        grid = Grid((height, width), (height - 1) / 2 + y, (width - 1) / 2 + x)
        return self._star(values[2:-2], self._wavelength, self._optics, grid)

    def full(self, free_values: Doubles) -> Doubles:
        """Return the values of all parameters, given those of the free ones."""
        values = self.start.copy()
        values[self.free] = free_values
        return values

    def residual(self, free_values: Doubles) -> Doubles:
        """Return (model - data) / sigma, one-dimensional."""
        values = self.full(free_values)
        image = self.star_at(values).image[self.data.used]
        return (values[-2] * image + values[-1] - self.data.values) * self.data.weight

    def jacobian(self, free_values: Doubles) -> Doubles:
        """Return the derivatives of the residual, (pixel, free parameter).

        The derivatives with respect to the shape are forward differences, the others are exact.
        """
        values, used = self.full(free_values), self.data.used
        image, by_y, by_x = (plane[used] for plane in self.star_at(values))
        exact = {
            0: values[-2] * by_x,
            1: values[-2] * by_y,
            values.size - 2: image,
            values.size - 1: np.ones(image.size),
        }
        columns = []
        for index in np.flatnonzero(self.free):
            column = exact.get(int(index))
            if column is None:
                step = _DIFFERENCE_STEP * max(abs(values[index]), 1e-3)
                step = -step if values[index] + step > self.upper[index] else step
                moved = values.copy()
                moved[index] += step
                column = values[-2] * (self.star_at(moved).image[used] - image) / step
            columns.append(column * self.data.weight)
        return np.stack(columns, axis=1)

    def _start_values(self, parameters: Sequence[Parameter]) -> Doubles:
        """Return the start values; those that are None are derived from the plane.

        Of several candidates for these, the one with the smallest chi squared is returned.
        """
        candidates = product(*(self._candidates(p) for p in parameters))
        scaled = [self._scaled(np.clip(c, self.lower, self.upper), parameters) for c in candidates]
        return min(scaled, key=lambda pair: pair[0])[1]

    def _candidates(self, parameter: Parameter) -> tuple[float, ...]:
        """Return the start value of a parameter, or values to choose from if it has none."""
        if parameter.start is not None:
            return (parameter.start,)
        if parameter.name == "sigma":
            return (sigma_from_area(self._area()),)
        if parameter.name == "wavelength":
            return (self._wavelength,)
        if parameter.name == "r0":
            return (self._seeing_r0(), *_START_R0)
        return _START_AMPLITUDE if parameter.name == "amplitude" else (0.0,)

    def _area(self) -> int:
        """Return the number of pixels above half of the maximum."""
        values = self.data.values
        level = np.median(values)
        return int(np.count_nonzero(values - level > 0.5 * (values.max() - level)))

    def _seeing_r0(self) -> float:
        """Return the Fried parameter at 500 nm of seeing with the full width at half maximum of the star.

        It is 0.98 wavelength / r0 (Dierickx 1992, J. Mod. Opt. 39, 569), after the diffraction is removed.
        """
        pixels = 2.0 * np.sqrt(self._area() / np.pi) / self._optics.resolution(self._wavelength)
        return float(
            0.98
            * self._optics.telescope_diameter
            / np.sqrt(max(pixels**2 - 1.0, 0.1))
            * (R0_WAVELENGTH / self._wavelength) ** 1.2
        )

    def _scaled(self, start: Doubles, parameters: Sequence[Parameter]) -> tuple[float, Doubles]:
        """Return chi squared and the start values, with the best factor and const if these are not given."""
        values, start = self.data.values, start.copy()
        image = self.star_at(start).image[self.data.used]
        columns = np.stack([image, np.ones(image.size)], axis=1)
        is_open = np.array([p.start is None for p in parameters[-2:]])
        if is_open.any():
            target = values - columns[:, ~is_open] @ start[-2:][~is_open]
            matrix = columns[:, is_open] * self.data.weight[:, None]
            start[-2:][is_open] = np.linalg.lstsq(matrix, target * self.data.weight, rcond=None)[0]
            start = np.clip(start, self.lower, self.upper)
        return float(np.sum(((columns @ start[-2:] - values) * self.data.weight) ** 2)), start


class Solution(NamedTuple):
    """Best values of the free parameters, and their errors, or None to derive these from the Jacobian."""

    values: Doubles
    converged: bool
    errors: Doubles | None = None


Solver = Callable[[FitProblem], Solution]
