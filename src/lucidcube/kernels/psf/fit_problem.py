"""The least-squares problem that a parametric star model poses to a solver."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.psf.models import ParameterSpec, StarFunction
from lucidcube.kernels.psf.optical_psf import Optics, StarImage

_DIFFERENCE_STEP = 1e-6  # relative; models are smooth in float64


class FitData(NamedTuple):
    """The pixels that count in a fit."""

    values: NDArray[np.float64]
    """One-dimensional."""
    weight: NDArray[np.float64]
    """Inverse standard deviations; ones without a variance."""
    used: NDArray[np.bool_]
    """(y, x): where the values come from."""
    weighted: bool
    """The weights come from a variance."""


class FitProblem:
    """Weighted residuals of a parametric model as a function of its free parameters.

    Parameters
    ----------
    data
        Pixels to fit.
    star
        The model's star of unit flux.
    parameters
        All parameters: x, y, those of the shape, factor, const.
    wavelength
        Metres.
    optics
        Telescope and pixel size.
    """

    def __init__(
        self,
        data: FitData,
        star: StarFunction,
        parameters: tuple[ParameterSpec, ...],
        wavelength: float,
        optics: Optics,
    ) -> None:
        self.data = data
        self.star = star
        self.wavelength = wavelength
        self.optics = optics
        self.shape = (data.used.shape[0], data.used.shape[1])
        self.lower = np.array([p.lower for p in parameters])
        self.upper = np.array([p.upper for p in parameters])
        self.free = np.array([p.free for p in parameters])
        self.start = self._start_values(parameters)

    def star_at(self, values: NDArray[np.float64], *, centred: bool = False) -> StarImage:
        """Return the star of unit flux for all parameter values, or the same about the central pixel."""
        x, y = (0.0, 0.0) if centred else (float(values[0]), float(values[1]))
        centre_y, centre_x = (self.shape[0] - 1) / 2 + y, (self.shape[1] - 1) / 2 + x
        return self.star(values[2:-2], self.wavelength, self.optics, self.shape, centre_y, centre_x)

    def full(self, free_values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return all parameter values."""
        values = self.start.copy()
        values[self.free] = free_values
        return values

    def residual(self, free_values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (model - data) / sigma, one-dimensional."""
        values = self.full(free_values)
        image = self.star_at(values).image[self.data.used]
        return (values[-2] * image + values[-1] - self.data.values) * self.data.weight

    def jacobian(self, free_values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the derivatives of the residual, (pixel, free parameter).

        Those by position, factor and const are exact, those by the shape are forward differences.
        """
        values = self.full(free_values)
        used, weight = self.data.used, self.data.weight
        star = self.star_at(values)
        base = star.image[used]
        columns = []
        for index in np.flatnonzero(self.free):
            if index == 0:
                column = values[-2] * star.by_x[used]
            elif index == 1:
                column = values[-2] * star.by_y[used]
            elif index == values.size - 2:
                column = base
            elif index == values.size - 1:
                column = np.ones(base.size)
            else:
                step = _DIFFERENCE_STEP * max(abs(values[index]), 1e-3)
                step = -step if values[index] + step > self.upper[index] else step
                moved = values.copy()
                moved[index] += step
                column = values[-2] * (self.star_at(moved).image[used] - base) / step
            columns.append(column * weight)
        return np.stack(columns, axis=1)

    def log_likelihood(self, free_values: NDArray[np.float64]) -> float:
        """Return minus half of chi squared."""
        return -0.5 * float(np.sum(self.residual(free_values) ** 2))

    def _start_values(self, parameters: tuple[ParameterSpec, ...]) -> NDArray[np.float64]:
        """Return the start values, those left open taken from the plane."""
        from_plane = {"sigma": self._sigma_from_area(), "wavelength": self.wavelength}
        start = np.array(
            [p.start if p.start is not None else from_plane.get(p.name, 0.0) for p in parameters], dtype=float
        )
        start = np.clip(start, self.lower, self.upper)
        open_factor, open_const = parameters[-2].start is None, parameters[-1].start is None
        shape = self.star_at(start).image[self.data.used]
        target, columns = self.data.values.copy(), []
        if open_factor:
            columns.append(shape)
        else:
            target -= start[-2] * shape
        if open_const:
            columns.append(np.ones(shape.size))
        else:
            target -= start[-1]
        if columns:
            weight = self.data.weight
            matrix = np.stack(columns, axis=1) * weight[:, None]
            solution = np.linalg.lstsq(matrix, target * weight, rcond=None)[0]
            start[-2:][[open_factor, open_const]] = solution
        return np.clip(start, self.lower, self.upper)

    def _sigma_from_area(self) -> float:
        """Return the width of the Gaussian with as many pixels above half the maximum."""
        level = np.median(self.data.values)
        above = np.count_nonzero(self.data.values - level > 0.5 * (self.data.values.max() - level))
        return float(np.sqrt(above / (2.0 * np.pi * np.log(2.0))))


def select_pixels(plane: NDArray[np.floating], variance: NDArray[np.floating] | None) -> FitData:
    """Return the finite pixels with their weights; see `fit_psf`."""
    used = np.isfinite(plane)
    weight = np.ones(np.count_nonzero(used))
    weighted = False
    if variance is not None:
        known = used & np.isfinite(variance) & (variance > 0.0)
        if known.any():
            used, weighted = known, True
            weight = 1.0 / np.sqrt(variance[used].astype(np.float64))
    return FitData(plane[used].astype(np.float64), weight, used, weighted)


def too_few(data: FitData, parameters: tuple[ParameterSpec, ...]) -> bool:
    """Tell whether the pixels cannot hold a star: too few, none positive, or all the same."""
    n_free = sum(p.free for p in parameters)
    return bool(data.values.size <= n_free + 2 or not data.values.max() > 0.0 or np.ptp(data.values) == 0.0)
