"""Handle requests to stop: blocks in flight are finished and recorded, and no others are submitted."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TextIO


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
    """Turn the first SIGTERM, SIGHUP or SIGINT into a request to stop; the second ends the process at once.

    SIGHUP is never the second, because systemd and shells send it right after SIGTERM.
    Within another such context the flag of that context is returned. Only the main thread receives signals;
    in any other thread nothing is changed.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or Stop()
        return
    stop = _current = Stop()
    before: dict[signal.Signals, Any] = {}

    terminals = [stream.fileno() for stream in _streams() if stream.isatty()]

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _discard_output(terminals)
            if stop.requested is not None:
                return
        for other in before:
            if other != signal.SIGHUP:
                signal.signal(other, signal.SIG_DFL)  # blocks are written atomically, so nothing is harmed
        stop.request(signal.Signals(number))

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup ignores signals on purpose
            before[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, handler)


def _streams() -> list[TextIO]:
    """Return the streams for output that are open, as most are."""
    return [stream for stream in (sys.__stdout__, sys.__stderr__) if stream is not None and not stream.closed]


def _discard_output(terminals: Sequence[int]) -> None:
    """Discard what is written to terminals that were closed, where writing would be an error."""
    for terminal in terminals:
        if not os.isatty(terminal):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, terminal)
            os.close(null)
