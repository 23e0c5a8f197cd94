"""Rebin spectrally: weighted combinations of channels that are point samples at their centres."""

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numba import njit

Response = Literal["triangle", "rectangle"]
Operation = Literal["mean", "sum", "mean_err"]

STREAM_BYTES = 2 << 20
"""Bytes of input that are read at once: large enough for efficient reads, small compared with a block."""

EDGE = 1e-6
"""Fraction of a step within which two positions are equal, because axes consist of rounded decimals."""


class Planes(Protocol):
    """Array, or object that is sliced like one along its first axis, of shape (wavelength, y, x)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any) -> np.ndarray: ...


class Bins(NamedTuple):
    """The output channels."""

    centre: np.ndarray
    """(output,) positions of the new channels."""
    lo: np.ndarray
    """(output,) first input channel of each output channel."""
    hi: np.ndarray
    """(output,) one more than the last input channel; equal to `lo` if there are none."""


def bins(axis: np.ndarray, step: float, width: float, response: Response) -> Bins:
    """Compute the output channels: m_0 = l_0, m_j = m_0 + j * step while m_j <= l_last.

    `axis` holds the monotonic positions (input,) of the input channels, and the output has the same
    direction. `step` and `width` (full width at half maximum) of the output channels are > 0, in the units of
    the axis.
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
    """Return the relative width (input,) of each channel between mid-points; 1 on a uniform axis."""
    steps = np.abs(np.diff(axis))
    if steps.size < 2 or np.ptp(steps) <= 1e-3 * steps.mean():
        return np.ones(axis.size)
    return np.concatenate([steps[:1], (steps[:-1] + steps[1:]) / 2, steps[-1:]]) / steps.mean()


def weights(axis: np.ndarray, centre: np.ndarray, width: float, response: Response) -> np.ndarray:
    """Return the weight R(l_i - m_j) of each input channel in each output channel: (output, input) float64.

    The positions of these channels are `axis` and `centre`. R has a peak of 1 and the full width at half
    maximum `width`. A triangle reaches zero at +-width; a channel exactly on the edge of a rectangle has half
    the weight, so that neighbouring rectangles share it.
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
    table: np.ndarray,
    data: Planes,
    variance: Planes | None = None,
    *,
    operation: Operation,
    at_once: int | None = None,
) -> tuple[np.ndarray, ...]:
    """Combine input planes into output planes.

    The inputs are read a few planes at a time, in order, so they can be much larger than the output. The
    result does not depend on the number of planes that are read at once.

    Parameters
    ----------
    table
        (output, input) weights.
    data
        (input, y, x) float32. NaN and infinite values are left out, and the weights are renormalised.
    variance
        Variance of `data`, same shape, or None.
    operation
        ``mean``: sum(w x)/sum(w). ``sum``: sum(w x), scaled up to compensate for missing inputs.
        ``mean_err``: sqrt(sum(w x^2)/sum(w)), summed in float64, because the squares of fluxes of 1e-20
        underflow in float32.
    at_once
        Number of input planes that are read at once; as many as are read efficiently if not given.

    Returns
    -------
    tuple of numpy.ndarray
        (output, y, x) float32, followed by its variance if one is given (to first order for
        ``mean_err``); NaN where no input is valid. The variance is NaN if that of a valid input is NaN.
    """
    shape = (table.shape[0], *data.shape[1:])
    squares = operation == "mean_err"
    sums = np.float64 if squares else np.float32
    total, weight = np.zeros(shape, sums), np.zeros(shape, np.float32)
    spread = np.zeros(shape if variance is not None else (0, 0, 0), sums)
    table = table.astype(np.float32)
    at_once = at_once or max(1, STREAM_BYTES // (4 * shape[1] * shape[2] or 1))
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
    _finish(table.sum(axis=1), total, weight, spread, operation)
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
    """Add planes to the sums in the order of the input, row by row so that the sums stay in the cache."""
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


def _finish(
    everything: np.ndarray, total: np.ndarray, weight: np.ndarray, spread: np.ndarray, operation: Operation
) -> None:
    """Turn sums into means, scaled sums or root mean squares, in place; NaN where the weight is zero."""
    for j in range(total.shape[0]):
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = (everything[j] if operation == "sum" else total.dtype.type(1)) / weight[j]
            total[j] *= scale
            if spread.shape[0] > 0:
                spread[j] *= scale * scale / total[j] if operation == "mean_err" else scale * scale
        if operation == "mean_err":
            np.sqrt(total[j], out=total[j])
