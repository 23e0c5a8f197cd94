"""Nothing but a regular file, and nothing that is read, is ever replaced by what a command writes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from commands import call
from lucidcube.errors import CubeError
from lucidcube.io.hdu_bytes import ImagePlan
from lucidcube.io.output_path import path_problems
from lucidcube.io.writer import reserve

REGION = "image\ncircle(4,4,2)\n"
CONFIG = """
target: {input: "target.fits", stages: [rebin, artefacts, {mask: {const_regions: [bad.reg], cut: 0.9}}, interpolate]}
star: {input: "star.fits", stages: [rebin, normalise_psf, fit_psf]}
output: {path: out.fits, overwrite: true}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a folder with a config, its inputs, and things that are no regular files."""
    monkeypatch.chdir(tmp_path)
    header = fits.Header({"CTYPE3": "WAVE", "CRVAL3": 5e-7, "CDELT3": 1e-9, "CUNIT3": "m", "CRPIX3": 1})
    for name in ("target.fits", "star.fits"):
        fits.writeto(name, np.random.default_rng(1).normal(5, 1, (4, 12, 12)).astype(">f4"), header)
    Path("bad.reg").write_text(REGION)
    Path("run.yaml").write_text(CONFIG)
    os.mkfifo("fifo")
    Path("sub").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        yield tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def linked(name: str, way: str) -> str:
    """Return another name of a file."""
    if way == "as it is":
        return name
    other = f"{way}-{Path(name).name}"
    if way == "symlink":
        Path(other).symlink_to(Path(name).absolute())
    elif way == "hard link":
        os.link(name, other)
    else:
        other = os.path.join("sub", "..", name)
    return other


SPECIAL = {
    "/dev/null": "is not a regular file",
    "fifo": "is not a regular file",
    "socket": "is not a regular file",
    "sub": "is a folder",
}
READ = {
    "target.fits": "is one of the inputs",
    "star.fits": "is one of the inputs",
    "bad.reg": "is a file that mask reads",
    "run.yaml": "is the config",
}
CASES = [
    (name, way)
    for name in (*SPECIAL, *READ)
    for way in ("as it is", "symlink", "hard link", "dots")
    if not (way == "hard link" and name in ("/dev/null", "sub"))  # which is impossible
]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_run_replaces_nothing_that_it_reads_and_no_special_file(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, way: str
) -> None:
    path, before = linked(name, way), contents(folder)
    for command in ("run", "plan", "preview"):
        if command == "preview":  # it writes NAME-preview.fits
            preview = Path("x-preview.fits")
            preview.symlink_to(Path(path).absolute())
            expected, path = (SPECIAL | READ)[name].replace("the config", ""), "x.fits"
            if name == "run.yaml":
                continue
        else:
            expected = (SPECIAL | READ)[name]
        code, _, err = call(capsys, command, "run.yaml", "--set", f"output.path={path}")
        assert code == 2
        assert expected in err
        assert len(err.splitlines()) == 1
    assert not list(folder.glob("*.work"))
    Path("x-preview.fits").unlink(missing_ok=True)
    assert contents(folder) == before


@pytest.mark.parametrize(("name", "way"), [c for c in CASES if c[0] in (*SPECIAL, "target.fits")])
@pytest.mark.parametrize(
    "command",
    [
        ["rebin", "target.fits", "--overwrite", "-o"],
        ["view", "target.fits", "--overwrite", "-o"],
    ],
    ids=lambda c: c[0],
)
def test_commands(
    folder: Path, capsys: pytest.CaptureFixture[str], command: list[str], name: str, way: str
) -> None:
    path, before = linked(name, way), contents(folder)
    code, _, err = call(capsys, *command, path)
    assert code == 2
    assert (SPECIAL | READ)[name] in err
    assert len(err.splitlines()) == 1
    assert contents(folder) == before


def test_the_region_file_of_a_stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = ["mask", "target.fits", "--const-regions", "[bad.reg]", "--cut", "0.5", "--overwrite"]
    code, _, err = call(capsys, *stage, "-o", "bad.reg")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "bad.reg is a file that mask reads" in err
    assert Path("bad.reg").read_text() == REGION


def test_conversions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "convert", "target.fits", "cube.zarr")[0] == 0
    os.replace("fifo", "fifo.fits")
    for name in ("fifo.fits", "sub.fits"):
        Path("sub.fits").mkdir(exist_ok=True)
        code, _, err = call(capsys, "convert", "cube.zarr", name, "--overwrite")
        assert (code, len(err.splitlines())) == (2, 1)
    os.replace("target.fits", "cube.zarr/target.fits")
    code, _, err = call(capsys, "convert", "cube.zarr/target.fits", "cube.zarr", "--overwrite")
    assert code == 2
    assert "is or contains the input" in err
    assert Path("cube.zarr/target.fits").exists()


def test_simulated_files_replace_only_simulated_ones(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    code, _, err = call(capsys, "simulate", ".", "--size", "100kB")
    assert code == 2
    assert "target.fits exists and was not made by lucidcube; give another name, or --overwrite" in err
    assert contents(folder) == before
    for _ in range(2):
        assert call(capsys, "simulate", "new", "--size", "100kB")[0] == 0
    assert call(capsys, "simulate", ".", "--size", "100kB", "--overwrite")[0] == 0


@pytest.mark.parametrize("name", ["fifo", "x.fits"])
def test_logs(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, _, err = call(
        capsys, "rebin", "target.fits", "-o", "x.fits", "--bin-step", "2nm", "--log-file", name
    )
    assert code == 2
    assert "give another --log-file" in err.splitlines()[-1]
    assert not Path("x.fits").exists()


def test_users_that_do_not_exist(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["rebin", "target.fits", "-o"],
        ["view", "target.fits", "-o"],
        ["convert", "target.fits"],
    ):
        code, _, err = call(capsys, *command, "~nosuch/x.zarr")
        assert (code, len(err.splitlines())) == (2, 1)


def test_the_place_of_the_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("out.fits", "out.fits/below"):
        code, _, err = call(capsys, "run", "run.yaml", "--set", f"checkpoints.dir={place}")
        assert (code, len(err.splitlines())) == (2, 1)
        assert "where the checkpoints are kept" in err


def test_the_writer_itself_replaces_regular_files_only(folder: Path) -> None:
    plan = ImagePlan("", fits.Header(), (1, 2, 2), "float32")
    for name in ("fifo", "socket", "/dev/null"):
        with pytest.raises(CubeError, match="not a regular file"):
            reserve(name, [plan], overwrite=True)


def test_odd_names(folder: Path) -> None:
    assert [*path_problems(Path("x" * 300), {}, True, "")]
    assert [*path_problems(Path("星" * 83 + ".fits"), {}, True, "")] == []
    layout = reserve("星" * 80 + ".fits", [ImagePlan("", fits.Header(), (1, 2, 2), "float32")])
    assert Path(layout.part).exists()
