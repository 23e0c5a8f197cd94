"""The objective of the edge-preserving estimate of several planes; see `deconvolution.edge_preserving`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lucidcube.kernels.deconvolution.stopping import LARGEST
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.convolver import StackConvolver
from lucidcube.kernels.stacked.stacks import Mask, Numbers, Rows, column, keep_rows, total


class Objectives:
    """J of planes, as functions of b and p / `unit` on a grid.

    Parameters
    ----------
    arrays, convolver
        The array library, and the convolver of the grids.
    data, weight
        (plane, grid y, grid x): the data in units of the noise, and the reciprocal of the standard deviation.
    unit, relief, groups
        The unit of the points (plane, grid y, grid x), the factors of the penalties of b and p, and those of
        the points within the penalty of groups, which are arrays of this shape; None if there are no groups.
    penalty
        Penalty (plane, 1, 1) of the points.
    bright
        Data times weight (plane, 1, 1) must exceed this for a pixel to count in chi squared.
    limits
        Chi squared (plane,) at which an iteration ends, as a sum; None ends none.
    robust
        What it is for `deconvolution.edge_preserving.Objective` (plane,).
    mu, delta
        As there.
    """

    _on_device = ("_data", "_weight", "_penalty", "_bright", "_scale", "_unit", "_relief_b", "_relief_p")

    def __init__(
        self,
        arrays: Arrays,
        convolver: StackConvolver,
        data: Any,
        weight: Any,
        unit: Any,
        relief: tuple[Any, Any],
        groups: Any | None,
        penalty: Any,
        *,
        bright: Any,
        limits: Numbers | None,
        robust: Sequence[float | None],
        mu: float,
        delta: float,
    ) -> None:
        self._arrays, self._xp, self._convolver = arrays, arrays.xp, convolver
        self._data, self._weight, self._penalty = data, weight, penalty
        self._bright, self._limits = bright, limits
        self._unit, (self._relief_b, self._relief_p), self._groups = unit, relief, groups
        self._mu, self._delta = mu, delta
        self._scale = column(arrays, [0.0 if limit is None else 1 / limit for limit in robust])
        self._chi2 = np.full(data.shape[0], np.inf)

    def keep(self, rows: Rows) -> None:
        """Keep these planes only."""
        numbers = ("_chi2",) if self._limits is None else ("_chi2", "_limits")
        others = () if self._groups is None else ("_groups",)
        keep_rows(self, self._arrays, (*self._on_device, *others), numbers, rows)
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
        terms = self._xp.astype(cost, self._xp.float64) + self._mu * roughness
        costs = total(self._arrays, terms + penalised * self._unit * points)
        if self._groups is not None:
            group_terms, slopes = self._group_penalty(points)
            gradient[:, height:] += slopes
            costs += total(self._arrays, group_terms)
        return costs, gradient

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

    def _group_penalty(self, points: Any) -> tuple[Any, Any]:
        """Return the terms of the penalty of groups, and its derivatives.

        Every pixel is in four squares; beyond the grid there is no light.
        """
        factor = self._groups * self._unit
        planes, height, width = points.shape
        wide = self._xp.zeros((planes, height + 2, width + 2), dtype=points.dtype, device=self._arrays.device)
        wide[:, 1:-1, 1:-1] = (factor * points) ** 2
        squares = _of_four(wide)
        root = self._xp.sqrt(squares + 1)
        quarter = 0.25 * self._penalty
        return quarter * squares / (root + 1), quarter * factor**2 * points * _of_four(1 / root)


def _of_four(planes: Any) -> Any:
    """Return the sums over squares of 2 by 2 pixels."""
    rows = planes[:, 1:] + planes[:, :-1]
    return rows[:, :, 1:] + rows[:, :, :-1]
