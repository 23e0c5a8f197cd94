"""Handle requests to stop: blocks in flight are finished and recorded, and no others are submitted."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A run was stopped cleanly by a signal; the same run can be continued."""

    def __init__(self, signal: signal.Signals) -> None:
        super().__init__(signal)
        self.signal = signal


@dataclass
class Stop:
    """A flag that requests a run to stop."""

    requested: signal.Signals | None = None
    """The signal that was received."""
    in_flight: bool = False
    """Whether blocks are in flight that should be finished first."""

    def request(self, number: signal.Signals) -> None:
        """Request a stop after the blocks in flight; without any, Stopped is raised at once."""
        self.requested = number
        if not self.in_flight:
            raise Stopped(number)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Defer a stop to the end of this context, where Stopped is raised if a stop was requested."""
        self.in_flight = True
        try:
            yield
        finally:
            self.in_flight = False
        if self.requested is not None:
            raise Stopped(self.requested)


_current: Stop | None = None


@contextmanager
def signals() -> Iterator[Stop]:
    """Turn the first SIGTERM or SIGINT into a request to stop; the second one ends the process at once.

    Within another such context the flag of that context is returned. Only the main thread receives signals;
    in any other thread nothing is changed.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Stop()
        return
    stop = _current = Stop()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_DFL)  # blocks are written atomically, so nothing is harmed
        stop.request(signal.Signals(number))

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup ignores signals on purpose
            before[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, handler)
