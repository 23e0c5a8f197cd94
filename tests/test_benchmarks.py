"""Run every benchmark once with a small size, so that all of them keep working."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator

import pytest

from locations import ROOT

SMALL = {"side": 41, "blocks": 2}
KINDS = ("time_", "peakmem_", "track_")


def suites() -> Iterator[type]:
    """Yield the classes of asv benchmarks."""
    sys.path.insert(0, str(ROOT))
    try:
        for file in sorted((ROOT / "benchmarks").glob("bench_*.py")):
            module = importlib.import_module(f"benchmarks.{file.stem}")
            for _, suite in inspect.getmembers(module, inspect.isclass):
                if suite.__module__ == module.__name__ and _benchmarks(suite) and suite.__name__ != "Plane":
                    yield suite
    finally:
        sys.path.remove(str(ROOT))


def _benchmarks(suite: type) -> list[str]:
    return [name for name in dir(suite) if name.startswith(KINDS)]


SUITES = list(suites())


def test_there_are_benchmarks_in_every_module():
    assert {suite.__module__.rpartition("_")[2] for suite in SUITES} == {"kernels", "lift", "io", "run"}


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.__name__)
def test_every_benchmark_runs(suite):
    benchmark = suite()
    given = [SMALL[name] for name in getattr(suite, "param_names", ())]
    if hasattr(benchmark, "setup"):
        benchmark.setup(*given)
    try:
        for name in _benchmarks(suite):
            result = getattr(benchmark, name)(*given)
            assert not name.startswith("track_") or result > 0
    finally:
        if hasattr(benchmark, "teardown"):
            benchmark.teardown(*given)


def test_the_comparison_measures_and_compares_with_its_goals():
    sys.path.insert(0, str(ROOT))
    try:
        compare = importlib.import_module("benchmarks.compare")
    finally:
        sys.path.remove(str(ROOT))
    ratio, limit = compare.Comparison("a / b", 10), compare.Comparison("c / d", 1.3, at_most=True)
    for peer, ours in ((2.0, 0.1), (1.0, 0.2), (3.0, 0.1)):
        ratio.add(peer, ours)
        limit.add(1.0, ours * 10)
    assert ratio.line() == "| a / b | 2000 | 100 | 20 (5 to 30) | >= 10 |"
    assert limit.line() == "| c / d | 1000 | 1000 | 1 (1 to 2) | <= 1.3 |"
    scene = compare.Scene(shape=(2, 41, 41), first_wavelength=compare.WAVELENGTH, seed=1).plane(0)
    comparisons = [
        *compare.compare_textbook(scene.blurred, scene.psf, 1, 5),
        *compare.compare_limit(scene.blurred, scene.psf, 1),
    ]
    assert len(comparisons) >= 4
    assert all(len(done.line().split("|")) == 7 for done in comparisons)
