"""The array libraries that are installed here, and planes to deconvolve with them."""

from collections.abc import Iterator

import numpy as np
import pytest

from disc_scene import SIGMA, holes, moffat, planet, rim
from lucidcube.kernels.stacked.arrays import Arrays, find_arrays
from lucidcube.kernels.stacked.stacks import PlaneInput


@pytest.fixture(params=["numpy", "torch"])
def arrays(request: pytest.FixtureRequest) -> Iterator[Arrays]:
    """NumPy, and PyTorch on the processor where it is installed."""
    pytest.importorskip(request.param)
    return find_arrays(request.param, "cpu")


class Scene:
    """Planes that differ in brightness, PSF, holes, edges, filled pixels and variance."""

    def __init__(self, size: int = 48) -> None:
        images = [planet(size, radius=14, seed=number)[0] * np.float32(1.5**number) for number in range(5)]
        images[1], images[2] = holes(images[1]), rim(images[2])
        filled: list[np.ndarray | None] = [None] * 5
        marks = filled[3] = np.zeros(images[3].shape, np.uint8)
        marks[10:14, 20:30], marks[24:26, 20:30], marks[30:33, 30:33] = 1, 2, 3
        variance = [np.full(image.shape, SIGMA**2 * 2.25**i, np.float32) for i, image in enumerate(images)]
        variance[4] += np.abs(images[4])
        psf = [moffat(33, core=1.5 + 0.3 * number, power=2.2) for number in range(5)]
        self.planes = list(map(PlaneInput, images, psf, variance, filled))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest value; infinity if NaN are elsewhere."""
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return np.inf
    return float(np.nanmax(np.abs(found - expected)) / np.nanmax(np.abs(expected)))
