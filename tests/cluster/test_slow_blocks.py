"""Blocks that take too long: which ones, on which worker, and after which time."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from distributed import Client, LocalCluster

from lucidcube.cluster import Profile, WorkersDied, WorkersLost
from lucidcube.cluster.dask_logs import short_logs
from lucidcube.cluster.dask_workers import DaskWorkers
from lucidcube.cluster.slow_blocks import GROWTH, LONGEST_STEP, Key, Overdue, SlowBlocks

ONE_THREAD = {"a": 1, "b": 1}


def key(block: int, segment: str = "test") -> Key:
    return segment, block, block


def watched(finished: list[float], *, running: int, least: float = 60.0) -> SlowBlocks:
    """Return the times of finished blocks, and blocks 100, 101, ... that are being computed."""
    slow = SlowBlocks(20.0, least)
    for n, seconds in enumerate(finished):
        slow.submitted("test", key(n), 0.0)
        slow.finished(key(n), seconds)
    for n in range(running):
        slow.submitted("test", key(100 + n), 0.001 * n)
    return slow


def overdue_at(slow: SlowBlocks, processing: dict[str, list[Key]], end: float) -> list[Overdue]:
    """Check every 5 s; return what was found first, up to the time `end`."""
    for step in range(int(end / 5) + 1):
        if found := slow.overdue(processing, ONE_THREAD, 5.0 * step):
            return found
    return []


@pytest.mark.parametrize(("finished", "limit"), [([1.0, 2.0, 1.0], 60.0), ([5.0, 9.0, 4.0], 100.0)])
def test_the_limit_is_a_multiple_of_the_median_with_a_floor(finished: list[float], limit: float) -> None:
    processing = {"a": [key(100)]}
    assert overdue_at(watched(finished, running=1), processing, limit) == []
    assert overdue_at(watched(finished, running=1), processing, limit + 5) == [Overdue(key(100), "a", limit)]


@pytest.mark.parametrize(("usual", "blocks", "limit"), [(4.0, 1, 80.0), (4.0, 9, 85.0), (0.1, 2, 4.0)])
def test_a_batch_may_take_little_longer_than_a_block(usual: float, blocks: int, limit: float) -> None:
    slow = watched([usual], running=0, least=1.0)
    slow.submitted("test", key(100), 0.0, blocks)
    assert [each.limit for each in overdue_at(slow, {"a": [key(100)]}, 95)] == [pytest.approx(limit)]


def test_the_time_of_a_task_that_failed_does_not_count() -> None:
    slow = watched([1.0, 1.0], running=1)
    for n in range(200, 203):
        slow.submitted("test", key(n), 0.0, 50)
        slow.finished(key(n), 500.0, 0)
    assert [each.limit for each in overdue_at(slow, {"a": [key(100)]}, 65)] == [60.0]


def test_without_a_finished_block_none_takes_too_long() -> None:
    assert overdue_at(watched([], running=1), {"a": [key(100)]}, 10_000) == []


def test_a_block_that_waits_for_another_one_does_not_take_too_long() -> None:
    slow = watched([1.0], running=3)
    found = overdue_at(slow, {"a": [key(101), key(100)], "b": [key(102)]}, 100)
    assert [(o.key, o.worker) for o in found] == [(key(100), "a"), (key(102), "b")]
    found = [o for step in range(14) for o in slow.overdue({"b": [key(101)]}, ONE_THREAD, 70 + 5.0 * step)]
    assert [o.key for o in found] == [key(101)], "its time begins when it can be computed"


def test_the_time_begins_again_on_another_worker_and_grows() -> None:
    slow = watched([1.0], running=1)
    assert overdue_at(slow, {"a": [key(100)]}, 65)
    times = [t for t in range(70, 400, 5) if slow.overdue({"b": [key(100)]}, ONE_THREAD, t)]
    assert times[0] == 70 + 60 * GROWTH + 5
    assert slow.given_up[key(100)] >= 2


def test_the_time_in_which_the_run_itself_is_stopped_does_not_count() -> None:
    slow, processing = watched([1.0], running=1), {"a": [key(100)]}
    assert not slow.overdue(processing, ONE_THREAD, 0.0)
    assert not slow.overdue(processing, ONE_THREAD, 3600.0)
    assert slow.overdue(processing, ONE_THREAD, 3600.0 + LONGEST_STEP) == []
    found = [t for t in range(3620, 3700, 5) if slow.overdue(processing, ONE_THREAD, t)]
    assert found[0] == pytest.approx(3600 + 60 - LONGEST_STEP, abs=10)


def test_another_segment_has_another_median() -> None:
    slow = watched([100.0] * 5, running=0, least=1.0)
    slow.submitted("next", key(0, "next"), 0.0)
    assert overdue_at(slow, {"a": [key(0, "next")]}, 5000) == []
    slow.submitted("next", key(1, "next"), 5000.0)
    slow.finished(key(1, "next"), 5001.0)
    assert slow.overdue({"a": [key(0, "next")]}, ONE_THREAD, 5005.0)


def test_workers_that_others_use_too_are_left_alone() -> None:
    slow = watched([1.0], running=1)
    assert overdue_at(slow, {"a": [key(100), key(1, "theirs")]}, 1000) == []


# With a scheduler

RELEASED = threading.Event()


def check_for_ever(workers: DaskWorkers) -> None:
    while True:
        workers.check()
        time.sleep(0.1)


def waits(block: int) -> int:
    RELEASED.wait(20 if block == 7 else 0)
    return block


@pytest.fixture
def client() -> Iterator[Client]:
    """Start two workers inside this process, which nobody restarts."""
    RELEASED.clear()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made
        RELEASED.set()


@pytest.mark.timeout(60)
def test_tasks_that_no_worker_needs_yet_wait_in_the_scheduler(client: Client) -> None:
    """Dask would deal them out in turn if each had a group of its own, also to workers that are slower."""
    workers, scheduler = DaskWorkers(client), client.cluster.scheduler
    futures = [workers.submit("test", block, waits, 7) for block in range(12)]
    given, deadline = [0], time.monotonic() + 20
    while sum(given) + len(scheduler.queued) < len(futures) and time.monotonic() < deadline:
        time.sleep(0.01)
        given = [len(worker.processing) for worker in scheduler.workers.values()]
    waiting = len(scheduler.queued)
    RELEASED.set()
    assert given == [2, 2]
    assert waiting == len(futures) - sum(given)


@pytest.mark.timeout(200)
def test_a_block_that_hangs_is_given_up_on_each_worker(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is computed by the other worker; after the last attempt it has failed."""
    monkeypatch.setattr("lucidcube.cluster.slow_blocks.GROWTH", 1)
    monkeypatch.setattr("lucidcube.cluster.dask_workers.ATTEMPTS", 2)
    workers = DaskWorkers(client, timeout=0.0, profile=Profile(kind="processes", block_timeout="1s"))
    assert workers.result(workers.submit("test", 1, waits, 1)) == 1
    future = workers.submit("test", 7, waits, 7)
    with pytest.raises(WorkersLost, match="no workers left"):
        check_for_ever(workers)
    assert caplog.text.count("block 7 takes more than 1 s on ") == 2
    with pytest.raises(WorkersDied, match="given up 2 times.* set block_timeout in the profile"):
        workers.result(future)


@pytest.mark.timeout(200)
def test_other_blocks_do_not_wait_for_a_worker_that_is_restarted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted, go_on = threading.Event(), threading.Event()

    def restart(*_: object, **__: object) -> None:
        restarted.set()
        go_on.wait(60)

    monkeypatch.setattr(client, "restart_workers", restart)
    workers = DaskWorkers(client, profile=Profile(kind="processes", block_timeout="1s"))
    assert workers.result(workers.submit("test", 1, waits, 1)) == 1
    slow = workers.submit("test", 7, waits, 7)
    while not restarted.is_set():
        workers.check()
        time.sleep(0.1)
    assert workers.result(workers.submit("test", 2, waits, 2)) == 2
    workers.check()
    assert not go_on.is_set()
    RELEASED.set()
    assert workers.result(slow) == 7
    go_on.set()


def test_tracebacks_of_dask_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("distributed", "tornado"):
        log, shown = logging.getLogger(name), logging.StreamHandler(sys.stderr)
        log.addHandler(shown)
        with short_logs():
            try:
                raise TimeoutError("too late")
            except TimeoutError:
                log.error("", exc_info=True)
                log.error("one\ntwo", exc_info=True)
        log.error("after\nall")
        log.removeHandler(shown)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "one" in line or "TimeoutError" in line]
    assert not [line for line in said if line in ("two",) or "Traceback" in line]
    assert "all" in said
