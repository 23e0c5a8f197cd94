"""Objects with known truth: planets, rings, point sources, and a rotating galaxy with two emission lines.

Each function returns a cube (wavelength, y, x) without blur and noise. Pixels are counted from zero, and the
middle of a canvas with odd sides is a pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.simulate import planet

Array = NDArray[np.float64]
FINE = 5
"""Sub-pixels per side with which sharp edges are drawn."""


def centred(image: Array, shape: tuple[int, int]) -> Array:
    """Return an image (y, x) in the middle of a larger or smaller canvas of `shape`, all sides odd."""
    grow = [max(0, (n - m) // 2) for n, m in zip(shape, image.shape, strict=True)]
    cut = [max(0, (m - n) // 2) for n, m in zip(shape, image.shape, strict=True)]
    inside = tuple(slice(c, m - c) for c, m in zip(cut, image.shape, strict=True))
    return np.pad(image[inside], [(g, g) for g in grow])


def ice_giant(
    canvas: tuple[int, int],
    size: int,
    wavelengths: Array,
    generator: np.random.Generator,
    *,
    moon: bool = True,
) -> Array:
    """Return the ice giant of `lucidcube.simulate` as it is in a field of `size` pixels (odd), in a canvas.

    Its radius is 0.285 times `size`, and the moon is 1.32 radii from its centre.
    """
    maps = planet.maps((size, size), generator)
    if not moon:
        maps[3] = 0
    factors = np.stack([planet.amplitudes(w) for w in wavelengths])
    wide = np.stack([centred(m.astype(float), canvas) for m in maps])
    return np.einsum("nm,myx->nyx", factors.astype(float), wide)


def rings(canvas: tuple[int, int], radius: float, level: float) -> Array:
    """Return two tilted rings (y, x) about a planet of `radius`: a narrow bright one and a broad faint one.

    The part behind the planet is hidden, as is, for simplicity, the part in front of it.
    """
    y, x = (np.indices((canvas[0] * FINE, canvas[1] * FINE)) + 0.5) / FINE - 0.5
    y, x = y - (canvas[0] - 1) / 2, x - (canvas[1] - 1) / 2
    across, along = x * np.cos(0.4) + y * np.sin(0.4), y * np.cos(0.4) - x * np.sin(0.4)
    distance = np.hypot(across, along / 0.4) / radius
    image = 1.0 * (np.abs(distance - 1.62) < 0.6 / radius) + 0.35 * (np.abs(distance - 2.0) < 0.18)
    image[np.hypot(x, y) < 1.02 * radius] = 0
    return level * image.reshape(canvas[0], FINE, canvas[1], FINE).mean(axis=(1, 3))


def points(canvas: tuple[int, int], y: Array, x: Array, flux: Array) -> Array:
    """Return point sources (y, x), each shared among four pixels so that its centroid is kept."""
    image = np.zeros(canvas)
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    for dy in (0, 1):
        for dx in (0, 1):
            share = (1 - np.abs(y - row - dy)) * (1 - np.abs(x - column - dx))
            np.add.at(image, (row + dy, column + dx), flux * share)
    return image


def star_field(
    canvas: tuple[int, int], margin: int, count: int, generator: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Return positions y, x and fluxes of stars over a canvas, with 2.5 decades of brightness."""
    y, x = (generator.uniform(margin / 2, n - 1 - margin / 2, count) for n in canvas)
    return y, x, 10 ** (2.5 * generator.power(0.7, count))


def galaxy(
    canvas: tuple[int, int],
    channels: int,
    line_ratio: float = 0.35,
    *,
    bulge: float = 1.0,
    speed: float = 1.6,
) -> Array:
    """Return an inclined, rotating disc with two emission lines on a continuum.

    The first line is at channel 0.36 (channels - 1) and the second `SEPARATION` channels redwards of it; both
    have a standard deviation of `LINE_WIDTH` channels, and rotate with up to `speed` channels. The second is
    `line_ratio` times the first, twice that at the centre, and half of it in the star-forming regions along
    the arms.
    """
    y, x = (i - (n - 1) / 2 for i, n in zip(np.indices(canvas), canvas, strict=True))
    x, y = x * np.cos(0.5) + y * np.sin(0.5), y * np.cos(0.5) - x * np.sin(0.5)
    radius = np.hypot(x, y / 0.6)
    angle = np.arctan2(y / 0.6, x)
    disc = np.exp(-radius / 7)
    arm = np.cos(2 * angle - 3.2 * np.log1p(radius)) > 0.72
    knots = 1.8 * disc * ndimage.gaussian_filter((arm & (radius > 4)).astype(float), 0.7)
    velocity = speed * np.tanh(radius / 3) * x / np.maximum(radius, 0.5)
    ratio = (disc + 2 * knots * 0.5 + np.exp(-(radius**2) / 8)) / (disc + 2 * knots) * line_ratio
    channel = np.arange(channels)[:, None, None]
    at = first_line(channels) + velocity
    lines = sum(
        strength * np.exp(-((channel - at - shift) ** 2) / (2 * LINE_WIDTH**2))
        for shift, strength in ((0.0, 1.0), (SEPARATION, ratio))
    )
    return (0.35 + 0 * channel) * (disc + bulge * np.exp(-radius / 1.5)) + (disc + 2 * knots) * lines


LINE_WIDTH, SEPARATION = 0.9, 5.3


def first_line(channels: int) -> float:
    """Return the channel of the first emission line at rest."""
    return 0.36 * (channels - 1)
