"""Lucy-Richardson of several planes at once, compared with that of single planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from array_libraries import Scene, arrays, difference
from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.kernels.deconvolution.lucy_richardson import lucy_richardson
from lucidcube.kernels.fourier.convolver import EngineName, use_engine
from lucidcube.kernels.stacked import stacks
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.lucy_richardson import lucy_richardson_planes
from lucidcube.kernels.stacked.stacks import PlaneInput
from lucidcube.stages.deconvolution_methods import LucyRichardson

__all__ = ["arrays"]
OPTIONS = {
    name: field.default
    for name, field in LucyRichardson.model_fields.items()
    if name not in LucyRichardson.stage_only
}


def one_by_one(planes: list[PlaneInput], engine: EngineName = "auto", **options: Any) -> list[Deconvolution]:
    with use_engine(engine):
        return [
            lucy_richardson(p.plane, p.psf, variance=p.variance, filled=p.filled, **OPTIONS | options)
            for p in planes
        ]


def rounding(other: Deconvolution, known: Deconvolution) -> float:
    """Return how much rounding may change a result, given the results with two engines of transforms.

    Where there is little light, the ratio amplifies rounding.
    """
    return max(1e-5, 4 * difference(other.components, known.components))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chi2_target": None, "n_iter": 20},
        {"chi2_target": None, "n_iter": 30, "accelerate": False},
        {"chi2_target": None, "n_iter": 25, "weighted": False},
        {"chi2_target": None, "n_iter": 15, "pad_observation": False},
        {"n_iter": 6, "threshold": 0.0},
        {"n_iter": 6, "threshold": -0.01},
        {"n_iter": 6, "threshold": 3.0},
        {"n_iter": 8, "offset_obs": True},
        {"n_iter": 10, "nudge_factor": 0.01, "strength": 0.5},
        {"n_iter": 10, "cf_limit": 1.5},
        {"n_iter": 10, "cf_uclip": 1.2, "cf_lclip": 0.9, "cf_negative_fix": False},
    ],
    ids=str,
)
def test_the_results_are_those_of_single_planes(arrays: Arrays, options: dict[str, Any]) -> None:
    planes = Scene().planes
    found = lucy_richardson_planes(planes, arrays, **OPTIONS | options)
    expected, others = (one_by_one(planes, engine, **options) for engine in ("auto", "scipy"))
    for result, known, other in zip(found, expected, others, strict=True):
        assert difference(result.components, known.components) < rounding(other, known)
        assert abs(result.iterations - known.iterations) <= abs(other.iterations - known.iterations) + 1
        assert result.stop_reason == known.stop_reason
        assert np.array_equal(np.isnan(result.residual), np.isnan(known.residual))


def test_bright_planes_agree_to_a_hundred_thousandth(arrays: Arrays) -> None:
    """Without a dark sky, and without weights that differ, rounding is not amplified."""
    planes = [p._replace(plane=p.plane + np.float32(300), variance=None) for p in Scene().planes]
    del planes[2]  # its light ends at a rim
    options = {"chi2_target": None, "n_iter": 10}
    found = lucy_richardson_planes(planes, arrays, **OPTIONS | options)
    for result, known in zip(found, one_by_one(planes, **options), strict=True):
        assert difference(result.components, known.components) < 1e-5


def test_results_do_not_depend_on_the_stack(arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = Scene().planes
    together = lucy_richardson_planes(planes, arrays, **OPTIONS)
    monkeypatch.setattr(Arrays, "stack_size", lambda self, plane_bytes: 2)
    monkeypatch.setattr(stacks, "FULL", 1.0)
    apart = lucy_richardson_planes(planes, arrays, **OPTIONS)
    engines = [one_by_one(planes, engine) for engine in ("auto", "scipy")]
    for one, other, *known in zip(together, apart, *engines, strict=True):
        assert difference(one.components, other.components) < rounding(*known)
        assert abs(one.iterations - other.iterations) <= abs(known[0].iterations - known[1].iterations) + 1


def test_planes_without_light_or_data_are_left_alone(arrays: Arrays) -> None:
    first = Scene().planes[0]
    empty, dark = np.full_like(first.plane, np.nan), np.full_like(first.plane, -1)
    planes = [first._replace(plane=plane) for plane in (empty, first.plane, dark)]
    found = lucy_richardson_planes(planes, arrays, **OPTIONS)
    assert [r.stop_reason.name for r in found] == ["ALL_NAN", "CHI2_REACHED", "NOTHING_TO_DO"]
    assert np.isnan(found[0].components).all()
    assert not found[2].components.any()


def test_inputs_are_not_changed_and_may_be_read_only(arrays: Arrays) -> None:
    planes = Scene().planes
    before = [p.plane.copy() for p in planes]
    for plane in planes:
        for array in plane:
            if array is not None:
                array.flags.writeable = False
    lucy_richardson_planes(planes, arrays, **OPTIONS | {"n_iter": 2})
    assert all(np.array_equal(p.plane, b, equal_nan=True) for p, b in zip(planes, before, strict=True))
