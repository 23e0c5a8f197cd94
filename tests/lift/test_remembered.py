"""Results that are remembered: by the contents of arrays, a limited number of them, in several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import numpy as np
import pytest

from lucidcube.lift.remembered import RECENT, Remembered


class Counting:
    """A sum that counts how often it is computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *arrays: np.ndarray | None) -> float:
        self.calls += 1
        return float(sum(a.sum() for a in arrays if a is not None))


def test_equal_arrays_are_computed_once() -> None:
    count = Counting()
    total = Remembered(count)
    array = np.arange(12.0).reshape(3, 4)
    assert total(array, None) == total(array.copy(), None) == total(array[:, ::-1][:, ::-1], None) == 66
    assert count.calls == 1


def test_contents_shape_type_and_order_make_a_difference() -> None:
    count = Counting()
    total = Remembered(count)
    array = np.arange(12.0)
    changed = array.copy()
    changed[3] = 0
    for arrays in (
        (array, None), (None, array), (changed, None), (array.reshape(3, 4), None), (array.astype("f4"), None)
    ):  # fmt: skip
        total(*arrays)
    assert count.calls == 5
    assert total(changed, None) == 63


def test_old_results_are_forgotten() -> None:
    count = Counting()
    total = Remembered(count)
    for number in range(RECENT + 1):
        total(np.full(3, number))
    total(np.full(3, RECENT))
    assert count.calls == RECENT + 1
    total(np.full(3, 0))
    assert count.calls == RECENT + 2


def test_the_number_of_results_is_limited() -> None:
    count = Counting()
    total = Remembered(count, recent=1)
    for number in (1, 2, 1):
        total(np.full(3, number))
    assert count.calls == 3


def test_words_make_a_difference() -> None:
    total = Remembered(lambda array, word: f"{array.sum():g} {word}")
    assert [total(np.ones(2), word) for word in ("a", "b", "a")] == ["2 a", "2 b", "2 a"]


def test_threads_wait_for_what_another_one_computes() -> None:
    count, begun, released = Counting(), Event(), Event()

    def slow(*arrays: np.ndarray | None) -> float:
        begun.set()
        assert released.wait(10)
        return count(*arrays)

    total = Remembered(slow)
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(total, np.ones(5)) for _ in range(4)]
        assert begun.wait(10)
        released.set()
        assert [result.result(10) for result in results] == [5.0] * 4
    assert count.calls == 1


def test_errors_are_raised_and_not_remembered() -> None:
    failures = [ValueError("first")]

    def sometimes(array: np.ndarray) -> float:
        if failures:
            raise failures.pop()
        return float(array.sum())

    total = Remembered(sometimes)
    with pytest.raises(ValueError, match="first"):
        total(np.ones(3))
    assert total(np.ones(3)) == 3


def test_threads_get_the_right_results() -> None:
    total = Remembered(Counting())
    arrays = [np.full(100, n % 20) for n in range(400)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(total, arrays)) == [100.0 * (n % 20) for n in range(400)]


def test_a_result_is_kept_for_each_thread() -> None:
    """Threads with windows of their own do not repeat each other's work, whatever the number of results."""
    count, together = Counting(), Barrier(4)
    total = Remembered(count, recent=1)

    def several_blocks(number: int) -> None:
        for _ in range(3):
            together.wait(10)
            total(np.full(3, number))

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(several_blocks, range(4))] == [None] * 4
    assert count.calls == 4
    assert len(total._results) == 4


def test_what_is_being_computed_is_not_forgotten() -> None:
    begun, released, calls = Event(), Event(), list[float]()

    def compute(array: np.ndarray) -> float:
        calls.append(float(array[0]))
        if array[0] == 0:
            begun.set()
            assert released.wait(10)
        return float(array[0])

    total = Remembered(compute, recent=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(total, np.zeros(1))
        assert begun.wait(10)
        for number in (1, 2, 3):
            total(np.full(1, number))
        second = pool.submit(total, np.zeros(1))
        released.set()
        assert (first.result(10), second.result(10)) == (0, 0)
    assert calls.count(0) == 1


def test_results_of_threads_that_ended_are_forgotten() -> None:
    total = Remembered(Counting(), recent=1)
    for number in range(5):
        thread = Thread(target=total, args=(np.full(3, number),))
        thread.start()
        thread.join()
    del thread
    total(np.zeros(3))
    total(np.ones(3))
    assert len(total._results) == 1
