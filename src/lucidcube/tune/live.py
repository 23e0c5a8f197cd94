"""Compute one plane in a thread, for all pages in turn; a new request replaces the last of its page."""

import logging
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lucidcube.cluster.workers import Workers
from lucidcube.config.schema import Config
from lucidcube.errors import BlocksFailed, StageError, UserError
from lucidcube.runner.compute import BlockComputer
from lucidcube.runner.engines import engines_of
from lucidcube.runner.lock import WAIT, locked
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.preview import Preview, PreviewedPlanes
from lucidcube.runner.session import computing
from lucidcube.runner.signals import Stop, Stopped

Answer = Callable[[PreviewedPlanes | str], None]
"""Function that receives a plane, or the message of an error."""


class LivePlane:
    """Compute planes in a thread of its own, one at a time."""

    def __init__(self, preview: Preview, workers: Workers) -> None:
        self.preview = preview
        self._workers = workers
        self._thread = ThreadPoolExecutor(1, "lucidcube-plane")
        self._running, self._closed = Stop(), False

    def request(self, config: Config, plane: int, answer: Answer) -> Stop:
        """Ask for a plane of the run of a config; `answer` is called in the thread.

        Once the result is marked by `replace`, no further block is computed, and `answer` is not called.
        """
        stop = Stop()
        self._thread.submit(self._compute, config, plane, stop, answer)
        return stop

    def close(self) -> None:
        """Stop after the blocks in flight."""
        self._closed = True
        replace(self._running)
        self._thread.shutdown(cancel_futures=True)

    def _compute(self, config: Config, plane: int, stop: Stop, answer: Answer) -> None:
        self._running = stop
        if stop.requested or self._closed:
            return
        summary = Summary(Path(config.output.path))
        computer = BlockComputer(self._workers, Monitor(), stop, summary, engines_of(self.preview.profile))
        found: PreviewedPlanes | str
        try:
            found = self.preview.compute(config, [plane], computer)
        except Stopped:
            return
        except (UserError, BlocksFailed, StageError, OSError) as error:
            found = str(error)
        except Exception as error:
            # Nobody waits for the result of this thread, so that the page would never be told.
            logging.getLogger(__name__).exception("plane %d was not computed", plane)
            found = f"{type(error).__name__}: {error}"
        if not stop.requested:
            answer(found)


def replace(request: Stop) -> None:
    """Mark a request as replaced by a newer one of the same page."""
    request.requested = signal.SIGTERM


@contextmanager
def live_plane(config: Config) -> Iterator[LivePlane]:
    """Open the inputs of a config, lock the checkpoints of its previews, and start its workers."""
    preview = Preview(config)
    work = computing(preview.profile, Path(config.output.path), config.work(), Monitor(), Stop())
    with locked(preview.folder, WAIT), work as computer:
        live = LivePlane(preview, computer.workers)
        try:
            yield live
        finally:
            live.close()
