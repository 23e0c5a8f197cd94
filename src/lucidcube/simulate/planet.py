"""Compute the truth: an ice giant and its moon, without the effects of telescope and instrument.

The brightness is the sum of four fixed maps, each multiplied by a factor that depends on the wavelength only,
so that a plane of the truth costs four multiplications per pixel, as does its Fourier transform.

- *deck*: sunlight from the cloud deck, with limb darkening by Minnaert's law (at full phase mu**(2k - 1) with
  k = 0.85), bands along the latitudes and a dark spot; methane above it absorbs.
- *haze*: thin and above the methane, so that it weakens the bands; k = 0.45 brightens the limb.
- *clouds*: high and bright, with little methane above them: streaks along the latitudes, and knots about as
  wide as a pixel.
- *moon*: a grey point outside the disc.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.simulate.optics import Floats

DISC_LEVEL = 13000.0
RADIUS_FRACTION = 0.285
FLATTENING = 0.02
SUBPIXELS = 4
POLE_ANGLE = np.deg2rad(-24.0)
TILT = np.deg2rad(-28.0)
# Methane bands in the visible: centre (m), standard deviation (m), optical depth at the centre.
METHANE_BANDS = (
    (543e-9, 3.5e-9, 0.25),
    (576e-9, 3.5e-9, 0.15),
    (619e-9, 4.5e-9, 1.00),
    (668e-9, 4.0e-9, 0.45),
    (704e-9, 3.0e-9, 0.25),
    (727e-9, 6.0e-9, 2.00),
    (795e-9, 12.0e-9, 2.20),
    (862e-9, 8.0e-9, 2.60),
    (889e-9, 12.0e-9, 4.00),
)


def methane_depth(wavelength: float) -> float:
    """Return the optical depth of methane above the cloud deck at `wavelength` in metres."""
    bands = (d * np.exp(-0.5 * ((wavelength - centre) / width) ** 2) for centre, width, d in METHANE_BANDS)
    return float(sum(bands))


def sunlight(wavelength: float) -> float:
    """Return the spectrum of a 5772 K black body per unit wavelength (m), relative to 700 nm."""

    def planck(at: float) -> float:
        return float(at**-5 / np.expm1(1.438777e-2 / (at * 5772.0)))

    return planck(wavelength) / planck(700e-9)


def amplitudes(wavelength: float) -> Floats:
    """Return the factor of each map (deck, haze, clouds, moon) at `wavelength` in metres."""
    depth = methane_depth(wavelength)
    factors = np.array([0.92 * np.exp(-depth), 0.08, np.exp(-0.3 * depth), 1.0])
    return (DISC_LEVEL * sunlight(wavelength) * factors).astype(np.float32)


class _Disc(NamedTuple):
    """Sub-pixel geometry of the visible hemisphere, arrays (y, x)."""

    inside: NDArray[np.bool_]
    cosine: Floats
    latitude: Floats
    longitude: Floats


def _disc(shape: tuple[int, int], radius: float) -> _Disc:
    """Compute the orthographic view of a slightly flattened sphere, seen from `TILT` south of its equator."""
    fine_y = (np.arange(shape[0] * SUBPIXELS, dtype=np.float32) + 0.5) / SUBPIXELS - 0.5
    fine_x = (np.arange(shape[1] * SUBPIXELS, dtype=np.float32) + 0.5) / SUBPIXELS - 0.5
    y = ((fine_y - (shape[0] - 1) / 2) / np.float32(radius))[:, None]
    x = ((fine_x - (shape[1] - 1) / 2) / np.float32(radius))[None, :]
    cos_pole, sin_pole = np.float32(np.cos(POLE_ANGLE)), np.float32(np.sin(POLE_ANGLE))
    across = x * cos_pole + y * sin_pole
    along = (y * cos_pole - x * sin_pole) / np.float32(1 - FLATTENING)
    squared = 1 - across**2 - along**2
    towards = np.sqrt(np.maximum(squared, 0))
    cos_tilt, sin_tilt = np.float32(np.cos(TILT)), np.float32(np.sin(TILT))
    latitude = np.arcsin(np.clip(along * cos_tilt + towards * sin_tilt, -1, 1))
    longitude = np.arctan2(across, towards * cos_tilt - along * sin_tilt)
    return _Disc(squared > 0, towards, np.rad2deg(latitude), np.rad2deg(longitude))


def _pixels(fine: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Return the mean over the sub-pixels of each pixel, with zero outside the disc."""
    ny, nx = fine.shape[0] // SUBPIXELS, fine.shape[1] // SUBPIXELS
    parts = np.where(inside, fine, 0).reshape(ny, SUBPIXELS, nx, SUBPIXELS)
    return parts.mean(axis=(1, 3))


def _patch(disc: _Disc, latitude: float, longitude: float, height: float, width: float) -> Floats:
    """Return a Gaussian patch; `height` and `width` are its standard deviations in degrees."""
    dy = (disc.latitude - np.float32(latitude)) / np.float32(height)
    dx = (disc.longitude - np.float32(longitude)) / np.float32(width)
    return np.exp(-0.5 * (dx**2 + dy**2))


def _knots(shape: tuple[int, int], radius: float, count: int, generator: np.random.Generator) -> Floats:
    """Return clouds about as wide as a pixel (standard deviation 0.4 to 0.7) at random places on the disc."""
    image = np.zeros(shape, dtype=np.float32)
    y, x = np.ogrid[: shape[0], : shape[1]]
    for _ in range(count):
        angle, reach = generator.uniform(0, 2 * np.pi), 0.85 * radius * np.sqrt(generator.uniform())
        centre_y = (shape[0] - 1) / 2 + reach * np.sin(angle)
        centre_x = (shape[1] - 1) / 2 + reach * np.cos(angle)
        sigma, peak = generator.uniform(0.4, 0.7), generator.uniform(0.8, 2.2)
        squared = (y - centre_y) ** 2 + (x - centre_x) ** 2
        image += (peak * np.exp(-0.5 * squared / sigma**2)).astype(np.float32)
    return image


def disc_radius(shape: tuple[int, int]) -> float:
    """Return the equatorial radius of the disc in pixels, for a field of `shape` (y, x)."""
    return RADIUS_FRACTION * min(shape)


def moon_pixel(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the pixel (y, x) of the moon, 1.32 radii from the centre of a field of `shape`, upper right."""
    reach = 1.32 * disc_radius(shape)
    y = round((shape[0] - 1) / 2 + 0.46 * reach)
    x = round((shape[1] - 1) / 2 + 0.888 * reach)
    return y, x


def maps(shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """Return the four maps (deck, haze, clouds, moon), (4, y, x), in units of `DISC_LEVEL`."""
    radius = disc_radius(shape)
    disc = _disc(shape, radius)
    phase = generator.uniform(0, 2 * np.pi, 2).astype(np.float32)
    latitude = np.deg2rad(disc.latitude)
    bands = 1 + 0.13 * np.cos(5 * latitude + phase[0]) + 0.06 * np.cos(13 * latitude + phase[1])
    bands += 0.16 * _patch(disc, -75.0, 0.0, 14.0, 1e4)
    bands *= 1 - 0.45 * _patch(disc, -22.0, 18.0, 5.0, 11.0)
    streaks = np.zeros_like(disc.cosine)
    for belt in (-52.0, -40.0, -31.0, -12.0, 8.0, 27.0):
        longitude, width = generator.uniform(-45, 45), generator.uniform(7, 16)
        height = generator.uniform(0.9, 2.0)
        peak = np.float32(generator.uniform(0.25, 1.0))
        streaks += peak * _patch(disc, belt + generator.uniform(-3, 3), longitude, height, width)
    result = np.zeros((4, *shape), dtype=np.float32)
    result[0] = _pixels(bands * disc.cosine ** np.float32(0.70), disc.inside)
    result[1] = _pixels(np.maximum(disc.cosine, np.float32(0.02)) ** np.float32(-0.10), disc.inside)
    result[2] = _pixels(streaks, disc.inside) + _knots(shape, radius, 5, generator)
    result[3][moon_pixel(shape)] = 2.5
    return result


def mixture(factors: Floats, images: Floats) -> Floats:
    """Return the sum of `images` (n, y, x) times `factors` (n,), several times faster than `tensordot`."""
    total = images[0] * factors[0]
    for factor, image in zip(factors[1:], images[1:], strict=True):
        total += factor * image
    return total
