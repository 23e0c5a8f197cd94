"""The truth of simulated scenes in the channels of rebinned cubes, and scores of products against it."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from lucidcube.simulate import ArtefactKind, Scene

Array = NDArray[Any]


class Truth(NamedTuple):
    """The truth in the channels of the rebinned cube."""

    truth: Array
    blurred: Array
    psf: Array
    artefact_flux: Array
    noise: Array
    """Standard deviation in a channel of the input."""
    kinds: dict[str, Array]
    """For each kind of artefact, the part of the channel's light that comes from spoilt channels."""


@cache
def rebinned_truth(scene: Scene) -> Truth:
    """Return the truth rebinned with a triangle of 2 nm, by weights that are computed here."""
    planes = [scene.plane(i) for i in range(scene.shape[0])]
    wavelengths = scene.wavelengths
    centres = wavelengths[0] + 1e-9 * np.arange(int((wavelengths[-1] - wavelengths[0]) / 1e-9 + 1e-6) + 1)
    weights = np.clip(1 - np.abs(wavelengths - centres[:, None]) / 2e-9, 0, None)
    weights[:, scene.empty_plane] = 0
    weights /= weights.sum(axis=1, keepdims=True)

    def mixed(images: list[Array]) -> Array:
        return np.einsum("ij,jyx->iyx", weights, np.nan_to_num(np.array(images, np.float64)))

    return Truth(
        *(mixed([getattr(p, name) for p in planes]) for name in ("truth", "blurred", "psf", "artefact_flux")),
        np.sqrt(mixed([p.variance for p in planes])),
        {k.name: mixed([p.artefact_kind == k for p in planes]) for k in ArtefactKind},
    )


def area_under_curve(score: Array, positive: Array) -> float:
    """Return the probability that a positive scores higher than a negative."""
    count = int(positive.sum())
    ranks = rankdata(score)[positive].sum() - count * (count + 1) / 2
    return float(ranks / (count * int((~positive).sum())))


def average_precision(score: Array, positive: Array) -> float:
    hits = positive[np.argsort(-score, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, hits.size + 1))[hits].mean())


def root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def error_where(image: Array, known: Array, where: Array) -> float:
    """Return the relative L2 distance of two cubes, both smoothed by a Gaussian of one pixel."""

    def smoothed(cube: Array) -> Array:
        return np.array([gaussian_filter(np.nan_to_num(p).astype(np.float64), 1) for p in cube])

    a, b = smoothed(image), smoothed(known)
    return float(np.sqrt(np.square(a - b)[where].sum() / np.square(b)[where].sum()))
