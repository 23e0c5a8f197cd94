"""A small planet with known truth for the tests of deconvolution: a limb-darkened disc with spots, blurred, with noise."""

import numpy as np
from scipy import ndimage

from lucidcube.kernels.fourier.convolver import Convolver

SIGMA = 5.0


def moffat(size: int = 41, core: float = 2.0, power: float = 2.0) -> np.ndarray:
    """Return a unit-sum PSF with wings, (size, size) float32."""
    y, x = np.indices((size, size)) - size // 2
    profile = (1 + (x**2 + y**2) / core**2) ** -power
    return (profile / profile.sum()).astype(np.float32)


def planet(
    size: int = 64, radius: float = 18.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    Return the observed plane, the PSF, the truth (float32) and the disc (bool).

    The truth was blurred on a larger canvas, so that the edge of the plane has no effect.
    """
    psf = moffat()
    wide = size + 80
    y, x = np.indices((wide, wide)) - (wide - 1) / 2
    distance = np.hypot(y, x) / radius
    truth = 1000 * np.sqrt(np.clip(1 - distance**2, 0, None)) ** 0.5
    for spot_y, spot_x, height in ((-6, 4, 600), (5, -7, 500), (8, 7, -400)):
        truth += height * np.exp(-((y - spot_y) ** 2 + (x - spot_x) ** 2) / 8)
    truth = ndimage.gaussian_filter(truth, 0.7).astype(np.float32)
    blurred = Convolver(psf, truth.shape).convolve(truth)
    noise = np.random.default_rng(seed).normal(0, SIGMA, truth.shape).astype(np.float32)
    inside = (slice(40, -40), slice(40, -40))
    return (blurred + noise)[inside], psf, truth[inside], (distance < 1)[inside]


def error(result: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """Return the relative RMS difference over the pixels `where`, both smoothed by one pixel; NaN is 0."""
    smooth, expected = (
        ndimage.gaussian_filter(np.nan_to_num(a).astype(float), 1.0, mode="nearest") for a in (result, truth)
    )
    return float(np.sqrt(((smooth - expected)[where] ** 2).sum() / (expected[where] ** 2).sum()))


def holes(plane: np.ndarray) -> np.ndarray:
    """Return the plane without three squares of 3, 5 and 7 pixels within the disc."""
    holed = plane.copy()
    for y, x, half in ((32, 32, 1), (26, 40, 2), (40, 30, 3)):
        holed[y - half : y + half + 1, x - half : x + half + 1] = np.nan
    return holed


def rim(plane: np.ndarray) -> np.ndarray:
    """Return the plane without an oblique rim that cuts the disc."""
    y, x = np.indices(plane.shape)
    return np.where(y + 0.2 * x < 26, np.float32(np.nan), plane)


def border(plane: np.ndarray, width: float = 5) -> np.ndarray:
    """Return the valid pixels next to missing ones or to the edge of the frame."""
    valid = np.pad(np.isfinite(plane), 1)
    return np.isfinite(plane) & (ndimage.distance_transform_edt(valid)[1:-1, 1:-1] < width)


ODD_PLANES = {
    "one pixel": np.ones((1, 1), np.float32),
    "one row": np.arange(7, dtype=np.float32)[None],
    "constant": np.full((9, 12), 3, np.float32),
    "negative constant": np.full((9, 12), -3, np.float32),
    "single valid": np.where(np.eye(9) * np.arange(9) == 4, np.float32(5), np.float32(np.nan)),
    "single filled neighbour": np.where(np.eye(9) * np.arange(9) >= 4, np.float32(5), np.float32(np.nan)),
    "tiny values": np.random.default_rng(0).normal(1e-30, 1e-31, (9, 12)).astype(np.float32),
    "negative noise": np.random.default_rng(0).normal(-1, 1, (9, 12)).astype(np.float32),
}
