"""The objective of the edge-preserving estimate of several planes; see `deconvolution.edge_preserving`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.batched.arrays import Arrays
from lucidcube.kernels.batched.batches import Mask, Numbers, keep_rows, total
from lucidcube.kernels.batched.convolver import BatchConvolver
from lucidcube.kernels.deconvolution.stopping import LARGEST


class Objectives:
    """J of planes, as functions of b and p / `unit` on a grid.

    Parameters
    ----------
    arrays, convolver
        The array library, and the convolver of the grids.
    data, weight
        (plane, grid y, grid x): the data in units of the noise, and the reciprocal of the standard deviation.
    unit, relief
        The unit of the points, (plane, grid y, grid x), and the factors of both penalties, of which there are
        two arrays of this shape.
    penalty
        Penalty (plane, 1, 1) of the points.
    bright
        Data times weight (plane, 1, 1) must exceed this for a pixel to count in chi squared.
    limits
        Chi squared (plane,) at which an iteration ends, as a sum; None ends none.
    mu, delta, robust
        As for `deconvolution.edge_preserving.Objective`.
    """

    _on_device = ("_data", "_weight", "_penalty", "_bright", "_unit", "_relief_b", "_relief_p")

    def __init__(
        self,
        arrays: Arrays,
        convolver: BatchConvolver,
        data: Any,
        weight: Any,
        unit: Any,
        relief: tuple[Any, Any],
        penalty: Any,
        *,
        bright: Any,
        limits: Numbers | None,
        mu: float,
        delta: float,
        robust: float | None,
    ) -> None:
        self._arrays, self._xp, self._convolver = arrays, arrays.xp, convolver
        self._data, self._weight, self._penalty = data, weight, penalty
        self._bright, self._limits = bright, limits
        self._unit, (self._relief_b, self._relief_p) = unit, relief
        self._mu, self._delta, self._scale = mu, delta, 0.0 if robust is None else 1 / robust
        self._chi2 = np.full(data.shape[0], np.inf)

    def keep(self, rows: NDArray[np.intp]) -> None:
        """Keep these planes only."""
        numbers = ("_chi2",) if self._limits is None else ("_chi2", "_limits")
        keep_rows(self, self._arrays, self._on_device, numbers, rows)
        self._convolver = self._convolver.part(rows)

    def reached(self) -> Mask:
        """Return which planes (plane,) have reached their chi squared, at the last evaluation."""
        return np.zeros(self._chi2.size, bool) if self._limits is None else self._chi2 <= self._limits

    def evaluate(self, variables: Any) -> tuple[Numbers, Any]:
        """Return J (plane,) of variables (plane, 2 * grid y, grid x), first b then p, and its gradient."""
        height = self._data.shape[1]
        smooth, points = variables[:, :height], variables[:, height:]
        cost, slope = self._data_term(self._convolver.convolve(smooth + self._unit * points))
        back = self._convolver.correlate(slope)
        roughness, divergence = self._smoothness(smooth)
        penalised = self._penalty * self._relief_p
        gradient = self._xp.concat([back - self._mu * divergence, self._unit * (back + penalised)], axis=1)
        sums = self._xp.astype(cost, self._xp.float64) + self._mu * roughness
        return total(self._arrays, sums + penalised * self._unit * points), gradient

    def _data_term(self, model: Any) -> tuple[Any, Any]:
        """Return the terms of the data, and their derivatives."""
        residual = (model - self._data) * self._weight
        squares = residual * residual
        root = self._xp.sqrt(1 + self._scale**2 * squares)
        if self._limits is not None:
            counts = (self._weight > 0) & (self._data * self._weight > self._bright)
            clipped = self._xp.clip(squares, max=LARGEST)
            self._chi2 = total(self._arrays, self._xp.where(counts, clipped, 0))
        return squares / (1 + root), self._weight * residual / root

    def _smoothness(self, smooth: Any) -> tuple[Any, Any]:
        """Return the terms of the smoothness without its weight, and the divergence of their slopes."""
        along_y, along_x = self._xp.zeros_like(smooth), self._xp.zeros_like(smooth)
        along_y[:, :-1] = smooth[:, 1:] - smooth[:, :-1]
        along_x[:, :, :-1] = smooth[:, :, 1:] - smooth[:, :, :-1]
        squares = along_y * along_y + along_x * along_x
        size = self._xp.sqrt(squares + self._delta**2)
        terms = self._relief_b * squares / (size + self._delta)
        down, right = self._relief_b * along_y / size, self._relief_b * along_x / size
        divergence = down + right
        divergence[:, 1:] -= down[:, :-1]
        divergence[:, :, 1:] -= right[:, :, :-1]
        return terms, divergence
