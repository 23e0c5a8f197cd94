"""Fourier transforms of real planes of float32, of as many columns or rows at once as a vector has lanes.

A spectrum is an array of float32 of shape (blocks, width, 2, `LANES`): for each block of `LANES` frequencies
along y and each frequency along x, their real and their imaginary parts. Only the frequencies along y up to
half of the height are kept, as for any real plane; those that fill up the last block repeat others.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from llvmlite import binding
from numba import carray, cfunc, njit, types
from numpy.typing import NDArray

from lucidcube.kernels.fourier.direct_sums import Floats, Support
from lucidcube.kernels.fourier.simd.lanes import RADICES, join_columns, split_columns, transform_pass
from lucidcube.kernels.fourier.simd.panels import (
    clear_rows,
    copy_rows,
    load_columns,
    multiply_rows,
    store_columns,
)
from lucidcube.kernels.fourier.simd.vectors import LANES, PAIR_DISTANCE, ROW

GROUP = 2 * PAIR_DISTANCE
LEAST_LENGTH = 32
LONGER = 1.5
"""A transform that saves one pass of three or more is the faster one only if it is less than this longer."""
CACHE_LINE, PAGE = 16, 1024
"""Sizes in float32 numbers."""


class Plan(NamedTuple):
    """A plan for transforms of one length: its passes, and their twiddle factors one after the other."""

    length: int
    radices: NDArray[np.int64]
    twiddles: Floats


@cache
def good_length(least: int) -> int:
    """Return the length >= `least`, and >= 32, whose transform is fastest.

    The time of a pass is proportional to the length, so that it is the smallest product of 2, 3 and 5, or a
    larger one that needs fewer passes.
    """
    lengths = [int(scipy.fft.next_fast_len(max(least, LEAST_LENGTH), real=True))]
    while lengths[-1] < LONGER * lengths[0]:
        lengths.append(int(scipy.fft.next_fast_len(lengths[-1] + 1, real=True)))
    return min(lengths, key=lambda length: (length * len(plan(length).radices), length))


@cache
def plan(length: int) -> Plan:
    """Return the plan for a length; raise ValueError for one that the passes cannot do."""
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
    return Plan(length, np.array(radices, np.int64), np.concatenate(parts).astype(np.float32))


@cache
def _factors(length: int) -> tuple[int, ...] | None:
    """Return the fewest radices whose product is the length, and of those the most equal ones, ascending."""
    if length == 1:
        return ()
    tails = [(radix, _factors(length // radix)) for radix in RADICES if length % radix == 0]
    found = [tuple(sorted((radix, *tail))) for radix, tail in tails if tail is not None]
    return min(found, key=lambda radices: (len(radices), sum(radices)), default=None)


class Transfer(NamedTuple):
    """The transform of a PSF, for planes of so many columns: plans along y and x, and the flat spectrum."""

    y: Plan
    x: Plan
    factors: Floats
    columns: int


class Workspace(NamedTuple):
    """Scratch memory of one thread: `rows` for columns transformed along y, `one` and `other` for panels."""

    rows: Floats
    one: Floats
    other: Floats


def workspace(height: int, width: int, columns: int) -> Workspace:
    """Return scratch memory for transforms of up to (height, width) of planes of up to so many columns."""
    panel = (max(height, width) + 1) * ROW
    # If both panels had the same offset within a page, the processor would take a read from one for a read of
    # what it has just written to the other, and would wait.
    apart = -(-panel // PAGE) * PAGE + PAGE // 4
    panels = _aligned(apart + panel)
    rows = _aligned(blocks_of(height) * padded_length(columns) * ROW)
    return Workspace(rows, panels[:panel], panels[apart:])


@njit(cache=True, nogil=True, inline="always")
def blocks_of(height: int) -> int:
    """Return the number of blocks of `LANES` frequencies along y."""
    return (height // 2 + LANES) // LANES


@njit(cache=True, nogil=True, inline="always")
def padded_length(columns: int) -> int:
    """Return the row length that holds whole groups of columns, which are transformed together."""
    return (columns + GROUP - 1) // GROUP * GROUP


def padded(plane: NDArray[np.generic]) -> Floats:
    """Return a copy of a plane whose rows are extended by zeros to the `padded_length`."""
    height, width = plane.shape
    length = padded_length(width)
    result = _aligned(height * length).reshape(height, length)
    result[:, :width] = plane
    return result


def _aligned(size: int) -> Floats:
    """Return zeros that begin at a cache line, so that no vector lies across two."""
    raw = np.zeros(size + CACHE_LINE, np.float32)
    begin = -(raw.ctypes.data // raw.itemsize) % CACHE_LINE
    return raw[begin : begin + size]


def spectrum(plane: Floats, shape: tuple[int, int], space: Workspace | None = None) -> Floats:
    """Return twice the transform of a finite plane, in the order of the module.

    The plane is padded by zeros at its end to `shape`, which must be good lengths and at least its own shape.
    A workspace for these sizes saves memory that is not in the cache, at three times the cost of a transform.
    """
    (ny, nx), (height, width) = plane.shape, shape
    if ny > height or nx > width:
        raise ValueError(f"a plane of {plane.shape} is larger than its transform of {shape}")
    plan_y, plan_x = plan(height), plan(width)
    result = _aligned(blocks_of(height) * width * ROW)
    space = workspace(height, width, nx) if space is None else space
    forward_columns(padded(plane), Support(0, ny, 0, nx, ny * nx), plan_y, space)
    _forward_rows(nx, height, plan_x, space, result)
    return result.reshape(-1, width, 2, LANES)


# The passes are most of the code of a transform. The compiler would translate them again within each function
# that transforms something; instead they are compiled once, and called as if they came from a C library.
FLOATS, INTEGERS = types.CPointer(types.float32), types.CPointer(types.int64)
PASSES = "lucidcube_simd_passes"


@cfunc(types.int64(types.int64, INTEGERS, FLOATS, types.int64, FLOATS, FLOATS), cache=True)
def _passes(length: int, radices: Any, twiddles: Any, swapped: int, one: Any, other: Any) -> int:
    """Do all passes of `transform`, which see; arrays are given by their addresses."""
    factors = carray(twiddles, 2 * length * radices[0])  # an upper limit of their number
    source, target = carray(one, length * ROW), carray(other, length * ROW)
    left, stride, number, begin = length, 1, 0, 0
    while left > 1:
        radix = radices[number]
        transform_pass(source, target, factors[begin:], radix, left, stride, swapped)
        left //= radix
        stride *= radix
        number += 1
        begin += 2 * left * (radix - 1)
        source, target = target, source
    return number % 2


binding.add_symbol(PASSES, _passes.address)
_call_passes = types.ExternalFunction(PASSES, _passes._sig)


@njit(cache=True, nogil=True, inline="always")
def transform(plan: Plan, swapped: int, one: Floats, other: Floats) -> bool:
    """Transform the panel in `one`, inversely if `swapped` is 1; return whether the result is in `other`."""
    given = plan.radices.ctypes, plan.twiddles.ctypes
    return _call_passes(plan.length, given[0], given[1], swapped, one.ctypes, other.ctypes) == 1


@njit(cache=True, nogil=True)
def forward_columns(plane: Floats, support: Support, plan: Plan, space: Workspace) -> None:
    """Transform the columns of the support of a padded plane along y.

    `space.rows` then holds twice the results, block by block, for whole groups of columns: from the group
    that holds the first column of the support to that which holds the last one.
    """
    n, step, top, bottom = plan.length, plane.shape[1], support.top, support.bottom
    first, last = support.left // GROUP * GROUP, padded_length(support.right)
    for number in range((last - first) // ROW):
        x = first + first_column(number)
        clear_rows(space.one, top, 0)
        clear_rows(space.one, n - bottom, bottom * ROW)
        load_columns(plane, space.one, bottom - top, top * step + x, step, top * ROW)
        panel = space.other if transform(plan, 0, space.one, space.other) else space.one
        copy_rows(panel, panel, 1, 0, n * ROW)
        for block in range(blocks_of(n)):
            split_columns(panel, space.rows, n, block * LANES, (block * (last - first) + x - first) * ROW)


@njit(cache=True, nogil=True, inline="always")
def filter_rows(support: Support, transfer: Transfer, conjugate: int, space: Workspace) -> None:
    """Transform the results of `forward_columns` along x, multiply them by a spectrum, and transform back.

    If `conjugate` is 1, its conjugate is taken. `space.rows` then holds all columns of the plane.
    """
    n = transfer.x.length
    given = padded_length(support.right) - support.left // GROUP * GROUP
    kept = padded_length(transfer.columns)
    # The last block comes first: longer rows must not overwrite shorter ones that are still to be read.
    for block in range(blocks_of(transfer.y.length) - 1, -1, -1):
        begin = block * given * ROW
        exchanged = _forward_row(space, begin, support.left, support.right, transfer.x)
        one, other = (space.other, space.one) if exchanged else (space.one, space.other)
        multiply_rows(one, transfer.factors, n, block * n * ROW, conjugate)
        result = other if transform(transfer.x, 1, one, other) else one
        _keep_row(result, n, block, kept, space.rows)


@njit(cache=True, nogil=True, inline="always")
def inverse_row(plan: Plan, block: int, width: int, space: Workspace) -> None:
    """Transform a block of a spectrum, in `space.one`, back along x into its place in `space.rows`."""
    result = space.other if transform(plan, 1, space.one, space.other) else space.one
    _keep_row(result, plan.length, block, width, space.rows)


@njit(cache=True, nogil=True, inline="always")
def inverse_columns(plan: Plan, space: Workspace, out: Floats) -> None:
    """Transform the results of `filter_rows` or `inverse_row` back along y, into a padded plane."""
    height, width = out.shape
    for number in range(width // ROW):
        x = first_column(number)
        store_columns(inverse_panel(x, width, plan, space), out, height, x, width)


@njit(cache=True, nogil=True, inline="always")
def inverse_panel(x: int, width: int, plan: Plan, space: Workspace) -> Floats:
    """Return the panel with first column x of the plane that `inverse_columns` would make."""
    for block in range(blocks_of(plan.length)):
        join_columns(space.rows, space.one, plan.length, block * LANES, (block * width + x) * ROW)
    return space.other if transform(plan, 1, space.one, space.other) else space.one


@njit(cache=True, nogil=True, inline="always")
def first_column(number: int) -> int:
    """Return the first column of a panel by its number; a group of columns fills one or more panels."""
    panels = PAIR_DISTANCE // LANES
    return number // panels * GROUP + number % panels * LANES


@njit(cache=True, nogil=True, inline="always")
def _forward_row(space: Workspace, begin: int, left: int, right: int, plan: Plan) -> bool:
    """Transform a block of `forward_columns` along x; return whether the result is in `other`."""
    clear_rows(space.one, left, 0)
    copy_rows(space.rows, space.one, right - left, begin + left % GROUP * ROW, left * ROW)
    clear_rows(space.one, plan.length - right, right * ROW)
    return transform(plan, 0, space.one, space.other)


@njit(cache=True, nogil=True, inline="always")
def _keep_row(panel: Floats, n: int, block: int, kept: int, rows: Floats) -> None:
    """Copy the columns of a block to `rows` for `inverse_columns`, followed by zeros."""
    begin, count = block * kept * ROW, min(kept, n)
    copy_rows(panel, rows, count, 0, begin)
    clear_rows(rows, kept - count, begin + count * ROW)


@njit(cache=True, nogil=True)
def _forward_rows(columns: int, height: int, plan: Plan, space: Workspace, result: Floats) -> None:
    n = plan.length
    given = padded_length(columns)
    for block in range(blocks_of(height)):
        panel = space.other if _forward_row(space, block * given * ROW, 0, columns, plan) else space.one
        copy_rows(panel, result, n, 0, block * n * ROW)
