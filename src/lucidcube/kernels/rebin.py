"""Spectral rebinning: weighted combinations of channels that are point samples at their centres."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numba import njit

Response = Literal["triangle", "rectangle"]
Operation = Literal["mean", "sum", "mean_err"]

STREAM_BYTES = 2 << 20
"""Input that is read at once: enough for the disk, and small beside a block."""

EDGE = 1e-6
"""Fraction of a step within which two positions are the same: axes are made of rounded decimals."""


class Planes(Protocol):
    """What is sliced along its first axis like a cube (wavelength, y, x)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Planes, rows and columns."""
        ...

    def __getitem__(self, key: Any) -> np.ndarray:
        """A run of planes as an array."""
        ...


class Bins(NamedTuple):
    """A new spectral axis.

    Attributes
    ----------
    centre
        (output,) positions of the new channels.
    lo, hi
        (output,) the run of input channels that each is made of; empty where there are none.
    """

    centre: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


def bins(axis: np.ndarray, step: float, width: float, response: Response) -> Bins:
    """Place the output channels: m_0 = l_0, m_j = m_0 + j * step while m_j <= l_last.

    Parameters
    ----------
    axis
        (input,) monotonic positions of the input channels; a falling axis gives a falling one.
    step, width
        Distance and full width at half maximum of the output channels, > 0, in the axis' units.
    response
        Shape of an output channel.

    Returns
    -------
    Bins
        The new axis.
    """
    if axis.size == 1:
        return Bins(axis.copy(), np.array([0]), np.array([1]))
    span = abs(axis[-1] - axis[0])
    count = int(np.floor(span / step + EDGE)) + 1
    direction = 1.0 if axis[-1] > axis[0] else -1.0
    centre = axis[0] + direction * step * np.arange(count)
    reach = width if response == "triangle" else width / 2
    rising, middle = direction * axis, direction * centre
    lo = np.searchsorted(rising, middle - reach * (1 + EDGE), side="left")
    hi = np.searchsorted(rising, middle + reach * (1 + EDGE), side="right")
    return Bins(centre, lo, hi)


def channel_widths(axis: np.ndarray) -> np.ndarray:
    """Width of each channel, from mid-point to mid-point: (input,) > 0; all 1 on a uniform axis."""
    steps = np.abs(np.diff(axis))
    if steps.size < 2 or np.ptp(steps) <= 1e-3 * steps.mean():
        return np.ones(axis.size)
    return np.concatenate([steps[:1], (steps[:-1] + steps[1:]) / 2, steps[-1:]]) / steps.mean()


def weights(axis: np.ndarray, centre: np.ndarray, width: float, response: Response) -> np.ndarray:
    """R(l_i - m_j): what each input channel counts in each output channel.

    Parameters
    ----------
    axis
        (input,) positions of the input channels.
    centre
        (output,) positions of the output channels.
    width
        Full width at half maximum of R.
    response
        ``triangle`` reaches zero at +-width; ``rectangle`` is `width` wide, and a channel just on its
        edge counts half, so that neighbouring rectangles share it.

    Returns
    -------
    numpy.ndarray
        (output, input) float64, unit peak.
    """
    distance = np.abs(axis[None, :] - centre[:, None]) / width
    if response == "triangle":
        table = np.clip(1 - distance, 0, None)
        table[table < EDGE] = 0
    else:
        table = np.where(distance < 0.5, 1.0, 0.0)
        table[np.abs(distance - 0.5) < EDGE] = 0.5
    if axis.size == 1:
        table[:] = 1
    return table


def rebin_block(
    table: np.ndarray, data: Planes, variance: Planes | None = None, operation: Operation = "mean"
) -> tuple[np.ndarray, ...]:
    """Combine input planes into output planes.

    The inputs are read a few planes at a time, in order, so they may be far larger than what is made of
    them; the result does not depend on how many.

    Parameters
    ----------
    table
        (output, input) weights.
    data
        (input, y, x) float32, an array or anything that is sliced like one along its first axis; NaN and
        infinite values are left out and the other weights count for them.
    variance
        As `data`, or None.
    operation
        ``mean``: sum(w x)/sum(w). ``sum``: sum(w x), scaled up by the weight that NaN left out.
        ``mean_err``: sqrt(sum(w x^2)/sum(w)), summed in float64, because squares of fluxes of 1e-20 are
        beyond float32.

    Returns
    -------
    tuple of numpy.ndarray
        (output, y, x) float32, and its variance if one came in (to first order for ``mean_err``);
        NaN where no input was valid. A NaN variance of a valid input makes the variance NaN.
    """
    shape = (table.shape[0], *data.shape[1:])
    squares = operation == "mean_err"
    sums = np.float64 if squares else np.float32
    total, weight = np.zeros(shape, sums), np.zeros(shape, np.float32)
    spread = np.zeros(shape if variance is not None else (0, 0, 0), sums)
    table = table.astype(np.float32)
    at_once = max(1, STREAM_BYTES // (4 * shape[1] * shape[2] or 1))
    for first in range(0, table.shape[1], at_once):
        last = min(first + at_once, table.shape[1])
        touched = np.flatnonzero(table[:, first:last].any(axis=1))
        if touched.size:
            planes = np.ascontiguousarray(data[first:last])
            spreads = planes if variance is None else np.ascontiguousarray(variance[first:last])
            rows = slice(touched[0], touched[-1] + 1)
            _accumulate(
                table[rows, first:last], planes, spreads, squares, total[rows], weight[rows], spread[rows]
            )
    _finish(table.sum(axis=1), total, weight, spread, {"mean": 0, "sum": 1, "mean_err": 2}[operation])
    out = total.astype(np.float32, copy=False)
    return (out,) if variance is None else (out, spread.astype(np.float32, copy=False))


@njit(cache=True, nogil=True)
def _accumulate(
    table: np.ndarray,
    data: np.ndarray,
    variance: np.ndarray,
    squares: bool,
    total: np.ndarray,
    weight: np.ndarray,
    spread: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Add planes to the sums, row by row so that the sums stay in the cache; always in order of the input."""
    zero = np.float32(0)
    with_variance = spread.shape[0] > 0
    for y in range(data.shape[1]):
        for j in range(table.shape[0]):
            for k in range(table.shape[1]):
                w = table[j, k]
                if w == zero:
                    continue
                for x in range(data.shape[2]):
                    good = np.isfinite(data[k, y, x])
                    value = total.dtype.type(data[k, y, x] if good else zero)
                    total[j, y, x] += w * value * value if squares else w * value
                    weight[j, y, x] += w if good else zero
                    if with_variance:
                        slope = w * value if squares else total.dtype.type(w)
                        spread[j, y, x] += slope * slope * variance[k, y, x] if good else zero


@njit(cache=True, nogil=True)
def _finish(
    everything: np.ndarray, total: np.ndarray, weight: np.ndarray, spread: np.ndarray, mode: int
) -> None:  # pragma: no cover - compiled
    """Turn sums into means (0), scaled sums (1) or root mean squares (2), in place."""
    one = total.dtype.type(1)
    for j in range(total.shape[0]):
        for y in range(total.shape[1]):
            for x in range(total.shape[2]):
                w = weight[j, y, x]
                if w == 0:
                    total[j, y, x] = np.nan
                    if spread.shape[0] > 0:
                        spread[j, y, x] = np.nan
                    continue
                scale = everything[j] / w if mode == 1 else one / w
                mean = total[j, y, x] * scale
                total[j, y, x] = np.sqrt(mean) if mode == 2 else mean
                if spread.shape[0] > 0:
                    gain = scale * scale
                    if mode == 2:
                        gain = gain / mean if mean > 0 else total.dtype.type(np.nan)
                    spread[j, y, x] *= gain
