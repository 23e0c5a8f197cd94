"""Fourier transforms of real planes of float32, as many columns or rows at once as vector registers hold.

A spectrum is an array of float32 of shape (blocks, width, 2, `LANES`): block by block of `LANES` frequencies
along y, for each frequency along x their real and their imaginary parts. Only frequencies along y up to half
of the height are kept, as for any real plane, and what fills up the last block repeats others.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.fourier.simd.lanes import RADICES, join_columns, split_columns, transform_pass
from lucidcube.kernels.fourier.simd.panels import (
    clear_rows,
    copy_rows,
    load_columns,
    multiply_rows,
    store_columns,
)
from lucidcube.kernels.fourier.simd.vectors import APART, LANES, ROW

GROUP = 2 * APART
LEAST_LENGTH = 32
LONGER = 1.5
"""One that saves a pass of three, or of more, can be no longer than this and still pay."""
CACHE_LINE, PAGE = 16, 1024
"""Of the processor, in numbers of four bytes."""


class Plan(NamedTuple):
    """
    How to transform columns of one length.

    Attributes
    ----------
    length : int
    radices : array of int
        Of the passes; their product is the length.
    twiddles : array of float32
        Of all passes, see `lanes.transform_pass`.
    starts : array of int
        Where those of each pass begin.
    """

    length: int
    radices: NDArray[np.int64]
    twiddles: NDArray[np.float32]
    starts: NDArray[np.int64]


@cache
def good_length(least: int) -> int:
    """
    The length >= `least`, and >= 32, that is transformed soonest.

    A pass takes as long as the length; so it is the smallest product of 2, 3 and 5, or a larger one of fewer
    radices.
    """
    lengths = [int(scipy.fft.next_fast_len(max(least, LEAST_LENGTH), real=True))]
    while lengths[-1] < LONGER * lengths[0]:
        lengths.append(int(scipy.fft.next_fast_len(lengths[-1] + 1, real=True)))
    return min(lengths, key=lambda length: (length * len(plan(length).radices), length))


@cache
def plan(length: int) -> Plan:
    """
    The plan for a length.

    Raises
    ------
    ValueError
        If it is no `good_length`.
    """
    radices = _factors(length) if length >= LEAST_LENGTH else None
    if radices is None:
        raise ValueError(
            f"cannot transform columns of {length}: the next good length is {good_length(length)}"
        )
    left, parts = length, []
    for radix in radices:
        angles = -2 * np.pi * np.outer(np.arange(left // radix), np.arange(1, radix)) / left
        parts.append(np.stack([np.cos(angles), np.sin(angles)], axis=-1).ravel())
        left //= radix
    starts = np.cumsum([0] + [part.size for part in parts[:-1]])
    return Plan(length, np.array(radices), np.concatenate(parts).astype(np.float32), starts)


@cache
def _factors(length: int) -> tuple[int, ...] | None:
    """The fewest radices whose product is the length, then the most equal ones, rising."""
    if length == 1:
        return ()
    tails = [(radix, _factors(length // radix)) for radix in RADICES if length % radix == 0]
    found = [tuple(sorted((radix, *tail))) for radix, tail in tails if tail is not None]
    return min(found, key=lambda radices: (len(radices), sum(radices)), default=None)


class Workspace(NamedTuple):
    """
    Memory for transforms up to a size; for one thread at a time.

    Attributes
    ----------
    rows : array of float32
        Room for half-transformed columns: those of all blocks of frequencies.
    one, other : array of float32
        Panels.
    """

    rows: NDArray[np.float32]
    one: NDArray[np.float32]
    other: NDArray[np.float32]


def workspace(height: int, width: int, columns: int) -> Workspace:
    """Memory for transforms of up to (height, width) of planes of up to so many columns."""
    panel = (max(height, width) + 1) * ROW
    # If both panels lay alike within a page, the processor would take reads of one for what it has just
    # written to the other, and wait.
    apart = -(-panel // PAGE) * PAGE + PAGE // 4
    panels = _aligned(apart + panel)
    rows = _aligned(blocks_of(height) * padded_length(columns) * ROW)
    return Workspace(rows, panels[:panel], panels[apart:])


@njit(cache=True, nogil=True)
def blocks_of(height: int) -> int:
    """Blocks of `LANES` frequencies along y."""
    return (height // 2 + LANES) // LANES


@njit(cache=True, nogil=True)
def padded_length(columns: int) -> int:
    """Length of rows that can be cut into whole groups of 2 `APART` columns, which share the transforms."""
    return (columns + GROUP - 1) // GROUP * GROUP


def padded(plane: NDArray[np.generic]) -> NDArray[np.float32]:
    """New plane (y, padded x) whose rows go on with zeros, as the transforms want them."""
    height, width = plane.shape
    length = padded_length(width)
    result = _aligned(height * length).reshape(height, length)
    result[:, :width] = plane
    return result


def _aligned(size: int) -> NDArray[np.float32]:
    """Zeros beginning at a cache line: a vector then never lies across two."""
    raw = np.zeros(size + CACHE_LINE, np.float32)
    begin = -(raw.ctypes.data // raw.itemsize) % CACHE_LINE
    return raw[begin : begin + size]


def spectrum(
    plane: NDArray[np.floating], shape: tuple[int, int], space: Workspace | None = None
) -> NDArray[np.float32]:
    """
    Transform a real plane.

    Parameters
    ----------
    plane : array of float, (y, x)
        Finite.
    shape : (int, int)
        Shape (y, x) to which it is padded by zeros at its end: good lengths.
    space : Workspace, optional
        For planes and transforms of at least these sizes: fresh memory costs three times the transform.

    Returns
    -------
    array of float32, (blocks, width, 2, lanes)
        Twice the transform; see the module for the order.

    Raises
    ------
    ValueError
        If the plane is larger, or from `plan`.
    """
    height, width = shape
    if plane.shape[0] > height or plane.shape[1] > width:
        raise ValueError(f"a plane of {plane.shape} is larger than its transform of {shape}")
    result = _aligned(blocks_of(height) * width * ROW)
    space = workspace(height, width, plane.shape[1]) if space is None else space
    forward_columns(padded(plane), 0, plane.shape[0], 0, plane.shape[1], plan(height), space)
    _forward_rows(plane.shape[1], height, plan(width), space, result)
    return result.reshape(-1, width, 2, LANES)


@njit(cache=True, nogil=True)
def transform(plan: Plan, swapped: int, one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """
    Transform a panel that is in `one`; backwards where `swapped` is 1.

    Returns whether the result is in `other`.
    """
    left, stride, exchanged = plan.length, 1, False
    for number in range(plan.radices.size):
        source, target = (other, one) if exchanged else (one, other)
        radix, twiddles = plan.radices[number], plan.twiddles[plan.starts[number] :]
        transform_pass(source, target, twiddles, radix, left, stride, swapped)
        left //= radix
        stride *= radix
        exchanged = not exchanged
    return exchanged


@njit(cache=True, nogil=True)
def forward_columns(
    plane: NDArray[np.float32], top: int, bottom: int, left: int, right: int, plan: Plan, space: Workspace
) -> None:
    """
    Transform, along y, the columns left <= x < right of a plane of which no row is lit but top <= y < bottom.

    The plane is `padded`. `space.rows` then holds twice the results, block by block, each from the first
    column of the group that `left` is in, to the last of that of `right` - 1.
    """
    n, step = plan.length, plane.shape[1]
    first, last = left // GROUP * GROUP, padded_length(right)
    for number in range((last - first) // ROW):
        x = first + first_column(number)
        clear_rows(space.one, top, 0)
        clear_rows(space.one, n - bottom, bottom * ROW)
        load_columns(plane, space.one, bottom - top, top * step + x, step, top * ROW)
        panel = space.other if transform(plan, 0, space.one, space.other) else space.one
        copy_rows(panel, panel, 1, 0, n * ROW)
        for block in range(blocks_of(n)):
            split_columns(panel, space.rows, n, block * LANES, (block * (last - first) + x - first) * ROW)


@njit(cache=True, nogil=True)
def filter_rows(
    left: int,
    right: int,
    wanted: int,
    height: int,
    plan: Plan,
    transfer: NDArray[np.float32],
    conjugate: int,
    space: Workspace,
) -> None:
    """
    Transform what `forward_columns` made along x, multiply it by a spectrum, and transform it back.

    Parameters
    ----------
    left, right : int
        The columns that are lit.
    wanted : int
        Columns, from the first on, that `space.rows` then holds, and what is in their last group; not fewer
        than `right`.
    height : int
        Length of the transform along y.
    plan : Plan
        For that along x.
    transfer : array of float32
        Spectrum, flat.
    conjugate : int
        1 to multiply by its conjugate, or 0.
    space : Workspace
    """
    n = plan.length
    given, kept = padded_length(right) - left // GROUP * GROUP, padded_length(wanted)
    # From the last block on: longer rows must not overwrite shorter ones that are still to be read.
    for block in range(blocks_of(height) - 1, -1, -1):
        exchanged = _forward_row(space, block * given * ROW, left, right, plan)
        one, other = (space.other, space.one) if exchanged else (space.one, space.other)
        multiply_rows(one, transfer, n, block * n * ROW, conjugate)
        _keep_row(other if transform(plan, 1, one, other) else one, n, block, kept, space.rows)


@njit(cache=True, nogil=True)
def inverse_row(plan: Plan, block: int, width: int, space: Workspace) -> None:
    """Transform a block of a spectrum, in `space.one`, back along x; `space.rows` then holds its columns."""
    result = space.other if transform(plan, 1, space.one, space.other) else space.one
    _keep_row(result, plan.length, block, width, space.rows)


@njit(cache=True, nogil=True)
def inverse_columns(plan: Plan, space: Workspace, out: NDArray[np.float32]) -> None:
    """Transform what `filter_rows` or `inverse_row` made back along y, into a padded plane."""
    height, width = out.shape
    for number in range(width // ROW):
        x = first_column(number)
        store_columns(inverse_panel(x, width, plan, space), out, height, x, width)


@njit(cache=True, nogil=True)
def inverse_panel(x: int, width: int, plan: Plan, space: Workspace) -> NDArray[np.float32]:
    """The panel whose first column is x, of the plane of a padded width that `inverse_columns` would make."""
    for block in range(blocks_of(plan.length)):
        join_columns(space.rows, space.one, plan.length, block * LANES, (block * width + x) * ROW)
    return space.other if transform(plan, 1, space.one, space.other) else space.one


@njit(cache=True, nogil=True)
def first_column(number: int) -> int:
    """The first column of a panel, by its number: a group of columns fills `APART` / `LANES` panels."""
    panels = APART // LANES
    return number // panels * GROUP + number % panels * LANES


@njit(cache=True, nogil=True)
def _forward_row(space: Workspace, begin: int, left: int, right: int, plan: Plan) -> bool:
    """Transform a block of what `forward_columns` made along x; returns whether it is in `other` then."""
    clear_rows(space.one, left, 0)
    copy_rows(space.rows, space.one, right - left, begin + left % GROUP * ROW, left * ROW)
    clear_rows(space.one, plan.length - right, right * ROW)
    return transform(plan, 0, space.one, space.other)


@njit(cache=True, nogil=True)
def _keep_row(panel: NDArray[np.float32], n: int, block: int, kept: int, rows: NDArray[np.float32]) -> None:
    """Keep a block's columns for `inverse_columns`, followed by zeros: the transforms of no columns."""
    begin, count = block * kept * ROW, min(kept, n)
    copy_rows(panel, rows, count, 0, begin)
    clear_rows(rows, kept - count, begin + count * ROW)


@njit(cache=True, nogil=True)
def _forward_rows(
    columns: int, height: int, plan: Plan, space: Workspace, result: NDArray[np.float32]
) -> None:
    n = plan.length
    given = padded_length(columns)
    for block in range(blocks_of(height)):
        panel = space.other if _forward_row(space, block * given * ROW, 0, columns, plan) else space.one
        copy_rows(panel, result, n, 0, block * n * ROW)
