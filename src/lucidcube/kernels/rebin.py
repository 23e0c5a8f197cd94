"""Spectral rebinning: weighted combinations of channels that are point samples at their centres."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numba import njit

Response = Literal["triangle", "rectangle"]
Operation = Literal["mean", "sum", "mean_err"]

EDGE = 1e-6
"""Fraction of a step within which two positions are the same: axes are made of rounded decimals."""


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
    table: np.ndarray, data: np.ndarray, variance: np.ndarray | None = None, operation: Operation = "mean"
) -> tuple[np.ndarray, ...]:
    """Combine input planes into output planes.

    Parameters
    ----------
    table
        (output, input) weights.
    data
        (input, y, x) float32; NaN is left out and the other weights count for it.
    variance
        As `data`, or None.
    operation
        ``mean``: sum(w x)/sum(w). ``sum``: sum(w x), scaled up by the weight that NaN left out.
        ``mean_err``: sqrt(sum(w x^2)/sum(w)).

    Returns
    -------
    tuple of numpy.ndarray
        (output, y, x) float32, and its variance if one came in (to first order for ``mean_err``);
        NaN where no input was valid. A NaN variance of a valid input makes the variance NaN.
    """
    out = np.empty((table.shape[0], *data.shape[1:]), np.float32)
    out_variance = np.empty(out.shape if variance is not None else (0, 0, 0), np.float32)
    known = data if variance is None else variance
    mode = {"mean": 0, "sum": 1, "mean_err": 2}[operation]
    # The largest datum sets the scale for squares: float32 has no room for 1e-20 squared.
    largest = float(np.nanmax(np.abs(data), initial=0.0, where=np.isfinite(data))) if mode == 2 else 1.0
    _combine(table.astype(np.float32), data, known, mode, np.float32(largest or 1.0), out, out_variance)
    return (out,) if variance is None else (out, out_variance)


@njit(cache=True, nogil=True)
def _combine(
    table: np.ndarray,
    data: np.ndarray,
    variance: np.ndarray,
    mode: int,
    largest: np.float32,
    out: np.ndarray,
    out_variance: np.ndarray,
) -> None:  # pragma: no cover - compiled
    count, height, width = data.shape
    with_variance = out_variance.shape[0] > 0
    zero = np.float32(0)
    total, weight = np.empty(width, np.float32), np.empty(width, np.float32)
    spread = np.empty(width, np.float32)
    for j in range(out.shape[0]):
        everything = zero
        for k in range(count):
            everything += table[j, k]
        for y in range(height):
            total[:], weight[:], spread[:] = zero, zero, zero
            for k in range(count):
                w = table[j, k]
                if w == zero:
                    continue
                for x in range(width):
                    value = data[k, y, x]
                    good = np.isfinite(value)
                    value = value if good else zero
                    part = value / largest
                    total[x] += w * part * part if mode == 2 else w * value
                    weight[x] += w if good else zero
                    if with_variance:
                        slope = w * part if mode == 2 else w
                        spread[x] += slope * slope * variance[k, y, x] if good else zero
            for x in range(width):
                if weight[x] == zero:
                    out[j, y, x] = np.nan
                    if with_variance:
                        out_variance[j, y, x] = np.nan
                    continue
                scale = everything / weight[x] if mode == 1 else np.float32(1) / weight[x]
                mean = total[x] * scale
                out[j, y, x] = np.sqrt(mean) * largest if mode == 2 else mean
                if with_variance:
                    gain = scale * scale
                    if mode == 2:
                        gain = gain / mean if mean > zero else np.float32(np.nan)
                    out_variance[j, y, x] = spread[x] * gain
