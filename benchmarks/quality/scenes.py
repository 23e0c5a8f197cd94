"""The scenes: one function each, found by the decorator `scene`.

A function gets its seed and `size`, the factor by which the number of pixels and planes is reduced in tests,
and returns a `Scene`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from lucidcube.simulate import planet

from . import objects
from .observe import MARGIN, Array, Camera, observe
from .scene import Scene

SCENES: dict[str, Callable[..., Scene]] = {}
POINT_RADIUS = 3.0
METHANE, K_BAND = (714.0e-9, 1.25e-9), (2.1e-6, 1.25e-9)
"""The first wavelength and the step, in metres: the flank of a methane band, and a window in the infrared."""
LIGHT_SPEED = 299792.458


def scene(make: Callable[..., Scene]) -> Callable[..., Scene]:
    """Register a scene under the name of its function."""
    SCENES[make.__name__] = make
    return make


def _axis(axis: tuple[float, float], count: int) -> Array:
    return axis[0] + axis[1] * np.arange(count)


def _canvas(side: int) -> tuple[int, int]:
    return side + 2 * MARGIN, side + 2 * MARGIN


def _frame(image: Array) -> Array:
    return image[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def _finish(
    make: Callable[..., Scene],
    truth: Array,
    wavelengths: Array,
    camera: Camera,
    *,
    region: Array | None = None,
    facts: dict[str, Any] | None = None,
    config: str | None = None,
) -> Scene:
    """Observe the truth and return the scene, whose title is the first line of the docstring of `make`.

    The object is where the mean truth, smoothed by a pixel, exceeds 3 % of its 99th percentile, if no
    `region` is given. The sky is where the light of a pixel, smoothed likewise, is below half the noise in
    every plane, and more than four pixels from brighter ones.
    """
    seen = observe(truth, wavelengths, camera)
    inside = _frame(truth)
    smooth = ndimage.gaussian_filter(inside, (0, 1, 1))
    mean = smooth.mean(axis=0)
    bright = (smooth > 0.5 * camera.read_noise).any(axis=0)
    return Scene(
        name=make.__name__,
        title=(make.__doc__ or "").strip().partition("\n")[0].rstrip("."),
        wavelengths=wavelengths,
        data=seen.data,
        stat=seen.variance * camera.stat_factor,
        star=seen.star,
        star_variance=seen.star_variance * camera.stat_factor,
        truth=inside,
        blurred=seen.blurred,
        psf=seen.psf,
        artefacts=seen.artefacts,
        variance=seen.variance,
        object=mean > 0.03 * np.percentile(mean, 99) if region is None else region,
        sky=ndimage.distance_transform_edt(~bright) > 4,
        facts=facts or {},
        config=config,
    )


def _planet(
    make: Callable[..., Scene],
    seed: int,
    side: int,
    across: int,
    planes: int,
    *,
    moon: bool = True,
    more: Array | None = None,
    points: dict[str, list[float]] | None = None,
    **camera: Any,
) -> Scene:
    """Return an ice giant as it is in a field of `across` pixels, in one of `side` pixels.

    The region of the object is the disc without the moons, as elsewhere in this project.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    wavelengths = _axis(METHANE, planes)
    truth = objects.ice_giant(_canvas(side), across, wavelengths, generator, moon=moon)
    radius, middle = planet.RADIUS_FRACTION * across, (side - 1) / 2
    facts: dict[str, Any] = {
        "disc": {"y": middle, "x": middle, "radius": radius, "flattening": planet.FLATTENING},
    }
    facts["disc"]["pole"] = float(planet.POLE_ANGLE)
    if moon:
        y, x = planet.moon_pixel((across, across))
        shift = (side - across) / 2
        facts["points"] = {"y": [y + shift], "x": [x + shift]}
    if more is not None:
        light = np.array([planet.sunlight(w) for w in wavelengths])
        truth = truth + light[:, None, None] * more
    if points:
        facts["points"] = {key: facts.get("points", {}).get(key, []) + points[key] for key in ("y", "x")}
    y, x = np.indices((side, side)) - middle
    disc = np.hypot(y, x) < radius + 0.5
    return _finish(make, truth, wavelengths, Camera(seed, **camera), region=disc, facts=facts)


@scene
def planet_small(seed: int = 201, size: float = 1) -> Scene:
    """A planet with a radius of 9 pixels, and its moon."""
    return _planet(planet_small, seed, *_reduced(size, 61, 31, 12))


@scene
def small_planet_with_ghost(seed: int = 201, size: float = 1) -> Scene:
    """The same with a ghost that crosses the planet."""
    return _planet(small_planet_with_ghost, seed, *_reduced(size, 61, 31, 12), ghosts=1)


@scene
def planet_medium(seed: int = 202, size: float = 1) -> Scene:
    """A planet with a radius of 17 pixels, and its moon."""
    return _planet(planet_medium, seed, *_reduced(size, 75, 61, 12))


@scene
def planet_large(seed: int = 203, size: float = 1) -> Scene:
    """A planet with a radius of 34 pixels, which fills the frame."""
    return _planet(planet_large, seed, *_reduced(size, 91, 119, 10), moon=False)


@scene
def planet_faint(seed: int = 204, size: float = 1) -> Scene:
    """A planet at a signal-to-noise ratio of about 12."""
    return _planet(planet_faint, seed, *_reduced(size, 75, 61, 12), gain=12.0, read_noise=100.0)


@scene
def moons_and_rings(seed: int = 205, size: float = 1) -> Scene:
    """A planet with narrow rings and four moons of different brightness."""
    side, across, planes = _reduced(size, 85, 61, 12)
    radius, middle = planet.RADIUS_FRACTION * across, (side - 1) / 2
    angles, reach = np.array([1.2, 2.9, 4.4]), np.array([2.2, 1.45, 1.9]) * radius
    y, x = middle + reach * np.sin(angles), middle + reach * np.cos(angles)
    y, x = np.clip(y, 4, side - 5), np.clip(x, 4, side - 5)
    flux = np.array([12000.0, 4000.0, 1500.0])
    more = objects.points(_canvas(side), y + MARGIN, x + MARGIN, flux)
    more += objects.rings(_canvas(side), radius, 5000.0)
    where = {"y": y.tolist(), "x": x.tolist()}
    made = _planet(moons_and_rings, seed, side, across, planes, more=more, points=where)
    smooth = ndimage.gaussian_filter(made.truth.mean(axis=0), 1)
    return replace(made, object=smooth > 0.02 * smooth.max())


@scene
def star_field(seed: int = 206, size: float = 1) -> Scene:
    """A crowded field of 150 stars over 2.5 decades of brightness, which goes on beyond the frame."""
    side, _, planes = _reduced(size, 71, 71, 12)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    count = round(150 * ((side + MARGIN) / (71 + MARGIN)) ** 2)
    y, x, flux = objects.star_field(_canvas(side), MARGIN, count, generator)
    slope = generator.uniform(-0.3, 0.3, count)
    grid = np.linspace(-0.5, 0.5, planes)
    truth = np.stack([objects.points(_canvas(side), y, x, 300 * flux * (1 + slope * g)) for g in grid])
    y, x = y - MARGIN, x - MARGIN
    distance = np.hypot(y[:, None] - y, x[:, None] - x) + 1e3 * np.eye(count)
    alone = distance.min(axis=1) > 4
    inside = (np.minimum(y, x) > 6) & (np.maximum(y, x) < side - 7) & alone & (flux > 20)
    facts = {"points": {"y": y[inside].tolist(), "x": x[inside].tolist()}}
    return _finish(star_field, truth, _axis(METHANE, planes), Camera(seed, level=6000.0), facts=facts)


def _galaxy(
    make: Callable[..., Scene], seed: int, size: float, peak: float, nucleus: float, **options: Any
) -> Scene:
    side, _, planes = _reduced(size, 71, 71, 18)
    planes = max(planes, 14)
    wavelengths = _axis(K_BAND, planes)
    truth = peak * objects.galaxy(_canvas(side), planes, **options)
    middle = (side - 1) // 2
    facts: dict[str, Any] = {
        "lines": {
            "first": objects.first_line(planes),
            "separation": objects.SEPARATION,
            "width": objects.LINE_WIDTH,
            "speed": float(LIGHT_SPEED * K_BAND[1] / wavelengths.mean()),
        }
    }
    y, x = np.indices((side, side)) - middle
    mean = ndimage.gaussian_filter(_frame(truth).mean(axis=0), 1)
    region = (mean > 0.05 * np.percentile(mean, 99)) & (np.hypot(y, x) < 0.4 * side)
    if nucleus:
        broad = 1 + 1.5 * np.exp(-((np.arange(planes) - objects.first_line(planes) - 1) ** 2) / (2 * 3.5**2))
        truth[:, MARGIN + middle, MARGIN + middle] += nucleus * broad
        facts["points"] = {"y": [middle], "x": [middle]}
        region &= np.hypot(y, x) > 4
    camera = Camera(seed, level=peak, gain=0.3, read_noise=peak / 200)
    return _finish(make, truth, wavelengths, camera, region=region, facts=facts, config="galaxy.yaml")


@scene
def galaxy_lines(seed: int = 207, size: float = 1) -> Scene:
    """A rotating galaxy with two emission lines and star-forming regions."""
    return _galaxy(galaxy_lines, seed, size, 2000.0, 0)


@scene
def agn_and_host(seed: int = 208, size: float = 1) -> Scene:
    """A rotating galaxy around an active nucleus with 100 times its peak brightness and a broad line."""
    return _galaxy(agn_and_host, seed, size, 2000.0, 2e5, bulge=0.3)


@scene
def psf_mismatch(seed: int = 209, size: float = 1) -> Scene:
    """A planet whose PSF is 5 % broader than that of the star."""
    return _planet(psf_mismatch, seed, *_reduced(size, 75, 61, 12), target_blur=1.05)


@scene
def correlated_noise(seed: int = 210, size: float = 1) -> Scene:
    """A planet in a resampled cube, the noise of which is correlated between neighbouring pixels."""
    return _planet(
        correlated_noise, seed, *_reduced(size, 75, 61, 12), resampled=True, gain=4.0, read_noise=28.0
    )


@scene
def several_ghosts(seed: int = 211, size: float = 1) -> Scene:
    """A planet with three moving ghosts."""
    return _planet(several_ghosts, seed, *_reduced(size, 75, 61, 12), ghosts=3)


@scene
def wrong_stat(seed: int = 212, size: float = 1) -> Scene:
    """A planet whose file says a variance four times too small."""
    return _planet(wrong_stat, seed, *_reduced(size, 75, 61, 12), stat_factor=0.25, gain=4.0, read_noise=28.0)


def _reduced(size: float, side: int, across: int, planes: int) -> tuple[int, int, int]:
    """Return odd sides and a number of planes, reduced by a factor."""
    if size == 1:
        return side, across, planes
    small, part = (int(n * size) // 2 * 2 + 1 for n in (side, across))
    return max(31, small), max(21, part), max(2, round(planes * size))
