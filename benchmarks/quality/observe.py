"""Observe an object: blur, noise, artefacts and a star, with the optics of `lucidcube.simulate`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve

from lucidcube.simulate.artefacts import Faults, Ghost, draw_faults, outside_field, paint_artefacts
from lucidcube.simulate.optics import AdaptiveOptics, RadialPsf

Array = NDArray[Any]
MARGIN = 20
"""Pixels by which the object around the frame is larger than the frame on every side."""
RESAMPLED = np.outer((0.2, 0.6, 0.2), (0.2, 0.6, 0.2))
"""Weights with which resampling mixes the noise of neighbouring pixels, before normalisation."""


@dataclass(frozen=True)
class Camera:
    """How a scene is observed.

    `gain` is the variance per unit of flux and `read_noise` the standard deviation without light.
    `target_blur` multiplies the width of the PSF of the target, but not that of the star. `level` is the
    brightness by which artefacts are scaled, zero for none, and `ghosts` is the number of ghosts. With
    `resampled` the noise of neighbouring pixels is correlated, with the same variance. The variance that is
    handed out is `stat_factor` times the true one.
    """

    seed: int
    gain: float = 1.0
    read_noise: float = 14.0
    level: float = 13000.0
    ghosts: int = 0
    resampled: bool = False
    stat_factor: float = 1.0
    target_blur: float = 1.0
    star_flux: float = 6e7
    pixel_scale: float = 0.025
    optics: AdaptiveOptics = field(default_factory=AdaptiveOptics)


@dataclass(frozen=True)
class Observation:
    """What is observed, and the truth about it: cubes (wavelength, y, x). The variance is the true one."""

    data: Array
    variance: Array
    blurred: Array
    psf: Array
    artefacts: Array
    star: Array
    star_variance: Array


def observe(truth: Array, wavelengths: Array, camera: Camera) -> Observation:
    """Observe an object (wavelength, y, x) that is `MARGIN` pixels larger than the frame on every side."""
    shape = truth.shape[1] - 2 * MARGIN, truth.shape[2] - 2 * MARGIN
    side = (min(shape) - 1) // 2 * 2 + 1
    reach = 0.8 * float(np.hypot(*shape))
    narrow, wide = (
        RadialPsf(camera.optics, scale, reach, float(wavelengths[0]))
        for scale in (camera.pixel_scale, camera.pixel_scale / camera.target_blur)
    )
    stamp = wide.look_up((side, side), (side // 2, side // 2))
    star_at = (shape[0] - 1) / 2 + 2.31, (shape[1] - 1) / 2 - 3.17
    star_look = narrow.look_up(shape, star_at)
    generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence(camera.seed, spawn_key=(7,))))
    faults = list(_faults(shape, camera, generator))
    planes: list[tuple[Array, ...]] = []
    for index, wavelength in enumerate(wavelengths):
        psf = stamp.paint(wide.profile(wavelength)).astype(np.float64)
        psf /= psf.sum()
        blurred = fftconvolve(truth[index], psf, mode="same")[MARGIN:-MARGIN, MARGIN:-MARGIN]
        variance = camera.gain * np.maximum(blurred, 0) + camera.read_noise**2
        data = blurred + np.sqrt(variance) * _noise(shape, camera.resampled, generator)
        kinds = np.zeros(shape, np.uint8)
        position = index / max(1, len(wavelengths) - 1)
        for each in faults:
            flux, kind = paint_artefacts(
                each,
                position,
                blurred.astype(np.float32),
                variance.astype(np.float32),
                camera.level,
                generator,
            )
            data, kinds = data + flux, np.maximum(kinds, kind)
        if faults:
            data[faults[0].missing] = variance[faults[0].missing] = np.nan
        light = star_look.paint(narrow.profile(wavelength)).astype(np.float64)
        expected = camera.star_flux * light / light.sum() + 450.0
        star_variance = camera.gain * expected + camera.read_noise**2
        star = expected + np.sqrt(star_variance) * _noise(shape, camera.resampled, generator)
        star[outside_field(shape)] = star_variance[outside_field(shape)] = np.nan
        planes.append((data, variance, blurred, psf, kinds, star, star_variance))
    data, variance, blurred, psf, kinds, star, star_variance = (
        np.stack(c) for c in zip(*planes, strict=True)
    )
    return Observation(data, variance, blurred, psf, kinds, star, star_variance)


def _faults(shape: tuple[int, int], camera: Camera, generator: np.random.Generator) -> Any:
    """Yield the permanent faults: those of the field, then further ghosts."""
    if camera.level <= 0:
        return
    first = draw_faults(shape, camera.level, 0.6, generator)
    yield first if camera.ghosts else replace(first, ghost=replace(first.ghost, flux=0.0))
    size = np.array(shape)
    for number in range(1, camera.ghosts):
        start, end = generator.uniform(0.2, 0.8, 2) * size, generator.uniform(0.2, 0.8, 2) * size
        ghost = Ghost(start, end, first.ghost.radius * (0.7 + 0.4 * number), first.ghost.flux * 0.7)
        nothing = np.zeros((0, 3))
        yield replace(Faults(nothing, nothing, (), ghost, first.missing))


def _noise(shape: tuple[int, int], resampled: bool, generator: np.random.Generator) -> Array:
    """Return normal noise of unit variance, which resampling correlates between neighbours."""
    noise = generator.standard_normal(shape)
    if resampled:
        noise = ndimage.convolve(noise, RESAMPLED / np.sqrt(np.square(RESAMPLED).sum()), mode="wrap")
    return noise
