"""Distinguish holes in the field from pixels outside the field."""

import math
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CORNER = 1.42
"""Distance from the centre of a disc of unit radius to the corner of a square around it, rounded up."""


class Filled(IntEnum):
    """Values of the variable `filled`: what was done to a pixel."""

    NO = 0
    REPLACED = 1
    """It was marked as an artefact, and its value was replaced."""
    HOLE = 2
    """It had no data, and was filled because it is in a hole of the field."""
    MODELLED = 3
    """It was marked as an artefact, and its value was predicted from other planes."""


def outside_field(missing: NDArray[np.bool_], max_hole: float) -> NDArray[np.bool_]:
    """Return the missing pixels that are outside the field; the others are holes in it.

    Everything beyond the frame counts as missing too. A pixel is outside if a disc slightly wider than
    `max_hole` can cover it without touching the field: the outside is the morphological opening of what is
    missing. So dead columns and narrow slits are holes, even where they reach the edge of the field, and
    the corners around a rotated field are outside, however small they are. `max_hole` is the diameter of the
    largest hole in pixels; 0 puts every missing pixel outside.

    A disc does not reach into the corner of a right angle, nor into each step of an oblique edge. What it
    leaves there, next to pixels outside and not deeper than in a right angle, is outside as well.
    """
    if missing.all() or not missing.any():
        return missing.copy()
    # Most planes of a cube miss the same pixels.
    return _outside(np.packbits(missing).tobytes(), missing.shape, max_hole).copy()


@lru_cache(maxsize=4)
def _outside(packed: bytes, shape: tuple[int, ...], max_hole: float) -> NDArray[np.bool_]:
    """Return the result of `outside_field` for missing pixels that are packed into bytes."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=math.prod(shape))
    missing = bits.reshape(shape).astype(bool)
    radius = (max_hole + 1) / 2
    pad = math.ceil(CORNER * radius)
    centres = ndimage.distance_transform_edt(np.pad(missing, pad, constant_values=True)) > radius
    distance = ndimage.distance_transform_edt(~centres)[pad:-pad, pad:-pad]
    outside: NDArray[np.bool_] = missing & (distance <= radius)
    square = np.ones((3, 3), bool)
    labels, count = ndimage.label(missing & ~outside, structure=square)
    if count:
        corner = np.zeros(count + 1, bool)
        corner[labels[ndimage.binary_dilation(outside, structure=square)]] = True
        corner[labels[distance > CORNER * radius]] = False
        corner[0] = False
        outside |= corner[labels]
    return outside
