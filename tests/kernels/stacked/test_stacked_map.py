"""The MAP estimate of several planes at once, compared with that of single planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from array_libraries import Scene, arrays, difference
from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.kernels.deconvolution.map import map_deconvolution
from lucidcube.kernels.fourier.convolver import EngineName, use_engine
from lucidcube.kernels.stacked import map_solver, stacks
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.map import map_planes
from lucidcube.kernels.stacked.stacks import PlaneInput
from lucidcube.stages.deconvolution_methods import MapDeconvolution

__all__ = ["arrays"]
OPTIONS = {
    name: field.default
    for name, field in MapDeconvolution.model_fields.items()
    if name not in MapDeconvolution.stage_only
}
ENGINES: tuple[EngineName, ...] = ("auto", "scipy")
RIM = 2
"""Number of the plane whose light ends at a rim, where the first image is a ratio of small numbers."""


def one_by_one(planes: list[PlaneInput], engine: EngineName = "auto", **options: Any) -> list[Deconvolution]:
    with use_engine(engine):
        return [
            map_deconvolution(p.plane, p.psf, variance=p.variance, filled=p.filled, **OPTIONS | options)
            for p in planes
        ]


def from_starts(
    planes: list[PlaneInput], starts: list[Deconvolution], engine: EngineName, options: dict[str, Any]
) -> list[Deconvolution]:
    with use_engine(engine):
        return [
            map_deconvolution(
                p.plane, p.psf, variance=p.variance, filled=p.filled, start=found.start, **options
            )
            for p, found in zip(planes, starts, strict=True)
        ]


def begin_at(starts: list[Deconvolution], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let planes together start from these results, as single planes do that are given a start."""

    solve, given = map_solver.PlanesSolver.solve, iter(starts)

    def solved(self: Any, fits: Any, **options: Any) -> Any:
        fits = {i: fit._replace(start=next(given).start) for i, fit in fits.items()}
        return solve(self, fits, **options)

    monkeypatch.setattr(map_solver.PlanesSolver, "solve", solved)


def cost(found: Deconvolution) -> float:
    return float(found.start.cost)


@pytest.fixture(scope="module")
def planes() -> list[PlaneInput]:
    return Scene(40).planes


@pytest.mark.parametrize("robust", [3.0, None])
@pytest.mark.parametrize("n_iter", [0, 1, 4])
def test_the_start_and_the_first_steps_are_those_of_single_planes(
    arrays: Arrays, planes: list[PlaneInput], n_iter: int, robust: float | None
) -> None:
    options = {"n_iter": n_iter, "robust": robust}
    found = map_planes(planes, arrays, **OPTIONS | options)
    for number, (result, known) in enumerate(zip(found, one_by_one(planes, **options), strict=True)):
        if number != RIM:
            assert difference(result.components, known.components) < (5e-5 if n_iter < 2 else 3e-4)
            assert cost(result) == pytest.approx(cost(known), rel=2e-3)
        assert result.iterations == known.iterations
        assert result.stop_reason == known.stop_reason


def test_the_minima_are_those_of_single_planes(
    arrays: Arrays, planes: list[PlaneInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one start, where the same points are isolated or joined."""
    planes = [plane for number, plane in enumerate(planes) if number != RIM]
    starts = one_by_one(planes, n_iter=60)
    options = OPTIONS | {"n_iter": 500, "tolerance": 1e-9}
    expected, others = (from_starts(planes, starts, engine, options) for engine in ENGINES)
    begin_at(starts, monkeypatch)
    for result, known, other in zip(map_planes(planes, arrays, **options), expected, others, strict=True):
        # L-BFGS amplifies rounding: the engines of the transforms tell by how much.
        allowed = max(3e-4, 5 * difference(other.components, known.components))
        assert difference(result.components, known.components) < allowed
        assert cost(result) == pytest.approx(cost(known), rel=2e-6)
        assert result.chi2 == pytest.approx(known.chi2, rel=1e-3)
        for name in ("points", "model"):
            assert np.array_equal(np.isnan(result.extras[name]), np.isnan(known.extras[name]))


def test_the_usual_number_of_iterations_gives_the_same_model(
    arrays: Arrays, planes: list[PlaneInput]
) -> None:
    found = map_planes(planes, arrays, **OPTIONS)
    for number, (result, known) in enumerate(zip(found, one_by_one(planes), strict=True)):
        if number != RIM:  # which needs more iterations
            assert difference(result.model, known.model) < 5e-3
            assert result.chi2 == pytest.approx(known.chi2, rel=1e-2)


def test_the_noise_stops_each_plane(arrays: Arrays, planes: list[PlaneInput]) -> None:
    found = map_planes(planes, arrays, **OPTIONS | {"chi2_target": 1.0})
    assert {result.stop_reason.name for result in found} == {"CHI2_REACHED"}
    assert len({result.iterations for result in found}) > 2
    for result, known in zip(found, one_by_one(planes, chi2_target=1.0), strict=True):
        assert result.chi2_bright <= 1.05
        assert abs(result.iterations - known.iterations) <= 0.4 * known.iterations + 1


def test_results_do_not_depend_on_the_stack(
    arrays: Arrays, planes: list[PlaneInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS | {"n_iter": 40}
    together = map_planes(planes, arrays, **options)
    monkeypatch.setattr(Arrays, "stack_size", lambda self, plane_bytes: 2)
    monkeypatch.setattr(stacks, "FULL", 1.0)
    apart = map_planes(planes, arrays, **options)
    for one, other in zip(together, apart, strict=True):
        assert difference(one.model, other.model) < 1e-2
        assert cost(one) == pytest.approx(cost(other), rel=1e-2)


def test_planes_without_data_are_zero_and_change_no_others(arrays: Arrays, planes: list[PlaneInput]) -> None:
    first = planes[0]
    empty = first._replace(plane=np.full_like(first.plane, np.nan))
    nothing, found = map_planes([empty, first], arrays, **OPTIONS | {"n_iter": 3})
    assert nothing.stop_reason.name == "ALL_NAN"
    assert np.isnan(nothing.components).all()
    assert difference(found.components, one_by_one([first], n_iter=3)[0].components) < 3e-2


def test_the_number_of_a_stack_follows_from_the_memory(arrays: Arrays) -> None:
    assert arrays.stack_size(1 << 40) == 1
    assert arrays.stack_size(1 << 20) == 256
    assert [len(part) for part in stacks.in_stacks(range(10), 4)] == [3, 3, 4]


def test_dark_and_bright_planes_do_not_warn(arrays: Arrays, planes: list[PlaneInput]) -> None:
    first = planes[0]
    noise = np.random.default_rng(1).normal(0, 1, first.plane.shape).astype(np.float32)
    dark = [first._replace(plane=data) for data in (0 * noise, noise - 100, 1e30 * np.abs(noise))]
    for result in map_planes(dark, arrays, **OPTIONS | {"n_iter": 12}):
        assert np.isfinite(result.components).all()
    nothing, negative = (map_planes([d], arrays, **OPTIONS | {"n_iter": 12})[0] for d in dark[:2])
    assert abs(nothing.components).max() < 1e-3
    assert negative.components.sum() == pytest.approx(
        one_by_one(dark[1:2], n_iter=12)[0].components.sum(), abs=1
    )
