"""Runs that are killed at random moments: the resumed run gives the same product."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml

from lucidcube.runner.checkpoint import Checkpoint
from lucidcube.simulate import Scene, write_scene

pytestmark = pytest.mark.slow  # each run has a process of its own

SCENE = Scene(shape=(8, 25, 25), seed=7, wavelength_step=0.5e-9)
BLOCKS = 5 * 8
"""Number of blocks in all segments, without the products."""

NURSERY = """
import json, os, signal, sys
from lucidcube import io
from lucidcube.cli import app as cli
from lucidcube.runner import pipeline
import lucidcube.runner.compute
lucidcube.runner.compute.CHECK_INTERVAL = 1.0
import lucidcube.cli.console, lucidcube.cli.stage_commands
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        os.chdir(order["folder"])
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1); os.dup2(log, 2)
        try:
            cli.main(order["arguments"])
        except SystemExit as done:
            os._exit(done.code or 0)
        os._exit(0)
    print("started", child, flush=True)
    _, status = os.waitpid(child, 0)
    print("ended", os.waitstatus_to_exitcode(status), flush=True)
"""
"""A program that imports everything once, and then runs each command line in a forked process."""


def reply(fork_server: subprocess.Popen[str], word: str) -> int:
    """Return the number after a word, past lines about the run of a test that was given up."""
    assert fork_server.stdout is not None
    for line in fork_server.stdout:
        found, number = line.split()
        if found == word:
            return int(number)
    raise AssertionError("the fork server ended")


PROFILE = ("--profile", "profile.yaml", "--trust-profile")


class Running:
    """A run in a process of its own."""

    def __init__(self, fork_server: subprocess.Popen[str], pid: int) -> None:
        self.fork_server, self.pid = fork_server, pid

    def ends(self) -> int:
        """Return the exit code, or the signal that killed it as a negative number."""
        return reply(self.fork_server, "ended")

    def has_ended(self) -> bool:
        return not psutil.pid_exists(self.pid)


class ForkServer(NamedTuple):
    """Starts runs without importing everything again."""

    process: subprocess.Popen[str]

    def start(self, folder: Path, *arguments: str) -> Running:
        assert self.process.stdin is not None
        order = {"folder": str(folder), "arguments": ["run", "run.yaml", *PROFILE, *arguments]}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Running(self.process, reply(self.process, "started"))

    def run(self, folder: Path, *arguments: str) -> int:
        return self.start(folder, *arguments).ends()


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", NURSERY],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    yield ForkServer(process)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


class ReferenceRun(NamedTuple):
    """The bytes of the product of an uninterrupted run, and its duration."""

    files: Path
    product: bytes
    seconds: float


@pytest.fixture(scope="module")
def reference_run(tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> ReferenceRun:
    folder = tmp_path_factory.mktemp("reference_run")
    write_scene(SCENE, folder)
    job(folder, folder)
    began = time.monotonic()
    assert fork_server.run(folder) == 0, (folder / "log.txt").read_text()
    return ReferenceRun(folder, (folder / "out.fits").read_bytes(), time.monotonic() - began)


def job(files: Path, folder: Path) -> None:
    """Write run.yaml and the profile, whose name is part of the product's provenance."""
    folder.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "preset": "reference",
        "target": {"input": f"{files}/target.fits", "stages": ["artefacts", "mask", "interpolate"]},
        "star": {"input": f"{files}/star.fits", "stages": ["normalise_psf", "fit_psf"]},
        "deconvolve": {"n_iter": 30},
        "output": {"path": "out.fits"},
        "checkpoints": {"after": ["artefacts", "interpolate", "normalise_psf", "fit_psf", "deconvolve"]},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    (folder / "profile.yaml").write_text("kind: threads\nworkers: 2\n")


def recorded(folder: Path) -> int:
    kept = [Checkpoint(p) for p in (folder / "target.work").glob("*-*-*") if (p / "checkpoint.json").exists()]
    return sum(c.blocks - len(c.missing()) for c in kept)


def written(folder: Path) -> int:
    """Return the number of records of finished blocks, also of those that are about to be checked."""
    return len([*(folder / "target.work").glob("*-*-*/checksums/*")])


def assert_resumes(folder: Path, fork_server: ForkServer, reference_run: ReferenceRun) -> None:
    """Check that the same run makes the same product and computes only the missing blocks."""
    there = recorded(folder)
    (folder / "log.txt").unlink(missing_ok=True)
    assert fork_server.run(folder) == 0, (folder / "log.txt").read_text()
    assert f"{there} reused" in (folder / "log.txt").read_text()
    assert (folder / "out.fits").read_bytes() == reference_run.product
    assert recorded(folder) == BLOCKS
    assert not [p.name for p in folder.iterdir() if p.name.endswith(".part")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [8, pytest.param(40, marks=pytest.mark.exhaustive)])
def test_kill_at_random_moments(
    tmp_path: Path, fork_server: ForkServer, reference_run: ReferenceRun, number: int
) -> None:
    rng, kills, finished = random.Random(4), 0, 0
    moments: list[int] = []
    while kills < number:
        folder = tmp_path / f"{finished}"
        job(reference_run.files, folder)
        running = fork_server.start(folder)
        goal = rng.randrange(written(folder), BLOCKS + 1)
        wait_for(lambda folder=folder, goal=goal: written(folder) >= goal)  # type: ignore[misc]
        time.sleep(rng.uniform(0.0, 0.3 * reference_run.seconds) if rng.randrange(4) == 0 else 0.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
        code = running.ends()
        assert code in (0, -signal.SIGKILL), (folder / "log.txt").read_text()
        if code:
            kills += 1
            moments.append(recorded(folder))
        if code == 0 or kills == number or recorded(folder) == BLOCKS:
            assert_resumes(folder, fork_server, reference_run)
            finished += 1
    assert len({*moments}) > 4, f"always killed at the same moment: {moments}"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)]
)
def test_signals_end_a_run_cleanly(
    tmp_path: Path, fork_server: ForkServer, reference_run: ReferenceRun, number: signal.Signals, code: int
) -> None:
    job(reference_run.files, tmp_path)
    running = fork_server.start(tmp_path)
    wait_for(lambda: any((tmp_path / "target.work").glob("*-*-*/checksums/0*")))
    os.killpg(running.pid, number)
    assert running.ends() == code
    said = (tmp_path / "log.txt").read_text().splitlines()
    assert said[-1].endswith(
        "finished blocks are kept; to continue, run the same command: "
        "lucidcube run run.yaml --profile profile.yaml --trust-profile"
    )
    assert "Traceback" not in "".join(said)
    assert sorted(os.listdir(tmp_path)) == ["log.txt", "out.log", "profile.yaml", "run.yaml", "target.work"]
    done = next(line for line in said if "blocks:" in line)
    assert f" {recorded(tmp_path)} done" in done, "blocks in flight are finished"
    assert_resumes(tmp_path, fork_server, reference_run)


def test_two_runs_at_once(tmp_path: Path, fork_server: ForkServer, reference_run: ReferenceRun) -> None:
    job(reference_run.files, tmp_path)
    running = fork_server.start(tmp_path)
    wait_for(lambda: any((tmp_path / "target.work").glob("*-*-*/checksums/0*")))
    os.kill(running.pid, signal.SIGSTOP)
    try:
        second = subprocess.run(
            [sys.executable, "-c", "from lucidcube.cli.app import main; main()", "run", "run.yaml"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        os.kill(running.pid, signal.SIGCONT)
    assert second.returncode == 2
    assert f"in use by another run (process {running.pid} on " in second.stderr
    assert running.ends() == 0
    assert (tmp_path / "out.fits").read_bytes() == reference_run.product


# A cluster on this machine

MOMENTS = (1, BLOCKS // 2, BLOCKS - 4)
"""Numbers of finished blocks at which something is killed or stopped: early, in the middle, and late."""


def on_a_cluster(folder: Path, *profile: str) -> None:
    (folder / "profile.yaml").write_text("\n".join(profile))


def on_threads(folder: Path) -> None:
    (folder / "profile.yaml").write_text("kind: threads\nworkers: 2\n")


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the processes of the cluster's workers that are neither stopped nor dead."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            alive = process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
            if alive and "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def started(workers: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that take connections; others are still importing what they need."""
    found = []
    for process in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(c.status == psutil.CONN_LISTEN for c in process.net_connections("inet")):
                found.append(process)
    return found


def signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "names",
    [
        {MOMENTS[0]: "STOP", MOMENTS[1]: "KILL"},
        pytest.param(dict(zip(MOMENTS, ("KILL", "STOP", "STOP"), strict=True)), marks=pytest.mark.exhaustive),
    ],
    ids=lambda names: " ".join(names.values()),
)
def test_workers_that_are_killed_or_stop_for_ever(
    tmp_path: Path, fork_server: ForkServer, reference_run: ReferenceRun, names: dict[int, str]
) -> None:
    """Their blocks are computed by others.

    On a busy machine a worker needs many seconds to start, and a block that is given up many more. So a worker
    is stopped or killed only once it has started, and the test waits for as long as the run goes on.
    """
    job(reference_run.files, tmp_path)
    on_a_cluster(tmp_path, "kind: processes", "workers: 2", "block_timeout: 10s", "worker_timeout: 60s")
    running = fork_server.start(tmp_path)
    for moment, name in names.items():
        chosen: list[psutil.Process] = []
        while not chosen and not running.has_ended():
            chosen = started(workers_of(running.pid))[:1] if written(tmp_path) >= moment else []
            time.sleep(0.005)
        signal_all(chosen, signal.Signals[f"SIG{name}"])
    assert running.ends() == 0, (tmp_path / "log.txt").read_text()
    said = (tmp_path / "log.txt").read_text()
    assert "which is given up" in said
    assert "Traceback" not in said
    assert "in the largest worker" in said
    assert (tmp_path / "out.fits").read_bytes() == reference_run.product


@pytest.mark.timeout(900)
@pytest.mark.parametrize("moments", [MOMENTS[1:2], pytest.param(MOMENTS, marks=pytest.mark.exhaustive)])
def test_kill_the_client_of_a_cluster(
    tmp_path: Path, fork_server: ForkServer, reference_run: ReferenceRun, moments: tuple[int, ...]
) -> None:
    """It is scheduler and nanny of the workers as well, which end with it."""
    job(reference_run.files, tmp_path)
    for moment in moments:
        on_a_cluster(tmp_path, "kind: processes", "workers: 2")
        running = fork_server.start(tmp_path)
        wait_for(lambda moment=moment: written(tmp_path) >= moment)  # type: ignore[misc]
        workers = workers_of(running.pid)
        os.kill(running.pid, signal.SIGKILL)
        assert running.ends() == -signal.SIGKILL
        assert not psutil.wait_procs(workers, timeout=30)[1]
    on_threads(tmp_path)
    assert_resumes(tmp_path, fork_server, reference_run)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("number", "code"), [("INT", 130), pytest.param("HUP", 75, marks=pytest.mark.exhaustive)]
)
def test_signals_to_all_processes_of_a_cluster(
    tmp_path: Path, fork_server: ForkServer, reference_run: ReferenceRun, number: str, code: int
) -> None:
    """A terminal or a batch system sends signals to the workers, too, which finish their blocks."""
    job(reference_run.files, tmp_path)
    on_a_cluster(tmp_path, "kind: processes", "workers: 2")
    running = fork_server.start(tmp_path)
    wait_for(lambda: written(tmp_path) >= 1)
    workers = workers_of(running.pid)
    assert len(workers) == 2
    os.killpg(running.pid, signal.Signals[f"SIG{number}"])
    assert running.ends() == code, (tmp_path / "log.txt").read_text()
    assert not [p for p in workers if p.is_running()]
    (done,) = (x for x in (tmp_path / "log.txt").read_text().splitlines() if "blocks:" in x)
    assert f" {recorded(tmp_path)} done" in done, "blocks in flight are finished"
    on_threads(tmp_path)
    assert_resumes(tmp_path, fork_server, reference_run)


# A cluster that is running already


class Elsewhere:
    """A scheduler, and workers with nannies, each in a process of its own."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder, self._stack = folder, stack
        where = folder / "where"
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", str(where))
        wait_for(lambda: where.exists() and where.read_text().endswith("}"))
        self.address = json.loads(where.read_text())["address"]

    def worker(self) -> psutil.Process:
        """Start a nanny, and wait for its worker."""
        nanny = self._start("worker", self.address, "--nthreads", "1")
        wait_for(lambda: started(workers_of(nanny.pid)))
        return nanny

    def _start(self, what: str, *arguments: str) -> psutil.Process:
        command = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.dask_{what}", "--no-dashboard"]
        with (self._folder / "cluster.txt").open("ab") as log:
            made = self._stack.enter_context(
                subprocess.Popen([*command, *arguments], stdout=log, stderr=log, cwd=self._folder)
            )
        process = psutil.Process(made.pid)
        self._stack.callback(end, process)
        return process


def end(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            each.kill()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Elsewhere]:
    with contextlib.ExitStack() as stack:
        yield Elsewhere(tmp_path, stack)


@pytest.mark.timeout(900)
def test_a_worker_and_its_nanny_that_stop_for_ever(
    tmp_path: Path, fork_server: ForkServer, reference_run: ReferenceRun, elsewhere: Elsewhere
) -> None:
    """Nobody can restart the worker; it is removed, and others compute its blocks."""
    job(reference_run.files, tmp_path)
    frozen, other = elsewhere.worker(), elsewhere.worker()
    on_a_cluster(tmp_path, "kind: address", f"address: {elsewhere.address}", "block_timeout: 1s", "wait: 2s")
    running = fork_server.start(tmp_path)
    wait_for(lambda: written(tmp_path) >= MOMENTS[0])
    signal_all([frozen, *workers_of(frozen.pid)], signal.SIGSTOP)
    wait_for(lambda: written(tmp_path) >= MOMENTS[1])
    other.kill()  # the other nanny; its worker ends with it
    assert running.ends() == 1
    said = (tmp_path / "log.txt").read_text()
    assert "which is given up" in said
    assert "lucidcube: no workers left: the scheduler at tcp://" in said
    assert "finished blocks are kept" in said
    assert "Traceback" not in said
    on_threads(tmp_path)
    assert_resumes(tmp_path, fork_server, reference_run)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "text"),
    [("KILL", "the connection to the dask scheduler was lost"), ("STOP", "has not answered for 2 s")],
)
def test_the_end_of_a_scheduler(
    tmp_path: Path,
    fork_server: ForkServer,
    reference_run: ReferenceRun,
    elsewhere: Elsewhere,
    name: str,
    text: str,
) -> None:
    job(reference_run.files, tmp_path)
    elsewhere.worker()
    timeout = {"KILL": 90, "STOP": 2}[name]
    on_a_cluster(tmp_path, "kind: address", f"address: {elsewhere.address}", f"worker_timeout: {timeout}s")
    running = fork_server.start(tmp_path)
    wait_for(lambda: written(tmp_path) >= 1)
    signal_all([elsewhere.scheduler], signal.Signals[f"SIG{name}"])
    assert running.ends() == 1
    said = (tmp_path / "log.txt").read_text()
    assert text in said
    assert "finished blocks are kept" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out.fits").exists()
    on_threads(tmp_path)
    assert_resumes(tmp_path, fork_server, reference_run)


# A disk that is full


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_file_system(tmp_path: Path, fork_server: ForkServer, reference_run: ReferenceRun) -> None:
    job(reference_run.files, tmp_path)
    work = tmp_path / "target.work"
    work.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k,mode=0700", "tmpfs", str(work)], capture_output=True
    ).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        assert fork_server.run(tmp_path) == 2
        said = (tmp_path / "log.txt").read_text()
        assert "No space left on device" in said
        assert "Traceback" not in said
        assert 0 < recorded(tmp_path) < BLOCKS
        subprocess.run(["mount", "-o", "remount,size=50m", str(work)], check=True)
        assert_resumes(tmp_path, fork_server, reference_run)
    finally:
        subprocess.run(["umount", "--lazy", str(work)], check=True)


def wait_for(condition: Any, seconds: float = 600) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition was not met in time"
        time.sleep(0.005)
