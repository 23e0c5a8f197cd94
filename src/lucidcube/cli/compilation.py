"""Measure the time that numba takes to compile kernels in this process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

COMPILE = "numba:compile"


class Compilation(event.Listener):  # type: ignore[misc]
    """Listener for the compilation of kernels, which happens once and in any thread.

    `begun` is called when the first compilation begins; `clock` returns the time in seconds. Kernels that are
    read from the cache, and those of other processes, are not noticed.
    """

    def __init__(self, begun: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._begun, self._clock = begun, clock
        self._lock = threading.Lock()
        self._running, self._since, self._total, self._seen = 0, 0.0, 0.0, False

    def seconds(self) -> float:
        """Return the time during which at least one kernel was being compiled."""
        with self._lock:
            return self._total + (self._clock() - self._since if self._running else 0.0)

    def on_start(self, event: Any) -> None:
        """Note that a kernel, or another one that it calls, begins to be compiled."""
        with self._lock:
            if not self._running:
                self._since = self._clock()
            self._running += 1
            first, self._seen = not self._seen, True
        if first:
            self._begun()

    def on_end(self, event: Any) -> None:
        """Note that a kernel was compiled."""
        with self._lock:
            self._running -= 1
            if not self._running:
                self._total += self._clock() - self._since


@contextmanager
def listening(compilation: Compilation) -> Iterator[None]:
    """Inform a listener of compilations while this context lasts."""
    event.register(COMPILE, compilation)
    try:
        yield
    finally:
        event.unregister(COMPILE, compilation)
