"""Two-dimensional singular spectrum analysis (SSA) of a plane (Golyandina & Usevich, arXiv:1309.5050)."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.fourier.convolver import Floats, autocorrelation_filter

Mask = NDArray[np.bool_]
SMOOTHING_SIGMA = 5.0
SMOOTHING_REACH = 20
LEAST_WEIGHT = 1e-6
"""Fraction of the Gaussian's weight that must lie on pixels that are not missing."""


class Basis(NamedTuple):
    """The eigenvectors of the lag-covariance matrix X X^T of a plane, X being its trajectory matrix.

    The n = wy * wx eigenvalues are in descending order and not negative, and their sum is that of the squares
    of X. The unit vectors (n, wy, wx) are images of the size of the window, of arbitrary sign.
    """

    eigenvalues: NDArray[np.float64]
    vectors: Floats

    @property
    def rank(self) -> int:
        """Number of eigenvalues that are larger than the rounding errors of float32."""
        smallest = np.finfo(np.float32).eps ** 2 * self.eigenvalues[0]
        return int(np.count_nonzero(self.eigenvalues > smallest))


def fill_smooth(plane: Floats, missing: Mask) -> Floats:
    """Replace missing pixels by the Gaussian-weighted mean (sigma 5 pixels) of those that are not missing.

    The plane (y, x) may have any values where it is missing; the result is a copy. A pixel beyond the reach
    of the Gaussian (20 pixels) takes the value of the nearest pixel within it. A plane without valid pixels
    becomes zero.
    """
    filled = np.where(missing, np.float32(0), plane)
    if not missing.any() or missing.all():
        return filled
    steps = np.arange(SMOOTHING_REACH + 1) / SMOOTHING_SIGMA
    smooth, reached = _smooth_over(filled, missing, np.exp(-0.5 * steps**2).astype(np.float32))
    np.copyto(filled, smooth, where=missing)
    if not reached.all():
        nearest = scipy.ndimage.distance_transform_edt(~reached, return_distances=False, return_indices=True)
        filled = filled[tuple(nearest)]
    return filled


def window_shape(shape: tuple[int, ...], window: int) -> tuple[int, int]:
    """Return the shape of the window that is used: at most half of each side of the plane, rounded up.

    A longer window adds nothing, because windows of w and of N + 1 - w pixels have the same components. A
    window of less than 1 pixel raises ValueError.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 pixel, got {window}")
    return min(window, (shape[0] + 1) // 2), min(window, (shape[1] + 1) // 2)


def decompose(plane: Floats, window: int) -> Basis:
    """Compute the eigenvectors of the lag-covariance matrix of a plane (y, x) without NaN.

    For the window see `window_shape`. The trajectory matrix is never built: all products of pixels
    at one displacement share their sums. These are float64, because the smallest eigenvalues are many orders
    of magnitude below the largest.
    """
    height, width = window_shape(plane.shape, window)
    eigenvalues, vectors = np.linalg.eigh(_gram(np.ascontiguousarray(plane, dtype=np.float64), height, width))
    ordered = np.ascontiguousarray(vectors.T[::-1], dtype=np.float32)
    return Basis(np.maximum(eigenvalues[::-1], 0.0), ordered.reshape(-1, height, width))


def components(plane: Floats, basis: Basis, indices: Iterable[int]) -> Iterator[Floats]:
    """Yield the SSA components `indices` of a plane (y, x) without NaN, given its basis; 0 is the strongest.

    Component k is the quasi-Hankel average of u_k u_k^T X: each pixel is the mean over the windows that
    contain it. The sum of all components is the plane. Away from the edges a pixel is in every position of
    the window once, so that a component is the plane filtered by the autocorrelation of u_k, which is done by
    Fourier transforms. The pixels near the edges, which are in fewer windows, are summed directly.
    """
    height, width = basis.vectors.shape[1:]
    ny, nx = plane.shape
    image = np.ascontiguousarray(plane, dtype=np.float32)
    if ny < 2 * height or nx < 2 * width:
        for index in indices:
            component = np.empty_like(image)
            _component_rows(image, basis.vectors[index], 0, component)
            yield component
        return
    transposed = np.ascontiguousarray(image.T)
    filtered = autocorrelation_filter(image, (height, width))
    columns = np.empty((width - 1, ny), np.float32)
    for index in indices:
        vector = basis.vectors[index]
        component = filtered(vector)
        _component_rows(image, vector, 0, component[: height - 1])
        _component_rows(image, vector, ny - height + 1, component[ny - height + 1 :])
        _component_rows(transposed, vector.T, 0, columns)
        component[:, : width - 1] = columns.T
        _component_rows(transposed, vector.T, nx - width + 1, columns)
        component[:, nx - width + 1 :] = columns.T
        yield component


# The planes hold no NaN, so that sums may be reordered, which lets the compiler use vector instructions.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _smooth_over(plane: Floats, missing: Mask, profile: Floats) -> tuple[Floats, Mask]:
    """Compute the weighted mean about each missing pixel, which holds zero; edges are mirrored.

    Return also False where the mean has too little weight and is zero. Only rows with missing pixels are
    smoothed, along y as a whole and then along x at the missing pixels.
    """
    ny, nx = plane.shape
    reach = profile.size - 1
    smooth = np.empty(plane.shape, np.float32)
    reached = np.ones(plane.shape, np.bool_)
    total, share = np.empty(nx + 2 * reach, np.float32), np.empty(nx + 2 * reach, np.float32)
    whole = (2 * profile.sum() - profile[0]) ** 2
    for y in range(ny):
        if not missing[y].any():
            continue
        total[:] = 0
        share[:] = 0
        for step in range(-reach, reach + 1):
            row = mirrored_index(y + step, ny)
            factor = profile[abs(step)]
            for x in range(nx):
                total[reach + x] += factor * plane[row, x]
                share[reach + x] += np.float32(0) if missing[row, x] else factor
        for x in range(reach):
            left, right = reach + mirrored_index(x - reach, nx), reach + mirrored_index(nx + x, nx)
            total[x], share[x] = total[left], share[left]
            total[reach + nx + x], share[reach + nx + x] = total[right], share[right]
        for x in range(nx):
            if missing[y, x]:
                mean, weight = 0.0, 0.0
                for step in range(2 * reach + 1):
                    mean += profile[abs(step - reach)] * total[x + step]
                    weight += profile[abs(step - reach)] * share[x + step]
                reached[y, x] = weight > LEAST_WEIGHT * whole
                smooth[y, x] = mean / weight if reached[y, x] else 0.0
    return smooth, reached


@njit(cache=True, nogil=True)
def mirrored_index(index: int, size: int) -> int:
    """Return the index within 0..size - 1 to which an index leads when the plane is mirrored at its edges."""
    index %= 2 * size
    return min(index, 2 * size - 1 - index)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _gram(image: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Return X X^T: element (o, p) is the sum of I(r + o) I(r + p) over the windows, which begin at r."""
    ny, nx = image.shape
    rows, columns = ny - height + 1, nx - width + 1
    gram = np.empty((height * width, height * width))
    down = np.empty(nx)
    for dy in range(height):
        for dx in range(1 - width, width):
            # `down` holds the sums over y of I(y, x) I(y + dy, x + dx) for the rows of one offset in y; those
            # of the next offset differ by one row that leaves and one that enters. Likewise along x.
            low, high = max(0, -dx), min(width, width - dx)
            size = columns + high - low - 1
            down[:size] = 0.0
            for y in range(rows):
                _add_products(image, y, low, dy, dx, 1.0, down[:size])
            for offset_y in range(height - dy):
                if offset_y > 0:
                    _add_products(image, offset_y - 1, low, dy, dx, -1.0, down[:size])
                    _add_products(image, offset_y - 1 + rows, low, dy, dx, 1.0, down[:size])
                total = down[:columns].sum()
                for offset_x in range(low, high):
                    if offset_x > low:
                        total += down[offset_x - low - 1 + columns] - down[offset_x - low - 1]
                    one, other = offset_y * width + offset_x, (offset_y + dy) * width + offset_x + dx
                    gram[one, other] = total
                    gram[other, one] = total
    return gram


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _add_products(
    image: NDArray[np.float64], y: int, x: int, dy: int, dx: int, sign: float, sums: NDArray[np.float64]
) -> None:
    """Add sign * I(y, x + k) I(y + dy, x + dx + k) to sums[k]."""
    left, right = image[y, x:], image[y + dy, x + dx :]
    for k in range(sums.size):
        sums[k] += sign * left[k] * right[k]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _component_rows(image: Floats, vector: Floats, first: int, out: Floats) -> None:
    """Compute as many rows of the component of `vector` as `out` has, from `first` on, by direct sums."""
    height, width = vector.shape
    ny, nx = image.shape
    rows, columns = ny - height + 1, nx - width + 1
    top, bottom = max(0, first - height + 1), min(rows, first + out.shape[0])
    scores = np.zeros((bottom - top, columns), np.float32)
    for row in range(bottom - top):
        score = scores[row]
        for y in range(height):
            for x in range(width):
                weight = vector[y, x]
                pixels = image[top + row + y, x : x + columns]
                for k in range(columns):
                    score[k] += weight * pixels[k]
    for line in range(out.shape[0]):
        total = out[line]
        total[:] = 0
        start, stop = max(top, first + line - height + 1), min(bottom, first + line + 1)
        for row in range(start, stop):
            score = scores[row - top]
            for x in range(width):
                weight = vector[first + line - row, x]
                part = total[x : x + columns]
                for k in range(columns):
                    part[k] += weight * score[k]
        for x in range(nx):
            holding = min(x + 1, width, nx - x, columns) * (stop - start)
            total[x] /= np.float32(holding)
