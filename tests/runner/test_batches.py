"""How many blocks a task of a cluster computes: many at first, one at the end, and never for too long."""

from __future__ import annotations

import itertools

import pytest

from lucidcube.runner.batches import MOST, SECONDS, Batch, Batches


def sizes(blocks: int, threads: int, seconds: float) -> list[int]:
    """Return the sizes of all batches if each block takes some seconds."""
    waiting = Batches(range(blocks))
    waiting.took(1, seconds)
    made = []
    while waiting:
        batch = waiting.take(threads)
        made.append(len(batch.blocks))
        waiting.took(len(batch.blocks), seconds * len(batch.blocks))
    assert sum(made) == blocks
    return made


@pytest.mark.parametrize("threads", [0, 4, 1000])
def test_one_block_as_long_as_no_time_is_known(threads: int) -> None:
    assert len(Batches(range(10_000)).take(threads).blocks) == 1


def test_single_blocks_for_an_executor_without_batches() -> None:
    assert sizes(50, 0, 1e-3) == [1] * 50


@pytest.mark.parametrize(("threads", "longest"), [(4, 1.0), (200, 1.0), (300, 1.5), (500, 2.5), (5000, 2.5)])
def test_blocks_that_take_more_than_half_the_time_of_a_batch_stay_single(
    threads: int, longest: float
) -> None:
    assert {*sizes(5 * threads, threads, 1.01 * longest)} == {1}
    assert max(sizes(5 * threads, threads, 0.99 * longest)) == 2


def test_batches_grow_with_the_number_of_blocks_for_each_thread() -> None:
    first = [sizes(blocks, 4, 1e-3)[0] for blocks in (8, 80, 800, 8000)]
    assert first == [1, 10, 100, 1000]
    assert [sizes(800, threads, 1e-3)[0] for threads in (1, 4, 40)] == [400, 100, 10]


def test_batches_shrink_towards_the_end() -> None:
    made = sizes(4000, 8, 1e-3)
    assert all(a >= b for a, b in itertools.pairwise(made))
    assert made[0] == 250
    assert made[-16:] == [1] * 16, "all workers have the last blocks to share"


@pytest.mark.parametrize("threads", [1, 64, 200, 100_000])
@pytest.mark.parametrize("seconds", [1e-5, 0.01, 0.3])
def test_a_batch_takes_a_few_seconds_at_most(threads: int, seconds: float) -> None:
    largest = max(sizes(200_000 if threads > 1 else 20_000, threads, seconds))
    assert largest <= MOST
    assert largest * seconds <= SECONDS[1]


def test_more_threads_have_longer_batches() -> None:
    """So that the number of tasks per second does not grow with the cluster."""
    assert [sizes(10**6, threads, 0.1)[0] for threads in (10, 300, 1000)] == [20, 30, 50]


def test_one_slow_block_does_not_change_the_size_of_batches() -> None:
    waiting = Batches(range(10_000))
    for seconds in (30.0, 0.01, 0.01):  # the first compiles the kernels
        waiting.took(1, seconds)
    assert len(waiting.take(4).blocks) == 200


def test_a_task_that_failed_has_no_time() -> None:
    waiting = Batches(range(10_000))
    for seconds in (0.5, 0.0, 0.0):
        waiting.took(1, seconds)
    assert len(waiting.take(4).blocks) == 4


def test_blocks_that_were_not_begun_are_next_and_retries_last() -> None:
    waiting = Batches([3, 5, 7, 9, 11])
    waiting.took(1, 1e-3)
    batch = waiting.take(1)
    assert batch == Batch([3, 5])
    waiting.put_back(batch, 1)
    waiting.again([3], 2)
    assert len(waiting) == 5
    taken = []
    while waiting:
        taken.append(waiting.take(1))
    assert [(n, attempt) for blocks, attempt in taken for n in blocks] == [
        (5, 1),
        (7, 1),
        (9, 1),
        (11, 1),
        (3, 2),
    ]
    with pytest.raises(IndexError):
        waiting.take(1)


def test_a_batch_of_which_nothing_came_is_computed_block_by_block() -> None:
    waiting = Batches([])
    waiting.took(1, 1e-3)
    waiting.put_back(Batch([4, 5, 6]), 0)
    assert [waiting.take(1) for _ in range(3)] == [Batch([4]), Batch([5]), Batch([6])]
