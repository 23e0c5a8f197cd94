"""Artefact score: how far the fine structure of a pixel deviates from that of its surroundings."""

import math
from itertools import islice
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lucidcube.kernels.fourier.convolver import Floats
from lucidcube.kernels.otsu import multi_otsu
from lucidcube.kernels.ssa.decomposition import components, decompose, fill_smooth, mirrored_index

STD_FLOOR = 0.01
"""Added to the standard deviation of each region, as a fraction of the mean one of the plane."""
SMALLEST_CLASS = 0.1
"""A pixel whose class fills less of the box is compared with the whole box: it may be a hot pixel."""
LANES = 17
"""Components processed together: a third of the usual 50; enough for vectors, few enough for the cache."""

Region = Literal["class", "box"]
Labels = NDArray[np.int64]
Sums = NDArray[np.float64]


def badness(plane: Floats, *, window: int, start: float, stop: float, region: Region) -> Floats:
    """Compute the artefact score of a plane (y, x) by singular spectrum analysis (SSA).

    For each pixel and each component from `start` to before `stop` (see `component_range`, which may raise
    ValueError), (value - mean) / (std + 0.01 * mean std) is computed, where mean and standard deviation are
    those of the region of the pixel. The score is the absolute value of the mean over the components.

    The SSA window has a side of `window` pixels. On a plane of less than twice that it has half the side of
    the plane (see `window_shape`), and the range of components shrinks in proportion.

    The region "box" consists of the pixels within N/8 in y and in x, N being the larger side of the plane,
    which is mirrored at its edges. The region "class" consists of those of them that are in the same of three
    brightness classes (multi-Otsu), or of the whole box if they are less than a tenth of it.

    The score is not negative, and NaN where the plane is, which must have at least one other pixel. Missing
    pixels are filled for the SSA (see `fill_smooth`) but belong to no region. Components of the size of
    rounding errors count as zero, so that the score of a constant plane is zero. Multiplying the plane by a
    number changes nothing.
    """
    first, last = component_range(start, stop, window)
    missing = np.isnan(plane)
    # Squares of fluxes near 1e-20 underflow in float32; a power of two changes only the exponents.
    largest = np.nanmax(np.abs(plane))
    filled = fill_smooth(np.ldexp(plane, -np.frexp(largest)[1]), missing)
    basis = decompose(filled, window)
    share = len(basis.vectors) / window**2
    indices = range(round(first * share), round(last * share))
    if not indices:
        return np.where(missing, np.float32(np.nan), np.float32(0))

    thresholds = multi_otsu(filled[~missing], 3) if region == "class" else np.empty(0)
    labels = np.where(missing, -1, np.digitize(filled, thresholds))
    half = max(plane.shape) // 8
    total = np.zeros(plane.shape, np.float32)
    used = components(filled, basis, indices[: max(0, basis.rank - indices.start)])
    # New memory for each group would cost as much time as the arithmetic.
    workspace = np.empty((3, plane.size * LANES), np.float32)
    while group := list(islice(used, LANES)):
        shape = (*plane.shape, len(group))
        stack, difference, std = workspace[:, : math.prod(shape)].reshape(3, *shape)
        np.stack(group, axis=-1, out=stack)
        mean_std = _compare_with_region(stack, labels, half, difference, std)
        _add_ratios(difference, std, mean_std, labels, total)
    return np.where(missing, np.float32(np.nan), np.abs(total) / np.float32(len(indices)))


def component_range(start: float, stop: float, window: int) -> tuple[int, int]:
    """Return the first component and the one after the last; negative numbers are fractions of window^2.

    ValueError is raised if an index is not an integer, or if they are no range within 0..window^2.
    """
    size = window**2
    # Fractions beyond -2, which may be too large to multiply, are no range either.
    first, last = (min(-bound, 2) * size if bound < 0 else bound for bound in (start, stop))
    if any(bound >= 0 and bound % 1 != 0 for bound in (start, stop)):
        raise ValueError(f"component indices must be whole numbers, got start={start} and stop={stop}")
    if not 0 <= round(first) < round(last) <= size:
        raise ValueError(
            f"start={start} and stop={stop} are no range of the {size} components of window {window}: "
            "give indices 0 <= start < stop, or fractions 0 > start > stop >= -1"
        )
    return round(first), round(last)


def object_fraction(plane: Floats) -> float:
    """Estimate which fraction of the field the object covers; less than about 0.05 looks like a star field.

    It is the participation ratio <f>^2 / <f^2> of the brightness f above the median: a uniform disc gives the
    fraction of the field that it covers (up to half), a planet 0.1 to 0.4, noise 0.3, a star 0.01 to 0.05.
    NaN is ignored, and the brightest thousandth is clipped, because it may be hot pixels. A plane in which
    nothing exceeds the median gives 1.
    """
    values = plane[np.isfinite(plane)].astype(np.float64)
    median, brightest = np.percentile(values, [50.0, 99.9])
    if not brightest > median:
        return 1.0
    brightness = (np.clip(values, median, brightest) - median) / (brightest - median)
    return float(np.mean(brightness) ** 2 / np.mean(brightness**2))


# The planes of a stack share labels and positions, so that the compiler can process several as one vector in
# the inner loops over `lane` and `k`, which take the time. Views (a[y, x]) would cost more than the sums.
@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _compare_with_region(stack: Floats, labels: Labels, half: int, difference: Floats, std: Floats) -> Sums:
    """Compute the difference of each labelled pixel from the mean of its region, and the std there, in place.

    Return the mean std of each lane. The sums over the box are updated from pixel to pixel, and those over
    its columns from row to row, so that the cost does not depend on its size. They are float64, so that a
    bright pixel leaves no rounding error in a sum from which it is subtracted.
    """
    ny, nx, lanes = stack.shape
    classes = labels.max() + 1
    moments = 2 * lanes
    # For each class the sums of values and of squares, lane by lane, and the number of pixels.
    columns, column_counts = np.zeros((nx, classes * moments)), np.zeros((nx, classes))
    box, box_counts = np.zeros(classes * moments), np.zeros(classes)
    region = np.zeros(moments)
    std_sum = np.zeros(lanes)
    reach = 2 * half + 1
    mirrored = np.array([mirrored_index(x, nx) for x in range(-half - 1, nx + half)])
    for y in range(-half, half):
        _add_row(stack, labels, mirrored_index(y, ny), 1.0, columns, column_counts)
    for y in range(ny):
        _add_row(stack, labels, mirrored_index(y + half, ny), 1.0, columns, column_counts)
        if y > 0:
            _add_row(stack, labels, mirrored_index(y - half - 1, ny), -1.0, columns, column_counts)
        box[:] = 0.0
        box_counts[:] = 0.0
        for x in mirrored[:reach]:
            box += columns[x]
            box_counts += column_counts[x]
        for x in range(nx):
            entering, leaving = mirrored[x + reach], mirrored[x]
            for k in range(box.size):
                box[k] += columns[entering, k] - columns[leaving, k]
            all_pixels = 0.0
            for label in range(classes):
                box_counts[label] += column_counts[entering, label] - column_counts[leaving, label]
                all_pixels += box_counts[label]
            label = labels[y, x]
            if label < 0:
                continue
            count = box_counts[label]
            if count >= SMALLEST_CLASS * all_pixels:
                for k in range(moments):
                    region[k] = box[label * moments + k]
            else:
                count = all_pixels
                region[:] = 0.0
                for other in range(classes):
                    for k in range(moments):
                        region[k] += box[other * moments + k]
            inverse = 1.0 / count
            for lane in range(lanes):
                mean = region[lane] * inverse
                spread = math.sqrt(np.float32(max(region[lanes + lane] * inverse - mean * mean, 0.0)))
                std_sum[lane] += spread
                std[y, x, lane] = spread
                difference[y, x, lane] = stack[y, x, lane] - np.float32(mean)
    return std_sum / np.count_nonzero(labels >= 0)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _add_ratios(difference: Floats, std: Floats, mean_std: Sums, labels: Labels, total: Floats) -> None:
    """Add difference / (std + floor), summed over the lanes, to the total of each labelled pixel."""
    ny, nx, lanes = std.shape
    floor = np.empty(lanes, np.float32)
    for lane in range(lanes):
        # A plane without any spread has no differences either, so that any divisor is right.
        floor[lane] = STD_FLOOR * mean_std[lane] if mean_std[lane] > 0 else 1.0
    for y in range(ny):
        for x in range(nx):
            if labels[y, x] >= 0:
                ratio = np.float32(0)
                for lane in range(lanes):
                    ratio += difference[y, x, lane] / (std[y, x, lane] + floor[lane])
                total[y, x] += ratio


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_row(stack: Floats, labels: Labels, y: int, sign: float, columns: Sums, counts: Sums) -> None:
    """Add row y to the sums over the columns of the box, or subtract it (sign -1)."""
    lanes = stack.shape[2]
    for x in range(labels.shape[1]):
        label = labels[y, x]
        if label >= 0:
            counts[x, label] += sign
            values, squares = 2 * lanes * label, 2 * lanes * label + lanes
            for lane in range(lanes):
                value = np.float64(stack[y, x, lane])
                columns[x, values + lane] += sign * value
                columns[x, squares + lane] += sign * value * value
