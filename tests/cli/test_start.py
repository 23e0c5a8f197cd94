"""The start of the command line: signals and failing disks before anything else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lucidcube.cli.start import FAILING, machine_fails

DURING_IMPORT = """
import importlib.abc, os, signal, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "lucidcube.cli.app":
            {what}
sys.meta_path.insert(0, Finder())
sys.argv[:] = ["lucidcube", *{arguments}]
from lucidcube.cli.start import main
main()
"""


def start(what: str, *arguments: str) -> tuple[int, str]:
    """Start the program, with something that happens while it is being imported."""
    code = DURING_IMPORT.format(what=what, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("name", "command", "code"), [("TERM", "run", 75), ("HUP", "run", 75), ("TERM", "info", 143)]
)
def test_signals_while_the_program_is_imported(name: str, command: str, code: int) -> None:
    found, said = start(f"os.kill(os.getpid(), signal.SIG{name})", command, "my.yaml")
    assert (found, said) == (code, "lucidcube: stopped\n")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "Input/output error", "a.py"), ImportError(f"a.so: {os.strerror(errno.EIO)}")],
)
def test_libraries_that_cannot_be_read(error: Exception) -> None:
    found, said = start(f"raise {error!r}", "run", "my.yaml")
    assert found == 2
    assert said.startswith("lucidcube: lucidcube cannot be loaded: ")
    assert "Input/output error" in said
    assert said.count("\n") == 1


def test_too_little_memory_for_libraries() -> None:
    assert start("raise MemoryError", "run", "my.yaml") == (
        2, "lucidcube: lucidcube cannot be loaded: there is not enough memory\n"
    )  # fmt: skip


def test_other_errors_are_mistakes_of_ours() -> None:
    assert not machine_fails(ImportError("no module named x"))
    assert not machine_fails(FileNotFoundError(errno.ENOENT, "No such file"))
    assert all(machine_fails(OSError(number, os.strerror(number))) for number in FAILING)
    found, said = start("raise ImportError('no module named x')", "run", "my.yaml")
    assert found == 1
    assert "Traceback" in said


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_failing_disk_is_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lucidcube.cli.app import main

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/disk/file")

    monkeypatch.setattr("lucidcube.config.load.load", fail)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(tmp_path / "my.yaml")])
    assert ended.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("lucidcube: the disk or the machine fails: ")
    assert os.strerror(number) in first
    assert "/disk/file" in first
    assert "to continue, run the same command" in second


@pytest.mark.parametrize(
    ("said", "line"), [("", ""), ("Unable to allocate 8 TiB", " (Unable to allocate 8 TiB)")]
)
@pytest.mark.parametrize("resumable", [True, False])
def test_too_little_memory_is_one_line(
    said: str,
    line: str,
    resumable: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lucidcube.cli.app import main

    def fail(*_: object, **__: object) -> None:
        raise MemoryError(*filter(None, [said]))

    monkeypatch.setattr("lucidcube.config.load.load", fail)
    with pytest.raises(SystemExit) as ended:
        main([*(["run"] if resumable else ["config", "check"]), str(tmp_path / "my.yaml")])
    assert ended.value.code == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first == f"lucidcube: there is not enough memory{line}"
    assert len(others) == resumable


WAITING = """
import os, sys, time
from lucidcube.runner.signals import Stopped, signals
try:
    with signals() as stop, stop.finishing():
        print("ready", flush=True)
        while stop.requested is None:
            time.sleep(0.01)
        print("goes on", flush=True)
except Stopped as error:
    print("ended", flush=True)
    os._exit(int(error.signal))
"""


CLOSED_TERMINAL = f"""
import os
os.open(os.ttyname(0), os.O_RDWR)  # it becomes the terminal of this session
{WAITING}"""


def test_a_terminal_that_is_closed() -> None:
    """The run is told by SIGHUP; what it writes to the terminal afterwards is discarded."""
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSED_TERMINAL],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        assert os.read(master, 5) == b"ready"
        os.close(master)
        assert process.wait(30) == signal.SIGHUP
    finally:
        process.kill()
        process.wait()


def test_a_hangup_right_after_a_request_to_stop_changes_nothing() -> None:
    """As systemd sends it at the end of a session."""
    command = [sys.executable, "-u", "-c", WAITING]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    said, _ = process.communicate(timeout=30)
    assert said == "goes on\nended\n"
    assert process.returncode in (signal.SIGTERM, signal.SIGHUP)  # whichever Python sees first
