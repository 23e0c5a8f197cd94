"""Computation of blocks: a bounded window, a retry, failures, and lost workers."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from dask.local import SynchronousExecutor
from distributed import Client, LocalCluster

from lucidcube.cluster import Profile, Workers, WorkersLost, start_workers
from lucidcube.cluster.client import DaskWorkers
from lucidcube.cube import DATA, PSF, PSF_PLANE, WAVELENGTH, from_arrays
from lucidcube.errors import BlocksFailed, CubeError, StageError
from lucidcube.kernels.fourier.convolver import EngineName
from lucidcube.kernels.fourier.engines import current_engine
from lucidcube.lift.blocks import over_blocks
from lucidcube.runner import compute
from lucidcube.runner.compute import BlockComputer, SegmentGraph, compute_batch, compute_block
from lucidcube.runner.engines import Engines
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.signals import Stop, Stopped

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


def brightest(position: np.ndarray, data: np.ndarray, psf: np.ndarray) -> np.ndarray:
    return np.array([int(psf.max())])


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


def test_blocks_with_an_array_in_memory(workers: Workers) -> None:
    cube = from_arrays(da.zeros((BLOCKS, 3, 3), chunks=(1, 3, 3)), np.arange(1.0, BLOCKS + 1))
    cube[PSF] = (WAVELENGTH, *PSF_PLANE), np.arange(BLOCKS * 200.0**2).reshape(BLOCKS, 200, 200)
    computer = BlockComputer(workers, Monitor(), Stop(), Summary(None))  # type: ignore[arg-type]
    lazy = over_blocks(cube, brightest, [DATA, PSF], "int64")
    made = computer.compute("target: test", lazy, range(BLOCKS))
    assert sorted(made) == [(i, 40_000 * (i + 1) - 1) for i in range(BLOCKS)]


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


# Batches


def many(function: Any, blocks: int = 300) -> da.Array:
    planes = da.zeros((blocks, 3, 3), chunks=(1, 3, 3), dtype="float32")
    return over_blocks(from_arrays(planes, np.arange(1.0, blocks + 1)), function, [DATA], "object")


def one_of_each(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Return a number, but fail on planes 3 and 5, the latter with an error that cannot be pickled."""
    if position[0] == 3:
        raise StageError("sharpen", "plane 3", "no way")
    if position[0] == 5:
        raise type("Local", (Exception,), {})("not here")
    if position[0] == 7:
        raise CubeError("a mistake")
    return number(position, data)


def planes(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    made = np.empty(1, object)
    made[0] = (position, np.zeros((400, 400), np.float32))
    return made


def now_and_then(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    with Tally.lock:
        Tally.started += 1
    if position[0] == 200:
        raise StageError("sharpen", "plane 200", "no way")
    return position[:1]


class Recorder(DaskWorkers):
    """Workers that note the batches that are submitted."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.batches: list[tuple[int, int]] = []

    def submit(self, name: str, block: int, *arguments: Any, blocks: int = 1) -> Any:
        self.batches.append((block, blocks))
        return super().submit(name, block, *arguments, blocks=blocks)


def run_many(workers: Workers, lazy: da.Array, stop: Stop | None = None) -> Iterator[tuple[int, Any]]:
    computer = BlockComputer(workers, Monitor(), stop or Stop(), Summary(None))  # type: ignore[arg-type]
    return computer.compute("target: test", lazy, range(lazy.shape[0]))


def test_a_failure_is_a_record_and_the_other_blocks_of_its_batch_count() -> None:
    results = compute_batch(SegmentGraph(many(one_of_each)), range(2, 7), Engines(), False)
    assert [(r.block, r.item) for r in results.records if r.error is None] == [(2, 20), (4, 40), (6, 60)]
    errors = {r.block: r for r in results.records if r.error is not None}
    assert str(errors[3].error) == "stage sharpen failed on plane 3: no way"
    assert "not here" in str(errors[5].error)
    assert "in one_of_each" in errors[3].traceback
    assert dask.utils.funcname(type(cloudpickle.loads(cloudpickle.dumps(results)))) == "Results"


def test_a_batch_ends_at_a_mistake_of_the_user() -> None:
    results = compute_batch(SegmentGraph(many(one_of_each)), range(6, 12), Engines(), False)
    assert [r.block for r in results.records] == [6, 7]
    assert isinstance(results.records[-1].error, CubeError)


def test_a_batch_begins_no_block_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "BATCH_SECONDS", 0.035)
    results = compute_batch(SegmentGraph(work(slowly)), range(12), Engines(), False)
    assert 1 <= len(results.records) <= 5
    monkeypatch.setattr(compute, "BATCH_SECONDS", 0.0)
    assert len(compute_batch(SegmentGraph(work(slowly)), range(12), Engines(), False).records) == 1


def test_a_batch_with_large_results_ends_early() -> None:
    """Planes that are sent to this process, 640 kB each, do not collect in the worker."""
    assert len(compute_batch(SegmentGraph(many(planes)), range(12), Engines(), False).records) == 2


def test_batches_cover_all_blocks_and_need_few_tasks(client: Client) -> None:
    workers = Recorder(client)
    assert sorted(run_many(workers, many(number))) == [(n, 10 * n) for n in range(300)]
    assert sum(size for _, size in workers.batches) == 300
    assert workers.batches[0] == (0, 1), "no time is known yet"
    assert max(size for _, size in workers.batches) > 20
    assert len(workers.batches) < 60


def test_only_the_block_that_fails_is_repeated(client: Client) -> None:
    workers, done = Recorder(client), []
    with pytest.raises(BlocksFailed) as caught:
        done.extend(run_many(workers, many(now_and_then)))
    assert [failure.block for failure in caught.value.failures] == [200]
    assert sorted(n for n, _ in done) == [n for n in range(300) if n != 200]
    assert Tally.started == 301
    assert workers.batches[-1] == (200, 1), "after the others, and alone"


def test_results_that_are_large_are_not_collected(client: Client) -> None:
    assert sorted(n for n, _ in run_many(DaskWorkers(client), many(planes, 30))) == [*range(30)]


def test_a_stop_does_not_wait_for_long_batches(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks that were computed count, those of the batch that were not begun are left."""
    monkeypatch.setattr(compute, "BATCH_SECONDS", 0.1)
    monkeypatch.setattr("lucidcube.runner.batches.SECONDS", (60.0, 60.0))
    stop, workers = Stop(), Recorder(client)
    results = run_many(workers, many(slowly, 2000), stop)
    done = [block for block, _ in itertools.islice(results, 30)]
    stop.request(signal.SIGTERM)
    stopped = time.monotonic()
    with pytest.raises(Stopped):
        done.extend(block for block, _ in results)
    assert max(size for _, size in workers.batches) > 100, "a second or more"
    assert time.monotonic() - stopped < 5
    assert len({*done}) == len(done) == Tally.started


def test_tasks_are_named_by_track_and_stage(client: Client) -> None:
    """The scheduler, and so its dashboard, counts the tasks of a segment under its name."""
    computer = BlockComputer(DaskWorkers(client), Monitor(), Stop(), Summary(None))  # type: ignore[arg-type]
    assert len([*computer.compute("star: noise, fit_psf", many(number), range(300))]) == 300
    assert "star: noise, fit_psf" in client.cluster.scheduler.task_prefixes


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_block_that_kills_workers_costs_few_other_blocks() -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        start_workers(Profile(kind="processes", workers=1, memory="700MiB")) as made,
    ):
        workers, done = made, []
        submitted = workers.submit
        batches: list[int] = []

        def submit(*arguments: Any, blocks: int = 1) -> Any:
            batches.append(blocks)
            return submitted(*arguments, blocks=blocks)

        workers.submit = submit  # type: ignore[method-assign]
        with pytest.raises(BlocksFailed) as caught:
            done.extend(run_many(workers, many(ends_worker_later, 60)))
    assert max(batches) > 5
    failed = {failure.block for failure in caught.value.failures}
    assert 40 in failed
    # With no failure allowed, single blocks that wait on the worker each time it ends fail, too.
    assert len(failed) <= 8
    assert sorted([*failed, *(n for n, _ in done)]) == [*range(60)]


def ends_worker_later(position: np.ndarray, data: np.ndarray) -> np.ndarray:
    if position[0] == 40:
        os._exit(1)
    return position[:1]
