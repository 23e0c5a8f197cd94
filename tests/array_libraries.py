"""The array libraries that are installed here, and planes to deconvolve with them."""

from collections.abc import Iterator

import numpy as np
import pytest
from disc_scene import SIGMA, holes, moffat, planet, rim

from lucidcube.kernels.batched.arrays import Arrays, find_arrays


@pytest.fixture(params=["numpy", "torch"])
def arrays(request: pytest.FixtureRequest) -> Iterator[Arrays]:
    """NumPy, and PyTorch on the processor where it is installed."""
    pytest.importorskip(request.param)
    return find_arrays(request.param, "cpu")


def scene(size: int = 48) -> dict[str, list[np.ndarray | None]]:
    """Return planes that differ in brightness, PSF, holes, edges and filled pixels, without NaN planes."""
    planes, filled, psf = [], [], []
    for number in range(5):
        plane, _, _, _ = planet(size, radius=14, seed=number)
        planes.append(plane * np.float32(1.5**number))
        filled.append(None)
        psf.append(moffat(33, core=1.5 + 0.3 * number, power=2.2))
    planes[1], planes[2] = holes(planes[1]), rim(planes[2])
    filled[3] = np.zeros(planes[3].shape, np.uint8)
    filled[3][10:14, 20:30], filled[3][24:26, 20:30], filled[3][30:33, 30:33] = 1, 2, 3
    variance = [np.full(plane.shape, SIGMA**2 * 2.25**i, np.float32) for i, plane in enumerate(planes)]
    variance[4] = (variance[4] + np.abs(planes[4])).astype(np.float32)
    return {"planes": planes, "psf": psf, "variance": variance, "filled": filled}


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest value; infinity if NaN are elsewhere."""
    if not np.array_equal(np.isnan(found), np.isnan(expected)):
        return np.inf
    return float(np.nanmax(np.abs(found - expected)) / np.nanmax(np.abs(expected)))
