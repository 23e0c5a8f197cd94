"""Nobody but the run can use its scheduler and workers."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

from lucidcube.cluster import load_profile, start_workers
from lucidcube.cluster.client import DaskWorkers
from lucidcube.cluster.credentials import for_jobs, from_folder, in_memory, write_folder
from lucidcube.cluster.profile import Profile
from lucidcube.cluster.slurm_runner import serve, start_runner
from lucidcube.errors import ConfigError

ATTACK = """
import contextlib, os, sys
import dask
from distributed import Client
from distributed.security import Security

uid, protocol, address = int(sys.argv[1]), sys.argv[2], sys.argv[3]
security = Security.temporary() if protocol == "tls" else None
dask.config.set({"distributed.comm.timeouts.connect": "2s", "distributed.comm.retry.count": 0})
if uid:
    # Import what a connection needs, because the other user may not read the installed packages.
    with contextlib.suppress(OSError, TypeError), Client(f"{protocol}://127.0.0.1:1", security=security, timeout="1s"):
        pass
    os.setgid(uid)
    os.setuid(uid)
try:
    with Client(f"{protocol}://{address}", security=security, timeout="2s") as client:
        print("executed as", client.run_on_scheduler(os.getuid))
except (OSError, TypeError) as error:
    print("refused", type(error).__name__)
"""


def attack(protocol: str, address: str, uid: int = 0) -> str:
    """Run a function on a scheduler or worker from another process; return what came of it."""
    words = [sys.executable, "-W", "ignore", "-c", ATTACK, str(uid), protocol, address.partition("://")[2]]
    # Another user cannot read the folder of the tests or write to the home of this one.
    environ = os.environ | {"HOME": "/tmp", "DASK_CONFIG": "/nowhere"}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, cwd="/", env=environ, check=False
    )
    assert done.stdout, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def protected() -> Iterator[DaskWorkers]:
    with start_workers(Profile(kind="processes", workers=1, threads=1, memory="700MiB")) as workers:
        assert isinstance(workers, DaskWorkers)
        yield workers


def addresses(workers: DaskWorkers) -> list[str]:
    """Return the addresses at which the scheduler, a worker and its nanny listen."""
    info = workers.client.scheduler_info()
    (worker,) = info["workers"].values()
    return [info["address"], worker["nanny"], *info["workers"]]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_a_process_without_the_key_runs_nothing(protected: DaskWorkers, protocol: str) -> None:
    """Neither without TLS nor with credentials of its own."""
    for address in addresses(protected):
        assert address.startswith("tls://127.0.0.1:")
        assert attack(protocol, address).startswith("refused"), address
    assert protected.result(protected.submit("test", 0, abs, -3)) == 3


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")
def test_another_user_runs_nothing(protected: DaskWorkers) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    address = protected.client.scheduler_info()["address"]
    assert {attack(p, address, nobody).split()[0] for p in ("tcp", "tls")} == {"refused"}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_attack_succeeds_without_protection() -> None:
    """Otherwise the tests above would prove nothing."""
    with start_workers(Profile(kind="processes", workers=1, memory="700MiB", security="none")) as workers:
        address = workers.client.scheduler_info()["address"]  # type: ignore[attr-defined]
        assert address.startswith("tcp://127.0.0.1:")
        assert attack("tcp", address) == f"executed as {os.getuid()}"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_of_a_local_run_listens_elsewhere(protected: DaskWorkers) -> None:
    """All sockets are those of this machine only, and there is no page to read."""
    import psutil

    here = psutil.Process()
    listening = [
        c.laddr
        for p in (here, *here.children(recursive=True))
        for c in p.net_connections("inet")
        if c.status == "LISTEN"
    ]
    assert len(listening) >= 3
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert protected.dashboard is None
    assert protected.client.cluster.scheduler.http_application.applications == []


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_dashboard_is_served_where_it_is_asked_for() -> None:
    pytest.importorskip("bokeh")
    with start_workers(Profile(kind="processes", workers=1, memory="700MiB", dashboard=True)) as workers:
        assert str(workers.dashboard).startswith("http://127.0.0.1:")


# A scheduler that is running already


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Start a scheduler with TLS in this process; return its address and the folder of its keys."""
    folder = tmp_path_factory.mktemp("keys")
    folder.chmod(0o700)
    write_folder(folder)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0",
        security=from_folder(folder), protocol="tls://", host="127.0.0.1",
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address, folder


def with_keys(address: str, folder: Path) -> dict[str, Any]:
    certificate = str(folder / "certificate.pem")
    files = {"tls_ca": certificate, "tls_cert": certificate, "tls_key": str(folder / "key.pem")}
    return {"kind": "address", "address": address, **files}


@pytest.mark.timeout(200)
def test_a_running_scheduler_with_certificates(
    running: tuple[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    address, folder = running
    with start_workers(Profile(**with_keys(address, folder))) as workers:
        assert workers.result(workers.submit("test", 0, abs, -5)) == 5
    assert not [r for r in caplog.records if r.name.startswith("lucidcube")]


@pytest.mark.timeout(200)
def test_a_connection_without_certificates_warns(caplog: pytest.LogCaptureFixture) -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(ConfigError),
        start_workers(Profile(kind="address", address="tcp://127.0.0.1:9")),
    ):
        pass
    assert "tcp://127.0.0.1:9 is not protected" in caplog.text


@pytest.mark.timeout(200)
def test_a_scheduler_with_certificates_needs_them(running: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = running
    with (
        pytest.raises(ConfigError, match="no dask scheduler at tls"),
        start_workers(Profile(kind="address", address=address)),
    ):
        pass
    missing = Profile(**with_keys(address, folder) | {"tls_key": str(tmp_path / "none.pem")})
    with pytest.raises(ConfigError, match="tls_key: there is no file"), start_workers(missing):
        pass


# Keys in files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_of_jobs_are_private_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "obs.work"
    left = work / "tls-killed"
    left.mkdir(mode=0o700, parents=True)
    with ExitStack() as stack:
        security = for_jobs(stack, work)
        (folder,) = work.glob("tls-*")
        assert folder != left
        assert mode(folder) == 0o700
        assert {mode(file) for file in folder.iterdir()} == {0o600}
        assert security.tls_worker_key == str(folder / "key.pem")
        assert security.require_encryption
    assert not [*work.iterdir()]


@pytest.mark.parametrize(("work", "parent"), [("a b/obs.work", "obs.work"), ("a b/my obs", "."), (None, ".")])
def test_paths_of_keys_need_no_quotes(
    work: str | None, parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line of a job contains them as they are; jobs start in the present directory."""
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    with ExitStack() as stack:
        key = Path(str(for_jobs(stack, None if work is None else tmp_path / work).tls_worker_key))
        assert key.is_file()
        assert " " not in str(key)
        assert key.parent.parent == Path(parent)
    assert not key.exists()


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tls-open"
    folder.mkdir(mode=0o700)
    write_folder(folder)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="only you can read"):
        from_folder(folder)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match="security: none") as caught:
        in_memory()
    assert "\n" not in str(caught.value)


def test_jobs_get_the_paths_of_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that is submitted names files, and contains no key."""
    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sbatch").write_text('#!/bin/sh\ncp "$1" "$0.$$.script"; echo "Submitted batch job 7"\n')
    (tmp_path / "squeue").write_text("#!/bin/sh\n")
    for name in ("sbatch", "squeue"):
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert dask_jobqueue.SLURMCluster
    # The jobs are looked at several times, because it may take a while until the first has its number.
    monkeypatch.setattr("lucidcube.cluster.client.POLL_INTERVAL", 0.3)
    profile = Profile(kind="slurm", cores=1, memory="1GiB", wait="60s")
    with (
        pytest.raises(ConfigError, match="before a worker started"),
        start_workers(profile, tmp_path / "run.work"),
    ):
        pass
    texts = [path.read_text() for path in tmp_path.glob("sbatch.*.script")]
    commands = [line for text in texts for line in text.splitlines() if "dask_worker" in line]
    assert commands
    for command in commands:
        assert " tls://" in command
        assert f"--tls-key {tmp_path}/run.work/tls-" in command
    assert not any("PRIVATE" in text for text in texts)
    assert not [*(tmp_path / "run.work").glob("tls-*")]


def test_the_tasks_of_an_allocation_share_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler writes them, a worker reads them, and the client removes them."""
    roles: list[dict[str, Any]] = []

    class Runner:
        scheduler_address = "tls://127.0.0.1:1"

        def __init__(self, **options: Any) -> None:
            roles.append(options)

    monkeypatch.setattr("lucidcube.cluster.slurm_runner.import_class", lambda _: Runner)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for name, value in {"SLURM_NTASKS": "3", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    profile, work = Profile(kind="slurm_runner", memory="1GiB", wait="1s"), tmp_path / "work"
    monkeypatch.setenv("SLURM_PROCID", "2")
    with dask.config.set({}), pytest.raises(ConfigError, match="the scheduler has not written"):
        serve(profile, work)
    for task in ("0", "2"):
        monkeypatch.setenv("SLURM_PROCID", task)
        with dask.config.set({}):
            serve(profile, work)
    monkeypatch.setenv("SLURM_PROCID", "1")
    (folder,) = work.iterdir()
    assert folder.name == "tls-12.1.0"
    assert mode(folder) == 0o700
    with ExitStack() as stack:
        _, security = start_runner(profile, work, stack)
        assert security is not None
    assert not folder.exists()
    for options in roles:
        for part in ("scheduler_options", "worker_options"):
            assert options[part]["protocol"] == "tls://"
            assert options[part]["security"].tls_worker_key == str(folder / "key.pem")
            assert options[part]["dashboard_address"] == "127.0.0.1:0"
            assert options[part]["dashboard"] is False


def test_the_client_of_a_local_cluster_by_class(tmp_path: Path) -> None:
    """A LocalCluster that is named by its class is protected like one of kind: processes."""
    path = tmp_path / "mine.yaml"
    path.write_text("class: distributed.LocalCluster\narguments: {n_workers: 1, processes: false}\n")
    with start_workers(load_profile(str(path))) as workers:
        client: Client = workers.client  # type: ignore[attr-defined]
        assert client.scheduler_info()["address"].startswith("tls://127.0.0.1:")
        assert workers.dashboard is None
