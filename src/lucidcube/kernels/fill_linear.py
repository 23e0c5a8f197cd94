"""Fill the holes of a plane by linear interpolation between the good pixels around them.

The surface is the one that a Delaunay triangulation of *all* good pixels would give, but only the cavities
around missing pixels are triangulated. This is exact for points on a grid, for three reasons:

* Two adjacent good pixels are always joined by an edge, so each 8-connected group of missing pixels has a
  cavity of its own, which is bounded by such unit edges and not crossed by other triangles.
* All corners of the triangles of a cavity are good pixels with a missing neighbour, the **rim**.
* The test whether a point is inside a circle is exact for integer coordinates, so that the cells (the convex
  polygons of all rim pixels on one empty circle) are found without rounding errors.

Many cells of a grid have more than three corners: the four corners of a square are on one circle, and both
diagonals give valid Delaunay triangulations. Other programs choose one of them arbitrarily; here the value
is the mean over the fans from every corner of the cell, each of which is a valid triangulation. Therefore
the result is symmetric (a single missing pixel becomes the mean of its four neighbours) and does not depend
on the order of the computation.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

LARGEST_SIDE = 16384
"""Largest side of a plane; longer sides could overflow the 64-bit integers of `_in_circle`."""


def fill_linear(plane: NDArray[np.floating], missing: Flags) -> Plane:
    """Replace missing pixels by linear interpolation between the good pixels around them.

    Missing are the pixels of the plane (y, x) that are NaN, and those that are True in `missing`. The result
    is float32 and finite everywhere; other pixels are bit-identical to the input. The time is proportional to
    the number of missing pixels and rim pixels, not to the size of the plane.

    The plane is extended by a frame that is one pixel wide and contains 3 x 3 means of the plane, in which
    missing pixels and the outside are zero. Thus the values in holes that are open to the edge, such as the
    corners of a rotated field, decrease towards zero. Where the Delaunay triangulation of the good pixels is
    unique, the result is that of ``scipy.interpolate.LinearNDInterpolator`` on the framed plane up to float32
    rounding; elsewhere it is the mean over valid triangulations (see the module docstring).

    Arrays that are not two-dimensional and of one shape, or too long, raise ValueError.
    """
    if plane.ndim != 2 or plane.shape != missing.shape or max(plane.shape) > LARGEST_SIDE:
        raise ValueError(
            f"plane {plane.shape} and missing {missing.shape} must be two-dimensional and have one shape "
            f"with sides of at most {LARGEST_SIDE} pixels"
        )
    filled = plane.astype(np.float32)
    hole = missing | np.isnan(filled)
    if not hole.any():
        return filled
    framed = np.pad(np.where(hole, np.float32(0), filled), 1)
    _fill_frame(framed)
    todo = np.pad(hole, 1)
    _fill_single(framed, todo)
    if todo.any():
        rim, before = _rim(todo)
        _fill_groups(framed, todo, rim, before)
    return np.ascontiguousarray(framed[1:-1, 1:-1])


def _fill_frame(framed: Plane) -> None:
    """Set the outermost pixels to the 3 x 3 mean of the plane, which is zero outside."""
    ninth = np.float32(1 / 9)
    rows, columns = framed, framed[1:-1].T
    for lines in (rows, columns):
        for outer, inner in ((lines[0], lines[1]), (lines[-1], lines[-2])):
            outer[:] = inner * ninth
            outer[1:] += inner[:-1] * ninth
            outer[:-1] += inner[1:] * ninth


@njit(cache=True, nogil=True)
def _fill_single(values: Plane, todo: Flags) -> None:
    """Fill missing pixels whose eight neighbours are all good with the mean of the nearest four."""
    ny, nx = todo.shape
    for y in range(1, ny - 1):
        for x in range(1, nx - 1):
            if not todo[y, x] or todo[y, x - 1] or todo[y, x + 1]:
                continue
            if todo[y - 1, x - 1 : x + 2].any() or todo[y + 1, x - 1 : x + 2].any():
                continue
            total = float(values[y - 1, x]) + values[y + 1, x] + values[y, x - 1] + values[y, x + 1]
            values[y, x] = 0.25 * total
            todo[y, x] = False


@njit(cache=True, nogil=True)
def _rim(todo: Flags) -> tuple[Integers, NDArray[np.int32]]:
    """Return the (y, x) of the rim pixels in raster order, and the number of them that precede each pixel.

    The rim pixels in row y with x0 <= x < x1 have the numbers ``before[y, x0]`` to ``before[y, x1] - 1``, so
    that the rim pixels in a box are found without a search.
    """
    ny, nx = todo.shape
    rim = np.zeros(todo.shape, dtype=np.bool_)
    for y in range(1, ny - 1):
        for x in range(1, nx - 1):
            if todo[y, x]:
                rim[y - 1 : y + 2, x - 1 : x + 2] = True
    before = np.empty((ny, nx + 1), dtype=np.int32)
    n = 0
    for y in range(ny):
        for x in range(nx):
            before[y, x] = n
            rim[y, x] &= not todo[y, x]
            n += rim[y, x]
        before[y, nx] = n
    return np.column_stack(np.nonzero(rim)), before


@njit(cache=True, nogil=True)
def _fill_groups(values: Plane, todo: Flags, rim: Integers, before: NDArray[np.int32]) -> None:
    """Traverse the cells of every cavity and fill the missing pixels in each cell.

    The traversal of a group starts at the unit edge above its first pixel and crosses every edge that is
    longer than one, because such an edge has the cavity on both sides.
    """
    n = len(rim)
    seen = {np.int64(-1)}
    stack = np.empty(6 * n + 1, dtype=np.int64)  # n points have at most 3 n edges, 6 n with direction
    cell = np.empty(n, dtype=np.int64)
    starts_y, starts_x = np.nonzero(todo)
    for y, x in zip(starts_y, starts_x):  # noqa: B905 (numba has no `strict`)
        if not todo[y, x]:
            continue
        stack[0] = np.int64(before[y - 1, x - 1]) * n + before[y - 1, x]
        depth = 1
        while depth > 0:
            depth -= 1
            edge = stack[depth]
            if edge in seen:
                continue
            size = _find_cell(rim, edge // n, edge % n, before, cell)
            _fill_cell(values, todo, rim, cell[:size])
            for i in range(size):
                a, b = cell[i], cell[(i + 1) % size]
                seen.add(a * n + b)
                if abs(rim[a, 0] - rim[b, 0]) + abs(rim[a, 1] - rim[b, 1]) > 1:
                    stack[depth] = b * n + a
                    depth += 1


@njit(cache=True, nogil=True)
def _cross(rim: Integers, a: int, b: int, y: int, x: int) -> int:
    """Return twice the signed area of a, b, (y, x); positive if (y, x) is on the inner side of the edge."""
    return (rim[b, 1] - rim[a, 1]) * (y - rim[a, 0]) - (rim[b, 0] - rim[a, 0]) * (x - rim[a, 1])


@njit(cache=True, nogil=True)
def _in_circle(rim: Integers, a: int, b: int, c: int, y: int, x: int) -> int:
    """Return a number > 0, 0 or < 0 (exact) if (y, x) is inside, on or outside the circle through a, b, c."""
    ay, by, cy = rim[a, 0] - y, rim[b, 0] - y, rim[c, 0] - y
    ax, bx, cx = rim[a, 1] - x, rim[b, 1] - x, rim[c, 1] - x
    a2, b2, c2 = ay * ay + ax * ax, by * by + bx * bx, cy * cy + cx * cx
    return a2 * (bx * cy - by * cx) - b2 * (ax * cy - ay * cx) + c2 * (ax * by - ay * bx)


@njit(cache=True, nogil=True)
def _circle_box(rim: Integers, a: int, b: int, c: int, ny: int, nx: int) -> tuple[int, int, int, int]:
    """Return the rows [y0, y1) and columns [x0, x1) of the plane that the circle through a, b, c covers."""
    ay, ax = rim[a]
    by, bx, cy, cx = rim[b, 0] - ay, rim[b, 1] - ax, rim[c, 0] - ay, rim[c, 1] - ax
    b2, c2, area = by * by + bx * bx, cy * cy + cx * cx, 2.0 * (bx * cy - by * cx)
    y, x = (bx * c2 - cx * b2) / area, (cy * b2 - by * c2) / area
    radius = math.sqrt(y * y + x * x) * (1 + 1e-9) + 1e-6  # rounded up: a box that is too large is harmless
    y0, y1 = math.floor(max(ay + y - radius, 0.0)), math.floor(min(ay + y + radius, ny - 1.0)) + 1
    x0, x1 = math.floor(max(ax + x - radius, 0.0)), math.floor(min(ax + x + radius, nx - 1.0)) + 1
    return y0, y1, x0, x1


@njit(cache=True, nogil=True)
def _find_cell(rim: Integers, a: int, b: int, before: NDArray[np.int32], cell: Integers) -> int:
    """Find the corners of the cell on the inner side of the edge a to b, in order; return their number.

    The search box around the edge is doubled until it contains the circle of the best corner in it; then no
    rim pixel outside the box can be in that circle.
    """
    ny, nx = before.shape[0], before.shape[1] - 1
    ay, ax = rim[a]
    by, bx = rim[b]
    cell[0], cell[1] = a, b
    size, reach = 2, 2
    box = (0, ny, 0, nx)
    while True:
        y0, y1 = max(min(ay, by) - reach, box[0]), min(max(ay, by) + reach + 1, box[1])
        x0, x1 = max(min(ax, bx) - reach, box[2]), min(max(ax, bx) + reach + 1, box[3])
        size = 2
        for y in range(y0, y1):
            for p in range(before[y, x0], before[y, x1]):
                if _cross(rim, a, b, y, rim[p, 1]) <= 0:
                    continue
                side = 1 if size == 2 else _in_circle(rim, a, b, cell[2], y, rim[p, 1])
                if side > 0:
                    size = 2
                if side >= 0:
                    cell[size] = p
                    size += 1
        if (y0, y1, x0, x1) == box:
            break
        if size > 2:
            box = _circle_box(rim, a, b, cell[2], ny, nx)
            if y0 <= box[0] and y1 >= box[1] and x0 <= box[2] and x1 >= box[3]:
                break
        reach *= 2
    _sort_corners(rim, cell[:size])
    return size


@njit(cache=True, nogil=True)
def _sort_corners(rim: Integers, cell: Integers) -> None:
    """Sort corners on one circle by their direction from the first, by cross products instead of angles."""
    for i in range(3, cell.size):
        p, j = cell[i], i
        while j > 2 and _cross(rim, cell[0], cell[j - 1], rim[p, 0], rim[p, 1]) < 0:
            cell[j] = cell[j - 1]
            j -= 1
        cell[j] = p


@njit(cache=True, nogil=True)
def _fill_cell(values: Plane, todo: Flags, rim: Integers, cell: Integers) -> None:
    """Fill the missing pixels inside a convex cell, including its edges, row by row."""
    rows = rim[cell, 0]
    for y in range(rows.min(), rows.max() + 1):
        low, high = todo.shape[1], -1
        for i in range(cell.size):
            a, b = cell[i - 1], cell[i]
            if rim[a, 0] > rim[b, 0]:
                a, b = b, a
            height = rim[b, 0] - rim[a, 0]
            if height > 0 and rim[a, 0] <= y <= rim[b, 0]:
                across = (y - rim[a, 0]) * (rim[b, 1] - rim[a, 1])
                low = min(low, rim[a, 1] - (-across // height))  # rounded up
                high = max(high, rim[a, 1] + across // height)  # rounded down
        for x in range(low, high + 1):
            if todo[y, x]:
                values[y, x] = _mean_of_fans(values, rim, cell, y, x)
                todo[y, x] = False


@njit(cache=True, nogil=True)
def _mean_of_fans(values: Plane, rim: Integers, cell: Integers, y: int, x: int) -> float:
    """Interpolate linearly at (y, x) and average over the fan triangulations from each corner."""
    total, fans = 0.0, cell.size if cell.size > 3 else 1
    for first in range(fans):
        a = cell[first]
        for step in range(1, cell.size - 1):
            b, c = cell[(first + step) % cell.size], cell[(first + step + 1) % cell.size]
            beside_c, beside_b = _cross(rim, a, b, y, x), _cross(rim, c, a, y, x)
            if beside_c >= 0 and beside_b >= 0:
                area = _cross(rim, a, b, rim[c, 0], rim[c, 1])
                weights = (area - beside_b - beside_c, beside_b, beside_c)
                corners = (a, b, c)
                part = 0.0
                for k in range(3):
                    part += weights[k] * values[rim[corners[k], 0], rim[corners[k], 1]]
                total += part / area
                break
    return total / fans
