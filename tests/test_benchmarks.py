"""Run every benchmark once with a small size, so that all of them keep working."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from astropy.io import fits

from locations import ROOT
from lucidcube.runner.one_stage import run_stage

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
SLOW = ("StartUp", "WholeRun")
"""Suites that start processes."""


def test_there_are_benchmarks_in_every_module():
    assert {suite.__module__.rpartition("_")[2] for suite in SUITES} == {
        "kernels",
        "lift",
        "io",
        "run",
        "recommended",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "suite",
    [pytest.param(s, id=s.__name__, marks=[pytest.mark.slow] if s.__name__ in SLOW else []) for s in SUITES],
)
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


@pytest.mark.slow
def test_comparisons_are_made_and_printed(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    compare = importlib.import_module("benchmarks.compare")
    ratio, limit = compare.Comparison("a / b", 10), compare.Comparison("c / d", 1.3, at_most=True)
    for peer, ours in ((2.0, 0.1), (1.0, 0.2), (3.0, 0.1)):
        ratio.add(peer, ours)
        limit.add(1.0, ours * 10)
    assert ratio.line() == "| a / b | CPU | 2000 | 100 | 20 (5 to 30) | >= 10 |"
    assert limit.line() == "| c / d | CPU | 1000 | 1000 | 1 (1 to 2) | <= 1.3 |"
    page = tmp_path / "page.md"
    page.write_text(
        "Before.\n\n<!-- compare.py limit -->\n\n| old |\n|---|\n\nAfter.\n<!-- compare.py textbook -->\n"
    )
    options = ["--work", str(tmp_path), "--side", "41", "--rounds", "1", "--markdown", str(page)]
    monkeypatch.setattr(sys, "argv", ["compare", "textbook", "limit", *options])
    compare.main()
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split("|") for line in printed]
    assert len(rows) >= 2 + 2 + 6
    assert all(len(row) == 8 for row in rows)
    written = page.read_text()
    assert "old" not in written
    assert "Before.\n\n<!-- compare.py limit -->\n\n| what |" in written
    assert "|\n\nAfter." in written
    assert {*printed} == {line for line in written.splitlines() if line.startswith("|")}
    with pytest.raises(ValueError, match="no comment <!-- compare.py whole -->"):
        compare.replace_table(written, "whole", "| new |")


@pytest.mark.slow
def test_the_comparison_with_the_reference_program_runs_its_commands(monkeypatch, tmp_path):
    """The commands are those of our stages, which name their products like the reference program."""
    monkeypatch.syspath_prepend(str(ROOT))
    against = importlib.import_module("benchmarks.against_reference")
    program = importlib.import_module("benchmarks.reference_program")
    stages = {"spectral_rebin": "rebin", "artefact_detection": "artefacts", "create_bad_pixel_mask": "mask"}
    stages |= {"interpolate": "interpolate", "psf_normalise": "normalise_psf", "fit_psf_model": "fit_psf"}

    chosen = {
        "artefact_detection": {"method": "ssa"},
        "interpolate": {"method": "linear"},
        "fit_psf_model": {"model": "radial"},
    }

    class Reference(program.Reference):
        def run(self, module, *arguments, blas="1"):
            options = chosen.get(module, {})
            files = [a.removesuffix(program.PLANE) for a in arguments if a.startswith(str(tmp_path))]
            if module in stages and "--help" not in arguments:
                run_stage(stages[module], files, options, profile="synchronous", overwrite=True)
            return 1.0 - 0.5 * ("--help" in arguments)

    program.make_case(tmp_path, program.MIN_PLANES, 25)
    rows = list(against.compare_kernels(Reference("", tmp_path), tmp_path, 2, 1, []))
    assert [row.name.partition(" / ")[0] for row in rows] == [*against.ROWS]
    assert [row.peer for row in rows] == [[0.25]] * len(rows)
    assert all(row.ours[0] > 0 for row in rows)


def test_whole_runs_are_compared_by_both_clocks(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    against = importlib.import_module("benchmarks.against_reference")
    monkeypatch.setattr(against, "times_of_run", lambda folder, n=1000: (2.0, 1.0) if n else (6.0, 3.0))
    monkeypatch.setattr(against.time, "perf_counter", iter(range(100)).__next__)

    class Reference:
        def __init__(self):
            self.used = []

        def chain(self):
            yield from [("rebin", []), ("deconvolve", [])]

        def run(self, module, *arguments, blas):
            self.used.append(blas)
            return 30.0

    reference = Reference()
    cpu, wall, better = against.compare_whole(reference, tmp_path, 1, "2")
    assert reference.used == ["2", "2"]
    assert (cpu.clock, cpu.peer, cpu.ours) == ("CPU", [60.0], [2.0])
    assert (wall.clock, wall.peer, wall.ours) == ("wall", [2.0], [1.0])
    assert "2 BLAS threads" in cpu.name
    assert (better.clock, better.peer, better.ours) == ("CPU", [60.0], [6.0])
    assert better.line().endswith(" 10 (10 to 10) |  |")


def test_the_benchmark_of_devices_measures_and_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    gpu = importlib.import_module("benchmarks.gpu")
    monkeypatch.setattr(gpu, "CASES", {"five iterations": {"method": "lucy_richardson", "n_iter": 5}})
    page = tmp_path / "gpu.md"
    page.write_text(f"before\n{gpu.START}\nNot measured.\n{gpu.END}\nafter\n")
    words = ["--library", "numpy", "--side", "31", "--planes", "3", "--single", "2", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["gpu", *words, "--markdown", str(page)])
    gpu.main()
    text = page.read_text()
    assert capsys.readouterr().out.strip() in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "Not measured" not in text
    row = next(line for line in text.splitlines() if line.startswith("| five iterations"))
    *_, components, residuals, _ = row.split("|")
    assert float(components) < 1e-4
    assert float(residuals) < 1e-4
    for name, most in (("artefacts", 0.2), ("interpolate", 1e-2)):
        row = next(line for line in text.splitlines() if line.startswith(f"| {name}"))
        assert 0 < float(row.split("|")[-3]) < most


def small_cluster(*arguments):
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.large_cluster", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True)
    return done.stdout.splitlines()


def test_the_emulated_cluster_explains_itself():
    assert any("CPU time per block" in line for line in small_cluster("--help"))


@pytest.mark.slow
def test_the_processes_of_a_cluster_that_is_killed_end():
    command = [sys.executable, "-m", "benchmarks.large_cluster", "--workers", "1", "--processes", "1"]
    benchmark = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(started := benchmark.children()) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        benchmark.kill()
        benchmark.wait()
    assert len(started) == 2
    assert not psutil.wait_procs(started, timeout=30)[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_cluster_is_emulated():
    options = ("--workers", "3", "--blocks", "40", "--seconds", "0.01", "--processes", "1")
    head, line, row = small_cluster(*options)
    assert len(row.split("|")) == len(head.split("|")) == len(line.split("|"))
    assert row.startswith("| batches | 3 | 40 of 40 | 10 ms |")


@pytest.fixture
def long_run(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.long_run")


@pytest.mark.parametrize("planes", [5, 12, 1024, 2100])
def test_a_long_input_repeats_a_short_one(long_run, monkeypatch, tmp_path, planes):
    monkeypatch.setattr(long_run, "BLOCK", 512)
    short, long = tmp_path / "short.fits", tmp_path / "long.fits"
    data = np.arange(12 * 3 * 4, dtype="f4").reshape(12, 3, 4) + 1
    grid = {"CTYPE3": "AWAV", "CUNIT3": "Angstrom", "CRVAL3": 7000.0, "CRPIX3": 1.0, "CD3_3": 2.5}
    images = [fits.ImageHDU(data, fits.Header(grid), name=name) for name in ("DATA", "STAT")]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(short)
    long_run.lengthen(short, long, planes)
    with fits.open(long) as hdus:
        hdus.verify("exception")
        for name, power in (("DATA", 1), ("STAT", 2)):
            made = hdus[name].data
            assert made.shape == (planes, 3, 4)
            assert hdus[name].header["CD3_3"] * planes == pytest.approx(4600)
            for n in {0, 4, planes // 2, planes - 1}:
                repeated = n % long_run.PERIOD
                factor = (1 + 0.01 * (repeated // 12 * 12) / long_run.PERIOD) ** power
                np.testing.assert_allclose(made[n], data[repeated % 12] * factor, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_long_run_is_measured_and_put_into_a_page(long_run, monkeypatch, tmp_path, capsys):
    for name, value in {"SIDE": 31, "STAR": 31, "SHORT": 4, "PLANES": 4, "PERIOD": 8}.items():
        monkeypatch.setattr(long_run, name, value)
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- long_run.py long -->\n\n| old |\n|---|\n\nAfter.\n")
    options = ["--chains", "reference", "--kinds", "threads", "--markdown", str(page)]
    long_run.main(["--work", str(tmp_path), "--sizes", "92.3kB", *options])
    assert "old" not in page.read_text()
    (row,) = [line for line in page.read_text().splitlines() if line.startswith("| reference")]
    assert row.startswith("| reference | threads |")
    assert row in capsys.readouterr().out
    (kept,) = json.loads((tmp_path / "results.json").read_text()).values()
    run = long_run.LongRun(**kept)
    assert run.cpu > run.blocks_cpu > 0
    assert run.wall > 0
    assert 0.8 < run.predicted / run.worker < 1.25
    assert run.together > 100 << 20
    assert {path.name for path in tmp_path.iterdir()} == {"page.md", "short", "out", "results.json"}
    more = long_run.table([replace(run, kind="processes", cpu=1.5 * run.cpu), run]).splitlines()
    assert more[2] == row
    assert more[3].split(" | ")[5] == "1.50"
