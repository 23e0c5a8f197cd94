"""The vectors of L-BFGS, kept for the variables only that move.

In a deconvolution most variables are zero and stay there: the sky, and points almost everywhere. So variables
become members when they may first rise above zero, and only members have columns in the vectors. Variables
that have returned to zero lose their membership from time to time. A new member has zeros in the older pairs.

The members are stored in blocks that hold a part of all vectors, so that a pass reads memory in sequence, and
all scalar products of a block are taken while it is in the cache.
"""

from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

Vector = NDArray[np.float32]

PAIRS = 8
"""Number of pairs of steps and changes of the gradient that are used."""
SLOTS = PAIRS + 1
"""Room for pairs, with one that is not yet accepted."""
GRADIENT, VALUE = 2 * SLOTS, 2 * SLOTS + 1
"""Rows of a block: steps, changes of the gradient, then these."""
ROWS = 2 * SLOTS + 2
BLOCK = 256
SCAN = 64
"""Number of variables that are skipped together if none of them becomes a member."""
PERIOD = 8
"""Number of accepted steps after which members without need are removed."""


class Memory:
    """The pairs, the gradient and the values of the variables that move.

    The present values of all variables, none of them negative, and their gradient are one-dimensional. Both
    arrays are used until the end: steps are written to the variables, and the gradient is read. `count` is
    the number of pairs that are used.
    """

    def __init__(self, variables: Vector, gradient: Vector) -> None:
        self._variables, self._gradient = variables, gradient
        # Memory that is not written to is not allocated by the operating system.
        self._blocks = np.zeros((-(-variables.size // BLOCK), ROWS, BLOCK), np.float32)
        self._members = np.empty(self._blocks.shape[0] * BLOCK, np.int32)
        self._is_member = np.zeros(variables.size, np.bool_)
        self._size = 0
        self._newest, self.count, self._accepted = SLOTS - 1, 0, 0
        self._enlist(initial=True)

    @property
    def _used(self) -> Vector:
        """The blocks that hold members."""
        return self._blocks[: -(-self._size // BLOCK)]

    @property
    def _indices(self) -> NDArray[np.int32]:
        """The indices of the members."""
        return self._members[: self._size]

    def products(self) -> NDArray[np.float64]:
        """Return the scalar products of steps, changes and gradient, in this order, over free variables."""
        return _products(self._used, _rows(self._newest, self.count))

    def step(self, factors: NDArray[np.float64], length: float) -> float:
        """Write the variables after a projected step along a sum of these vectors; return gradient . step."""
        scaled = (factors * length).astype(np.float32)
        return _step(self._used, self._indices, _rows(self._newest, self.count), scaled, self._variables)

    def difference(self) -> tuple[float, float, float, float]:
        """Form the pair of the present step, for `accept`.

        The products gradient . step, with the gradient after the step, step . change, step . step and
        change . change are returned.
        """
        slot = (self._newest + 1) % SLOTS
        return _difference(self._used, self._indices, slot, self._variables, self._gradient)

    def accept(self, pair: bool) -> None:
        """Make the variables and gradient after the step the present ones; keep the pair if it is good."""
        _refresh(self._used, self._indices, self._variables, self._gradient)
        if pair:
            self._newest = (self._newest + 1) % SLOTS
            self.count = min(self.count + 1, PAIRS)
        self._accepted += 1
        if self._accepted % PERIOD == 0:
            self._size = _remove(self._blocks, self._members, self._size, self._is_member)
        self._enlist()

    def forget(self) -> None:
        """Discard all pairs."""
        self.count = 0

    def _enlist(self, *, initial: bool = False) -> None:
        vectors = self._variables, self._gradient
        self._size = _enlist(self._blocks, self._members, self._size, self._is_member, *vectors, initial)


@cache
def _rows(newest: int, count: int) -> NDArray[np.int64]:
    """Return the rows of the steps, from the newest, of the changes of gradient, and of the gradient."""
    steps = [(newest - k) % SLOTS for k in range(count)]
    rows = np.array([*steps, *(row + SLOTS for row in steps), GRADIENT])
    rows.flags.writeable = False
    return rows


@njit(cache=True, nogil=True)
def _enlist(
    blocks: Vector,
    members: NDArray[np.int32],
    size: int,
    is_member: NDArray[np.bool_],
    variables: Vector,
    gradient: Vector,
    initial: bool,
) -> int:
    """Add the free variables that are not members; return the number of members.

    All that are not zero are members already, except for the `initial` ones.
    """
    zero = np.float32(0)
    for begin in range(0, variables.size, SCAN):
        value, slope = variables[begin : begin + SCAN], gradient[begin : begin + SCAN]
        known = is_member[begin : begin + SCAN]
        some = initial
        for k in range(slope.size):  # vectorised, and mostly without result
            some |= (slope[k] < zero) & (not known[k])
        if not some:
            continue
        for k in range(slope.size):
            if (slope[k] < zero or value[k] > zero) and not known[k]:
                block, column = size // BLOCK, size % BLOCK
                blocks[block, GRADIENT, column] = slope[k]
                blocks[block, VALUE, column] = value[k]
                members[size] = begin + k
                known[k] = True
                size += 1
    return size


@njit(cache=True, nogil=True)
def _remove(blocks: Vector, members: NDArray[np.int32], size: int, is_member: NDArray[np.bool_]) -> int:
    """Remove the members that are not free; return the number of members."""
    kept = 0
    for old in range(size):
        block, column = old // BLOCK, old % BLOCK
        if blocks[block, VALUE, column] > 0 or blocks[block, GRADIENT, column] < 0:
            if kept < old:
                for row in range(ROWS):
                    blocks[kept // BLOCK, row, kept % BLOCK] = blocks[block, row, column]
                members[kept] = members[old]
            kept += 1
        else:
            is_member[members[old]] = False
    for old in range(kept, size):
        for row in range(ROWS):
            blocks[old // BLOCK, row, old % BLOCK] = 0
    return kept


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _products(blocks: Vector, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """See `Memory.products`."""
    total = np.zeros((rows.size, rows.size))
    free, masked = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    zero, one = np.float32(0), np.float32(1)
    for block in range(blocks.shape[0]):
        for k in range(BLOCK):
            moves = blocks[block, VALUE, k] > zero or blocks[block, GRADIENT, k] < zero
            free[k] = one if moves else zero
        for i in range(rows.size):
            own = blocks[block, rows[i]]
            for k in range(BLOCK):
                masked[k] = own[k] * free[k]
            for j in range(0, i, 2):  # two at a time, which reads less
                a, b = blocks[block, rows[j]], blocks[block, rows[j + 1]]
                first, second = zero, zero
                for k in range(BLOCK):
                    first += masked[k] * a[k]
                    second += masked[k] * b[k]
                total[i, j] += first
                total[i, j + 1] += second
            if i % 2 == 0:
                first = zero
                for k in range(BLOCK):
                    first += masked[k] * own[k]
                total[i, i] += first
    for i in range(rows.size):
        for j in range(i):
            total[j, i] = total[i, j]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _step(
    blocks: Vector, members: NDArray[np.int32], rows: NDArray[np.int64], factors: Vector, variables: Vector
) -> float:
    """See `Memory.step`."""
    zero = np.float32(0)
    slope = 0.0
    move = np.empty(BLOCK, np.float32)
    for block in range(blocks.shape[0]):
        last = rows.size - 1
        for k in range(BLOCK):
            move[k] = factors[last] * blocks[block, GRADIENT, k]
        for i in range(0, last, 2):
            a, b = blocks[block, rows[i]], blocks[block, rows[i + 1]]
            f, g = factors[i], factors[i + 1]
            for k in range(BLOCK):
                move[k] += f * a[k] + g * b[k]
        partial = zero
        for k in range(BLOCK):
            old, gradient = blocks[block, VALUE, k], blocks[block, GRADIENT, k]
            new = old + move[k]
            new = new if new > zero else zero
            new = new if old > zero or gradient < zero else old
            partial += gradient * (new - old)
            move[k] = new
        slope += float(partial)
        first = block * BLOCK
        for k in range(min(BLOCK, members.size - first)):
            variables[members[first + k]] = move[k]
    return slope


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _difference(
    blocks: Vector, members: NDArray[np.int32], slot: int, variables: Vector, gradient: Vector
) -> tuple[float, float, float, float]:
    """See `Memory.difference`; the pair is written to the rows of a slot."""
    slope, curvature, steps, changes = 0.0, 0.0, 0.0, 0.0
    after = np.zeros(BLOCK, np.float32)
    for block in range(blocks.shape[0]):
        first = block * BLOCK
        width = min(BLOCK, members.size - first)
        for k in range(width):
            index = members[first + k]
            after[k] = gradient[index]
            blocks[block, slot, k] = variables[index] - blocks[block, VALUE, k]
            blocks[block, slot + SLOTS, k] = after[k] - blocks[block, GRADIENT, k]
        for k in range(width, BLOCK):
            after[k] = 0
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for k in range(BLOCK):
            step, change = blocks[block, slot, k], blocks[block, slot + SLOTS, k]
            a += after[k] * step
            b += step * change
            c += step * step
            d += change * change
        slope += float(a)
        curvature += float(b)
        steps += float(c)
        changes += float(d)
    return slope, curvature, steps, changes


@njit(cache=True, nogil=True)
def _refresh(blocks: Vector, members: NDArray[np.int32], variables: Vector, gradient: Vector) -> None:
    """Copy the values and gradient of the members to their rows."""
    for index in range(members.size):
        block, column = index // BLOCK, index % BLOCK
        blocks[block, VALUE, column] = variables[members[index]]
        blocks[block, GRADIENT, column] = gradient[members[index]]
