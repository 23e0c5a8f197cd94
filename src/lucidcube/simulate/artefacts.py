"""Simulate artefacts (bad pixels, stripes, a ghost, cosmic rays) and pixels without data.

The catalogue of permanent faults is drawn once per scene; only cosmic rays are drawn plane by plane. Faults
are due to the detector and to imperfect data reduction, and the variance does not include them.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from lucidcube.simulate.optics import Doubles, Floats


class ArtefactKind(IntEnum):
    """Codes of the artefact map; where artefacts overlap, the highest code is kept."""

    NONE = 0
    GHOST = 1
    STRIPE = 2
    COLD = 3
    HOT = 4
    COSMIC = 5


@dataclass(frozen=True)
class Stripe:
    """A straight stripe along the rows from column `first` to `last`, present in a part of the spectrum.

    It is at `row` at mid-spectrum, moves by `drift` rows from end to end, and is `thickness` (1 or 2) rows
    wide. It reaches `flux` at `middle`, a fraction of the spectrum, and fades as a squared cosine to zero at
    a distance of half a `span`.
    """

    row: float
    drift: float
    thickness: int
    first: int
    last: int
    flux: float
    middle: float
    span: float


@dataclass(frozen=True)
class Ghost:
    """An out-of-focus reflection: a soft-edged ring that crosses the field from `start` to `end` (y, x)."""

    start: Doubles
    end: Doubles
    radius: float
    flux: float


@dataclass(frozen=True)
class Faults:
    """All permanent faults of a scene.

    `hot` has rows of (y, x, flux) and `cold` rows of (y, x, fraction of the light that is lost). `missing` is
    the map (y, x) of the pixels without data: those outside the rotated field, and a few holes.
    """

    hot: Doubles
    cold: Doubles
    stripes: tuple[Stripe, ...]
    ghost: Ghost
    missing: NDArray[np.bool_]


def outside_field(shape: tuple[int, int], rotation: float = np.deg2rad(8.0)) -> NDArray[np.bool_]:
    """Return the map (y, x) of the pixels outside a field rotated by `rotation` (radians)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    dy, dx = (y - (shape[0] - 1) / 2) / shape[0], (x - (shape[1] - 1) / 2) / shape[1]
    along = dx * np.cos(rotation) + dy * np.sin(rotation)
    across = dy * np.cos(rotation) - dx * np.sin(rotation)
    return (np.abs(along) > 0.478) | (np.abs(across) > 0.478)


def draw_faults(
    shape: tuple[int, int], level: float, travel: float, generator: np.random.Generator
) -> Faults:
    """Draw the permanent faults of a scene whose field has this (y, x) `shape`.

    `level` is the brightness of the object, by which the faults are scaled, and `travel` the fraction of its
    path across the field that the ghost covers within the spectrum.
    """
    area, side = shape[0] * shape[1], min(shape)
    missing = outside_field(shape)
    field = np.argwhere(~missing)
    for y, x in generator.choice(field, size=max(3, area // 5000)):
        missing[y : y + generator.integers(1, 3), x : x + generator.integers(1, 4)] = True
    field = np.argwhere(~missing)
    n_hot, n_cold = max(5, area // 1500), max(5, area // 1200)
    places = generator.choice(field, size=n_hot + n_cold, replace=False)
    hot_flux = level * 10 ** generator.uniform(-1.6, 0.3, n_hot)
    loss = generator.uniform(0.15, 0.9, n_cold)
    stripes = tuple(_draw_stripe(shape, level, generator) for _ in range(max(3, side // 40)))
    corner, way = np.array([0.25, 0.12]) * shape, np.array([0.35, 0.68]) * shape
    start, end = corner + (0.5 - 0.5 * travel) * way, corner + (0.5 + 0.5 * travel) * way
    ghost = Ghost(start, end, max(2.5, 0.055 * side), level * generator.uniform(0.14, 0.22))
    hot, cold = np.column_stack([places[:n_hot], hot_flux]), np.column_stack([places[n_hot:], loss])
    return Faults(hot, cold, stripes, ghost, missing)


def _draw_stripe(shape: tuple[int, int], level: float, generator: np.random.Generator) -> Stripe:
    length = int(shape[1] * generator.uniform(0.14, 0.30))
    first = int(generator.uniform(0.1, 0.9) * (shape[1] - length))
    sign = generator.choice([-1.0, 1.0])
    return Stripe(
        row=generator.uniform(0.15, 0.85) * shape[0],
        drift=generator.uniform(-0.12, 0.12) * shape[0],
        thickness=int(generator.integers(1, 3)),
        first=first,
        last=first + length,
        flux=sign * level * 10 ** generator.uniform(-1.5, -0.35),
        middle=generator.uniform(0.0, 1.0),
        span=generator.uniform(0.5, 1.2),
    )


def paint_artefacts(
    faults: Faults,
    position: float,
    blurred: Floats,
    variance: Floats,
    level: float,
    generator: np.random.Generator,
) -> tuple[Floats, NDArray[np.uint8]]:
    """Make the artefacts of the plane at a `position` in the spectrum, from 0 to 1.

    `blurred` and `variance` are its image (y, x) without noise and the variance of the noise; `level` scales
    the cosmic rays. The results are the flux (y, x) to be added, zero where there is no data, and the codes
    of `ArtefactKind` (y, x) where that flux exceeds one standard deviation of the noise.
    """
    flux = np.zeros(blurred.shape, dtype=np.float32)
    kind = np.zeros(blurred.shape, dtype=np.uint8)
    _paint_ghost(faults.ghost, position, flux, kind)
    for stripe in faults.stripes:
        _paint_stripe(stripe, position, flux, kind)
    (y, x), loss = faults.cold[:, :2].T.astype(np.intp), faults.cold[:, 2]
    flux[y, x] -= (loss * blurred[y, x]).astype(np.float32)
    kind[y, x] = ArtefactKind.COLD
    (y, x), excess = faults.hot[:, :2].T.astype(np.intp), faults.hot[:, 2]
    flux[y, x] += excess.astype(np.float32)
    kind[y, x] = ArtefactKind.HOT
    _paint_cosmic_rays(level, generator, flux, kind)
    flux[faults.missing] = 0
    kind[flux * flux < variance] = ArtefactKind.NONE
    return flux, kind


def _paint_ghost(ghost: Ghost, position: float, flux: Floats, kind: NDArray[np.uint8]) -> None:
    centre = ghost.start + (ghost.end - ghost.start) * position
    y, x = np.ogrid[: flux.shape[0], : flux.shape[1]]
    radius = np.hypot(y - centre[0], x - centre[1])
    # The secondary mirror casts a shadow on the middle of a pupil image.
    shadow = 0.6 + 0.4 * np.clip(radius / ghost.radius / 0.4, 0, 1)
    ring = np.clip(ghost.radius - radius + 0.5, 0, 1) * shadow
    flux += (ghost.flux * ring).astype(np.float32)
    kind[ring > 0] = ArtefactKind.GHOST


def _paint_stripe(stripe: Stripe, position: float, flux: Floats, kind: NDArray[np.uint8]) -> None:
    phase = (position - stripe.middle) / stripe.span
    if abs(phase) >= 0.5:
        return
    row = round(stripe.row + stripe.drift * (position - 0.5))
    window = np.s_[max(0, row) : max(0, row + stripe.thickness), stripe.first : stripe.last]
    flux[window] += np.float32(stripe.flux * np.cos(np.pi * phase) ** 2)
    kind[window] = ArtefactKind.STRIPE


def _paint_cosmic_rays(
    level: float, generator: np.random.Generator, flux: Floats, kind: NDArray[np.uint8]
) -> None:
    """Add tracks of one to four pixels, on average 1.5 per 10 000 pixels."""
    ny, nx = flux.shape
    for _ in range(generator.poisson(1.5e-4 * ny * nx)):
        length, angle = generator.integers(1, 5), generator.uniform(0, np.pi)
        start_y, start_x = generator.uniform(0, ny), generator.uniform(0, nx)
        energy = level * 10 ** generator.uniform(-1.2, 0.4)
        along = np.arange(length)
        y = np.clip(start_y + along * np.sin(angle), 0, ny - 1).astype(np.intp)
        x = np.clip(start_x + along * np.cos(angle), 0, nx - 1).astype(np.intp)
        flux[y, x] += np.float32(energy)
        kind[y, x] = ArtefactKind.COSMIC
