"""Simulated observations for the examples: objects, point spread functions, files and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve

Array = NDArray[Any]
BORDER = 20
"""Pixels of sky around a frame, from which light is blurred into it."""


def grid(size: int) -> tuple[Array, Array]:
    """Return y and x of a frame with its border, in pixels from its centre."""
    y, x = np.indices((size + 2 * BORDER,) * 2) - (size // 2 + BORDER)
    return y, x


def moffat(size: int, fwhm: float, beta: float = 2.5, centre: tuple[float, float] = (0, 0)) -> Array:
    """Return a Moffat function of unit sum, centred in a frame of `size` pixels, or off its centre."""
    y, x = np.indices((size, size)) - size // 2
    core = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    profile = (1 + ((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / core**2) ** -beta
    return profile / profile.sum()


def segmented_mirror(size: int, fwhm: float) -> Array:
    """Return the diffraction pattern of a hexagonal mirror with a hole, of about this width in pixels."""
    y, x = np.indices((256, 256)) - 128
    radius = 128 / fwhm

    def hexagon(side: float) -> Array:
        turned = [abs(x * np.cos(a) + y * np.sin(a)) for a in np.deg2rad([0, 60, 120])]
        return np.max(turned, axis=0) < side

    pupil = hexagon(radius) & ~hexagon(0.2 * radius)
    pattern = np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(pupil)))) ** 2
    cut = slice(128 - size // 2, 128 + size // 2 + 1)
    return pattern[cut, cut] / pattern[cut, cut].sum()


def observe(truth: Array, psfs: Sequence[Array], sky: float, seed: int = 1) -> tuple[Array, Array]:
    """Blur planes (wavelength, y, x) that have a border, cut it off, add noise, and return data and variance.

    The variance is that of the photons plus that of the `sky`; one pixel out of 500 is hot.
    """
    rng = np.random.default_rng(seed)
    inside = slice(BORDER, -BORDER)
    blurred = np.stack(
        [fftconvolve(t, p, mode="same")[inside, inside] for t, p in zip(truth, psfs, strict=True)]
    )
    variance = np.maximum(blurred, 0) + sky
    data = blurred + rng.normal(size=blurred.shape) * np.sqrt(variance)
    data[rng.random(data.shape) < 0.002] += 40 * np.sqrt(sky)
    return data, variance


def write(path: Path, cards: Mapping[str, Any], **images: Array) -> Path:
    """Write images as FITS extensions of these names, all with the same header cards."""
    hdus = [fits.ImageHDU(np.float32(np.squeeze(v)), fits.Header(cards), name=k) for k, v in images.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
    return path


def error(image: Array, truth: Array) -> float:
    """Return the relative error where the truth is bright, after smoothing both by one pixel."""
    a, b = (ndimage.gaussian_filter(np.nan_to_num(i).astype(float), 1) for i in (image, truth))
    bright = b > 0.05 * np.percentile(b, 99.5)
    return float(np.linalg.norm((a - b)[bright]) / np.linalg.norm(b[bright]))


def seen_with(planes: Array, fwhm: float) -> Array:
    """Return planes (wavelength, y, x) as seen with a Gaussian PSF of this width in pixels."""
    return ndimage.gaussian_filter(planes, (0, fwhm / 2.355, fwhm / 2.355))


def show(images: Mapping[str, Array], top: float, bottom: float = 0, colours: str = "inferno") -> None:
    """Show images (y, x) side by side, from zero on a square-root scale, and signed ones on a linear one."""
    figure = plt.figure(figsize=(3.6 * len(images), 3.9), layout="constrained")
    panels = figure.subplots(1, len(images), squeeze=False)[0]
    for axes, (title, image) in zip(panels, images.items(), strict=True):
        norm = PowerNorm(0.5 if bottom == 0 else 1, bottom, top, clip=True)
        axes.imshow(image, origin="lower", cmap=colours, norm=norm)
        axes.set(title=title, xticks=[], yticks=[], facecolor="0.4")
    plt.show()
