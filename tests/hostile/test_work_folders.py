"""Damaged and hostile work folders: the same product, or one line; nothing outside the folder is written."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import pytest
import yaml

from commands import call
from lucidcube.config.load import load
from lucidcube.config.track import Track
from lucidcube.cube import DATA, from_arrays
from lucidcube.errors import UserError
from lucidcube.io.work_files import own_folder
from lucidcube.runner.checkpoint import Checkpoint
from lucidcube.runner.input_checksum import CACHE, input_identity
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.pipeline import run
from lucidcube.simulate import Scene, write_scene

SCENE = Scene(shape=(3, 25, 25), seed=5, wavelength_step=0.5e-9)
WORK = Path("target.work")
LONGEST = 20
"""Seconds after which a run, which takes less than one, is thought to hang."""

pytestmark = pytest.mark.timeout(3 * LONGEST)


class Made(NamedTuple):
    """A folder with a config, its inputs, which are compressed, and a finished run; the bytes of the product."""

    folder: Path
    product: bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    write_scene(SCENE, folder)
    for name in ("target.fits", "star.fits"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes(), mtime=0))
        (folder / name).unlink()
    values = {
        "preset": "reference",
        "target": {"input": "../target.fits.gz", "stages": ["artefacts", "mask", "interpolate"]},
        "star": {"input": "../star.fits.gz", "stages": ["normalise_psf"]},
        "deconvolve": {"method": "lucy_richardson", "n_iter": 2},
        "output": {"path": "out.fits", "products": ["deconvolved", "residual", "log"]},
        "profile": "synchronous",
    }
    (folder / "run").mkdir()
    with contextlib.chdir(folder / "run"):
        Path("run.yaml").write_text(yaml.safe_dump(values))
        run(load(["run.yaml"]))
        return Made(folder, Path("out.fits").read_bytes())


@pytest.fixture
def here(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Make a copy of the run the current folder, without its product."""
    for name in ("target.fits.gz", "star.fits.gz"):
        shutil.copy2(made.folder / name, tmp_path / name)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    fresh(made)
    return made


def fresh(made: Made, *, half: bool = False) -> None:
    """Replace the current folder by that of the finished run, or of one that was killed on its way."""
    for path in Path().iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(made.folder / "run", ".", dirs_exist_ok=True)
    Path("out.fits").unlink()
    if half:
        for path in [
            *WORK.glob("target-deconvolve-*/checksums/*1"),
            *WORK.glob("target-interp*/*/data/c.2*"),
        ]:
            path.unlink()


def restarted() -> str:
    """Run the config, and return the line that a user would see if it is refused."""
    start, line = time.monotonic(), ""
    try:
        run(load(["run.yaml"]), Monitor())
    except UserError as error:
        line = error.problems[0]
        assert line
        assert not any("\n" in p for p in error.problems)
        assert len(error.problems) <= 2  # one for each input
    assert time.monotonic() - start < LONGEST
    return line


def the_same(made: Made) -> bool:
    return Path("out.fits").read_bytes() == made.product


class Outside:
    """Files and a folder next to the run, to which links lead; nothing of them may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "inside").mkdir(parents=True)
        for path in (self.file, folder / "inside" / "zarr.json", folder / "inside" / "000000"):
            path.write_text("mine")
        self.before = self.state()

    @property
    def file(self) -> Path:
        return self.folder / "file"

    def state(self) -> dict[str, tuple[int, int, bytes]]:
        paths = [self.folder, *sorted(self.folder.rglob("*"))]
        return {
            str(p): (p.lstat().st_mode, p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
            for p in paths
        }

    def check(self) -> None:
        assert self.state() == self.before


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    made = Outside(tmp_path / "outside")
    yield made
    made.check()


# What files hold

CONTENTS: dict[str, bytes | int] = {
    "empty": b"",
    "open": b"{",
    "list": b"[]",
    "null": b"null",
    "number": b"3",
    "text": b'"data"',
    "nan": b"NaN",
    "empty object": b"{}",
    "not text": b"\xff\xfe\x00",
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 200_000,
    "deep and closed": b"[" * 990 + b"]" * 990,
    "many digits": b"1" * 100_000,
    "many digits in an object": b'{"block": ' + b"1" * 100_000 + b"}",
    "beyond float64": b"1e999",
    "large": 100 << 20,
    "sparse": 1 << 40,
}
QUICK = {"list", "sparse"}


def quick(names: Any, chosen: set[str]) -> list[Any]:
    """Return parameters of which all but some are slow."""
    return [n if n in chosen else pytest.param(n, marks=pytest.mark.slow) for n in names]


def documents() -> list[Path]:
    """Return a file of each kind, each in another checkpoint where possible."""
    patterns = (
        "inputs.json",
        "star-normalise_psf-*/checkpoint.json",
        "target-artefacts-*/cube.zarr/zarr.json",
        "target-artefacts-*/cube.zarr/channel/zarr.json",
        "target-interpolate-*/cube.zarr/data/zarr.json",
        "target-interpolate-*/cube.zarr/wavelength/c.0",
        "target-interpolate-*/checksums/000001",
        "target-deconvolve-*/cube.zarr/data/c.1.0.0",
        "scratch/*.fits.json",
    )
    return [*map(one, patterns), WORK / "in-use"]


def one(pattern: str) -> Path:
    return sorted(WORK.glob(pattern))[0]


@pytest.mark.parametrize("name", quick(CONTENTS, QUICK))
def test_any_content(here: Made, name: str) -> None:
    for path in documents():
        content = CONTENTS[name]
        if isinstance(content, int):
            with open(path, "wb") as file:
                file.truncate(content)
        else:
            path.write_bytes(content)
    # Without content, a new lock file may be that of a process which is about to write it.
    os.utime(WORK / "in-use", (0, 0))
    assert restarted() == ""
    assert the_same(here)
    again = Reused()
    run(load(["run.yaml"]), again)
    assert not again.computed, "the first run repaired everything"


class Reused(Monitor):
    """Collects the labels of segments of which blocks were computed."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def segment(self, label: str, blocks: int, reused: int) -> None:
        if label != "product" and reused < blocks:
            self.computed.append(label)


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e300,
    10**40,
    float("nan"),
    "",
    "x" * 70_000,
    [],
    [[]],
    {},
    {"a": 1},
)


def variants(document: Any) -> Iterator[Any]:
    """Yield a JSON document with one of its values, at any depth, replaced or left out."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(entries):
        kept = document[key]
        for other in (*VALUES, *(variants(value) if isinstance(value, dict | list) else ())):
            document[key] = other
            yield document
        document[key] = kept
    for key in list(document) if isinstance(document, dict) else ():
        kept = document.pop(key)
        yield document
        document[key] = kept


NAMES = (DATA, "cut")


def small_cube() -> Any:
    data = da.from_array(np.arange(4 * 6, dtype=np.float32).reshape(4, 2, 3), chunks=(2, 2, 3))
    made = from_arrays(data, 1e-6 + 1e-9 * np.arange(4), units="adu")
    return made.assign(cut=("wavelength", np.arange(4.0), {"units": "sigma"}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "checkpoint.json",
        "checksums/000001",
        "cube.zarr/zarr.json",
        "cube.zarr/data/zarr.json",
        "cube.zarr/wavelength/zarr.json",
    ],
)
def test_any_value_in_the_documents_of_a_checkpoint(tmp_path: Path, name: str) -> None:
    """Each time the store is repaired or made again; it never has other data, coordinates or units."""
    cube, path = small_cube(), tmp_path / "target-test-0"

    def prepared() -> Any:
        checkpoint = Checkpoint.prepare(path, cube, NAMES, {"why": "test"})
        missing, tasks = checkpoint.missing(), checkpoint.write(cube, NAMES)
        dask.compute([tasks.blocks[n] for n in missing], scheduler="synchronous")
        return checkpoint.open().compute(scheduler="synchronous")

    assert prepared().identical(cube.compute())
    original = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    known, count = json.loads(original.pop(path / name)), 0
    for document in variants(json.loads((path / name).read_text())):
        (path / name).write_text(json.dumps(document))
        assert prepared().identical(cube.compute())
        assert {p: p.read_bytes() for p in original} == original
        assert json.loads((path / name).read_text()) == known
        count += 1
    assert count > 20


def test_any_value_in_the_document_of_the_inputs(tmp_path: Path) -> None:
    file = tmp_path / "a.fits"
    file.write_bytes(b"one")
    track = Track(input=str(file))
    expected = input_identity(track, tmp_path)
    for document in variants(json.loads((tmp_path / CACHE).read_text())):
        (tmp_path / CACHE).write_text(json.dumps(document))
        assert input_identity(track, tmp_path) == expected


# What files are


def fifo(path: Path, outside: Outside) -> None:
    os.mkfifo(path)


def folder(path: Path, outside: Outside) -> None:
    path.mkdir()
    (path / "file").write_text("within")


def link_to_file(path: Path, outside: Outside) -> None:
    path.symlink_to(outside.file)


def link_to_folder(path: Path, outside: Outside) -> None:
    path.symlink_to(outside.folder / "inside")


def dangling_link(path: Path, outside: Outside) -> None:
    path.symlink_to(outside.folder / "none")


def loop(path: Path, outside: Outside) -> None:
    path.symlink_to(path.name)


def link_to_device(path: Path, outside: Outside) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path, outside: Outside) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def regular(path: Path, outside: Outside) -> None:
    path.write_text("a file where a folder may belong")


KINDS: dict[str, Callable[[Path, Outside], None]] = {
    f.__name__: f
    for f in (
        fifo, folder, link_to_file, link_to_folder, dangling_link, loop, link_to_device, unix_socket, regular
    )
}  # fmt: skip

PLACES = (
    "",
    "in-use.lock",  # of earlier versions
    "in-use",
    "inputs.json",
    "scratch",
    "scratch/*.fits",
    "scratch/*.fits.json",
    "target-interpolate-*",
    "target-interpolate-*/checkpoint.json",
    "target-interpolate-*/checksums",
    "target-interpolate-*/checksums/000001",
    "target-interpolate-*/cube.zarr",
    "target-interpolate-*/cube.zarr/zarr.json",
    "target-interpolate-*/cube.zarr/data",
    "target-interpolate-*/cube.zarr/data/zarr.json",
    "target-interpolate-*/cube.zarr/data/c.1.0.0",
    "target-interpolate-*/cube.zarr/wavelength/c.0",
)


def replaced(place: str) -> Path:
    """Remove what lies at a place of the work folder, and return the path."""
    path = WORK if not place else WORK / place if "*" not in place else one(place)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path


@pytest.mark.parametrize("kind", quick(KINDS, {"fifo", "link_to_folder"}))
def test_something_else_in_many_places(here: Made, outside: Outside, kind: str) -> None:
    """The same product: what is not a regular file was made again."""
    for place in PLACES[3:]:
        if "-interpolate-*" not in place and place != "scratch":
            KINDS[kind](replaced(place), outside)
    for place, name in zip(PLACES[8:], ("artefacts", "interpolate", "deconvolve") * 3, strict=True):
        with contextlib.suppress(IndexError, FileExistsError):  # removed with a folder above
            KINDS[kind](replaced(place.replace("interpolate", name)), outside)
    assert restarted() == ""
    assert the_same(here)


@pytest.mark.slow
@pytest.mark.timeout(LONGEST * 9)
@pytest.mark.parametrize("place", PLACES)
def test_something_else_in_each_place(
    here: Made, outside: Outside, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same product, or one line; the command lines that list checkpoints end, too."""
    for kind, make in KINDS.items():
        fresh(here)
        make(replaced(place), outside)
        code, _, err = call(capsys, "prune", "run.yaml")
        assert code in (0, 2), err
        line = restarted()
        assert line or the_same(here), kind
        assert not line or str(WORK) in line
        outside.check()


def test_the_command_line_says_it_in_one_line(
    here: Made, outside: Outside, capsys: pytest.CaptureFixture[str]
) -> None:
    link_to_folder(replaced(""), outside)
    code, out, err = call(capsys, "run", "run.yaml")
    assert (code, out) == (2, "")
    assert "it is a symbolic link; set checkpoints.dir" in err.splitlines()[-1]


@pytest.mark.parametrize("place", quick(PLACES, {"scratch"}))
def test_files_that_cannot_be_read(here: Made, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Whatever has no permissions is made again, or refused."""
    with unprivileged() as folder:
        monkeypatch.chdir(folder / "run")
        path = WORK if not place else WORK / place if "*" not in place else one(place)
        if not path.exists():
            path.write_text("{}")
        path.chmod(0)
        line = restarted()
        assert line or the_same(here)


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """Copy the folder of the run; if this is root, give the copy to another user, and become that user."""
    # The folders of pytest can only be entered by the user who runs it.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        shutil.copytree("..", made, dirs_exist_ok=True)
        root = os.geteuid() == 0
        for path in [Path(made), *Path(made).rglob("*")] if root else []:
            os.chown(path, 65534, 65534)
        if root:
            os.seteuid(65534)
        try:
            yield Path(made)
        finally:
            for path in Path(made).rglob("*"):  # so that everything can be removed
                with contextlib.suppress(OSError):
                    path.chmod(0o700)
            if root:
                os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
@pytest.mark.parametrize("place", ["", "scratch"])
def test_the_folder_of_another_user(here: Made, place: str) -> None:
    os.chown(WORK / place, 65534, 65534)
    assert "it belongs to another user" in restarted()
    assert not Path("out.fits").exists()


def test_other_users_cannot_write_in_the_folder(here: Made, caplog: pytest.LogCaptureFixture) -> None:
    assert WORK.stat().st_mode & 0o777 == 0o700
    assert (WORK / "scratch").stat().st_mode & 0o777 == 0o700
    for path in (WORK, WORK / "scratch"):
        path.chmod(0o777)
    assert restarted() == ""
    assert [p.stat().st_mode & 0o777 for p in (WORK, WORK / "scratch")] == [0o755, 0o755]
    lines = [f"removed the permission of other users to write in {path}" for path in (WORK, WORK / "scratch")]
    assert [r.getMessage() for r in caplog.records if "permission" in r.getMessage()] == lines
    caplog.clear()
    assert restarted() == ""
    assert "permission" not in caplog.text


def test_a_folder_for_temporary_files_of_all_users_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "everyone"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(OSError, match="temporary files of all users"):
        own_folder(folder)
    assert folder.stat().st_mode & 0o7777 == 0o1777


# Flipped bits


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def flips(seed: int, count: int) -> Iterator[tuple[Path, int]]:
    """Yield random bits of a work folder, half of them in files that are no chunks."""
    rng = random.Random(seed)
    files = sorted(p for p in WORK.rglob("*") if p.is_file() and p.stat().st_size)
    small = [p for p in files if not p.name.startswith("c.") or p.name == "c.0"]
    for number in range(count):
        path = rng.choice(small if number % 2 else files)
        yield path, rng.randrange(path.stat().st_size * 8)


EXHAUSTIVE = [pytest.mark.slow, pytest.mark.exhaustive]


@pytest.mark.parametrize(
    ("seed", "count"),
    [
        (0, 3),
        *(pytest.param(s, 30, marks=EXHAUSTIVE if s > 2 else pytest.mark.slow) for s in range(1, 11)),
    ],
)
@pytest.mark.timeout(LONGEST * 15)
def test_flipped_bits(here: Made, seed: int, count: int) -> None:
    """After each the product is the same."""
    for number, (path, bit) in enumerate([*flips(seed, count)]):
        fresh(here, half=bool(number % 3 == 2))
        if not path.exists():
            continue
        flip(path, bit)
        assert restarted() == "", f"bit {bit} of {path}"
        assert the_same(here), f"bit {bit} of {path}"


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_flipped_bits_in_chunks(tmp_path: Path, codec: str) -> None:
    """All are found, in whatever part of a chunk they are."""
    path, rng = tmp_path / "target-test-0", random.Random(1)
    data = np.random.default_rng(1).integers(0, 9, (4, 9, 9)).astype(np.float32)
    cube = from_arrays(da.from_array(data, chunks=(2, 9, 9)), np.arange(1.0, 5) * 1e-6)
    checkpoint = Checkpoint.prepare(path, cube, [DATA], {}, codec)
    dask.compute(checkpoint.write(cube, [DATA]), scheduler="synchronous")
    chunk = path / "cube.zarr" / DATA / "c.1.0.0"
    original = chunk.read_bytes()
    for bit in rng.sample(range(8 * len(original)), 400):
        flip(chunk, bit)
        assert checkpoint.missing() in ([1], []), bit
        if not checkpoint.missing():
            np.testing.assert_array_equal(checkpoint.open()[DATA].values, data)
        chunk.write_bytes(original)
