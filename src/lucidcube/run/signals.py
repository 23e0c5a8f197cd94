"""Being asked to stop: blocks in flight are finished and vouched for, and nothing new is begun."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal, in good order: the same run goes on from there.

    Parameters
    ----------
    signal
        Which.
    """

    def __init__(self, signal: signal.Signals) -> None:
        super().__init__(signal)
        self.signal = signal


@dataclass
class Stop:
    """Whether somebody wants the run to stop.

    Attributes
    ----------
    asked
        The signal that came, or None.
    at_work
        Whether blocks are in flight that should be finished first.
    """

    asked: signal.Signals | None = None
    at_work: bool = False

    def ask(self, number: signal.Signals) -> None:
        """Stop after the blocks in flight; at once if there are none.

        Raises
        ------
        Stopped
            If nothing is in flight.
        """
        self.asked = number
        if not self.at_work:
            raise Stopped(number)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """While this lasts a signal only leaves a note, which is acted upon at the end.

        Raises
        ------
        Stopped
            At the end, if a signal came.
        """
        self.at_work = True
        try:
            yield
        finally:
            self.at_work = False
        if self.asked is not None:
            raise Stopped(self.asked)


@contextmanager
def signals() -> Iterator[Stop]:
    """Turn the first SIGTERM or SIGINT into a request to stop; the second one acts as ever.

    Elsewhere than in the main thread, which alone gets signals, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        stop.ask(signal.Signals(number))

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # as under nohup: so be it
            before[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
