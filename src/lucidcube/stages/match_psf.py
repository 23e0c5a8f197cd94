"""Compare the pixels of a PSF with those of the target, by their headers."""

import math
from typing import NamedTuple

import numpy as np
import xarray as xr
from astropy.io import fits

from lucidcube.cube import HEADER, PRIMARY_HEADER, UNITS, WAVELENGTH, X, Y
from lucidcube.errors import CubeError
from lucidcube.io.header_cards import number
from lucidcube.io.header_cards import text as text_of
from lucidcube.io.headers import VERSION_CARD
from lucidcube.io.wcs import SCALE_CARDS, sky_matrix
from lucidcube.stages.base import REGISTRY, Stage

WAVELENGTH_CARDS = ("WAVELEN", "WAVELNTH")
"""Cards with the wavelength of an image in metres."""
SAME = 0.01
"""Largest relative difference between pixels that count as the same, and of the sides of square ones."""
SMALL_ANGLE = 0.5
"""Angle in degrees below which orientations count as the same."""
COARSEST = 1.5
"""Largest size of a pixel of the PSF in pixels of the target: larger ones blur what must be known."""
SAME_BAND = 1.5
"""Largest ratio of the wavelength of an image of a PSF to those of the target."""


class Match(NamedTuple):
    """The stage that a PSF needs to have the pixels of the target, or None, and a sentence for the user."""

    stage: Stage | None
    text: str


def match_psf(star: xr.Dataset, target: xr.Dataset, *, observed: bool) -> Match:
    """Compare the pixel scales and orientations of a star or PSF and of the target, from their headers.

    A file without a scale is taken as it is. So is the orientation of an `observed` star, and of a PSF that
    lucidcube made from one: its asymmetries belong to the telescope and not to the sky. CubeError is raised
    if the PSF cannot be used.
    """
    _same_band(star, target)
    observed = observed or VERSION_CARD in star.attrs.get(PRIMARY_HEADER, "")
    ours, theirs, scale = _sky(target), _sky(star), _card(star, SCALE_CARDS)
    if theirs is None and scale is None:
        same = "the file states no pixel scale: its pixels are taken to be those of the target"
        return Match(None, "" if observed else same)
    if ours is None:
        return Match(None, "the target states no pixel scale: its pixels are taken to be those of the star")
    if theirs is None:  # a scale without an orientation
        theirs = ours / np.hypot(*ours) * (scale or 1.0)
    matrix = np.linalg.inv(theirs) @ ours
    angle, mirror = _orientation(matrix)
    text = ""
    if observed and (mirror or abs(angle) > SMALL_ANGLE):
        text = (
            f"its sky is rotated by {angle:.3g} degrees{' and mirrored' if mirror else ''} to that of the "
            "target: the PSF keeps its pixels; if it turns with the sky, add the stage resample_psf"
        )
        matrix = np.diag(np.hypot(*ours) / np.hypot(*theirs))
    if np.abs(matrix - np.eye(2)).max() < SAME:
        return Match(None, text)
    resampled = _resampled(matrix, target)
    return resampled._replace(text="; ".join(filter(None, (resampled.text, text))))


def _orientation(matrix: np.ndarray) -> tuple[float, bool]:
    """Return the angle in degrees of the new x axis from the old one, and whether the parity changes."""
    return math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])), bool(np.linalg.det(matrix) < 0)


def _resampled(matrix: np.ndarray, target: xr.Dataset) -> Match:
    """Return the stage for steps (x, y) in pixels of the star for steps along x and y of the target."""
    steps, area = np.hypot(*matrix), abs(np.linalg.det(matrix))
    size = math.sqrt(area)
    if max(steps) > (1 + SAME) * min(steps) or area < (1 - SAME) * steps[0] * steps[1]:
        raise CubeError(
            "its pixels and those of the target have different shapes; resample one of them to square pixels"
        )
    if size < 1 / COARSEST:
        raise CubeError(
            f"its pixels are {1 / size:.3g} times as large as those of the target, too large to know the PSF "
            f"there; give one with pixels of at most {COARSEST:g} of the target's"
        )
    rotation, mirror = _orientation(matrix)
    field = max(target.sizes[Y], target.sizes[X])
    values = {"scale": round(size, 6), "rotation": round(rotation, 4) + 0.0, "mirror": mirror}
    stage = REGISTRY["resample_psf"].parse({**values, "side": field - 1 + field % 2})
    turned = f", rotated by {rotation:.3g} degrees" if abs(rotation) > SMALL_ANGLE else ""
    return Match(
        stage,
        f"resampled to the pixels of the target, which are {size:.3g} of its own{turned}"
        f"{', mirrored' if mirror else ''}",
    )


def _sky(cube: xr.Dataset) -> np.ndarray | None:
    """Return the sky offsets (east, north) in arcseconds of steps along x and y; None if not stated."""
    try:
        return sky_matrix(fits.Header.fromstring(cube.attrs.get(HEADER, ""), sep="\n"))
    except CubeError:
        return None


def _card(cube: xr.Dataset, keywords: tuple[str, ...]) -> float | None:
    """Return the positive value of the first of these cards that the header has."""
    for key in (HEADER, PRIMARY_HEADER):
        header = fits.Header.fromstring(cube.attrs.get(key, ""), sep="\n")
        for keyword in keywords:
            if text_of(header, keyword) and number(header, keyword, 0.0) > 0:
                return number(header, keyword, 0.0)
    return None


def _same_band(star: xr.Dataset, target: xr.Dataset) -> None:
    """Raise CubeError if the star is an image whose header states another wavelength than the target's."""
    axis, known = target[WAVELENGTH], _card(star, WAVELENGTH_CARDS)
    if star.sizes[WAVELENGTH] > 1 or known is None or axis.attrs.get(UNITS) != "m":
        return
    low, high = float(axis.min()), float(axis.max())
    if known * SAME_BAND < low or known > SAME_BAND * high:
        raise CubeError(
            f"its wavelength is {known:.4g} m, but those of the target are {low:.4g} to {high:.4g} m: give a "
            "PSF of the wavelengths of the target"
        )
