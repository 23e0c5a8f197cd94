"""The sharp core of a star as a Gaussian, which can be moved without interpolation."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import least_squares

_CORE_LEVEL = 0.25  # of the maximum
_MIN_CORE = 8  # pixels
_MIN_SIGMA, _MAX_SIGMA = 0.5, 4.0  # pixels: narrower is no star, wider needs no help


class Core(NamedTuple):
    """A round Gaussian that follows the core of a star."""

    y: float
    x: float
    sigma: float
    peak: float

    def image(
        self, shape: tuple[int, ...], offset_y: float = 0.0, offset_x: float = 0.0
    ) -> NDArray[np.float32]:
        """Return the Gaussian sampled at the pixel centres of a (y, x) grid, moved by the offsets."""
        dy = (np.arange(shape[0]) - self.y - offset_y) / self.sigma
        dx = (np.arange(shape[1]) - self.x - offset_x) / self.sigma
        along_y, along_x = self.peak * np.exp(-0.5 * dy**2), np.exp(-0.5 * dx**2)
        return (along_y[:, None] * along_x).astype(np.float32)


def fit_core(plane: NDArray[np.floating]) -> Core | None:
    """Fit a Gaussian and a constant to the pixels about the maximum of a star.

    Parameters
    ----------
    plane
        Star (y, x); NaN = missing.

    Returns
    -------
    Core or None
        None if the core has too few pixels, or is so wide (or so narrow) that it is none to be followed.
    """
    brightest = np.unravel_index(int(np.nanargmax(plane)), plane.shape)
    maximum = float(plane[brightest])
    labels, _ = ndimage.label(plane > _CORE_LEVEL * maximum)
    core = ndimage.binary_dilation(labels == labels[brightest], np.ones((3, 3))) & np.isfinite(plane)
    y, x = np.nonzero(core)
    values = plane[core].astype(np.float64) / maximum
    if values.size < _MIN_CORE:
        return None
    sigma = float(np.sqrt(np.count_nonzero(values > 0.5) / (2.0 * np.pi * np.log(2.0))))
    if not sigma < _MAX_SIGMA:
        return None

    def residual(p: NDArray[np.float64]) -> NDArray[np.float64]:
        squared = (y - p[0]) ** 2 + (x - p[1]) ** 2
        return np.asarray(p[3] * np.exp(-0.5 * squared / p[2] ** 2) + p[4] - values)

    start = np.array([brightest[0], brightest[1], max(sigma, _MIN_SIGMA), 1.0, 0.0])
    found = least_squares(residual, start, method="lm", max_nfev=300).x
    centre_y, centre_x, sigma = float(found[0]), float(found[1]), abs(float(found[2]))
    inside = max(abs(centre_y - brightest[0]), abs(centre_x - brightest[1])) < 2.0
    if not (inside and _MIN_SIGMA < sigma < _MAX_SIGMA and 0.0 < found[3] < 3.0):
        return None
    return Core(centre_y, centre_x, sigma, float(found[3]) * maximum)
