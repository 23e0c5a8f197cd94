"""Where the MAP iteration of several planes starts, and how it is scaled; see `deconvolution.map_start`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.map_start import (
    FLOOR,
    HALF,
    LARGEST_MOMENTUM,
    LARGEST_SCALE,
    LEAST_RATIO,
    NOISIER,
    POINT_SCALE,
    STEPS,
    USUAL_PENALTY,
)
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.convolver import StackConvolver
from lucidcube.kernels.stacked.stacks import Numbers, column, total


def first_parts(arrays: Arrays, convolver: StackConvolver, data: Any, weight: Any) -> tuple[Any, Any]:
    """Return estimates of b and p (plane, grid y, grid x), from which few iterations lead to the minimum.

    Data and weights are as for `deconvolution.map_start.first_parts`, but without padding.
    """
    xp = arrays.xp
    squares, positive = weight * weight, xp.clip(data, min=0)
    wanted = xp.clip(convolver.correlate(squares * positive), min=0)
    known = xp.astype(weight > 0, xp.float32)
    pixels = np.maximum(total(arrays, known), 1)
    level = column(arrays, FLOOR * total(arrays, positive * known) / pixels)
    image = xp.maximum(positive, level)
    before, latest, older = image, xp.zeros_like(image), xp.zeros_like(image)
    for _ in range(STEPS):
        momentum = column(arrays, _momentum(arrays, latest, older))
        start = xp.maximum(image + momentum * (image - before), LEAST_RATIO * image)
        reached = convolver.correlate(squares * convolver.convolve(start))
        reached = xp.maximum(reached, 1e-6 * xp.max(reached, axis=(1, 2), keepdims=True))
        before, image = image, start * (wanted / reached)
        latest, older = image - start, latest
    smooth = _opening(xp, image)
    light = column(arrays, arrays.get(xp.any(wanted > 0, axis=(1, 2))))
    return xp.where(light, smooth, 0), xp.where(light, image - smooth, 0)


def _momentum(arrays: Arrays, latest: Any, before: Any) -> Numbers:
    """Return the factors (plane,) by which the last steps are repeated."""
    square, along = total(arrays, before * before), total(arrays, latest * before)
    share = np.divide(along, square, out=np.zeros_like(square), where=square > 0)
    return np.where(np.isfinite(share), np.clip(share, 0, LARGEST_MOMENTUM), 0)


def _opening(xp: Any, image: Any) -> Any:
    """Return images after a morphological opening by 3 by 3 pixels."""
    return -_least(xp, -_least(xp, image))


def _least(xp: Any, image: Any) -> Any:
    """Return the least value of 3 by 3 pixels around each."""
    for axis in (1, 2):
        side = image.shape[axis]
        wide = xp.concat([_part(image, axis, 0, 1), image, _part(image, axis, side - 1, side)], axis=axis)
        near = xp.minimum(_part(wide, axis, 0, side), _part(wide, axis, 2, side + 2))
        image = xp.minimum(image, near)
    return image


def _part(image: Any, axis: int, first: int, last: int) -> Any:
    """Return the part of images from one position along an axis to another."""
    return image[:, first:last] if axis == 1 else image[:, :, first:last]


def point_units(
    arrays: Arrays, psf: NDArray[np.float32], weight: Any, point_penalty: Numbers
) -> tuple[Any, Any]:
    """Return the units of the points and the factors of the penalties, both (plane, grid y, grid x).

    The PSFs are (plane, y, x), the penalties (plane,), and the weights as for
    `deconvolution.map_start.point_units`, but without padding.
    """
    xp = arrays.xp
    noisier = NOISIER * np.minimum(1, USUAL_PENALTY / np.maximum(point_penalty, 1e-30))
    squared = StackConvolver(arrays, np.square(psf), (weight.shape[1], weight.shape[2]))
    reached = xp.clip(squared.correlate(weight * weight), min=0)
    known = squared.correlate(xp.astype(weight > 0, xp.float32))
    whole = column(arrays, np.sum(np.square(psf, dtype=np.float64), axis=(1, 2)))
    unit = POINT_SCALE / xp.clip(xp.sqrt(reached / whole), min=1 / LARGEST_SCALE)
    seen = known > HALF * whole
    local = xp.sqrt(xp.where(seen, reached / xp.where(seen, known, 1), 1))
    return unit, xp.clip(column(arrays, noisier) * local, max=1)
