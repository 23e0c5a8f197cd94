"""Stopped runs are resumed: finished blocks are kept and the product is the same."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr
from rich.console import Console

from lucidcube.cli.console import LOG_INTERVAL, Progress, summary
from lucidcube.cluster.resources import available_resources
from lucidcube.config.load import from_plain
from lucidcube.config.schema import Config
from lucidcube.errors import BlocksFailed, Failure, StageError, UserError
from lucidcube.runner.checkpoint import CHECKSUMS, STORE, Checkpoint
from lucidcube.runner.lock import LOCK, locked, product_locked
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.pipeline import run
from lucidcube.runner.signals import Stopped, signals
from lucidcube.simulate import Scene, write_scene
from lucidcube.stages.interpolate import Linear

PLANES = 4
SCENE = Scene(shape=(PLANES, 25, 25), seed=5, wavelength_step=0.5e-9)
BLOCKS = 5 * PLANES
"""Number of blocks without products: two segments of the target, two of the star, and the deconvolution."""


def slow(*values: Any) -> Any:
    """Return a set of parameters for the slow tests: each run takes half a second."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Recorder(Monitor):
    """Records the events of a run; calls `act` after a number of blocks."""

    def __init__(self, after: int = 0, act: Callable[[], None] = lambda: None) -> None:
        self.messages: list[str] = []
        self.segments: list[tuple[str, int, int]] = []
        self.after, self.act, self.blocks = after, act, 0
        self.done: Summary | None = None

    def message(self, text: str) -> None:
        self.messages.append(text)

    def segment(self, label: str, blocks: int, reused: int) -> None:
        self.segments.append((label, blocks, reused))

    def block(self, number: int) -> None:
        self.blocks += 1
        if self.blocks == self.after:
            self.act()

    def finished(self, done: Summary) -> None:
        self.done = done

    def computed(self) -> dict[str, int]:
        return {label: n - reused for label, n, reused in self.segments if label != "product" and n > reused}


class ReferenceRun(NamedTuple):
    """A config with relative paths, and the bytes of its product."""

    files: Path
    product: bytes


def config(files: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "preset": "reference",
        "target": {"input": f"{files}/target.fits", "stages": ["artefacts", "mask", "interpolate"]},
        "star": {"input": f"{files}/star.fits", "stages": ["normalise_psf", "fit_psf"]},
        "deconvolve": {"n_iter": 5},
        "output": {"path": "out.fits"},
        "checkpoints": {"after": ["artefacts", "interpolate", "normalise_psf", "fit_psf", "deconvolve"]},
    }
    return from_plain(values | changes)


@pytest.fixture(scope="module")
def reference_run(tmp_path_factory: pytest.TempPathFactory) -> ReferenceRun:
    folder = tmp_path_factory.mktemp("reference_run")
    write_scene(SCENE, folder)
    with contextlib.chdir(folder):
        run(config(folder))
    return ReferenceRun(folder, (folder / "out.fits").read_bytes())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copy_run(reference_run: ReferenceRun) -> None:
    """Copy the product and the checkpoints of the reference run to the current folder."""
    for name in ("out.fits", "target.work"):
        source = reference_run.files / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, name)


def assert_resumes(reference_run: ReferenceRun, blocks: int | None = None) -> Recorder:
    """Check that the same run computes only the missing blocks, and makes the same product."""
    missing = BLOCKS - sum(
        c.blocks - len(c.missing()) for c in map(Checkpoint, Path("target.work").glob("*-*-*"))
    )
    assert blocks is None or missing == blocks
    monitor = Recorder()
    run(config(reference_run.files), monitor)
    assert sum(monitor.computed().values()) == missing
    assert Path("out.fits").read_bytes() == reference_run.product
    assert sorted(os.listdir()) == ["out.fits", "target.work"]
    assert not (Path("target.work") / LOCK).exists()
    return monitor


# Failures


class Failing:
    """A kernel that fails a given number of times on the planes with the given sums."""

    def __init__(self, kernel: Callable[..., Any], times: float, every: int = 1) -> None:
        self.kernel, self.times, self.every = kernel, times, every
        self.calls = 0
        self.failed: dict[bytes, int] = {}
        self.lock = threading.Lock()

    def __call__(self, data: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        key = data.tobytes()
        with self.lock:
            self.calls += 1
            chosen = key in self.failed or len(self.failed) < self.every
            if chosen and self.failed.setdefault(key, 0) < self.times:
                self.failed[key] += 1
                raise ZeroDivisionError("no way")
        return self.kernel(data, *args, **kwargs)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float, int], Failing]]:
    def patch(times: float, every: int = 1) -> Failing:
        made = Failing(Linear.kernel, times, every)
        monkeypatch.setattr(Linear, "kernel", made)
        return made

    yield patch
    monkeypatch.undo()


@pytest.mark.parametrize("profile", ["synchronous", "laptop"])
def test_a_block_that_fails_once_is_retried(
    reference_run: ReferenceRun, failing: Callable[..., Failing], profile: str
) -> None:
    kernel = failing(times=1, every=2)
    monitor = Recorder()
    done = run(config(reference_run.files, profile=profile), monitor)
    assert [*kernel.failed.values()] == [1, 1]
    products = sum(n for label, n, _ in monitor.segments if label == "product")
    assert (done.computed, done.failed) == (BLOCKS + products, 0)
    assert products == monitor.blocks - BLOCKS


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["synchronous", "laptop"])
def test_a_block_that_fails_twice_does_not_affect_others(
    reference_run: ReferenceRun, failing: Callable[..., Failing], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, profile: str
) -> None:  # fmt: skip
    kernel = failing(times=np.inf, every=1)
    monitor = Recorder()
    with pytest.raises(BlocksFailed) as caught:
        run(config(reference_run.files, profile=profile), monitor)
    assert [*kernel.failed.values()] == [2], "it is retried only once"
    (failure,) = caught.value.failures
    assert failure.label == "target: mask, interpolate"
    assert (failure.error.stage, failure.error.cause) == ("interpolate", "ZeroDivisionError: no way")
    assert failure.error.where.startswith(f"plane {failure.block} (7.1")
    assert [*monitor.computed()] == [
        "star: normalise_psf", "star: fit_psf", "target: artefacts", "target: mask, interpolate",
    ], "the deconvolution needs both"  # fmt: skip
    assert any("target: the stages after" in m for m in monitor.messages)
    assert monitor.done is not None
    assert (monitor.done.computed, monitor.done.failed) == (4 * PLANES - 1, 1)
    assert not Path("out.fits").exists()
    monkeypatch.setattr(Linear, "kernel", staticmethod(kernel.kernel))
    again = assert_resumes(reference_run, blocks=1 + PLANES)
    assert again.computed() == {"target: mask, interpolate": 1, "target: deconvolve": PLANES}


@pytest.mark.slow
def test_a_user_error_is_not_retried(reference_run: ReferenceRun, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        raise UserError("the PSF is upside down")

    monkeypatch.setattr(Linear, "kernel", staticmethod(refuse))
    with pytest.raises(UserError, match="upside down"):
        run(config(reference_run.files, profile="synchronous"))
    assert len(calls) == 1


def test_the_message_of_many_failures_is_short() -> None:
    failures = [Failure("s", n, StageError("mask", f"plane {n}", "no")) for n in range(500)]
    lines = str(BlocksFailed(failures)).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 480 more blocks"


# Signals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "number"),
    [
        (9, signal.SIGTERM),
        (BLOCKS + 2, signal.SIGINT),
        slow(2, signal.SIGTERM),
        slow(2, signal.SIGINT),
        slow(9, signal.SIGINT),
        slow(BLOCKS + 2, signal.SIGTERM),
    ],
)
def test_blocks_in_flight_are_finished(
    reference_run: ReferenceRun, number: signal.Signals, after: int
) -> None:
    monitor = Recorder(after, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Stopped) as caught, signals() as stop:
        run(config(reference_run.files), monitor, stop=stop)
    assert caught.value.signal == number
    assert monitor.blocks >= after
    assert monitor.done is not None
    kept = [Checkpoint(p) for p in Path("target.work").glob("*-*-*")]
    recorded = sum(c.blocks - len(c.missing()) for c in kept)
    assert recorded == min(monitor.done.computed, BLOCKS), "every block that was started is recorded"
    assert monitor.done.computed <= after + available_resources().cores + 2
    assert_resumes(reference_run, BLOCKS - recorded)


SLOW_BLOCK = """
import os, signal, sys, threading, time
from lucidcube.runner.signals import signals

with signals() as outer, signals() as stop:
    assert stop is outer
    worker = threading.Thread(target=time.sleep, args=(60,))
    with stop.finishing():
        worker.start()
        os.kill(os.getpid(), signal.Signals(int(sys.argv[1])))
        assert stop.requested is not None
        print("requested", flush=True)
        os.kill(os.getpid(), signal.Signals(int(sys.argv[2])))
        print("survived", flush=True)
"""


@pytest.mark.timeout(50)
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(first: signal.Signals, second: signal.Signals) -> None:
    command = [sys.executable, "-c", SLOW_BLOCK, str(int(first)), str(int(second))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert (done.stdout, done.returncode) == ("requested\n", -second), done.stderr


def test_a_signal_between_segments_stops_immediately() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


# A full disk


@pytest.mark.slow
@pytest.mark.parametrize("number", [slow(3), 17, slow(BLOCKS - 1)])
def test_a_full_disk_while_blocks_are_written(
    reference_run: ReferenceRun, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    put, count = zarr.Array.__setitem__, [0]

    def full(array: zarr.Array, *arguments: Any) -> None:
        if "channel" not in array.name and "wavelength" not in array.name:
            count[0] += 1
            if count[0] >= number:
                raise OSError(errno.ENOSPC, "No space left on device")
        put(array, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(zarr.Array, "__setitem__", full)
        with pytest.raises(
            UserError, match=r"No space left on device; finished blocks are kept.*checkpoints\.dir"
        ):
            run(config(reference_run.files))
    assert_resumes(reference_run)


@pytest.mark.slow
def test_a_full_disk_while_the_product_is_written(
    reference_run: ReferenceRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("lucidcube.io.writer._put", full)
        with pytest.raises(UserError, match="No space left on device; nothing was left behind"):
            run(config(reference_run.files))
    assert os.listdir() == ["target.work"]
    assert_resumes(reference_run, 0)


# Damage


def harm(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 3] ^= 4
        path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("how", [slow("deleted"), slow("truncated"), "flipped"])
def test_damage_anywhere_is_repaired(reference_run: ReferenceRun, how: str) -> None:
    copy_run(reference_run)
    rng = np.random.default_rng(1)
    files = sorted(p for p in Path("target.work").rglob("*") if p.is_file())
    chosen = {*rng.choice(len(files), 12, replace=False)}
    kinds = {(f.parent.name if f.name.startswith("0000") else f.name) for f in files}
    assert CHECKSUMS in kinds
    for number in chosen:
        harm(files[number], how)
    run(config(reference_run.files))
    assert Path("out.fits").read_bytes() == reference_run.product
    assert_resumes(reference_run, 0)


CONTENTS = (b"", b"{", b"[]", b"null", b'{"variables": ["data"]}')
"""Contents of a damaged document, one for each checkpoint."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["checkpoint.json", f"{STORE}/zarr.json"])
def test_any_document_of_a_checkpoint_may_be_damaged(reference_run: ReferenceRun, name: str) -> None:
    copy_run(reference_run)
    for path, content in zip(Path("target.work").glob(f"*-*-*/{name}"), CONTENTS, strict=True):
        path.write_bytes(content)
    run(config(reference_run.files))
    assert Path("out.fits").read_bytes() == reference_run.product
    assert_resumes(reference_run, 0)


@pytest.mark.slow
@pytest.mark.parametrize("content", [CONTENTS[0], *map(slow, CONTENTS[1:])])
def test_the_document_of_the_inputs_may_be_damaged(reference_run: ReferenceRun, content: bytes) -> None:
    copy_run(reference_run)
    document = Path("target.work/inputs.json")
    assert document.exists()
    document.write_bytes(content)
    assert_resumes(reference_run, 0)


@pytest.mark.slow
def test_an_error_of_the_disk_does_not_cost_a_checkpoint(
    reference_run: ReferenceRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_run(reference_run)
    with monkeypatch.context() as patched:
        patched.setattr(zarr, "open_group", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EIO, "I/O")))
        with pytest.raises(UserError, match="I/O"):
            run(config(reference_run.files))
    assert_resumes(reference_run, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wavelength", "channel"])
@pytest.mark.parametrize("how", [slow("deleted"), "truncated", slow("flipped")])
def test_damaged_coordinates_are_repaired(reference_run: ReferenceRun, how: str, name: str) -> None:
    copy_run(reference_run)
    for path in Path("target.work").glob(f"*/{STORE}/{name}/c.0"):
        harm(path, how)
    assert_resumes(reference_run, 0)
    for path in Path("target.work").glob("*-*-*"):
        assert np.isfinite(Checkpoint(path).open()["wavelength"]).all()


@pytest.mark.slow
def test_temporary_files_of_a_killed_run_are_removed(reference_run: ReferenceRun) -> None:
    Path(".out.fits.0123456789ab.part").write_bytes(b"half")
    Path(".other.fits.0123456789ab.part").write_bytes(b"half")
    run(config(reference_run.files))
    assert sorted(os.listdir()) == [".other.fits.0123456789ab.part", "out.fits", "target.work"]


# Concurrent runs


@pytest.mark.slow
def test_a_product_that_another_run_writes_is_left_alone(reference_run: ReferenceRun) -> None:
    part = Path(".out.fits.0123456789ab.part")
    part.write_bytes(b"half")
    with (
        product_locked(Path("out.fits")),
        pytest.raises(UserError, match="out.fits is in use by another run"),
    ):
        run(config(reference_run.files), wait=0)
    assert part.exists()
    run(config(reference_run.files))
    assert not part.exists()


@pytest.mark.slow
def test_a_second_run_at_the_same_time_is_an_error(reference_run: ReferenceRun) -> None:
    work = Path("target.work")
    for held in (locked(work), product_locked(Path("out.fits"))):
        with held:
            said = rf"in use by another run \(process {os.getpid()} on {socket.gethostname()}, last active 0:"
            with pytest.raises(UserError, match=said):
                run(config(reference_run.files), wait=0)
            assert not [p for p in work.iterdir() if p.name != LOCK]
    assert_resumes(reference_run, BLOCKS)


@pytest.mark.slow
def test_the_lock_of_a_killed_run_is_ignored(reference_run: ReferenceRun) -> None:
    Path("target.work").mkdir()
    with locked(Path("target.work")):
        content = (Path("target.work") / LOCK).read_text()
    pid = f"pid={os.getpid()}"
    assert pid in content
    (Path("target.work") / LOCK).write_text(content.replace(pid, "pid=999999999"))
    assert_resumes(reference_run, BLOCKS)


# Progress and summary


@pytest.mark.slow
def test_the_summary_counts_blocks_and_bytes(reference_run: ReferenceRun) -> None:
    monitor = Recorder()
    done = run(config(reference_run.files), monitor)
    assert monitor.done is done
    products = sum(n for label, n, _ in monitor.segments if label == "product")
    assert (done.computed, done.reused, done.failed) == (BLOCKS + products, 0, 0)
    assert done.product_bytes == len(reference_run.product)
    assert 1 << 26 < done.memory < 1 << 36
    assert done.worker_memory == 0, "there were no other processes"
    text = summary(done)
    assert f"{done.computed} done, 0 reused, 0 failed" in text
    assert done.nbytes > 0
    assert run(config(reference_run.files)).reused == BLOCKS


def test_lines_in_a_batch_log(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = Progress(Console(stderr=True, highlight=False, force_terminal=False), lambda: now[0])
    with progress:
        progress.segment("target: rebin", 1100, 100)
        for number in range(1000):
            now[0] += 0.25
            progress.block(number)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "target: rebin: 1000 blocks (100 of 1100 blocks reused)"
    assert len(lines) == 1 + int(250 / LOG_INTERVAL)
    assert lines[1] == "target: rebin: 220 of 1100 blocks, 4.0 blocks/s, 220.00 s left"


def test_a_bar_on_a_terminal() -> None:
    screen = io.StringIO()
    now = [0.0]
    progress = Progress(Console(file=screen, force_terminal=True, width=120), lambda: now[0])
    with progress:
        progress.segment("target: rebin", 4, 1)
        for number in range(3):
            now[0] += 4
            progress.block(number)
    assert "target: rebin" in screen.getvalue()
    assert "4/4" in screen.getvalue()
    assert "4.0 s/block" in screen.getvalue()
