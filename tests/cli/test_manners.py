"""What a run says on the terminal and in its log: quiet, verbose, time left, colours, completion, exit codes."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from rich.console import Console

from commands import call
from lucidcube.cli.app import main
from lucidcube.cli.compilation import Compilation
from lucidcube.cli.console import Progress
from lucidcube.cli.logs import FIRST_LINE

AXIS = {"CTYPE3": "WAVE", "CUNIT3": "nm", "CRVAL3": 500.0, "CDELT3": 5.0, "CRPIX3": 1.0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a cube and a config of one quick stage."""
    monkeypatch.chdir(tmp_path)
    data = np.random.default_rng(1).normal(3, 1, (5, 12, 12)).astype(np.float32)
    errors = fits.ImageHDU(np.ones_like(data), name="ERR")
    fits.HDUList([fits.PrimaryHDU(data, fits.Header(AXIS)), errors]).writeto("obs.fits")
    config = {
        "target": {"input": "obs.fits", "stages": [{"rebin": {"bin_step": "10 nm"}}]},
        "profile": "synchronous",
    }
    Path("run.yaml").write_text(yaml.safe_dump({**config, "output": {"path": "out/new.fits"}}))
    return tmp_path


def test_a_log_is_kept_beside_the_product(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "run", "run.yaml")
    assert (code, out) == (0, "out/new.fits\n")
    assert "target: rebin" in err
    log = Path("out/new.log").read_text().splitlines()
    assert log[0].startswith("# log of lucidcube")
    assert all(line[:4].isdecimal() and line[10] == " " for line in log[2:])
    for part in ("started", "holds standard deviations", "target: rebin", "peak memory"):
        assert any(part in line for line in log), part
    assert call(capsys, "run", "run.yaml", "-q") == (0, "out/new.fits\n", "")
    assert Path("out/new.log.1").read_text().splitlines() == log
    assert "reused" in Path("out/new.log").read_text()


def test_commands_of_stages_keep_a_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "rebin", "obs.fits", "--bin-step", "10nm", "-q") == (0, "obs_rebin.fits\n", "")
    assert "product" in Path("obs_rebin.log").read_text()
    arguments = ["rebin", "obs.fits", "--bin-step", "10nm", "--log-file", "logs/my.txt"]
    assert call(capsys, *arguments)[0] == 0
    assert Path("logs/my.txt").read_text().startswith("# log of lucidcube")
    assert not Path("obs_rebin.log.1").exists()


def test_no_log_for_help_and_for_mistakes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--help"],
        ["run", "--help"],
        ["run", "run.yaml", "--set", "target.rebin.bin_step=2"],
        ["info", "obs.fits"],
    ):
        call(capsys, *arguments)
    assert not list(folder.rglob("*.log"))


def test_other_files_are_not_overwritten_by_the_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/new.log").write_text("my notes")
    code, _, err = call(capsys, "run", "run.yaml")
    assert (code, err.splitlines()[-1]) == (
        2,
        "lucidcube: out/new.log exists and is no log of lucidcube: give another --log-file",
    )
    assert Path("out/new.log").read_text() == "my notes"
    assert not Path("out/new.fits").exists()


@pytest.mark.parametrize("left", ["", FIRST_LINE[:5]])
def test_a_log_that_a_killed_run_has_just_begun_is_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    Path("out").mkdir()
    Path("out/new.log").write_text(left)
    assert call(capsys, "run", "run.yaml")[0] == 0
    assert Path("out/new.log").read_text().startswith(FIRST_LINE)


def test_errors_are_in_the_log(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("lucidcube.runner.pipeline.write", broken)
    with pytest.raises(RuntimeError):
        main(["run", "run.yaml"])
    log = Path("out/new.log").read_text()
    assert "ERROR" in log
    assert "the disk is on fire" in log
    assert "Traceback" in log
    capsys.readouterr()


def test_verbose_shows_records_and_leaves_the_loggers_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = logging.getLogger("lucidcube")
    before = (package.level, list(package.handlers))
    code, _, err = call(capsys, "run", "run.yaml", "-v")
    assert code == 0
    assert "started 20" in err
    assert err.count("holds standard deviations") == 1
    assert (package.level, list(package.handlers)) == before
    code, _, err = call(capsys, "run", "run.yaml", "-v", "-q")
    assert (code, "contradict" in err) == (2, True)


def test_the_time_left_does_not_count_compilation() -> None:
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    progress = Progress(console, lambda: now[0])
    progress.segment("target: deconvolve", 100, 0)
    progress.compilation.on_start(None)
    progress.compilation.on_start(None)  # a kernel that the first one calls
    now[0] = 200.0
    progress.compilation.on_end(None)
    progress.compilation.on_end(None)
    now[0] = 210.0
    for number in range(10):
        progress.block(number)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("compiling kernels, once") == 1
    assert "1 of 100 blocks, 10.0 s/block" in shown
    now[0] = 241.0
    progress.block(10)
    assert "11 of 100 blocks, 3.7 s/block, 331.73 s left" in console.file.getvalue()  # type: ignore[attr-defined]


def test_compilation_is_noticed() -> None:
    numba = pytest.importorskip("numba")
    if numba.config.DISABLE_JIT:
        pytest.skip("no compiler")
    from lucidcube.cli.compilation import listening

    begun: list[bool] = []
    compilation = Compilation(lambda: begun.append(True))
    with listening(compilation):
        numba.njit(lambda x: x + 1)(2.0)
        numba.njit(lambda x: x + 2)(2.0)
    assert begun == [True]
    seconds = compilation.seconds()
    assert seconds > 0.001
    numba.njit(lambda x: x + 3)(2.0)
    assert compilation.seconds() == seconds


def test_no_colours_in_pipes_and_exit_codes_in_the_help(folder: Path) -> None:
    program = [sys.executable, "-m", "lucidcube"]
    shown = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in shown
    codes = " ".join(shown.partition("Exit codes:")[2].split())
    for code in ("0", "1", "2", "75", "130", "141", "143"):
        assert f" {code} " in f" {codes}"


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {}])
def test_no_color_is_respected(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system="standard")
    with Progress(console) as progress:
        progress.segment("target: rebin", 2, 0)
        progress.block(0)
    assert ("\x1b[3" in screen.getvalue().replace("\x1b[33;2m", "")) != bool(variables)


def test_shell_completion(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))  # whose .bashrc is changed
    code, _, _ = call(capsys, "--install-completion", "--shell", "bash", "--output", folder / "completion.sh")
    assert code in (0, None)
    ask = "source completion.sh; COMP_WORDS=(lucidcube inf); COMP_CWORD=1; _lucidcube; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["info"], (done.stderr, Path("completion.sh").read_text()[:600])
