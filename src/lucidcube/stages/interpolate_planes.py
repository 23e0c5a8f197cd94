"""What the stage `interpolate` does with each plane, or with each window of planes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lucidcube.kernels.deconvolution.map_fit import Fit
from lucidcube.kernels.deconvolution.map_solver import MapSolver, Solution
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.fill_model import Prediction, fit_of_good_pixels, predict
from lucidcube.kernels.fourier.convolver import engine_name
from lucidcube.kernels.holes import Filled, outside_field
from lucidcube.kernels.stacked.arrays import current_arrays
from lucidcube.kernels.stacked.map_solver import solve_planes
from lucidcube.lift.remembered import Remembered
from lucidcube.stages.psf_planes import middle_plane, usable_psf

FEWEST_PLANES = 6
"""With fewer planes than this, the objects in the planes may differ, as in the bands of a survey."""


def filled(
    plane: np.ndarray,
    mask: np.ndarray | None,
    variance: np.ndarray | None,
    before: np.ndarray | None,
    *,
    fill: Callable[[np.ndarray, np.ndarray], np.ndarray],
    max_hole: int,
) -> tuple[np.ndarray, ...]:
    """Fill a plane; `before` is the map of pixels that an earlier interpolation filled."""
    where = _pixels_to_fill(plane, mask)
    return _results(plane, fill(plane, where > 0), where, variance, before, max_hole)


class _Window(NamedTuple):
    """A window of planes, and what is known about the pixels to fill."""

    data: np.ndarray
    psf: np.ndarray
    variance: np.ndarray | None
    before: np.ndarray | None
    filled: np.ndarray
    """Values of `Filled` for the pixels to fill."""
    bad: np.ndarray
    known: Prediction
    usable: np.ndarray
    """The pixels to fill that are predicted from other planes."""
    middle: int | None
    """The plane from whose object the others start; None if each starts on its own."""
    wanted: range
    n_iter: int

    @classmethod
    def of(
        cls,
        data: np.ndarray,
        psf: np.ndarray,
        mask: np.ndarray | None,
        variance: np.ndarray | None,
        before: np.ndarray | None,
        *,
        wanted: slice,
        n_iter: int,
        spectral: bool,
    ) -> _Window:
        """Return a window; `before` is the map of pixels that an earlier interpolation filled."""
        none = np.zeros(data.shape, np.uint8)
        filled = _pixels_to_fill(data, mask)
        bad = (filled > 0) | ((none if before is None else before) > 0)
        known = predict(data, variance, bad, spectral=spectral)
        usable = known.usable & (filled > 0)
        middle = middle_plane(data, psf) if spectral and len(data) >= FEWEST_PLANES else None
        planes = range(len(data))[wanted]
        return cls(data, psf, variance, before, filled, bad, known, usable, middle, planes, n_iter)

    def to_fit(self) -> Iterator[int]:
        """Yield the wanted planes that are filled from an estimate of the object."""
        for i in self.wanted:
            if self._has_something_to_fill(i) and np.isfinite(self.psf[i]).any():
                yield i

    def fit(self, i: int) -> Fit:
        """Return the estimate for a plane."""
        start = None
        if self.middle is not None:
            psf = usable_psf(self.psf[self.middle])
            start = _object(psf, *self._pixels(self.middle), str(self.n_iter), engine_name())
        return fit_of_good_pixels(*self._pixels(i), n_iter=self.n_iter, start=start)

    def outputs(self, models: Mapping[int, np.ndarray], max_hole: int) -> list[np.ndarray]:
        """Return the outputs for the wanted planes, given the models of those that have one."""
        made = []
        for i in self.wanted:
            whole, fill, filled = self.data[i], self.filled[i] > 0, self.filled[i]
            if i in models:
                whole = np.where(fill, models[i], whole)
            elif self._has_something_to_fill(i):
                whole = fill_linear(whole, fill)
            filled[self.usable[i] & (filled == Filled.REPLACED)] = Filled.MODELLED
            own, earlier = (None if p is None else p[i] for p in (self.variance, self.before))
            made.append(_results(self.data[i], whole, filled, own, earlier, max_hole))
        return [np.stack(planes) for planes in zip(*made, strict=True)]

    def _has_something_to_fill(self, i: int) -> bool:
        return bool(np.isfinite(self.data[i]).any() and (self.filled[i] > 0).any())

    def _pixels(self, i: int) -> tuple[np.ndarray, ...]:
        """Return what `fit_of_good_pixels` takes of a plane."""
        variance = self.known.variance[i]
        noise = np.sqrt(np.where(variance > 0, variance, np.float32(np.nan)))
        return self.data[i], noise, self.bad[i], self.known.values[i], self.usable[i]


def modelled(*arrays: Any, wanted: slice, max_hole: int, **options: Any) -> list[np.ndarray]:
    """Fill the wanted planes of a window."""
    window = _Window.of(*arrays, wanted=wanted, **options)
    shape = window.data.shape[1:]
    models = {
        i: window.fit(i).solve_with(MapSolver(usable_psf(window.psf[i]), shape)).model
        for i in window.to_fit()
    }
    return window.outputs(models, max_hole)


def modelled_together(
    windows: Sequence[Sequence[Any]], wanted: Sequence[slice], *, max_hole: int, **options: Any
) -> list[list[np.ndarray]] | None:
    """Return what `modelled` does for several windows; None if there is no array library for the fits."""
    arrays = current_arrays()
    if arrays is None:
        return None
    given = [_Window.of(*w, wanted=planes, **options) for w, planes in zip(windows, wanted, strict=True)]
    planes = [(n, i) for n, window in enumerate(given) for i in window.to_fit()]
    fits = [given[n].fit(i) for n, i in planes]
    psf = [usable_psf(given[n].psf[i]) for n, i in planes]
    models: list[dict[int, np.ndarray]] = [{} for _ in given]
    found = solve_planes(fits, psf, given[0].data.shape[1:], arrays)
    for (n, i), solution in zip(planes, found, strict=True):
        models[n][i] = solution.model
    return [window.outputs(made, max_hole) for window, made in zip(given, models, strict=True)]


def _estimate(psf: np.ndarray, *given: Any) -> Solution:
    """Return the object in a plane, from arrays, the number of iterations, and the name of the engine."""
    *pixels, n_iter, _ = given
    solver = MapSolver(psf, pixels[0].shape)
    return fit_of_good_pixels(*pixels, n_iter=int(n_iter)).solve_with(solver)


# The planes of a group start from the same one.
_object = Remembered(_estimate, recent=4)


def _pixels_to_fill(data: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return `Filled.REPLACED` for marked pixels and `Filled.HOLE` for missing ones."""
    missing = ~np.isfinite(data)
    filled = np.where(missing, np.uint8(Filled.HOLE), np.uint8(Filled.NO))
    if mask is not None:
        filled[~missing & (mask != 0)] = Filled.REPLACED
    return filled


def _results(
    plane: np.ndarray,
    whole: np.ndarray,
    filled: np.ndarray,
    variance: np.ndarray | None,
    before: np.ndarray | None,
    max_hole: int,
) -> tuple[np.ndarray, ...]:
    """Return what the stage makes of a plane that was filled everywhere."""
    outside = outside_field(~np.isfinite(plane), max_hole)
    whole = np.where(outside, np.float32(np.nan), whole)
    unmeasured = filled > 0
    if before is not None:
        filled = np.maximum(filled, before)
    filled = np.where(outside, np.uint8(Filled.NO), filled)
    made = (whole, plane - whole, filled)
    if variance is None:
        return made
    return (*made, np.where(unmeasured, np.float32(np.nan), variance))
