"""Locks: one run at a time, whatever the file system; the lock of a killed process is taken over."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from commands import call
from lucidcube.errors import UserError
from lucidcube.runner import lock
from lucidcube.runner.lock import LOCK, locked, product_locked
from lucidcube.simulate import Scene, write_scene

WORK = Path("work")
ELSEWHERE = "filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=ab\nduration=1000000000.0\nstart=5\n"
HOLD = """
import sys, time
from pathlib import Path
from lucidcube.runner.lock import locked
with locked(Path("work")):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def other_process() -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the lock of the work folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


def marker(content: str, age: float = 0.0) -> Path:
    """Write a lock file that was changed `age` seconds ago."""
    WORK.mkdir(exist_ok=True)
    path = WORK / LOCK
    path.write_text(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("lock_it", [locked, product_locked])
def test_a_second_holder_is_refused(lock_it: Callable[..., Any]) -> None:
    said = rf"work is in use by another run \(process {os.getpid()} on {socket.gethostname()}, last active 0:00:0\d ago\); wait for it, or [a-z. ]+$"
    for _ in range(2):
        with lock_it(WORK), pytest.raises(UserError, match=said), lock_it(WORK):
            pass
    assert not [p for p in Path().rglob("*") if p.is_file()]


def test_different_products_and_folders_are_independent() -> None:
    with locked(Path("a")), locked(Path("b")), product_locked(Path("a.fits")), product_locked(Path("b.fits")):
        pass


def test_names_of_a_product(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All names of one file have one lock, beside it, in a folder that may not exist yet."""
    monkeypatch.setenv("HOME", str(folder))
    with product_locked(Path("~/a/b/out.fits")):
        assert (folder / "a" / "b" / ".out.fits.lock").exists()
        for name in ("a/b/out.fits", "a/./b/out.fits", f"{folder}/a/b/out.fits"):
            with pytest.raises(UserError, match="in use by another run"), product_locked(Path(name)):
                pass
    assert not (folder / "a" / "b" / ".out.fits.lock").exists()


def test_the_lock_is_released_after_an_error() -> None:
    with pytest.raises(KeyError), locked(WORK):
        raise KeyError
    assert not (WORK / LOCK).exists()


def test_another_process_is_refused_and_its_lock_taken_over_once_it_is_killed() -> None:
    with other_process() as process:
        with pytest.raises(UserError, match=f"process {process.pid} on "), locked(WORK):
            pass
        process.kill()
        process.wait()
        start = time.monotonic()
        with locked(WORK):
            assert time.monotonic() - start < 2
    assert not (WORK / LOCK).exists()


def test_the_lock_of_a_zombie_is_taken_over() -> None:
    with other_process() as process:
        os.kill(process.pid, signal.SIGKILL)
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        with locked(WORK):
            pass


@pytest.mark.parametrize("host", ["a", "zzz"])
def test_the_lock_of_a_number_that_is_a_zombie_here_and_belongs_to_another_machine(host: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    marker(ELSEWHERE.replace("pid=1", f"pid={process.pid}").replace("elsewhere", host))
    with pytest.raises(UserError, match=f"process {process.pid} on {host}"), locked(WORK):
        pass
    process.wait()


@pytest.mark.parametrize(("age", "said"), [(1.8, False), (2.2, True)])
def test_a_lock_without_a_heartbeat_may_belong_to_another_container(age: float, said: bool) -> None:
    with locked(WORK):
        os.utime(WORK / LOCK, (time.time() - age * lock.HEARTBEAT,) * 2)
        with pytest.raises(UserError, match="in use") as refused, locked(WORK):
            pass
    assert ("if that run has ended, remove" in str(refused.value)) is said


def test_only_one_process_at_a_time_removes_an_abandoned_lock() -> None:
    """Another one might remove the lock that was taken in its place."""
    path = marker("", age=100)
    with lock._lease(path.with_name(f"{path.name}.removed")).acquire(timeout=0):
        with pytest.raises(UserError, match="a process that left no record"), locked(WORK):
            pass
        assert path.exists()
    with locked(WORK):
        pass


def test_the_lock_of_a_number_that_another_process_has_now() -> None:
    with locked(WORK):
        content = (WORK / LOCK).read_text()
    start = next(line for line in content.splitlines() if line.startswith("start="))
    marker(content.replace(start, f"start={int(start[6:]) - 1}"))
    with locked(WORK):
        pass
    marker(content)
    with pytest.raises(UserError, match="in use"), locked(WORK):
        pass


def test_the_lock_of_another_machine_names_the_file_to_remove() -> None:
    path = marker(ELSEWHERE, age=3661)
    said = rf"process 1 on elsewhere, last active 1:01:0\d ago\); wait for it, or .*; if that run has ended, remove {path}"
    with pytest.raises(UserError, match=said), locked(WORK):
        pass
    path.unlink()
    with locked(WORK):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1, "host": "elsewhere"}', "1\n", "\x00" * 2000])
def test_damaged_locks_are_taken_over_when_they_are_old(content: str) -> None:
    path = marker(content)
    with pytest.raises(UserError, match=f"a process that left no record.*remove {path}"), locked(WORK):
        pass
    marker(content, age=100)
    with locked(WORK, wait=4):
        pass


def test_a_symbolic_link_is_not_followed(folder: Path) -> None:
    precious = folder / "precious"
    precious.write_text("precious")
    WORK.mkdir()
    (WORK / LOCK).symlink_to(precious)
    with locked(WORK, wait=4):
        pass
    assert precious.read_text() == "precious"


def test_a_run_that_ends_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(WORK):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(30)
    with pytest.raises(UserError, match="in use"), locked(WORK, wait=0.2):
        pass
    threading.Timer(0.3, leave.set).start()
    with locked(WORK, wait=30):
        pass
    thread.join()
    assert "waiting for it for 30 s" in caplog.text


def test_the_time_of_the_lock_tells_that_its_owner_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    with locked(WORK):
        os.utime(WORK / LOCK, (1, 1))
        end = time.monotonic() + 20
        while (WORK / LOCK).stat().st_mtime < time.time() - 100:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_lock_that_was_removed_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    with locked(WORK):
        (WORK / LOCK).unlink()
        end = time.monotonic() + 20
        while "was removed during the run" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fails)
    with (
        pytest.raises(UserError, match=f"cannot write checkpoints to work: {os.strerror(number)}; set"),
        locked(WORK),
    ):
        pass


def keep_the_lock(patch: pytest.MonkeyPatch) -> None:
    """Let the removal of the lock fail, as on a failing disk."""
    for module in (Path, os):
        remove = module.unlink

        def fails(path: Any, *, remove: Any = remove, **options: Any) -> None:
            if Path(path).name == LOCK:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            remove(path, **options)

        patch.setattr(module, "unlink", fails)


def test_a_lock_that_cannot_be_removed_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch, locked(WORK):
        keep_the_lock(patch)
    assert caplog.messages == [f"{WORK / LOCK} cannot be removed: Input/output error; remove it"]


def test_a_run_whose_lock_cannot_be_removed_reports_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_run()
    with monkeypatch.context() as patch:
        keep_the_lock(patch)
        code, out, said = call(capsys, "run", "run.yaml", "--quiet", "--no-report")
    assert (code, out) == (0, "out.fits\n")
    assert "in-use cannot be removed: Input/output error; remove it" in said
    assert Path("out.fits").exists()


def test_the_error_of_a_run_comes_before_that_of_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of a process that has ended is taken over by the next run."""

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "unlink", fails)
    monkeypatch.setattr(Path, "unlink", fails)
    with pytest.raises(FileNotFoundError), locked(WORK):
        (WORK / "missing").read_text()


def test_only_one_thread_at_a_time_holds_the_lock() -> None:
    inside, most, had = [0], [0], [0]
    count = threading.Lock()

    def want() -> None:
        for _ in range(100):
            try:
                with locked(WORK):
                    with count:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    with count:
                        inside[0] -= 1
                    had[0] += 1
            except UserError:
                continue

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert had[0] > 10


def contend(seed: int, seconds: float, entered: Any) -> None:
    """Take the lock again and again, and die within it at random; write a file if another holder is inside."""
    fcntl.flock = _unsupported  # type: ignore[assignment]
    draw, end = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with locked(WORK):
                inside = Path("inside")
                if inside.exists() and _is_alive(int(inside.read_text())):
                    Path(f"both-{os.getpid()}").touch()
                inside.write_text(str(os.getpid()))
                with entered.get_lock():
                    entered.value += 1
                time.sleep(draw.random() / 500)
                if draw.random() < 0.05:
                    os.kill(os.getpid(), signal.SIGKILL)
                inside.unlink()
        except UserError:
            time.sleep(draw.random() / 500)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def _unsupported(*args: Any) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.exhaustive)])
def test_two_processes_never_hold_it_though_holders_are_killed_and_there_is_no_flock(seconds: int) -> None:
    context = multiprocessing.get_context("fork")
    entered, kills, end = context.Value("i", 0), 0, time.monotonic() + seconds
    running: list[Any] = []
    while time.monotonic() < end:
        for process in [p for p in running if p.exitcode is not None]:
            running.remove(process)
            kills += process.exitcode == -signal.SIGKILL
        while len(running) < 4:
            running.append(
                context.Process(
                    target=contend, args=(random.randrange(1 << 30), end - time.monotonic(), entered)
                )
            )
            running[-1].start()
        time.sleep(0.01)
    for process in running:
        process.join(30)
    assert not [*Path().glob("both-*")]
    assert kills > 10
    assert entered.value > 100


def small_run() -> None:
    """Write run.yaml and its input into the current folder."""
    write_scene(Scene(shape=(2, 21, 21), seed=5), Path())
    Path("run.yaml").write_text(
        "target: {input: target.fits, stages: [{interpolate: {method: linear}}]}\n"
        "output: {path: out.fits, products: [deconvolved]}\nprofile: synchronous\n"
    )


def test_a_run_waits_as_long_as_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    small_run()
    command = ["run", "run.yaml", "--no-report", "--quiet"]
    with product_locked(Path("out.fits")):
        code, _, said = call(capsys, *command, "--wait", "0")
    assert (code, said.count("in use by another run")) == (2, 1)
    with ExitStack() as held:
        held.enter_context(product_locked(Path("out.fits")))
        timer = threading.Timer(0.5, held.pop_all().close)
        timer.start()
        assert call(capsys, *command, "--wait", "60")[0] == 0
        timer.join()
    assert Path("out.fits").exists()
