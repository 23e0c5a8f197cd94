"""What the planes of a group share: one fit of the star, and one object from which the others start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from lucidcube.cube import DATA, DIMS, MASK, PSF, PSF_PLANE, WAVELENGTH
from lucidcube.kernels.deconvolution.map_solver import MapSolver
from lucidcube.lift.blocks import GROUP, limit_block_bytes
from lucidcube.stages import FitPSF, Interpolate, fit_psf, interpolate_planes
from scenes import arrays, star_cube, target_cube

SHAPE = (GROUP, 31, 31)
WITH_DATA = GROUP - 1
"""Number of planes of the scene with data."""


@pytest.fixture(scope="module")
def marked() -> xr.Dataset:
    """A target of one group of planes, whose artefacts are marked."""
    made = arrays(SHAPE, 5)
    marks = (made.artefact_kind > 0).astype(np.uint8)
    return target_cube(SHAPE, 5).assign({PSF: ((WAVELENGTH, *PSF_PLANE), made.psf), MASK: (DIMS, marks)})


def filled(cube: xr.Dataset, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[xr.Dataset, list[int]]:
    """Return the cube after `interpolate`, and the number of iterations of each estimate."""
    numbers: list[int] = []
    solve = MapSolver.solve

    def counted(self: MapSolver, *args: Any, **given: Any) -> Any:
        numbers.append(given["n_iter"])
        return solve(self, *args, **given)

    with monkeypatch.context() as patched:
        patched.setattr(MapSolver, "solve", counted)
        made = Interpolate.parse(options)(cube)
    return made, numbers


def test_planes_that_start_from_their_neighbour_are_filled_as_well_in_half_the_iterations(
    marked: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm, few = filled(marked, monkeypatch)
    assert sorted(few) == [75] * WITH_DATA + [150]
    monkeypatch.setattr(interpolate_planes, "FEWEST_PLANES", GROUP + 1)
    cold, many = filled(marked, monkeypatch)
    assert many == [150] * WITH_DATA
    truth, noise = arrays(SHAPE, 5).blurred, np.sqrt(arrays(SHAPE, 5).variance)
    bad = (marked[MASK].values > 0) & np.isfinite(warm[DATA].values)
    errors = [float(np.sqrt(np.mean(((c[DATA].values - truth) / noise)[bad] ** 2))) for c in (warm, cold)]
    assert errors[0] < 1.05 * errors[1]


def test_objects_that_differ_between_planes_start_on_their_own(
    marked: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, numbers = filled(marked, monkeypatch, spectral=False)
    assert numbers == [150] * WITH_DATA


def test_blocks_of_a_part_of_a_group_share_the_fit_of_the_star(monkeypatch: pytest.MonkeyPatch) -> None:
    star, fits = star_cube(SHAPE, 5), []
    fit_window = fit_psf.fit_window

    def counted(*args: Any, **given: Any) -> Any:
        fits.append(1)
        return fit_window(*args, **given)

    monkeypatch.setattr(fit_psf, "fit_window", counted)
    whole = FitPSF()(star)
    fits.clear()
    with limit_block_bytes(4 * 4 * SHAPE[1] * SHAPE[2]):
        chunked = (star * np.float32(1)).assign_attrs(star.attrs).chunk({WAVELENGTH: 4})
        parts = FitPSF()(chunked)
    assert parts[DATA].data.numblocks[0] == GROUP // 4
    parts = parts.compute(scheduler="synchronous")
    assert sum(fits) <= 1
    np.testing.assert_array_equal(parts[DATA].values, whole[DATA].values)
