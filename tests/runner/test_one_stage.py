"""A stage that is applied to files: memory, profiles, checks and warnings."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import lucidcube.runner.write_product
from lucidcube.cli.app import main
from lucidcube.cluster.resources import USABLE, Resources
from lucidcube.errors import BlocksFailed, ConfigError, CubeError
from lucidcube.io.tables import read_provenance
from lucidcube.runner import plan
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.one_stage import run_stage
from lucidcube.runner.plan import BASELINE
from lucidcube.stages import Deconvolve, Interpolate
from lucidcube.stages.interpolate import Linear

PLANES, SIDE = 64, 20


class Recorder(Monitor):
    """Records the messages and the number of blocks."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.blocks = 0

    def message(self, text: str) -> None:
        self.messages.append(text)

    def block(self, number: int) -> None:
        self.blocks += 1


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with a hole in some planes."""
    planes = np.random.default_rng(0).normal(10, 1, (PLANES, SIDE, SIDE)).astype(np.float32)
    planes[::8, 7, 8] = np.nan
    path = tmp_path_factory.mktemp("one_stage") / "cube.fits"
    axis = {"CTYPE3": "WAVE", "CUNIT3": "m", "CRPIX3": 1.0, "CRVAL3": 7e-7, "CDELT3": 5e-10}
    fits.writeto(path, planes, fits.Header(axis))
    return path


@pytest.fixture(scope="module")
def interpolated(cube: Path) -> np.ndarray:
    """Return the planes that the stage makes with the usual blocks."""
    return interpolate(cube, cube.with_name("interpolated.fits"))


def interpolate(cube: Path, path: Path, **options: Any) -> np.ndarray:
    """Return the planes that the stage makes."""
    run_stage("interpolate", [str(cube)], {"method": "linear"}, output=str(path), **options)
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        return np.array(hdus[0].data)


# Memory


def give(monkeypatch: pytest.MonkeyPatch, planes: float, cores: int = 1) -> None:
    """Simulate a machine with memory for so many float32 planes, besides that of a process without data."""
    peak = BASELINE + plan.RETAINED * planes * SIDE**2 * 4
    limit = max(peak / plan.PLANNED, (peak + plan.COMPILING) / plan.ENDED)
    memory = int(limit / USABLE) + 8
    monkeypatch.setattr("lucidcube.cluster.profile.available_resources", lambda: Resources(cores, memory))


def needed(block: int) -> float:
    """Return the number of planes of memory that a block needs."""
    return Linear.copies * block + Linear.scratch


@pytest.mark.slow
@pytest.mark.parametrize(("block", "cores"), [(4, 1), (2, 1), (1, 3)])
def test_blocks_shrink_until_they_fit_into_memory(
    cube: Path,
    interpolated: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    cores: int,
) -> None:
    give(monkeypatch, cores * needed(block), cores)
    monitor = Recorder()
    made = interpolate(cube, tmp_path / "out.fits", monitor=monitor)
    assert monitor.blocks == PLANES // block
    np.testing.assert_array_equal(made, interpolated)


@pytest.mark.parametrize(
    ("planes", "cores", "remedy"),
    [
        (needed(1) - 1, 1, "give the profile more memory"),
        (2 * needed(1), 3, "give the profile fewer workers or threads"),
        (-1e4, 1, "give the profile more memory"),
    ],
)
def test_too_little_memory_for_one_plane_is_one_line(
    cube: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    planes: float,
    cores: int,
    remedy: str,
) -> None:
    give(monkeypatch, planes, cores)
    with pytest.raises(SystemExit) as caught:
        main(["interpolate", str(cube), "--method", "linear", "-o", str(tmp_path / "out.fits")])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lucidcube: profile: interpolate of the target needs")
    assert line.endswith(remedy)
    assert f"{SIDE} x {SIDE} pixels, in each of {cores} threads" in line
    assert not [*tmp_path.iterdir()]


# Who writes the product


def test_only_this_thread_writes_a_product_that_is_gathered(
    cube: Path, interpolated: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: set[int] = set()
    real = lucidcube.runner.write_product.write_planes

    def recording(*arguments: Any) -> int:
        writers.add(threading.get_ident())
        return real(*arguments)

    monkeypatch.setattr(lucidcube.runner.write_product, "write_planes", recording)
    for product in ("gather", "parallel"):
        writers.clear()
        (tmp_path / "profile.yaml").write_text(f"kind: threads\nworkers: 2\nproduct: {product}\n")
        profile = str(tmp_path / "profile.yaml")
        made = interpolate(cube, tmp_path / f"{product}.fits", profile=profile)
        assert (threading.get_ident() in writers) == (product == "gather")
        assert 1 <= len(writers) <= 2
        np.testing.assert_array_equal(made, interpolated)


# Stages look at their input before anything is computed


def test_the_check_of_a_stage_precedes_the_computation(
    cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(stage: Interpolate, given: Any) -> None:
        assert given.sizes["wavelength"] == PLANES
        raise CubeError("interpolate: this cube is refused")

    monkeypatch.setattr(Interpolate, "check", refuse)
    monitor = Recorder()
    with pytest.raises(CubeError, match="this cube is refused"):
        interpolate(cube, tmp_path / "out.fits", monitor=monitor)
    assert monitor.blocks == 0
    assert not [*tmp_path.iterdir()]


def test_warnings_of_a_stage_are_messages_with_its_name(
    cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interpolate, "warnings", lambda stage, given: iter(["one", "two"]))
    monitor = Recorder()
    interpolate(cube, tmp_path / "out.fits", monitor=monitor)
    assert [m for m in monitor.messages if m.startswith("interpolate")] == [
        "interpolate: one",
        "interpolate: two",
    ]
    assert (tmp_path / "out.fits").exists()


def test_a_cube_that_looks_like_a_star_is_a_warning_of_the_ssa(tmp_path: Path) -> None:
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    star = np.random.default_rng(1).normal(0, 1, (SIDE, SIDE)) + 1e4 * np.exp(-(x**2 + y**2) / 2)
    fits.writeto(tmp_path / "star.fits", star.astype(np.float32))
    monitor = Recorder()
    run_stage("artefacts", [str(tmp_path / "star.fits")], {"method": "ssa"}, monitor=monitor)
    (said,) = (m for m in monitor.messages if m.startswith("artefacts"))
    assert "like a star" in said


@pytest.mark.slow
def test_planes_with_numbers_are_computed_once_and_leave_nothing_behind(
    cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, calls = Deconvolve.deconvolve_plane, []

    def counting(stage: Deconvolve, *planes: Any, **given: Any) -> Any:
        calls.append(stage)
        return usual(stage, *planes, **given)

    monkeypatch.setattr(Deconvolve, "deconvolve_plane", counting)
    psf = np.zeros((5, 5), np.float32)
    psf[2, 2] = 1
    fits.writeto(tmp_path / "psf.fits", psf)
    files = [str(cube), str(tmp_path / "psf.fits")]
    path = run_stage(
        "deconvolve", files, {"n_iter": "3"}, output=f"{tmp_path}/out.fits", profile="synchronous"
    )
    assert len(calls) == PLANES
    assert {p.name for p in tmp_path.iterdir()} == {"psf.fits", "out.fits"}
    with fits.open(path) as hdus:
        assert (hdus["DECONVOLUTION LOG"].data["iterations"] == 3).all()


# Failures


def test_a_failed_block_leaves_no_product(
    cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ArithmeticError("made to fail")

    monkeypatch.setattr(Linear, "kernel", staticmethod(fail))
    with pytest.raises(BlocksFailed, match="interpolate failed on plane 0 .*made to fail"):
        interpolate(cube, tmp_path / "out.fits")
    assert not [*tmp_path.iterdir()]


def test_engines_that_cannot_be_used_are_errors(
    cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    (tmp_path / "simd.yaml").write_text("fft: simd\n")
    with pytest.raises(ConfigError, match="fft: simd cannot be used here"):
        interpolate(cube, tmp_path / "out.fits", profile=str(tmp_path / "simd.yaml"))


# Names of files


@pytest.mark.parametrize("name", ["naïve 星.fits", "x\ny.fits", "bytes\udcff.fits", "n" * 150 + ".fits"])
def test_files_may_have_any_name(cube: Path, interpolated: np.ndarray, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(cube)
    path = tmp_path / f"made {name}"
    assert np.array_equal(interpolate(tmp_path / name, path), interpolated, equal_nan=True)
    escaped = name.encode("ascii", "backslashreplace").decode().replace("\n", "\\n")
    assert read_provenance(path)["target.file"] == escaped
    assert fits.getheader(path)["LUCIDCUBE TARGET FILE"] in (escaped, escaped[:40])
