"""What the stage `artefacts` does with each window of planes, by the method `spectral_psf`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lucidcube.kernels.artefacts.combined_score import Score, Suspects, combined_score, suspects
from lucidcube.kernels.artefacts.psf_consistency import Search, robust_estimate
from lucidcube.kernels.artefacts.spectral_outliers import spectral_outliers
from lucidcube.kernels.deconvolution.map_solver import Solution
from lucidcube.kernels.fourier.convolver import engine_name
from lucidcube.kernels.noise import known_variance
from lucidcube.kernels.stacked.arrays import current_arrays
from lucidcube.kernels.stacked.psf_consistency import search_together
from lucidcube.lift.remembered import Remembered
from lucidcube.stages.psf_planes import middle_plane, usable_psf

FEWEST_PLANES = 6
"""With fewer planes than this, objects of an unusual colour would fail the spectral test."""
PLAUSIBLE = 0.6
"""A pixel agrees with its spectrum if it deviates by less than this fraction of the cut."""


class _Tested(NamedTuple):
    """The wanted planes of a window, with what the spectral test says about them."""

    data: np.ndarray
    psf: np.ndarray
    variance: np.ndarray
    deviation: np.ndarray
    found: Suspects
    start: Solution | None
    cut: float

    @classmethod
    def of(
        cls,
        data: np.ndarray,
        psf: np.ndarray,
        variance: np.ndarray | None,
        *,
        wanted: slice,
        cut: float,
        spectral: bool,
    ) -> _Tested:
        """Return the wanted planes of a window after the spectral test."""
        given = [None] * len(data) if variance is None else variance
        variance = np.stack([known_variance(p, v) for p, v in zip(data, given, strict=True)])
        tested = spectral and len(data) >= FEWEST_PLANES
        deviation = _deviations(data, variance) if tested else np.full(data.shape, np.nan, np.float32)
        start = _start(data, psf, variance, deviation, cut) if tested else None
        data, psf, variance, deviation = data[wanted], psf[wanted], variance[wanted], deviation[wanted]
        return cls(data, psf, variance, deviation, suspects(deviation, cut=cut), start, cut)

    def with_fit(self) -> Iterator[int]:
        """Yield the numbers of the planes that have data and a PSF."""
        for i in range(len(self.data)):
            if np.isfinite(self.psf[i]).any() and np.isfinite(self.data[i]).any():
                yield i

    def search(self, i: int) -> Search:
        """Return the search in a plane for pixels that are sharper than its PSF allows."""
        return Search.of(
            self.data[i],
            self.variance[i],
            cut=self.cut,
            exclude=self.found.marks[i],
            plausible=np.abs(self.deviation[i]) < PLAUSIBLE * self.cut,
            start=self.start,
        )

    def score(self, sharpness: np.ndarray) -> Score:
        """Return the score and the amplitude, given by how much the planes deviate from what is fitted."""
        made = combined_score(self.deviation, sharpness, self.found)
        missing = ~np.isfinite(self.data)
        made.score[missing] = made.amplitude[missing] = np.nan
        return made


def scores(*arrays: Any, **options: Any) -> Score:
    """Return the score and the amplitude of the wanted planes of a window."""
    tested = _Tested.of(*arrays, **options)
    sharpness = np.zeros(tested.data.shape, np.float32)
    for i in tested.with_fit():
        sharpness[i] = tested.search(i).run(usable_psf(tested.psf[i]))
    return tested.score(sharpness)


def scores_together(
    windows: Sequence[Sequence[Any]], wanted: Sequence[slice], **options: Any
) -> list[Score] | None:
    """Return what `scores` does for several windows; None if there is no array library for the fits."""
    arrays = current_arrays()
    if arrays is None:
        return None
    tested = [_Tested.of(*w, wanted=planes, **options) for w, planes in zip(windows, wanted, strict=True)]
    sharpness = [np.zeros(one.data.shape, np.float32) for one in tested]
    planes = [(n, i) for n, one in enumerate(tested) for i in one.with_fit()]
    searches = [tested[n].search(i) for n, i in planes]
    psf = [usable_psf(tested[n].psf[i]) for n, i in planes]
    search_together(searches, psf, tested[0].data.shape[1:], arrays)
    for (n, i), search in zip(planes, searches, strict=True):
        sharpness[n][i] = search.result()
    return [one.score(found) for one, found in zip(tested, sharpness, strict=True)]


def _start(
    data: np.ndarray, psf: np.ndarray, variance: np.ndarray, deviation: np.ndarray, cut: float
) -> Solution | None:
    """Return the object in the middle plane of a window, or in the nearest one with data and a PSF."""
    middle = middle_plane(data, psf)
    if middle is None:
        return None
    marks = suspects(deviation[[middle]], cut=cut).marks[0]
    return _object(data[middle], variance[middle], usable_psf(psf[middle]), marks, engine_name())


def _estimate(
    data: np.ndarray, variance: np.ndarray, psf: np.ndarray, marks: np.ndarray, engine: str
) -> Solution:
    """Return the object in a plane; `engine` is part of what the result depends on, and so of its key."""
    return robust_estimate(data, variance, psf, marks)


# The blocks of a group of planes share a window, and hence these results.
_deviations = Remembered(lambda data, variance: spectral_outliers(data, variance).z, recent=2)
_object = Remembered(_estimate, recent=4)
