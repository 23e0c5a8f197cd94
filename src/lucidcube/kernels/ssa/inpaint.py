"""Fill the holes of a plane by singular spectrum analysis (SSA)."""

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.fourier.convolver import Floats
from lucidcube.kernels.ssa.decomposition import components, decompose

SHARE_KEPT = 0.25


def fill_ssa(plane: Floats, missing: NDArray[np.bool_], *, window: int) -> Floats:
    """Replace missing pixels by the sum of the first quarter of the SSA components.

    The strong components consist of structures that are repeated nearby, the weak ones of noise. For the
    decomposition, the holes are filled by `fill_linear`, so that no artefact has an influence on it.

    Missing are the pixels of the plane (y, x) that are NaN, and those that are True in `missing`. The result
    is finite everywhere, and other pixels are unchanged. The SSA window has a side of `window` >= 1 pixels
    (see `window_shape` for small planes).
    """
    hole = missing | np.isnan(plane)
    filled = fill_linear(plane, hole)
    if not hole.any():
        return filled
    basis = decompose(filled, window)
    kept = max(1, round(SHARE_KEPT * len(basis.vectors)))
    smooth = np.zeros_like(filled)
    for component in components(filled, basis, range(kept)):
        smooth += component
    return np.where(hole, smooth, filled)


def fill_ssa_deviation(plane: Floats, missing: NDArray[np.bool_], *, window: int, value: float) -> Floats:
    """Replace the deviating values of missing pixels in each SSA component.

    In each component, a missing pixel whose cumulative probability differs from that of the median by more
    than half of `value` is interpolated by `fill_linear`, and others keep their values. Then the components
    are summed. Thus structures that an artefact does not change are kept, and so are good pixels that were
    masked with it. The distribution is that of the good pixels of the component: `value` = 0.5 interpolates
    the pixels outside the quartiles, 0 all missing pixels, and 1 those outside the range of the good ones.

    For the decomposition, NaN pixels are filled by `fill_linear`, and other missing pixels have their values.
    The other parameters are those of `fill_ssa`. A `value` outside 0 to 1 raises ValueError.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"value must be a probability between 0 and 1, got {value}")
    hole = missing | np.isnan(plane)
    if not hole.any() or hole.all():
        return fill_linear(plane, hole)
    filled = fill_linear(plane, np.isnan(plane))
    basis = decompose(filled, window)
    bounds = [0.5 - value / 2, 0.5 + value / 2]
    total = np.zeros_like(filled)
    for component in components(filled, basis, range(len(basis.vectors))):
        low, high = np.quantile(component[~hole], bounds)
        deviating = hole & ((component < low) | (component > high))
        total += fill_linear(component, deviating)
    return np.where(hole, total, filled)
