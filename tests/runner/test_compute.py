"""Computation of blocks: a bounded window, a retry, failures, and lost workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import dask
import dask.array as da
import numpy as np
import pytest
from dask.local import SynchronousExecutor
from distributed import Client, LocalCluster

from lucidcube.cluster import Profile, Workers, WorkersLost, start_workers
from lucidcube.cluster.client import DaskWorkers
from lucidcube.cube import DATA, from_arrays
from lucidcube.errors import BlocksFailed, StageError
from lucidcube.kernels.fourier.convolver import EngineName
from lucidcube.kernels.fourier.engines import current_engine
from lucidcube.lift.blocks import over_blocks
from lucidcube.runner import compute
from lucidcube.runner.compute import BlockComputer, SegmentGraph, compute_block
from lucidcube.runner.engines import Engines
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.signals import Stop

BLOCKS = 12


class Tally:
    """Number of blocks that are computed at once in this process."""

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


def late(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    raise TimeoutError("the disk sleeps")


def ends_worker(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    if position[0] == 2:
        os._exit(1)
    return np.array([int(position[0])])


def work(function: Any) -> da.Array:
    planes = da.zeros((BLOCKS, 3, 3), chunks=(1, 3, 3), dtype="float32")
    return over_blocks(from_arrays(planes, np.arange(1.0, BLOCKS + 1)), function, [DATA], "int64")


def start(workers: Workers, function: Any, blocks: Sequence[int], stop: Stop | None = None) -> Iterator[Any]:
    computer = BlockComputer(workers, Monitor(), stop or Stop(), Summary(None))  # type: ignore[arg-type]
    return computer.compute("target: test", work(function), blocks, "plane {}".format)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Tally.now = Tally.most = Tally.started = 0


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Start a cluster inside this process, which is fast and whose threads can be observed."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made


@pytest.fixture(params=["synchronous", "threads", "distributed"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    if request.param == "distributed":
        yield DaskWorkers(request.getfixturevalue("client"))
        return
    synchronous = request.param == "synchronous"
    with SynchronousExecutor() if synchronous else ThreadPoolExecutor(3) as executor:
        yield Workers(executor, 1 if synchronous else 3)


def test_every_block_is_computed_once(workers: Workers) -> None:
    assert sorted(start(workers, number, range(BLOCKS))) == [(i, i * 10) for i in range(BLOCKS)]


def test_only_the_requested_blocks_are_computed(workers: Workers) -> None:
    assert sorted(start(workers, slowly, [7, 2, 11])) == [(2, 2), (7, 7), (11, 11)]
    assert Tally.started == 3


def test_no_blocks_to_compute(workers: Workers) -> None:
    assert [*start(workers, slowly, [])] == []
    assert not Tally.started


def test_no_more_blocks_at_once_than_threads(workers: Workers) -> None:
    for _ in start(workers, slowly, range(BLOCKS)):
        pass
    assert Tally.most <= getattr(workers, "threads", 2)
    assert Tally.started == BLOCKS


def test_the_first_block_of_cold_workers_is_computed_alone() -> None:
    with ThreadPoolExecutor(4) as executor:
        workers = Workers(executor, 4, cold=True)
        results = start(workers, slowly, range(BLOCKS))
        next(results)
        assert Tally.started == 1
        assert len(list(results)) == BLOCKS - 1
        assert Tally.most > 1


def test_blocks_are_not_submitted_long_before_they_are_needed(workers: Workers) -> None:
    results = start(workers, slowly, range(BLOCKS))
    next(results)
    time.sleep(0.15)
    assert Tally.started <= workers.window + 1
    assert len([*results]) == BLOCKS - 1


@pytest.mark.timeout(200)
def test_a_failure_does_not_affect_other_blocks(workers: Workers) -> None:
    done = []
    with pytest.raises(BlocksFailed) as caught:
        done.extend(start(workers, failing, range(BLOCKS)))
    assert str(caught.value) == "stage sharpen failed on plane 5: no way"
    assert sorted(n for n, _ in done) == [n for n in range(BLOCKS) if n != 5]
    assert sorted(start(workers, number, range(3))) == [(0, 0), (1, 10), (2, 20)]


@pytest.mark.timeout(200)
def test_closing_the_generator_cancels_the_rest(workers: Workers) -> None:
    results = start(workers, slowly, range(BLOCKS))
    next(results)
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.1)
    assert Tally.started < BLOCKS
    assert not Tally.now


@pytest.mark.timeout(200)
def test_a_timeout_raised_by_a_block_is_a_failure(workers: Workers) -> None:
    with pytest.raises(BlocksFailed, match="failed on plane 1: TimeoutError: the disk sleeps"):
        list(start(workers, late, [1]))


def test_futures_are_released(client: Client) -> None:
    before = {*client.futures}
    for _ in start(DaskWorkers(client), number, range(BLOCKS)):
        pass
    deadline = time.monotonic() + 5
    while {*client.futures} - before and time.monotonic() < deadline:
        time.sleep(0.01)  # another thread releases them
    assert {*client.futures} <= before


def test_task_keys_name_the_segment_and_the_block(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[Any] = []
    submit = client.submit
    monkeypatch.setattr(client, "submit", lambda *a, **k: (keys.append(k["key"]), submit(*a, **k))[1])
    list(start(DaskWorkers(client), number, [3, 4]))
    assert [key[1] for key in keys] == [3, 4]
    assert all(dask.utils.key_split(key) == "target: test" for key in keys)


@pytest.mark.timeout(200)
def test_a_run_without_workers_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "CHECK_INTERVAL", 0.1)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        made = DaskWorkers(client, timeout=0.3, reason=lambda: "the queue is closed")
        results = start(made, slowly, range(BLOCKS))
        next(results)
        cluster.scale(0)
        with pytest.raises(WorkersLost, match="no workers left: the queue is closed"):
            list(results)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_block_that_kills_workers_is_not_retried() -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        start_workers(Profile(kind="processes", workers=1, memory="700MiB")) as made,
    ):
        done = []
        with pytest.raises(BlocksFailed) as caught:
            done.extend(start(made, ends_worker, [1, 2, 3]))
    assert {n for n, _ in done} <= {1, 3}
    assert 2 in {failure.block for failure in caught.value.failures}
    assert "1 workers died while computing it" in str(caught.value)
    assert "700.00 MiB" in str(caught.value)


def test_a_block_is_a_small_part_of_the_graph() -> None:
    lazy = da.arange(100, chunks=1)
    for n in range(3):
        lazy = lazy + n
    graph = SegmentGraph(lazy)
    for block in (99, 0, 50, 31, 32):
        part = graph.block(block)
        assert len(part.graph) <= 4
        assert compute_block(part, Engines(), False)[:2] == (block + 3, 0)
    assert 1 << 20 < compute_block(graph.block(0), Engines(), True)[1] < 1 << 40


def engine_name(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    return np.array([current_engine().name], dtype=object)


@pytest.mark.parametrize("fft", ["simd", "scipy"])
def test_blocks_use_the_engine_of_the_profile(workers: Workers, fft: EngineName) -> None:
    computer = BlockComputer(workers, Monitor(), Stop(), Summary(None), Engines(fft))  # type: ignore[arg-type]
    assert {name for _, name in computer.compute("target: test", work(engine_name), range(4))} == {fft}
