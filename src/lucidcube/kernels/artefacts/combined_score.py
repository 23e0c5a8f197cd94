"""Combine the spectral test with the test against the PSF, in this order.

The spectral test comes first, on a window of planes. What it finds has no weight in the fit of the PSF
test, which needs one plane only. In the other order, the fit of a plane with a ghost differs from the data
all around the ghost, and the good pixels there are marked.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Marks = NDArray[np.bool_]

LARGEST = 10.0
"""Deviations are limited to this before smoothing, so that hot pixels do not spread far."""
EXTENDED = 3.0
"""Factor by which a deviation that is smoothed must be more significant than that of one pixel."""
FAINT = 0.5
"""Suspects reach out to this fraction of the cut in amplitude."""


class Suspects(NamedTuple):
    """The outcome of the spectral test, two arrays (planes, y, x)."""

    amplitude: Floats
    """Modulus of the deviation smoothed by a Gaussian of one pixel, about that of each pixel of an extended
    artefact; NaN where the deviation is not known."""
    marks: Marks
    """Pixels that must have no weight in the fit of the PSF test."""


class Score(NamedTuple):
    """The outcome of both tests, two arrays (planes, y, x) of float32."""

    score: Floats
    """Artefact score in standard deviations."""
    amplitude: Floats
    """Score of extended artefacts, smoothed by one pixel, along which marks can grow; not negative."""


def suspects(z: NDArray[np.floating], *, cut: float) -> Suspects:
    """Find the pixels that may be artefacts according to the spectral test.

    `z` (planes, y, x) are the deviations from the spectral model in standard deviations, NaN where unknown.
    Marked are the pixels whose deviation exceeds the cut, and the connected regions with an amplitude of at
    least half the cut in which it is exceeded somewhere.
    """
    amplitude = _amplitude(z)
    marks = np.abs(np.nan_to_num(z)) > cut
    for plane, here in zip(amplitude, marks, strict=True):
        here |= ndimage.binary_propagation(plane > cut, mask=plane > FAINT * cut)
    return Suspects(amplitude, marks)


def combined_score(z: NDArray[np.floating], sharpness: NDArray[np.floating], found: Suspects) -> Score:
    """Return the artefact score of planes in standard deviations, and its smoothed amplitude.

    A suspect that is wider than two pixels must fail both tests: its score is the geometric mean of the two
    deviations, at most twice the smaller one. Other suspects are judged by the PSF test alone, because the
    surroundings predict them well, while a fit of the spectrum may have taken the artefact for the object.
    All other pixels have the larger of the two deviations. The amplitude is the smaller of those of the two
    tests, so that marks do not grow along pixels that fail only one of them, such as clouds.

    `z` and `sharpness` (planes, y, x) are the deviations from the spectral model, and from what the PSF
    allows, from a fit without the suspects that were `found`. NaN counts as zero, also in the result.
    """
    amplitude = np.nan_to_num(found.amplitude)
    spectral = np.maximum(np.abs(np.nan_to_num(z)), amplitude)
    sharp = np.abs(np.nan_to_num(sharpness))
    both = np.minimum(2 * np.minimum(spectral, sharp), np.sqrt(spectral * sharp))
    one = np.maximum(sharp, np.where(found.marks, 0, spectral))
    score = np.where(_wide(found.marks), both, one).astype(np.float32)
    return Score(score, np.minimum(amplitude, np.nan_to_num(_amplitude(sharpness))))


def smoothed_significance(z: NDArray[np.floating], sigma: float = 1.0) -> Floats:
    """Smooth each plane of deviations by a Gaussian, in units of the noise of the result.

    The deviations (planes, y, x) are in standard deviations, independent from pixel to pixel; NaN has no
    weight. `sigma` is the standard deviation of the Gaussian in pixels. The result is the weighted mean,
    divided by its standard deviation if no neighbour is missing; NaN where `z` is NaN or less than a fifth of
    the weight is left.
    """
    known = np.isfinite(z)
    width = (0.0, sigma, sigma)
    total = ndimage.gaussian_filter(
        np.where(known, z, 0).astype(np.float32), width, mode="constant", truncate=4
    )
    weight = ndimage.gaussian_filter(known.astype(np.float32), width, mode="constant", truncate=4)
    reach = int(4 * sigma + 0.5)
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    noise = float((line**2).sum() / line.sum() ** 2)
    mean = total / (np.maximum(weight, 0.2) * np.float32(noise))
    return np.where(known & (weight > 0.2), mean, np.float32(np.nan))


def _amplitude(z: NDArray[np.floating]) -> Floats:
    """Return the modulus of deviations that are limited and smoothed."""
    smooth = np.abs(smoothed_significance(np.clip(z, -LARGEST, LARGEST)))
    return (smooth / np.float32(EXTENDED)).astype(np.float32)


def _wide(marks: Marks) -> Marks:
    """Return the marked pixels of regions that contain 3 x 3 pixels, with their rims."""
    core = ndimage.binary_opening(marks, np.ones((1, 3, 3), bool))
    return marks & ndimage.binary_dilation(core, ndimage.generate_binary_structure(2, 1)[None])
