"""Fill the holes of a plane by singular spectrum analysis (SSA)."""

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.fourier.convolver import Floats
from lucidcube.kernels.ssa.decomposition import components, decompose

SHARE_KEPT = 0.25


def fill_ssa(plane: Floats, missing: NDArray[np.bool_], *, window: int) -> Floats:
    """Replace missing pixels by the sum of the first quarter of the SSA components.

    The strong components hold what the neighbourhood repeats, the weak ones the noise. The holes are filled
    by `fill_linear` for the decomposition, so that no artefact enters it.

    Parameters
    ----------
    plane : array of float32, shape (y, x)
        NaN is missing.
    missing : array of bool, shape (y, x)
        Further pixels to be replaced, whatever they hold.
    window
        Side of the SSA window in pixels, at least 1 (see `window_shape` for small planes).

    Returns
    -------
    array of float32, shape (y, x)
        Finite everywhere; pixels that are not missing are unchanged.
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
    """Replace what deviates in the missing pixels, SSA component by component.

    In each component a missing pixel further than `value` from the median in cumulative probability is
    interpolated by `fill_linear`; others keep their values. The components are then summed, so that what an
    artefact leaves intact survives, and so do good pixels that are masked with it.

    Parameters
    ----------
    plane, missing, window
        See `fill_ssa`. NaN pixels are filled by `fill_linear` for the decomposition, other missing pixels
        enter it with their values.
    value
        In [0, 1], or ValueError is raised: 0 is the median and 1 either end of the distribution of the good
        pixels of the component, so that 0.5 interpolates what lies outside the quartiles. 0 is linear
        interpolation of the plane.
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
