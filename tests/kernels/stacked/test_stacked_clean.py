"""CLEAN of several planes at once, compared with that of single planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from array_libraries import Scene, arrays, difference
from lucidcube.kernels.deconvolution.clean import clean_modified
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.clean import clean_planes
from lucidcube.stages.deconvolution_methods import CleanModified

__all__ = ["arrays"]
OPTIONS = {
    name: field.default
    for name, field in CleanModified.model_fields.items()
    if name not in CleanModified.stage_only
}


@pytest.mark.parametrize(
    "options",
    [
        {"n_iter": 60},
        {"n_iter": 150, "loop_gain": 0.1},
        {"n_iter": 40, "n_positive_iter": 20, "give_best_result": False},
        {"n_iter": 80, "max_stat_increase": 0.05, "loop_gain": 0.3, "chi2_target": None},
        {"n_iter": 60, "fabs_frac_threshold": 0.5, "clean_beam_sigma": 1.0, "restoring_beam": 2.0},
        {"n_iter": 60, "rms_frac_threshold": 0.5, "threshold": 0.6},
        {"n_iter": 60, "min_frac_stat_delta": 0.2, "chi2_target": None},
    ],
    ids=str,
)
def test_the_results_are_those_of_single_planes(arrays: Arrays, options: dict[str, Any]) -> None:
    planes = Scene(40).planes
    found = clean_planes(planes, arrays, **OPTIONS | options)
    for plane, result in zip(planes, found, strict=True):
        known = clean_modified(
            plane.plane, plane.psf, variance=plane.variance, filled=plane.filled, **OPTIONS | options
        )
        # Rounding decides whether a pixel at the threshold is selected once more.
        assert difference(result.components, known.components) < 1e-5 + 3e-3 * (options["n_iter"] > 60)
        assert difference(result.extras["restored"], known.extras["restored"]) < 1e-4
        assert (result.iterations, result.stop_reason) == (known.iterations, known.stop_reason)
        assert np.array_equal(np.isnan(result.residual), np.isnan(known.residual))


def test_a_given_noise_stops_planes_without_variance(arrays: Arrays) -> None:
    plane = Scene(40).planes[0]._replace(variance=None)
    options = OPTIONS | {"noise_std": 15.0, "loop_gain": 0.1, "n_iter": 200}
    (found,) = clean_planes([plane], arrays, **options)
    known = clean_modified(plane.plane, plane.psf, **options)
    assert found.stop_reason.name == "CHI2_REACHED"
    assert found.iterations == known.iterations
    assert found.chi2 == pytest.approx(known.chi2, rel=1e-3)


def test_planes_without_light_or_data_are_left_alone(arrays: Arrays) -> None:
    first = Scene(40).planes[0]
    empty, dark = np.full_like(first.plane, np.nan), np.zeros_like(first.plane)
    planes = [first._replace(plane=plane) for plane in (empty, first.plane, dark)]
    found = clean_planes(planes, arrays, **OPTIONS | {"n_iter": 5})
    assert [r.stop_reason.name for r in found] == ["ALL_NAN", "N_ITER", "NOTHING_TO_DO"]
    assert np.isnan(found[0].components).all()
    assert not found[2].components.any()
