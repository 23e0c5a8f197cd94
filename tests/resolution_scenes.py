"""Stars between pixels and extended patches, blurred by pixel-integrated PSFs of any width."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

Array = NDArray[Any]
FINE = 5
SIDE = 101
FWHM = 2 * math.sqrt(2 * math.log(2))
STARS = [(y + dy, x + dx) for (y, x), (dy, dx) in zip(
    [(18, 18), (18, 52), (18, 84), (50, 18), (84, 18), (84, 52), (84, 84), (50, 84)],
    [(0.5, 0.5), (0, 0), (0.25, -0.4), (0.5, 0), (-0.3, 0.1), (0.1, 0.45), (-0.45, -0.2), (0.33, 0.33)],
    strict=True,
)]  # fmt: skip
"""Positions (y, x) of eight stars, most of them between pixels."""


def moffat(shape: tuple[int, int], fwhm: float, centre: tuple[float, float], beta: float = 2.5) -> Array:
    """Return a Moffat profile of unit sum in the plane, integrated over the pixels."""
    core = fwhm / 2 / math.sqrt(2 ** (1 / beta) - 1)
    offset = (np.arange(FINE) - (FINE - 1) / 2) / FINE
    y, x = ((np.arange(n)[:, None] + offset).ravel() - c for n, c in zip(shape, centre, strict=True))
    profile = (1 + (y[:, None] ** 2 + x**2) / core**2) ** -beta * (beta - 1) / (math.pi * core**2)
    return profile.reshape(shape[0], FINE, shape[1], FINE).mean(axis=(1, 3))


def gaussian(shape: tuple[int, int], sigma: float, centre: tuple[float, float]) -> Array:
    """Return a Gaussian of unit sum in the plane, sampled at the centres of pixels."""
    y, x = (np.exp(-0.5 * ((np.arange(n) - c) / sigma) ** 2) for n, c in zip(shape, centre, strict=True))
    return np.outer(y, x) / (2 * math.pi * sigma**2)


def psf(fwhm: float) -> Array:
    """Return the PSF of unit sum in an array that is larger than the plane."""
    made = moffat((SIDE, SIDE), fwhm, (SIDE // 2, SIDE // 2))
    return (made / made.sum()).astype(np.float32)


def stars(fwhm: float, peak: float, *, seed: int = 1) -> tuple[Array, float]:
    """Return a plane of stars with noise of variance one, and the flux of each, whose peak is given."""
    flux = peak / moffat((9, 9), fwhm, (4, 4)).max()
    plane = flux * sum(moffat((SIDE, SIDE), fwhm, centre) for centre in STARS)
    return (plane + np.random.default_rng(seed).normal(size=plane.shape)).astype(np.float32), flux


def encircled(image: Array, centre: tuple[float, float], radius: float) -> float:
    """Return the light within a circle, whose edge is a pixel wide."""
    y, x = np.indices(image.shape)
    return float(np.sum(image * np.clip(radius + 0.5 - np.hypot(y - centre[0], x - centre[1]), 0, 1)))


def encircled_errors(image: Array, flux: float, sigma: float, radii: tuple[float, ...] = (1, 2, 3)) -> Array:
    """Return the relative errors of the light within these radii, in sigmas: (stars, radii)."""
    errors = []
    for centre in STARS:
        true = gaussian(image.shape, sigma, centre)
        ratios = (encircled(image, centre, r * sigma) / encircled(true, centre, r * sigma) for r in radii)
        errors.append([ratio / flux - 1 for ratio in ratios])
    return np.array(errors)


def patch(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> Array:
    """Return a disc of brightness one."""
    offset = (np.arange(FINE) - (FINE - 1) / 2) / FINE
    y, x = ((np.arange(n)[:, None] + offset).ravel() - c for n, c in zip(shape, centre, strict=True))
    inside = (np.hypot(y[:, None], x) < radius).astype(float)
    return inside.reshape(shape[0], FINE, shape[1], FINE).mean(axis=(1, 3))


def blurred(image: Array, fwhm: float) -> Array:
    """Return a plane convolved with the PSF, with zeros beyond it."""
    return fftconvolve(image, moffat((2 * SIDE - 1,) * 2, fwhm, (SIDE - 1, SIDE - 1)), mode="same")
