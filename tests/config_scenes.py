"""Scenes with known truth for the recommended configs: a rotating galaxy in a cube, and a planet in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve

Array = NDArray[Any]
WIDE = 20
"""Pixels by which the sky around a scene is larger than the frame on every side."""


class Files(NamedTuple):
    """Inputs of a run, and what the run should find."""

    target: Path
    star: Path
    observed: Array
    """The input (wavelength, y, x)."""
    truth: Array
    """The object without blur and noise."""
    hot: Array
    """True at the hot pixels."""


def moffat(shape: tuple[int, int], fwhm: float, centre: tuple[float, float]) -> Array:
    """Return a Moffat profile with unit sum."""
    y, x = np.indices(shape)
    core = fwhm / 2 / np.sqrt(2 ** (1 / 2.5) - 1)
    profile = (1 + ((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / core**2) ** -2.5
    return profile / profile.sum()


def galaxy(size: int = 41) -> Array:
    """Return a faint exponential disc with a rotating emission line, blobs, and two foreground stars."""
    wavelength = np.arange(12)[:, None, None]
    y, x = np.indices((size + 2 * WIDE, size + 2 * WIDE)) - (size // 2 + WIDE)
    radius = np.hypot(x, y / 0.6)
    disc = np.exp(-radius / 6)
    blobs = sum(
        np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / (2 * 1.2**2))
        for dy, dx in ((3, 7), (-5, -4), (2, -9), (-3, 11))
    )
    line_at = 5.5 + 3 * x / np.maximum(radius, 1) * np.tanh(radius / 4)
    line = np.exp(-((wavelength - line_at) ** 2) / (2 * 0.8**2)) * (2 * disc + 1.5 * blobs)
    cube = 100 * (0.4 * disc + line)
    for dy, dx, light in ((12, -11, 3000), (-14, 9, 1500)):
        cube[:, dy + size // 2 + WIDE, dx + size // 2 + WIDE] += light * np.linspace(1, 0.8, 12)
    return cube


def planet(size: int = 81) -> Array:
    """Return a disc with darker limb, bands and two clouds, and a moon, as a cube of one plane."""
    fine = 3
    y, x = (np.indices((fine * (size + 2 * WIDE),) * 2) + 0.5) / fine - WIDE - size / 2
    inside = np.clip(1 - (y**2 + x**2) / 22**2, 0, None)
    disc = 2000 * inside**0.3 * (1 + 0.2 * np.sin(y / 2.5))
    for dy, dx, width in ((-8, 6, 1.5), (7, -9, 2.5)):
        disc += 1500 * np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / (2 * width**2)) * (inside > 0)
    disc = disc.reshape(size + 2 * WIDE, fine, size + 2 * WIDE, fine).mean(axis=(1, 3))
    disc[size // 2 + WIDE + 25, size // 2 + WIDE - 22] += 2e4
    return disc[None]


def observe(truth: Array, folder: Path, *, seed: int, sky: float, variance: bool) -> Files:
    """Blur an object by a Moffat with a FWHM of 3.5 pixels, add noise and hot pixels, and write it with a star.

    The star stands off the centre of an image with even sides. `sky` is the variance of the noise of the sky.
    """
    rng = np.random.default_rng(seed)
    psf = moffat((41, 41), 3.5, (20, 20))
    inside = (slice(None), slice(WIDE, -WIDE), slice(WIDE, -WIDE))
    blurred = np.stack([fftconvolve(plane, psf, mode="same") for plane in truth])[inside]
    noise = np.maximum(blurred, 0) + sky
    observed = blurred + rng.normal(size=blurred.shape) * np.sqrt(noise)
    hot = rng.random(blurred.shape) < 0.002
    observed += hot * 40 * np.sqrt(noise)
    star = 1e6 * moffat((44, 48), 3.5, (21.3, 24.6)) + 50
    star = star + rng.normal(size=(len(truth), *star.shape)) * np.sqrt(star)
    paths = folder / "target.fits", folder / "star.fits"
    _write(paths[0], observed, noise if variance else None)
    _write(paths[1], star, np.maximum(star, 1) if variance else None)
    return Files(*paths, observed, truth[inside], hot)


def error(image: Array, truth: Array) -> float:
    """Return the relative RMS difference after smoothing by one pixel; NaN is zero."""
    a, b = (ndimage.gaussian_filter(np.nan_to_num(c).astype(float), (0, 1, 1)) for c in (image, truth))
    return float(np.sqrt(np.sum((a - b) ** 2) / np.sum(b**2)))


def _write(path: Path, data: Array, variance: Array | None) -> None:
    """Write an image if there is one plane, else a cube."""
    cards = {"CTYPE3": "AWAV", "CUNIT3": "Angstrom", "CRVAL3": 6560.0, "CRPIX3": 1.0, "CD3_3": 10.0}
    if variance is None:
        header = fits.Header(cards) if len(data) > 1 else None
        fits.PrimaryHDU(np.squeeze(data).astype(np.float32), header).writeto(path)
        return
    hdus = [fits.ImageHDU(a.astype(np.float32), name=n) for a, n in ((data, "DATA"), (variance, "STAT"))]
    for hdu in hdus:
        hdu.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
