"""Simulate scenes: the observed planes of a target and a star, together with the truth."""

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from lucidcube.errors import CubeError
from lucidcube.simulate import planet
from lucidcube.simulate.artefacts import Faults, draw_faults, outside_field, paint_artefacts
from lucidcube.simulate.optics import AdaptiveOptics, Doubles, Floats, RadialLookUp, RadialPsf

STAR_FLUX = 6.0e7
SKY_LEVEL = 450.0
GHOST_CROSSING = 30e-9
SKY_CENTRE = (53.21, 18.47)
"""Right ascension and declination (degrees) of the centre of the field."""


class _Stream(IntEnum):
    """Independent streams of random numbers for one seed."""

    PLANET = 0
    FAULTS = 1
    TARGET = 2
    STAR_FAULTS = 3
    STAR = 4


class ScenePlane(NamedTuple):
    """One wavelength of the target; images (y, x) in 1e-20 erg/s/cm2/Angstrom, float32.

    `truth` is the object itself, and `blurred` its convolution with `psf`, zero beyond the edge; both are
    without NaN. `psf` is an odd square stamp, centred, with a sum of one. `observed` is the sum of `blurred`,
    `artefact_flux` and noise of the given `variance`; both are NaN where there is no data. `artefact_kind`
    has the codes of `ArtefactKind`, uint8.
    """

    truth: Floats
    psf: Floats
    blurred: Floats
    observed: Floats
    variance: Floats
    artefact_kind: NDArray[np.uint8]
    artefact_flux: Floats


class StarPlane(NamedTuple):
    """One wavelength of the standard star; images (y, x) as in `ScenePlane`.

    `observed` is the star on a `background` level with noise and a few outliers; it and its `variance` are
    NaN outside the field. `psf` is the true PSF, which is that of the target at this wavelength.
    """

    observed: Floats
    variance: Floats
    psf: Floats
    background: float


class Moon(NamedTuple):
    """Position of the moon: pixel (from zero), right ascension and declination in degrees."""

    y: int
    x: int
    right_ascension: float
    declination: float


@dataclass(frozen=True)
class Scene:
    """A seeded simulation of an ice giant and a standard star seen by an AO-fed integral-field spectrograph.

    Every plane is a pure function of these parameters and its index, so that planes can be made in any order.
    Noise is normal with the variance of the photons (`gain`) plus that of the read-out: with hundreds of
    counts in a pixel of the disc and mostly read noise outside, a Poisson distribution would look the same.
    `shape` is the number of wavelengths and the size along y and x, and `star_shape` is that of a plane of
    the star, if it is different. Wavelengths are in metres; by default they cover the flank of the methane
    band at 727 nm. `pixel_scale` is in arcseconds, and `position_angle` is the angle from north through east
    to the +y axis in degrees. `gain` is the variance per unit of flux, and `read_noise` is the standard
    deviation of the noise without light. A field smaller than 21 pixels, no plane, and wavelengths that are
    not positive raise CubeError.
    """

    shape: tuple[int, int, int] = (32, 61, 61)
    first_wavelength: float = 716.5e-9
    wavelength_step: float = 0.25e-9
    seed: int = 0
    pixel_scale: float = 0.025
    position_angle: float = 20.0
    star_shape: tuple[int, int] | None = None
    optics: AdaptiveOptics = field(default_factory=AdaptiveOptics)
    gain: float = 20.0
    read_noise: float = 63.0

    def __post_init__(self) -> None:
        if self.shape[0] < 1 or min(*self.shape[1:], *self.star_field) < 21:
            given = f"shape is {self.shape}, star_shape {self.star_field}"
            raise CubeError(f"a scene needs at least 1 plane of 21 x 21 pixels: {given}")
        if self.first_wavelength <= 0 or self.wavelength_step <= 0:
            given = f"first_wavelength is {self.first_wavelength:g} m, step {self.wavelength_step:g} m"
            raise CubeError(f"the wavelengths of a scene must rise from above zero: {given}")

    @property
    def wavelengths(self) -> Doubles:
        """Centre of each channel in metres (in air)."""
        return self.first_wavelength + self.wavelength_step * np.arange(self.shape[0], dtype=np.float64)

    @property
    def target_field(self) -> tuple[int, int]:
        """Shape (y, x) of a plane of the target."""
        return self.shape[1:]

    @property
    def star_field(self) -> tuple[int, int]:
        """Shape (y, x) of a plane of the star."""
        return self.shape[1:] if self.star_shape is None else self.star_shape

    @property
    def stamp(self) -> int:
        """Side of the PSF stamps: the largest odd number of pixels that fits into both fields."""
        return (min(*self.target_field, *self.star_field) - 1) // 2 * 2 + 1

    @property
    def empty_plane(self) -> int | None:
        """Index of the plane of the target that is entirely NaN; None with fewer than four planes."""
        return self.shape[0] * 3 // 5 if self.shape[0] >= 4 else None

    @property
    def star_centre(self) -> tuple[float, float]:
        """Position (y, x) of the star in pixels from zero, off the centres of the field and of its pixel."""
        ny, nx = self.star_field
        return (ny - 1) / 2 + 0.034 * ny + 0.31, (nx - 1) / 2 - 0.045 * nx + 0.17

    @property
    def sky_matrix(self) -> Doubles:
        """Matrix (2, 2) from pixels (x, y) to degrees (east, north): the CD matrix of FITS."""
        angle, scale = np.deg2rad(self.position_angle), self.pixel_scale / 3600.0
        return scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    @property
    def moon(self) -> Moon:
        """The position of the moon, by a gnomonic projection about `SKY_CENTRE`."""
        y, x = planet.moon_pixel(self.target_field)
        offset = (x - (self.target_field[1] - 1) / 2, y - (self.target_field[0] - 1) / 2)
        east, north = np.deg2rad(self.sky_matrix @ np.array(offset))
        centre_ra, centre_dec = np.deg2rad(SKY_CENTRE)
        depth = np.cos(centre_dec) - north * np.sin(centre_dec)
        ra = centre_ra + np.arctan2(east, depth)
        dec = np.arctan2(np.sin(centre_dec) + north * np.cos(centre_dec), np.hypot(east, depth))
        return Moon(y, x, float(np.rad2deg(ra)), float(np.rad2deg(dec)))

    def plane(self, index: int) -> ScenePlane:
        """Return the target at channel `index`; raise an IndexError if there is no such channel."""
        wavelength = self._wavelength(index)
        factors = planet.amplitudes(wavelength)
        truth = planet.mixture(factors, self._maps)
        psf = _unit(self._stamp_look_up.paint(self._radial_psf.profile(wavelength)))
        blurred = self._blur(factors, psf)
        variance = self._variance(blurred)
        generator = self._generator(_Stream.TARGET, index)
        noise = self._noise(variance, generator)
        position = index / max(1, self.shape[0] - 1)
        flux, kind = paint_artefacts(self._faults, position, blurred, variance, planet.DISC_LEVEL, generator)
        observed = blurred + flux + noise
        if index == self.empty_plane:
            observed[:], variance[:], flux[:], kind[:] = np.nan, np.nan, 0, 0
        else:
            observed[self._faults.missing] = variance[self._faults.missing] = np.nan
        return ScenePlane(truth, psf, blurred, observed, variance, kind, flux)

    def star_plane(self, index: int) -> StarPlane:
        """Return the standard star at channel `index`; raise an IndexError if there is no such channel."""
        wavelength = self._wavelength(index)
        profile = self._radial_psf.profile(wavelength)
        stamp = self._stamp_look_up.paint(profile)
        light = STAR_FLUX * planet.sunlight(wavelength) / float(stamp.sum(dtype=np.float64))
        background = SKY_LEVEL * (700e-9 / wavelength)
        expected = self._star_look_up.paint(profile) * np.float32(light) + np.float32(background)
        variance = self._variance(expected)
        observed = expected + self._noise(variance, self._generator(_Stream.STAR, index))
        y, x, flux = self._star_outliers
        observed[y.astype(np.intp), x.astype(np.intp)] += flux.astype(np.float32)
        missing = outside_field(self.star_field)
        observed[missing] = variance[missing] = np.nan
        return StarPlane(observed, variance, _unit(stamp), background)

    def _wavelength(self, index: int) -> float:
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"plane {index} of a scene of {self.shape[0]}")
        return self.first_wavelength + self.wavelength_step * index

    def _generator(self, stream: _Stream, index: int = 0) -> np.random.Generator:
        seed = np.random.SeedSequence(self.seed, spawn_key=(stream, index))
        return np.random.Generator(np.random.SFC64(seed))

    def _variance(self, expected: Floats) -> Floats:
        return np.maximum(expected, 0) * np.float32(self.gain) + np.float32(self.read_noise**2)

    def _noise(self, variance: Floats, generator: np.random.Generator) -> Floats:
        return generator.standard_normal(variance.shape, dtype=np.float32) * np.sqrt(variance)

    def _blur(self, factors: Floats, psf: Floats) -> Floats:
        """Convolve the truth with `psf` without wrap-around; the transforms of the four maps are cached."""
        (ny, nx), half = self.target_field, self.stamp // 2
        product = planet.mixture(factors, self._map_transforms.view(np.float32)).view(np.complex64)
        product *= fft.rfft2(psf, self._padded)
        whole = fft.irfft2(product, self._padded, overwrite_x=True)
        return np.ascontiguousarray(whole[half : half + ny, half : half + nx])

    @cached_property
    def _maps(self) -> Floats:
        return planet.maps(self.target_field, self._generator(_Stream.PLANET))

    @cached_property
    def _map_transforms(self) -> NDArray[np.complex64]:
        return np.stack([fft.rfft2(image, self._padded) for image in self._maps])

    @property
    def _padded(self) -> tuple[int, int]:
        """Lengths of the transforms for which the result has no wrap-around."""
        ny, nx = (fft.next_fast_len(n + self.stamp // 2, real=True) for n in self.target_field)
        return ny, nx

    @cached_property
    def _radial_psf(self) -> RadialPsf:
        reach = 0.78 * float(np.hypot(*self.star_field))
        return RadialPsf(self.optics, self.pixel_scale, reach, self.first_wavelength)

    @cached_property
    def _stamp_look_up(self) -> RadialLookUp:
        side, centre = self.stamp, float(self.stamp // 2)
        return self._radial_psf.look_up((side, side), (centre, centre))

    @cached_property
    def _star_look_up(self) -> RadialLookUp:
        return self._radial_psf.look_up(self.star_field, self.star_centre)

    @cached_property
    def _faults(self) -> Faults:
        travel = min(1.0, self.wavelength_step * self.shape[0] / GHOST_CROSSING)
        return draw_faults(self.target_field, planet.DISC_LEVEL, travel, self._generator(_Stream.FAULTS))

    @cached_property
    def _star_outliers(self) -> Doubles:
        """Hot pixels away from the star (rows y, x, flux), with up to a third of the peak of the star."""
        generator = self._generator(_Stream.STAR_FAULTS)
        y, x = np.indices(self.star_field)
        away = np.hypot(y - self.star_centre[0], x - self.star_centre[1]) > 0.2 * min(self.star_field)
        places = generator.choice(np.argwhere(away & ~outside_field(self.star_field)), size=5, replace=False)
        return np.vstack([places.T, 10 ** np.linspace(3.0, 5.6, 5)])


def _unit(stamp: Floats) -> Floats:
    return stamp / np.float32(stamp.sum(dtype=np.float64))
