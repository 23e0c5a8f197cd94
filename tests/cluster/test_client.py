"""Where a run executes: profiles, and executors that compute a few blocks at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_info

from lucidcube.cluster import PROFILES, Executor, Profile, Threads, WorkerLost, cores, executor, load_profile
from lucidcube.cluster.client import Distributed
from lucidcube.cube import DATA, from_arrays
from lucidcube.errors import ConfigError, StageError
from lucidcube.lift.blocks import over_blocks

BLOCKS = 12


class Tally:
    """How many blocks were at work at once, in this process."""

    lock: ClassVar = threading.Lock()
    now: ClassVar[int] = 0
    most: ClassVar[int] = 0
    started: ClassVar[int] = 0


def number(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    return np.array([int(position[0]) * 10])


def slowly(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    with Tally.lock:
        Tally.started += 1
        Tally.now += 1
        Tally.most = max(Tally.most, Tally.now)
    time.sleep(0.01)
    with Tally.lock:
        Tally.now -= 1
    return np.array([int(position[0])])


def failing(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    if position[0] == 5:
        raise StageError("sharpen", "plane 5", "no way")
    return np.array([1])


def work(function: Any) -> da.Array:
    planes = da.zeros((BLOCKS, 3, 3), chunks=(1, 3, 3), dtype="float32")
    return over_blocks(from_arrays(planes, np.arange(1.0, BLOCKS + 1)), function, [DATA], "int64")


def surroundings(block: np.ndarray) -> np.ndarray:
    """Where a block is computed: environment and limits of the worker."""
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
    memory = [dask.config.get(f"distributed.worker.memory.{n}") for n in ("spill", "pause", "terminate")]
    found = [*(os.environ.get(name) for name in names), *memory]
    return np.array([";".join(map(str, found))], dtype=object)


def deadly(block: np.ndarray) -> np.ndarray:
    os._exit(1)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Tally.now = Tally.most = Tally.started = 0


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A cluster inside this process: quick to start, and its threads can be watched."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as made,
    ):
        yield made


@pytest.fixture(params=["synchronous", "threads", "distributed"])
def workers(request: pytest.FixtureRequest) -> Executor:
    if request.param == "distributed":
        return Distributed(request.getfixturevalue("client"))
    return Threads(1 if request.param == "synchronous" else 3)


def test_threads_do_without_distributed_and_leave_its_settings_whole() -> None:
    program = """
import sys
import dask.array as da
from lucidcube.cluster import executor, load_profile

if __name__ == "__main__":
    with executor(load_profile("laptop")) as workers:
        assert da.ones(3).sum().compute() == 3
        list(workers.compute(da.ones(3, chunks=1), [0, 1, 2]))
    assert "distributed" not in sys.modules
    with executor(load_profile("processes")) as workers:
        print(sorted(workers.compute(da.ones(3, chunks=1), [0, 1, 2])))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("np.float64(1.0)") == 3


def test_every_block_comes_once(workers: Executor) -> None:
    assert sorted(workers.compute(work(number), range(BLOCKS))) == [(i, i * 10) for i in range(BLOCKS)]


def test_only_the_blocks_that_were_asked_for(workers: Executor) -> None:
    assert sorted(workers.compute(work(slowly), [7, 2, 11])) == [(2, 2), (7, 7), (11, 11)]
    assert Tally.started == 3


def test_nothing_to_do(workers: Executor) -> None:
    assert [*workers.compute(work(slowly), [])] == []
    assert not Tally.started


def test_no_more_at_once_than_there_are_workers(workers: Executor) -> None:
    for _ in workers.compute(work(slowly), range(BLOCKS)):
        pass
    assert Tally.most <= workers.workers
    assert Tally.started == BLOCKS


def test_blocks_are_not_begun_long_before_they_are_wanted(workers: Executor) -> None:
    results = workers.compute(work(slowly), range(BLOCKS))
    next(results)
    time.sleep(0.15)
    assert Tally.started <= 2 * workers.workers + 2
    assert len([*results]) == BLOCKS - 1


@pytest.mark.timeout(30)
def test_a_failure_comes_out_and_nothing_hangs(workers: Executor) -> None:
    done = []
    with pytest.raises(StageError) as caught:
        done.extend(workers.compute(work(failing), range(BLOCKS)))
    assert str(caught.value) == "stage sharpen failed on plane 5: no way"
    assert sorted(workers.compute(work(number), range(3))) == [(0, 0), (1, 10), (2, 20)]


@pytest.mark.timeout(30)
def test_leaving_early_stops_the_rest(workers: Executor) -> None:
    results = workers.compute(work(slowly), range(BLOCKS))
    next(results)
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.1)
    assert Tally.started < BLOCKS
    assert not Tally.now


def test_futures_are_given_back(client: Client) -> None:
    before = {*client.futures}
    for _ in Distributed(client).compute(work(number), range(BLOCKS)):
        pass
    deadline = time.monotonic() + 5
    while {*client.futures} - before and time.monotonic() < deadline:
        time.sleep(0.01)  # they are given back by another thread
    assert {*client.futures} <= before


# Profiles


def test_built_in_profiles() -> None:
    assert load_profile("laptop").kind == "threads"
    assert {*PROFILES} >= {"laptop", "processes", "synchronous"}
    assert load_profile("tcp://10.0.0.1:8786") == Profile(kind="address", address="tcp://10.0.0.1:8786")


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
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
def test_a_wrong_profile(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path))
    assert all(str(path) in p and "\n" not in p for p in caught.value.problems)
    assert said in str(caught.value)


def test_no_such_profile() -> None:
    with pytest.raises(ConfigError, match="did you mean 'synchronous'"):
        load_profile("synchronus")


def test_workers_by_profile() -> None:
    assert cores() >= 1
    for profile, count in (
        (Profile(), cores()),
        (Profile(workers=5), 5),
        (Profile(kind="synchronous", workers=5), 1),
    ):
        with executor(profile) as made:
            assert made.workers == count
            assert sorted(made.compute(work(number), [1, 2])) == [(1, 10), (2, 20)]


@pytest.mark.timeout(30)
def test_a_running_scheduler(client: Client) -> None:
    address = client.scheduler_info()["address"]
    with executor(Profile(kind="address", address=address)) as made:
        assert made.workers == 2
        assert sorted(made.compute(work(number), [1, 2])) == [(1, 10), (2, 20)]
    assert client.nthreads(), "the scheduler was shut down with the run"


@pytest.mark.timeout(60)
def test_a_scheduler_that_is_not_there() -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ConfigError, match="tcp://127"),
        executor(Profile(kind="address", address="tcp://127.0.0.1:9")),
    ):
        pass


def test_one_level_of_parallelism() -> None:
    with executor(Profile(workers=2)):
        assert all(pool["num_threads"] == 1 for pool in threadpool_info())


@pytest.mark.timeout(120)
def test_worker_processes() -> None:
    """Pinned, limited, on no disk; and when they die of a block, that block and the limit are named."""
    lazy = da.zeros(3, chunks=1)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        executor(Profile(kind="processes", workers=1, memory="700MiB")) as made,
    ):
        ((_, found),) = made.compute(
            lazy.map_blocks(surroundings, dtype=object, meta=np.array([], object)), [0]
        )
        assert found == "1;1;65536;False;False;0.95"
        with pytest.raises(WorkerLost) as caught:
            [*made.compute(lazy.map_blocks(deadly, dtype="f8", meta=np.array([])), [2])]
    assert caught.value.block == 2
    assert "block 2" in str(caught.value)
    assert "700.00 MiB" in str(caught.value)


def late(block: np.ndarray) -> np.ndarray:
    raise TimeoutError("the disk sleeps")


@pytest.mark.timeout(30)
def test_a_block_that_timed_out_by_itself(workers: Executor) -> None:
    with pytest.raises(TimeoutError, match="the disk sleeps"):
        list(workers.compute(da.zeros(3, chunks=1).map_blocks(late, dtype="f8", meta=np.array([])), [1]))


@pytest.mark.timeout(60)
def test_no_workers_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucidcube.cluster.client.LOOK", 0.1)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        made = Distributed(client, patience=0.3, reason=lambda: "the queue is closed")
        results = made.compute(work(slowly), range(BLOCKS))
        next(results)
        cluster.scale(0)
        with pytest.raises(WorkerLost, match="no workers left: the queue is closed"):
            list(results)


@pytest.mark.timeout(60)
def test_a_scheduler_without_workers() -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0", scheduler_port=0) as cluster:
        address = cluster.scheduler_address
        with (
            pytest.raises(ConfigError, match="no worker within 1s: the scheduler at"),
            executor(Profile(kind="address", address=address, wait="1s")),
        ):
            pass
