"""Profiles and the workers that they start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_info

from lucidcube.cluster import PROFILES, Profile, Workers, load_profile, start_workers
from lucidcube.cluster.client import start_cluster
from lucidcube.cluster.jobqueue import WORKER_ENVIRONMENT
from lucidcube.cluster.resources import available_resources
from lucidcube.errors import ConfigError


def number(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    return np.array([int(position[0]) * 10])


def environment() -> str:
    """Return the environment and the limits of a worker process."""
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    memory = [dask.config.get(f"distributed.worker.memory.{n}") for n in ("spill", "pause", "terminate")]
    return ";".join(map(str, [*(os.environ.get(name) for name in names), *memory]))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Start a cluster inside this process."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made


def results(workers: Workers, *numbers: int) -> list[int]:
    futures = [workers.submit("test", n, lambda n=n: 10 * n) for n in numbers]
    return [workers.result(future) for future in futures]


TWICE = """
import sys
import warnings
import dask.array as da
from lucidcube.cluster import load_profile, start_workers

if __name__ == "__main__":
    with start_workers(load_profile("laptop")) as workers:
        assert da.ones(3).sum().compute() == 3
        assert workers.result(workers.submit("one", 0, abs, -1)) == 1
    assert "distributed" not in sys.modules
    for _ in range(2):
        with start_workers(load_profile("processes")) as workers:
            print(workers.result(workers.submit("one", 0, abs, -7)))
"""


@pytest.mark.slow
def test_two_runs_in_one_process_without_warnings() -> None:
    """Threads do not import distributed; worker processes can be started twice and end without warnings."""
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["7", "7"]
    assert done.stderr == ""


# Profiles


def test_built_in_profiles() -> None:
    assert load_profile("laptop").kind == "threads"
    assert {*PROFILES} >= {"laptop", "processes", "synchronous"}
    assert load_profile("tcp://10.0.0.1:8786") == Profile(kind="address", address="tcp://10.0.0.1:8786")


def test_a_profile_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("kind: processes\nworkers: 3\nmemory: 2GiB\n")
    assert load_profile(str(path)) == Profile(kind="processes", workers=3, memory="2GiB")
    path.write_text("")
    assert load_profile(str(path)) == Profile()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workers: 0", "workers"),
        ("kind: cloud", "kind"),
        ("wokers: 3", "wokers"),
        ("a: [", "not YAML"),
        ("[1, 2]", "mine.yaml"),
        ("kind: address", "address"),
        ("memory: lots", "memory"),
    ],
)
def test_invalid_profile_files(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path))
    assert all(str(path) in p and "\n" not in p for p in caught.value.problems)
    assert said in str(caught.value)


@pytest.mark.slow
def test_a_worker_that_stops_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process starts within 10 ms, so that this one looks like a stopped one."""
    monkeypatch.setattr("lucidcube.cluster.client.parse_duration", lambda text: 0.01)
    profile = Profile(kind="processes", workers=1, memory="700MiB", start_timeout="1s")
    with (
        pytest.raises(ConfigError, match=r"did not start within 1s \(start_timeout\)"),
        start_workers(profile),
    ):
        pass


def test_unknown_profiles_are_errors() -> None:
    with pytest.raises(ConfigError, match="did you mean 'synchronous'"):
        load_profile("synchronus")


def test_workers_by_profile() -> None:
    cores = available_resources().cores
    assert cores >= 1
    for profile, count in (
        (Profile(), cores),
        (Profile(workers=5), 5),
        (Profile(kind="synchronous", workers=5), 1),
    ):
        with start_workers(profile) as made:
            assert type(made) is Workers
            assert made.threads == count
            assert results(made, 1, 2) == [10, 20]


@pytest.mark.timeout(200)
def test_a_running_scheduler(client: Client) -> None:
    address = client.scheduler_info()["address"]
    with start_workers(Profile(kind="address", address=address)) as made:
        assert made.window == 4
        assert results(made, 1, 2) == [10, 20]
    assert client.nthreads(), "the run shut down the scheduler"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_unreachable_scheduler_is_an_error() -> None:
    before = {*threading.enumerate()}
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ConfigError, match="tcp://127"),
        start_workers(Profile(kind="address", address="tcp://127.0.0.1:9")),
    ):
        pass
    assert not [t.name for t in {*threading.enumerate()} - before if t.name == "IO loop"]


def test_one_level_of_parallelism() -> None:
    with start_workers(Profile(workers=2)):
        assert all(pool["num_threads"] == 1 for pool in threadpool_info())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_worker_processes_are_pinned_and_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    # A nanny leaves its variables in the environment of the process, where those of another test count first.
    for name in WORKER_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with start_workers(Profile(kind="processes", workers=1, memory="700MiB")) as made:
        assert made.result(made.submit("test", 0, environment)) == "1;1;4194304;8388608;False;False;0.95"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_scheduler_without_workers_is_an_error() -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0", scheduler_port=0) as cluster:
        address = cluster.scheduler_address
        with (
            pytest.raises(ConfigError, match="no worker within 1s: the scheduler at"),
            start_workers(Profile(kind="address", address=address, wait="1s")),
        ):
            pass


def test_runs_that_overlap_leave_no_default_scheduler() -> None:
    """The first of two runs may end first; what is computed after both needs no client."""
    first, second = ExitStack(), ExitStack()
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        for stack in (first, second):
            start_cluster(stack, Profile(kind="address", address=cluster.scheduler_address))
        assert dask.config.get("scheduler", None) is None
        first.close()
        second.close()
    assert da.ones(3).sum().compute() == 3
