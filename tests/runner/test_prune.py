"""The command `lucidcube prune`: what it lists, what it removes and what it leaves alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lucidcube.cli.app import main
from lucidcube.cluster.credentials import for_jobs
from lucidcube.config.load import load
from lucidcube.errors import UserError
from lucidcube.runner.checkpoint import CHECKSUMS, COMPLETE, STORE
from lucidcube.runner.input_checksum import CACHE
from lucidcube.runner.lock import locked
from lucidcube.runner.pipeline import run
from lucidcube.runner.prune import PREVIEW, find, remove, stale_files
from lucidcube.runner.reopen import checkpoints
from lucidcube.simulate import Scene, write_scene

SCENE = Scene(shape=(4, 25, 25), seed=3, wavelength_step=0.5e-9)
HEX = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder where run.yaml has been run twice, first with another n_iter."""
    folder = tmp_path_factory.mktemp("made")
    write_scene(SCENE, folder)
    values: dict[str, Any] = {
        "preset": "reference",
        "target": {"input": "target.fits", "stages": ["rebin", "artefacts", "mask", "interpolate"]},
        "star": {"input": "star.fits", "stages": ["normalise_psf", "rebin", "fit_psf"]},
        "output": {"path": "out/sharp.fits"},
        "profile": "synchronous",
    }
    with contextlib.chdir(folder):
        for values["deconvolve"] in ({"n_iter": 2}, {"n_iter": 3}):
            Path("run.yaml").write_text(yaml.safe_dump(values))
            run(load(["run.yaml"]))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a copy of that folder the current folder."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def work(folder: Path) -> Path:
    return folder / "out" / "target.work"


def pruned(*arguments: str) -> int:
    try:
        main(["prune", *arguments])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def contents(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.mark.slow
def test_checkpoint_names_are_those_of_a_run(work: Path) -> None:
    names = checkpoints(load(["run.yaml"]))
    found = find(work, names)
    assert len(names) == 6
    assert {e.path.name for e in found if e.current} == {*names}
    assert [(e.track, e.stage) for e in found if not e.current] == [("target", "deconvolve")]
    for entry in found:
        assert (entry.blocks, entry.missing) == (2, 0)
        assert entry.nbytes == sum(p.stat().st_size for p in entry.path.rglob("*") if p.is_file())
        assert 0 <= entry.age < 100


@pytest.mark.slow
def test_listing_changes_nothing(work: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert pruned("run.yaml") == 0
    said = capsys.readouterr().out
    assert said.count(" current") == 6
    assert said.count(" stale") == 1
    assert "--remove frees" in said
    assert pruned("out/target.work") == 0
    said = capsys.readouterr().out
    assert "stale" not in said
    assert "7 checkpoints" in said
    assert contents(folder) == before


@pytest.mark.slow
def test_stale_checkpoints_are_removed(work: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pruned("run.yaml", "--remove") == 0
    assert capsys.readouterr().out == "removed 1 of 7 checkpoints and 0 temporary files\n"
    assert {p.name for p in work.iterdir()} == {*checkpoints(load(["run.yaml"])), CACHE}
    before = contents(folder)
    assert pruned("run.yaml", "--remove") == 0
    assert contents(folder) == before


def test_overrides_are_applied(work: Path) -> None:
    assert pruned("run.yaml", "--set", "deconvolve.n_iter=2", "--remove") == 0
    kept = {p.name for p in work.glob("target-deconvolve-*")}
    assert kept == {
        n for n in checkpoints(load(["run.yaml"], ["deconvolve.n_iter=2"])) if n.startswith("target-dec")
    }


def test_a_folder_alone_does_not_identify_stale_checkpoints(work: Path) -> None:
    before = contents(work)
    assert pruned("out/target.work", "--remove") == 0
    assert contents(work) == before
    assert pruned("out/target.work", "--remove", "--all") == 0
    assert contents(work) == {CACHE}


def test_other_files_are_kept(work: Path, folder: Path) -> None:
    victim, linked, unsigned, *_ = sorted(work.glob("*-*-*"))
    (victim / "notes.txt").write_text("mine")
    (folder / "elsewhere").mkdir()
    linked.rename(folder / "elsewhere" / linked.name)
    linked.symlink_to(folder / "elsewhere" / linked.name)
    (unsigned / COMPLETE).unlink()
    (work / "target-rebin").mkdir()
    (work / "Target-rebin-0123456789abcdef").mkdir()
    (work / "Target-rebin-0123456789abcdef" / COMPLETE).write_text("{}")
    (work / "target-rebin-0123456789abcdef").write_text("a file of this name")
    (work / "results.fits").write_text("mine")
    (work / "results.part").write_text("mine")
    (work / ".hidden").write_text("mine")
    elsewhere, beside = contents(folder / "elsewhere"), contents(unsigned)
    assert pruned(str(work), "--remove", "--all") == 0
    assert {p.name for p in work.iterdir()} == {
        victim.name, linked.name, unsigned.name, "target-rebin", "Target-rebin-0123456789abcdef",
        "target-rebin-0123456789abcdef", "results.fits", "results.part", ".hidden", CACHE,
    }  # fmt: skip
    assert contents(victim) == {"notes.txt"}
    assert contents(folder / "elsewhere") == elsewhere
    assert contents(unsigned) == beside
    assert (work / "Target-rebin-0123456789abcdef" / COMPLETE).exists()


def test_temporary_files_are_removed(work: Path, folder: Path) -> None:
    checkpoint = next(work.glob("target-artefacts-*"))
    (work / "scratch").mkdir()
    stray = [
        checkpoint / CHECKSUMS / f".000001.{HEX}.partial",
        checkpoint / f".{COMPLETE}.{HEX}.partial",
        checkpoint / STORE / "badness" / f"c.1.0.0.{HEX}.partial",
        work / "scratch" / f".abc.fits.{HEX}.part",
        folder / "out" / f".sharp.fits.{HEX[:12]}.part",
    ]
    others = [
        folder / "out" / f".other.fits.{HEX[:12]}.part",
        folder / "out" / ".sharp.fits.swp",
        work / f"mine.{HEX}.part",
        work / "scratch" / "abc.fits",
    ]
    for path in [*stray, *others]:
        path.write_text("half")
    assert {*stale_files(work)} == {*stray[:-1]}
    assert pruned("run.yaml", "--remove") == 0
    assert not [p for p in stray if p.exists()]
    assert all(p.exists() for p in others)
    assert not next(e for e in find(work) if e.path == checkpoint).missing


def test_an_incomplete_checkpoint_is_listed_with_its_blocks(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = next(work.glob("target-artefacts-*"))
    (checkpoint / CHECKSUMS / "000001").unlink()
    (next(work.glob("target-deconvolve-*")) / STORE / "zarr.json").unlink()
    entries = find(work)
    assert {e.missing for e in entries if e.path == checkpoint} == {1}
    assert pruned("out/target.work") == 0
    said = capsys.readouterr().out
    assert "1 of 2" in said
    assert "unreadable" in said


def hold(work: Path, ready: Any, release: Any) -> None:
    with locked(work):
        ready.set()
        release.wait(30)


@pytest.mark.slow
def test_nothing_is_removed_during_a_run(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(work, ready, release))
    other.start()
    try:
        assert ready.wait(30)
        before = contents(work)
        assert pruned("run.yaml", "--remove", "--all") == 2
        assert f"process {other.pid}" in capsys.readouterr().err
        assert contents(work) == before
        assert pruned("run.yaml") == 0
    finally:
        release.set()
        other.join(30)
    assert pruned("run.yaml", "--remove", "--all") == 0
    assert contents(work) == {CACHE}


def test_nothing_is_removed_during_a_preview(work: Path) -> None:
    previews = work / PREVIEW
    checkpoint = previews / next(work.glob("target-artefacts-*")).name
    shutil.copytree(work / checkpoint.name, checkpoint)
    stray = checkpoint / f".{COMPLETE}.{HEX}.partial"
    stray.write_text("half")
    with locked(previews), pytest.raises(UserError, match="in use by another run"):
        remove(work, find(work), stale_files(work))
    assert (checkpoint / COMPLETE).exists()
    assert stale_files(work) == [stray]
    remove(work, find(work), stale_files(work))
    assert contents(previews) == set()


def test_keys_of_killed_runs_are_removed(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as killed:
        for_jobs(killed, work)
        (left,) = work.glob("tls-*")
        others = [work / "tls-mine", work / "tls-0123abcd", work / "tls-abcd0123"]
        for path in others[:2]:
            path.mkdir(mode=0o755)
        others[2].symlink_to(left.name)
        with locked(work):
            assert stale_files(work) == []
        before = contents(work)
        assert pruned(str(work)) == 0
        assert "temporary files: 1" in capsys.readouterr().out
        assert contents(work) == before
        assert pruned(str(work), "--remove") == 0
        assert not left.exists()
        assert all(path.is_symlink() or path.is_dir() for path in others)


def test_an_empty_work_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pruned(str(tmp_path)) == 0
    assert pruned(str(tmp_path), "--remove") == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert pruned(str(tmp_path / "run.yaml")) == 2
    assert "there is no such config file" in capsys.readouterr().err
